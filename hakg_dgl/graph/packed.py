"""Packed sparse views of the heterograph: all relations in one CSR, with the orders that backward passes need.

A :class:`SparsePattern` says which (row, column) pairs exist; values live outside it. Dropping edges makes a smaller
pattern by masking and prefix sums; nothing is sorted again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hakg_dgl.graph.edge_types import EdgeType


def _indptr(sorted_rows: Tensor, n_rows: int) -> Tensor:
    counts = torch.bincount(sorted_rows, minlength=n_rows)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _counted(mask: Tensor) -> Tensor:
    """int64 ``[n + 1]``: how many are true before each place, and in all."""
    before = torch.zeros(len(mask) + 1, dtype=torch.int64, device=mask.device)
    torch.cumsum(mask, 0, out=before[1:])
    return before


class Kept:
    """Which edges are kept, counted once for all the groupings that shrink with them.

    How many are kept is known to the device alone, and to ask it is to wait for it. ``padded`` does not ask: the
    dropped edges stay behind the kept ones, beyond all bounds of the groupings, for products that read those alone.

    Attributes
    ----------
    mask
        bool ``[n_edges]``.
    padded
        Whether the dropped edges stay.
    before
        int64 ``[n_edges + 1]``: how many kept edges there are before each edge.
    number
        int64: the number that each edge has among the kept ones (of dropped edges: behind them, if padded).
    index
        int64, numbers of the kept edges; if padded, then those of the dropped ones.
    """

    def __init__(self, mask: Tensor, *, padded: bool = False) -> None:
        self.mask: Tensor = mask
        self.padded: bool = padded
        self.before: Tensor = _counted(mask)
        self.number: Tensor = self._numbers(mask, self.before) if padded else self.before
        self.index: Tensor = self.first(mask)

    @staticmethod
    def _numbers(mask: Tensor, before: Tensor) -> Tensor:
        places = torch.arange(len(mask), device=mask.device)
        return torch.where(mask, before[:-1], before[-1] + places - before[:-1])

    def first(self, mask: Tensor) -> Tensor:
        """Places where ``mask``; if padded, then the others. Both in order."""
        if not self.padded:
            return mask.nonzero().squeeze(1)
        numbers = self.number if mask is self.mask else self._numbers(mask, _counted(mask))
        return torch.empty_like(numbers).index_copy_(0, numbers, torch.arange(len(mask), device=mask.device))

    def of(self, edge_values: Tensor) -> Tensor:
        """Values of the kept edges; if padded, then those of the dropped ones."""
        return edge_values.index_select(0, self.index)


class Grouping:
    """Edges grouped by one of their ends (or their relation), without moving the edges themselves.

    Attributes
    ----------
    indptr
        int64 ``[n_groups + 1]``; group g holds positions ``indptr[g]:indptr[g+1]`` of ``order``.
    order
        int64 ``[n_edges]``, edge numbers sorted by group; None where the edges already are.
    """

    def __init__(self, indptr: Tensor, order: Tensor | None) -> None:
        self.indptr: Tensor = indptr
        self.order: Tensor | None = order

    @classmethod
    def of(cls, group: Tensor, n_groups: int) -> Grouping:
        """Group edges by ``group`` (int64 ``[n_edges]``); a stable sort, so ties keep edge order."""
        if group.device.type == "cpu" and n_groups <= 1 << 16:
            keys = group.numpy().astype(np.uint16)  # 16 bits: NumPy sorts them by radix, several times as fast
            order = torch.from_numpy(np.argsort(keys, kind="stable"))
        else:
            order = torch.argsort(group, stable=True)
        counts = torch.bincount(group, minlength=n_groups)
        return cls(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), order)

    def keep(self, kept: Kept) -> Grouping:
        """The same grouping over the kept edges."""
        if self.order is None:
            return Grouping(kept.before.index_select(0, self.indptr), None)
        mask = kept.mask.index_select(0, self.order)
        order = kept.number.index_select(0, self.order.index_select(0, kept.first(mask)))
        return Grouping(_counted(mask).index_select(0, self.indptr), order)

    def permute(self, edge_values: Tensor) -> Tensor:
        """Values ``[n_edges, ...]`` in group order."""
        return edge_values if self.order is None else edge_values.index_select(0, self.order)

    def restore(self, group_values: Tensor) -> Tensor:
        """Inverse of :meth:`permute`: values in edge order from values in group order."""
        if self.order is None:
            return group_values
        return torch.empty_like(group_values).index_copy_(0, self.order, group_values)


@dataclass(eq=False)
class SparsePattern:
    """Pairs (row, column) sorted by row: who receives (rows) from whom (columns).

    Attributes
    ----------
    n_rows, n_cols
        Shape of the matrix that the pattern describes.
    by_row
        Edges grouped by row (in edge order).
    rows, cols
        int64 ``[n_edges]``.
    """

    n_rows: int
    n_cols: int
    by_row: Grouping
    rows: Tensor
    cols: Tensor

    @classmethod
    def from_pairs(cls, rows: Tensor, cols: Tensor, n_rows: int, n_cols: int) -> SparsePattern:
        """Pattern of the given pairs, int64 ``[n_edges]`` each; ``rows`` must be sorted."""
        return cls(n_rows, n_cols, Grouping(_indptr(rows, n_rows), None), rows, cols)

    @property
    def n_edges(self) -> int:
        """Number of pairs, or of places for them where they are padded."""
        return len(self.cols)

    @cached_property
    def by_col(self) -> Grouping:
        """Edges grouped by column, for the transposed product."""
        return Grouping.of(self.cols, self.n_cols)

    @cached_property
    def row_degree(self) -> Tensor:
        """int64 ``[n_rows]``: edges of each row."""
        return self.by_row.indptr.diff()

    @cached_property
    def col_degree(self) -> Tensor:
        """int64 ``[n_cols]``: edges of each column."""
        return self.by_col.indptr.diff()

    def keep(self, mask: Tensor, *, padded: bool = False) -> SparsePattern:
        """The pattern of the edges where ``mask`` (bool ``[n_edges]``); ``padded`` as in :class:`Kept`."""
        return self.keep_those(Kept(mask, padded=padded))

    def keep_those(self, kept: Kept) -> SparsePattern:
        """The pattern of the kept edges."""
        smaller = SparsePattern(
            self.n_rows, self.n_cols, self.by_row.keep(kept), kept.of(self.rows), kept.of(self.cols)
        )
        smaller.by_col = self.by_col.keep(kept)
        return smaller


@dataclass(eq=False)
class KnowledgePattern:
    """The knowledge graph: pattern head x tail, sorted by head then relation, and each edge's relation.

    Attributes
    ----------
    pairs
        Heads are rows (they receive), tails are columns.
    relation
        int64 ``[n_edges]``; relation r's inverse is r + R.
    n_relations
        2R, inverses counted.
    """

    pairs: SparsePattern
    relation: Tensor
    n_relations: int

    @property
    def n_edges(self) -> int:
        """Number of edges, inverses counted."""
        return self.pairs.n_edges

    @cached_property
    def by_relation(self) -> Grouping:
        """Edges grouped by relation."""
        return Grouping.of(self.relation, self.n_relations)

    @cached_property
    def tail_relation(self) -> Tensor:
        """Relations in the order of ``pairs.by_col``: the columns of a tail x relation pattern."""
        return self.pairs.by_col.permute(self.relation)

    def keep(self, mask: Tensor | None, n_heads: int, *, padded: bool = False) -> KnowledgePattern:
        """The edges where ``mask`` (bool ``[n_edges]``; None: all) whose head is below n_heads, with n_heads rows.

        ``padded`` is as in :class:`Kept`.
        """
        within = self.pairs.rows < n_heads
        kept = Kept(within if mask is None else mask & within, padded=padded)
        smaller = KnowledgePattern(self.pairs.keep_those(kept), kept.of(self.relation), self.n_relations)
        smaller.by_relation = self.by_relation.keep(kept)
        smaller.pairs.n_rows = n_heads
        smaller.pairs.by_row = Grouping(smaller.pairs.by_row.indptr[: n_heads + 1], None)
        return smaller


@dataclass(eq=False)
class PackedGraph:
    """Everything the fast path needs of the heterograph.

    Attributes
    ----------
    n_users, n_items, n_entities
        Node counts; entities 0..n_items-1 are the items.
    n_relations
        R, without inverses.
    interactions
        Pattern user x item of the training interactions.
    knowledge
        The knowledge graph with inverses.
    """

    n_users: int
    n_items: int
    n_entities: int
    n_relations: int
    interactions: SparsePattern
    knowledge: KnowledgePattern


@dataclass(frozen=True, eq=False)
class JoinedEdges:
    """Edges of several types in one pattern, sorted by row, then by the number of the type, then by column.

    Attributes
    ----------
    edge_types
        In the order that numbers them.
    receivers, senders
        Node types whose tables, one after the other, are the rows and the columns.
    pattern
        Rows receive from columns; ``relation`` is the number of the edge type.
    places
        Edge type -> int64, for each of its edges the place in the pattern.
    order
        int64 ``[n_edges]``: for each place its edge, counted through all types in their order.
    """

    edge_types: tuple[EdgeType, ...]
    receivers: tuple[str, ...]
    senders: tuple[str, ...]
    pattern: KnowledgePattern
    places: Mapping[EdgeType, Tensor]
    order: Tensor


def join_edges(
    edges: Mapping[EdgeType, tuple[Tensor, Tensor]], n_nodes: Mapping[str, int], *, one_table: bool = False
) -> JoinedEdges:
    """Join edges (source, destination) of at least one type; see :class:`JoinedEdges`.

    Parameters
    ----------
    edges
        By type, in the order that numbers the types.
    n_nodes
        Node type -> number of nodes.
    one_table
        Whether rows and columns are the same table, of all node types at either end.
    """
    edge_types = tuple(edges)
    receivers = _distinct(destination for _, _, destination in edge_types)
    senders = _distinct(source for source, _, _ in edge_types)
    if one_table:
        receivers = senders = _distinct((*receivers, *senders))
    starts, n_rows = _starts(receivers, n_nodes)
    rows = torch.cat([destination + starts[etype[2]] for etype, (_, destination) in edges.items()])
    starts, n_cols = _starts(senders, n_nodes)
    cols = torch.cat([source + starts[etype[0]] for etype, (source, _) in edges.items()])
    sizes = [len(source) for source, _ in edges.values()]
    numbers = torch.cat([torch.full_like(source, number) for number, (source, _) in enumerate(edges.values())])
    order = _order((rows * len(edge_types) + numbers) * n_cols + cols)
    places = torch.arange(len(rows), device=rows.device)
    if order is None:
        order = places
    else:
        rows, cols, numbers = (ends.index_select(0, order) for ends in (rows, cols, numbers))
        places = torch.empty_like(order).index_copy_(0, order, places)
    pattern = KnowledgePattern(SparsePattern.from_pairs(rows, cols, n_rows, n_cols), numbers, len(edge_types))
    by_type = dict(zip(edge_types, torch.split(places, sizes), strict=True))
    return JoinedEdges(edge_types, receivers, senders, pattern, by_type, order)


def _order(keys: Tensor) -> Tensor | None:
    """The stable order of keys; None if they are in order, as the interactions of a data set are."""
    if len(keys) < 2 or bool((keys[1:] >= keys[:-1]).all()):
        return None
    return torch.argsort(keys, stable=True)


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Each name once, in the order of first occurrence."""
    return tuple(dict.fromkeys(names))


def _starts(node_types: Iterable[str], n_nodes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Where the table of each node type starts if one follows the other, and the number of all rows."""
    starts, total = {}, 0
    for node_type in node_types:
        starts[node_type] = total
        total += n_nodes[node_type]
    return starts, total
