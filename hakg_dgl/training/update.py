"""Going on from a run with a data set that has grown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.growth import Growth
from hakg_dgl.errors import CheckpointError, ConfigError, IntegrityError
from hakg_dgl.models.recommender import GradientRecommender
from hakg_dgl.models.settings import Settings
from hakg_dgl.settings.training import TrainingSettings
from hakg_dgl.training.closed_form import ClosedFormTrainer
from hakg_dgl.training.loading import load_trained
from hakg_dgl.training.progress import OnProgress
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.trainee import build_model
from hakg_dgl.training.trainer import Trainer
from hakg_dgl.training.warm_start import warm_start

SHARE, LEAST_EPOCHS, PATIENCE, FASTER = 12, 2, 1, 3.0
"""An update makes a twelfth of the epochs that were best for the run, at least two, stops after one evaluation without
a better one, and has three times the learning rate, unless settings are given; benchmarks/update.py measures it."""
KEPT = 0.3
"""Share of the earlier vectors in those that training begins with; the rest is drawn."""


def update_settings(run: str | Path, overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings of a run, with epochs, patience and learning rate for a training that begins near its end.

    A run that is an update itself has them already, and they stay as they are.

    Parameters
    ----------
    run
        Folder of the earlier run.
    overrides
        Settings to change, by key; those that decide the shape of the model cannot.

    Raises
    ------
    ConfigError
        For a setting that does not exist or a value that is not allowed.
    CheckpointError
        If there is no run.
    """
    settings, given = RunFolder(run).settings, dict(overrides or {})
    training = settings.training
    if isinstance(training, TrainingSettings) and not RunFolder(run).start_file.exists():
        best = int(RunFolder(run).result["best_epoch"])
        epochs = given.get("epochs", max(LEAST_EPOCHS, math.ceil(best / SHARE)))
        own = {"epochs": epochs, "patience": min(PATIENCE, training.patience), "lr": FASTER * training.lr}
        given = {**own, "eval_every": min(training.eval_every, epochs), **given}
    return settings.replace(given)


def settings_for_update(run: str | Path, assignments: Sequence[str]) -> Settings:
    """As :func:`update_settings`, from texts ``KEY=VALUE``.

    Raises
    ------
    ConfigError, CheckpointError
        As :func:`update_settings`, and if the model would be another one.
    """
    folder = RunFolder(run)
    settings = folder.settings
    changed = Settings.resolve(file=folder.config_file, overrides=list(assignments))
    if changed.kind != settings.kind:
        raise ConfigError(f"kind: {run} is a run of {settings.kind!r}, and cannot go on as {changed.kind!r}")
    given = {entry.partition("=")[0].strip().rpartition(".")[2] for entry in assignments}
    return update_settings(run, {key: changed.values()[key] for key in given if key in changed.values()})


def make_updater(
    run: str | Path,
    before: Dataset,
    growth: Growth,
    settings: Settings | None = None,
    *,
    out: str | Path | None = None,
    data_path: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Trainer | ClosedFormTrainer:
    """A trainer that goes on from a run with a grown data set; its ``fit`` is that of any trainer.

    A model that is trained by gradients begins with the vectors of the run
    (:func:`~hakg_dgl.training.warm_start.warm_start`); one in closed form is solved for anew. Terms in closed form are
    computed anew, and their weights chosen anew.

    Parameters
    ----------
    run, before
        The earlier run, and its data set.
    growth
        The grown data set, from :func:`~hakg_dgl.grow`.
    settings
        By default those of :func:`update_settings`.
    out, data_path, on_progress
        As for :class:`~hakg_dgl.Trainer`.

    Raises
    ------
    IntegrityError
        If ``before`` is not the run's data set, or the grown one did not grow from it.
    CheckpointError
        If the run is incomplete or damaged, ``out`` is the run itself, or the settings are of another model.
    ConfigError
        As the trainers do, and if the model cannot be updated.

    Examples
    --------
    >>> growth = grow(dataset, read_tables("orders.csv", items="catalog.csv"))
    >>> trainer = make_updater("run", dataset, growth, out="run2")
    >>> result = trainer.fit()
    """
    folder = RunFolder(run)
    if out is not None and Path(out).resolve() == folder.path.resolve():
        raise CheckpointError(f"{out}: is the run itself; give another folder for the updated one")
    folder.check_dataset(before)
    if growth.dataset.options.get("grown_from") != before.digest:
        raise IntegrityError(
            f"data set {growth.dataset.name!r} did not grow from that of the run",
            path=folder.path,
            remedy="Grow the data set of this run.",
        )
    settings = settings or update_settings(run)
    if settings.kind != folder.settings.kind:
        raise CheckpointError(f"{run}: is a run of {folder.settings.kind!r}, and cannot go on as {settings.kind!r}")
    arguments: dict[str, Any] = {"run": out, "data_path": data_path, "on_progress": on_progress}
    if not issubclass(settings.model_class, GradientRecommender):
        load_trained(run, before)  # for its errors: an update of what cannot be read would hide that
        return ClosedFormTrainer(growth.dataset, settings, **arguments)
    earlier = load_trained(run, before).model
    model = build_model(growth.dataset, settings, torch.device("cpu"), settings.training.training_splits)
    assert isinstance(earlier, GradientRecommender)
    assert isinstance(model, GradientRecommender)
    return Trainer(growth.dataset, settings, start=_shrunk(warm_start(earlier, model, growth), model), **arguments)


def _shrunk(start: dict[str, Tensor], model: GradientRecommender) -> dict[str, Tensor]:
    """The earlier vectors made smaller, plus what was drawn.

    Ash and Adams, "On Warm-Starting Neural Network Training", NeurIPS 2020: training that goes on from where it ended
    fits what is new less well than one from scratch does.
    """
    drawn = {name: value.detach().cpu() for name, value in model.named_parameters()}
    return {name: KEPT * value + (1.0 - KEPT) * drawn[name] for name, value in start.items()}
