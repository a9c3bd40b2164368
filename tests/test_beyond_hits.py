"""AUC, coverage, diversity, novelty and sampled ranking against loops over users, pairs and lists."""

from __future__ import annotations

from itertools import combinations
from math import log2

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from small_demo import small_demo

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError
from hakg_dgl.ranking.beyond_hits import RankedPairs
from hakg_dgl.ranking.evaluation import ALSO, Evaluator, evaluate
from hakg_dgl.ranking.topk import EmbeddingScorer, masked_topk
from hakg_dgl.ranking.yardsticks import PopularityScorer, RandomScorer

K = 7


@pytest.fixture(scope="module")
def data() -> Dataset:
    return small_demo()


@pytest.fixture(scope="module")
def scorer(data: Dataset) -> EmbeddingScorer:
    """Coarse scores, so that many are equal."""
    draw = torch.Generator().manual_seed(3)
    users, items = (torch.randint(-1, 2, (n, 4), generator=draw).float() for n in (data.n_users, data.n_items))
    return EmbeddingScorer(users, items)


def sets(data: Dataset, *splits: str) -> list[set[int]]:
    indptr, items = data.positives(*splits)
    return [set(items[indptr[u] : indptr[u + 1]].tolist()) for u in range(data.n_users)]


def auc_by_pairs(scores: list[float], relevant: set[int], candidates: set[int]) -> float:
    others = candidates - relevant
    right = [(scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]) for i in relevant & candidates for j in others]
    return sum(right) / (len(relevant) * len(others))


@pytest.mark.parametrize("cold", [False, True])
def test_auc_counts_the_pairs_that_are_ranked_rightly(data: Dataset, scorer: EmbeddingScorer, cold: bool) -> None:
    candidates = np.arange(0, data.n_items, 2) if cold else None
    found = evaluate(scorer, data, also=["auc"], per_user=True, candidates=candidates)
    assert found.per_user is not None
    rows = scorer.scores(torch.arange(data.n_users)).tolist()
    relevant, known = sets(data, "test"), sets(data, "train", "valid")
    ranked = set(range(data.n_items) if candidates is None else candidates.tolist())
    for user, value in zip(found.per_user["user"], found.per_user["auc"], strict=True):
        wanted = relevant[user] & ranked
        assert value == pytest.approx(auc_by_pairs(rows[user], wanted, ranked - known[user]), abs=1e-12)
    assert found.metrics["auc"] == pytest.approx(found.per_user["auc"].mean())


def test_auc_is_that_of_the_rank_sum_test(data: Dataset) -> None:
    """An independent library, on scores without a pattern."""
    draw = torch.Generator().manual_seed(1)
    vectors = (torch.randn(n, 5, generator=draw) for n in (data.n_users, data.n_items))
    scorer = EmbeddingScorer(*vectors)
    found = evaluate(scorer, data, also=["auc"], per_user=True).per_user
    assert found is not None
    relevant, known = sets(data, "test"), sets(data, "train", "valid")
    for user, value in zip(found["user"], found["auc"], strict=True):
        scores = scorer.scores(torch.tensor([user]))[0].numpy()
        others = [i for i in range(data.n_items) if i not in relevant[user] | known[user]]
        mine = sorted(relevant[user])
        u = mannwhitneyu(scores[mine], scores[others]).statistic
        assert value == pytest.approx(u / (len(mine) * len(others)), abs=1e-12)


@settings(max_examples=60)
@given(st.data())
def test_auc_in_blocks_with_ties_masked_items_and_nothing_left(drawn: st.DataObject) -> None:
    n_users, n_items = drawn.draw(st.integers(1, 5)), drawn.draw(st.integers(2, 7))
    row = st.lists(st.integers(-2, 2), min_size=n_items, max_size=n_items)
    scores = torch.tensor(drawn.draw(st.lists(row, min_size=n_users, max_size=n_users))).float()
    one = st.integers(0, n_items - 1)
    relevant = [drawn.draw(st.sets(one, min_size=1)) for _ in range(n_users)]
    seen = [drawn.draw(st.sets(one)) for _ in range(n_users)]

    class Table:
        def __init__(self) -> None:
            self.n_users, self.n_items = scores.shape

        def scores(self, users: torch.Tensor) -> torch.Tensor:
            return scores[users].clone()

    def packed(lists: list[set[int]]) -> tuple[np.ndarray, np.ndarray]:
        flat = np.array([i for each in lists for i in sorted(each)], dtype=np.int64)
        return np.cumsum([0, *map(len, lists)]), flat

    pairs = RankedPairs(np.arange(n_users), *packed(relevant))
    masked_topk(Table(), np.arange(n_users), 2, packed(seen), block=2, watch=pairs)
    for user in range(n_users):
        open_to = set(range(n_items)) - seen[user]
        others, mine = open_to - relevant[user], open_to & relevant[user]
        expected = auc_by_pairs(scores[user].tolist(), relevant[user], open_to) if others else 0.0
        expected = expected if others else len(mine) / len(relevant[user])
        assert pairs.values[user].item() == pytest.approx(expected, abs=1e-12)


