"""Coefficients of messages in the frame of their edge, forward and backward, written out by hand.

On the unit ball, with x the head's point (``x = s h``), every point of a message lies in the span of x, tail t and
relation w, so it is three numbers. Six inner products decide them: ``X = |x|^2``, ``xt = <x,t>``, ``xw = <x,w>``,
``tt = |t|^2``, ``ww = |w|^2``, ``tw = <t,w>``. The message is ``a x + b t + c w``.

Automatic differentiation of these formulas takes several times as long as the formulas do, since its few hundred small
operations are bound by memory and dispatch. The backward pass below is the chain rule line by line, upside down;
``d_z`` is the gradient of z. It recomputes the forward values, so nothing but the inner products is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hakg_dgl.geometry.frame import Coefficients, artanh_ratio_and_slope, tanh_ratio_and_slope
from hakg_dgl.geometry.guards import SQUARED_NORM_FLOOR


class Inner(NamedTuple):
    """Inner products of each edge, ``[n_edges]`` each, in the frame (x, t, w)."""

    xx: Tensor
    xt: Tensor
    xw: Tensor
    tt: Tensor
    ww: Tensor
    tw: Tensor


class InnerGradients(NamedTuple):
    """Gradients of :class:`Inner`, and of the scales of tail and relation (None in the released formulation)."""

    xx: Tensor
    xt: Tensor
    xw: Tensor
    tt: Tensor
    ww: Tensor
    tw: Tensor
    tail_scale: Tensor | None
    relation_scale: Tensor | None


@dataclass
class _Exp:
    """exp_x(z) = ``along x + other z`` (released formulation), with its squared norm; keeps what its gradient needs."""

    xx: Tensor
    shrink: Tensor
    zz: Tensor
    xz: Tensor

    def __post_init__(self) -> None:
        self.half_factor: Tensor = self.shrink.reciprocal()  # half the conformal factor at x
        self.ratio, self.slope = tanh_ratio_and_slope(self.half_factor.square().mul_(self.zz))
        self.step: Tensor = self.half_factor * self.ratio
        self.step_squared: Tensor = self.step.square().mul_(self.zz)
        twice = (self.step * self.xz).mul_(2.0)
        self.inverse: Tensor = torch.addcmul(twice + 1.0, self.xx, self.step_squared).reciprocal_()
        twice += self.step_squared
        self.along: Tensor = (twice + 1.0).mul_(self.inverse)
        self.other: Tensor = (self.step * self.shrink).mul_(self.inverse)
        self.squared: Tensor = twice.add_(self.xx).mul_(self.inverse)

    def backward(
        self, d_along: Tensor, d_other: Tensor, d_squared: Tensor, d_xx: Tensor, d_shrink: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients of zz and xz; those of xx and shrink are added to the last two arguments."""
        inverse, step = self.inverse, self.step
        d_below = (d_along * self.along).addcmul_(d_other, self.other).addcmul_(d_squared, self.squared)
        d_below.mul_(inverse).neg_()
        d_numerator = d_squared * inverse
        d_xx.add_(d_numerator).addcmul_(self.step_squared, d_below)
        d_numerator.addcmul_(d_along, inverse)
        d_twice = d_numerator + d_below
        d_step_squared = d_numerator.addcmul_(self.xx, d_below)
        scaled = d_other * inverse
        d_shrink.addcmul_(scaled, step)
        d_step = scaled.mul_(self.shrink).addcmul_(d_twice, self.xz, value=2.0)
        d_zz = d_step_squared * step
        d_step.addcmul_(d_zz, self.zz, value=2.0)
        d_zz.mul_(step)
        slope = self.half_factor.square().mul_(self.slope)  # of the ratio, by zz
        d_zz.addcmul_(d_step * self.half_factor, slope)
        d_half_factor = d_step * (slope.mul_(self.zz).mul_(2.0).add_(self.ratio))
        d_shrink.addcmul_(d_half_factor, self.half_factor.square(), value=-1.0)
        return d_zz, d_twice.mul_(step).mul_(2.0)


