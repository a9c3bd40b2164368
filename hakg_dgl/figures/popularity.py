"""Distance to the origin against item popularity, with the exponential trend of the publication."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hakg_dgl.data.dataset import Dataset, Int64
from hakg_dgl.figures.correlation import rank_correlation
from hakg_dgl.figures.style import BLUE, RASTER_ABOVE, VERMILION, new_figure, styled
from hakg_dgl.models.positions import Float64, Positions


@dataclass(frozen=True)
class ExponentialFit:
    r"""The trend :math:`\text{popularity} = a\, e^{b\, \text{distance}}`.

    Attributes
    ----------
    scale, rate
        The numbers a and b; popular items lie closer to the origin if b is negative.
    r_squared
        The share of the variance of the logarithms that the trend explains.
    spearman
        Rank correlation of popularity and distance, which assumes no shape.
    items
        The number of items that the trend was fitted to.
    """

    scale: float
    rate: float
    r_squared: float
    spearman: float
    items: int

    def __call__(self, distance: Float64) -> Float64:
        """Popularity at distances ``[n]``."""
        return self.scale * np.exp(self.rate * distance)

    def __str__(self) -> str:
        """The trend as pictures and commands show it."""
        return (
            f"popularity = {self.formula('distance')}, R² {self.r_squared:.2f}, Spearman {self.spearman:+.2f}, "
            f"{self.items:,} items"
        )

    def formula(self, variable: str = "d") -> str:
        """The right-hand side of the trend."""
        scale = f"{self.scale:,.0f}" if 100.0 <= self.scale < 1e7 else f"{self.scale:.3g}"
        return f"{scale} exp({self.rate:.3g} {variable})"


def item_popularity(dataset: Dataset) -> Int64:
    """Training interactions of every item, int64 ``[n_items]``."""
    return np.bincount(dataset.pairs("train")[:, 1], minlength=dataset.n_items)


def fit_popularity(distance: Float64, popularity: NDArray[Any]) -> ExponentialFit | None:
    """Fit the exponential trend by least squares on the logarithm of the popularity.

    Parameters
    ----------
    distance
        float64 ``[n]``.
    popularity
        Interactions ``[n]``; items without any have no logarithm and are left out.

    Returns
    -------
    ExponentialFit or None
        None if fewer than three items are left, or all lie at one distance.
    """
    some = popularity > 0
    x, y = distance[some], np.log(popularity[some].astype(np.float64))
    if len(x) < 3 or np.ptp(x) == 0.0:
        return None
    rate, offset = np.polynomial.polynomial.polyfit(x, y, 1)[::-1]
    residual, total = y - (offset + rate * x), y - y.mean()
    explained = 1.0 - float(residual @ residual) / float(total @ total) if np.ptp(y) else 0.0
    return ExponentialFit(math.exp(offset), float(rate), explained, rank_correlation(x, y), len(x))


def popularity_fits(where: Positions, dataset: Dataset) -> dict[str, ExponentialFit | None]:
    """The trend of each embedding that items have: ``knowledge`` and ``collaborative``."""
    popularity = item_popularity(dataset)
    return {name: fit_popularity(d, popularity) for name, d in _distances(where, dataset).items()}


@styled
def popularity_figure(where: Positions, dataset: Dataset) -> Any:
    """Distance against popularity, a point an item, a panel for each embedding that items have.

    Returns
    -------
    matplotlib.figure.Figure
    """
    popularity, distances = item_popularity(dataset), _distances(where, dataset)
    some = popularity > 0
    figure, axes = new_figure(4.4 * len(distances), 3.6, 1, len(distances), like={"sharey": True})
    for panel, (name, distance) in zip(axes[0], distances.items(), strict=True):
        panel.scatter(
            distance[some], popularity[some], s=9, color=BLUE, alpha=0.4, linewidths=0,
            rasterized=bool(some.sum() > RASTER_ABOVE),
        )  # fmt: skip
        fit = fit_popularity(distance, popularity)
        title = f"{name.capitalize()} embeddings"
        if fit is not None:
            line = np.linspace(distance[some].min(), distance[some].max(), 100)
            panel.plot(line, fit(line), color=VERMILION, linewidth=1.8, label=fit.formula())
            title += f"\nR² {fit.r_squared:.2f}, Spearman {fit.spearman:+.2f}"
            panel.legend(loc="upper right")
        panel.set(title=title, xlabel="distance d to the origin", yscale="log")
        if some.any():
            panel.set_ylim(0.7 * popularity[some].min(), 1.6 * popularity[some].max())
    axes[0, 0].set_ylabel("training interactions of the item")
    return figure


def _distances(where: Positions, dataset: Dataset) -> dict[str, Float64]:
    distances = {"knowledge": where.distance(where.entity[: dataset.n_items])}
    if where.item is not None:
        distances["collaborative"] = where.distance(where.item)
    return distances
