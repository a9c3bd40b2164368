"""The relation-transitive message, by vectors: the definition that :mod:`hakg_dgl.geometry.frame` makes fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hakg_dgl.geometry.frame import Coefficients, Gram, ball_scale, paper_coefficients, released_coefficients
from hakg_dgl.geometry.poincare import expmap, expmap0, logmap, mobius_add, project


@dataclass(frozen=True)
class MessageRule:
    """Which message an edge sends.

    Attributes
    ----------
    formulation
        ``released`` (the authors' code) or ``paper`` (HAKG eq. 4).
    geometry
        ``poincare``, or ``euclidean``: the limit of the same equations for c -> 0.
    curvature
        c of the ball of curvature -c.
    margin
        Distance kept from the edge of the ball, :func:`~hakg_dgl.geometry.guards.ball_margin`.
    """

    formulation: Literal["released", "paper"]
    geometry: Literal["poincare", "euclidean"]
    curvature: float
    margin: float

    def scale(self, squared: Tensor) -> Tensor:
        """:func:`~hakg_dgl.geometry.frame.ball_scale` of squared norms."""
        return ball_scale(squared, c=self.curvature, margin=self.margin)

    def point(self, tangent: Tensor) -> Tensor:
        """Point of a tangent vector at the origin, ``clip(exp_0(v))``: ``[..., d] -> [..., d]``."""
        return project(expmap0(tangent, c=self.curvature), c=self.curvature, margin=self.margin)

    def message(self, head: Tensor, tail: Tensor, relation: Tensor) -> Tensor:
        r"""Messages of edges: the tail moved along the relation, seen from the head.

        Released: :math:`\log_x(\mathrm{clip}(\exp_x(t) \oplus \exp_x(w)))`, paper:
        :math:`\log_x(\mathrm{clip}(y \oplus r))`, where x, y, r are the points of head, tail, relation. Euclidean:
        :math:`h + t + w` and :math:`t + w - h`.

        Parameters
        ----------
        head, tail, relation
            Tangent vectors at the origin, ``[..., d]``, broadcasting against each other.

        Returns
        -------
        Tensor
            Tangent vectors at the head, ``[..., d]``.
        """
        c = self.curvature
        if self.geometry == "euclidean":
            return head + tail + relation if self.formulation == "released" else tail + relation - head
        x = self.point(head)
        if self.formulation == "released":
            moved = mobius_add(expmap(tail, x, c=c), expmap(relation, x, c=c), c=c)
        else:
            moved = mobius_add(self.point(tail), self.point(relation), c=c)
        return logmap(project(moved, c=c, margin=self.margin), x, c=c)

    def coefficients(self, scales: tuple[Tensor, Tensor, Tensor], gram: Gram) -> Coefficients:
        """The same messages in the frame (head, tail, relation): scalars ``[n]`` of n edges.

        Parameters
        ----------
        scales
            :meth:`scale` of heads, tails and relations, ``[n]`` each.
        gram
            Inner products of the tangent vectors.
        """
        head, tail, relation = scales
        if self.geometry == "euclidean":
            one = torch.ones_like(gram.ht)
            return Coefficients(one if self.formulation == "released" else -one, one, one)
        if self.formulation == "released":
            return released_coefficients(head, gram, c=self.curvature, margin=self.margin)
        return paper_coefficients(head, tail, relation, gram, c=self.curvature, margin=self.margin)
