"""Evaluation against a reference that loops over users, on small random data and on real data."""

import json
import os
from math import log2
from pathlib import Path

import numpy as np
import pytest
import torch

from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.ranking.evaluation import Evaluator, cold_items, equal_share_groups, evaluate
from hakg_dgl.ranking.topk import EmbeddingScorer
from hakg_dgl.ranking.yardsticks import PopularityScorer

SHARED = Path(os.environ.get("HAKG_SHARED_DIR", Path(__file__).resolve().parents[2] / "shared"))


class Interactions:
    """The part of a data set that evaluation reads: the pairs of each split."""

    def __init__(self, n_users, n_items, **splits):
        self.n_users, self.n_items = n_users, n_items
        self.splits = {name: np.asarray(pairs, dtype=np.int64).reshape(-1, 2) for name, pairs in splits.items()}

    def pairs(self, *splits):
        pairs = np.concatenate([self.splits.get(name, np.empty((0, 2), np.int64)) for name in splits])
        return pairs[np.lexsort(pairs.T[::-1])]

    def positives(self, *splits):
        pairs = self.pairs(*splits)
        return np.r_[0, np.bincount(pairs[:, 0], minlength=self.n_users).cumsum()], pairs[:, 1]

    def sets(self, *splits):
        found = [set() for _ in range(self.n_users)]
        for user, item in self.pairs(*splits):
            found[user].add(int(item))
        return found


def random_data(seed, n_users=30, n_items=40):
    """Skewed popularity, some cold items and users, some users without a test item, one overlap of train and test."""
    rng = np.random.default_rng(seed)
    liking = rng.random((n_users, n_items)) * rng.random(n_items) ** 2 * rng.random((n_users, 1))
    kind = np.where(liking > 0.08, rng.choice(3, (n_users, n_items), p=[0.6, 0.1, 0.3]), -1)
    kind[:, :4][kind[:, :4] == 0] = 2
    kind[:2][kind[:2] == 0] = 2
    kind[5][kind[5] == 2] = 0
    pairs = {name: np.argwhere(kind == which) for which, name in enumerate(("train", "valid", "test"))}
    pairs["test"] = np.concatenate([pairs["test"], pairs["train"][:1]])
    return Interactions(n_users, n_items, **pairs)


def random_scorer(data, seed=0, d=6):
    draw = torch.Generator().manual_seed(seed)
    return EmbeddingScorer(
        torch.randn(data.n_users, d, generator=draw, dtype=torch.float64),
        torch.randn(data.n_items, d, generator=draw, dtype=torch.float64),
    )


def lists_by_hand(scorer, hidden, k):
    scores = scorer.scores(torch.arange(scorer.n_users))
    order = scores.sort(dim=1, descending=True, stable=True).indices.tolist()
    return [[i for i in row if i not in hidden[u]][:k] for u, row in enumerate(order)]


