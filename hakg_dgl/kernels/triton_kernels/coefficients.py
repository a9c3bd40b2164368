# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code="no-untyped-def,no-untyped-call,misc"
"""Coefficients of messages in the frame of their edge, and their gradients, as functions that Triton compiles.

The same quantities as in :mod:`hakg_dgl.kernels.coefficients`, on the unit ball, one number an edge, in the precision
of the arguments (float32 or float64). The message of edge (h, r, t) is ``a h + b t + c w``, where a, b and c depend on
the six inner products of h, t and w alone. It is made of three stages, each with its gradients beside it:

- ``_exp``: a tangent vector z at the point x becomes ``exp_x(z) = along x + other z`` (released formulation only);
- ``_add``: the points p and q become ``y = clip(p + q) = p_share p + q_share q``, a Möbius sum;
- ``_log``: the point y becomes ``log_x(y) = base x + point y``.

``d_z`` is the gradient of z. Gradients compute again what their stage computed: the compiler sees that these are the
same values, and computes them once. Values are multiplied by one reciprocal instead of divided several times.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hakg_dgl.geometry import guards

_SQUARED_FLOOR = tl.constexpr(guards.SQUARED_NORM_FLOOR)
_TANH_LIMIT = tl.constexpr(guards.TANH_LIMIT)
_ARTANH_LIMIT = tl.constexpr(1.0 - guards.ARTANH_MARGIN)
_ARTANH_REST = tl.constexpr(1.0 - (1.0 - guards.ARTANH_MARGIN) ** 2)
# Below these q, closed forms lose digits to cancellation; the Taylor series in q has them all.
_TANH_SERIES_BELOW = tl.constexpr(0.1)
_ARTANH_SERIES_BELOW = tl.constexpr(0.06)
_TANH_SERIES = tl.constexpr((
    1.0, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925, 21844 / 6081075, -929569 / 638512875,
    6404582 / 10854718875, -443861162 / 1856156927625, 18888466084 / 194896477400625,
    -113927491862 / 2900518163668125, 58870668456604 / 3698160658676859375,
))  # fmt: skip
_ARTANH_SERIES = tl.constexpr(tuple(1.0 / (2 * k + 1) for k in range(15)))


@triton.jit
def _series(q, COEFFICIENTS: tl.constexpr, TERMS: tl.constexpr):
    """The series and its derivative at q, by Horner's rule."""
    value = q * 0.0 + COEFFICIENTS[TERMS]
    slope = q * 0.0
    for k in tl.static_range(TERMS):
        slope = slope * q + value
        value = value * q + COEFFICIENTS[TERMS - 1 - k]
    return value, slope


@triton.jit
def _tanh_ratio(q):
    """``tanh(sqrt q)/sqrt q`` and its derivative by q; tanh's argument is kept below 15."""
    q = tl.maximum(q, _SQUARED_FLOOR)
    z = tl.sqrt(q)
    decay = tl.exp(-2.0 * tl.minimum(z, _TANH_LIMIT))
    inverse = 1.0 / (1.0 + decay)
    ratio = (1.0 - decay) * inverse / z
    squared_secant = tl.where(z < _TANH_LIMIT, 4.0 * decay * inverse * inverse, 0.0)
    slope = 0.5 * (squared_secant - ratio) / q
    near, near_slope = _series(q, _TANH_SERIES, 12 if q.dtype == tl.float64 else 7)
    small = q < _TANH_SERIES_BELOW
    return tl.where(small, near, ratio), tl.where(small, near_slope, slope)


@triton.jit
def _artanh_ratio(q, rest):
    """``artanh(sqrt q)/sqrt q`` and its derivative by q, ``rest = 1 - q``; artanh's argument is kept below 1 - 1e-5."""
    q = tl.maximum(q, _SQUARED_FLOOR)
    z = tl.sqrt(q)
    root = 1.0 + tl.minimum(z, _ARTANH_LIMIT)
    inverse = 1.0 / tl.maximum(rest, _ARTANH_REST)
    ratio = 0.5 * tl.log(root * root * inverse) / z
    slope = 0.5 * (tl.where(z <= _ARTANH_LIMIT, inverse, 0.0) - ratio) / q
    near, near_slope = _series(q, _ARTANH_SERIES, 14 if q.dtype == tl.float64 else 7)
    small = q < _ARTANH_SERIES_BELOW
    return tl.where(small, near, ratio), tl.where(small, near_slope, slope)


