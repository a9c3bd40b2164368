"""Packed sparse views of the heterograph: all relations in one CSR, with the orders that backward passes need.

A :class:`SparsePattern` says which (row, column) pairs exist; values live outside it. Dropping edges makes a smaller
pattern by masking and prefix sums; nothing is sorted again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


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
        self.mask, self.padded, self.before = mask, padded, _counted(mask)
        self.number = self._numbers(mask, self.before) if padded else self.before
        self.index = self.first(mask)

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
        self.indptr, self.order = indptr, order

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
        return self._keep(Kept(mask, padded=padded))

    def _keep(self, kept: Kept) -> SparsePattern:
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
        smaller = KnowledgePattern(self.pairs._keep(kept), kept.of(self.relation), self.n_relations)
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

    @classmethod
    def from_arrays(
        cls, interactions: Tensor, triples: Tensor, *, n_users: int, n_items: int, n_entities: int, n_relations: int
    ) -> PackedGraph:
        """Pack interactions (int64 ``[n, 2]``: user, item) and triples (int64 ``[t, 3]``: head, relation, tail).

        Inverse triples (tail, r + R, head) are added here. The tensors' device is kept.
        """
        users, items = interactions[torch.argsort(interactions[:, 0] * n_items + interactions[:, 1])].unbind(1)
        head, relation, tail = triples.unbind(1)
        heads, tails = torch.cat([head, tail]), torch.cat([tail, head])
        relations = torch.cat([relation, relation + n_relations])
        order = torch.argsort(heads * (2 * n_relations) + relations, stable=True)
        pairs = SparsePattern.from_pairs(heads[order], tails[order], n_entities, n_entities)
        return cls(
            n_users, n_items, n_entities, n_relations,
            SparsePattern.from_pairs(users.contiguous(), items.contiguous(), n_users, n_items),
            KnowledgePattern(pairs, relations[order], 2 * n_relations),
        )  # fmt: skip

    def to(self, device: torch.device | str) -> PackedGraph:
        """The same graph on another device."""
        if torch.device(device) == self.knowledge.relation.device:
            return self
        forward = self.knowledge.relation < self.n_relations
        pairs = self.knowledge.pairs
        triples = torch.stack([pairs.rows, self.knowledge.relation, pairs.cols], 1)[forward]
        interactions = torch.stack([self.interactions.rows, self.interactions.cols], 1)
        return PackedGraph.from_arrays(
            interactions.to(device), triples.to(device),
            n_users=self.n_users, n_items=self.n_items, n_entities=self.n_entities, n_relations=self.n_relations,
        )  # fmt: skip
