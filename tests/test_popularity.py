"""Distance and popularity: fits with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from planted import at

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.figures.popularity import fit_popularity, item_popularity, popularity_fits


def test_the_fit_finds_the_trend_it_was_given() -> None:
    far = np.linspace(0.1, 2.0, 40)
    fit = fit_popularity(far, np.append(50.0 * np.exp(-1.5 * far[:-1]), 0))  # the last has no interaction
    assert fit is not None
    assert (fit.scale, fit.rate, fit.r_squared, fit.items) == pytest.approx((50.0, -1.5, 1.0, 39))
    assert fit.spearman == pytest.approx(-1.0)
    assert np.allclose(fit(far), 50.0 * np.exp(-1.5 * far))
    assert str(fit).startswith("popularity = 50 exp(-1.5 distance), R² 1.00, Spearman -1.00, 39 items")


def test_without_items_or_spread_there_is_no_trend() -> None:
    assert fit_popularity(np.array([1.0, 2.0, 3.0]), np.array([3, 0, 1])) is None
    assert fit_popularity(np.ones(9), np.arange(9)) is None
    level = fit_popularity(np.arange(5.0), np.full(5, 7))
    assert level is not None
    assert (level.rate, level.r_squared) == (pytest.approx(0.0, abs=1e-12), 0.0)


def test_popularity_counts_training_interactions_alone(planted: Dataset) -> None:
    assert item_popularity(planted).sum() == len(planted.pairs("train"))
    fits = popularity_fits(at(np.random.default_rng(0).normal(size=(planted.n_entities, 4))), planted)
    assert list(fits) == ["knowledge"], "no collaborative embeddings, no panel"
