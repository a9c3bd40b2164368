"""Messages in the frame of their edge: three coordinates instead of d.

Every point in a relation-transitive message lies in the span of head h, tail t and relation w, so the message is
``m = a h + b t + c w`` with scalars a, b, c that depend only on the six inner products of the three vectors (their
Gram matrix). The functions here turn Gram entries, one row an edge, into those scalars; the sparse products that
make Gram entries and sum messages are in :mod:`hakg_dgl.kernels`. They agree with the vector functions of
:mod:`hakg_dgl.geometry.poincare` up to rounding, guards included.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hakg_dgl.geometry.guards import (
    ARTANH_MARGIN,
    NORM_FLOOR,
    SQUARED_NORM_FLOOR,
    TANH_LIMIT,
    max_norm,
)

# Taylor coefficients in q of d/dq tanh(sqrt q)/sqrt q and d/dq artanh(sqrt q)/sqrt q.
_TANH_SLOPE = (-1 / 3, 4 / 15, -51 / 315, 248 / 2835, -6910 / 155925)
_ARTANH_SLOPE = (1 / 3, 2 / 5, 3 / 7, 4 / 9, 5 / 11, 6 / 13)
# Below these q the closed form of the slope loses more digits to cancellation than the series truncates.
_SERIES_BELOW = {torch.float32: 2e-2, torch.float64: 1.5e-3}


def _polynomial(q: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    total = torch.full_like(q, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total.mul_(q).add_(coefficient)
    return total


def tanh_ratio_and_slope(q: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\tanh(\sqrt q)/\sqrt q` and its derivative by q, both accurate down to ``q = 0``; elementwise."""
    q = q.clamp_min(SQUARED_NORM_FLOOR)
    z = q.sqrt()
    t = torch.tanh(z.clamp_max(TANH_LIMIT))
    ratio = t / z
    slope = t.square_().neg_().add_(1.0).mul_(z < TANH_LIMIT).sub_(ratio).div_(q).mul_(0.5)
    return ratio, torch.where(q < _SERIES_BELOW[q.dtype], _polynomial(q, _TANH_SLOPE), slope)


