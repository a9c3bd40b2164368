"""Training by several processes. The first one measures, decides and writes; the others are told."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import torch as safetensors_of_torch
from torch import Tensor

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.owners import Owners, equal_owners
from hakg_dgl.data.part_dataset import PartDataset, part_of
from hakg_dgl.distributed.loading import require_one_part_each
from hakg_dgl.distributed.ranks import Ranks
from hakg_dgl.distributed.saving import SharedStates
from hakg_dgl.distributed.shards import shard_class
from hakg_dgl.distributed.trainee import DistributedTrainee
from hakg_dgl.errors import ConfigError, NumericalError
from hakg_dgl.models.settings import Settings
from hakg_dgl.training.checkpoint import Standing, Weights
from hakg_dgl.training.progress import OnProgress
from hakg_dgl.training.recording import Recording
from hakg_dgl.training.selection import Measured
from hakg_dgl.training.session import Session
from hakg_dgl.training.trainee import Trainee
from hakg_dgl.training.trainer import Trainer


class DistributedSession(Session):
    """See :class:`~hakg_dgl.training.session.Session`; every method that phases call is a step of all processes.

    Parameters
    ----------
    ranks, owners
        The processes and what they own.
    run
        Folder of the run, in all processes, or None.
    given
        What a session takes.
    """

    def __init__(self, ranks: Ranks, owners: Owners, run: str | Path | None, *given: Any) -> None:
        self.ranks: Ranks = ranks
        self.owners: Owners = owners
        self.run: str | Path | None = run
        self.states: SharedStates | None = None
        self.stop_after_epoch = self._alone = self.met = False
        super().__init__(*given)

    @property
    def first(self) -> bool:
        """Whether this process is the one that measures and writes."""
        return self.ranks.rank == 0

    @property
    def shared(self) -> DistributedTrainee:
        """What is trained."""
        assert isinstance(self.trainee, DistributedTrainee)
        return self.trainee

    def new_trainee(self, splits: tuple[str, ...]) -> Trainee:
        """See the base class."""
        return DistributedTrainee(self.dataset, self.settings, self.device, splits, self.start, self.ranks, self.owners)

    def told(self, value: Any) -> Any:
        """A JSON value of the first process, in all of them."""
        return json.loads(self.ranks.from_first(json.dumps(value).encode() if self.first else None))

    def agree(self) -> None:
        """Stand where the first process does, which may have resumed a run."""
        about = self.told({"standing": asdict(self.standing), "splits": list(self.trainee.splits)})
        if tuple(about["splits"]) != self.trainee.splits:
            self.set_up(tuple(about["splits"]))
        generators = self.trainee.generators
        states = {name: generator.get_state() for name, generator in generators.items()}
        sent = safetensors_of_torch.load(
            self.ranks.from_first(safetensors_of_torch.save(states) if self.first else None)
        )
        for name, state in sent.items():
            generators[name].set_state(state)
        self.standing = Standing(**about["standing"])
        self.shared.meet()
        before = self.standing.refit_from or 0
        self.shared.steps_done = (self.standing.epoch - before) * len(self.trainee) + self.standing.step

    def set_up(self, splits: tuple[str, ...]) -> None:
        """See the base class; between the phases of a training, all processes meet."""
        super().set_up(splits)
        if self.met:
            self.shared.meet()

    # --- what phases ask for ----------------------------------------------------------------------------------------

    def measure(self, number: int) -> Measured:
        """The first process evaluates the whole."""
        if self._alone:
            return super().measure(number)
        self.shared.collect()
        found = self.told(asdict(super().measure(number)) if self.first else None)
        return Measured(**found)

    def choose(self) -> None:
        """The first process chooses."""
        if self.first:
            self._alone = True
            try:
                super().choose()
            finally:
                self._alone = False
        self.standing: Standing = Standing(**self.told(asdict(self.standing)))

    def keep_as_best(self) -> None:
        """The first process keeps it."""
        if self.first:
            super().keep_as_best()

    def take_choice(self) -> None:
        """The first process's whole model takes it, as it is now."""
        self.shared.collect()
        if self.first:
            super().take_choice()

    def save_state(self, *, force: bool = True, order: Tensor | None = None) -> None:
        """The first process says whether it is time; each writes what it has, where all see one folder.

        Where the folder of the run is on the first one's disk alone, that one writes what all put together.
        """
        due = self.checkpoint is not None and (force or self.checkpoint.affordable)
        if self._alone:
            super().save_state(force=force, order=order)
            return
        if not self.told(due):
            return
        if self.states is None:
            self.states = SharedStates(self.ranks, self.run)
        if self.states.one_folder:
            self.states.save(self, self.best if self.standing.refit_from is None else Weights())
        else:
            self.shared.collect(optimizers=True)
            super().save_state(force=True, order=order)
            self.shared.drop_optimizers()

    def keep_search(self) -> None:
        """The first process writes what all put together."""
        if self.told(self.checkpoint is not None):
            self.shared.collect(optimizers=True)
            super().keep_search()
            self.shared.drop_optimizers()

    @property
    def state_is_old(self) -> bool:
        """States are written between epochs only."""
        return False

    def numerical_error(self, problem: str, epoch: int, where: str) -> NumericalError:
        """See the base class; the norms are those of all rows."""
        if self._alone or where == "evaluation":
            return super().numerical_error(problem, epoch, where)
        self.shared.collect()
        if self.first:
            return super().numerical_error(problem, epoch, where)
        return NumericalError(f"{problem} in epoch {epoch}, {where}")

    def stop_if_asked(self) -> None:
        """After an epoch: stop if any process was asked to."""
        if int(self.ranks.max(torch.tensor(int(self.stop_after_epoch)))):
            self.save_state()
            raise KeyboardInterrupt


