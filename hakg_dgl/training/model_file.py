"""The trained model of a run: one file, or one of each process that trained it and an index of them.

``model.safetensors.index.json`` has the layout that Hugging Face's libraries read: ``weight_map`` says in which file a
tensor is. A table with a row a user, an item or an entity is stored in pieces, each a tensor of its own with
consecutive rows, ``NAME.rows.FIRST-END`` (``END`` is not among them); ``metadata.tables`` lists the pieces of each
table in order. As with states, files of a new model have new names, and the index is replaced last.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hakg_dgl.errors import CheckpointError
from hakg_dgl.training.run_folder import RunFolder, damaged
from hakg_dgl.training.sharded_state import refuse_newer, require_digest, require_names, shards_in

FORMAT, FORMAT_VERSION = "hakg-sharded-model", 1
_TRIES = 5
"""Openings of a model that another process replaces again and again."""

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


def load_model_tensors(folder: RunFolder) -> Loaded:
    """Tensors and metadata of the model of a run, all of one version.

    Raises
    ------
    CheckpointError
        If there is no model, or it is damaged.
    """
    for _ in range(_TRIES - 1):
        before = _version(folder)
        try:
            return _load(folder)
        except CheckpointError:
            if _version(folder) == before:  # else it was replaced meanwhile
                raise
    return _load(folder)


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


def _load(folder: RunFolder) -> Loaded:
    file = folder.model_index_file
    if not file.exists():
        return folder.load_tensors(folder.model_file)
    index = _index(folder)
    metadata, pieces = index["metadata"], dict[str, Tensor]()
    for name, digest in metadata["files"].items():
        tensors, _ = folder.load_tensors(folder.path / name)
        require_digest(file, folder.path / name, digest)
        pieces |= tensors
    if pieces.keys() != index["weight_map"].keys():
        raise damaged(file, "its files have other tensors than it says")
    tables = {name: torch.cat([pieces.pop(piece) for piece in names]) for name, names in metadata["tables"].items()}
    return {**pieces, **tables}, dict(metadata["hakg"])


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
