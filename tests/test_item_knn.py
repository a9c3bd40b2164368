"""Item neighbours against dense arithmetic and by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from small_demo import small_demo, small_settings, with_interactions

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.graph.matrices import interaction_matrix
from hakg_dgl.models.item_knn import ItemKNN, ItemSimilarity

CPU = torch.device("cpu")
DEMO = small_demo()


def item_knn(dataset: Dataset, **options: Any) -> ItemKNN:
    settings = small_settings("item-knn", **options)
    return ItemKNN(build_graph(dataset), settings.model, settings.loss, settings.run)


def dense_similarity(x: np.ndarray, similarity: str, shrinkage: float) -> np.ndarray:
    """Every pair by its definition; 0 on the diagonal."""
    has = x.T > 0
    both = (has[:, None] & has[None]).sum(2).astype(float)
    norms = np.linalg.norm(x, axis=0)
    size = norms[:, None] * norms if similarity == "cosine" else (has[:, None] | has[None]).sum(2)
    np.fill_diagonal(both, 0.0)
    return np.asarray(both / np.where(both > 0, size + shrinkage, 1.0))


def dense_scores(x: np.ndarray, similarity: np.ndarray, neighbours: int) -> np.ndarray:
    """Sum over the user's items among the neighbours of each item."""
    scores = np.zeros_like(x)
    for j in range(x.shape[1]):
        nearest = np.argsort(-similarity[j], kind="stable")[:neighbours]
        scores[:, j] = x[:, nearest] @ similarity[j, nearest]
    return scores


def test_three_items_by_hand() -> None:
    # Item 0 has users 0, 1, 2, 3; item 1 users 0, 1; item 2 user 4 alone.
    x = sparse.csr_matrix(np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1.0]]))
    items = torch.arange(3)
    cosine = ItemSimilarity(x, "cosine", 0.0).scores(items)
    assert cosine[0, 1].item() == pytest.approx(2 / np.sqrt(8))
    assert ItemSimilarity(x, "cosine", 10.0).scores(items)[1, 0].item() == pytest.approx(2 / (np.sqrt(8) + 10))
    assert ItemSimilarity(x, "jaccard", 1.0).scores(items)[0, 1].item() == pytest.approx(2 / (4 + 1))
    assert torch.isneginf(cosine).tolist() == [[True, False, True], [False, True, True], [True, True, True]]


@given(
    st.integers(0, 10_000),
    st.sampled_from(["cosine", "jaccard"]),
    st.sampled_from([0.0, 0.5, 20.0]),
    st.integers(1, 12),
)
@settings(max_examples=15, derandomize=True)
def test_scores_agree_with_dense_arithmetic(seed: int, similarity: str, shrinkage: float, neighbours: int) -> None:
    x = (np.random.default_rng(seed).random((DEMO.n_users, DEMO.n_items)) < 0.2).astype(float)
    users, items = np.nonzero(x)
    dataset = with_interactions(DEMO, pd.DataFrame({"user": users, "item": items, "split": "train"}))
    options = {"similarity": similarity, "neighbours": neighbours, "shrinkage": shrinkage, "dtype": "float64"}
    model = item_knn(dataset, **options)
    (chosen,) = model.candidates()
    model.solve(chosen)
    scores = model.scorer().scores(torch.arange(DEMO.n_users))
    dense = dense_similarity(x, similarity, shrinkage)
    # 1/√6 and 2/√24 are one number, and which of them rounding puts first is no one's business: where the last
    # neighbour kept equals the first left out, only how similar the kept ones are is compared.
    ranked = -np.sort(-dense, axis=1)
    clear = ranked[:, neighbours - 1] - ranked[:, neighbours] > 1e-12
    clear |= ranked[:, neighbours] == 0.0  # all that have a common user are kept
    assert clear.mean() > 0.2
    np.testing.assert_allclose(scores.numpy()[:, clear], dense_scores(x, dense, neighbours)[:, clear], atol=1e-13)
    kept = model.tensors()
    found = np.zeros((DEMO.n_items, neighbours))
    for item, (first, last) in enumerate(itertools.pairwise(kept["indptr"].tolist())):
        found[item, : last - first] = kept["values"][first:last]
    np.testing.assert_allclose(found, ranked[:, :neighbours], atol=1e-14)


def test_every_choice_is_that_of_a_model_made_for_it_alone() -> None:
    lists: dict[str, list[float]] = {"neighbours": [3, 60, 7], "shrinkage": [4.0, 0.0]}
    model = item_knn(DEMO, **lists)
    choices = model.candidates()
    assert len(choices) == 6
    assert {(choice["neighbours"], choice["shrinkage"]) for choice in choices} == {
        (k, h) for k in lists["neighbours"] for h in lists["shrinkage"]
    }
    for choice in choices:
        alone = item_knn(DEMO, **choice)
        alone.solve(choice)
        model.solve(choice)
        together, expected = model.tensors(), alone.tensors()
        assert all(torch.equal(together[name], expected[name]) for name in expected)


def test_real_sized_similarity_is_cosine_of_the_columns() -> None:
    x = interaction_matrix(build_graph(DEMO))
    dense = x.toarray()
    norms = np.linalg.norm(dense, axis=0)
    norms[norms == 0] = 1.0
    expected = (dense / norms).T @ (dense / norms)
    np.fill_diagonal(expected, 0.0)
    found = ItemSimilarity(x, "cosine", 0.0).scores(torch.arange(x.shape[1])).clamp_min(0.0)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-14)


@pytest.mark.parametrize(
    "change",
    [
        {"indptr": torch.zeros(3, dtype=torch.int64)},
        {"indices": torch.full((4,), 10**6)},
        {"values": torch.zeros(2)},
    ],
)
def test_tensors_that_are_no_such_matrix_are_refused(change: dict[str, torch.Tensor]) -> None:
    model = item_knn(DEMO, neighbours=5, shrinkage=0)
    model.solve(model.candidates()[0])
    tensors = model.tensors()
    if "indices" in change:
        change = {"indices": torch.full_like(tensors["indices"], 10**6)}
    with pytest.raises(ValueError, match=r".+"):
        model.load_tensors({**tensors, **change})
