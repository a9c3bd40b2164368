"""RP3beta against walks on dense transition matrices."""

from __future__ import annotations

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
from hakg_dgl.models.rp3beta import RP3Beta, WalksToItems

DEMO = small_demo()


def rp3beta(dataset: Dataset, **options: Any) -> RP3Beta:
    read = small_settings("rp3beta", **options)
    return RP3Beta(build_graph(dataset), read.model, read.loss, read.run)


def transitions(x: np.ndarray, alpha: float) -> np.ndarray:
    """Probabilities of a step from each row to each column, to the power α."""
    degree = x.sum(1, keepdims=True)
    return np.where(x > 0, x / np.where(degree > 0, degree, 1.0), 0.0) ** alpha * (x > 0)


def dense_scores(x: np.ndarray, alpha: float, beta: float, neighbours: int) -> np.ndarray:
    """Paudel et al., section 3.2, but for the factor of the first step; walks back to where they began left out."""
    walks = transitions(x.T, alpha) @ transitions(x, alpha)
    np.fill_diagonal(walks, 0.0)
    scores = np.zeros_like(x)
    for j in range(x.shape[1]):
        nearest = np.argsort(-walks[:, j], kind="stable")[:neighbours]
        scores[:, j] = x[:, nearest] @ walks[nearest, j] / max(1.0, x[:, j].sum()) ** beta
    return scores


def test_three_items_by_hand() -> None:
    # Users 0 and 1 have items 0 and 1; user 2 has item 0; user 3 has item 2.
    x = sparse.csr_matrix(np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1.0]]))
    weights = WalksToItems(x, 1.0).scores(torch.arange(3))
    assert weights[1, 0].item() == pytest.approx(1 / 3 * 1 / 2 * 2)  # from item 0 by user 0 or 1 to item 1
    assert weights[0, 1].item() == pytest.approx(1 / 2 * 1 / 2 * 2)
    assert torch.isneginf(weights).tolist() == [[True, False, True], [False, True, True], [True, True, True]]


@given(
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.7, 1.0, 1.5]),
    st.sampled_from([0.0, 0.4, 1.0]),
)
@settings(max_examples=15, derandomize=True)
def test_scores_are_those_of_dense_walks(seed: int, alpha: float, beta: float) -> None:
    x = (np.random.default_rng(seed).random((DEMO.n_users, DEMO.n_items)) < 0.2).astype(float)
    users, items = np.nonzero(x)
    dataset = with_interactions(DEMO, pd.DataFrame({"user": users, "item": items, "split": "train"}))
    # All are kept, so that it does not matter how rounding orders equal ones.
    model = rp3beta(dataset, alpha=alpha, beta=beta, neighbours=DEMO.n_items, dtype="float64")
    (chosen,) = model.candidates()
    model.solve(chosen)
    scores = model.scorer().scores(torch.arange(DEMO.n_users)).numpy()
    np.testing.assert_allclose(scores, dense_scores(x, alpha, beta, DEMO.n_items), atol=1e-13)


def test_the_neighbours_kept_are_those_of_largest_weight() -> None:
    x = np.zeros((DEMO.n_users, DEMO.n_items))
    x[tuple(DEMO.pairs("train").T)] = 1.0
    model = rp3beta(DEMO, alpha=0.7, beta=0.3, neighbours=6, dtype="float64")
    model.solve(model.candidates()[0])
    walks = transitions(x.T, 0.7) @ transitions(x, 0.7)
    np.fill_diagonal(walks, 0.0)
    penalised = walks.T / np.maximum(1.0, x.sum(0))[:, None] ** 0.3
    expected = -np.sort(-penalised, axis=1)[:, :6]
    found = np.zeros_like(expected)
    for item, (first, last) in enumerate(zip(model.indptr[:-1].tolist(), model.indptr[1:].tolist(), strict=True)):
        found[item, : last - first] = model.values[first:last]
    np.testing.assert_allclose(found, expected, atol=1e-14)


def test_every_choice_is_that_of_a_model_made_for_it_alone() -> None:
    model = rp3beta(DEMO, alpha=[0.5, 1.0], beta=[0.0, 0.6], neighbours=[3, 20])
    choices = model.candidates()
    assert len(choices) == 8
    for choice in choices:
        alone = rp3beta(DEMO, **{**choice, "neighbours": int(choice["neighbours"])})
        alone.solve(choice)
        model.solve(choice)
        together, expected = model.tensors(), alone.tensors()
        assert all(torch.equal(together[name], expected[name]) for name in expected)
