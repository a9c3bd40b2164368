"""Neighbours that are sampled once, from a generator of their own, so that a saved model finds the same ones again."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hakg_dgl.graph.packed import SparsePattern


def sampled_edges(pattern: SparsePattern, size: int, generator: np.random.Generator) -> Tensor:
    """Which edges remain if each row keeps at most ``size`` of its own, drawn uniformly and each once.

    Parameters
    ----------
    pattern
        The edges, on any device; what is drawn does not depend on it.
    size
        The most edges of a row, at least 1.
    generator
        A number is drawn for each edge.

    Returns
    -------
    Tensor
        bool ``[n_edges]`` on the device of the pattern.
    """
    rows = pattern.rows.cpu().numpy()
    order = np.lexsort((generator.random(len(rows)), rows))
    first = pattern.by_row.indptr.cpu().numpy()[rows]  # rows are sorted, so place i of the order is of row rows[i]
    kept = np.zeros(len(rows), dtype=bool)
    kept[order] = np.arange(len(rows)) - first < size
    return torch.from_numpy(kept).to(pattern.rows.device)
