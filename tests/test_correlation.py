"""Rank correlation, where it is and where it is not defined."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hakg_dgl.figures.correlation import rank_correlation


def test_orders_are_compared_not_values() -> None:
    x = np.arange(5.0)
    assert rank_correlation(x, np.exp(x)) == pytest.approx(1.0)
    assert rank_correlation(x, -(x**3)) == pytest.approx(-1.0)
    assert rank_correlation(np.array([0, 0, 1, 1]), np.arange(4)) == pytest.approx(2.0 / math.sqrt(5.0)), "ties"


@pytest.mark.parametrize(("x", "y"), [([], []), ([1.0], [2.0]), ([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [3.0, 3.0])])
def test_it_is_not_defined_without_two_values_on_each_side(x: list[float], y: list[float]) -> None:
    assert math.isnan(rank_correlation(np.array(x), np.array(y)))
