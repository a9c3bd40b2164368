"""The fast layer: the same aggregations as :mod:`hakg_dgl.layers.updates` over the packed graph."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from hakg_dgl.geometry.message import MessageRule
from hakg_dgl.graph.packed import KnowledgePattern, PackedGraph, SparsePattern
from hakg_dgl.kernels.aggregation import relation_transitive_mean
from hakg_dgl.kernels.interface import FusedBackend, SparseBackend
from hakg_dgl.kernels.precision import in_bfloat16, rounded
from hakg_dgl.kernels.products import sum_over_columns, sum_over_rows


class Aggregator(Protocol):
    """The three aggregations of a layer. Tangent vectors in and out, all differentiable."""

    def drop(self, kg_mask: Tensor | None, interaction_mask: Tensor | None, scale: float) -> Aggregator:
        """The same over the edges where the masks (bool, in packed order) are true.

        Means over the KG are taken over the kept edges; kept interactions count ``scale`` times.
        """
        ...

    def entities(self, entity: Tensor, relation: Tensor, n_heads: int) -> Tensor:
        """Mean of relation-transitive messages received by heads 0..n_heads-1: ``[n_heads, d]``."""
        ...

    def item_sum(self, user: Tensor) -> Tensor:
        """``[n_users, d] -> [n_items, d]``: sum over each item's users."""
        ...

    def user_sum(self, item: Tensor) -> Tensor:
        """``[n_items, d] -> [n_users, d]``: sum over each user's items."""
        ...


class PackedAggregator:
    """Aggregation over the packed graph by sparse products; see :class:`Aggregator`.

    Parameters
    ----------
    packed
        Packed views of the heterograph.
    backend
        Who computes the sparse products.
    rule
        Formulation, geometry, curvature.
    bfloat16
        Whether the tables that are gathered are bfloat16; see :mod:`hakg_dgl.kernels.precision`.
    """

    def __init__(
        self, packed: PackedGraph, backend: SparseBackend, rule: MessageRule, *, bfloat16: bool = False
    ) -> None:
        self.rule, self.bfloat16, self.n_entities = rule, bfloat16, packed.n_entities
        self.backend = in_bfloat16(backend) if bfloat16 else backend
        self._padded = isinstance(backend, FusedBackend)  # it need not know how many edges are kept
        self._knowledge, self._kg_mask = packed.knowledge, None
        self._interactions, self._scale = packed.interactions, 1.0
        self._by_heads: dict[int, KnowledgePattern] = {packed.n_entities: packed.knowledge}

    _knowledge: KnowledgePattern
    _kg_mask: Tensor | None
    _interactions: SparsePattern

    def drop(self, kg_mask: Tensor | None, interaction_mask: Tensor | None, scale: float) -> PackedAggregator:
        """See :meth:`Aggregator.drop`: masks and prefix sums, nothing is sorted again."""
        dropped = object.__new__(PackedAggregator)
        dropped.__dict__.update(self.__dict__)
        if kg_mask is not None:
            dropped._kg_mask, dropped._by_heads = kg_mask, {}
        if interaction_mask is not None:
            dropped._interactions = self._interactions.keep(interaction_mask, padded=self._padded)
        dropped._scale = scale
        return dropped

    def _heads(self, n_heads: int) -> KnowledgePattern:
        if n_heads not in self._by_heads:
            self._by_heads[n_heads] = self._knowledge.keep(self._kg_mask, n_heads, padded=self._padded)
        return self._by_heads[n_heads]

    def entities(self, entity: Tensor, relation: Tensor, n_heads: int) -> Tensor:
        """See :meth:`Aggregator.entities`."""
        if self.bfloat16:  # once for all, since the inner products of a message must be those of the same vectors
            entity, relation = rounded(entity), rounded(relation)
        return relation_transitive_mean(self.backend, self._heads(n_heads), entity, relation, self.rule)

    def item_sum(self, user: Tensor) -> Tensor:
        """See :meth:`Aggregator.item_sum`."""
        return self._scaled(sum_over_rows(self.backend, self._interactions, user))

    def user_sum(self, item: Tensor) -> Tensor:
        """See :meth:`Aggregator.user_sum`."""
        return self._scaled(sum_over_columns(self.backend, self._interactions, item))

    def _scaled(self, total: Tensor) -> Tensor:
        return total if self._scale == 1.0 else total * self._scale
