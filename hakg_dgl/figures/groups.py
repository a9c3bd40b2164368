"""Metrics by groups of users and of items, beside popularity and chance."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hakg_dgl.figures.style import CYCLE, GREY, INK, ORANGE, PALE, new_figure, styled
from hakg_dgl.ranking.evaluation import Evaluation

_COLOURS = {"popularity": ORANGE, "random": PALE}


@styled
def groups_figure(evaluations: Mapping[str, Evaluation], *, metric: str = "ndcg") -> Any:
    """A metric by activity of users, and recall by popularity of items, a bar for each scorer.

    Parameters
    ----------
    evaluations
        Name of the scorer -> its evaluation, all with groups and of the same split and users. ``popularity`` and
        ``random`` have the same colours in every picture. The first cut is shown.
    metric
        The metric that is shown for groups of users.

    Returns
    -------
    matplotlib.figure.Figure
    """
    first = next(iter(evaluations.values()))
    k = first.ks[0]
    figure, axes = new_figure(8.6, 3.5, 1, 2)
    kinds = (("user_activity", f"{metric}@{k}", "users"), ("item_popularity", f"recall@{k}", "items"))
    for panel, (kind, name, what) in zip(axes[0], kinds, strict=True):
        rows = {scorer: (found.groups or {})[kind] for scorer, found in evaluations.items()}
        _bars(panel, rows, name)
        groups = next(iter(rows.values()))
        panel.set_xticks(range(len(groups)), [_label(row, f"n_{what}", what) for row in groups])
        panel.set(title=f"By training interactions of {what}", ylabel=name)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _colours(names: Iterable[str]) -> dict[str, str]:
    """Colours of the bars: yardsticks have theirs, and the others take those that are left, one after the other."""
    free = itertools.cycle([colour for colour in CYCLE if colour not in _COLOURS.values()])
    return {name: _COLOURS.get(name) or next(free) for name in names}


def _bars(panel: Any, rows: Mapping[str, list[dict[str, Any]]], metric: str) -> None:
    width, colours = 0.8 / len(rows), _colours(rows)
    for number, (scorer, groups) in enumerate(rows.items()):
        # None where no user has a relevant item of the group
        heights = np.array([np.nan if row[metric] is None else row[metric] for row in groups], dtype=float)
        places = np.arange(len(groups)) + (number - (len(rows) - 1) / 2) * width
        panel.bar(places, heights, width * 0.92, label=scorer, color=colours[scorer], edgecolor=GREY, linewidth=0.4)
        for place, height in zip(places, heights, strict=True):
            text = "no\nuser" if np.isnan(height) else f"{height:.2f}" if height else "0"
            panel.annotate(
                text, (place, np.nan_to_num(height)), xytext=(0, 1.5), textcoords="offset points", ha="center",
                fontsize=6.5 if len(rows) <= 3 else 5.5, color=INK,
            )  # fmt: skip


def _label(row: dict[str, Any], count: str, what: str) -> str:
    low, high = row["min_train"], row["max_train"]
    bounds = f"{low:,}" if low == high else f"{low:,}–{high:,}"
    return f"{row['group']}\n{bounds}\n{row[count]:,} {what}"
