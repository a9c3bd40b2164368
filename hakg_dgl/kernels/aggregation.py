"""Relation-transitive aggregation in frame coordinates.

The message of edge (h, r, t) is ``a e_h + b e_t + c w_r`` with scalars from
:mod:`hakg_dgl.geometry.frame`. Only ``<e_h, e_t>``, ``<e_h, w_r>`` and ``<e_t, w_r>`` are needed per edge (three
sampled products), the sum over edges is two weighted sums, and the backward pass recomputes the scalars chunk by
chunk, so that neither pass holds more than a few numbers an edge.

Heads at the very edge of the ball are the exception: there the sums cancel so badly that the order of operations
shows in the result, and their messages are computed by vectors, in the readable path's own order.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from hakg_dgl.geometry.guards import max_norm
from hakg_dgl.geometry.message import MessageRule
from hakg_dgl.graph.packed import KnowledgePattern, SparsePattern
from hakg_dgl.kernels.coefficients import CoefficientKernel, Inner
from hakg_dgl.kernels.interface import CompiledBackend, FusedBackend, SparseBackend
from hakg_dgl.kernels.products import sum_over_columns

CHUNK = 65_536
"""Edges whose coefficients are computed together: few enough for their temporaries to stay in cache."""
VECTOR_CHUNK = 4_096
"""Edges whose messages are computed by vectors together."""
VECTORS_BEYOND = {torch.float32: 0.95, torch.float64: 0.99}
"""Squared norm of a head's point (times c) beyond which its messages are computed by vectors."""


