"""States of a training whose rows processes own; see :class:`~hakg_dgl.training.checkpoint.Checkpoint`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

from hakg_dgl.distributed.saving import Piece, SharedFiles, own_tensors, pieces_of
from hakg_dgl.distributed.trainee import DistributedTrainee
from hakg_dgl.models.settings import Settings
from hakg_dgl.training.checkpoint import Checkpoint, Standing, Weights
from hakg_dgl.training.sharded_state import iterate_sharded, load_index


class SharedCheckpoint(Checkpoint):
    """Saves and restores own rows; saving and restoring are steps of all processes together.

    Parameters
    ----------
    files
        What writes.
    settings, trainee
        As there.
    """

    def __init__(self, files: SharedFiles, settings: Settings, trainee: DistributedTrainee) -> None:
        super().__init__(files.folder, settings, trainee)
        self.files: SharedFiles = files
        self.shared: DistributedTrainee = trainee

    @property
    def affordable(self) -> bool:
        """See the base class; the first process says so."""
        return bool(self.files.ranks.told(super().affordable))

    def _write(self, file: Path, standing: Standing, best: Weights, order: Tensor | None) -> None:
        stem = "state" if file == self.folder.state_file else "search"
        self.files.save_state(stem, self.tensors(standing, best, order), self._row_type, self.about(standing))

    def _load(self, file: Path) -> tuple[Weights, dict[str, Any]]:
        """Own rows, from what the first process reads."""
        ranks = self.files.ranks
        pieces, about = (self._pieces(file), self._about(file)) if ranks.rank == 0 else (None, None)
        about = ranks.told(about)
        return own_tensors(ranks, self.files.ownership, pieces), dict(about or {})

    def _about(self, file: Path) -> dict[str, Any]:
        is_index = file.suffix == ".json"
        return dict(load_index(file, self.folder)["metadata"]) if is_index else self.folder.load_metadata(file)

    def _pieces(self, file: Path) -> Iterator[Piece]:
        """What is in the files of several processes, or in the file of one, whose tables have all rows."""
        if file.suffix == ".json":
            return chain.from_iterable(pieces_of(*each) for each in iterate_sharded(file, self.folder))
        tensors, _ = self.folder.load_tensors(file)
        types = ((name, value, self._row_type(name)) for name, value in tensors.items())
        return chain.from_iterable(
            pieces_of(name, value, None if kind is None else (kind, self.shared.all_rows(kind)))
            for name, value, kind in types
        )

    def _row_type(self, name: str) -> str | None:
        """The node type that the rows of a tensor of a state are of; None if it has no rows."""
        group, _, rest = name.partition(".")
        shard = self.shared.shard
        if group != "optimizer":
            return shard.row_types.get(rest) if group in ("model", "best") else None
        _, number, slot = rest.rsplit(".", 2)
        names = [parameter for parameter, _ in shard.model.named_parameters()]
        return None if slot == "step" else shard.row_types.get(names[int(number)])
