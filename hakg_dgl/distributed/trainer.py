"""Training by several processes, each on its part. The first one decides and records; the others are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.owners import Owners, equal_owners
from hakg_dgl.data.part_dataset import PartDataset, part_of
from hakg_dgl.distributed.loading import require_one_part_each
from hakg_dgl.distributed.ranks import Ranks
from hakg_dgl.distributed.resuming import resume as resume_session
from hakg_dgl.distributed.session import DistributedSession
from hakg_dgl.distributed.shards import shard_class
from hakg_dgl.errors import ConfigError
from hakg_dgl.models.settings import Settings
from hakg_dgl.training.checkpoint import Weights
from hakg_dgl.training.progress import OnProgress
from hakg_dgl.training.protocol import require_pairs_of
from hakg_dgl.training.recording import Recording
from hakg_dgl.training.session import Session
from hakg_dgl.training.trainer import Trainer


class DistributedTrainer(Trainer):
    """See :class:`~hakg_dgl.Trainer`; made in every process, in a process group or alone.

    Each process holds its rows, their part of the optimizer's state and the edges that end there, ranks items for its
    users, and writes its part of the model and of the state. A run goes on with any number of processes.

    Parameters
    ----------
    dataset
        The whole data set, of which the part is taken, or the part of this process.
    settings, run, data_path, on_progress
        As there. Where processes do not see one folder, that of the first one is written.
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
        shard_class(settings.kind).refuse(settings)
        if settings.values().get("cuda_graphs") is True:
            raise ConfigError("cuda_graphs = true, but steps of several processes are not recorded; set it to auto")
        self.ranks: Ranks = Ranks()
        n = dataset.n_users, dataset.n_items, dataset.n_entities
        self.owners: Owners = equal_owners(*n, self.ranks.size) if owners is None else owners
        require_one_part_each(self.owners.n_parts, self.ranks.size)
        self._run = run
        if self.ranks.rank:
            run, on_progress = None, None
        part = dataset if isinstance(dataset, PartDataset) else part_of(dataset, self.owners, self.ranks.rank)
        super().__init__(part, settings, run=run, data_path=data_path, on_progress=on_progress)

    def _require_pairs(self) -> None:
        """Each interaction counts where its user is owned."""
        owner, frame = self.owners.users, self.dataset.interactions
        own = frame["split"][owner[frame["user"].to_numpy()] == self.ranks.rank].value_counts()
        counts = torch.tensor([int(own.get(split, 0)) for split in ("train", "valid", "test")])
        overlap = torch.tensor(len(self.dataset.test_overlap))
        found = dict(zip(("train", "valid", "test"), self.ranks.sum(counts).tolist(), strict=True))
        self._n_tested: int = found["test"]
        require_pairs_of(self.dataset.name, found, int(self.ranks.sum(overlap)), self.settings.training)

    def _new_session(self, data_path: str | Path | None, recording: Recording, start: Weights | None) -> Session:
        given = self.dataset, self.settings, self.device, self.folder, data_path, recording, start
        return DistributedSession(self.ranks, self.owners, self._run, *given)

    @property
    def shared(self) -> DistributedSession:
        """The session."""
        assert isinstance(self.session, DistributedSession)
        return self.session

    def interrupt(self) -> None:
        """Have :meth:`fit` save the state after the epoch it is in, and raise KeyboardInterrupt in all processes."""
        self.shared.stop_after_epoch = True

    def _warnings(self) -> list[str]:
        return self.shared.shared.shard.warnings()

    def _open(self, resume: bool) -> None:
        if self.ranks.told(resume):  # others may not see the folder of the run
            resume_session(self.shared)
        elif self.folder is not None:
            self.folder.create(self.settings, self.dataset, self.session.data_path, start=self.session.start)

    def _tested(self) -> dict[str, float] | None:
        return self.shared.evaluate("test").metrics if self._n_tested else None

    def _finish(self) -> dict[str, Any]:
        result: dict[str, Any] = self.ranks.told(super()._finish())
        return result