@triton.jit
def _ball_point(squared, LIMIT: tl.constexpr):
    """Scale s of the point ``s v`` of a tangent vector v, the point's squared norm, and their slopes by ``|v|^2``."""
    ratio, slope = _tanh_ratio(squared)
    norm = ratio * ratio * squared
    beyond = norm > LIMIT * LIMIT
    scale = tl.where(beyond, LIMIT / tl.sqrt(tl.maximum(squared, LIMIT * LIMIT)), ratio)
    scale_slope = tl.where(beyond, -0.5 * scale / tl.maximum(squared, LIMIT * LIMIT), slope)
    norm_slope = tl.where(beyond, 0.0, ratio * (ratio + 2.0 * squared * slope))
    return scale, tl.where(beyond, LIMIT * LIMIT, norm), scale_slope, norm_slope


@triton.jit
def _exp_terms(xx, zz, xz):
    half_factor = 1.0 / (1.0 - xx)
    ratio, slope = _tanh_ratio(half_factor * half_factor * zz)
    step = half_factor * ratio
    twice = 2.0 * step * xz
    squared_step = step * step * zz
    return half_factor, ratio, slope, step, twice, squared_step, 1.0 / (1.0 + twice + xx * squared_step)


@triton.jit
def _exp(xx, zz, xz):
    """``exp_x(z) = along x + other z``, and its squared norm."""
    _, _, _, step, twice, squared_step, inverse = _exp_terms(xx, zz, xz)
    moved = twice + squared_step
    return (1.0 + moved) * inverse, step * (1.0 - xx) * inverse, (xx + moved) * inverse


@triton.jit
def _exp_gradients(xx, zz, xz, d_along, d_other, d_squared):
    """Gradients of xx, zz and xz."""
    half_factor, ratio, slope, step, _, squared_step, inverse = _exp_terms(xx, zz, xz)
    along, other, squared = _exp(xx, zz, xz)
    d_below = -(d_along * along + d_other * other + d_squared * squared) * inverse
    d_twice = (d_along + d_squared) * inverse + d_below
    d_squared_step = (d_along + d_squared) * inverse + d_below * xx
    d_step = d_other * inverse * (1.0 - xx) + 2.0 * (d_twice * xz + d_squared_step * step * zz)
    by_argument = d_step * half_factor * slope  # gradient of half_factor^2 zz
    d_half_factor = d_step * ratio + 2.0 * by_argument * half_factor * zz
    d_xx = d_squared * inverse + d_below * squared_step - d_other * inverse * step
    d_xx += d_half_factor * half_factor * half_factor
    return d_xx, d_squared_step * step * step + by_argument * half_factor * half_factor, 2.0 * d_twice * step


@triton.jit
def _add_terms(pp, qq, dot, LIMIT: tl.constexpr):
    # Of opposite points at the edge nothing but rounding is left of the denominator, be that 0 or less.
    floor: tl.constexpr = 2.220446049250313e-16 if pp.dtype == tl.float64 else 1.1920928955078125e-07
    below = 1.0 + 2.0 * dot + pp * qq
    inverse = 1.0 / tl.maximum(below, floor)
    squared = (2.0 * dot + pp + qq) * inverse
    beyond = squared > LIMIT * LIMIT
    clip = tl.where(beyond, LIMIT / tl.sqrt(tl.maximum(squared, LIMIT * LIMIT)), 1.0)
    return below > floor, inverse, squared, beyond, clip


@triton.jit
def _add(pp, qq, dot, LIMIT: tl.constexpr):
    """``y = clip(p + q) = p_share p + q_share q``, and its squared norm."""
    _, inverse, squared, beyond, clip = _add_terms(pp, qq, dot, LIMIT)
    share = clip * inverse
    yy = tl.where(beyond, LIMIT * LIMIT, squared)
    return (1.0 + 2.0 * dot + qq) * share, (1.0 - pp) * share, yy


