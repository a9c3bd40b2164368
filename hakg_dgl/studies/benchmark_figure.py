"""The figure of a benchmark: how good each model is, over how long it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hakg_dgl.studies.drawing import require_matplotlib

METRIC = "ndcg@20"
_DOT, _BEST, _INK, _PALE = "#2f6ea6", "#d9772b", "#404040", "#c9c9c9"
_NEAR = 0.045
"""Share of the height of a panel below which two labels would lie on each other."""


def benchmark_figure(datasets: Sequence[Mapping[str, Any]]) -> Any:
    """NDCG@20 on the test split over the seconds of a training: a panel for each data set, a dot for each model.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot, so nothing is left open.

    Raises
    ------
    MissingDependencyError
        If Matplotlib is missing.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4 * len(datasets)), layout="constrained")
    panels = figure.subplots(len(datasets), 1, squeeze=False)[:, 0]
    for axes, data in zip(panels, datasets, strict=True):
        _panel(axes, data)
    return figure


def _panel(axes: Any, data: Mapping[str, Any]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    rows = [row for row in data["ranking"] if row["rank"] is not None]
    places = [(max(row["seconds"], 1e-3), row["metrics"][METRIC]) for row in rows]
    heights = _apart([height for _, height in places])
    for row, place, height in zip(rows, places, heights, strict=True):
        axes.scatter(*place, s=36, color=_BEST if row["rank"] == 1 else _DOT, zorder=3)
        axes.annotate(
            _plain(row["model"]), place, xytext=(1.02, height), textcoords=("axes fraction", "data"), va="center",
            fontsize=8, color=_INK, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": _PALE, "linewidth": 0.7, "shrinkB": 4}, zorder=2,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.08, y=0.08)
    axes.set_title(_plain(data["name"]), fontsize=11, loc="left")
    axes.set_xlabel("seconds to train", fontsize=9)
    axes.set_ylabel("NDCG@20 on the test split", fontsize=9)
    axes.grid(color=_PALE, linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", labelsize=8)


def _apart(values: Sequence[float]) -> list[float]:
    """The heights of labels: those of the dots, which fall from left to right, moved down where two are too close."""
    if not values:
        return []
    step = _NEAR * ((max(values) - min(values)) or 1.0)
    heights = [values[0]]
    for value in values[1:]:
        heights.append(min(value, heights[-1] - step))
    return heights


def _plain(text: str) -> str:
    """Text that Matplotlib takes for no mathematics, without control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text).replace("$", r"\$")
