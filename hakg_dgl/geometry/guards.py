"""The numeric guards of the Poincaré ball and the hyperboloid, decided once.

Every function of :mod:`hakg_dgl.geometry` that divides, takes a root or an inverse hyperbolic function goes
through these primitives, so that values and gradients stay finite up to the edge of the ball in both precisions.
The constants are those of the authors' released code, which the reference numbers depend on.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NORM_FLOOR = 1e-15
"""Floor of norms and of Möbius denominators."""
SQUARED_NORM_FLOOR = 1e-30
"""Floor of squared norms, the square of :data:`NORM_FLOOR`."""
ROW_NORM_FLOOR = 1e-12
"""Floor of the L2 norm by which embedding rows are divided."""
ARTANH_MARGIN = 1e-5
"""artanh's argument is kept within plus or minus (1 - this)."""
TANH_LIMIT = 15.0
"""tanh's argument is kept within plus or minus this."""
SINH_LIMIT = 15.0
"""The argument of sinh and cosh is kept within plus or minus this, beyond which float32 cannot tell points apart."""
ANGLE_MARGIN = 1e-6
"""Margin of arcsin and arccos arguments, of squared norms in the aperture, floor of the radicand of the angle."""
_BALL_MARGIN = {torch.float32: 4e-3, torch.float64: 1e-5}


def ball_margin(dtype: torch.dtype) -> float:
    """Distance kept from the edge of the unit ball by :func:`~hakg_dgl.geometry.poincare.project`.

    Parameters
    ----------
    dtype
        ``torch.float32`` (4e-3) or ``torch.float64`` (1e-5).

    Raises
    ------
    TypeError
        For any other dtype: half precision cannot represent points near the edge.
    """
    try:
        return _BALL_MARGIN[dtype]
    except KeyError:
        raise TypeError(f"points of the ball need float32 or float64, not {dtype}; convert them first") from None


def max_norm(dtype: torch.dtype, *, c: float, margin: float | None = None) -> float:
    """Largest norm of a projected point, ``(1 - margin) / sqrt(c)``; ``margin`` is :func:`ball_margin` by default."""
    return (1.0 - (ball_margin(dtype) if margin is None else margin)) / math.sqrt(c)


def artanh(x: Tensor) -> Tensor:
    """Inverse hyperbolic tangent of ``x`` clamped to ±(1 - 1e-5); elementwise, same shape and dtype."""
    return torch.atanh(x.clamp(-1.0 + ARTANH_MARGIN, 1.0 - ARTANH_MARGIN))


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent of ``x`` clamped to ±15; elementwise, same shape and dtype."""
    return torch.tanh(x.clamp(-TANH_LIMIT, TANH_LIMIT))


def sinh(x: Tensor) -> Tensor:
    """Hyperbolic sine of ``x`` clamped to ±15; elementwise, same shape and dtype."""
    return torch.sinh(x.clamp(-SINH_LIMIT, SINH_LIMIT))


def cosh(x: Tensor) -> Tensor:
    """Hyperbolic cosine of ``x`` clamped to ±15; elementwise, same shape and dtype."""
    return torch.cosh(x.clamp(-SINH_LIMIT, SINH_LIMIT))


def norm(x: Tensor) -> Tensor:
    """L2 norm over the last axis, floored at 1e-15, axis kept: ``[..., d] -> [..., 1]``. Gradient 0 at 0.

    Rows whose squares overflow (float32: from about 1.8e19 on) are measured in units of their largest coordinate.
    """
    length: Tensor = x.norm(dim=-1, keepdim=True)
    overflowed = length.isinf()
    if bool(overflowed.any()):
        unit = x.detach().abs().amax(-1, keepdim=True).clamp_min(1.0)
        length = torch.where(overflowed, unit * (x / unit).norm(dim=-1, keepdim=True), length)
    return length.clamp_min(NORM_FLOOR)


def sqrt_floored(squared: Tensor) -> Tensor:
    """Norm from a squared norm, floored at 1e-15, with gradient 0 below the floor (where rounding may leave < 0)."""
    return squared.clamp_min(SQUARED_NORM_FLOOR).sqrt()
