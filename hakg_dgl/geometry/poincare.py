"""Poincaré ball of curvature ``-c``: Möbius addition, exponential and logarithmic maps, distance.

Stateless functions on tensors ``[..., d]`` (float32 or float64), broadcasting over leading axes, curvature
keyword-only. The ball is ``{x : c |x|^2 < 1}``, its conformal factor at ``x`` is ``2 / (1 - c |x|^2)``.

References
----------
.. [1] Ganea, Bécigneul, Hofmann: Hyperbolic Neural Networks, NeurIPS 2018.
.. [2] Ungar: A Gyrovector Space Approach to Hyperbolic Geometry, 2008.
.. [3] Gulcehre et al.: Hyperbolic Attention Networks, ICLR 2019.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hakg_dgl.geometry.guards import NORM_FLOOR, artanh, max_norm, norm, sqrt_floored, tanh


def conformal_factor(x: Tensor, *, c: float = 1.0) -> Tensor:
    r"""Conformal factor :math:`\lambda_x = 2 / (1 - c \|x\|^2)`: ``[..., d] -> [..., 1]``."""
    return 2.0 / (1.0 - c * x.square().sum(-1, keepdim=True)).clamp_min(NORM_FLOOR)


def project(x: Tensor, *, c: float = 1.0, margin: float | None = None) -> Tensor:
    """Scale points beyond norm ``(1 - margin) / sqrt(c)`` down to it; the margin is 4e-3 (float32) or 1e-5 (float64).

    Shape and dtype are kept; points inside are returned unchanged. Another ``margin`` may be given, for example that
    of float32 to float64 points. The margin bounds the conformal factor, and with it the rounding error of
    :func:`mobius_add`, which grows with its square.
    """
    length = norm(x)
    limit = max_norm(x.dtype, c=c, margin=margin)
    return torch.where(length > limit, x / length * limit, x)


def mobius_add(x: Tensor, y: Tensor, *, c: float = 1.0) -> Tensor:
    r"""Möbius addition :math:`x \oplus_c y` ([1]_ eq. 4).

    .. math::
        \frac{(1 + 2c\langle x,y\rangle + c\|y\|^2)\,x + (1 - c\|x\|^2)\,y}
             {1 + 2c\langle x,y\rangle + c^2\|x\|^2\|y\|^2}

    Identities: ``0 + x = x + 0 = x``, ``(-x) + (x + y) = y``. Not commutative, not associative.

    The order of operations is that of the released code, because the recorded reference numbers depend on it; where x
    and -y are close to each other near the edge, its rounding error grows with the squared conformal factor (the
    distance of two neighbours is off by up to :math:`4 \epsilon \lambda_x \lambda_y / \sqrt c`).
    """
    xx = x.square().sum(-1, keepdim=True)
    yy = y.square().sum(-1, keepdim=True)
    xy = (x * y).sum(-1, keepdim=True)
    numerator = (1.0 + 2.0 * c * xy + c * yy) * x + (1.0 - c * xx) * y
    return numerator / (1.0 + 2.0 * c * xy + c**2 * xx * yy).clamp_min(NORM_FLOOR)


def expmap0(v: Tensor, *, c: float = 1.0) -> Tensor:
    r"""Exponential map at the origin, :math:`\tanh(\sqrt c\|v\|)\, v / (\sqrt c\|v\|)` ([1]_ eq. 13).

    Inverse of :func:`logmap0` where neither is clamped. The result can round to the edge; see :func:`project`.
    """
    length = norm(v)
    root = math.sqrt(c)
    return tanh(root * length) * v / (root * length)


def logmap0(y: Tensor, *, c: float = 1.0) -> Tensor:
    r"""Logarithmic map at the origin, :math:`\mathrm{artanh}(\sqrt c\|y\|)\, y / (\sqrt c\|y\|)` ([1]_ eq. 13)."""
    length = norm(y)
    root = math.sqrt(c)
    return artanh(root * length) / (root * length) * y


def expmap(v: Tensor, x: Tensor, *, c: float = 1.0) -> Tensor:
    r"""Exponential map of tangent ``v`` at base ``x`` ([1]_ eq. 12).

    .. math:: x \oplus_c \tanh(\sqrt c\,\lambda_x\|v\|/2)\, v / (\sqrt c\|v\|)
    """
    length = norm(v)
    root = math.sqrt(c)
    step = tanh(root / 2.0 * conformal_factor(x, c=c) * length) * v / (root * length)
    return mobius_add(x, step, c=c)


def logmap(y: Tensor, x: Tensor, *, c: float = 1.0) -> Tensor:
    r"""Logarithmic map of point ``y`` at base ``x`` ([1]_ eq. 12); inverse of :func:`expmap` in its first argument.

    .. math::
        \frac{2}{\sqrt c\,\lambda_x}\,\mathrm{artanh}(\sqrt c\|u\|)\, u/\|u\|,\qquad u = -x\oplus_c y
    """
    u = mobius_add(-x, y, c=c)
    length = norm(u)
    root = math.sqrt(c)
    return 2.0 / (root * conformal_factor(x, c=c)) * artanh(root * length) * u / length


def distance(x: Tensor, y: Tensor, *, c: float = 1.0) -> Tensor:
    r"""Geodesic distance :math:`\frac{2}{\sqrt c}\mathrm{artanh}(\sqrt c\|-x\oplus_c y\|)`: ``-> [...]``."""
    root = math.sqrt(c)
    return (2.0 / root * artanh(root * norm(mobius_add(-x, y, c=c)))).squeeze(-1)


def distance_by_products(xx: Tensor, yy: Tensor, xy: Tensor, *, c: float = 1.0) -> Tensor:
    r"""Geodesic distance from :math:`\|x\|^2`, :math:`\|y\|^2` and :math:`\langle x, y \rangle`, all ``[...]``.

    .. math:: \frac{2}{\sqrt c} \mathrm{arsinh} \sqrt{\frac{c \|x - y\|^2}{(1 - c\|x\|^2)(1 - c\|y\|^2)}}

    For many pairs of a few points. It equals :func:`distance` but for points within about the root of the rounding
    error of each other, whose difference is lost in the inner product; the gradient is 0 where they coincide.
    """
    apart = c * (xx + yy - 2.0 * xy) / ((1.0 - c * xx) * (1.0 - c * yy)).clamp_min(NORM_FLOOR)
    return 2.0 / math.sqrt(c) * torch.asinh(sqrt_floored(apart))


def hyperboloid(x: Tensor, *, c: float = 1.0) -> Tensor:
    r"""The same point in the Lorentz model, :math:`((\lambda_x - 1) / \sqrt c, \lambda_x x)`: ``[..., d + 1]``."""
    factor = conformal_factor(x, c=c)
    return torch.cat([(factor - 1.0) / math.sqrt(c), factor * x], dim=-1)


def einstein_midpoint(total: Tensor, *, c: float = 1.0) -> Tensor:
    r"""The weighted midpoint of points, from the weighted sum of their :func:`hyperboloid` ([3]_ eq. 4).

    In the Klein model the midpoint of points k with weights α is :math:`m = \sum \alpha \gamma_k k / \sum \alpha
    \gamma_k` with :math:`\gamma_k = (1 - c\|k\|^2)^{-1/2}`. For the point x of the ball that k is,
    :math:`\gamma_k = \lambda_x - 1` and :math:`\gamma_k k = \lambda_x x`, so that one sum of vectors has both. Back in
    the ball it is :math:`m / (1 + \sqrt{1 - c\|m\|^2})`.

    Parameters
    ----------
    total
        :math:`\sum \alpha\, \mathrm{hyperboloid}(x)`, ``[..., d + 1]``, weights of at least 0, not all of them 0.

    Returns
    -------
    Tensor
        ``[..., d]``.
    """
    klein = total[..., 1:] / (math.sqrt(c) * total[..., :1])
    return klein / (1.0 + sqrt_floored(1.0 - c * klein.square().sum(-1, keepdim=True)))