class DistributedTrainer(Trainer):
    """See :class:`~hakg_dgl.Trainer`; made in every process, in a process group or alone.

    Each process holds its rows, their part of the optimizer's state and the edges that end there. The first process
    has the whole data set and the whole model as well: it measures, and writes the run as one process would, so that a
    run goes on with any number of processes.

    Parameters
    ----------
    dataset
        The whole data set; processes other than the first may have their
        :class:`~hakg_dgl.data.part_dataset.PartDataset` in its place.
    settings, run, data_path, on_progress
        As there; the folder is written by the first process.
    owners
        Who owns what, one part a process; by default equal ranges of users, items and other entities.

    Raises
    ------
    ConfigError
        If several processes cannot train the model, or not with these settings, or processes differ in data, settings
        or version.
    """

    def __init__(
        self,
        dataset: Dataset,
        settings: Settings,
        *,
        run: str | Path | None = None,
        data_path: str | Path | None = None,
        on_progress: OnProgress | None = None,
        owners: Owners | None = None,
    ) -> None:
        shard_class(settings.kind).refuse(settings, dataset.counts)
        if settings.values().get("cuda_graphs") is True:
            raise ConfigError("cuda_graphs = true, but steps of several processes are not recorded; set it to auto")
        self.ranks: Ranks = Ranks()
        n = dataset.n_users, dataset.n_items, dataset.n_entities
        self.owners: Owners = equal_owners(*n, self.ranks.size) if owners is None else owners
        require_one_part_each(self.owners.n_parts, self.ranks.size)
        self._run = run
        if self.ranks.rank:
            run, on_progress = None, None
            dataset = dataset if isinstance(dataset, PartDataset) else part_of(dataset, self.owners, self.ranks.rank)
        super().__init__(dataset, settings, run=run, data_path=data_path, on_progress=on_progress)

    def _require_pairs(self) -> None:
        if self.ranks.rank == 0:
            super()._require_pairs()

    def _new_session(self, data_path: str | Path | None, recording: Recording, start: Weights | None) -> Session:
        return DistributedSession(
            self.ranks,
            self.owners,
            self._run,
            self.dataset,
            self.settings,
            self.device,
            self.folder,
            data_path,
            recording,
            start,
        )

    @property
    def shared(self) -> DistributedSession:
        """The session."""
        assert isinstance(self.session, DistributedSession)
        return self.session

    def interrupt(self) -> None:
        """Have :meth:`fit` save the state after the epoch it is in, and raise KeyboardInterrupt in all processes."""
        self.shared.stop_after_epoch = True

    def _open(self, resume: bool) -> None:
        if self.ranks.rank == 0:
            self.shared._alone = True
            try:
                super()._open(resume)
            finally:
                self.shared._alone = False
        self.shared.agree()
        self.shared.met = True

    def _finish(self) -> dict[str, Any]:
        result: dict[str, Any] = self.shared.told(super()._finish() if self.ranks.rank == 0 else None)
        return result
