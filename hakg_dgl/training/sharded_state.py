"""The state of a training by several processes: a file of tensors each, and an index that says which belong together.

``state.index.json`` names the files, their digests and the metadata of the state, and for each tensor the files that
have rows of it. The files of a new state have new names; the index is replaced when all of them are on the disk, by a
rename, and what it no longer names is removed after that. So a kill at any moment leaves a whole state.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hakg_dgl.data.readers.archives import file_digest
from hakg_dgl.errors import CheckpointError
from hakg_dgl.training.run_folder import RunFolder, damaged

FORMAT, FORMAT_VERSION = "hakg-sharded-state", 1
ROWS = "rows."
"""Before the name of a node type: the tensor with the numbers of its rows in a file."""
_SHARD = re.compile(r"state-(\d{8})-(\d{5})-of-(\d{5})\.safetensors")


def shard_name(number: int, rank: int, size: int) -> str:
    """Name of the file of a process in the state with this number."""
    return f"state-{number:08d}-{rank:05d}-of-{size:05d}.safetensors"


def next_number(folder: RunFolder) -> int:
    """A number that no state in the folder has."""
    found = [int(match[1]) for file in folder.path.iterdir() if (match := _SHARD.fullmatch(file.name))]
    return max(found, default=0) + 1


def save_shard(folder: RunFolder, name: str, tensors: Mapping[str, Tensor], axes: Mapping[str, str]) -> str:
    """Write the file of one process; its digest.

    Parameters
    ----------
    folder, name
        The run, and the name of the file.
    tensors
        What the process has. Of those in ``axes`` it has rows, whose numbers are in ``rows.NODE TYPE``.
    axes
        Tensor -> node type.

    Raises
    ------
    CheckpointError
        If it cannot be written.
    """
    folder.save_tensors(folder.path / name, dict(tensors), {"rows_of": dict(axes)})
    return _digest(folder.path / name)


def _digest(file: Path) -> str:
    return str(file_digest(file)["sha256"])


def save_index(folder: RunFolder, files: Mapping[str, str], about: Mapping[str, Any]) -> None:
    """Make files (name -> digest) the state of the run, and remove those of the state before."""
    folder.write_state_index(
        {"format": FORMAT, "format_version": FORMAT_VERSION, "files": dict(files), "metadata": dict(about)}
    )
    folder.state_file.unlink(missing_ok=True)
    remove_shards(folder, keep=files)


def remove_shards(folder: RunFolder, keep: Mapping[str, str] | None = None) -> None:
    """Remove the files of sharded states but those to keep; all of a state, the index included, if there are none."""
    if not keep:
        folder.state_index_file.unlink(missing_ok=True)
    for file in folder.path.iterdir():
        if _SHARD.fullmatch(file.name) and file.name not in (keep or {}):
            file.unlink(missing_ok=True)


def load_index(folder: RunFolder) -> dict[str, Any]:
    """The checked content of the index; CheckpointError if it is damaged, or of a newer version."""
    index = folder.read_state_index()
    files, about = index.get("files"), index.get("metadata")
    if index.get("format") != FORMAT or not isinstance(files, dict) or not files or not isinstance(about, dict):
        raise damaged(folder.state_index_file, "it does not describe the state of a training")
    version = index.get("format_version")
    if type(version) is not int or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{folder.state_index_file}: format version {version!r}, this version reads up to {FORMAT_VERSION}; "
            "install a newer hakg_dgl, or train again"
        )
    wrong = [name for name in files if not _SHARD.fullmatch(name)]
    if wrong:
        raise damaged(folder.state_index_file, f"{wrong[0]!r} is not the name of a file of a state")
    return index


def load_sharded(folder: RunFolder) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a state, put together from the files of all processes.

    Raises
    ------
    CheckpointError
        If a file is missing or not what was written, or rows of a tensor are missing.
    """
    index = load_index(folder)
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    found: dict[str, Tensor] = {}
    for name, digest in index["files"].items():
        tensors, about = folder.load_tensors(folder.path / name)
        if _digest(folder.path / name) != digest:
            raise damaged(folder.path / name, f"it has another digest than {folder.state_index_file.name} says")
        rows_of = about.get("rows_of", {})
        for tensor, value in tensors.items():
            if tensor in rows_of:
                parts.setdefault(tensor, []).append((tensors[ROWS + rows_of[tensor]], value))
            elif not tensor.startswith(ROWS):
                found[tensor] = value
    for tensor, pieces in parts.items():
        found[tensor] = _joined(folder.state_index_file, tensor, pieces)
    return found, dict(index["metadata"])


def _joined(index: Path, name: str, pieces: list[tuple[Tensor, Tensor]]) -> Tensor:
    rows, values = torch.cat([rows for rows, _ in pieces]), torch.cat([values for _, values in pieces])
    if len(rows) != len(values) or not torch.equal(rows.sort().values, torch.arange(len(rows))):
        raise damaged(index, f"its files do not have every row of {name} once")
    return torch.empty_like(values).index_copy_(0, rows, values)
