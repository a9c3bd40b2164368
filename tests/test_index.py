"""The index of items against exact ranking: recall, scores, seen items, users for whom it finds too few."""

from __future__ import annotations

import pytest
import torch

from hakg_dgl.errors import ConfigError, NumericalError
from hakg_dgl.ranking.fold_in import EmbeddingFoldIn, SumOfRows
from hakg_dgl.ranking.index import ItemIndex, indexed_topk
from hakg_dgl.ranking.topk import EmbeddingScorer, masked_topk
from hakg_dgl.ranking.yardsticks import SameForAllScorer

pytest.importorskip("faiss", reason="pip install 'hakg_dgl[index]'")
N_USERS, N_ITEMS, DIM = 300, 5000, 16


def made_up() -> EmbeddingScorer:
    """Items in clusters, of norms that differ, so that neither angle nor distance alone ranks them."""
    draw = torch.Generator().manual_seed(3)
    centres = torch.randn(40, DIM, generator=draw)
    items = centres[torch.randint(40, (N_ITEMS,), generator=draw)] + 0.5 * torch.randn(N_ITEMS, DIM, generator=draw)
    users = centres[torch.randint(40, (N_USERS,), generator=draw)] + 0.3 * torch.randn(N_USERS, DIM, generator=draw)
    return EmbeddingScorer(users, items * (0.2 + 2 * torch.rand(N_ITEMS, 1, generator=draw)))


@pytest.fixture(scope="module")
def scorer() -> EmbeddingScorer:
    return made_up()


@pytest.fixture(scope="module")
def index(scorer: EmbeddingScorer) -> ItemIndex:
    return ItemIndex(scorer, least_recall=0.95)


def seen_by(counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The best items of each user, ``counts[u]`` of them, as what the user has."""
    indptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    best = masked_topk(made_up(), torch.arange(N_USERS), int(counts.max()))[0]
    return indptr, torch.cat([row[:count] for row, count in zip(best, counts.tolist(), strict=True)])


def recall(found: torch.Tensor, exact: torch.Tensor) -> float:
    hits = [len(set(a.tolist()) & set(b.tolist())) for a, b in zip(found, exact, strict=True)]
    return sum(hits) / exact.numel()


def test_recall_is_what_it_says_and_few_lists_are_searched(scorer: EmbeddingScorer, index: ItemIndex) -> None:
    every = torch.arange(N_USERS)
    found, exact = indexed_topk(index, scorer, every, 100), masked_topk(scorer, every, 100)
    assert recall(found[0], exact[0]) == pytest.approx(index.measured.recall, abs=0.02)
    assert 0.93 < index.measured.recall <= 1
    assert index.probes < index.lists / 2
    products = (scorer.user_vectors.unsqueeze(1) * scorer.item_vectors[found[0]]).sum(2)
    torch.testing.assert_close(found[1], products)
    assert bool((found[1].diff(dim=1) <= 0).all())


def test_an_index_that_searches_all_lists_ranks_exactly(scorer: EmbeddingScorer) -> None:
    whole = ItemIndex(scorer, least_recall=1.0)
    whole._index.nprobe = whole.lists
    counts = torch.arange(N_USERS) % 40
    seen = seen_by(counts)
    users = torch.tensor([5, 299, 5, 0])
    found, exact = indexed_topk(whole, scorer, users, 30, seen), masked_topk(scorer, users, 30, seen)
    assert torch.equal(found[0], exact[0])
    torch.testing.assert_close(found[1], exact[1])


def test_seen_items_are_never_listed_and_lists_are_full(scorer: EmbeddingScorer, index: ItemIndex) -> None:
    counts = torch.full((N_USERS,), 60)
    indptr, own = seen_by(counts)
    users = torch.arange(0, N_USERS, 7)
    items, scores = indexed_topk(index, scorer, users, 20, (indptr, own))
    exact = masked_topk(scorer, users, 20, (indptr, own))[0]
    for row, user in zip(items.tolist(), users.tolist(), strict=True):
        assert not set(row) & set(own[indptr[user] : indptr[user + 1]].tolist())
    assert bool((items >= 0).all())
    assert recall(items, exact) > 0.9
    assert bool(torch.isfinite(scores).all())


def test_where_too_few_are_found_the_ranking_is_exact(scorer: EmbeddingScorer, index: ItemIndex) -> None:
    """Longer lists than the lists that are searched hold, and a user who has all items but three."""
    found, exact = indexed_topk(index, scorer, [1], N_ITEMS), masked_topk(scorer, [1], N_ITEMS)
    assert torch.equal(found[0], exact[0])
    counts = torch.zeros(N_USERS, dtype=torch.int64)
    counts[2] = N_ITEMS - 3
    indptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    seen = indptr, torch.arange(N_ITEMS - 3)
    items, scores = indexed_topk(index, scorer, [2, 3], 5, seen)
    exact = masked_topk(scorer, [2, 3], 5, seen)
    assert torch.equal(items, exact[0])
    assert items[0].tolist()[3:] == [-1, -1]
    torch.testing.assert_close(scores, exact[1])


def test_of_equal_scores_the_lower_number_comes_first() -> None:
    vectors = torch.eye(4).repeat(50, 1)
    scorer = EmbeddingScorer(torch.eye(4), vectors)
    items, _ = indexed_topk(ItemIndex(scorer), scorer, [1], 50)
    assert items[0].tolist() == list(range(1, 200, 4))


def test_new_users_are_found_by_the_same_index(scorer: EmbeddingScorer, index: ItemIndex) -> None:
    fold = EmbeddingFoldIn([SumOfRows(scorer.item_vectors)], scorer.item_vectors)
    folded = fold.scorer([0, 2, 3], [7, 9, 11])
    items, scores = indexed_topk(index, folded, [1, 0], 10, ([0, 2, 3], [7, 9, 11]))  # type: ignore[arg-type]
    exact = masked_topk(folded, [1, 0], 10, ([0, 2, 3], [7, 9, 11]))
    assert recall(items, exact[0]) > 0.8
    torch.testing.assert_close(scores.amax(1), exact[1].amax(1))


def test_what_an_index_cannot_is_said(scorer: EmbeddingScorer, index: ItemIndex) -> None:
    with pytest.raises(ConfigError, match="inner products of vectors"):
        ItemIndex(SameForAllScorer(3, torch.arange(5.0)))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="least_recall = 0"):
        ItemIndex(scorer, least_recall=0)
    with pytest.raises(ConfigError, match="k is 0"):
        indexed_topk(index, scorer, [0], 0)
    broken = EmbeddingScorer(torch.full_like(scorer.user_vectors, torch.nan), scorer.item_vectors)
    with pytest.raises(NumericalError, match="NaN"):
        indexed_topk(index, broken, [0], 5)
    assert indexed_topk(index, scorer, torch.empty(0, dtype=torch.int64), 5)[0].shape == (0, 5)