def metrics_by_hand(ranked, relevant, k):
    ranks = [r for r, item in enumerate(ranked[:k]) if item in relevant]
    ideal = sum(1 / log2(r + 2) for r in range(min(k, len(relevant))))
    return {
        f"recall@{k}": len(ranks) / len(relevant),
        f"ndcg@{k}": sum(1 / log2(r + 2) for r in ranks) / ideal,
        f"precision@{k}": len(ranks) / k,
        f"hit@{k}": float(bool(ranks)),
        f"mrr@{k}": 1 / (ranks[0] + 1) if ranks else 0.0,
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("split", "mask"), [("test", ("train", "valid")), ("valid", ("train",)), ("train", ())])
def test_equals_the_loop_over_users(seed, split, mask):
    data = random_data(seed)
    scorer = random_scorer(data, seed)
    relevant, hidden = data.sets(split), data.sets(*mask) if mask else [set()] * data.n_users
    ks = (1, 5, 60)  # 60 exceeds the catalogue
    ranked = lists_by_hand(scorer, hidden, max(ks))
    users = [u for u in range(data.n_users) if relevant[u]]
    result = evaluate(scorer, data, split=split, ks=ks, per_user=True)
    assert (result.split, result.mask, result.ks, result.n_users) == (split, mask, ks, len(users))
    assert result.n_masked_relevant == sum(len(relevant[u] & hidden[u]) for u in users)
    assert result.n_masked_relevant == (1 if split == "test" else 0)
    assert result.per_user["user"].tolist() == users
    assert result.per_user["n_relevant"].tolist() == [len(relevant[u]) for u in users]
    assert result.per_user["n_train"].tolist() == [len(data.sets("train")[u]) for u in users]
    expected = {
        name: [metrics_by_hand(ranked[u], relevant[u], k)[name] for u in users]
        for k in ks
        for name in metrics_by_hand(ranked[users[0]], relevant[users[0]], k)
    }
    assert list(result.metrics) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(result.per_user[name], values, rtol=1e-12, atol=0, err_msg=name)
        assert result.metrics[name] == pytest.approx(np.mean(values), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_groups_equal_the_loop_over_users(seed):
    data = random_data(seed)
    scorer, k = random_scorer(data, seed), 5
    result = evaluate(scorer, data, ks=(k,), groups=True, per_user=True)
    relevant, hidden = data.sets("test"), data.sets("train", "valid")
    ranked = lists_by_hand(scorer, hidden, k)
    users = result.per_user["user"].tolist()

    by_user = result.groups["user_activity"]
    assert [row["group"] for row in by_user] == ["none", "few", "some", "many", "most"]
    assert (by_user[0]["max_train"], by_user[1]["min_train"] > 0) == (0, True)
    assert sum(row["n_users"] for row in by_user) == len(users)
    for row in by_user:
        member = result.per_user["n_train"].between(row["min_train"], row["max_train"])
        assert row["n_users"] == member.sum()
        for name in result.metrics:
            assert row[name] == pytest.approx(result.per_user.loc[member, name].mean(), rel=1e-12)

    counts = np.bincount(data.pairs("train")[:, 1], minlength=data.n_items)
    by_item = result.groups["item_popularity"]
    assert [row["group"] for row in by_item] == ["cold", "tail", "mid", "head"]
    assert by_item[0]["max_train"] == 0
    assert sum(row["n_items"] for row in by_item) == data.n_items
    assert sum(row["n_relevant"] for row in by_item) == result.n_relevant
    assert sum(row[f"share@{k}"] for row in by_item) == pytest.approx(1)
    for row in by_item:
        group = {i for i in range(data.n_items) if row["min_train"] <= counts[i] <= row["max_train"]}
        found = [
            len(group & relevant[u] & set(ranked[u])) / len(group & relevant[u]) for u in users if group & relevant[u]
        ]
        assert row["n_users"] == len(found)
        assert row[f"recall@{k}"] == (pytest.approx(np.mean(found), rel=1e-12) if found else None)
        assert row[f"share@{k}"] == pytest.approx(np.mean([len(group & set(ranked[u])) / k for u in users]), rel=1e-12)
    known = set(data.pairs("train", "valid")[:, 1].tolist())
    by_novelty = result.groups["item_novelty"]
    groups = {"all": set(range(data.n_items)), "warm": known, "cold": set(range(data.n_items)) - known}
    assert [row["group"] for row in by_novelty] == list(groups)
    for row, group in zip(by_novelty, groups.values(), strict=True):
        mine = [u for u in users if relevant[u] & group]
        found = [metrics_by_hand([i if i in group else -1 for i in ranked[u]], relevant[u] & group, k) for u in mine]
        assert (row["n_items"], row["n_users"]) == (len(group), len(mine))
        assert row["n_relevant"] == sum(len(relevant[u] & group) for u in mine)
        for metric in (f"recall@{k}", f"ndcg@{k}"):
            expected = pytest.approx(np.mean([values[metric] for values in found]), rel=1e-12) if found else None
            assert row[metric] == expected
        assert row[f"share@{k}"] == pytest.approx(np.mean([len(group & set(ranked[u])) / k for u in users]), rel=1e-12)
    assert by_novelty[0][f"ndcg@{k}"] == pytest.approx(result.metrics[f"ndcg@{k}"], rel=1e-12)
    assert json.loads(json.dumps(result.to_dict()))["groups"] == result.groups


def test_lists_longer_than_the_catalogue_cost_nothing_and_have_the_metrics_of_their_length():
    data, k = random_data(1), 10**9
    scorer = random_scorer(data)
    found = evaluate(scorer, data, ks=(20, k), groups=True)
    hidden, relevant = data.sets("train", "valid"), data.sets("test")
    ranked = lists_by_hand(scorer, hidden, data.n_items)
    by_user = [metrics_by_hand(ranked[u], relevant[u], data.n_items) for u in range(data.n_users) if relevant[u]]
    for name in ("recall", "ndcg", "hit", "mrr"):  # which places without an item leave as they are
        expected = np.mean([values[f"{name}@{data.n_items}"] for values in by_user])
        assert found.metrics[f"{name}@{k}"] == pytest.approx(expected)
    expected = np.mean([values[f"precision@{data.n_items}"] for values in by_user]) * data.n_items / k
    assert found.metrics[f"precision@{k}"] == pytest.approx(expected)
    assert sum(row[f"share@{k}"] for row in found.groups["item_popularity"]) == pytest.approx(1)


def test_groups_hold_equal_shares_of_the_interactions():
    # Shares of 1, 2, 4, 8 are sixteenths 0-2, 2-4, 4-8, 8-16; their middles 1, 3, 6, 12 fall into quarters 1, 1, 2, 4.
    assert equal_share_groups(np.array([8, 0, 1, 1, 2, 4, 0]), 4).tolist() == [4, 0, 1, 1, 1, 2, 0]
    assert equal_share_groups(np.zeros(3, np.int64), 3).tolist() == [0, 0, 0]
    assert equal_share_groups(np.full(3, 7), 1).tolist() == [1, 1, 1]
    counts = np.random.default_rng(0).lognormal(3, 1, 5000).astype(np.int64)
    groups = equal_share_groups(counts, 4)
    assert ((groups == 0) == (counts == 0)).all()
    assert (np.diff(groups[counts.argsort()]) >= 0).all()
    np.testing.assert_allclose(np.bincount(groups, weights=counts)[1:] / counts.sum(), 0.25, atol=0.01)


def test_recommending_the_test_items_scores_one():
    data = random_data(1)
    truth = np.zeros((data.n_users, data.n_items), dtype=np.float32)
    truth[tuple(data.pairs("test").T)] = 1
    perfect = EmbeddingScorer(torch.from_numpy(truth), torch.eye(data.n_items))
    result = evaluate(perfect, data, ks=(40,), mask=())
    assert [result.metrics[f"{name}@40"] for name in ("recall", "ndcg", "hit", "mrr")] == [1, 1, 1, 1]
    assert result.n_masked_relevant == 0


def test_an_evaluator_is_reusable_and_can_leave_users_out():
    data = random_data(2)
    first, second = random_scorer(data, 0), random_scorer(data, 1)
    evaluator = Evaluator(data, "test", (5,))
    results = [evaluator(scorer).metrics for scorer in (first, second, first)]
    assert results[0] == results[2] != results[1]
    everyone = evaluate(first, data, ks=(5,), per_user=True)
    fewer = evaluate(first, data, ks=(5,), per_user=True, exclude_users=np.array([0, 3, 5]))
    kept = everyone.per_user[~everyone.per_user["user"].isin([0, 3, 5])].reset_index(drop=True)
    assert fewer.per_user.equals(kept)
    assert fewer.n_relevant == kept["n_relevant"].sum()
    assert everyone.to_dict().keys() == {
        "split", "mask", "ks", "n_users", "n_relevant", "n_candidates", "n_masked_relevant", "metrics",
    }  # fmt: skip


def test_among_some_items_the_others_are_neither_ranked_nor_relevant():
    data, chosen = random_data(4), np.array([3, 7, 8, 15, 16, 30, 31, 32])
    scorer = random_scorer(data, 5)
    result = evaluate(scorer, data, ks=(3,), per_user=True, candidates=np.append(chosen, 8))
    assert (result.n_candidates, result.to_dict()["n_candidates"]) == (8, 8)
    scores, seen = scorer.scores(torch.arange(data.n_users)), data.sets("train", "valid")
    wanted = {user: items & set(chosen) for user, items in enumerate(data.sets("test")) if items & set(chosen)}
    assert result.per_user["user"].tolist() == sorted(wanted)
    assert result.n_relevant == sum(map(len, wanted.values()))
    for row in result.per_user.to_dict("records"):
        user = row["user"]
        open_to = sorted(set(chosen) - seen[user], key=lambda item: -float(scores[user, item]))
        expected = metrics_by_hand(open_to[:3], wanted[user], 3)
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert evaluate(scorer, data, candidates=np.arange(data.n_items)).metrics == evaluate(scorer, data).metrics


def test_groups_count_the_items_that_are_ranked():
    data = random_data(4)
    counts = np.bincount(data.pairs("train")[:, 1], minlength=data.n_items)
    chosen = np.flatnonzero(counts > 0)[::2]
    groups = evaluate(random_scorer(data, 5), data, groups=True, candidates=chosen).groups["item_popularity"]
    assert sum(row["n_items"] for row in groups) == len(chosen)
    assert "cold" not in [row["group"] for row in groups]
    assert (groups[0]["min_train"], groups[-1]["max_train"]) == (counts[chosen].min(), counts[chosen].max())


def test_cold_items_are_those_without_interactions_before_the_split():
    data = Interactions(3, 6, train=[(0, 1), (1, 1)], test=[(0, 4), (1, 0)])
    data.splits["valid"] = np.array([[2, 3]])
    assert cold_items(data).tolist() == [0, 2, 4, 5]
    assert cold_items(data, "valid").tolist() == [0, 2, 3, 4, 5]
    scorer = EmbeddingScorer(torch.ones(3, 1), torch.tensor([[0.0], [9.0], [1.0], [9.0], [2.0], [1.0]]))
    found = evaluate(scorer, data, ks=(1,), mask=("train",), candidates=cold_items(data), per_user=True)
    assert found.per_user["recall@1"].tolist() == [1.0, 0.0]


def test_bad_arguments():
    data = random_data(0)
    with pytest.raises(ConfigError, match="no split 'dev'"):
        Evaluator(data, "dev")
    with pytest.raises(ConfigError, match="no split 'all'"):
        Evaluator(data, "test", mask=("all",))
    with pytest.raises(ConfigError, match="at least 1"):
        Evaluator(data, ks=(20, 0))
    with pytest.raises(ConfigError, match="missing"):
        Evaluator(data, ks=())
    with pytest.raises(DataError, match="nothing to evaluate"):
        Evaluator(Interactions(3, 4, train=[(0, 1)], test=[]))
    with pytest.raises(DataError, match="user 99"):
        Evaluator(data, exclude_users=np.array([99]))
    with pytest.raises(DataError, match="candidate item 40"):
        Evaluator(data, candidates=np.array([40]))
    with pytest.raises(DataError, match="0 candidate items in the 'test' split"):
        Evaluator(data, candidates=np.array([], dtype=np.int64))
    for split in ("train", "dev"):
        with pytest.raises(ConfigError, match=f"before a split '{split}'"):
            cold_items(data, split)
    with pytest.raises(DataError, match="30 users and 41 items"):
        evaluate(random_scorer(random_data(0, n_items=41)), data)


@pytest.mark.parametrize(("name", "n_users"), [("ml-100k", 943), ("music", 1815)])
def test_popularity_on_real_data(name, n_users):
    folder = SHARED / "data" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing; HAKG_SHARED_DIR names the folder that holds data/")
    pairs = {}
    for split in ("train", "test"):
        lines = [line.split() for line in (folder / f"{split}.txt").read_text().splitlines()]
        pairs[split] = [(int(user), int(item)) for user, *items in lines for item in set(items)]
    n_items = 1 + max(item for split in pairs.values() for _, item in split)
    data = Interactions(n_users, n_items, **pairs)
    scorer = PopularityScorer(data)
    result = evaluate(scorer, data, ks=(20,), groups=True, per_user=True)
    ranked, relevant = lists_by_hand(scorer, data.sets("train"), 20), data.sets("test")
    sample = result.per_user.iloc[::97]
    for row in sample.to_dict("records"):
        expected = metrics_by_hand(ranked[row["user"]], relevant[row["user"]], 20)
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    cold = result.groups["item_popularity"][0]
    assert cold["group"] == "cold"
    assert cold["n_relevant"] > 0
    assert cold["recall@20"] == 0


def test_a_mask_without_interactions_hides_nothing():
    data = random_data(3)
    data.splits["valid"] = np.empty((0, 2), np.int64)
    scorer = random_scorer(data)
    assert evaluate(scorer, data, mask=("valid",)).metrics == evaluate(scorer, data, mask=()).metrics
