"""The content of ``result.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.evaluation import Evaluator
from hakg_dgl.ranking.topk import Scorer
from hakg_dgl.settings.training import SelectionSettings
from hakg_dgl.training.circumstances import circumstances
from hakg_dgl.training.protocol import cuts, further_metrics, protocol_note


def tested(dataset: Dataset, training: SelectionSettings, scorer: Scorer) -> dict[str, float] | None:
    """Metrics on the test split, None if there is no such split."""
    if not len(dataset.pairs("test")):
        return None
    further, overlap = further_metrics(training), training.keep_overlap
    return dict(Evaluator(dataset, "test", cuts(training), also=further, keep_overlap=overlap)(scorer).metrics)


def result_of(
    dataset: Dataset,
    settings: Settings,
    data_path: str | Path | None,
    device: torch.device,
    *,
    warnings: list[str],
    best_epoch: int,
    epochs_run: int,
    stopped: str | None,
    refit: dict[str, Any] | None,
    selecting: dict[str, float],
    test: dict[str, float] | None,
    seconds: float,
    selected: dict[str, float] | None = None,
    chosen: dict[str, float] | None = None,
) -> dict[str, Any]:
    """What ``result.json`` says.

    Parameters
    ----------
    dataset, settings, data_path, device
        What was trained, on what, and where.
    warnings
        Settings that turned out to do nothing.
    best_epoch, epochs_run, stopped
        What was selected of how many, and why the search ended.
    refit
        What the model was trained on afresh; None if it was not.
    selecting, test
        Metrics on the split that selects and on the test split.
    seconds
        Spent training.
    selected
        The settings selected, of a model in closed form.
    chosen
        What the best model chose beside training (:meth:`~hakg_dgl.models.recommender.Recommender.choose`).
    """
    training = settings.training
    published = training.protocol == "published"
    return {
        "kind": settings.kind,
        "protocol": training.protocol,
        "note": protocol_note(training),
        "warnings": warnings,
        "best_epoch": best_epoch,
        "epochs_run": epochs_run,
        **({} if selected is None else {"selected": selected}),
        **({"chosen": chosen} if chosen else {}),
        "refit": refit,
        "stopped": stopped,
        "metrics": {"valid": None if published else selecting, "test": test},
        "seconds": round(seconds, 3),
        **circumstances(dataset, settings, data_path, device),
    }
