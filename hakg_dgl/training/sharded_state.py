"""The state of a training by several processes: a file of tensors each, and an index that says which belong together.

``state.index.json`` (``search.index.json`` for the search that a refit followed) names the files, their digests and the
metadata of the state. The files of a new state have new names; the index is replaced when all of them are on the disk,
by a rename, and what it no longer names is removed after that. So a kill at any moment leaves a whole state.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hakg_dgl.data.readers.archives import file_digest
from hakg_dgl.errors import CheckpointError, DataError
from hakg_dgl.training.run_folder import RunFolder, damaged

FORMAT, FORMAT_VERSION = "hakg-sharded-state", 1
ROWS = "rows."
"""Before the name of a node type: the tensor with the numbers of its rows in a file."""
_SHARD = re.compile(r"(state|search|model)-(\d{8})-(\d{5})-of-(\d{5})\.safetensors")


def shard_name(stem: str, number: int, rank: int, size: int) -> str:
    """Name of the file of a process, in the state, search or model with this number."""
    return f"{stem}-{number:08d}-{rank:05d}-of-{size:05d}.safetensors"


def shards_in(folder: RunFolder, stem: str) -> dict[str, int]:
    """Files of states, searches or models in the folder, with their numbers."""
    found = ((file.name, _SHARD.fullmatch(file.name)) for file in folder.path.iterdir())
    return {name: int(match[2]) for name, match in found if match and match[1] == stem}


def next_number(folder: RunFolder, stem: str) -> int:
    """A number that no file in the folder has."""
    return max(shards_in(folder, stem).values(), default=0) + 1


def save_index(folder: RunFolder, stem: str, files: Mapping[str, str], about: Mapping[str, Any]) -> None:
    """Make files (name -> digest) the state (or search) of the run, and remove those of the one before."""
    index = {"format": FORMAT, "format_version": FORMAT_VERSION, "files": dict(files), "metadata": dict(about)}
    folder.write_index(index_file(folder, stem), index)
    (folder.path / f"{stem}.safetensors").unlink(missing_ok=True)
    remove_shards(folder, stem, keep=files)


def index_file(folder: RunFolder, stem: str) -> Path:
    """The index of a state or search."""
    return folder.state_index_file if stem == "state" else folder.search_index_file


def remove_shards(folder: RunFolder, stem: str, keep: Mapping[str, str] | None = None) -> None:
    """Remove the files of sharded states but those to keep; all of a state, the index included, if there are none."""
    if not keep:
        index_file(folder, stem).unlink(missing_ok=True)
    for name in shards_in(folder, stem):
        if name not in (keep or {}):
            (folder.path / name).unlink(missing_ok=True)


def remove_unnamed(folder: RunFolder) -> None:
    """Remove what no index of a state or search names: files of a writer that was killed before or after its index."""
    for stem in ("state", "search"):
        file = index_file(folder, stem)
        if file.exists():
            remove_shards(folder, stem, load_index(file, folder)["files"])
        elif shards_in(folder, stem):
            remove_shards(folder, stem)


def load_index(file: Path, folder: RunFolder) -> dict[str, Any]:
    """The checked content of an index; CheckpointError if it is damaged, or of a newer version."""
    index = folder.read_index(file)
    files, about = index.get("files"), index.get("metadata")
    if index.get("format") != FORMAT or not isinstance(files, dict) or not files or not isinstance(about, dict):
        raise damaged(file, "it does not describe the state of a training")
    refuse_newer(file, index.get("format_version"))
    require_names(file, files)
    return index


def refuse_newer(file: Path, version: object) -> None:
    """Raise CheckpointError for an index of a newer version."""
    if type(version) is not int or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{file}: format version {version!r}, this version reads up to {FORMAT_VERSION}; "
            "install a newer hakg_dgl, or train again"
        )


def require_names(file: Path, names: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless all are names of files that several processes write."""
    wrong = [name for name in names if not _SHARD.fullmatch(name)]
    if wrong:
        raise damaged(file, f"{wrong[0]!r} is not the name of a file of a state")


def iterate_sharded(file: Path, folder: RunFolder) -> Iterator[tuple[str, Tensor, tuple[str, Tensor] | None]]:
    """Tensors of a state, file by file: name, rows, and node type and numbers of the rows; None for whole tensors.

    Raises
    ------
    CheckpointError
        If a file is missing or not what was written.
    """
    for name, digest in load_index(file, folder)["files"].items():
        tensors, about = folder.load_tensors(folder.path / name)
        require_digest(file, folder.path / name, digest)
        rows_of = about.get("rows_of", {})
        for tensor, value in tensors.items():
            if tensor in rows_of:
                yield tensor, value, (rows_of[tensor], tensors[ROWS + rows_of[tensor]])
            elif not tensor.startswith(ROWS):
                yield tensor, value, None


def require_digest(index: Path, file: Path, digest: str) -> None:
    """Raise CheckpointError unless a file is there and has the digest that the index says."""
    try:
        found = digest_of(file)
    except DataError as error:
        raise damaged(file, error) from error
    if found != digest:
        raise damaged(file, f"it has another digest than {index.name} says")


def digest_of(file: Path) -> str:
    """SHA-256 of a file."""
    return str(file_digest(file)["sha256"])


def load_sharded(file: Path, folder: RunFolder) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a state, put together from the files of all processes.

    Raises
    ------
    CheckpointError
        If a file is missing or not what was written, or rows of a tensor are missing.
    """
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    found: dict[str, Tensor] = {}
    for tensor, value, rows in iterate_sharded(file, folder):
        if rows is None:
            found[tensor] = value
        else:
            parts.setdefault(tensor, []).append((rows[1], value))
    for tensor, pieces in parts.items():
        found[tensor] = _joined(file, tensor, pieces)
    return found, dict(load_index(file, folder)["metadata"])


def _joined(index: Path, name: str, pieces: list[tuple[Tensor, Tensor]]) -> Tensor:
    rows, values = torch.cat([rows for rows, _ in pieces]), torch.cat([values for _, values in pieces])
    if len(rows) != len(values) or not torch.equal(rows.sort().values, torch.arange(len(rows))):
        raise damaged(index, f"its files do not have every row of {name} once")
    return torch.empty_like(values).index_copy_(0, rows, values)