@triton.jit
def _add_gradients(pp, qq, dot, d_p_share, d_q_share, d_yy, LIMIT: tl.constexpr):
    """Gradients of ``|p|^2``, ``|q|^2`` and ``<p,q>``."""
    above_floor, inverse, squared, beyond, clip = _add_terms(pp, qq, dot, LIMIT)
    share = clip * inverse
    d_share = d_p_share * (1.0 + 2.0 * dot + qq) + d_q_share * (1.0 - pp)
    turned = -0.5 * clip * d_share * inverse / tl.maximum(squared, LIMIT * LIMIT)
    d_squared = tl.where(beyond, turned, d_yy)
    d_below = tl.where(above_floor, -(d_share * share + d_squared * squared) * inverse, 0.0)
    d_sum = d_squared * inverse
    d_p = d_p_share * share
    return d_sum - d_q_share * share + d_below * qq, d_sum + d_p + d_below * pp, 2.0 * (d_sum + d_p + d_below)


@triton.jit
def _log_terms(xx, xy, yy):
    shrink = 1.0 - xx  # 2 over the conformal factor at x
    gap = xx - 2.0 * xy + yy  # |x - y|^2
    rest = shrink * (1.0 - yy)
    inverse = 1.0 / (gap + rest)
    squared = gap * inverse  # of u = -x + y in Möbius addition
    ratio, slope = _artanh_ratio(squared, rest * inverse)
    return shrink, gap, inverse, squared, ratio, slope


@triton.jit
def _log(xx, xy, yy):
    """``log_x(y) = base x + point y``."""
    shrink, gap, inverse, _, ratio, _ = _log_terms(xx, xy, yy)
    factor = shrink * ratio * inverse
    return -factor * (gap + shrink), factor * shrink


@triton.jit
def _log_gradients(xx, xy, yy, d_base, d_point):
    """Gradients of xx, xy and yy."""
    shrink, gap, inverse, squared, ratio, slope = _log_terms(xx, xy, yy)
    factor = shrink * ratio * inverse
    d_factor = d_point * shrink - d_base * (gap + shrink)
    by_squared = d_factor * shrink * inverse * slope * inverse  # of gap, through the squared norm of u
    d_below = -d_factor * factor * inverse - by_squared * squared
    d_gap = by_squared + d_below - d_base * factor
    d_shrink = d_point * factor - d_base * factor + d_factor * ratio * inverse + d_below * (1.0 - yy)
    return d_gap - d_shrink, -2.0 * d_gap, d_gap - d_below * shrink


@triton.jit
def _points(hh, ht, hw, tt, ww, tw, PAPER: tl.constexpr, LIMIT: tl.constexpr):
    """x's scale, squared norm and products with t and w; p and q as ``along x + other z``, squared norms, ``<p,q>``."""
    scale, xx, _, _ = _ball_point(hh, LIMIT)
    xt, xw = scale * ht, scale * hw
    if PAPER:
        p_other, pp, _, _ = _ball_point(tt, LIMIT)
        q_other, qq, _, _ = _ball_point(ww, LIMIT)
        p_along, q_along = p_other * 0.0, q_other * 0.0
        dot = p_other * q_other * tw
    else:
        p_along, p_other, pp = _exp(xx, tt, xt)
        q_along, q_other, qq = _exp(xx, ww, xw)
        dot = p_along * (q_along * xx + q_other * xw) + p_other * (q_along * xt + q_other * tw)
    return scale, xx, xt, xw, p_along, p_other, pp, q_along, q_other, qq, dot


