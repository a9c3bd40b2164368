"""Arrays in files that the processes of a command map into memory: the memory is there once, and read where needed."""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor

from hakg_dgl.errors import DataError
from hakg_dgl.ranking.topk import EmbeddingScorer, Scorer

VECTORS = ("vectors-user", "vectors-item")
"""Names of the arrays with the vectors that rank."""


def save_array(folder: Path, name: str, values: Tensor) -> None:
    """Write a tensor to ``folder/NAME.bin``, and what it is to ``folder/NAME.json``."""
    array = values.detach().cpu().contiguous().numpy()
    with _writing(folder):
        array.tofile(_file(folder, name))
        _describe(folder, name, array.shape, values.dtype)


def create_array(folder: Path, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Make a file of zeros that :func:`mapped_array` and :func:`writable_array` map."""
    size = math.prod(shape) * torch.empty(0, dtype=dtype).element_size()
    with _writing(folder), _file(folder, name).open("wb") as file:
        file.truncate(size)
        if size and hasattr(os, "posix_fallocate"):  # else writing to the tensor fails on a full disk, by a signal
            os.posix_fallocate(file.fileno(), 0, size)
        _describe(folder, name, shape, dtype)


def _describe(folder: Path, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    about = {"dtype": str(dtype).removeprefix("torch."), "shape": shape}
    (folder / f"{name}.json").write_text(json.dumps(about), encoding="utf-8")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"what the processes share cannot be written: {error.strerror or error}", path=folder,
            remedy="Have TMPDIR name a folder on a disk with more room, or leave --processes out.",
        ) from error  # fmt: skip


def writable_array(folder: Path, name: str) -> Tensor:
    """The same, but what is written to the tensor is written to the file."""
    return _mapped(folder, name, "r+b", mmap.ACCESS_WRITE)


def mapped_array(folder: Path, name: str) -> Tensor:
    """A tensor that :func:`save_array` wrote. Of its rows those are read that are used; the file is never changed."""
    return _mapped(folder, name, "rb", mmap.ACCESS_COPY)


def _mapped(folder: Path, name: str, mode: str, access: int) -> Tensor:
    about = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    dtype = getattr(torch, about["dtype"])
    if 0 in about["shape"]:
        return torch.empty(about["shape"], dtype=dtype)
    with _file(folder, name).open(mode) as file:
        pages = mmap.mmap(file.fileno(), 0, access=access)
    return torch.frombuffer(pages, dtype=dtype).view(about["shape"])


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.bin"


def save_vectors(folder: Path, scorer: EmbeddingScorer) -> None:
    """Write what :func:`mapped_scorer` reads."""
    for name, vectors in zip(VECTORS, (scorer.user_vectors, scorer.item_vectors), strict=True):
        save_array(folder, name, vectors)


def mapped_scorer(folder: Path) -> EmbeddingScorer:
    """The scorer whose vectors :func:`save_vectors` wrote; of users' vectors it reads those of whom it scores."""
    user, item = (mapped_array(folder, name) for name in VECTORS)
    return EmbeddingScorer(user, item)


def has_vectors(scorer: Scorer) -> TypeGuard[EmbeddingScorer]:
    """Whether a scorer's vectors can be shared in this way: it has some, on the CPU."""
    return type(scorer) is EmbeddingScorer and scorer.item_vectors.device.type == "cpu"


def save_arrays(folder: Path, arrays: Mapping[str, Tensor | None]) -> None:
    """Write those that are there."""
    for name, values in arrays.items():
        if values is not None:
            save_array(folder, name, values)


def mapped_arrays(folder: Path, *names: str) -> dict[str, Tensor | None]:
    """The tensors with these names; None for those that were not there."""
    return {name: mapped_array(folder, name) if _file(folder, name).exists() else None for name in names}
