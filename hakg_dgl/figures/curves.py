"""Training curves: the loss and the metrics of the validation, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from hakg_dgl.figures.style import BLUE, CYCLE, GREY, ORANGE, new_figure, styled

_NO_METRICS = {"epoch", "seconds", "loss", "split", "refit"}


def curve_table(lines: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Lines of ``metrics.jsonl`` as a table with the columns ``epoch``, ``loss``, ``refit`` and the metrics.

    Missing values are NaN; ``refit`` counts the epochs of the training on train and validation, NaN before.
    """
    columns = ["epoch", "loss", "refit", *metric_names(lines)]
    return pd.DataFrame({name: [line.get(name) for line in lines] for name in columns}, dtype=np.float64)


def metric_names(lines: Sequence[dict[str, Any]]) -> list[str]:
    """The metrics that the lines hold, such as ``ndcg@20``, in their order."""
    names = dict.fromkeys(name for line in lines for name in line if name not in _NO_METRICS)
    return [name for name in names if "@" in name]


@styled
def curves_figure(lines: Sequence[dict[str, Any]], *, best_epoch: int | None = None, select_by: str = "") -> Any:
    """Loss on the left, metrics on the right; the phase after a refit is shaded, the chosen epoch is marked.

    Parameters
    ----------
    lines
        Lines of ``metrics.jsonl``, at least one.
    best_epoch
        The epoch that was kept.
    select_by
        The metric that chose it, drawn thicker.

    Returns
    -------
    matplotlib.figure.Figure
    """
    table, names = curve_table(lines), metric_names(lines)
    split = next((line["split"] for line in lines if "split" in line), None)
    with_loss = bool(table["loss"].notna().any())
    figure, axes = new_figure(8.6 if with_loss else 5.0, 3.4, 1, 1 + with_loss)
    if with_loss:
        panel = axes[0, 0]
        for phase in (table["refit"].isna(), table["refit"].notna()):
            few = "." if phase.sum() < 3 else None
            panel.plot(table["epoch"][phase], table["loss"][phase], color=BLUE, linewidth=1.6, marker=few)
        panel.set(title="Loss a step, mean over the epoch", xlabel="epoch", ylabel="loss")
    panel = axes[0, -1]
    for number, name in enumerate(names):
        measured = table[["epoch", name]].dropna()
        chosen = name == select_by
        panel.plot(
            measured["epoch"], measured[name], color=CYCLE[number % len(CYCLE)], linewidth=2.2 if chosen else 1.1,
            linestyle="-" if number < len(CYCLE) else "--", marker="." if len(measured) < 3 else None,
            label=f"{name} (selects)" if chosen else name,
        )  # fmt: skip
    on = {"valid": "validation", "test": "test"}.get(str(split), str(split))
    panel.set(title=f"Metrics on the {on} split" if names else "No metrics", xlabel="epoch", ylabel="mean over users")
    panel.set_ylim(bottom=0.0)
    _mark(axes[0], table, best_epoch)
    if names or best_epoch:
        panel.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _mark(panels: Any, table: pd.DataFrame, best_epoch: int | None) -> None:
    """The chosen epoch as a line, the refit as a shade."""
    again = table.loc[table["refit"].notna(), "epoch"]
    for panel in panels:
        if best_epoch is not None:
            panel.axvline(best_epoch, color=GREY, linestyle=":", linewidth=1.2, label=f"chosen: epoch {best_epoch}")
        if len(again):
            panel.axvspan(
                again.min() - 0.5, again.max() + 0.5, color=ORANGE, alpha=0.15, linewidth=0,
                label="refit on train\nand validation",
            )  # fmt: skip
        panel.xaxis.get_major_locator().set_params(integer=True)
