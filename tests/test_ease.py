"""EASE against a plain formula, by hand, and against its own optimality conditions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from small_demo import small_demo

from hakg_dgl.errors import ConfigError
from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.graph.matrices import interaction_matrix
from hakg_dgl.models.ease import EASE, DenseItemScorer, ease_weights, free_memory, require_memory

CPU = torch.device("cpu")


def plain(x: np.ndarray, l2: float) -> np.ndarray:
    """B of Steck 2019, eq. 8, by a general inverse."""
    p = np.linalg.inv(x.T @ x + l2 * np.eye(x.shape[1]))
    b = p / -np.diag(p)
    np.fill_diagonal(b, 0.0)
    return np.asarray(b)


def random_interactions(seed: int = 0, users: int = 40, items: int = 17) -> np.ndarray:
    return np.where(np.random.default_rng(seed).random((users, items)) < 0.3, 1.0, 0.0)


def test_two_items_by_hand() -> None:
    # Users {0}, {0, 1}, {1}, {0, 1}: XᵀX = [[3, 2], [2, 3]], with λ = 1: [[4, 2], [2, 4]]; P = [[4, -2], [-2, 4]] / 12,
    # so B_01 = -P_01 / P_11 = 1/2. Directly: the b that minimises Σ(x_1 - b x_0)² + b² is 2 / (3 + 1).
    weights = ease_weights(torch.tensor([[3.0, 2.0], [2.0, 3.0]], dtype=torch.float64), 1.0)
    assert torch.allclose(weights, torch.tensor([[0.0, 0.5], [0.5, 0.0]], dtype=torch.float64), atol=1e-15)


@pytest.mark.parametrize("l2", [0.5, 10.0, 400.0])
def test_weights_agree_with_the_plain_formula(l2: float) -> None:
    x = random_interactions()
    gram = torch.from_numpy(x.T @ x)
    before = gram.clone()
    np.testing.assert_allclose(ease_weights(gram, l2).numpy(), plain(x, l2), rtol=1e-10, atol=1e-13)
    assert torch.equal(gram, before)


def test_every_column_is_the_ridge_regression_on_the_other_items() -> None:
    x, l2 = random_interactions(1), 3.0
    weights = ease_weights(torch.from_numpy(x.T @ x), l2).numpy()
    for j in range(x.shape[1]):
        others = np.delete(x, j, axis=1)
        solution = np.linalg.solve(others.T @ others + l2 * np.eye(others.shape[1]), others.T @ x[:, j])
        np.testing.assert_allclose(np.delete(weights[:, j], j), solution, rtol=1e-9, atol=1e-12)


def test_scores_are_interactions_times_weights_also_for_users_without_any() -> None:
    x = random_interactions(2)
    x[3] = 0.0
    weights = torch.from_numpy(plain(x, 2.0))
    scorer = DenseItemScorer(sparse.csr_matrix(x), weights)
    users = torch.tensor([5, 3, 3, 0])
    np.testing.assert_allclose(scorer.scores(users).numpy(), x[users] @ weights.numpy(), atol=1e-14)
    assert torch.equal(scorer.scores(torch.tensor([3])), torch.zeros(1, x.shape[1], dtype=torch.float64))
    assert (scorer.n_users, scorer.n_items) == x.shape


def test_the_model_is_solved_in_float64_and_kept_in_the_type_asked_for() -> None:
    dataset = small_demo()
    x = interaction_matrix(build_graph(dataset)).toarray()
    expected = plain(x, 7.0)
    for dtype in ("float32", "float64"):
        model = EASE(build_graph(dataset), dtype=dtype)
        model.solve({"ease_l2": 7.0})
        weights = model.tensors()["weights"]
        assert weights.dtype == getattr(torch, dtype)
        np.testing.assert_allclose(weights, expected.astype(dtype), rtol=1e-6 if dtype == "float32" else 1e-10)


def test_what_does_not_fit_is_refused_with_the_memory_it_takes() -> None:
    free = free_memory(CPU)
    if free is None:
        pytest.skip("free memory is not known here")
    assert 1e7 < free < 1e14
    require_memory(100, CPU)
    with pytest.raises(
        ConfigError, match=r"(?s)10,000,000 x 10,000,000 .* 3,200,000\.0 GB of memory.*--model item-knn"
    ):
        require_memory(10_000_000, CPU)


def test_tensors_of_another_shape_are_refused() -> None:
    model = EASE(build_graph(small_demo()))
    for tensors in ({"weights": torch.zeros(3, 3)}, {}):
        with pytest.raises(ValueError, match="such as 'weights'"):
            model.load_tensors(tensors)
