"""The state of training at the end of an epoch or within one: all that resuming needs, in one file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import CheckpointError, ConfigError, FormatVersionError
from hakg_dgl.models.settings import Settings
from hakg_dgl.training.run_folder import RunFolder, settings_differences
from hakg_dgl.training.sharded_state import load_index, load_sharded, remove_shards
from hakg_dgl.training.trainee import BATCHES, Trainee

STATE_FORMAT_VERSION = 1
STATE_SHARE = 0.05
"""Largest share of the time that writing the state may take."""
STATE_AGE = 300.0
"""Seconds since the state was last written after which it is written within an epoch too."""

Weights = dict[str, Tensor]


@dataclass
class Standing:
    """Where training stands, apart from tensors.

    Attributes
    ----------
    epoch
        The last one done, 0 before the first.
    best_epoch, best_value, best_metrics
        Of the best evaluation so far; 0, None and empty before the first.
    best_learned
        The best value of the score without its linear term so far, None where that is the whole score.
    worse
        Evaluations since either of them was better than before.
    seconds, search_seconds
        Spent in epochs, and in those before the refit.
    refit_from
        The last epoch before the refit began, None until then.
    step, step_loss, step_seconds
        Steps done of the next epoch, the sum of their losses, and their time.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_value: float | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    best_learned: float | None = None
    worse: int = 0
    seconds: float = 0.0
    search_seconds: float = 0.0
    refit_from: int | None = None
    step: int = 0
    step_loss: float = 0.0
    step_seconds: float = 0.0
    chosen: dict[str, float] = field(default_factory=dict)


