r"""Hyperboloid (Lorentz model) of curvature ``-c``: exponential and logarithmic maps, addition, distance.

Stateless functions on points ``[..., d + 1]`` (float32 or float64), the first coordinate being that of time,
broadcasting over leading axes, curvature keyword-only. The hyperboloid is :math:`\{x : \langle x, x \rangle_L = -1/c,
x_0 > 0\}`, its origin :math:`(1/\sqrt c, 0, \dots, 0)`. Tangent vectors at the origin have no coordinate of time and
are given as ``[..., d]``; those at other points have it, ``[..., d + 1]``.

References
----------
.. [1] Nickel, Kiela: Learning Continuous Hierarchies in the Lorentz Model of Hyperbolic Geometry, ICML 2018.
.. [2] Chami, Ying, Ré, Leskovec: Hyperbolic Graph Convolutional Neural Networks, NeurIPS 2019.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hakg_dgl.geometry.guards import cosh, norm, sinh, sqrt_floored


def flip_time(x: Tensor) -> Tensor:
    r"""The point with its time negated: :math:`\langle x, y \rangle_L` is the plain inner product of it and y."""
    return torch.cat([-x[..., :1], x[..., 1:]], dim=-1)


def inner(x: Tensor, y: Tensor) -> Tensor:
    r"""Lorentzian inner product :math:`-x_0 y_0 + \sum_{k \ge 1} x_k y_k` ([1]_ eq. 1): ``[..., d + 1] -> [...]``."""
    return (x[..., 1:] * y[..., 1:]).sum(-1) - x[..., 0] * y[..., 0]


def expmap0(v: Tensor, *, c: float = 1.0) -> Tensor:
    r"""Exponential map at the origin: ``[..., d] -> [..., d + 1]`` ([2]_ proposition 3.2 at the origin).

    .. math:: \left(\frac{\cosh(\sqrt c \|v\|)}{\sqrt c},\; \sinh(\sqrt c \|v\|) \frac{v}{\sqrt c \|v\|}\right)

    Inverse of :func:`logmap0` where the length of v, times :math:`\sqrt c`, is at most 15.
    """
    root, length = math.sqrt(c), norm(v)
    return torch.cat([cosh(root * length) / root, sinh(root * length) / (root * length) * v], dim=-1)


def logmap0(x: Tensor, *, c: float = 1.0) -> Tensor:
    r"""Logarithmic map at the origin: ``[..., d + 1] -> [..., d]``.

    .. math:: \frac{\mathrm{arsinh}(\sqrt c \|x'\|)}{\sqrt c} \frac{x'}{\|x'\|}, \qquad x' = (x_1, \dots, x_d)

    On the hyperboloid that is :math:`\mathrm{arcosh}(\sqrt c\, x_0)`, which near the origin keeps no digits.
    """
    root, space = math.sqrt(c), x[..., 1:]
    length = norm(space)
    return torch.asinh(root * length) / (root * length) * space


def distance(x: Tensor, y: Tensor, *, c: float = 1.0) -> Tensor:
    r"""Geodesic distance :math:`\mathrm{arcosh}(-c \langle x, y \rangle_L) / \sqrt c`: ``[..., d + 1] -> [...]``.

    Computed as :math:`\frac{2}{\sqrt c} \mathrm{arsinh}(\frac{\sqrt c}{2} \sqrt{\langle x - y, x - y \rangle_L})`. On
    the hyperboloid that is equal, and it keeps its digits where points are near each other; the gradient is 0 where
    they coincide.
    """
    root, apart = math.sqrt(c), x - y
    return 2.0 / root * torch.asinh(root / 2.0 * sqrt_floored(inner(apart, apart)))


NEAR = 1e-4
"""Excess of arcosh's argument over 1 below which :func:`log_scale` is a series, whose gradient is finite at 1."""


def expmap(x: Tensor, v: Tensor, *, c: float = 1.0) -> Tensor:
    r"""Exponential map at x: ``[..., d + 1] -> [..., d + 1]`` ([2]_ proposition 3.2).

    .. math:: \cosh(\sqrt c \|v\|_L)\, x + \sinh(\sqrt c \|v\|_L) \frac{v}{\sqrt c \|v\|_L}

    Inverse of :func:`logmap` where the length of v, times :math:`\sqrt c`, is at most 15.
    """
    length = math.sqrt(c) * tangent_norm(x, v, c=c)
    return cosh(length) * x + sinh(length) / length * v


def tangent_norm(x: Tensor, v: Tensor, *, c: float = 1.0) -> Tensor:
    r"""Length of a tangent vector at x, axis kept: ``[..., d + 1] -> [..., 1]``. Gradient 0 at 0.

    .. math:: \|v\|_L^2 = \|v' - \langle v', e \rangle e\|^2 + \langle v', e \rangle^2 \frac{1 + q - q^2}{c\, x_0^2},
              \qquad e = \frac{x'}{\max(\|x'\|, 1 / \sqrt c)}, \quad q = \|e\|^2

    As v is orthogonal to x that is :math:`\langle v, v \rangle_L`, whose two terms grow with :math:`x_0^2` and cancel
    each other: far from the origin float32 would keep none of its digits.
    """
    space = x[..., 1:]
    e = space / norm(space).clamp_min(1.0 / math.sqrt(c))
    q = e.square().sum(-1, keepdim=True)
    along = (v[..., 1:] * e).sum(-1, keepdim=True)
    across = (v[..., 1:] - along * e).square().sum(-1, keepdim=True)
    return sqrt_floored(across + (along / x[..., :1]).square() * (1.0 + q - q.square()) / c)


def log_scale(product: Tensor, *, c: float = 1.0) -> Tensor:
    r"""What the logarithmic map scales by, from Lorentzian inner products of points; same shape.

    .. math:: \frac{\mathrm{arcosh}(z)}{\sqrt{z^2 - 1}}, \qquad z = -c \langle x, y \rangle_L
    """
    excess = (-c * product - 1.0).clamp_min(0.0)
    far = excess.clamp_min(NEAR)
    root = (far * (far + 2.0)).sqrt()
    near = excess.clamp_max(NEAR)
    return torch.where(excess < NEAR, 1.0 - near / 3.0 + near.square() * (2.0 / 15.0), torch.log1p(far + root) / root)


def logmap(x: Tensor, y: Tensor, *, c: float = 1.0) -> Tensor:
    r"""Logarithmic map at x: ``[..., d + 1] -> [..., d + 1]`` ([2]_ proposition 3.2).

    .. math:: \frac{\mathrm{arcosh}(z)}{\sqrt{z^2 - 1}} (y - z x), \qquad z = -c \langle x, y \rangle_L
    """
    product = inner(x, y).unsqueeze(-1)
    return log_scale(product, c=c) * (y + c * product * x)


def transport0(v: Tensor, x: Tensor, *, c: float = 1.0) -> Tensor:
    r"""Parallel transport of a tangent vector at the origin to x: ``[..., d] -> [..., d + 1]``.

    .. math:: (0, v) + \frac{c \langle x', v \rangle}{1 + \sqrt c\, x_0} (x + o), \qquad x' = (x_1, \dots, x_d)
    """
    root = math.sqrt(c)
    share = c * (x[..., 1:] * v).sum(-1, keepdim=True) / (1.0 + root * x[..., :1])
    return torch.cat([share * (x[..., :1] + 1.0 / root), v + share * x[..., 1:]], dim=-1)


def add(x: Tensor, y: Tensor, *, c: float = 1.0) -> Tensor:
    r"""Addition :math:`x \oplus y = \exp_x(P_{o \to x}(\log_o y))`: ``[..., d + 1] -> [..., d + 1]`` ([2]_).

    The origin is neutral on either side.
    """
    return expmap(x, transport0(logmap0(y, c=c), x, c=c), c=c)
