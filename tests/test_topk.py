"""Masked top-k against a plain sort, and the tables of recommendations built on it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hakg_dgl.errors import ConfigError, DataError, NumericalError
from hakg_dgl.ranking.lists import iter_recommendations, recommend
from hakg_dgl.ranking.topk import EmbeddingScorer, masked_topk


class MatrixScorer:
    def __init__(self, matrix):
        self.matrix = torch.as_tensor(matrix)
        self.n_users, self.n_items = self.matrix.shape

    def scores(self, users):
        return self.matrix[users]


def sorted_by_hand(matrix, users, k, seen, candidates):
    """The definition: sort (-score, id) of what may be returned, fill up with -1 to k or the number of items."""
    rows, k = [], min(k, matrix.shape[1])
    for u in users:
        hidden = set() if seen is None else set(seen[1][seen[0][u] : seen[0][u + 1]].tolist())
        open_items = (set(range(matrix.shape[1])) if candidates is None else set(candidates)) - hidden
        best = sorted((i for i in open_items if matrix[u, i] > -np.inf), key=lambda i: (-matrix[u, i], i))[:k]
        rows.append(best + [-1] * (k - len(best)))
    return np.array(rows, dtype=np.int64).reshape(len(users), k)


@st.composite
def cases(draw):
    n_users, n_items = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([1, 2, 4, 1000]))  # few levels: many ties
    matrix = rng.integers(0, levels, (n_users, n_items)).astype(draw(st.sampled_from([np.float32, np.float64])))
    matrix[rng.random(matrix.shape) < draw(st.sampled_from([0.0, 0.2]))] = -np.inf
    seen = None
    if draw(st.booleans()):
        known = rng.random((n_users, n_items)) < draw(st.sampled_from([0.0, 0.4, 0.9, 1.0]))
        seen = np.r_[0, known.sum(1).cumsum()], np.nonzero(known)[1]
    candidates = rng.permutation(n_items)[: rng.integers(0, n_items + 1)].tolist() if draw(st.booleans()) else None
    users = rng.integers(0, n_users, draw(st.integers(0, 9)))
    return matrix, users, draw(st.integers(1, 15)), seen, candidates, draw(st.sampled_from([None, 1, 2, 5]))


@settings(max_examples=200, deadline=None)
@given(cases())
def test_is_the_sorted_order(case):
    matrix, users, k, seen, candidates, block = case
    given_candidates = None if candidates is None else np.array(candidates, dtype=np.int64)
    items, scores = masked_topk(MatrixScorer(matrix), users, k, seen, given_candidates, block=block)
    np.testing.assert_array_equal(items.numpy(), sorted_by_hand(matrix, users, k, seen, candidates))
    taken = np.take_along_axis(matrix[users], items.numpy().clip(0), 1)
    np.testing.assert_array_equal(scores.numpy(), np.where(items.numpy() < 0, -np.inf, taken))


def test_exhausted_users_get_empty_places():
    seen = torch.tensor([0, 3, 5]), torch.tensor([0, 1, 2, 0, 2])
    items, scores = masked_topk(MatrixScorer(torch.rand(2, 3)), torch.arange(2), 2, seen)
    assert items.tolist() == [[-1, -1], [1, -1]]
    assert (scores == -torch.inf).tolist() == [[True, True], [False, True]]


def test_lists_are_no_longer_than_the_catalogue():
    items, scores = masked_topk(MatrixScorer(torch.tensor([[1.0, 3.0, 2.0]])), [0], 10**12)
    assert (items.tolist(), scores.tolist()) == ([[1, 2, 0]], [[3.0, 2.0, 1.0]])


def test_scorer_state_survives_masking():
    users, items = torch.randn(4, 3), torch.randn(5, 3)
    scorer = EmbeddingScorer(users, items.requires_grad_())
    seen = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([0, 1, 2, 3])
    first, _ = masked_topk(scorer, torch.arange(4), 5, seen)
    again, scores = masked_topk(scorer, torch.arange(4), 5, seen, block=1)
    assert torch.equal(first, again)
    assert not scores.requires_grad
    assert (first[:, -1] == -1).all()
    best = (users @ items.T).fill_diagonal_(-torch.inf).argmax(1)
    assert torch.equal(first[:, 0], best)


def test_read_only_arrays_are_accepted_without_warning(recwarn):
    users = np.arange(2)
    seen = np.array([0, 1, 1]), np.array([2])
    for array in (users, *seen):
        array.setflags(write=False)
    assert masked_topk(MatrixScorer(torch.ones(2, 3)), users, 3, seen)[0].tolist() == [[0, 1, -1], [0, 1, 2]]
    assert not recwarn.list


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_is_an_error_that_names_the_user(dtype):
    matrix = torch.rand(5, 4, dtype=dtype)
    matrix[3, 1] = torch.nan
    with pytest.raises(NumericalError, match="user 3"):
        masked_topk(MatrixScorer(matrix), torch.arange(5), 1)
    items, _ = masked_topk(MatrixScorer(matrix), torch.tensor([0, 1, 2, 4]), 1)
    assert items.shape == (4, 1)


def test_bad_arguments():
    scorer = MatrixScorer(torch.rand(3, 4))
    with pytest.raises(ConfigError, match="k is 0"):
        masked_topk(scorer, torch.arange(3), 0)
    with pytest.raises(DataError, match="user 3"):
        masked_topk(scorer, torch.tensor([0, 3]), 1)
    with pytest.raises(DataError, match="candidate item -1"):
        masked_topk(scorer, torch.tensor([0]), 1, candidates=torch.tensor([-1]))
    with pytest.raises(DataError, match="2 users"):
        masked_topk(scorer, torch.tensor([0]), 1, seen=(torch.tensor([0, 0, 0]), torch.tensor([])))
    with pytest.raises(ConfigError, match="one d"):
        EmbeddingScorer(torch.rand(3, 4), torch.rand(3, 5))
    with pytest.raises(ConfigError, match="one dtype"):
        EmbeddingScorer(torch.rand(3, 4), torch.rand(3, 4).double())


def test_recommendations_as_a_table():
    matrix = torch.tensor([[3.0, 1.0, 2.0], [0.5, 0.5, 9.0]])
    seen = torch.tensor([0, 2, 2]), torch.tensor([0, 1])
    table = recommend(MatrixScorer(matrix), np.array([1, 0]), 2, seen)
    assert table.to_dict("list") == {"user": [1, 1, 0], "rank": [1, 2, 1], "item": [2, 0, 2], "score": [9.0, 0.5, 2.0]}
    parts = list(iter_recommendations(MatrixScorer(matrix), np.array([1, 0]), 2, seen, block=1))
    assert [len(part) for part in parts] == [2, 1]
    nobody = recommend(MatrixScorer(matrix), np.array([], dtype=np.int64), 2)
    assert len(nobody) == 0
    assert list(nobody.columns) == ["user", "rank", "item", "score"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_ranks_like_the_cpu():
    matrix = torch.randint(0, 50, (200, 300)).float()
    matrix[5, 5] = -torch.inf
    known = torch.rand(200, 300) < 0.3
    seen = torch.cat([torch.zeros(1, dtype=torch.int64), known.sum(1).cumsum(0)]), known.nonzero()[:, 1]
    on_cpu, _ = masked_topk(MatrixScorer(matrix), torch.arange(200), 20, seen)
    on_gpu, _ = masked_topk(MatrixScorer(matrix.cuda()), torch.arange(200), 20, seen, block=64)
    assert torch.equal(on_cpu, on_gpu.cpu())
    matrix[7, 3] = torch.nan
    with pytest.raises(NumericalError, match="user 7"):
        masked_topk(MatrixScorer(matrix.cuda()), torch.arange(200), 20)
