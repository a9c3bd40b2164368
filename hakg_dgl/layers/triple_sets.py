"""Sets of triples around sets of items, hop after hop, drawn so that equal sets of items have equal sets of triples.

Draws are words that are hashed from the items of a set, the hop and the place. So the sets of a new user are what they
would have been in training, whatever the order of the user's items and whoever else is asked about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hakg_dgl.graph.packed import Grouping, KnowledgePattern, SparsePattern

Words = NDArray[np.uint64]
Ids = NDArray[np.int64]
_STEP = np.uint64(0x9E3779B97F4A7C15)
_ENTITIES = 1 << 40
"""Where entities that are no items begin, for words that do not depend on the number of items."""


def mixed(words: Words) -> Words:
    """SplitMix64's step and finaliser (Steele, Lea and Flood, OOPSLA 2014), elementwise: well mixed 64-bit words."""
    x = words + _STEP
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def salts_of_sets(indptr: Ids, members: Ids, seed: int) -> Words:
    """A word for each set, ``[n]``; the order of its members does not matter."""
    sums = np.zeros(len(members) + 1, dtype=np.uint64)
    np.cumsum(mixed(members.astype(np.uint64) + np.uint64(seed)), out=sums[1:])
    return mixed(sums[indptr[1:]] - sums[indptr[:-1]])


def draws(salts: Words, stream: int, size: int) -> Words:
    """Words ``[n, size]`` of a numbered stream of each salt."""
    places = mixed(np.arange(size, dtype=np.uint64) + np.uint64(stream << 32))
    return mixed(salts[:, None] ^ places[None, :])


def picked(words: Words, counts: Ids) -> Ids:
    """Numbers below ``counts`` (0 where a count is 0), uniform to within count / 2^64; the shapes broadcast."""
    return (words % np.maximum(counts, 1).astype(np.uint64)).astype(np.int64)


def words_of_facts(knowledge: KnowledgePattern, edges: Ids, n_items: int) -> Words:
    """A word for each fact of ``edges``, by relation and tail, ``[n]``; it stays where there are more items."""
    tail = knowledge.pairs.cols.cpu().numpy()[edges]
    tail = np.where(tail < n_items, tail, tail - n_items + _ENTITIES).astype(np.uint64)
    return mixed(mixed(tail) + knowledge.relation.cpu().numpy()[edges].astype(np.uint64))


@dataclass(frozen=True)
class TripleSets:
    """Triples around some sets of items.

    Attributes
    ----------
    pair_head, pair_relation
        int64 ``[n_pairs]``: the distinct heads with their relations, of all hops.
    hops
        For each hop who has which tails, rows being the sets, and for each edge the number of its pair, grouped too.
    """

    pair_head: Tensor
    pair_relation: Tensor
    hops: tuple[tuple[SparsePattern, Grouping, Tensor], ...]


def triple_sets(
    indptr: Ids, items: Ids, salts: Words, knowledge: KnowledgePattern, *, hops: int, size: int
) -> TripleSets:
    """Draw triples around sets of items.

    At each hop ``size`` times a head is drawn uniformly from the members of the set, or from the tails of the hop
    before, and then one of its triples, both with replacement. A head without triples takes its place without giving
    one.

    Parameters
    ----------
    indptr, items
        int64: set s has the members ``items[indptr[s]:indptr[s + 1]]``, ascending, which are entities.
    salts
        A word for each set, which decides what is drawn.
    knowledge
        The facts, on any device; the result lies there too.
    hops, size
        The number of hops, and of draws a hop.
    """
    n, device = len(indptr) - 1, knowledge.relation.device
    starts, tails, relations = (
        x.cpu().numpy() for x in (knowledge.pairs.by_row.indptr, knowledge.pairs.cols, knowledge.relation)
    )
    degrees, found, bounds, members = np.diff(starts), [], indptr, items
    for hop in range(hops):
        count = np.diff(bounds)
        rows = np.repeat(np.flatnonzero(count), size)  # sets without members draw nothing
        of_head, words = (draws(salts[count > 0], 2 * hop + which, size).reshape(-1) for which in (0, 1))
        heads = members[bounds[rows] + picked(of_head, count[rows])]
        some = degrees[heads] > 0
        rows, heads, words = rows[some], heads[some], words[some]
        edge = starts[heads] + picked(words, degrees[heads])
        found.append((rows, heads * max(1, knowledge.n_relations) + relations[edge], tails[edge]))
        members, bounds = tails[edge], np.concatenate([[0], np.bincount(rows, minlength=n).cumsum()])
    pairs, number = np.unique(np.concatenate([pair for _, pair, _ in found]), return_inverse=True)
    parts = np.split(number, np.cumsum([len(pair) for _, pair, _ in found])[:-1])
    laid = []
    for (rows, _, ends), part in zip(found, parts, strict=True):
        pattern = SparsePattern.from_pairs(on(rows, device), on(ends, device), n, knowledge.pairs.n_cols)
        laid.append((pattern, Grouping.of(on(part, device), len(pairs)), on(part, device)))
    width = max(1, knowledge.n_relations)
    return TripleSets(on(pairs // width, device), on(pairs % width, device), tuple(laid))


def on(values: NDArray[Any], device: torch.device) -> Tensor:
    """A copy as an int64 tensor on the device."""
    return torch.from_numpy(np.array(values, dtype=np.int64)).to(device)