class Checkpoint:
    """Saves and restores what changes during training.

    The state holds the best weights too, where they are not the last: ``model.safetensors`` may come from an epoch
    after that of the state, whose weights a continued run need not reach again.

    Parameters
    ----------
    folder, settings
        Of the run.
    trainee
        What is saved, and changed in place when restoring.
    """

    def __init__(self, folder: RunFolder, settings: Settings, trainee: Trainee) -> None:
        self.folder: RunFolder = folder
        self.settings: Settings = settings
        self.trainee: Trainee = trainee
        self._written, self._cost = time.monotonic(), 0.0

    @property
    def age(self) -> float:
        """Seconds since the state was last written, or since the beginning."""
        return time.monotonic() - self._written

    @property
    def affordable(self) -> bool:
        """Whether the last write is so long ago that another one takes a small share of the time."""
        return self.age * STATE_SHARE >= self._cost

    def save(self, standing: Standing, best: Weights, *, force: bool = False, order: Tensor | None = None) -> bool:
        """Write the state, unless the last write was too short a while ago to afford one; whether it was written.

        A run killed after a skipped write resumes from an earlier epoch and repeats the epochs since.

        Parameters
        ----------
        standing, best
            Where training stands, and the best weights so far.
        force
            Write in any case.
        order
            Within an epoch, the state of the batches' generator at the beginning of the pass.
        """
        began = time.monotonic()
        if not force and not self.affordable:
            return False
        self._write(self.folder.state_file, standing, best, order)
        self.note_written(began)
        return True

    def note_written(self, began: float) -> None:
        """Note when a state was written whose writing began then."""
        self._written = time.monotonic()
        self._cost = self._written - began

    def keep_search(self, standing: Standing, best: Weights) -> None:
        """Write the state of a search that is over, from which it goes on if there are more epochs one day."""
        self._write(self.folder.search_file, standing, best, None)

    def _write(self, file: Path, standing: Standing, best: Weights, order: Tensor | None) -> None:
        tensors = self.tensors(standing, best, order)
        self.folder.sync_metrics()
        self.folder.save_tensors(file, tensors, self.about(standing))
        remove_shards(self.folder, "state" if file == self.folder.state_file else "search")

    def tensors(self, standing: Standing, best: Weights, order: Tensor | None = None) -> Weights:
        """All tensors of a state."""
        tensors = _prefixed("model", self.trainee.model.state_dict())
        if best and (standing.step or standing.best_epoch != standing.epoch):
            tensors |= _prefixed("best", best)
        for key, optimizer in self.trainee.optimizers.items():
            for index, slots in optimizer.state_dict()["state"].items():
                tensors |= _prefixed(f"optimizer.{key}.{index}", {n: torch.as_tensor(slots[n]) for n in slots})
        random = {name: generator.get_state() for name, generator in self.trainee.generators.items()}
        if order is not None:
            random[BATCHES] = order
        return tensors | _prefixed("random", random)

    def about(self, standing: Standing) -> dict[str, Any]:
        """The metadata of a state."""
        return {
            "format_version": STATE_FORMAT_VERSION,
            "settings": self.settings.to_dict(),
            "device": self._device,
            "standing": asdict(standing),
        }

    def exists(self) -> bool:
        """Whether there is a saved state."""
        return self.folder.state_file.exists() or self.folder.state_index_file.exists()

    def _load(self, file: Path) -> tuple[Weights, dict[str, Any]]:
        if file in (self.folder.state_index_file, self.folder.search_index_file):
            return load_sharded(file, self.folder)
        return self.folder.load_tensors(file)

    @property
    def _state_file(self) -> Path:
        """The state, or the index of its files. Where a kill left both, training goes on from either alike."""
        index = self.folder.state_index_file
        return index if index.exists() else self.folder.state_file

    @property
    def search_file(self) -> Path:
        """The search that a refit followed, or the index of its files."""
        index = self.folder.search_index_file
        return index if index.exists() else self.folder.search_file

    def saved_standing(self, file: Path | None = None) -> Standing:
        """Where training stood when the state (or another file) was saved; errors as :meth:`restore`."""
        file = file or self._state_file
        is_index = file in (self.folder.state_index_file, self.folder.search_index_file)
        about = load_index(file, self.folder)["metadata"] if is_index else self.folder.load_metadata(file)
        return self._checked(file, about)

    def restore(self, file: Path | None = None) -> tuple[Standing, Weights]:
        """Set everything back to a saved state; where training stood, and the best weights until then.

        Parameters
        ----------
        file
            The state; that of the run by default.

        Raises
        ------
        CheckpointError
            If the file is damaged, or of a run with other settings or on another kind of device.
        FormatVersionError
            If a newer version wrote it.
        """
        file = file or self._state_file
        tensors, about = self._load(file)
        standing = self._checked(file, about)
        try:
            best = self._restore_tensors(tensors)
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(f"{file}: does not fit this run: {error}; train again") from error
        if standing.best_epoch == standing.epoch and not standing.step and standing.refit_from is None:
            best = copied(self.trainee.model)
        if standing.best_epoch and not best and standing.refit_from is None:
            raise CheckpointError(f"{file}: lacks the best weights, of epoch {standing.best_epoch}; train again")
        return standing, best

    def _checked(self, file: Path, about: Mapping[str, Any]) -> Standing:
        """The standing in a state's metadata, if that is of this run."""
        version = about.get("format_version")
        if isinstance(version, int) and version > STATE_FORMAT_VERSION:
            raise FormatVersionError(
                f"state format {version}, this version reads up to {STATE_FORMAT_VERSION}",
                path=file,
                remedy="Install a newer hakg_dgl, or train again.",
            )
        try:
            different = changed_settings(about["settings"], self.settings)
            if about["device"] != self._device:
                different.append(f"device (was {about['device']!r}, now {self._device!r})")
            saved = {"search_seconds": about["standing"]["seconds"], **about["standing"]}  # older states lack it
            standing = Standing(**{f.name: saved[f.name] for f in fields(Standing)})
            _refuse_other_types(standing)
        except (KeyError, TypeError, AttributeError, ConfigError) as error:
            raise CheckpointError(f"{file}: does not say where training stood ({error!r}); train again") from error
        refuse_changed_settings(self.folder, different)
        return standing

    def _restore_tensors(self, tensors: Weights) -> Weights:
        groups: dict[str, Weights] = {"model": {}, "best": {}, "optimizer": {}, "random": {}}
        for name, tensor in tensors.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = tensor
        self.trainee.model.load_tensors(groups["model"])
        slots: dict[str, dict[int, Weights]] = {key: {} for key in self.trainee.optimizers}
        for name, tensor in groups["optimizer"].items():
            key, index, slot = name.rsplit(".", 2)
            slots[key].setdefault(int(index), {})[slot] = tensor
        for key, optimizer in self.trainee.optimizers.items():
            optimizer.load_state_dict({**optimizer.state_dict(), "state": slots[key]})
        for name, generator in self.trainee.generators.items():
            generator.set_state(groups["random"][name])
        return groups["best"]

    @property
    def _device(self) -> str:
        """Kind of device, on which the generators' states depend."""
        return self.trainee.device.type


