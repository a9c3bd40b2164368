"""Propagation with tables of bfloat16: half the bytes for each row gathered, sums still in float32.

What is gathered is rounded, forward (embeddings) and backward (gradients); what is added up, and every parameter, stays
float32. Backends without bfloat16 tables get the rounded values in float32, so that the numbers, if not the speed, can
be had anywhere.
"""

from __future__ import annotations

from torch import Tensor

from hakg_dgl.geometry.message import MessageRule
from hakg_dgl.graph.packed import Grouping, KnowledgePattern
from hakg_dgl.kernels.interface import FusedBackend, SparseBackend


def rounded(x: Tensor) -> Tensor:
    """``x`` to the nearest bfloat16, in its own type; the gradient passes as it is."""
    return x + (x.bfloat16().to(x.dtype) - x).detach()


class BFloat16Tables:
    """A backend whose gathered tables (``y`` of both products) are rounded to bfloat16.

    Parameters
    ----------
    inner
        Who computes.
    """

    def __init__(self, inner: SparseBackend) -> None:
        self.inner: SparseBackend = inner
        self.name: str = inner.name

    def _table(self, y: Tensor) -> Tensor:
        return y.bfloat16() if isinstance(self.inner, FusedBackend) else y.bfloat16().to(y.dtype)

    def dot(self, by_row: Grouping, cols: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """See :meth:`SparseBackend.dot`."""
        return self.inner.dot(by_row, cols, x, self._table(y))

    def weighted_sum(self, by_row: Grouping, cols: Tensor, weights: Tensor | None, y: Tensor) -> Tensor:
        """See :meth:`SparseBackend.weighted_sum`."""
        return self.inner.weighted_sum(by_row, cols, weights, self._table(y))


class FusedBFloat16Tables(BFloat16Tables):
    """The same of a :class:`~hakg_dgl.kernels.interface.FusedBackend`."""

    def __init__(self, inner: FusedBackend) -> None:
        super().__init__(inner)
        self.fused = inner

    def relation_transitive_mean(
        self, graph: KnowledgePattern, entity: Tensor, relation: Tensor, rule: MessageRule, *, bfloat16: bool = True
    ) -> Tensor:
        """See :meth:`FusedBackend.relation_transitive_mean`."""
        return self.fused.relation_transitive_mean(graph, entity, relation, rule, bfloat16=bfloat16)

    def hinge_over_negatives(self, x: Tensor, z: Tensor, drawn: Tensor, margin: float, count_floor: float) -> Tensor:
        """See :meth:`FusedBackend.hinge_over_negatives`; in float32."""
        return self.fused.hinge_over_negatives(x, z, drawn, margin, count_floor)

    def gated_items(self, item: Tensor, entity: Tensor, gate_item: Tensor, gate_entity: Tensor) -> Tensor:
        """See :meth:`FusedBackend.gated_items`; in float32."""
        return self.fused.gated_items(item, entity, gate_item, gate_entity)


def in_bfloat16(backend: SparseBackend) -> SparseBackend:
    """The backend with tables of bfloat16."""
    return FusedBFloat16Tables(backend) if isinstance(backend, FusedBackend) else BFloat16Tables(backend)
