"""What each process of a training reads: the first the whole data set, the others their part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch.distributed as dist

from hakg_dgl.data.dataset import Dataset, load_dataset
from hakg_dgl.data.owners import Owners, equal_owners
from hakg_dgl.data.part_dataset import part_of, read_part
from hakg_dgl.data.parts import Parts
from hakg_dgl.errors import ConfigError


def load_own(data: Path, parts: Path | None) -> tuple[Dataset, Owners]:
    """The data set of this process of the group, and who owns what.

    Parameters
    ----------
    data
        The data set. Without parts all processes read it, and those other than the first keep their part.
    parts
        Folder that ``hakg partition`` made of it; the first process alone reads the data set then.

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
        return (dataset if rank == 0 else part_of(dataset, owners, rank)), owners
    saved = Parts(parts)
    require_one_part_each(saved.n_parts, size)
    owners = Owners(size, *(np.array(saved.owners(of)) for of in ("users", "entities")))
    return (load_dataset(data) if rank == 0 else read_part(saved, rank)), owners


def require_one_part_each(n_parts: int, size: int) -> None:
    """Raise ConfigError unless there are as many parts as processes."""
    if n_parts != size:
        raise ConfigError(
            f"there are {n_parts} parts and {size} processes, and a process trains one part; start {n_parts} "
            f"processes, or run 'hakg partition' with --parts {size}"
        )