def _refuse_other_types(standing: Standing) -> None:
    """Raise TypeError for a value that is not a number, or not a count, where one is written."""
    for name, value in asdict(standing).items():
        default = getattr(Standing(), name)
        for number in value.values() if isinstance(default, dict) else [value]:
            missing = number is None and default is None
            fits = isinstance(number, (int, float)) and not isinstance(number, bool)
            if isinstance(default, int):
                fits = fits and isinstance(number, int) and number >= 0
            if not fits and not missing:
                raise TypeError(f"{name} is {value!r}")


def changed_settings(theirs: dict[str, Any], ours: Settings) -> list[str]:
    """Settings that differ and may not when a run is continued; see :func:`settings_differences`.

    The device may be another name of the same kind. TensorBoard and CUDA graphs, which change no number, may come and
    go, and so may more epochs, patience and time. Only a schedule that is spread over the epochs depends on their
    number.
    """
    free = {"patience", "max_seconds", "device", "tensorboard", "cuda_graphs"}
    if ours.values().get("lr_schedule") == "constant":
        free.add("epochs")
    return settings_differences(theirs, ours, free)


def refuse_changed_settings(folder: RunFolder, different: list[str]) -> None:
    """Raise CheckpointError if there is a difference."""
    if different:
        raise CheckpointError(
            f"{folder.path}: the run has other settings: {', '.join(different)}; "
            "resume with its own, or train in another folder"
        )


def require_run(folder: RunFolder | None) -> RunFolder:
    """The folder, if there is a run in it to resume; else CheckpointError."""
    if folder is None:
        raise CheckpointError("there is nothing to resume: the trainer was given no run folder")
    if not folder.exists():
        raise CheckpointError(f"{folder.path}: there is no run to resume; train without --resume")
    return folder


ONLY_ITS_DATA = (
    "--resume goes on with the data set that the run was trained on. With a grown log, new users or new items, "
    "'hakg update RUN --interactions LOG --out RUN2' goes on from what it has learnt."
)
"""What to do about a run of another data set that is to be continued."""


def restart(folder: RunFolder, settings: Settings, dataset: Dataset, data_path: str | Path | None) -> None:
    """Begin a run in the folder again, if it is of this data set and these settings."""
    refuse_other_run(folder, settings, dataset)
    folder.create(settings, dataset, data_path, keep_start=True)


def refuse_other_run(folder: RunFolder, settings: Settings, dataset: Dataset) -> None:
    """Raise IntegrityError if the run is of another data set, CheckpointError if it has other settings."""
    if folder.about_file.exists():
        folder.check_dataset(dataset, ONLY_ITS_DATA)
    if folder.config_file.exists():
        refuse_changed_settings(folder, changed_settings(folder.settings.to_dict(), settings))


def copied(model: nn.Module) -> Weights:
    """The weights of a model, on CPU, as they are now."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> Weights:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}