def lists_of(data: Dataset, scorer: EmbeddingScorer, users: np.ndarray) -> list[list[int]]:
    items, _ = masked_topk(scorer, users, K, data.positives("train", "valid"))
    return [[i for i in row if i >= 0] for row in items.tolist()]


def test_lists_are_described_as_defined(data: Dataset, scorer: EmbeddingScorer) -> None:
    found = evaluate(scorer, data, ks=[K], also=["coverage", "diversity", "novelty"], per_user=True)
    table = found.per_user
    assert table is not None
    lists = lists_of(data, scorer, table["user"].to_numpy())
    assert found.metrics[f"coverage@{K}"] == len({i for each in lists for i in each}) / data.n_items
    facts: list[set[object]] = [set() for _ in range(data.n_items)]
    for head, relation, tail in data.triples.to_numpy().tolist():
        for item, fact in ((head, (relation, tail, True)), (tail, (relation, head, False))):
            if item < data.n_items:
                facts[item].add(fact)

    def unlike(i: int, j: int) -> float:
        both = len(facts[i]) * len(facts[j])
        return 1.0 - (len(facts[i] & facts[j]) / both**0.5 if both else 0.0)

    had = sets(data, "train", "valid")
    owners = [sum(i in each for each in had) for i in range(data.n_items)]
    for row, listed in zip(table.to_dict("records"), lists, strict=True):
        pairs = [unlike(i, j) for i, j in combinations(listed, 2)]
        assert row[f"diversity@{K}"] == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
        bits = [-log2(max(1, owners[i]) / sum(map(bool, had))) for i in listed]
        assert row[f"novelty@{K}"] == pytest.approx(sum(bits) / len(bits), abs=1e-12)


def test_popular_items_are_neither_new_nor_many(data: Dataset, scorer: EmbeddingScorer) -> None:
    popular, other = (
        evaluate(one, data, ks=[K], also=["coverage", "novelty"]).metrics
        for one in (PopularityScorer(data, ("train", "valid")), scorer)
    )
    assert popular[f"novelty@{K}"] < other[f"novelty@{K}"]
    assert popular[f"coverage@{K}"] < other[f"coverage@{K}"]


def test_a_list_of_one_has_no_diversity(data: Dataset, scorer: EmbeddingScorer) -> None:
    assert evaluate(scorer, data, ks=[1], also=["diversity"]).metrics["diversity@1"] == 0.0


def test_what_is_not_asked_for_is_not_there_and_changes_nothing(data: Dataset, scorer: EmbeddingScorer) -> None:
    plain, more = evaluate(scorer, data), evaluate(scorer, data, also=ALSO)
    assert {name.partition("@")[0] for name in plain.metrics} == {"recall", "ndcg", "precision", "hit", "mrr"}
    assert {name.partition("@")[0] for name in more.metrics} - {name.partition("@")[0] for name in plain.metrics} == {
        "map", "auc", "diversity", "novelty", "coverage",
    }  # fmt: skip
    assert plain.metrics == {name: more.metrics[name] for name in plain.metrics}
    with pytest.raises(ConfigError, match=r"'gain'.*map"):
        evaluate(scorer, data, also=["gain"])


def test_sampled_candidates_are_the_relevant_items_and_as_many_others(data: Dataset, scorer: EmbeddingScorer) -> None:
    lists = [Evaluator(data, "test", (data.n_items,), sampled=n, sample_seed=2)._among_sampled(scorer, n)
             for n in (5, 5, 1000)]  # fmt: skip
    kept = [(one.scores(torch.arange(data.n_users)) > -torch.inf).numpy() for one in lists]
    relevant, known = sets(data, "test"), sets(data, "train", "valid")
    assert (kept[0] == kept[1]).all()
    for user in np.unique(data.pairs("test")[:, 0]):
        few, all_ = (set(np.flatnonzero(each[user]).tolist()) for each in (kept[0], kept[2]))
        assert relevant[user] <= few
        assert len(few - relevant[user]) == 5
        assert not few & known[user]
        assert all_ == set(range(data.n_items)) - known[user]


def test_chance_is_chance_among_sampled_items(data: Dataset) -> None:
    for seed in (0, 1):
        found = evaluate(
            RandomScorer(data.n_users, data.n_items, seed), data, also=["auc"], sampled=10, sample_seed=seed
        )
        assert found.metrics["auc"] == pytest.approx(0.5, abs=0.1)


def test_among_all_others_sampled_ranking_is_full_ranking(data: Dataset, scorer: EmbeddingScorer) -> None:
    full, among = (evaluate(scorer, data, also=["auc"], sampled=n) for n in (None, 10 * data.n_items))
    assert among.metrics == full.metrics
    assert among.to_dict()["n_sampled"] == 10 * data.n_items
    assert evaluate(scorer, data, sampled=5).metrics["recall@20"] > full.metrics["recall@20"]
    with pytest.raises(ConfigError, match="at least 1"):
        evaluate(scorer, data, sampled=0)
