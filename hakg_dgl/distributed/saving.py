"""Files of a run that all processes write together, each its own rows."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from hakg_dgl.atomic_files import replace_file
from hakg_dgl.distributed.lost import LostProcessError
from hakg_dgl.distributed.ownership import Ownership
from hakg_dgl.distributed.ranks import Ranks
from hakg_dgl.errors import CheckpointError
from hakg_dgl.training.model_file import piece_name, save_model_index
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.sharded_state import ROWS, digest_of, next_number, save_index, shard_name

ROWS_PER_PIECE = 1 << 18
"""Rows of a table that are told at once when a file of one process is read."""


class SharedFiles:
    """Writes states and models; making it is a step of all processes together, and so is every write.

    Where processes do not see one folder, the first one writes the files of all, one after the other.

    Parameters
    ----------
    ranks, ownership
        The processes and what they own.
    run
        Folder of the run, as this process sees it; it exists in the first one.
    """

    def __init__(self, ranks: Ranks, ownership: Ownership, run: str | Path) -> None:
        self.ranks: Ranks = ranks
        self.ownership: Ownership = ownership
        self.folder: RunFolder = RunFolder(run)
        self._one_folder: bool | None = None

    @property
    def one_folder(self) -> bool:
        """Whether all processes see the folder that the first one does; it is tried once."""
        if self._one_folder is None:
            self._one_folder = self._is_one()
        return self._one_folder

    def _is_one(self) -> bool:
        """The first process puts a file there for a moment, and the others look for it."""
        first = self.ranks.rank == 0
        name = self.ranks.from_first(f".tmp{secrets.token_hex(3)}".encode() if first else None).decode()
        path = self.folder.path / name
        if first:
            path.touch()
        self.ranks.max(torch.zeros(1))
        missing = int(self.ranks.max(torch.tensor(int(not path.exists()))))
        if first:
            path.unlink(missing_ok=True)
        return not missing

    def save_state(
        self, stem: str, tensors: Mapping[str, Tensor], row_type: Callable[[str], str | None], about: Mapping[str, Any]
    ) -> None:
        """Write a state or search.

        Parameters
        ----------
        stem
            ``state`` or ``search``.
        tensors
            What this process has; of what has no rows, that of the first process is written.
        row_type
            From the name of a tensor to the node type that its rows are of.
        about
            The metadata.

        Raises
        ------
        CheckpointError
            In a process that cannot write.
        LostProcessError
            In the others, then.
        """
        kept, axes = dict[str, Tensor](), dict[str, str]()
        for name, value in tensors.items():
            node_type = row_type(name)
            if node_type is not None:
                axes[name] = node_type
            if node_type is not None or self.ranks.rank == 0:
                kept[name] = value
        for node_type in sorted(set(axes.values())):
            kept[ROWS + node_type] = self.ownership.rows(node_type, self.ranks.rank)
        files = self._write(stem, kept, {"rows_of": axes})
        if self.ranks.rank == 0:
            self.folder.sync_metrics()
            save_index(self.folder, stem, files, about)

    def save_model(self, tensors: Mapping[str, Tensor], row_types: Mapping[str, str], about: Mapping[str, Any]) -> None:
        """Write a model: each process the same share of the rows of each table; errors as :meth:`save_state`.

        ``tensors`` and ``about`` are what :func:`~hakg_dgl.training.model_file.save_model` takes, with own rows, and
        ``row_types`` says of which node type the rows are.
        """
        rank, pieces, bounds, total = self.ranks.rank, dict[str, Tensor](), dict[str, list[int]](), 0
        for name, value in sorted(tensors.items()):
            node_type = row_types.get(name)
            if node_type is None:
                total += value.numel() * value.element_size()
                pieces |= {name: value} if rank == 0 else {}
                continue
            bounds[name] = self._bounds(node_type)
            first, end = bounds[name][rank : rank + 2]
            rows = self._consecutive(node_type, value)
            total += bounds[name][-1] * value[:1].numel() * value.element_size()
            pieces |= {piece_name(name, first, end): rows} if end > first else {}
        files = self._write("model", pieces, {"epoch": about.get("epoch")})
        if rank == 0:
            names = list(files)
            where = {name: names[0] for name in tensors if name not in bounds}
            for name, limits in bounds.items():
                spans = zip(limits, limits[1:], names, strict=False)
                where |= {piece_name(name, first, end): file for first, end, file in spans if end > first}
            save_model_index(self.folder, files, where, bounds, total, about)

    def _bounds(self, node_type: str) -> list[int]:
        """The first row of each process's piece of a table, and the end of the last one."""
        n = len(self.ownership.owners[node_type])
        return [rank * n // self.ranks.size for rank in range(self.ranks.size + 1)]

    def _consecutive(self, node_type: str, own: Tensor) -> Tensor:
        """The rows of this process's piece, from own rows."""
        ranks, owner, limits = self.ranks, self.ownership.owners[node_type], self._bounds(node_type)
        edges = torch.tensor(limits, device=owner.device)
        mine = self.ownership.rows(node_type, ranks.rank)
        sent = torch.searchsorted(mine, edges).diff().tolist()
        owners_here = owner[limits[ranks.rank] : limits[ranks.rank + 1]]
        received = owners_here.bincount(minlength=ranks.size).tolist()
        rows = ranks.exchange(own.to(owner.device), sent, received)
        return torch.empty_like(rows).index_copy_(0, owners_here.argsort(stable=True), rows)

    # --- one file of each process -----------------------------------------------------------------------------------

    def _write(self, stem: str, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> dict[str, str]:
        """Write the file of each process; their names and digests, in the first one."""
        first = self.ranks.rank == 0
        number = int(self.ranks.from_first(str(next_number(self.folder, stem)).encode() if first else None))
        names = [shard_name(stem, number, rank, self.ranks.size) for rank in range(self.ranks.size)]
        problem, digest = None, ""
        if self.one_folder or first:
            try:
                self.folder.save_tensors(self.folder.path / names[self.ranks.rank], tensors, metadata)
                digest = digest_of(self.folder.path / names[self.ranks.rank])
            except CheckpointError as error:
                problem = error
        self._require_written(problem)
        if self.one_folder:
            rows = torch.frombuffer(bytearray(bytes.fromhex(digest)), dtype=torch.uint8).unsqueeze(0)
            found = self.ranks.to_first(rows, [1] * self.ranks.size)
            digests = [] if found is None else [bytes(row.tolist()).hex() for row in found]
        else:
            digests = [digest, *self._write_for_others(names, tensors, metadata)]
        return dict(zip(names, digests, strict=True)) if first else {}

    def _write_for_others(
        self, names: list[str], tensors: dict[str, Tensor], metadata: dict[str, Any]
    ) -> Iterator[str]:
        header = {"hakg": json.dumps(metadata, allow_nan=False)}
        for rank in range(1, self.ranks.size):
            own, problem = b"", None
            if self.ranks.rank == rank:
                own = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, header)
            content = self.ranks.bytes_to_first(rank, own)
            if self.ranks.rank == 0:
                try:
                    with self.folder.writing(self.folder.path / names[rank]):
                        replace_file(self.folder.path / names[rank], _writer(content))
                except CheckpointError as error:
                    problem = error
            self._require_written(problem)
            yield hashlib.sha256(content).hexdigest()

    def _require_written(self, problem: CheckpointError | None) -> None:
        failed = int(self.ranks.max(torch.tensor(0 if problem is None else self.ranks.rank + 1)))
        if problem is not None:
            raise problem
        if failed:
            raise LostProcessError(f"process {failed - 1} of {self.ranks.size} could not write its part of the run")


def _writer(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


Piece = dict[str, Tensor]


def pieces_of(name: str, value: Tensor, rows: tuple[str, Tensor] | None) -> Iterator[Piece]:
    """A tensor for :meth:`~hakg_dgl.distributed.ranks.Ranks.pieces_from_first`, with node type and numbers of rows."""
    if rows is None:
        yield {name: value}
        return
    node_type, ids = rows
    for first in range(0, len(ids), ROWS_PER_PIECE):
        end = first + ROWS_PER_PIECE
        yield {name: value[first:end].contiguous(), ROWS + node_type: ids[first:end].contiguous()}


def own_tensors(ranks: Ranks, ownership: Ownership, pieces: Iterator[Piece] | None) -> dict[str, Tensor]:
    """What the first process iterates over: whole tensors, and own rows of tables, on the CPU.

    Raises
    ------
    CheckpointError
        In all processes, if one of them lacks a row, or it is there twice.
    """
    found, seen = dict[str, Tensor](), dict[str, Tensor]()
    for piece in ranks.pieces_from_first(pieces):
        types = [key for key in piece if key.startswith(ROWS)]
        (name,) = piece.keys() - types
        value = piece[name]
        if not types:
            found[name] = value
            continue
        node_type = types[0].removeprefix(ROWS)
        owner, ids = ownership.owners[node_type].cpu(), piece[types[0]]
        kept = (ids >= 0) & (ids < len(owner))
        kept[kept.clone()] = owner[ids[kept]] == ranks.rank
        if name not in found:
            n_own = ownership.counts(node_type)[ranks.rank]
            found[name], seen[name] = value.new_empty(n_own, *value.shape[1:]), torch.zeros(n_own, dtype=torch.int64)
        places = ownership.places[node_type].cpu()[ids[kept]]
        found[name][places] = value[kept]
        seen[name].index_add_(0, places, torch.ones_like(places))
    wrong = [name for name, count in seen.items() if bool((count != 1).any())]
    if int(ranks.max(torch.tensor(len(wrong)))):
        shown = f" of {wrong[0]}" if wrong else ""
        raise CheckpointError(f"a state of the run does not have every row{shown} once; restore it, or train again")
    return found
