"""The two losses: contrastive with a margin, and the angle loss that keeps items in the cones of their attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hakg_dgl.geometry.cones import cone_angle, euclidean_cone_angle, euclidean_half_aperture, half_aperture
from hakg_dgl.geometry.guards import ROW_NORM_FLOOR
from hakg_dgl.geometry.message import MessageRule
from hakg_dgl.graph.packed import Grouping, KnowledgePattern, SparsePattern
from hakg_dgl.kernels.interface import FusedBackend, SparseBackend
from hakg_dgl.kernels.products import edge_dot
from hakg_dgl.nn.model import Embeddings

COUNT_FLOOR = 1e-5
"""Added to the number of active negatives of a positive, by which their sum is divided."""


class _HingeOverNegatives(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backend: SparseBackend, x: Tensor, z: Tensor, negatives: Tensor, margin: float) -> Tensor:
        n_rows, k = negatives.shape
        indptr = torch.arange(0, n_rows * k + 1, k, device=x.device)
        cosine = backend.dot(Grouping(indptr, None), negatives.reshape(-1), x, z).view(n_rows, k)
        active = cosine > margin
        count = active.sum(1)
        inverse = 1.0 / (COUNT_FLOOR + count.to(x.dtype))
        places = active.view(-1).nonzero().squeeze(1)
        rows = torch.repeat_interleave(count, output_size=len(places))
        before = torch.cat([count.new_zeros(1), count.cumsum(0)])
        ctx.backend, ctx.by_row = backend, Grouping(before, None)
        ctx.save_for_backward(x, z, rows, negatives.reshape(-1).index_select(0, places), inverse)
        return (cosine - margin).clamp_min_(0.0).sum(1).mul_(inverse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, None, None]:
        x, z, rows, cols, inverse = ctx.saved_tensors
        weights = (grad * inverse).index_select(0, rows)
        grad_x = ctx.backend.weighted_sum(ctx.by_row, cols, weights, z)
        by_col = Grouping.of(cols, len(z))
        grad_z = ctx.backend.weighted_sum(by_col, by_col.permute(rows), by_col.permute(weights), x)
        return None, grad_x, grad_z, None, None


def hinge_over_negatives(backend: SparseBackend, x: Tensor, z: Tensor, negatives: Tensor, margin: float) -> Tensor:
    r"""Mean excess over the margin of the negatives that exceed it.

    :math:`S_b = \sum_j \max(0, \langle x_b, z_j\rangle - m) / (10^{-5} + |\{j : \langle x_b, z_j\rangle > m\}|)`

    Only active negatives take part in the backward pass; nothing of size batch x negatives x d is made.

    Parameters
    ----------
    backend
        Who computes the sparse products.
    x
        Unit rows ``[batch, d]``.
    z
        Unit rows ``[n_items, d]``.
    negatives
        int64 ``[batch, n_negatives]``.
    margin
        Cosine m above which a negative counts.

    Returns
    -------
    Tensor
        ``[batch]``.
    """
    if isinstance(backend, FusedBackend):
        return backend.hinge_over_negatives(x, z, negatives, margin, COUNT_FLOOR)
    result: Tensor = _HingeOverNegatives.apply(backend, x, z, negatives, margin)  # type: ignore[no-untyped-call]
    return result


def contrastive_loss(
    backend: SparseBackend, embeddings: Embeddings, users: Tensor, positives: Tensor, negatives: Tensor, margin: float
) -> Tensor:
    r"""Contrastive loss of a batch (HAKG eqs. 11-13).

    Mean over positives (u, i) of :math:`\max(0, 2 - \cos(u, e_i) - \cos(u, v_i)) + S(e) + S(v)` with S of
    :func:`hinge_over_negatives`; without dual item embeddings, the terms of v are left out and 2 becomes 1.

    Parameters
    ----------
    backend
        Who computes the sparse products.
    embeddings
        After propagation.
    users, positives
        int64 ``[batch]``.
    negatives
        int64 ``[batch, n_negatives]``: items each user has no interaction with.
    margin
        Cosine above which a negative counts.

    Returns
    -------
    Tensor
        Scalar.
    """
    user = F.normalize(embeddings.user, dim=1, eps=ROW_NORM_FLOOR)[users]
    tables = [embeddings.entity] if embeddings.item is None else [embeddings.entity, embeddings.item]
    missing = torch.full_like(user[:, 0], float(len(tables)))
    excess = torch.zeros_like(missing)
    for table in tables:
        unit = F.normalize(table, dim=1, eps=ROW_NORM_FLOOR)
        missing = missing - (user * unit[positives]).sum(1)
        excess = excess + hinge_over_negatives(backend, user, unit, negatives, margin)
    return (missing.clamp_min(0.0) + excess).mean()


@dataclass(frozen=True)
class AngleLoss:
    """Angle loss over the item-attribute pairs of the KG (HAKG eqs. 14-16).

    Attributes
    ----------
    pairs
        Pattern item x attribute entity: one edge for every triple with exactly one end an item.
    rule
        Formulation and geometry. The released code takes the parameters themselves as points, the paper's
        formulation maps them to the ball first.
    direction
        ``both``: items and attributes are apexes in turn, and the mean is over both; ``attribute``: attributes only.
    aperture
        K of the cones.
    dropout
        Share of coordinates left out of both ends in a training step.
    mask
        ``step``: the same coordinates for all pairs of a step; ``edge``: drawn for each pair (slower).
    """

    pairs: SparsePattern
    rule: MessageRule
    direction: Literal["both", "attribute"] = "both"
    aperture: float = 0.1
    dropout: float = 0.5
    mask: Literal["step", "edge"] = "step"

    def __call__(self, backend: SparseBackend, entity: Tensor, generator: torch.Generator | None) -> Tensor:
        """Mean excess of the angle over the half aperture; scalar, zero if there are no pairs.

        Parameters
        ----------
        backend
            Who computes the sparse products.
        entity
            Entity parameters ``[n_entities, d]``.
        generator
            Of the coordinate mask; None switches the mask off.
        """
        if self.pairs.n_edges == 0:
            return entity.new_zeros(())
        if generator is not None and self.dropout > 0.0 and self.mask == "edge":
            item, attribute, dot = self._masked_by_edge(entity, generator)
        else:
            if generator is not None and self.dropout > 0.0:
                entity = entity * self._coordinates((entity.shape[1],), generator, entity)
            squared = entity.square().sum(1)
            dot = edge_dot(backend, self.pairs, entity[: self.pairs.n_rows], entity)
            item, attribute = squared.index_select(0, self.pairs.rows), squared.index_select(0, self.pairs.cols)
        if self.rule.formulation == "paper" and self.rule.geometry == "poincare":
            item_scale, attribute_scale = self.rule.scale(item), self.rule.scale(attribute)
            item, attribute = item * item_scale.square(), attribute * attribute_scale.square()
            dot = dot * item_scale * attribute_scale
        if self.rule.geometry == "poincare":
            c = self.rule.curvature  # the cones are those of the unit ball, to which sqrt(c) scales points
            item, attribute, dot = c * item, c * attribute, c * dot
        total = self._excess(attribute, item, dot).mean()
        return total if self.direction == "attribute" else (total + self._excess(item, attribute, dot).mean()) / 2.0

    def _excess(self, apex: Tensor, point: Tensor, dot: Tensor) -> Tensor:
        if self.rule.geometry == "euclidean":
            opening, angle = euclidean_half_aperture(apex, aperture=self.aperture), euclidean_cone_angle
        else:
            opening, angle = half_aperture(apex, aperture=self.aperture), cone_angle
        return (angle(apex, point, dot) - opening).clamp_min(0.0)

    def _coordinates(self, shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
        drawn = torch.rand(shape, generator=generator, device=generator.device)
        return (drawn >= self.dropout).to(like)

    def _masked_by_edge(self, entity: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        keep = self._coordinates((self.pairs.n_edges, entity.shape[1]), generator, entity)
        item, attribute = entity[self.pairs.rows] * keep, entity[self.pairs.cols] * keep
        return item.square().sum(1), attribute.square().sum(1), (item * attribute).sum(1)


def item_attribute_pairs(knowledge: KnowledgePattern, n_items: int, relations: Tensor | None = None) -> SparsePattern:
    """Pattern item x attribute of the triples with exactly one end an item, one edge each, whichever end the item is.

    Parameters
    ----------
    knowledge
        Knowledge graph with inverses.
    n_items
        Entities below this are items.
    relations
        int64 ids of the relations (without inverses) to take; None takes all.
    """
    pairs, r = knowledge.pairs, knowledge.n_relations // 2
    chosen = (pairs.rows < n_items) & (pairs.cols >= n_items)
    if relations is not None:
        chosen &= torch.isin(knowledge.relation % max(r, 1), relations.to(knowledge.relation.device))
    return SparsePattern.from_pairs(pairs.rows[chosen], pairs.cols[chosen], n_items, pairs.n_cols)
