"""The audit's figure: each metric over the share of true facts, beside shuffled facts. It needs Matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hakg_dgl.ranking.comparison import Comparison, Difference, Group
from hakg_dgl.studies.audit_verdict import LEVEL, direction, shown_metric
from hakg_dgl.studies.audited_facts import LABELS, SHUFFLED, TRUE
from hakg_dgl.studies.drawing import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PALE,
    plain_axes,
    remove_figure,
    require_matplotlib,
    save_figure,
)

NAME = "audit"
_SHUFFLED_AT = 1.22
"""Where shuffled facts stand on the axis of shares, to the right of all facts."""


def write_figure(folder: Path, tables: Mapping[str, Comparison], shares: Mapping[str, float]) -> None:
    """Write ``audit`` as PNG and SVG if there is a table; an earlier one goes.

    Raises
    ------
    MissingDependencyError
        If Matplotlib is missing.
    """
    require_matplotlib()
    remove_figure(folder / NAME)
    if tables:
        save_figure(audit_figure(tables, shares), folder / NAME)


def audit_figure(tables: Mapping[str, Comparison], shares: Mapping[str, float]) -> Any:
    """A row for each segment, a panel for each metric.

    Parameters
    ----------
    tables
        Label of a segment -> its comparison with the true facts.
    shares
        Label of facts -> the share of the true facts that are among them.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot, so nothing is left open.
    """
    from matplotlib.figure import Figure

    metrics = next(iter(tables.values())).metrics
    figure = Figure(figsize=(10.0, 0.9 + 2.5 * len(tables)), layout="constrained")
    panels = figure.subplots(len(tables), len(metrics), squeeze=False)
    for row, (segment, table) in zip(panels, tables.items(), strict=True):
        for axes, metric in zip(row, metrics, strict=True):
            _panel(axes, table, metric, shares)
            axes.set_title(f"{shown_metric(metric)}, {segment}", fontsize=9, loc="left")
    for axes in panels[-1]:
        axes.set_xlabel("share of the true facts, and shuffled facts")
    _legend(figure)
    return figure


def _panel(axes: Any, table: Comparison, metric: str, shares: Mapping[str, float]) -> None:
    """Means over seeds on a line, the interval of each difference from the true facts, and the single runs."""
    groups = {group.label: group for group in table.groups}
    apart = {found.group: found for found in table.differences if found.metric == metric}
    true = groups[LABELS[TRUE]].metrics[metric].mean
    thinned = sorted((shares[label], label) for label in groups if label != LABELS[SHUFFLED])
    axes.plot(
        [at for at, _ in thinned], [groups[label].metrics[metric].mean for _, label in thinned], color=PALE,
        linewidth=2, zorder=1,
    )  # fmt: skip
    axes.axhline(true, color=PALE, linewidth=1, linestyle=":", zorder=0)
    places = [*thinned, *([(_SHUFFLED_AT, LABELS[SHUFFLED])] if LABELS[SHUFFLED] in groups else [])]
    for at, label in places:
        _point(axes, at, groups[label], metric, true, table, apart.get(label))
    axes.set_xticks([at for at, _ in places], [_tick(label, at) for at, label in places])
    axes.margins(x=0.06, y=0.15)
    plain_axes(axes)


def _point(
    axes: Any, at: float, group: Group, metric: str, true: float, table: Comparison, found: Difference | None
) -> None:
    """A kind of facts: its mean, the interval of its difference set on the mean of the true facts, and its runs."""
    colour = "black" if found is None else {-1: ORANGE, 0: GREY, 1: BLUE}[direction(table, found)]
    if found is not None:
        axes.plot(
            [at, at], [true + found.low, true + found.high], color=colour, linewidth=3, alpha=0.55,
            solid_capstyle="round", zorder=2,
        )  # fmt: skip
    axes.scatter([at], [group.metrics[metric].mean], s=46, color=colour, edgecolors="white", zorder=4)
    runs = [run[metric] for run in group.runs.values()]
    axes.scatter([at + 0.025] * len(runs), runs, s=12, color=INK, alpha=0.6, linewidths=0, zorder=3)


def _tick(label: str, at: float) -> str:
    return "shuffled" if label == LABELS[SHUFFLED] else f"{at:.0%}"


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    def dot(colour: str, label: str, size: int = 7) -> Line2D:
        return Line2D([], [], color=colour, label=label, marker="o", markersize=size, linestyle="none")

    handles = [
        dot("black", "true facts"),
        dot(ORANGE, "worse than with them"),
        dot(BLUE, "better"),
        dot(GREY, f"may be chance (corrected p ≥ {LEVEL:g})"),
        Line2D([], [], color=GREY, linewidth=3, alpha=0.55, label="95% interval of the difference, over users"),
        dot(INK, "single runs", 3),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
