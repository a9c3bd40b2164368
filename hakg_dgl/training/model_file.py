"""The trained model of a run: one file, or one of each process that trained it and an index of them.

``model.safetensors.index.json`` has the layout that Hugging Face's libraries read: ``weight_map`` says in which file a
tensor is. A table with a row a user, an item or an entity is stored in pieces, each a tensor of its own with
consecutive rows, ``NAME.rows.FIRST-END`` (``END`` is not among them); ``metadata.tables`` lists the pieces of each
table in order. As with states, files of a new model have new names, and the index is replaced last.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from hakg_dgl.errors import CheckpointError
from hakg_dgl.training.run_folder import RunFolder, TensorFile, damaged
from hakg_dgl.training.sharded_state import refuse_newer, require_digest, require_names, shards_in

FORMAT, FORMAT_VERSION = "hakg-sharded-model", 1
ROWS_AT_ONCE = 1 << 16
"""Rows of a table that are read at once where some of them are wanted."""
_TRIES = 5
"""Openings of a model that another process replaces again and again."""

T = TypeVar("T")
Loaded = tuple[dict[str, Tensor], dict[str, Any]]


def save_model(folder: RunFolder, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write the model as one file; one of several files is removed."""
    folder.save_tensors(folder.model_file, tensors, about)
    folder.model_index_file.unlink(missing_ok=True)
    remove_model_shards(folder)


def remove_model_shards(folder: RunFolder, keep: Mapping[str, str] | None = None) -> None:
    """Remove the files of models but those to keep."""
    for name in shards_in(folder, "model"):
        if name not in (keep or {}):
            (folder.path / name).unlink(missing_ok=True)


def piece_name(table: str, first: int, end: int) -> str:
    """Name of the tensor with the rows ``first`` to ``end - 1`` of a table."""
    return f"{table}.rows.{first}-{end}"


def save_model_index(
    folder: RunFolder,
    files: Mapping[str, str],
    weight_map: Mapping[str, str],
    tables: Mapping[str, list[int]],
    total_size: int,
    about: Mapping[str, Any],
) -> None:
    """Make files (name -> digest) the model of the run, and remove those of the one before.

    Parameters
    ----------
    folder
        Of the run.
    files, weight_map
        All files, and which of them has which tensor.
    tables
        Table -> the first row of each of its pieces, and the end of the last one.
    total_size
        Bytes of all tensors.
    about
        What :func:`save_model` takes.
    """
    pieces = {
        name: [piece_name(name, first, end) for first, end in itertools.pairwise(bounds) if end > first]
        for name, bounds in tables.items()
    }
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "total_size": total_size,
        "tables": pieces,
        "files": dict(files),
        "hakg": dict(about),
    }
    folder.write_index(folder.model_index_file, {"metadata": metadata, "weight_map": dict(weight_map)})
    folder.model_file.unlink(missing_ok=True)
    remove_model_shards(folder, keep=files)


