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
