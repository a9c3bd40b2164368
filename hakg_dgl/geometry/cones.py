"""Hyperbolic entailment cones: half aperture and angle at the apex.

The functions take squared norms and inner products, not vectors, so that one sparse product of a graph's edges
(:mod:`hakg_dgl.kernels`) is all that the angle loss needs.

References
----------
.. [1] Ganea, Bécigneul, Hofmann: Hyperbolic Entailment Cones for Learning Hierarchical Embeddings, ICML 2018.
.. [2] Du et al.: HAKG, SIGIR 2022, eqs. 14-16.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hakg_dgl.geometry.guards import ANGLE_MARGIN, sqrt_floored
from hakg_dgl.geometry.message import MessageRule

APERTURE = 0.1
"""The constant K of [1]_, which sets how wide cones are."""


def half_aperture(xx: Tensor, *, aperture: float = APERTURE) -> Tensor:
    r"""Half aperture :math:`\psi(x) = \arcsin(K (1-\|x\|^2)/\|x\|)` of the cone with apex x.

    Parameters
    ----------
    xx
        Squared norm of the apex, any shape. At most ``1 - 1e-6`` is used; the arcsin's argument is kept within
        ±(1 - 1e-6), so that apexes closer to the origin than about K have the widest cone.
    aperture
        The constant K.

    Returns
    -------
    Tensor
        Radians, shape of ``xx``. [1]_ eq. 26.
    """
    xx = xx.clamp_max(1.0 - ANGLE_MARGIN)
    sine = aperture * (1.0 - xx) / sqrt_floored(xx)
    return torch.asin(sine.clamp(-1.0 + ANGLE_MARGIN, 1.0 - ANGLE_MARGIN))


def euclidean_half_aperture(xx: Tensor, *, aperture: float = APERTURE) -> Tensor:
    r"""Half aperture of a Euclidean cone, :math:`\arcsin(K/\|x\|)` ([1]_ eq. 18), as :func:`half_aperture`."""
    return torch.asin((aperture / sqrt_floored(xx)).clamp(-1.0 + ANGLE_MARGIN, 1.0 - ANGLE_MARGIN))


def euclidean_cone_angle(xx: Tensor, yy: Tensor, xy: Tensor) -> Tensor:
    r"""Angle at x between its direction from the origin and that to y, in flat space ([1]_ eq. 19).

    :math:`\arccos (\langle x, y - x\rangle / (\|x\| \|x-y\|))`; arguments and guards as in :func:`cone_angle`.
    """
    denominator = sqrt_floored(xx) * sqrt_floored(xx + yy - 2.0 * xy) + ANGLE_MARGIN
    return torch.acos(((xy - xx) / denominator).clamp(-1.0 + ANGLE_MARGIN, 1.0 - ANGLE_MARGIN))


def cone_angle(xx: Tensor, yy: Tensor, xy: Tensor) -> Tensor:
    r"""Angle at apex x between the cone's axis and the geodesic from x to y.

    .. math::
        \arccos\frac{\langle x,y\rangle(1+\|x\|^2) - \|x\|^2(1+\|y\|^2)}
                    {\|x\|\,\|x-y\|\sqrt{1+\|x\|^2\|y\|^2-2\langle x,y\rangle}}

    Parameters
    ----------
    xx, yy, xy
        Squared norms of apex and point, and their inner product; same shape. The radicand is at least 1e-6, 1e-6 is
        added to the denominator, and arccos's argument is kept within ±(1 - 1e-6).

    Returns
    -------
    Tensor
        Radians in [0, pi], same shape. [1]_ eq. 28.
    """
    gap = sqrt_floored(xx + yy - 2.0 * xy)
    radicand = (1.0 + xx * yy - 2.0 * xy).clamp_min(ANGLE_MARGIN)
    denominator = sqrt_floored(xx) * gap * radicand.sqrt() + ANGLE_MARGIN
    cosine = (xy * (1.0 + xx) - xx * (1.0 + yy)) / denominator
    return torch.acos(cosine.clamp(-1.0 + ANGLE_MARGIN, 1.0 - ANGLE_MARGIN))


def cone_points(xx: Tensor, yy: Tensor, xy: Tensor, *, rule: MessageRule) -> tuple[Tensor, Tensor, Tensor]:
    r"""Squared norms and inner product of the points whose cones an angle loss compares, from those of its vectors.

    The paper's formulation maps vectors to the ball first, :math:`\mathrm{clip}(\exp_0(v))`; the released code takes
    the vectors themselves. In both the points are then scaled by :math:`\sqrt c` to the unit ball. In flat space the
    vectors are the points.

    Parameters
    ----------
    xx, yy, xy
        Squared norms of two vectors and their inner product; same shape.
    rule
        Formulation and geometry.

    Returns
    -------
    tuple of Tensor
        The same three of the points, as :func:`cone_excess` takes them.
    """
    if rule.geometry == "euclidean":
        return xx, yy, xy
    if rule.formulation == "paper":
        x_scale, y_scale = rule.scale(xx), rule.scale(yy)
        xx, yy, xy = xx * x_scale.square(), yy * y_scale.square(), xy * x_scale * y_scale
    return rule.curvature * xx, rule.curvature * yy, rule.curvature * xy


def cone_excess(xx: Tensor, yy: Tensor, xy: Tensor, *, rule: MessageRule, aperture: float = APERTURE) -> Tensor:
    r"""How far the point y is outside the cone with apex x, :math:`\max(0, \angle(x, y) - \psi(x))`.

    Parameters
    ----------
    xx, yy, xy
        From :func:`cone_points`, the apex first.
    rule
        For its geometry.
    aperture
        The constant K.

    Returns
    -------
    Tensor
        Radians, same shape; zero for points in the cone. [2]_ eq. 16.
    """
    if rule.geometry == "euclidean":
        opening, angle = euclidean_half_aperture(xx, aperture=aperture), euclidean_cone_angle(xx, yy, xy)
    else:
        opening, angle = half_aperture(xx, aperture=aperture), cone_angle(xx, yy, xy)
    return (angle - opening).clamp_min(0.0)
