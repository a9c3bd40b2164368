"""Rank correlation."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from scipy.stats import spearmanr


def rank_correlation(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Spearman's rank correlation, ties with their mean rank; NaN where either side is constant or shorter than 2."""
    if len(x) < 2 or (x == x[0]).all() or (y == y[0]).all():
        return float("nan")
    return float(spearmanr(x, y).statistic)