class ModelFiles:
    """The files of a model, open: tensors are read one by one, so that none is held twice.

    Attributes
    ----------
    about
        The metadata of the model.
    """

    def __init__(self, files: Sequence[TensorFile], about: dict[str, Any], tables: Mapping[str, Sequence[str]]) -> None:
        self.about: dict[str, Any] = about
        self._holder = {name: file for file in files for name in file.names}
        self._tables = tables

    def tensors(self) -> dict[str, Tensor]:
        """All of them."""
        found = {name: self.read(name) for name in self.names if name not in self._tables}
        return found | {table: torch.cat(list(self._pieces(table))) for table in self._tables}

    @property
    def names(self) -> list[str]:
        """Of all tensors."""
        pieces = {piece for names in self._tables.values() for piece in names}
        return [*(name for name in self._holder if name not in pieces), *self._tables]

    def read(self, name: str) -> Tensor:
        """A tensor that is no table in pieces."""
        return self._holder[name].read(name)

    def rows(self, table: str, ids: Tensor) -> Tensor:
        """The rows ``ids`` (int64, ascending) of a tensor, read with few others at a time."""
        first, parts = 0, []
        for piece in self._tables.get(table, [table]):
            file = self._holder[piece]
            (n, *width), dtype = file.kind(piece)
            for start in range(first, first + n, ROWS_AT_ONCE):
                end = min(start + ROWS_AT_ONCE, first + n)
                wanted = ids[int(torch.searchsorted(ids, start)) : int(torch.searchsorted(ids, end))] - start
                if len(wanted):
                    parts.append(file.rows(piece, start - first, end - first)[wanted])
            first += n
        return torch.cat(parts) if parts else torch.empty(0, *width, dtype=dtype)

    def fill(self, state: Mapping[str, Tensor]) -> None:
        """Copy them into tensors with their names, shapes and types; ValueError if these are others."""
        wanted = {name: (tuple(value.shape), value.dtype) for name, value in state.items()}
        found = self._kinds()
        wrong = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        if wrong:
            raise ValueError(
                f"{len(wrong)} tensors are missing, too many, or of another shape or type, such as {wrong[0]!r}"
            )
        for name, value in state.items():
            if name not in self._tables:
                value.copy_(self._holder[name].read(name))
                continue
            first = 0
            for piece in self._pieces(name):
                value[first : first + len(piece)].copy_(piece)
                first += len(piece)

    def _pieces(self, table: str) -> Iterator[Tensor]:
        return (self._holder[piece].read(piece) for piece in self._tables[table])

    def _kinds(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Name -> shape and type, of tables as a whole; ValueError if pieces of one do not go together."""
        kinds = {name: file.kind(name) for name, file in self._holder.items()}
        for table, names in self._tables.items():
            pieces = [kinds.pop(name) for name in names]
            if len({(shape[1:], dtype) for shape, dtype in pieces}) != 1:
                raise ValueError(f"the pieces of {table!r} have other widths or types")
            (shape, dtype), n = pieces[0], sum(shape[0] for shape, _ in pieces)
            kinds[table] = (n, *shape[1:]), dtype
        return kinds


@contextmanager
def opened_model(folder: RunFolder) -> Iterator[ModelFiles]:
    """The files of the model of a run, unless it is replaced meanwhile; errors are those of :func:`read_model`."""
    index_file = folder.model_index_file
    with ExitStack() as held:
        if not index_file.exists():
            file = held.enter_context(folder.open_tensors(folder.model_file))
            yield ModelFiles([file], file.metadata(), {})
            return
        index = _index(folder)
        metadata, files = index["metadata"], list[TensorFile]()
        for name, digest in metadata["files"].items():
            files.append(held.enter_context(folder.open_tensors(folder.path / name)))
            require_digest(index_file, folder.path / name, digest)
        names = [name for file in files for name in file.names]
        if sorted(names) != sorted(index["weight_map"]):
            raise damaged(index_file, "its files have other tensors than it says")
        yield ModelFiles(files, dict(metadata["hakg"]), metadata["tables"])


def read_model(folder: RunFolder, use: Callable[[ModelFiles], T]) -> T:
    """What ``use`` makes of the model of a run, all of one version; it may be called again, if that is replaced.

    Raises
    ------
    CheckpointError
        If there is no model, or it is damaged.
    """
    for _ in range(_TRIES - 1):
        before = _version(folder)
        try:
            with opened_model(folder) as files:
                return use(files)
        except CheckpointError:
            if _version(folder) == before:  # else it was replaced meanwhile
                raise
    with opened_model(folder) as files:
        return use(files)


def load_model_tensors(folder: RunFolder) -> Loaded:
    """Tensors and metadata of the model of a run; errors are those of :func:`read_model`."""
    return read_model(folder, lambda files: (files.tensors(), files.about))


def load_model_metadata(folder: RunFolder) -> dict[str, Any]:
    """The metadata of the model of a run, without tensors; errors as :func:`load_model_tensors`."""
    if folder.model_index_file.exists():
        try:
            return dict(_index(folder)["metadata"]["hakg"])
        except CheckpointError:
            if folder.model_index_file.exists():
                raise
    return folder.load_metadata(folder.model_file)


def model_digest(folder: RunFolder) -> str:
    """SHA-256 of the model's file, or of the index, which has those of all files."""
    return hashlib.sha256(folder.model_place.read_bytes()).hexdigest()


def _version(folder: RunFolder) -> tuple[bytes | None, bool]:
    index = folder.model_index_file
    try:
        return index.read_bytes(), folder.model_file.exists()
    except FileNotFoundError:
        return None, folder.model_file.exists()


def _index(folder: RunFolder) -> dict[str, Any]:
    file = folder.model_index_file
    index = folder.read_index(file)
    metadata, weights = index.get("metadata"), index.get("weight_map")
    if not isinstance(metadata, dict) or not isinstance(weights, dict) or metadata.get("format") != FORMAT:
        raise damaged(file, "it does not describe a model of this package")
    refuse_newer(file, metadata.get("format_version"))
    wanted = {"tables": dict, "files": dict, "hakg": dict}
    if any(not isinstance(metadata.get(key), kind) for key, kind in wanted.items()):
        raise damaged(file, f"{', '.join(wanted)}: one is missing or of the wrong type")
    require_names(file, metadata["files"])
    for name, pieces in metadata["tables"].items():
        if not isinstance(pieces, list) or not pieces or any(piece not in weights for piece in pieces):
            raise damaged(file, f"the pieces of {name!r} are not among its tensors")
    return index
