"""Each metric against hand-computed values and against ranx."""

from math import log2

import numpy as np
import pytest
import torch

from hakg_dgl.ranking.metrics import (
    HIT_METRICS,
    average_precision,
    hit_ratio,
    ndcg,
    precision,
    recall,
    reciprocal_rank,
)

HITS = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
N_RELEVANT = torch.tensor([3, 1, 2, 9])


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (recall, [2 / 3, 1, 0, 4 / 9]),
        (precision, [2 / 4, 1 / 4, 0, 1]),
        (hit_ratio, [1, 1, 0, 1]),
        (reciprocal_rank, [1, 1 / 2, 0, 1]),
        (average_precision, [(1 + 2 / 3) / 3, 1 / 2, 0, 4 / 9]),
        (ndcg, [(1 + 1 / 2) / (1 + 1 / log2(3) + 1 / 2), 1 / log2(3), 0, 1]),
    ],
)
def test_by_hand(metric, expected):
    values = metric(HITS, N_RELEVANT)
    assert values.dtype == torch.float64
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", HIT_METRICS)
def test_places_beyond_the_hits_are_misses(name):
    wide = torch.cat([HITS, torch.zeros(4, 7, dtype=torch.bool)], dim=1)
    metric = HIT_METRICS[name]
    torch.testing.assert_close(metric(HITS, N_RELEVANT, 11), metric(wide, N_RELEVANT), rtol=1e-14, atol=0)


def test_users_without_relevant_items_have_no_recall_and_no_ndcg():
    nothing = torch.zeros(1, 3, dtype=torch.bool), torch.zeros(1, dtype=torch.int64)
    assert recall(*nothing).isnan()
    assert ndcg(*nothing).isnan()


def test_a_perfect_list_scores_one_whatever_the_cut():
    for k in (1, 3, 10):
        for n in (1, 3, 20):
            hits = (torch.arange(k) < n)[None]
            assert ndcg(hits, torch.tensor([n])).item() == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("k", [1, 5, 20, 50])
def test_agrees_with_trec_eval(k):
    pytrec_eval = pytest.importorskip("pytrec_eval", reason="pip install pytrec_eval-terrier")
    rng = np.random.default_rng(k)
    n_users, n_items = 40, 60
    n_relevant = rng.permutation(np.r_[np.ones(15, int), rng.integers(2, 50, n_users - 15)])
    n_listed = rng.permutation(np.r_[np.full(30, k), rng.integers(1, k + 1, n_users - 30)])  # some lists are short
    relevant = [rng.choice(n_items, n, replace=False) for n in n_relevant]
    lists = [rng.choice(n_items, n, replace=False) for n in n_listed]
    hits = torch.zeros(n_users, k, dtype=torch.bool)
    for u, items in enumerate(lists):
        hits[u, : len(items)] = torch.from_numpy(np.isin(items, relevant[u]))

    theirs = {"recall": f"recall_{k}", "ndcg": f"ndcg_cut_{k}", "precision": f"P_{k}", "hit": f"success_{k}"}
    theirs["map"] = f"map_cut_{k}"
    theirs["mrr"] = "recip_rank"  # has no cut of its own, but the lists end at k
    judge = pytrec_eval.RelevanceEvaluator(
        {str(u): {str(i): 1 for i in items} for u, items in enumerate(relevant)},
        {f"recall.{k}", f"ndcg_cut.{k}", f"P.{k}", f"success.{k}", f"map_cut.{k}", "recip_rank"},
    )
    judged = judge.evaluate({str(u): {str(i): -float(r) for r, i in enumerate(items)} for u, items in enumerate(lists)})
    assert theirs.keys() == HIT_METRICS.keys()
    for name, metric in HIT_METRICS.items():
        ours = metric(hits, torch.from_numpy(n_relevant)).numpy()
        expected = [judged[str(u)][theirs[name]] for u in range(n_users)]
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-15, err_msg=name)
