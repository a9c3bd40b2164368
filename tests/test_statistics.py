"""Bootstrap over users, paired tests and Holm's correction, against SciPy, by hand, and by their promises."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.randomness import numpy_generator
from hakg_dgl.ranking import statistics
from hakg_dgl.ranking.statistics import (
    TIE,
    USERS_PER_BLOCK,
    bootstrap_means,
    bootstrap_p_values,
    holm,
    paired_p_values,
    percentile_intervals,
    wins_ties_losses,
)


def draw(stream: str) -> np.random.Generator:
    return numpy_generator(7, stream)


def test_resamples_are_draws_with_replacement():
    """Three users, coded so that a mean tells who was drawn: the 10 multisets come as often as the theory says."""
    means = bootstrap_means([[0.0], [1.0], [4.0]], 20_000, draw("draws"))
    sums, found = np.unique(np.round(3 * means[:, 0]).astype(int), return_counts=True)
    expected = np.bincount([sum(three) for three in itertools.product((0, 1, 4), repeat=3)])
    assert sums.tolist() == np.flatnonzero(expected).tolist()
    assert stats.chisquare(found, 20_000 * expected[sums] / 27).pvalue > 1e-3


def test_columns_share_their_draws_and_drawing_in_parts_changes_nothing():
    values = draw("values").random((101, 3))
    values = np.c_[values, values[:, 0] - values[:, 1]]
    means = bootstrap_means(values, 250, draw("a"))
    np.testing.assert_allclose(means[:, 3], means[:, 0] - means[:, 1], atol=1e-14)
    for part in (1, 101, 1000, 1 << 20):
        np.testing.assert_allclose(bootstrap_means(values, 250, draw("a"), draws_at_once=part), means, atol=1e-14)
    assert not np.array_equal(bootstrap_means(values, 250, draw("b")), means)


def test_many_users_in_blocks_are_drawn_as_few_are(monkeypatch):
    monkeypatch.setattr(statistics, "USERS_PER_BLOCK", 2)  # five users in blocks of 2, 2 and 1
    means = bootstrap_means([[1.0], [10.0], [100.0], [1000.0], [10000.0]], 40_000, draw("blocks"))
    sums, found = np.unique(np.round(5 * means[:, 0]).astype(int), return_counts=True)
    counts = np.array([[total // 10**place % 10 for place in range(5)] for total in sums])
    assert len(sums) == 126  # every multiset of five of five
    assert (counts.sum(1) == 5).all()
    expected = stats.multinomial(5, [0.2] * 5).pmf(counts) * 40_000
    assert stats.chisquare(found, expected).pvalue > 1e-3


def test_more_users_than_a_block_holds():
    values = np.random.default_rng(0).random((USERS_PER_BLOCK + 5, 1))
    means = bootstrap_means(np.c_[values, np.ones_like(values)], 300, draw("large"))
    np.testing.assert_allclose(means[:, 1], 1, rtol=1e-12)  # as many draws as users, always
    error = values.std() / len(values) ** 0.5
    assert means[:, 0].std() == pytest.approx(error, rel=0.15)
    assert means[:, 0].mean() == pytest.approx(values.mean(), abs=0.25 * error)


def test_percentile_intervals_are_those_of_scipy():
    values = draw("skewed").exponential(size=(80, 2))
    low, high = percentile_intervals(bootstrap_means(values, 40_000, draw("ours")), 0.9)
    for column in range(2):
        theirs = stats.bootstrap(
            (values[:, column],), np.mean, n_resamples=40_000, confidence_level=0.9, method="percentile", batch=2000,
            rng=draw("theirs"),
        ).confidence_interval  # fmt: skip
        width = theirs.high - theirs.low
        assert [low[column], high[column]] == pytest.approx([theirs.low, theirs.high], abs=0.03 * width)


def test_intervals_cover_the_true_mean_as_often_as_they_say():
    samples = draw("samples").exponential(size=(100, 1000))  # 1,000 samples of 100 users, true mean 1
    low, high = percentile_intervals(bootstrap_means(samples, 1000, draw("cover")))
    covered = float(((low <= 1) & (high >= 1)).mean())
    assert 0.91 <= covered <= 0.965  # percentile intervals of a skewed quantity are slightly short


@pytest.mark.parametrize("test", ["bootstrap", "t", "wilcoxon"])
def test_p_values_are_small_as_often_as_they_say(test):
    nothing = draw("null").laplace(size=(80, 500))

    def p_of(values):
        if test != "bootstrap":
            return paired_p_values(values, test)
        return bootstrap_p_values(bootstrap_means(values, 1000, draw("p")), values.mean(0))

    p = p_of(nothing)
    assert [float((p <= level).mean()) for level in (0.05, 0.2, 0.5)] == pytest.approx([0.05, 0.2, 0.5], abs=0.05)
    assert float((p_of(nothing + 0.8) <= 0.05).mean()) > 0.95


def test_bootstrap_p_values_by_hand():
    means = np.array([[0.0, 1.0, 0.5], [2.0, 1.2, 0.5], [1.0, 0.9, 0.5], [0.9, 1.1, 0.5]])
    # |m* - 1| >= 1 for two of four; never for the second; |m* - 0| >= 0 always for the third
    assert bootstrap_p_values(means, np.array([1.0, 1.0, 0.0])) == pytest.approx([3 / 5, 1 / 5, 1.0])


def test_paired_tests_are_those_of_scipy():
    ours, theirs = draw("pairs").random((2, 60, 4))
    theirs = np.where(draw("ties").random((60, 4)) < 0.3, ours, theirs)
    t, signed_rank = (paired_p_values(ours - theirs, test) for test in ("t", "wilcoxon"))
    assert t == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, rel=1e-12)
    assert signed_rank == pytest.approx([stats.wilcoxon(ours[:, i], theirs[:, i]).pvalue for i in range(4)], rel=1e-12)


@pytest.mark.parametrize("test", ["t", "wilcoxon"])
def test_equal_users_differ_by_chance_alone(test, recwarn):
    nothing, rounding, everybody = np.zeros(30), np.where(np.arange(30) % 2, TIE / 2, -TIE / 3), np.full(30, 0.25)
    p = paired_p_values(np.stack([nothing, rounding, everybody], axis=1), test)
    assert p[:2].tolist() == [1.0, 1.0]
    assert p[2] < 1e-6
    assert paired_p_values(np.empty((5, 0)), test).shape == (0,)
    assert not recwarn.list


def test_holm_by_hand():
    # sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which may not be below its predecessor
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == pytest.approx([0.02])
    assert holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_what_holm_promises(p, random):
    corrected = holm(p)
    assert (corrected >= p).all()
    assert (corrected <= np.minimum(1, len(p) * np.asarray(p))).all()  # never beyond Bonferroni
    assert (np.diff(corrected[np.argsort(p, kind="stable")]) >= 0).all()
    shuffled = random.sample(range(len(p)), len(p))
    assert holm([p[i] for i in shuffled]).tolist() == corrected[shuffled].tolist()
    for level in (0.01, 0.05, 0.3):  # Holm's own step-down rule rejects the same
        rejected = set()
        for rank, i in enumerate(np.argsort(p, kind="stable")):
            if p[i] * (len(p) - rank) > level:
                break
            rejected.add(int(i))
        assert set(np.flatnonzero(corrected <= level).tolist()) == rejected


def test_wins_ties_and_losses():
    differences = [[0.1, 0.0], [TIE / 2, -1.0], [-0.2, -2.0], [3.0, -TIE]]
    assert wins_ties_losses(differences).tolist() == [[2, 0], [1, 2], [1, 2]]
    assert wins_ties_losses(np.empty((4, 0))).shape == (3, 0)


def test_bad_arguments():
    values = np.zeros((5, 1))
    with pytest.raises(ConfigError, match="resamples is 0"):
        bootstrap_means(values, 0, draw("x"))
    with pytest.raises(ConfigError, match="level is 95"):
        percentile_intervals(values, 95)
    with pytest.raises(ConfigError, match="no test 'z'"):
        paired_p_values(values, "z")
    for bad, message in (
        (values[:1], r"shape \(1, 1\); statistics over users need"),
        (values[:, 0], r"shape \(5,\)"),
        ([[0.0], [np.nan]], "NaN or infinite"),
        ([[0.0], [np.inf]], "NaN or infinite"),
    ):
        with pytest.raises(DataError, match=message):
            bootstrap_means(bad, 10, draw("x"))
        with pytest.raises(DataError, match=message):
            paired_p_values(bad)
    for p in (-0.1, 1.1, np.nan):
        with pytest.raises(DataError, match="between 0 and 1, not"):
            holm([0.5, p])
