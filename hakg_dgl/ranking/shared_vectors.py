"""Arrays in files that the processes of a command map into memory: the memory is there once, and read where needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hakg_dgl.errors import DataError
from hakg_dgl.ranking.topk import EmbeddingScorer, Scorer


def save_array(folder: Path, name: str, values: Tensor) -> None:
    """Write a tensor to ``folder/NAME.npy``."""
    try:
        np.save(folder / f"{name}.npy", values.detach().cpu().contiguous().numpy(), allow_pickle=False)
    except OSError as error:
        raise DataError(
            f"what the processes share cannot be written: {error.strerror}", path=folder,
            remedy="Have TMPDIR name a folder on a disk with more room, or leave --processes out.",
        ) from error  # fmt: skip


def mapped_array(folder: Path, name: str) -> Tensor:
    """A tensor that :func:`save_array` wrote. Of its rows those are read that are used; the file is never changed."""
    return torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False))


def save_vectors(folder: Path, scorer: EmbeddingScorer) -> None:
    """Write what :func:`mapped_scorer` reads."""
    for name, vectors in (("user", scorer.user_vectors), ("item", scorer.item_vectors)):
        save_array(folder, f"vectors-{name}", vectors)


def mapped_scorer(folder: Path) -> EmbeddingScorer:
    """The scorer whose vectors :func:`save_vectors` wrote; of users' vectors it reads those of whom it scores."""
    return EmbeddingScorer(mapped_array(folder, "vectors-user"), mapped_array(folder, "vectors-item"))


def has_vectors(scorer: Scorer) -> bool:
    """Whether a scorer's vectors can be shared in this way: it has some, on the CPU."""
    return type(scorer) is EmbeddingScorer and scorer.item_vectors.device.type == "cpu"


def save_arrays(folder: Path, arrays: Mapping[str, Tensor | None]) -> None:
    """Write those that are there."""
    for name, values in arrays.items():
        if values is not None:
            save_array(folder, name, values)


def mapped_arrays(folder: Path, *names: str) -> dict[str, Tensor | None]:
    """The tensors with these names; None for those that were not there."""
    return {name: mapped_array(folder, name) if (folder / f"{name}.npy").exists() else None for name in names}
