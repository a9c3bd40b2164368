"""The figure of a benchmark: how good each model is, over how long it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hakg_dgl.studies.drawing import require_matplotlib

METRIC = "ndcg@20"
_FRONT, _BEHIND, _BEST, _INK, _PALE = "#2f6ea6", "#a9c3da", "#d9772b", "#404040", "#c9c9c9"
_LINE, _LEAST, _MARGIN = 0.165, 4.4, 1.1
"""Inches: a label's height, the least height of a panel, and what of it is not the plot."""
_FAR_BELOW = 0.5
"""Share of the best NDCG@20 below which a model stands at the lower end, with its number: it would flatten the rest."""


def benchmark_figure(datasets: Sequence[Mapping[str, Any]]) -> Any:
    """NDCG@20 on the test split over the seconds of a training: a panel for each data set, a dot for each model.

    Dark dots are the models that no other one beats in both. A triangle at the lower end is a model with less than half
    of the best NDCG@20, which its label has.

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

    ranked = [[row for row in data["ranking"] if row["rank"] is not None] for data in datasets]
    heights = [max(_LEAST, _LINE * len(rows) + _MARGIN) for rows in ranked]
    figure = Figure(figsize=(6.4, sum(heights)), layout="constrained")
    panels = figure.subplots(len(datasets), 1, squeeze=False, height_ratios=heights or None)[:, 0]
    for axes, data, rows, height in zip(panels, datasets, ranked, heights, strict=True):
        _dots(axes, rows, height - _MARGIN)
        _frame(axes, _plain(data["name"]))
    return figure


def _dots(axes: Any, rows: Sequence[Mapping[str, Any]], inches: float) -> None:
    """Dots and labels of a panel whose plot is so high; ``rows`` by rank, the best first."""
    if not rows:
        return
    values = [row["metrics"][METRIC] for row in rows]
    seconds = [max(row["seconds"], 1e-3) for row in rows]
    near = [value for value in values if value >= _FAR_BELOW * values[0]]
    span = (near[0] - near[-1]) or near[0] or 1.0
    lowest, highest = near[-1] - 0.12 * span, near[0] + 0.06 * span
    axes.set_ylim(lowest, highest)
    bottom = lowest + 0.04 * span
    heights = _apart([max(value, bottom) for value in values], _LINE / inches * (highest - lowest), lowest)
    for at, (row, value, height) in enumerate(zip(rows, values, heights, strict=True)):
        far, front = value < near[-1], all(later > seconds[at] for later in seconds[:at])
        colour = _BEST if row["rank"] == 1 else _FRONT if front else _BEHIND
        place = seconds[at], bottom if far else value
        axes.scatter(*place, s=36, marker="v" if far else "o", color=colour, zorder=3)
        axes.annotate(
            _plain(row["model"]) + (f" ({value:.4f})" if far else ""), place, xytext=(1.02, height),
            textcoords=("axes fraction", "data"), va="center", fontsize=8, color=_INK, annotation_clip=False, zorder=2,
            arrowprops={"arrowstyle": "-", "color": _PALE, "linewidth": 0.7, "shrinkB": 4, "relpos": (0.0, 0.5)},
        )  # fmt: skip


def _frame(axes: Any, name: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.08)
    axes.set_title(name, fontsize=11, loc="left")
    axes.set_xlabel("seconds to train (dark: no other model is both better and faster)", fontsize=9)
    axes.set_ylabel("NDCG@20 on the test split", fontsize=9)
    axes.grid(color=_PALE, linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", labelsize=8)


def _apart(values: Sequence[float], step: float, lowest: float) -> list[float]:
    """Heights of labels, ``step`` apart and, where there is room, above ``lowest``; ``values`` fall or stay."""
    heights: list[float] = []
    for value in values:
        heights.append(min(value, heights[-1] - step) if heights else value)
    for at in reversed(range(len(heights))):
        floor = lowest if at == len(heights) - 1 else heights[at + 1] + step
        heights[at] = max(heights[at], floor)
    return heights


def _plain(text: str) -> str:
    """Text that Matplotlib takes for no mathematics, without control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text).replace("$", r"\$")