@triton.jit
def message_coefficients(hh, ht, hw, tt, ww, tw, PAPER: tl.constexpr, LIMIT: tl.constexpr):
    """The message ``a h + b t + c w`` of each edge: a, b, c.

    Arguments are the inner products of head h, tail t and relation w on the unit ball: hh one number, the others
    ``[n_edges]``. ``LIMIT`` is the largest norm of a point.
    """
    scale, xx, xt, xw, p_along, p_other, pp, q_along, q_other, qq, dot = _points(hh, ht, hw, tt, ww, tw, PAPER, LIMIT)
    p_share, q_share, yy = _add(pp, qq, dot, LIMIT)
    y_head = p_share * p_along + q_share * q_along
    y_tail, y_relation = p_share * p_other, q_share * q_other
    base, point = _log(xx, xx * y_head + xt * y_tail + xw * y_relation, yy)
    return scale * (base + point * y_head), point * y_tail, point * y_relation


@triton.jit
def message_gradients(hh, ht, hw, tt, ww, tw, d_a, d_b, d_c, PAPER: tl.constexpr, LIMIT: tl.constexpr):
    """Gradients of the six inner products from those of the coefficients, all ``[n_edges]``.

    Arguments as in :func:`message_coefficients`; the gradient of hh is that of each edge. Returns hh, ht, hw, tt, ww,
    tw.
    """
    scale, xx, xt, xw, p_along, p_other, pp, q_along, q_other, qq, dot = _points(hh, ht, hw, tt, ww, tw, PAPER, LIMIT)
    p_share, q_share, yy = _add(pp, qq, dot, LIMIT)
    y_head = p_share * p_along + q_share * q_along
    y_tail, y_relation = p_share * p_other, q_share * q_other
    xy = xx * y_head + xt * y_tail + xw * y_relation
    base, point = _log(xx, xy, yy)
    # The message is (base + point y_head) x + point y_tail t + point y_relation w, with x = scale h.
    d_x = scale * d_a
    d_xx, d_xy, d_yy = _log_gradients(xx, xy, yy, d_x, d_x * y_head + d_b * y_tail + d_c * y_relation)
    d_y_head, d_y_tail, d_y_relation = d_x * point + d_xy * xx, d_b * point + d_xy * xt, d_c * point + d_xy * xw
    d_xx += d_xy * y_head
    d_xt, d_xw = d_xy * y_tail, d_xy * y_relation
    d_p_share, d_q_share = d_y_tail * p_other, d_y_relation * q_other
    if not PAPER:
        d_p_share += d_y_head * p_along
        d_q_share += d_y_head * q_along
    d_pp, d_qq, d_dot = _add_gradients(pp, qq, dot, d_p_share, d_q_share, d_yy, LIMIT)
    d_p_other, d_q_other = d_y_tail * p_share, d_y_relation * q_share
    d_tw = d_dot * p_other * q_other
    if PAPER:
        _, _, tail_slope, tail_norm_slope = _ball_point(tt, LIMIT)
        _, _, relation_slope, relation_norm_slope = _ball_point(ww, LIMIT)
        d_tt = (d_p_other + d_dot * q_other * tw) * tail_slope + d_pp * tail_norm_slope
        d_ww = (d_q_other + d_dot * p_other * tw) * relation_slope + d_qq * relation_norm_slope
    else:
        d_p_along = d_y_head * p_share + d_dot * (q_along * xx + q_other * xw)
        d_q_along = d_y_head * q_share + d_dot * (p_along * xx + p_other * xt)
        d_p_other += d_dot * (q_along * xt + q_other * tw)
        d_q_other += d_dot * (p_along * xw + p_other * tw)
        p_xx, d_tt, p_xt = _exp_gradients(xx, tt, xt, d_p_along, d_p_other, d_pp)
        q_xx, d_ww, q_xw = _exp_gradients(xx, ww, xw, d_q_along, d_q_other, d_qq)
        d_xx += d_dot * p_along * q_along + p_xx + q_xx
        d_xt += d_dot * p_other * q_along + p_xt
        d_xw += d_dot * p_along * q_other + q_xw
    _, _, scale_slope, norm_slope = _ball_point(hh, LIMIT)
    d_scale = d_a * (base + point * y_head) + d_xt * ht + d_xw * hw
    return d_xx * norm_slope + d_scale * scale_slope, scale * d_xt, scale * d_xw, d_tt, d_ww, d_tw
