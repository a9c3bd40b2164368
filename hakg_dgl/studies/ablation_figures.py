"""The study's figures; they need Matplotlib, an optional dependency (extra ``plot``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hakg_dgl.ranking.comparison import Comparison, Difference, Group
from hakg_dgl.studies.figure_files import SUFFIXES, require_matplotlib, save_figure

LEVEL = 0.05
"""Corrected p values below this are coloured."""
_BLUE, _ORANGE, _GREY, _PALE, _INK = "#2f6ea6", "#d9772b", "#7a7a7a", "#c9c9c9", "#404040"
_ON_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}


def write_figures(folder: Path, tables: Mapping[str, Comparison], layers: int) -> None:
    """Write ``ablation`` and ``depth`` as PNG and SVG, of the tables there are; earlier ones go.

    Raises
    ------
    MissingDependencyError
        If Matplotlib is missing.
    """
    require_matplotlib()
    for name in ("ablation", "depth"):
        for suffix in SUFFIXES:
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
        if name in tables:
            drawn = ablation_figure(tables[name]) if name == "ablation" else depth_figure(tables[name], layers)
            save_figure(drawn, folder / name)


def ablation_figure(table: Comparison) -> Any:
    """How far each model is from the full one, in percent of its mean: a panel a metric, a row a model.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot, so nothing is left open.
    """
    from matplotlib.figure import Figure

    labels = [group.label for group in table.groups if group.label != table.reference]
    figure = Figure(figsize=(10.0, 1.7 + 0.42 * len(labels)), layout="constrained")
    panels = figure.subplots(1, len(table.metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, table.metrics, strict=True):
        _differences(axes, table, metric, labels)
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.4, -0.6)
    _legend(figure)
    return figure


def depth_figure(table: Comparison, layers: int) -> Any:
    """Each metric by the number of layers; that of the full model is marked. Returns as :func:`ablation_figure`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    panels = figure.subplots(1, len(table.metrics), squeeze=False)[0]
    for axes, metric in zip(panels, table.metrics, strict=True):
        _by_depth(axes, table, metric, layers)
    _legend(figure, full=True)
    return figure


def _by_depth(axes: Any, table: Comparison, metric: str, layers: int) -> None:
    """One panel: means over seeds on a line, and the single runs."""
    groups = sorted(table.groups, key=_depth)
    apart = {found.group: _colour(found) for found in table.differences if found.metric == metric}
    means = [(_depth(group), group.metrics[metric].mean) for group in groups]
    axes.plot(*zip(*means, strict=True), color=_PALE, linewidth=2, zorder=1)
    beside = [height for _, height in means]
    for number, (group, place) in enumerate(zip(groups, means, strict=True)):
        axes.scatter(*place, s=70, color=apart.get(group.label, "black"), edgecolors="white", zorder=2)
        runs = [run[metric] for run in group.runs.values()]
        axes.scatter([place[0] + 0.09] * len(runs), runs, s=14, color=_GREY, alpha=0.7, linewidths=0, zorder=3)
        # Below where the line comes down to it, which would cross the text above.
        down = number > 0 and beside[number - 1] > place[1]
        axes.annotate(
            f"{place[1]:.4f}", place, xytext=(-8, -8 if down else 8), textcoords="offset points", ha="right",
            va="top" if down else "bottom", fontsize=8, color=_INK, bbox=_ON_WHITE, zorder=4,
        )  # fmt: skip
    axes.axvline(layers, color=_PALE, linewidth=1, linestyle=":", zorder=0)
    axes.set_xticks([depth for depth, _ in means])
    axes.set_xlim(means[0][0] - 0.6, means[-1][0] + 0.3)
    axes.margins(y=0.15)
    axes.set_xlabel("layers L")
    axes.set_title(_shown(metric), fontsize=11)
    _plain(axes)


def _differences(axes: Any, table: Comparison, metric: str, labels: list[str]) -> None:
    """One panel: mean and interval of each model's difference, and the single runs."""
    full = next(group for group in table.groups if group.label == table.reference)
    mean, of_full = full.metrics[metric].mean, {name: run[metric] for name, run in full.runs.items()}
    scale = 100.0 / mean if mean else 0.0
    found = {difference.group: difference for difference in table.differences if difference.metric == metric}
    runs = {group.label: group.runs for group in table.groups}
    axes.axvline(0.0, color="black", linewidth=0.8, zorder=1)
    for row, label in enumerate(labels):
        difference, colour = found[label], _colour(found[label])
        axes.plot(
            [difference.low * scale, difference.high * scale], [row, row], color=colour, linewidth=3, alpha=0.55,
            solid_capstyle="round", zorder=2,
        )  # fmt: skip
        # Beside the full model of the same seed, which began with the same values.
        each = [(run[metric] - of_full[name]) * scale for name, run in runs[label].items() if name in of_full]
        axes.scatter(each, [row] * len(each), s=14, color=_GREY, alpha=0.7, linewidths=0, zorder=3)
        axes.scatter([difference.mean * scale], [row], s=46, color=colour, edgecolors="white", zorder=4)
        axes.annotate(
            _percent(difference.mean * scale), (difference.mean * scale, row), xytext=(0, 8),
            textcoords="offset points", ha="center", fontsize=8, color=colour,
            bbox=_ON_WHITE, zorder=5,
        )  # fmt: skip
    axes.set_title(f"{_shown(metric)}  (full model: {mean:.4f})", fontsize=11)
    axes.set_xlabel("difference from the full model, %")
    axes.margins(x=0.12)
    axes.grid(axis="x", color=_PALE, linewidth=0.5)
    _plain(axes)


def _legend(figure: Any, *, full: bool = False) -> None:
    from matplotlib.lines import Line2D

    def dot(colour: str, label: str, size: int = 7) -> Line2D:
        return Line2D([], [], color=colour, label=label, marker="o", markersize=size, linestyle="none")

    handles = [
        *([dot("black", "full model")] if full else []),
        dot(_ORANGE, "worse"),
        dot(_BLUE, "better"),
        dot(_GREY, f"may be chance (p ≥ {LEVEL:g})"),
        *([] if full else [Line2D([], [], color=_GREY, linewidth=3, alpha=0.55, label="95% interval over users")]),
        dot(_GREY, "single runs" if full else "runs, seed by seed", 3),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)


def _colour(found: Difference) -> str:
    if found.p_bootstrap_holm >= LEVEL:
        return _GREY
    return _BLUE if found.mean > 0 else _ORANGE


def _depth(group: Group) -> int:
    """The number that its label holds."""
    return int("".join(letter for letter in group.label if letter.isdigit()))


def _percent(value: float) -> str:
    """With a sign, but where it rounds to nothing."""
    text = f"{value:+.1f}%".replace("-", "−")
    return text[1:] if text[1:] == "0.0%" else text


def _shown(metric: str) -> str:
    name, _, cut = metric.partition("@")
    return f"{name.upper() if name in ('ndcg', 'mrr') else name.capitalize()}@{cut}"


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
