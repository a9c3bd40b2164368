"""What each process of a training reads: its part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch.distributed as dist

from hakg_dgl.data.dataset import load_dataset, read_about
from hakg_dgl.data.owners import Owners, equal_owners
from hakg_dgl.data.part_dataset import PartDataset, part_of, read_part
from hakg_dgl.data.parts import Parts
from hakg_dgl.errors import ConfigError, IntegrityError


def load_own(data: Path, parts: Path | None) -> tuple[PartDataset, Owners]:
    """The data set of this process of the group, and who owns what.

    Parameters
    ----------
    data
        The data set. Without parts all processes read it, and keep their part.
    parts
        Folder that ``hakg partition`` made of it; no process reads the data set then.

    Raises
    ------
    DataError, IntegrityError
        If the data set or the parts cannot be read.
    ConfigError
        If there are not as many parts as processes.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    if parts is None:
        dataset = load_dataset(data)
        owners = equal_owners(dataset.n_users, dataset.n_items, dataset.n_entities, size)
        return part_of(dataset, owners, rank), owners
    saved = Parts(parts)
    require_one_part_each(saved.n_parts, size)
    owners = Owners(size, *(np.array(saved.owners(of)) for of in ("users", "entities")))
    if rank == 0 or (data / "dataset.json").is_file():  # another host needs its part alone
        _require_of(saved, data)
    return read_part(saved, rank), owners


def require_one_part_each(n_parts: int, size: int) -> None:
    """Raise ConfigError unless there are as many parts as processes."""
    if n_parts != size:
        raise ConfigError(
            f"there are {n_parts} parts and {size} processes, and a process trains one part; start {n_parts} "
            f"processes, or run 'hakg partition' with --parts {size}"
        )


def _require_of(parts: Parts, data: Path) -> None:
    """Raise IntegrityError if the parts are of another data set."""
    if read_about(data).get("digest") != parts.data_digest:
        raise IntegrityError(
            f"the parts are not of {data}", path=parts.path, remedy="Run 'hakg partition' on this data set."
        )