@dataclass
class _Moved:
    """A point of tail or relation that does not involve x: ``other z`` (paper formulation)."""

    other: Tensor
    zz: Tensor

    def __post_init__(self) -> None:
        self.squared: Tensor = self.other.square().mul_(self.zz)

    def backward(self, d_other: Tensor, d_squared: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of zz and of the scale."""
        d_zz = d_squared * self.other
        return d_zz * self.other, d_other.addcmul(d_zz, self.zz, value=2.0)


class CoefficientKernel:
    """Coefficients of a chunk of edges, and then their gradients.

    Parameters
    ----------
    inner
        Inner products of the chunk.
    limit
        Largest norm of a point, :func:`~hakg_dgl.geometry.guards.max_norm` on the unit ball.
    scales
        Scales of tail and relation (paper formulation: their points are scale times vector), or None (released
        formulation: their points are exp_x of them).
    """

    def __init__(self, inner: Inner, limit: float, scales: tuple[Tensor, Tensor] | None) -> None:
        self.inner: Inner = inner
        self.limit: float = limit
        xx, xt, xw, tt, ww, tw = inner
        self.shrink = shrink = 1.0 - xx  # 2 over the conformal factor at x
        self.p: _Exp | _Moved
        self.q: _Exp | _Moved
        if scales is None:
            p, q = self.p, self.q = _Exp(xx, shrink, tt, xt), _Exp(xx, shrink, ww, xw)
            self.q_with_x: Tensor = (q.along * xx).addcmul_(q.other, xw)
            self.q_with_t: Tensor = (q.along * xt).addcmul_(q.other, tw)
            dot = (p.along * self.q_with_x).addcmul_(p.other, self.q_with_t)
        else:
            self.p, self.q = _Moved(scales[0], tt), _Moved(scales[1], ww)
            dot = (self.p.other * self.q.other).mul_(tw)
        dot.mul_(2.0)
        # y = clip(p + q) in Möbius addition
        below = torch.addcmul(dot + 1.0, self.p.squared, self.q.squared)
        # Of opposite points at the edge nothing but rounding is left of it, be that 0 or less.
        self.inverse: Tensor = below.clamp_min_(torch.finfo(xx.dtype).eps).reciprocal_()
        dot += self.q.squared
        self.p_factor: Tensor = dot + 1.0
        self.q_factor: Tensor = 1.0 - self.p.squared
        self.sum_squared: Tensor = dot.add_(self.p.squared).mul_(self.inverse)
        self.clipped: Tensor = self.sum_squared > limit * limit
        self.clip: Tensor = torch.where(
            self.clipped, self.sum_squared.clamp_min(SQUARED_NORM_FLOOR).rsqrt().mul_(limit), 1.0
        )
        scaled = self.clip * self.inverse
        self.p_share: Tensor = self.p_factor * scaled
        self.q_share: Tensor = self.q_factor * scaled
        self.y_tail: Tensor = self.p_share * self.p.other
        self.y_relation: Tensor = self.q_share * self.q.other
        self.xy: Tensor = (xt * self.y_tail).addcmul_(xw, self.y_relation)
        if scales is None:
            self.y_head: Tensor = (self.p_share * p.along).addcmul_(self.q_share, q.along)
            self.xy.addcmul_(xx, self.y_head)
        self.yy: Tensor = self.clip.square().mul_(self.sum_squared)
        # u = -x + y in Möbius addition, and the factor of the logarithm
        gap = (xx - 2.0 * self.xy).add_(self.yy)
        self.minus: Tensor = gap + shrink
        self.inverse_below: Tensor = torch.addcmul(gap, shrink, 1.0 - self.yy).reciprocal_()
        self.uu: Tensor = gap.mul_(self.inverse_below)
        self.ratio, self.slope = artanh_ratio_and_slope(self.uu)
        self.factor: Tensor = (shrink * self.ratio).mul_(self.inverse_below)
        self.along: Tensor = self.factor * shrink
        self.scales = scales

    def coefficients(self) -> Coefficients:
        """Coefficients of the messages ``head x + tail t + relation w``."""
        head = self.factor * self.minus
        head = head.neg_() if self.scales is not None else torch.addcmul(head.neg_(), self.along, self.y_head)
        return Coefficients(head, self.along * self.y_tail, self.along * self.y_relation)

    def backward(self, d_a: Tensor, d_b: Tensor, d_c: Tensor) -> InnerGradients:
        """Gradients of the inner products (and scales), from those of the coefficients, ``[n_edges]`` each."""
        xx, xt, xw, _, _, _ = self.inner
        shrink = self.shrink
        # coefficients
        carried = (d_b * self.y_tail).addcmul_(d_c, self.y_relation)
        if self.scales is None:
            carried.addcmul_(d_a, self.y_head)
        d_factor = (carried * shrink).addcmul_(d_a, self.minus, value=-1.0)
        d_shrink = carried.mul_(self.factor)
        d_y_tail, d_y_relation = d_b * self.along, d_c * self.along
        d_gap = (d_a * self.factor).neg_()  # through minus
        d_shrink.add_(d_gap)
        # factor = shrink ratio(uu) / below
        scaled = d_factor * self.inverse_below
        d_shrink.addcmul_(scaled, self.ratio)
        d_uu = scaled.mul_(shrink).mul_(self.slope)
        d_below = d_factor.mul_(self.factor).addcmul_(d_uu, self.uu).mul_(self.inverse_below).neg_()
        d_gap.addcmul_(d_uu, self.inverse_below).add_(d_below)
        d_shrink.addcmul_(d_below, 1.0 - self.yy)
        d_yy = torch.addcmul(d_gap, d_below, shrink, value=-1.0)
        d_xx, d_xy = d_gap.clone(), d_gap.mul_(-2.0)
        # xy and y
        d_xt, d_xw = d_xy * self.y_tail, d_xy * self.y_relation
        d_y_tail.addcmul_(d_xy, xt)
        d_y_relation.addcmul_(d_xy, xw)
        d_p_share, d_q_share = d_y_tail * self.p.other, d_y_relation * self.q.other
        d_y_head = None
        if self.scales is None:
            d_xx.addcmul_(d_xy, self.y_head)
            d_y_head = d_xy.mul_(xx).addcmul_(d_a, self.along)
            d_p_share.addcmul_(d_y_head, self.p.along)  # type: ignore[union-attr]
            d_q_share.addcmul_(d_y_head, self.q.along)  # type: ignore[union-attr]
        d_dot, d_p_squared, d_q_squared = self._through_sum(d_yy, d_p_share, d_q_share)
        d_p_other, d_q_other = d_y_tail.mul_(self.p_share), d_y_relation.mul_(self.q_share)
        if d_y_head is None:
            return self._paper_gradients(
                d_xx.sub_(d_shrink), d_xt, d_xw, d_dot, d_p_other, d_q_other, d_p_squared, d_q_squared
            )
        return self._released_gradients(
            d_xx, d_shrink, d_xt, d_xw, d_dot, d_y_head, d_p_other, d_q_other, d_p_squared, d_q_squared
        )

    def _through_sum(self, d_yy: Tensor, d_p_share: Tensor, d_q_share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Through y = clip(p + q): gradients of ``<p,q>``, ``|p|^2`` and ``|q|^2``."""
        d_clip = (d_p_share * self.p_factor).addcmul_(d_q_share, self.q_factor).mul_(self.inverse)
        d_clip.addcmul_(d_yy, self.clip * self.sum_squared, value=2.0)
        d_sum_squared = self.clip.square().mul_(d_yy)
        turned = (self.clip * d_clip).div_(self.sum_squared.clamp_min(SQUARED_NORM_FLOOR)).mul_(-0.5)
        d_sum_squared.add_(turned.mul_(self.clipped))
        d_below = (d_p_share * self.p_share).addcmul_(d_q_share, self.q_share).addcmul_(d_sum_squared, self.sum_squared)
        d_below.mul_(self.inverse).neg_()
        d_numerator = d_sum_squared.mul_(self.inverse)
        scaled = self.clip * self.inverse
        d_p_factor = d_p_share.mul_(scaled)
        d_dot = (d_numerator + d_p_factor).add_(d_below).mul_(2.0)
        d_p_squared = torch.addcmul(d_numerator, d_below, self.q.squared).addcmul_(d_q_share, scaled, value=-1.0)
        d_q_squared = d_numerator.add_(d_p_factor).addcmul_(d_below, self.p.squared)
        return d_dot, d_p_squared, d_q_squared

    def _released_gradients(
        self, d_xx: Tensor, d_shrink: Tensor, d_xt: Tensor, d_xw: Tensor, d_dot: Tensor, d_y_head: Tensor,
        d_p_other: Tensor, d_q_other: Tensor, d_p_squared: Tensor, d_q_squared: Tensor,
    ) -> InnerGradients:  # fmt: skip
        """Through ``<p,q>`` and both exponential maps."""
        p, q = self.p, self.q
        assert isinstance(p, _Exp)
        assert isinstance(q, _Exp)
        xx, xt, xw, _, _, tw = self.inner
        d_p_along = (d_y_head * self.p_share).addcmul_(d_dot, self.q_with_x)
        d_q_along = d_y_head.mul_(self.q_share).addcmul_(d_dot, (p.along * xx).addcmul_(p.other, xt))
        d_p_other.addcmul_(d_dot, self.q_with_t)
        d_q_other.addcmul_(d_dot, (p.along * xw).addcmul_(p.other, tw))
        by_p_along, by_p_other = d_dot * p.along, d_dot * p.other
        d_xx.addcmul_(by_p_along, q.along)
        d_xw.addcmul_(by_p_along, q.other)
        d_xt.addcmul_(by_p_other, q.along)
        d_tw = by_p_other.mul_(q.other)
        d_tt, from_p = p.backward(d_p_along, d_p_other, d_p_squared, d_xx, d_shrink)
        d_ww, from_q = q.backward(d_q_along, d_q_other, d_q_squared, d_xx, d_shrink)
        return InnerGradients(d_xx.sub_(d_shrink), d_xt.add_(from_p), d_xw.add_(from_q), d_tt, d_ww, d_tw, None, None)

    def _paper_gradients(
        self, d_xx: Tensor, d_xt: Tensor, d_xw: Tensor, d_dot: Tensor,
        d_p_other: Tensor, d_q_other: Tensor, d_p_squared: Tensor, d_q_squared: Tensor,
    ) -> InnerGradients:  # fmt: skip
        """Through ``<p,q>`` and the scales."""
        p, q = self.p, self.q
        assert isinstance(p, _Moved)
        assert isinstance(q, _Moved)
        by_tw = d_dot * self.inner.tw
        d_p_other.addcmul_(by_tw, q.other)
        d_q_other.addcmul_(by_tw, p.other)
        d_tw = d_dot.mul_(p.other).mul_(q.other)
        d_tt, d_tail_scale = p.backward(d_p_other, d_p_squared)
        d_ww, d_relation_scale = q.backward(d_q_other, d_q_squared)
        return InnerGradients(d_xx, d_xt, d_xw, d_tt, d_ww, d_tw, d_tail_scale, d_relation_scale)
