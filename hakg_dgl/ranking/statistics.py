"""Statistics of per-user metrics: bootstrap over users, paired tests, correction for several comparisons.

Every function works on columns: ``[n, m]`` holds ``m`` quantities of ``n`` users, and the answer has one entry for each
column. docs/comparing.md says what the numbers mean.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hakg_dgl.errors import ConfigError, DataError

FloatArray: TypeAlias = NDArray[np.float64]
PairedTest = Literal["t", "wilcoxon"]

USERS_PER_BLOCK = 1 << 14
DRAWS_AT_ONCE = 1 << 17
"""Draws that are counted at once; their counts take 1 MiB and stay in the cache."""
TIE = 1e-12
"""Differences up to this are ties, because means over seeds of equal metrics differ by rounding."""


def bootstrap_means(
    values: ArrayLike, resamples: int, generator: np.random.Generator, *, draws_at_once: int = DRAWS_AT_ONCE
) -> FloatArray:
    r"""Means of ``n`` users drawn with replacement, one mean for each resample.

    .. math:: m^*_b = \frac1n \sum_u c_{bu} x_u, \qquad c_b \sim \mathrm{Multinomial}(n; 1/n, \dots, 1/n)

    (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 6.) A resample draws the same users for all
    columns, so what is paired stays paired. The function first draws how many of the ``n`` fall into each block of
    users, and then which users within it. The distribution is the same, and the memory depends on neither ``n`` nor
    ``resamples``.

    Parameters
    ----------
    values
        The table ``[n, m]``, float64.
    resamples
        The number of means, at least 1.
    generator
        The source of the draws.
    draws_at_once
        The approximate number of draws at once; it changes nothing in the result but rounding.

    Returns
    -------
    NDArray
        ``[resamples, m]`` float64.

    Raises
    ------
    ConfigError
        If ``resamples`` is below 1.
    DataError
        If ``values`` is not a table of finite numbers of at least 2 users.
    """
    table = _checked(values)
    if resamples < 1:
        raise ConfigError(f"resamples is {resamples}; it must be at least 1")
    n = len(table)
    blocks = np.array_split(table, -(-n // USERS_PER_BLOCK))
    sizes = np.array([len(block) for block in blocks])
    drawn = generator.multinomial(n, sizes / n, size=resamples)
    sums = np.zeros((resamples, table.shape[1]))
    for block, draws in zip(blocks, drawn.T, strict=True):
        rows = max(1, draws_at_once // len(block))
        for start in range(0, resamples, rows):
            part = slice(start, start + rows)
            sums[part] += _counts(len(block), draws[part], generator) @ block
    return sums / n


def _counts(n_users: int, draws: NDArray[np.int64], generator: np.random.Generator) -> FloatArray:
    """Counts ``[len(draws), n_users]`` of how often each user is drawn; row ``b`` draws ``draws[b]`` times."""
    users = generator.integers(n_users, size=draws.sum(), dtype=np.int32)
    cells = users + np.repeat(n_users * np.arange(len(draws)), draws)
    return np.bincount(cells, minlength=len(draws) * n_users).reshape(len(draws), n_users).astype(np.float64)


def percentile_intervals(means: FloatArray, level: float = 0.95) -> FloatArray:
    """Low and high ends ``[2, m]`` of the percentile intervals of resampled means ``[resamples, m]``.

    The ends are the ``(1 - level) / 2`` and ``(1 + level) / 2`` quantiles (Efron and Tibshirani, section 13.3).

    Raises
    ------
    ConfigError
        If ``level`` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ConfigError(f"level is {level}; it must be between 0 and 1, such as 0.95")
    ends: FloatArray = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return ends


def bootstrap_p_values(means: FloatArray, observed: FloatArray) -> FloatArray:
    r"""Two-sided p values ``[m]`` of the hypothesis that the mean is zero, from resampled means ``[resamples, m]``.

    .. math:: p = \frac{1 + \#\{b : |m^*_b - m| \ge |m|\}}{1 + B}

    The resampled means, shifted by the observed mean ``m``, are what chance gives if the true mean is zero (Noreen,
    *Computer-Intensive Methods for Testing Hypotheses*, 1989). The ones in the formula keep p above zero, because B
    resamples cannot show less than 1 / (B + 1).
    """
    reached = np.abs(means - observed) >= np.abs(observed) * (1 - 1e-9)  # equal but for rounding is reached
    p: FloatArray = (1 + reached.sum(0)) / (1 + len(means))
    return p


def paired_p_values(differences: ArrayLike, test: PairedTest = "t") -> FloatArray:
    """Two-sided p values ``[m]`` of paired differences ``[n, m]``, computed by SciPy.

    Parameters
    ----------
    differences
        One row for each user, float64.
    test
        ``t`` for Student's paired t-test of the mean, ``wilcoxon`` for the signed-rank test of the ranks of the
        differences without zeros.

    Returns
    -------
    NDArray
        P values ``[m]``, float64; 1 for a column without any difference.

    Raises
    ------
    ConfigError
        If there is no such test.
    DataError
        If ``differences`` is not a table of finite numbers of at least 2 users.
    """
    table = _checked(differences)
    if test not in ("t", "wilcoxon"):
        raise ConfigError(f"there is no test {test!r}; choose from t, wilcoxon")
    table = np.where(np.abs(table) <= TIE, 0.0, table)
    run: Any = _t_test if test == "t" else stats.wilcoxon
    with warnings.catch_warnings():  # SciPy warns of differences that are nearly all equal
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.array([run(column).pvalue if column.any() else 1.0 for column in table.T], dtype=np.float64)


def _t_test(differences: FloatArray) -> Any:
    return stats.ttest_1samp(differences, 0.0)


def holm(p_values: ArrayLike) -> FloatArray:
    r"""P values corrected for their number, so that the chance of any false alarm among them stays what p says.

    With :math:`p_{(1)} \le \dots \le p_{(m)}`, the i-th becomes
    :math:`\max_{j \le i} \min(1, (m - j + 1)\, p_{(j)})` (Holm, Scandinavian Journal of Statistics 6(2), 1979).

    Parameters
    ----------
    p_values
        P values ``[m]``, in any order.

    Returns
    -------
    NDArray
        Corrected p values ``[m]``, float64, in the given order.

    Raises
    ------
    DataError
        If a p value is not between 0 and 1.
    """
    p = np.asarray(p_values, dtype=np.float64).ravel()
    if not ((p >= 0) & (p <= 1)).all():
        raise DataError(f"p values must be between 0 and 1, not {p[~((p >= 0) & (p <= 1))][0]}")
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1.0)
    return corrected


def wins_ties_losses(differences: ArrayLike) -> NDArray[np.int64]:
    """Numbers of users with a difference above zero, of zero (within rounding) and below zero.

    The result is int64 ``[3, m]`` for differences ``[n, m]``.
    """
    table = np.asarray(differences, dtype=np.float64)
    wins, losses = (table > TIE).sum(0), (table < -TIE).sum(0)
    return np.stack([wins, len(table) - wins - losses, losses]).astype(np.int64)


def _checked(values: ArrayLike) -> FloatArray:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or len(table) < 2:
        raise DataError(f"values have shape {table.shape}; statistics over users need [n, m] with at least 2 users")
    if not np.isfinite(table).all():
        raise DataError("a value is NaN or infinite; leave such users out")
    return table
