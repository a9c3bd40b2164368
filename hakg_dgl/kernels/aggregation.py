"""Relation-transitive aggregation in frame coordinates.

The message of edge (h, r, t) is ``a e_h + b e_t + c w_r`` with scalars from
:mod:`hakg_dgl.geometry.frame`. Only ``<e_h, e_t>``, ``<e_h, w_r>`` and ``<e_t, w_r>`` are needed per edge (three
sampled products), the sum over edges is two weighted sums, and the backward pass recomputes the scalars chunk by
chunk, so that neither pass holds more than a few numbers an edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hakg_dgl.geometry.frame import Coefficients, Gram, ball_scale, paper_coefficients, released_coefficients
from hakg_dgl.graph.packed import KnowledgePattern
from hakg_dgl.kernels.interface import SparseBackend

CHUNK = 32_768
"""Edges whose coefficients are computed together: small enough for their temporaries to stay in cache."""
DOUBLE_BEYOND = 0.95
"""Squared norm of a head (times c) from which float32 coefficients are computed in float64.

Near the edge the Möbius sums cancel: at float32's clip radius their float32 rounding errors reach 1e-2 of a message.
"""


@dataclass(frozen=True)
class MessageRule:
    """Which message the aggregation sums: formulation, geometry, curvature (-c) and margin at the edge."""

    formulation: Literal["released", "paper"]
    geometry: Literal["poincare", "euclidean"]
    curvature: float
    margin: float

    def scale(self, squared: Tensor) -> Tensor:
        """:func:`~hakg_dgl.geometry.frame.ball_scale` of squared norms."""
        return ball_scale(squared, c=self.curvature, margin=self.margin)

    def coefficients(self, scales: tuple[Tensor, Tensor, Tensor], gram: Gram) -> Coefficients:
        """Coefficients of a chunk of edges; ``scales`` of heads, tails and relations are ``[n]`` each.

        The Euclidean message is the limit of the hyperbolic one for c -> 0: ``e_h + e_t + w_r`` (released) and
        ``e_t + w_r - e_h`` (paper).
        """
        head, tail, relation = scales
        if self.geometry == "euclidean":
            one = torch.ones_like(gram.ht)
            return Coefficients(one if self.formulation == "released" else -one, one, one)
        if self.formulation == "released":
            return released_coefficients(head, gram, c=self.curvature, margin=self.margin)
        return paper_coefficients(head, tail, relation, gram, c=self.curvature, margin=self.margin)


class _Edges:
    """Scalars of all edges of a pattern: the inputs of the coefficients."""

    def __init__(
        self, backend: SparseBackend, graph: KnowledgePattern, entity: Tensor, relation: Tensor, rule: MessageRule
    ) -> None:
        pairs = graph.pairs
        self.squared, self.squared_relation = entity.square().sum(1), relation.square().sum(1)
        # Per node, not per edge, so float64 costs nothing; rounding the scale would move points at the edge.
        self.scale = rule.scale(self.squared.double())
        self.scale_relation = rule.scale(self.squared_relation.double())
        self.near_edge = rule.curvature * self.scale.square() * self.squared > DOUBLE_BEYOND
        heads = entity[: pairs.n_rows]
        self.ht = backend.dot(pairs.by_row, pairs.cols, heads, entity)
        self.hw = backend.dot(pairs.by_row, graph.relation, heads, relation)
        tail_order = backend.dot(pairs.by_col, graph.tail_relation, entity, relation)
        self.tw = torch.empty_like(tail_order)
        self.tw[pairs.by_col.order] = tail_order
        self.graph, self.rule = graph, rule

    def inputs(self, part: slice) -> tuple[tuple[Tensor, Tensor, Tensor], Gram]:
        rows, cols = self.graph.pairs.rows[part], self.graph.pairs.cols[part]
        relation = self.graph.relation[part]
        gram = Gram(
            self.squared[rows], self.squared[cols], self.squared_relation[relation],
            self.ht[part], self.hw[part], self.tw[part],
        )  # fmt: skip
        scales = (self.scale[rows], self.scale[cols], self.scale_relation[relation])
        if bool(self.near_edge[rows].any()):
            return scales, Gram(*(entry.double() for entry in gram))
        head, tail, rel = (scale.to(self.ht.dtype) for scale in scales)
        return (head, tail, rel), gram


def _chunks(n: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]


class _Aggregate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, backend: SparseBackend, graph: KnowledgePattern, rule: MessageRule, entity: Tensor, relation: Tensor
    ) -> Tensor:
        edges = _Edges(backend, graph, entity, relation, rule)
        pairs = graph.pairs
        values = entity.new_empty(3, graph.n_edges)
        for part in _chunks(graph.n_edges):
            scales, gram = edges.inputs(part)
            values[:, part] = torch.stack(rule.coefficients(scales, gram))
        head, tail, rel = values
        total = backend.weighted_sum(pairs.by_row, pairs.cols, tail, entity)
        total += backend.weighted_sum(pairs.by_row, graph.relation, rel, relation)
        head_sum = entity.new_zeros(pairs.n_rows).index_add_(0, pairs.rows, head)
        total.addcmul_(head_sum.unsqueeze(1), entity[: pairs.n_rows])
        inverse = pairs.row_degree.clamp_min(1).to(entity.dtype).reciprocal().unsqueeze(1)
        ctx.backend, ctx.edges = backend, edges
        ctx.save_for_backward(entity, relation, values, head_sum, inverse)
        return total.mul_(inverse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        entity, relation, values, head_sum, inverse = ctx.saved_tensors
        backend, edges = ctx.backend, ctx.edges
        graph: KnowledgePattern = edges.graph
        pairs = graph.pairs
        heads = entity[: pairs.n_rows]
        grad = grad * inverse
        d_ht, d_hw, d_tw, d_head, d_tail, d_relation = _scalar_gradients(backend, edges, entity, relation, grad)

        grad_entity = backend.weighted_sum(
            pairs.by_col, pairs.by_col.permute(pairs.rows), pairs.by_col.permute(values[1]), grad
        )
        grad_entity += backend.weighted_sum(
            pairs.by_col, pairs.by_col.permute(pairs.rows), pairs.by_col.permute(d_ht), heads
        )
        grad_entity += backend.weighted_sum(pairs.by_col, graph.tail_relation, pairs.by_col.permute(d_tw), relation)
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
        return None, None, None, grad_entity, grad_relation


def _scalar_gradients(
    backend: SparseBackend, edges: _Edges, entity: Tensor, relation: Tensor, grad: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of ``<e_h,e_t>``, ``<e_h,w_r>``, ``<e_t,w_r>`` per edge, then twice those of the squared norms.

    ``grad`` is the gradient of the sums of messages, ``[n_rows, d]``. The last three are per head, entity and relation,
    with the part through :func:`~hakg_dgl.geometry.frame.ball_scale` included.
    """
    graph = edges.graph
    pairs = graph.pairs
    upstream = (
        (grad * entity[: pairs.n_rows]).sum(1)[pairs.rows],
        backend.dot(pairs.by_row, pairs.cols, grad, entity),
        backend.dot(pairs.by_row, graph.relation, grad, relation),
    )
    per_edge = entity.new_empty(3, graph.n_edges)
    per_head, per_tail = entity.new_zeros(2, pairs.n_rows), entity.new_zeros(2, len(entity))
    per_relation = entity.new_zeros(2, len(relation))
    for part in _chunks(graph.n_edges):
        scales, gram = edges.inputs(part)
        leaves = [tensor.detach().requires_grad_() for tensor in (*gram, *scales)]
        with torch.enable_grad():
            outputs = edges.rule.coefficients((leaves[6], leaves[7], leaves[8]), Gram(*leaves[:6]))
        used = [(o, u[part].to(o.dtype)) for o, u in zip(outputs, upstream, strict=True) if o.requires_grad]
        if not used:
            per_edge[:, part] = 0.0
            continue
        hh, tt, ww, ht, hw, tw, s_head, s_tail, s_relation = torch.autograd.grad(
            [o for o, _ in used], leaves, [u for _, u in used], allow_unused=True, materialize_grads=True
        )
        per_edge[:, part] = torch.stack((ht, hw, tw))
        for sums, group, parts in (
            (per_head, pairs.rows, (hh, s_head)),
            (per_tail, pairs.cols, (tt, s_tail)),
            (per_relation, graph.relation, (ww, s_relation)),
        ):
            sums.index_add_(1, group[part], torch.stack(parts).to(sums.dtype))
    squared_heads = edges.squared[: pairs.n_rows]
    return (
        *per_edge,
        _through_scale(per_head, squared_heads, edges.rule),
        _through_scale(per_tail, edges.squared, edges.rule),
        _through_scale(per_relation, edges.squared_relation, edges.rule),
    )


def _through_scale(sums: Tensor, squared: Tensor, rule: MessageRule) -> Tensor:
    """Factor on the vector itself, from gradients of its squared norm and of its scale (rows of ``sums``)."""
    with torch.enable_grad():
        leaf = squared.double().detach().requires_grad_()
        scale = rule.scale(leaf)
    (slope,) = torch.autograd.grad(scale, leaf, sums[1].double())
    return 2.0 * (sums[0] + slope.to(sums.dtype))


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
    result: Tensor = _Aggregate.apply(backend, graph, rule, entity, relation)  # type: ignore[no-untyped-call]
    return result
