"""The best model of a run, ready to rank."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hakg_dgl.data.dataset import Dataset, load_dataset
from hakg_dgl.data.new_items import NewItems
from hakg_dgl.errors import CheckpointError, ConfigError
from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.models.recommender import Recommender
from hakg_dgl.models.registry import models_that
from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.fold_in import FoldIn
from hakg_dgl.ranking.topk import Scorer
from hakg_dgl.training.model_file import ModelFiles, load_model_metadata, read_model
from hakg_dgl.training.run_folder import RunFolder, damaged, settings_differences
from hakg_dgl.training.trainee import build_model

_SPLITS = (["train"], ["train", "valid"])


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """The best model of a run as it was at one moment, though training may replace it at any other.

    Attributes
    ----------
    model
        Ready to rank.
    splits
        Splits whose interactions it was trained on and propagates over.
    epoch
        The epoch, or the choice of settings, that was kept; None if the file does not say.
    settings
        Of the run.
    """

    model: Recommender
    splits: tuple[str, ...]
    epoch: int | None
    settings: Settings


def load_trained(
    run: str | Path, dataset: Dataset, *, device: torch.device | str = "cpu", new_items: NewItems | None = None
) -> TrainedModel:
    """The best model of a run with what is known of it, from one reading of its file.

    Parameters and errors are those of :func:`load_model`.
    """
    folder = RunFolder(run)
    folder.check_dataset(dataset)
    settings = folder.settings

    def made(files: ModelFiles) -> TrainedModel:
        refuse_changed(folder, settings, files.about)
        splits, epoch = splits_of(folder, files.about), files.about.get("epoch")
        model = build_model(dataset, settings, torch.device(device), splits)
        _fill(model, files, folder)
        if new_items is not None:
            model = _with_new_items(model, new_items, splits, folder)
        return TrainedModel(model, splits, epoch if isinstance(epoch, int) else None, settings)

    return read_model(folder, made)


def load_model(
    run: str | Path, dataset: Dataset, *, device: torch.device | str = "cpu", new_items: NewItems | None = None
) -> Recommender:
    """The best model of a run, ready to rank.

    Parameters
    ----------
    run
        Folder written by training.
    dataset
        The data set it was trained on.
    device
        Where the model shall lie.
    new_items
        Items that the data set does not have, of :func:`~hakg_dgl.data.new_items.read_new_items`; the model ranks them
        by their facts, and all numbers are those of ``new_items.dataset``.

    Raises
    ------
    ConfigError
        If there are new items and the model needs training for them.
    IntegrityError
        If the run belongs to another data set.
    CheckpointError
        If the run is incomplete, its files are damaged, or ``config.toml`` is not that of the model.
    """
    return load_trained(run, dataset, device=device, new_items=new_items).model


def load_scorer(
    run: str | Path, dataset: Dataset, *, device: torch.device | str = "cpu", new_items: NewItems | None = None
) -> Scorer:
    """The best model of a run, as a scorer; parameters and errors are those of :func:`load_model`."""
    return load_model(run, dataset, device=device, new_items=new_items).scorer()


def open_scorer(run: str | Path, data: str | Path) -> Scorer:
    """The best model of a run as a scorer on the CPU, by the places of both; errors as :func:`load_model`."""
    return load_scorer(run, load_dataset(data))


def load_fold_in(
    run: str | Path, dataset: Dataset, *, device: torch.device | str = "cpu", new_items: NewItems | None = None
) -> FoldIn:
    """The best model of a run, ready to score users by their items alone.

    Parameters are those of :func:`load_model`.

    Returns
    -------
    FoldIn
        Its ``scorer(indptr, items)`` scores new users; docs/recommending.md defines how. For models with vectors it is
        an :class:`~hakg_dgl.ranking.fold_in.EmbeddingFoldIn`, whose ``fold_in(indptr, items)`` gives their vectors.

    Raises
    ------
    ConfigError
        If new users of this model need training.
    IntegrityError, CheckpointError
        As :func:`load_model`.

    Examples
    --------
    >>> fold = load_fold_in("run", dataset)
    >>> recommend(fold.scorer([0, 2], [5, 17]), [0], k=10, seen=([0, 2], [5, 17]))
    """
    return fold_in_of(load_model(run, dataset, device=device, new_items=new_items), run)


def fold_in_of(model: Recommender, run: str | Path) -> FoldIn:
    """The fold-in of a model; ConfigError that names the run if new users need training."""
    try:
        return model.fold_in()
    except ConfigError as error:
        raise ConfigError(f"{run}: {error}; train on a data set with them, or take another model (--model)") from error


def _with_new_items(model: Recommender, new_items: NewItems, splits: tuple[str, ...], folder: RunFolder) -> Recommender:
    if not model.abilities.new_items:
        able = ", ".join(models_that("new_items"))
        raise ConfigError(
            f"{folder.path}: model {model.name!r} knows nothing of items that it was not trained on; models that rank "
            f"them by their facts: {able}"
        )
    return model.with_new_items(build_graph(new_items.dataset, splits).to(model.device))


def model_splits(folder: RunFolder) -> tuple[str, ...]:
    """Splits whose interactions the best model of a run was trained on and propagates over.

    Raises
    ------
    CheckpointError
        If there is no model, or it is damaged.
    """
    return splits_of(folder, load_model_metadata(folder))


def splits_of(folder: RunFolder, about: dict[str, Any]) -> tuple[str, ...]:
    """Those in the metadata of a model; CheckpointError if there are none."""
    splits = about.get("splits")
    if splits not in _SPLITS:
        raise damaged(folder.model_place, f"its splits are {splits!r}")
    return tuple(splits)


def refuse_changed(folder: RunFolder, settings: Settings, about: dict[str, Any]) -> None:
    """Raise CheckpointError if ``config.toml`` is not that of the model, as far as that decides how it ranks."""
    decisive = {key for name in ("model", "run") for key in getattr(settings, name).decisive_keys()}
    free = set(settings.by_section()) - decisive - {"protocol"}
    try:
        different = settings_differences(about["settings"], settings, free)
    except (KeyError, TypeError, AttributeError, ConfigError) as error:
        raise damaged(folder.model_place, error) from error
    if different:
        raise CheckpointError(
            f"{folder.config_file}: was changed after training: {', '.join(different)}; set it back, or train again"
        )


def _fill(model: Recommender, files: ModelFiles, folder: RunFolder) -> None:
    """Give a model its trained tensors, and make it ready to rank; CheckpointError if they do not fit."""
    try:
        if type(model).load_tensors is Recommender.load_tensors:
            files.fill(model.tensors())
        else:
            model.load_tensors(files.tensors())
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{folder.model_place}: does not fit {folder.config_file}: {error}; train again, or restore it"
        ) from error
    model.eval()
