"""Curves of a training."""

from __future__ import annotations

import pytest

from hakg_dgl.figures.curves import curve_table, curves_figure, metric_names

pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")


def test_curves_know_epochs_without_metrics_and_the_refit() -> None:
    lines = [
        {"epoch": 1, "seconds": 0.1, "loss": 2.0, "split": "valid", "ndcg@20": 0.1},
        {"epoch": 2, "seconds": 0.1, "loss": 1.0},
        {"epoch": 3, "seconds": 0.1, "loss": 3.0, "refit": 1},
    ]
    assert metric_names(lines) == ["ndcg@20"]
    table = curve_table(lines)
    assert table["loss"].tolist() == [2.0, 1.0, 3.0]
    assert table["refit"].isna().tolist() == [True, True, False]
    figure = curves_figure(lines, best_epoch=1, select_by="ndcg@20")
    text = {label.get_text() for label in figure.axes[1].get_legend().get_texts()}
    assert text == {"ndcg@20 (selects)", "chosen: epoch 1", "refit on train\nand validation"}


def test_a_model_in_closed_form_has_curves_without_a_loss() -> None:
    lines = [{"epoch": 1, "seconds": 0.1, "neighbours": 10, "split": "valid", "recall@20": 0.3}]
    assert metric_names(lines) == ["recall@20"]
    assert len(curves_figure(lines).axes) == 1
