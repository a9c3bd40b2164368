"""Neighbours that are sampled once, from a generator of their own, so that a saved model finds the same ones again."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hakg_dgl.graph.packed import KnowledgePattern, SparsePattern
from hakg_dgl.layers.triple_sets import words_of_facts


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


def facts_but_to(knowledge: KnowledgePattern, nodes: range) -> KnowledgePattern:
    """The facts that lead to none of these entities."""
    if not nodes:
        return knowledge
    cols = knowledge.pairs.cols
    return knowledge.keep((cols < nodes.start) | (cols >= nodes.stop), knowledge.pairs.n_rows)


def sampled_facts(knowledge: KnowledgePattern, size: int, generator: np.random.Generator, new: range) -> Tensor:
    """Which facts remain if each entity keeps at most ``size``: those drawn without the new items, and some of theirs.

    Parameters
    ----------
    knowledge
        The facts, none of which leads to a new item.
    size, generator
        As for :func:`sampled_edges`.
    new
        Items that came later. Which of its facts one keeps follows from the facts alone, not from its number, the seed
        or other new items.

    Returns
    -------
    Tensor
        bool ``[n_edges]`` on the device of the facts.
    """
    pairs = knowledge.pairs
    if not new:
        return sampled_edges(pairs, size, generator)
    of_new = (pairs.rows >= new.start) & (pairs.rows < new.stop)
    mask = torch.zeros_like(of_new)
    mask[~of_new] = sampled_edges(pairs.keep(~of_new), size, generator)
    edges = of_new.nonzero().squeeze(1).cpu().numpy()
    rows = pairs.rows.cpu().numpy()[edges]
    order = edges[np.lexsort((words_of_facts(knowledge, edges, new.stop), rows))]
    first = np.searchsorted(rows, rows)
    mask[torch.from_numpy(order[np.arange(len(rows)) - first < size]).to(mask.device)] = True
    return mask
