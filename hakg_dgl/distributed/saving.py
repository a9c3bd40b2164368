"""States of a training that all processes write together, each its own rows."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hakg_dgl.distributed.lost import LostProcessError
from hakg_dgl.distributed.ranks import Ranks
from hakg_dgl.distributed.trainee import DistributedTrainee
from hakg_dgl.errors import CheckpointError
from hakg_dgl.training.checkpoint import Weights
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.session import Session
from hakg_dgl.training.sharded_state import ROWS, next_number, save_index, save_shard, shard_name

if TYPE_CHECKING:
    from collections.abc import Mapping


class SharedStates:
    """Writes states; making it is a step of all processes together, and so is every write.

    Parameters
    ----------
    ranks
        The processes.
    run
        Folder of the run, as this process sees it; it exists in the first one.

    Attributes
    ----------
    one_folder
        Whether all processes see the folder that the first one does.
    """

    def __init__(self, ranks: Ranks, run: str | Path | None) -> None:
        self.ranks: Ranks = ranks
        self.folder: RunFolder | None = None if run is None else RunFolder(run)
        self.one_folder: bool = self._is_one()

    def _is_one(self) -> bool:
        """The first process puts a file there for a moment, and the others look for it."""
        name = self.ranks.from_first(f".tmp{secrets.token_hex(3)}".encode() if self.ranks.rank == 0 else None).decode()
        path = None if self.folder is None else self.folder.path / name
        if self.ranks.rank == 0 and path is not None:
            path.touch()
        self.ranks.max(torch.zeros(1))
        missing = int(self.ranks.max(torch.tensor(int(path is None or not path.exists()))))
        if self.ranks.rank == 0 and path is not None:
            path.unlink(missing_ok=True)
        return not missing

    def save(self, session: Session, best: Weights) -> None:
        """Write the state of a session.

        Raises
        ------
        CheckpointError
            In a process that cannot write.
        LostProcessError
            In the others, then.
        """
        assert self.folder is not None
        began = time.monotonic()
        number = int(self.ranks.from_first(str(next_number(self.folder)).encode() if self.ranks.rank == 0 else None))
        name, problem = shard_name(number, self.ranks.rank, self.ranks.size), None
        digest = ""
        try:
            tensors, axes = self._tensors(session, best)
            digest = save_shard(self.folder, name, tensors, axes)
        except CheckpointError as error:
            problem = error
        failed = int(self.ranks.max(torch.tensor(0 if problem is None else self.ranks.rank + 1)))
        if problem is not None:
            raise problem
        if failed:
            raise LostProcessError(f"process {failed - 1} of {self.ranks.size} could not write its part of the state")
        rows = torch.frombuffer(bytearray(bytes.fromhex(digest)), dtype=torch.uint8).unsqueeze(0)
        digests = self.ranks.to_first(rows, [1] * self.ranks.size)
        if digests is not None and session.checkpoint is not None:
            names = [shard_name(number, rank, self.ranks.size) for rank in range(self.ranks.size)]
            files = {name: bytes(row.tolist()).hex() for name, row in zip(names, digests, strict=True)}
            self.folder.sync_metrics()
            save_index(self.folder, files, session.checkpoint.about(session.standing))
            session.checkpoint.note_written(began)

    def _tensors(self, session: Session, best: Weights) -> tuple[dict[str, Tensor], Mapping[str, str]]:
        """What this process has, and which of the tensors have a row a node: name -> node type."""
        trainee = session.trainee
        assert isinstance(trainee, DistributedTrainee)
        assert trainee.shard is not None
        shard, tensors, axes = trainee.shard, dict[str, Tensor](), dict[str, str]()
        if session.checkpoint is not None:  # the first process: whatever has no rows, and the best weights
            whole = session.checkpoint.tensors(session.standing, best)
            rows = {f"model.{name}" for name in shard.node_types}
            tensors |= {name: value for name, value in whole.items() if name not in rows}
        names = [name for name, _ in shard.model.named_parameters()]
        own = {f"model.{name}": (name, value.detach()) for name, value in shard.model.named_parameters()}
        for key, optimizer in trainee.own_optimizers.items():
            for index, slots in optimizer.state_dict()["state"].items():
                for slot, value in slots.items():
                    own[f"optimizer.{key}.{index}.{slot}"] = names[index], torch.as_tensor(value)
        for name, (parameter, value) in own.items():
            if value.ndim and parameter in shard.node_types:
                axes[name] = shard.node_types[parameter]
                tensors[name] = value
            elif self.ranks.rank == 0:
                tensors[name] = value
        for node_type in set(axes.values()):
            tensors[ROWS + node_type] = shard.own[node_type]
        return tensors, axes
