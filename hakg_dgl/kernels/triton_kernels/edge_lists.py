# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code="no-untyped-def,no-untyped-call,misc"
"""The edges of a graph grouped by every end that sums are made at, in one list, of which a step keeps some.

The lists of all groups lie one after the other in a single array and are cut in pieces, which never change. Dropping
edges moves those that are kept to the front: one kernel marks them, a prefix sum counts them, and one kernel moves
them, for all lists at once. A piece then is the part between two of the counts. Nothing is sorted in a step, nothing
is read back from the device, and edges keep their numbers, so nothing else of the graph has to be moved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hakg_dgl.graph.packed import Grouping, KnowledgePattern, SparsePattern
from hakg_dgl.kernels.propagation import Chance

HEAD_PIECE = 256
"""Edges of a head or a tail in one piece: of the half that a step keeps, as many as registers add up in fair time."""
ROW_PIECE = 512
"""The same for users, items and relations."""
MOST_EDGES = 1 << 31
"""Places of all lists are counted in 32 bits."""
_BLOCK = 1024


class Group(NamedTuple):
    """Pieces ``start`` to ``stop`` of the lists of one kind; those of row r are ``first[r]`` to ``first[r + 1]``."""

    start: int
    stop: int
    first: Tensor


@dataclass(frozen=True, eq=False)
class EdgeLists:
    """See the module.

    Attributes
    ----------
    order
        int32, numbers of edges: first those of interactions in the order of the lists, then those of facts.
    counts
        int32, as long: how many edges up to each place are kept.
    bounds
        int32 ``[n_pieces + 1]``: first place of each piece among all edges, kept or not.
    row
        int32 ``[n_pieces]``: whose piece it is.
    n_interactions
        Places of interactions.
    users, items, heads, tails, relations
        Interactions by user and by item; facts by head, tail and relation.
    last_tails, last_relations
        Those facts alone whose head is an item: the others are of no use in the last layer.
    """

    order: Tensor
    counts: Tensor
    bounds: Tensor
    row: Tensor
    n_interactions: int
    users: Group
    items: Group
    heads: Group
    tails: Group
    last_tails: Group
    relations: Group
    last_relations: Group

    @classmethod
    def of(cls, interactions: SparsePattern, knowledge: KnowledgePattern) -> EdgeLists:
        """The lists of all edges. Asks the device how many there are."""
        pairs = knowledge.pairs
        of_items = pairs.rows < interactions.n_cols
        groupings = (
            (interactions.by_row, ROW_PIECE), (interactions.by_col, ROW_PIECE),
            (pairs.by_row, HEAD_PIECE), (pairs.by_col, HEAD_PIECE), (_only(pairs.by_col, of_items), HEAD_PIECE),
            (knowledge.by_relation, ROW_PIECE), (_only(knowledge.by_relation, of_items), ROW_PIECE),
        )  # fmt: skip
        groups: list[Group] = []
        orders, bounds, rows, places, pieces = [], [], [], 0, 0
        for grouping, size in groupings:
            order = _order_of(grouping)
            first, begin, row = _cut(grouping.indptr, size)
            groups.append(Group(pieces, pieces + len(row), (first + pieces).int()))
            orders.append(order)
            bounds.append(begin + places)
            rows.append(row)
            places, pieces = places + len(order), pieces + len(row)
        end = bounds[0].new_full((1,), places)
        counts = torch.arange(1, places + 1, dtype=torch.int32, device=end.device)
        return cls(
            torch.cat(orders).int(), counts, torch.cat([*bounds, end]).int(), torch.cat(rows).int(),
            2 * interactions.n_edges, *groups,
        )  # fmt: skip

    def drop(self, chance: Chance) -> EdgeLists:
        """The same lists of the edges that a step keeps."""
        facts, interactions, _ = chance.limits
        n, lowest = len(self.order), -(1 << 15)
        if facts == interactions == lowest:
            return self
        flags, order, grid = torch.empty_like(self.order), torch.empty_like(self.order), (triton.cdiv(n, _BLOCK),)
        _mark_kernel[grid](
            self.order, chance.words, flags, n, self.n_interactions, chance.starts[1], chance.starts[0],
            INTERACTIONS=interactions, FACTS=facts, BLOCK=_BLOCK,
        )  # fmt: skip
        counts = torch.cumsum(flags, 0, dtype=torch.int32)
        _move_kernel[grid](self.order, counts, order, n, BLOCK=_BLOCK)
        return replace(self, order=order, counts=counts)


def n_places(interactions: SparsePattern, knowledge: KnowledgePattern) -> int:
    """At most as many places have the lists of these edges."""
    return 2 * interactions.n_edges + 5 * knowledge.n_edges


def _order_of(grouping: Grouping) -> Tensor:
    if grouping.order is not None:
        return grouping.order
    return torch.arange(int(grouping.indptr[-1]), device=grouping.indptr.device)


def _only(grouping: Grouping, chosen: Tensor) -> Grouping:
    """The grouping of those edges alone that are chosen (bool ``[n_edges]``), with their numbers among all."""
    order = _order_of(grouping)
    mask = chosen.index_select(0, order)
    before = torch.cat([grouping.indptr.new_zeros(1), mask.cumsum(0)])
    return Grouping(before.index_select(0, grouping.indptr), order[mask])


def _cut(indptr: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Number of the first piece of each row ``[n_rows + 1]``; first place and row of each piece."""
    n = torch.div(indptr.diff() + size - 1, size, rounding_mode="floor")
    first = torch.cat([n.new_zeros(1), n.cumsum(0)])
    row = torch.repeat_interleave(n)
    within = torch.arange(len(row), device=row.device) - first.index_select(0, row)
    return first, indptr.index_select(0, row) + within * size, row


@triton.jit
def _mark_kernel(
    order, words, flags, n, n_interactions, interaction_words, fact_words,
    INTERACTIONS: tl.constexpr, FACTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """1 for edges that are kept, 0 for others."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = place < n
    edge = tl.load(order + place, mask=live, other=0).to(tl.int64)
    interaction = place < n_interactions
    limit = tl.where(interaction, INTERACTIONS, FACTS)
    word = tl.where(interaction, interaction_words, fact_words).to(tl.int64) + edge
    drawn = tl.load(words + word, mask=live & (limit > -32768), other=0).to(tl.int32)
    tl.store(flags + place, (drawn >= limit).to(tl.int32), mask=live)


@triton.jit
def _move_kernel(order, counts, out, n, BLOCK: tl.constexpr):
    """The kept edges to the places that they are counted for."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = place < n
    count = tl.load(counts + place, mask=live, other=0)
    before = tl.load(counts + place - 1, mask=live & (place > 0), other=0)
    edge = tl.load(order + place, mask=live, other=0)
    tl.store(out + before, edge, mask=live & (count > before))


@triton.jit
def kept_before(bounds, counts, number):
    """How many edges are kept before the pieces of these numbers."""
    place = tl.load(bounds + number)
    return tl.load(counts + place - 1, mask=place > 0, other=0)