def _chunks(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


class OuterEdges:
    """The edges whose messages are computed by vectors: those of heads near the edge of the unit ball.

    Parameters
    ----------
    graph, rule
        Whose messages.
    xx
        Squared norm of the heads' points (of all entities, or of the heads alone).
    """

    def __init__(self, graph: KnowledgePattern, rule: MessageRule, xx: Tensor) -> None:
        self.graph, self.rule, rows = graph, rule, graph.pairs.rows
        self.heads: Tensor = xx > VECTORS_BEYOND[xx.dtype]
        self.edges: Tensor = (
            self.heads.index_select(0, rows).nonzero().squeeze(1) if bool(self.heads.any()) else rows[:0]
        )

    def add_messages(self, total: Tensor, entity: Tensor, relation: Tensor, factor: Tensor | None = None) -> None:
        """Add their messages to the sums ``[n_rows, d]``, in place; times a factor for each head, ``[n_rows, 1]``."""
        for rows, cols, relations in self._chunks():
            message = self.rule.message(entity[rows], entity[cols], relation[relations])
            total.index_add_(0, rows, message if factor is None else message * factor[rows])

    def add_gradients(
        self, entity: Tensor, relation: Tensor, grad: Tensor, grad_entity: Tensor, grad_relation: Tensor
    ) -> None:
        """Add the gradients of their messages to the last two arguments, in place; ``grad`` is that of the sums."""
        for rows, cols, relations in self._chunks():
            ends = [x.detach().requires_grad_() for x in (entity[rows], entity[cols], relation[relations])]
            with torch.enable_grad():
                message = self.rule.message(*ends)
            head, tail, rel = torch.autograd.grad(message, ends, grad[rows])
            grad_entity.index_add_(0, rows, head).index_add_(0, cols, tail)
            grad_relation.index_add_(0, relations, rel)

    def _chunks(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Rows, columns and relations, some edges at a time."""
        pairs, relation = self.graph.pairs, self.graph.relation
        parts = (self.edges[part] for part in _chunks(len(self.edges), VECTOR_CHUNK))
        return [(pairs.rows[part], pairs.cols[part], relation[part]) for part in parts]


class _Edges:
    """Inner products of all edges of a graph on the unit ball: the inputs of the coefficients."""

    def __init__(
        self, backend: SparseBackend, graph: KnowledgePattern, entity: Tensor, relation: Tensor, rule: MessageRule
    ) -> None:
        pairs = graph.pairs
        self.backend, self.graph, self.rule = backend, graph, rule
        self.limit = max_norm(entity.dtype, c=1.0, margin=rule.margin)
        self.squared, self.squared_relation = entity.square().sum(1), relation.square().sum(1)
        self.scale, self.scale_relation = rule.scale(self.squared), rule.scale(self.squared_relation)
        self.xx = self.scale.square() * self.squared
        heads = entity[: pairs.n_rows]
        self.ht = backend.dot(pairs.by_row, pairs.cols, heads, entity)
        self.hw = backend.dot(pairs.by_row, graph.relation, heads, relation)
        tail_order = backend.dot(pairs.by_col, graph.tail_relation, entity, relation)
        self.tw = pairs.by_col.restore(tail_order)
        self.outer = OuterEdges(graph, rule, self.xx)

    def kernel(self, part: slice) -> tuple[CoefficientKernel, Tensor]:
        """The coefficients of a chunk of edges, in the frame of their points, and the scales of their heads."""
        rows, cols = self.graph.pairs.rows[part], self.graph.pairs.cols[part]
        relation = self.graph.relation[part]
        scale = self.scale.index_select(0, rows)
        inner = Inner(
            self.xx.index_select(0, rows),
            scale * self.ht[part],
            scale * self.hw[part],
            self.squared.index_select(0, cols),
            self.squared_relation.index_select(0, relation),
            self.tw[part],
        )
        scales = None
        if self.rule.formulation == "paper":
            scales = self.scale.index_select(0, cols), self.scale_relation.index_select(0, relation)
        return CoefficientKernel(inner, self.limit, scales), scale


class _Aggregate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, backend: SparseBackend, graph: KnowledgePattern, rule: MessageRule, entity: Tensor, relation: Tensor
    ) -> Tensor:
        edges = _Edges(backend, graph, entity, relation, rule)
        pairs = graph.pairs
        values = entity.new_empty(3, graph.n_edges)
        for part in _chunks(graph.n_edges, CHUNK):
            kernel, scale = edges.kernel(part)
            along, tail, rel = kernel.coefficients()
            torch.stack((along.mul_(scale), tail, rel), out=values[:, part])
        values.index_fill_(1, edges.outer.edges, 0.0)
        head, tail, rel = values
        total = backend.weighted_sum(pairs.by_row, pairs.cols, tail, entity)
        total += backend.weighted_sum(pairs.by_row, graph.relation, rel, relation)
        head_sum = entity.new_zeros(pairs.n_rows).index_add_(0, pairs.rows, head)
        total.addcmul_(head_sum.unsqueeze(1), entity[: pairs.n_rows])
        edges.outer.add_messages(total, entity, relation)
        inverse = pairs.row_degree.clamp_min(1).to(entity.dtype).reciprocal().unsqueeze(1)
        ctx.edges = edges
        ctx.save_for_backward(entity, relation, values, head_sum, inverse)
        return total.mul_(inverse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        entity, relation, values, head_sum, inverse = ctx.saved_tensors
        edges: _Edges = ctx.edges
        backend, graph, pairs = edges.backend, edges.graph, edges.graph.pairs
        heads = entity[: pairs.n_rows]
        grad = grad * inverse
        d_ht, d_hw, d_tw, d_head, d_tail, d_relation = _scalar_gradients(edges, entity, relation, grad)

        by_col, rows_by_col = pairs.by_col, pairs.by_col.permute(pairs.rows)
        grad_entity = backend.weighted_sum(by_col, rows_by_col, by_col.permute(values[1]), grad)
        grad_entity += backend.weighted_sum(by_col, rows_by_col, by_col.permute(d_ht), heads)
        grad_entity += backend.weighted_sum(by_col, graph.tail_relation, by_col.permute(d_tw), relation)
        grad_entity.addcmul_(d_tail.unsqueeze(1), entity)
        grad_heads = grad_entity[: pairs.n_rows]
        grad_heads += backend.weighted_sum(pairs.by_row, pairs.cols, d_ht, entity)
        grad_heads += backend.weighted_sum(pairs.by_row, graph.relation, d_hw, relation)
        grad_heads.addcmul_(head_sum.unsqueeze(1), grad).addcmul_(d_head.unsqueeze(1), heads)

        by_relation = graph.by_relation
        rows, cols = by_relation.permute(pairs.rows), by_relation.permute(pairs.cols)
        grad_relation = backend.weighted_sum(by_relation, rows, by_relation.permute(values[2]), grad)
        grad_relation += backend.weighted_sum(by_relation, rows, by_relation.permute(d_hw), heads)
        grad_relation += backend.weighted_sum(by_relation, cols, by_relation.permute(d_tw), entity)
        grad_relation.addcmul_(d_relation.unsqueeze(1), relation)
        edges.outer.add_gradients(entity, relation, grad, grad_entity, grad_relation)
        return None, None, None, grad_entity, grad_relation


def _scalar_gradients(edges: _Edges, entity: Tensor, relation: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients of ``<e_h,e_t>``, ``<e_h,w_r>``, ``<e_t,w_r>`` per edge, then twice those of the squared norms.

    ``grad`` is the gradient of the sums of messages, ``[n_rows, d]``. The last three are per head, entity and relation,
    with the part through the scales included.
    """
    graph, backend = edges.graph, edges.backend
    pairs = graph.pairs
    upstream = torch.stack((
        (grad * entity[: pairs.n_rows]).sum(1)[pairs.rows],
        backend.dot(pairs.by_row, pairs.cols, grad, entity),
        backend.dot(pairs.by_row, graph.relation, grad, relation),
    ))  # fmt: skip
    upstream.index_fill_(1, edges.outer.edges, 0.0)
    per_edge = entity.new_empty(3, graph.n_edges)
    # First row: gradients of the squared norm (of the point, for heads); second: of the scale.
    per_head, per_tail = entity.new_zeros(2, pairs.n_rows), entity.new_zeros(2, len(entity))
    per_relation = entity.new_zeros(2, len(relation))
    for part in _chunks(graph.n_edges, CHUNK):
        kernel, scale = edges.kernel(part)
        d_head, d_tail, d_relation = upstream[:, part]
        along = kernel.coefficients().head
        g = kernel.backward(d_head * scale, d_tail, d_relation)
        torch.stack((g.xt * scale, g.xw * scale, g.tw), out=per_edge[:, part])
        d_scale = (along * d_head).addcmul_(g.xt, edges.ht[part]).addcmul_(g.xw, edges.hw[part])
        rows, cols, relations = pairs.rows[part], pairs.cols[part], graph.relation[part]
        per_head[0].index_add_(0, rows, g.xx)
        per_head[1].index_add_(0, rows, d_scale)
        per_tail[0].index_add_(0, cols, g.tt)
        per_relation[0].index_add_(0, relations, g.ww)
        if g.tail_scale is not None and g.relation_scale is not None:
            per_tail[1].index_add_(0, cols, g.tail_scale)
            per_relation[1].index_add_(0, relations, g.relation_scale)
    per_edge.index_fill_(1, edges.outer.edges, 0.0)
    n_heads = pairs.n_rows
    scale, squared = edges.scale[:n_heads], edges.squared[:n_heads]
    d_scale = torch.addcmul(per_head[1], per_head[0], scale * squared, value=2.0)  # the point's norm is scale^2 squared
    return (
        *per_edge,
        _through_scale(per_head[0] * scale.square(), d_scale, squared, edges.rule),
        _through_scale(per_tail[0], per_tail[1], edges.squared, edges.rule),
        _through_scale(per_relation[0], per_relation[1], edges.squared_relation, edges.rule),
    )


def _through_scale(d_squared: Tensor, d_scale: Tensor, squared: Tensor, rule: MessageRule) -> Tensor:
    """Factor on the vector itself, from gradients of its squared norm and of its scale."""
    with torch.enable_grad():
        leaf = squared.detach().requires_grad_()
        scale = rule.scale(leaf)
    (slope,) = torch.autograd.grad(scale, leaf, d_scale)
    return 2.0 * (d_squared + slope)


def relation_transitive_mean(
    backend: SparseBackend, graph: KnowledgePattern, entity: Tensor, relation: Tensor, rule: MessageRule
) -> Tensor:
    """Mean of the messages each head receives, zero where it receives none (HAKG eqs. 4-5).

    Parameters
    ----------
    backend
        Who computes the sparse products.
    graph
        Knowledge graph with inverses; its heads may be the first entities only.
    entity, relation
        Tangent vectors at the origin, ``[n_entities, d]`` and ``[2R, d]``, float32 or float64.
    rule
        Formulation, geometry, curvature.

    Returns
    -------
    Tensor
        ``[n_heads, d]``, differentiable in ``entity`` and ``relation``.
    """
    if isinstance(backend, FusedBackend):
        return backend.relation_transitive_mean(graph, entity, relation, rule)
    if rule.geometry == "euclidean":
        return _translation_mean(backend, graph, entity, relation, rule)
    if rule.curvature == 1.0:
        return _mean_on_unit_ball(backend, graph, entity, relation, rule)
    root = math.sqrt(rule.curvature)
    unit = dataclasses.replace(rule, curvature=1.0)  # the ball of curvature -c is the unit ball, scaled
    return _mean_on_unit_ball(backend, graph, root * entity, root * relation, unit) / root


def _mean_on_unit_ball(
    backend: SparseBackend, graph: KnowledgePattern, entity: Tensor, relation: Tensor, rule: MessageRule
) -> Tensor:
    if isinstance(backend, CompiledBackend):
        return backend.mean_on_unit_ball(graph, entity, relation, rule)
    mean: Tensor = _Aggregate.apply(backend, graph, rule, entity, relation)  # type: ignore[no-untyped-call]
    return mean


def _translation_mean(
    backend: SparseBackend, graph: KnowledgePattern, entity: Tensor, relation: Tensor, rule: MessageRule
) -> Tensor:
    """The Euclidean mean of ``e_t + w_r`` plus (released) or minus (paper) e_h."""
    pairs = graph.pairs
    by_relation = SparsePattern(pairs.n_rows, graph.n_relations, pairs.by_row, pairs.rows, graph.relation)
    by_relation.by_col = graph.by_relation
    total = sum_over_columns(backend, pairs, entity) + sum_over_columns(backend, by_relation, relation)
    degree = pairs.row_degree.to(entity.dtype).unsqueeze(1)
    sign = 1.0 if rule.formulation == "released" else -1.0
    return total / degree.clamp_min(1.0) + sign * degree.clamp_max(1.0) * entity[: pairs.n_rows]