def artanh_ratio_and_slope(q: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\mathrm{artanh}(\sqrt q)/\sqrt q` and its derivative by q; artanh's argument is kept below 1 - 1e-5."""
    q = q.clamp_min(SQUARED_NORM_FLOOR)
    z = q.sqrt()
    limit = 1.0 - ARTANH_MARGIN
    ratio = torch.atanh(z.clamp_max(limit)).div_(z)
    inside = (1.0 - q).clamp_min_(ARTANH_MARGIN).reciprocal_().mul_(z <= limit)
    slope = inside.sub_(ratio).div_(q).mul_(0.5)
    return ratio, torch.where(q < _SERIES_BELOW[q.dtype], _polynomial(q, _ARTANH_SLOPE), slope)


class _TanhRatio(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor) -> Tensor:
        ratio, slope = tanh_ratio_and_slope(q)
        ctx.save_for_backward(slope)
        return ratio

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        result: Tensor = grad * slope
        return result


class _ArtanhRatio(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor) -> Tensor:
        ratio, slope = artanh_ratio_and_slope(q)
        ctx.save_for_backward(slope)
        return ratio

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        result: Tensor = grad * slope
        return result


def tanh_ratio(q: Tensor) -> Tensor:
    r""":math:`\tanh(\sqrt q)/\sqrt q` for ``q >= 0``, elementwise, with an accurate slope down to ``q = 0``."""
    result: Tensor = _TanhRatio.apply(q)  # type: ignore[no-untyped-call]
    return result


def artanh_ratio(q: Tensor) -> Tensor:
    r""":math:`\mathrm{artanh}(\sqrt q)/\sqrt q`, :math:`\sqrt q` kept below 1 - 1e-5 in artanh, elementwise."""
    result: Tensor = _ArtanhRatio.apply(q)  # type: ignore[no-untyped-call]
    return result


def clip_factor(squared: Tensor, *, c: float, margin: float | None = None) -> Tensor:
    """What :func:`~hakg_dgl.geometry.poincare.project` multiplies a point of this squared norm by, elementwise."""
    limit = max_norm(squared.dtype, c=c, margin=margin)
    inside = squared <= limit * limit
    # Raised to the limit where it is not used: near zero the root's own gradient would overflow, and 0 * inf is NaN.
    return torch.where(inside, 1.0, limit * squared.clamp_min(limit * limit).rsqrt())


def ball_scale(squared: Tensor, *, c: float, margin: float | None = None) -> Tensor:
    r"""Scalar s with ``s v = project(expmap0(v))``, from the squared norm of v; elementwise, any shape."""
    scale = tanh_ratio(c * squared)
    return scale * clip_factor(scale.square() * squared, c=c, margin=margin)


class Gram(NamedTuple):
    """Inner products of head h, tail t and relation w of each edge, every entry of shape ``[n_edges]``."""

    hh: Tensor
    tt: Tensor
    ww: Tensor
    ht: Tensor
    hw: Tensor
    tw: Tensor


class Coefficients(NamedTuple):
    """Message ``a h + b t + c w`` of each edge, every entry of shape ``[n_edges]``."""

    head: Tensor
    tail: Tensor
    relation: Tensor


class _Point(NamedTuple):
    """A point ``head h + other z`` (z the tail or the relation), with its squared norm."""

    head: Tensor | None
    other: Tensor
    squared: Tensor


def released_coefficients(scale: Tensor, gram: Gram, *, c: float, margin: float | None = None) -> Coefficients:
    r"""Message of the released code, :math:`\log_x(\mathrm{clip}(\exp_x(t) \oplus \exp_x(w)))`, x = scale h.

    Parameters
    ----------
    scale
        :func:`ball_scale` of the head's squared norm, ``[n_edges]``.
    gram
        Inner products of the tangent vectors h, t, w.
    c, margin
        Curvature is -c; distance kept from the edge, :func:`~hakg_dgl.geometry.guards.ball_margin` by default.

    Returns
    -------
    Coefficients
        In the frame of the tangent vectors.
    """
    xx = scale.square() * gram.hh
    tail = _exp_at(scale, xx, gram.tt, gram.ht, c=c)
    relation = _exp_at(scale, xx, gram.ww, gram.hw, c=c)
    assert tail.head is not None
    assert relation.head is not None
    inner = (
        tail.head * (relation.head * gram.hh + relation.other * gram.hw)
        + tail.other * (relation.head * gram.ht + relation.other * gram.tw)
    )  # fmt: skip
    return _log_of_sum(scale, xx, tail, relation, inner, gram, c=c, margin=margin)


def paper_coefficients(
    scale: Tensor, tail_scale: Tensor, relation_scale: Tensor, gram: Gram, *, c: float, margin: float | None = None
) -> Coefficients:
    r"""Message as published, :math:`\log_x(\mathrm{clip}(y \oplus r))` for points x, y, r = scales times h, t, w.

    Shapes as in :func:`released_coefficients`; HAKG eq. 4. The coefficients are in the frame of the tangent vectors
    at the origin, h, t, w.
    """
    tail = _Point(None, tail_scale, tail_scale.square() * gram.tt)
    relation = _Point(None, relation_scale, relation_scale.square() * gram.ww)
    inner = tail_scale * relation_scale * gram.tw
    return _log_of_sum(scale, scale.square() * gram.hh, tail, relation, inner, gram, c=c, margin=margin)


def _exp_at(scale: Tensor, xx: Tensor, zz: Tensor, hz: Tensor, *, c: float) -> _Point:
    """exp_x(z) for x = scale h, in the frame (h, z)."""
    half_factor = 1.0 / (1.0 - c * xx)  # half the conformal factor
    step = half_factor * tanh_ratio(c * half_factor.square() * zz)
    twice = 2.0 * c * scale * step * hz
    squared_step = step.square() * zz
    denominator = (1.0 + twice + c * c * xx * squared_step).clamp_min(NORM_FLOOR)
    squared = (xx + twice / c + squared_step) / denominator
    return _Point(
        scale * (1.0 + twice + c * squared_step) / denominator,
        step * (1.0 - c * xx) / denominator,
        squared.clamp_min(0.0),
    )


def _log_of_sum(
    scale: Tensor,
    xx: Tensor,
    tail: _Point,
    relation: _Point,
    inner: Tensor,
    gram: Gram,
    *,
    c: float,
    margin: float | None,
) -> Coefficients:
    """log_x(clip(p + q)) for p, q with inner product ``inner``; x = scale h."""
    twice = 2.0 * c * inner
    denominator = (1.0 + twice + c * c * tail.squared * relation.squared).clamp_min(NORM_FLOOR)
    squared = ((tail.squared + twice / c + relation.squared) / denominator).clamp_min(0.0)
    clip = clip_factor(squared, c=c, margin=margin)
    p = clip * (1.0 + twice + c * relation.squared) / denominator
    q = clip * (1.0 - c * tail.squared) / denominator
    y_tail, y_relation, yy = p * tail.other, q * relation.other, clip.square() * squared
    xy = y_tail * gram.ht + y_relation * gram.hw
    y_head = None
    if tail.head is not None and relation.head is not None:
        y_head = p * tail.head + q * relation.head
        xy = xy + y_head * gram.hh
    xy = scale * xy
    # u = -x + y in Möbius addition, then the logarithm's factor on it.
    minus = 1.0 - 2.0 * c * xy
    below = (minus + c * c * xx * yy).clamp_min(NORM_FLOOR)
    uu = (xx - 2.0 * xy + yy).clamp_min(0.0) / below
    shrink = 1.0 - c * xx  # 2 over the conformal factor
    factor = shrink * artanh_ratio(c * uu) / below
    along = factor * shrink
    head = -factor * (minus + c * yy) * scale
    return Coefficients(head if y_head is None else head + along * y_head, along * y_tail, along * y_relation)
