"""The whole of what processes have parts of, in the first one, for what one process has to compute alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hakg_dgl.data.part_dataset import PartDataset
from hakg_dgl.data.readers.raw import SPLITS
from hakg_dgl.distributed.ownership import Ownership
from hakg_dgl.distributed.ranks import Ranks


def gathered_rows(ranks: Ranks, rows: Tensor) -> Tensor | None:
    """The rows of all processes, as many as each has, one process after the other, in the first; None in the others."""
    counts = torch.zeros(ranks.size, dtype=torch.int64)
    counts[ranks.rank] = len(rows)
    return ranks.to_first(rows, ranks.sum(counts).tolist())


def gathered_dataset(
    ranks: Ranks, ownership: Ownership, part: PartDataset, splits: Sequence[str] | None = None
) -> PartDataset | None:
    """The interactions and triples of all parts in the first process; None in the others.

    Parameters
    ----------
    ranks, ownership
        The processes and what they own.
    part
        Of this process.
    splits
        Splits whose interactions are wanted; all by default, none for ``()``.
    """
    device = ownership.owners["user"].device
    frame = part.interactions
    codes = frame["split"].cat.codes.to_numpy(dtype=np.int64)
    table = torch.from_numpy(np.column_stack([frame["user"].to_numpy(), frame["item"].to_numpy(), codes]))
    wanted = range(len(SPLITS)) if splits is None else [list(SPLITS).index(split) for split in splits]
    own = ownership.owners["user"].cpu()[table[:, 0]] == ranks.rank
    own &= torch.isin(table[:, 2], torch.tensor(list(wanted), dtype=torch.int64))
    interactions = gathered_rows(ranks, table[own].to(device))
    facts = torch.from_numpy(part.triples[["head", "relation", "tail"]].to_numpy(dtype=np.int64, copy=True))
    triples = gathered_rows(ranks, facts[ownership.owners["entity"].cpu()[facts[:, 0]] == ranks.rank].to(device))
    if interactions is None or triples is None:
        return None
    user, item, code = interactions.cpu().numpy().T
    split = np.array(SPLITS, dtype=object)[code]
    return dataclasses.replace(
        part,
        interactions=pd.DataFrame({"user": user, "item": item, "split": split}),
        triples=pd.DataFrame(triples.cpu().numpy(), columns=["head", "relation", "tail"]),
    )
