"""The popularity and random yardsticks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from hakg_dgl.errors import ConfigError
from hakg_dgl.ranking.topk import masked_topk
from hakg_dgl.ranking.yardsticks import PopularityScorer, RandomScorer, popularity


def test_popularity_orders_by_count_and_equal_counts_by_nothing_that_ids_tell():
    items = {("train",): np.array([2, 2, 0, 4, 4, 1]), ("train", "valid"): np.array([2, 2, 0, 4, 4, 1, 1, 1])}
    dataset = SimpleNamespace(n_users=3, n_items=6, positives=lambda *splits: (None, items[splits]))
    ranked, scores = masked_topk(PopularityScorer(dataset), torch.arange(3), 6)
    assert [set(ranked[0, place : place + 2].tolist()) for place in (0, 2, 4)] == [{2, 4}, {0, 1}, {3, 5}]
    assert (ranked == ranked[0]).all()
    assert (scores[:, 1:] < scores[:, :-1]).all()
    assert scores[0].floor().tolist() == [2, 2, 1, 1, 0, 0]
    ranked, _ = masked_topk(PopularityScorer(dataset, ("train", "valid")), torch.arange(1), 3)
    assert ranked[0, 0] == 1
    unsold = popularity(torch.zeros(0, dtype=torch.int64), 4000)
    assert len(unsold.unique()) == 4000
    assert abs(np.corrcoef(unsold.numpy(), np.arange(4000))[0, 1]) < 0.05
    assert torch.equal(unsold[:100], popularity(torch.zeros(0, dtype=torch.int64), 100))  # new ones move none


def test_random_scores_depend_on_user_item_and_seed_alone():
    scorer = RandomScorer(50, 400, seed=7)
    whole = scorer.scores(torch.arange(50))
    mixed = torch.tensor([31, 4, 4, 49])
    assert torch.equal(scorer.scores(mixed), whole[mixed])
    assert torch.equal(RandomScorer(50, 400, seed=7).scores(torch.arange(50)), whole)
    assert not torch.equal(RandomScorer(50, 400, seed=8).scores(torch.arange(50)), whole)


def test_random_scores_are_uniform_and_unrelated():
    scores = RandomScorer(200, 500, seed=1).scores(torch.arange(200)).double().numpy()
    assert scores.min() >= 0
    assert scores.max() < 1
    assert kstest(scores.flatten(), "uniform").pvalue > 1e-3
    for matrix in (scores, scores.T):  # users among each other, items among each other
        correlations = np.corrcoef(matrix)[np.triu_indices(len(matrix), 1)]
        assert abs(correlations.mean()) < 5e-3
        assert correlations.std() == pytest.approx(matrix.shape[1] ** -0.5, rel=0.05)
    best = np.bincount(scores.argmax(1), minlength=500)
    assert best.max() <= 6  # no item leads for many users


def test_seeds_out_of_range():
    with pytest.raises(ConfigError, match="seed is -1"):
        RandomScorer(1, 1, seed=-1)
