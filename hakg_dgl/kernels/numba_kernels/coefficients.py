# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code="no-untyped-def,no-untyped-call,misc"
"""Coefficients of messages in the frame of their edge, and their gradients, as functions that Numba compiles.

The quantities of :mod:`hakg_dgl.kernels.coefficients`, on the unit ball, one edge at a time, in the precision of the
arguments. The message of edge (h, r, t) is ``a h + b t + c w``, where a, b and c depend on the six inner products of h,
t and w alone. It is made of three stages, each with its gradients beside it:

- ``_exp_map``: a tangent vector z at the point x becomes ``exp_x(z) = along x + other z`` (released formulation only);
- ``_add``: the points p and q become ``y = clip(p + q) = p_share p + q_share q``, a Möbius sum;
- ``_log_map``: the point y becomes ``log_x(y) = base x + point y``.

``d_z`` is the gradient of z. Gradients compute again what their stage computed: the compiler sees that these are the
same values, and computes them once. ``limit`` is the largest norm of a point. No function has a branch.
"""

from __future__ import annotations

from math import sqrt

from hakg_dgl.geometry import guards
from hakg_dgl.kernels.numba_kernels.numbers import exp, inlined, log, number, rounding, series

_SQUARED_FLOOR = guards.SQUARED_NORM_FLOOR
_TANH_LIMIT = guards.TANH_LIMIT
_ARTANH_LIMIT = 1.0 - guards.ARTANH_MARGIN
_ARTANH_REST = 1.0 - (1.0 - guards.ARTANH_MARGIN) ** 2
# Below these q, closed forms lose digits to cancellation; the Taylor series in q has them all.
_TANH_SERIES_BELOW = 0.1
_ARTANH_SERIES_BELOW = 0.06
_TANH_SERIES = (
    1.0, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925, 21844 / 6081075, -929569 / 638512875,
    6404582 / 10854718875, -443861162 / 1856156927625, 18888466084 / 194896477400625,
    -113927491862 / 2900518163668125, 58870668456604 / 3698160658676859375,
)  # fmt: skip
_ARTANH_SERIES = tuple(1.0 / (2 * k + 1) for k in range(15))


@inlined
def _tanh_ratio(q):
    """``tanh(sqrt q)/sqrt q`` and its derivative by q; tanh's argument is kept below 15."""
    q = max(q, number(_SQUARED_FLOOR, q))
    one, limit = number(1.0, q), number(_TANH_LIMIT, q)
    z = sqrt(q)
    decay = exp(number(-2.0, q) * min(z, limit))
    inverse = one / (one + decay)
    ratio = (one - decay) * inverse / z
    squared_secant = number(4.0, q) * decay * inverse * inverse if z < limit else number(0.0, q)
    slope = number(0.5, q) * (squared_secant - ratio) / q
    near, near_slope = series(q, _TANH_SERIES)
    small = q < number(_TANH_SERIES_BELOW, q)
    return near if small else ratio, near_slope if small else slope


@inlined
def _artanh_ratio(q, rest):
    """``artanh(sqrt q)/sqrt q`` and its derivative by q, ``rest = 1 - q``; artanh's argument is kept below 1 - 1e-5."""
    q = max(q, number(_SQUARED_FLOOR, q))
    one, limit = number(1.0, q), number(_ARTANH_LIMIT, q)
    z = sqrt(q)
    root = one + min(z, limit)
    inverse = one / max(rest, number(_ARTANH_REST, q))
    ratio = number(0.5, q) * log(root * root * inverse) / z
    within = inverse if z <= limit else number(0.0, q)
    slope = number(0.5, q) * (within - ratio) / q
    near, near_slope = series(q, _ARTANH_SERIES)
    small = q < number(_ARTANH_SERIES_BELOW, q)
    return near if small else ratio, near_slope if small else slope


@inlined
def ball_point(squared, limit):
    """Scale s of the point ``s v`` of a tangent vector v, the point's squared norm, and their slopes by ``|v|^2``."""
    ratio, slope = _tanh_ratio(squared)
    norm = ratio * ratio * squared
    most = limit * limit
    beyond = norm > most
    outside = max(squared, most)
    clipped = limit / sqrt(outside)
    half = number(0.5, squared)
    scale = clipped if beyond else ratio
    scale_slope = -half * clipped / outside if beyond else slope
    norm_slope = number(0.0, squared) if beyond else ratio * (ratio + number(2.0, squared) * squared * slope)
    return scale, most if beyond else norm, scale_slope, norm_slope


@inlined
def _exp_map_terms(xx, zz, xz):
    one = number(1.0, xx)
    half_factor = one / (one - xx)
    ratio, slope = _tanh_ratio(half_factor * half_factor * zz)
    step = half_factor * ratio
    twice = number(2.0, xx) * step * xz
    squared_step = step * step * zz
    return half_factor, ratio, slope, step, twice, squared_step, one / (one + twice + xx * squared_step)


@inlined
def _exp_map(xx, zz, xz):
    """``exp_x(z) = along x + other z``, and its squared norm."""
    one = number(1.0, xx)
    _, _, _, step, twice, squared_step, inverse = _exp_map_terms(xx, zz, xz)
    moved = twice + squared_step
    return (one + moved) * inverse, step * (one - xx) * inverse, (xx + moved) * inverse


@inlined
def _exp_map_gradients(xx, zz, xz, d_along, d_other, d_squared):
    """Gradients of xx, zz and xz."""
    one, two = number(1.0, xx), number(2.0, xx)
    half_factor, ratio, slope, step, _, squared_step, inverse = _exp_map_terms(xx, zz, xz)
    along, other, squared = _exp_map(xx, zz, xz)
    d_below = -(d_along * along + d_other * other + d_squared * squared) * inverse
    d_twice = (d_along + d_squared) * inverse + d_below
    d_squared_step = (d_along + d_squared) * inverse + d_below * xx
    d_step = d_other * inverse * (one - xx) + two * (d_twice * xz + d_squared_step * step * zz)
    by_argument = d_step * half_factor * slope  # gradient of half_factor^2 zz
    d_half_factor = d_step * ratio + two * by_argument * half_factor * zz
    d_xx = d_squared * inverse + d_below * squared_step - d_other * inverse * step
    d_xx += d_half_factor * half_factor * half_factor
    return d_xx, d_squared_step * step * step + by_argument * half_factor * half_factor, two * d_twice * step


@inlined
def _add_terms(pp, qq, dot, limit):
    # Of opposite points at the edge nothing but rounding is left of the denominator, be that 0 or less.
    floor, two, most = rounding(pp), number(2.0, pp), limit * limit
    below = number(1.0, pp) + two * dot + pp * qq
    inverse = number(1.0, pp) / max(below, floor)
    squared = (two * dot + pp + qq) * inverse
    beyond = squared > most
    clip = limit / sqrt(max(squared, most)) if beyond else number(1.0, pp)
    return below > floor, inverse, squared, beyond, clip


@inlined
def _add(pp, qq, dot, limit):
    """``y = clip(p + q) = p_share p + q_share q``, and its squared norm."""
    one = number(1.0, pp)
    _, inverse, squared, beyond, clip = _add_terms(pp, qq, dot, limit)
    share = clip * inverse
    yy = limit * limit if beyond else squared
    return (one + number(2.0, pp) * dot + qq) * share, (one - pp) * share, yy


@inlined
def _add_gradients(pp, qq, dot, d_p_share, d_q_share, d_yy, limit):
    """Gradients of ``|p|^2``, ``|q|^2`` and ``<p,q>``."""
    one, two = number(1.0, pp), number(2.0, pp)
    above_floor, inverse, squared, beyond, clip = _add_terms(pp, qq, dot, limit)
    share = clip * inverse
    d_share = d_p_share * (one + two * dot + qq) + d_q_share * (one - pp)
    turned = -number(0.5, pp) * clip * d_share * inverse / max(squared, limit * limit)
    d_squared = turned if beyond else d_yy
    d_below = -(d_share * share + d_squared * squared) * inverse if above_floor else number(0.0, pp)
    d_sum = d_squared * inverse
    d_p = d_p_share * share
    return d_sum - d_q_share * share + d_below * qq, d_sum + d_p + d_below * pp, two * (d_sum + d_p + d_below)


@inlined
def _log_map_terms(xx, xy, yy):
    one = number(1.0, xx)
    shrink = one - xx  # 2 over the conformal factor at x
    gap = xx - number(2.0, xx) * xy + yy  # |x - y|^2
    rest = shrink * (one - yy)
    inverse = one / (gap + rest)
    squared = gap * inverse  # of u = -x + y in Möbius addition
    ratio, slope = _artanh_ratio(squared, rest * inverse)
    return shrink, gap, inverse, squared, ratio, slope


@inlined
def _log_map(xx, xy, yy):
    """``log_x(y) = base x + point y``."""
    shrink, gap, inverse, _, ratio, _ = _log_map_terms(xx, xy, yy)
    factor = shrink * ratio * inverse
    return -factor * (gap + shrink), factor * shrink


@inlined
def _log_map_gradients(xx, xy, yy, d_base, d_point):
    """Gradients of xx, xy and yy."""
    shrink, gap, inverse, squared, ratio, slope = _log_map_terms(xx, xy, yy)
    factor = shrink * ratio * inverse
    d_factor = d_point * shrink - d_base * (gap + shrink)
    by_squared = d_factor * shrink * inverse * slope * inverse  # of gap, through the squared norm of u
    d_below = -d_factor * factor * inverse - by_squared * squared
    d_gap = by_squared + d_below - d_base * factor
    d_shrink = d_point * factor - d_base * factor + d_factor * ratio * inverse + d_below * (number(1.0, xx) - yy)
    return d_gap - d_shrink, -number(2.0, xx) * d_gap, d_gap - d_below * shrink


@inlined
def _sum_of_points(xx, xt, xw, tw, p, q, limit):
    """Shares of p and q in ``y = clip(p + q)``, y's coordinates, ``<x,y>``, ``|y|^2`` and ``<p,q>``.

    p and q are points ``along x + other z`` with their squared norms, of the tail (z = t) and the relation (z = w).
    """
    p_along, p_other, pp = p
    q_along, q_other, qq = q
    dot = p_along * (q_along * xx + q_other * xw) + p_other * (q_along * xt + q_other * tw)
    p_share, q_share, yy = _add(pp, qq, dot, limit)
    y_head = p_share * p_along + q_share * q_along
    y_tail, y_relation = p_share * p_other, q_share * q_other
    return p_share, q_share, y_head, y_tail, y_relation, xx * y_head + xt * y_tail + xw * y_relation, yy, dot


@inlined
def _message(scale, xx, xt, xw, tw, p, q, limit):
    """Coefficients a, b, c of ``a h + b t + c w``, where x = scale h."""
    _, _, y_head, y_tail, y_relation, xy, yy, _ = _sum_of_points(xx, xt, xw, tw, p, q, limit)
    base, point = _log_map(xx, xy, yy)
    return scale * (base + point * y_head), point * y_tail, point * y_relation


@inlined
def _message_gradients(scale, xx, xt, xw, tw, p, q, d_a, d_b, d_c, limit):
    """Gradients of scale (through the message alone), xx, xt, xw, tw and of the three numbers of p and of q."""
    p_along, p_other, pp = p
    q_along, q_other, qq = q
    p_share, q_share, y_head, y_tail, y_relation, xy, yy, dot = _sum_of_points(xx, xt, xw, tw, p, q, limit)
    base, point = _log_map(xx, xy, yy)
    # The message is (base + point y_head) x + point y_tail t + point y_relation w, with x = scale h.
    d_x = scale * d_a
    d_xx, d_xy, d_yy = _log_map_gradients(xx, xy, yy, d_x, d_x * y_head + d_b * y_tail + d_c * y_relation)
    d_y_head, d_y_tail, d_y_relation = d_x * point + d_xy * xx, d_b * point + d_xy * xt, d_c * point + d_xy * xw
    d_p_share, d_q_share = d_y_tail * p_other + d_y_head * p_along, d_y_relation * q_other + d_y_head * q_along
    d_pp, d_qq, d_dot = _add_gradients(pp, qq, dot, d_p_share, d_q_share, d_yy, limit)
    d_p_along = d_y_head * p_share + d_dot * (q_along * xx + q_other * xw)
    d_q_along = d_y_head * q_share + d_dot * (p_along * xx + p_other * xt)
    d_p_other = d_y_tail * p_share + d_dot * (q_along * xt + q_other * tw)
    d_q_other = d_y_relation * q_share + d_dot * (p_along * xw + p_other * tw)
    d_xx += d_xy * y_head + d_dot * p_along * q_along
    d_xt, d_xw = d_xy * y_tail + d_dot * p_other * q_along, d_xy * y_relation + d_dot * p_along * q_other
    d_scale = d_a * (base + point * y_head)
    d_p, d_q = (d_p_along, d_p_other, d_pp), (d_q_along, d_q_other, d_qq)
    return d_scale, d_xx, d_xt, d_xw, d_dot * p_other * q_other, d_p, d_q


@inlined
def _released(hh, ht, hw, tt, ww, limit):
    """x's scale, squared norm and products with t and w; ``exp_x(t)`` and ``exp_x(w)``."""
    scale, xx, _, _ = ball_point(hh, limit)
    xt, xw = scale * ht, scale * hw
    return scale, xx, xt, xw, _exp_map(xx, tt, xt), _exp_map(xx, ww, xw)


@inlined
def _paper(hh, ht, hw, tt, ww, limit):
    """The same with the points of t and w themselves."""
    scale, xx, _, _ = ball_point(hh, limit)
    p_other, pp, _, _ = ball_point(tt, limit)
    q_other, qq, _, _ = ball_point(ww, limit)
    none = number(0.0, hh)
    return scale, xx, scale * ht, scale * hw, (none, p_other, pp), (none, q_other, qq)


@inlined
def released_coefficients(hh, ht, hw, tt, ww, tw, limit):
    """The message ``a h + b t + c w`` of an edge in the released formulation: a, b, c.

    Arguments are the inner products of head h, tail t and relation w on the unit ball.
    """
    scale, xx, xt, xw, p, q = _released(hh, ht, hw, tt, ww, limit)
    return _message(scale, xx, xt, xw, tw, p, q, limit)


@inlined
def paper_coefficients(hh, ht, hw, tt, ww, tw, limit):
    """The same in the paper's formulation."""
    scale, xx, xt, xw, p, q = _paper(hh, ht, hw, tt, ww, limit)
    return _message(scale, xx, xt, xw, tw, p, q, limit)


@inlined
def _through_head(hh, ht, hw, d_scale, d_xx, d_xt, d_xw, limit):
    """Gradients of hh, ht and hw from those of what is made of them."""
    scale, _, scale_slope, norm_slope = ball_point(hh, limit)
    d_scale += d_xt * ht + d_xw * hw
    return d_xx * norm_slope + d_scale * scale_slope, scale * d_xt, scale * d_xw


@inlined
def released_gradients(hh, ht, hw, tt, ww, tw, d_a, d_b, d_c, limit):
    """Coefficients, and gradients of hh, ht, hw, tt, ww, tw from those of the coefficients; see above."""
    scale, xx, xt, xw, p, q = _released(hh, ht, hw, tt, ww, limit)
    coefficients = _message(scale, xx, xt, xw, tw, p, q, limit)
    d_scale, d_xx, d_xt, d_xw, d_tw, d_p, d_q = _message_gradients(scale, xx, xt, xw, tw, p, q, d_a, d_b, d_c, limit)
    p_xx, d_tt, p_xt = _exp_map_gradients(xx, tt, xt, d_p[0], d_p[1], d_p[2])
    q_xx, d_ww, q_xw = _exp_map_gradients(xx, ww, xw, d_q[0], d_q[1], d_q[2])
    d_hh, d_ht, d_hw = _through_head(hh, ht, hw, d_scale, d_xx + p_xx + q_xx, d_xt + p_xt, d_xw + q_xw, limit)
    return coefficients, (d_hh, d_ht, d_hw, d_tt, d_ww, d_tw)


@inlined
def paper_gradients(hh, ht, hw, tt, ww, tw, d_a, d_b, d_c, limit):
    """The same in the paper's formulation."""
    scale, xx, xt, xw, p, q = _paper(hh, ht, hw, tt, ww, limit)
    coefficients = _message(scale, xx, xt, xw, tw, p, q, limit)
    d_scale, d_xx, d_xt, d_xw, d_tw, d_p, d_q = _message_gradients(scale, xx, xt, xw, tw, p, q, d_a, d_b, d_c, limit)
    _, _, tail_slope, tail_norm_slope = ball_point(tt, limit)
    _, _, relation_slope, relation_norm_slope = ball_point(ww, limit)
    d_tt = d_p[1] * tail_slope + d_p[2] * tail_norm_slope
    d_ww = d_q[1] * relation_slope + d_q[2] * relation_norm_slope
    d_hh, d_ht, d_hw = _through_head(hh, ht, hw, d_scale, d_xx, d_xt, d_xw, limit)
    return coefficients, (d_hh, d_ht, d_hw, d_tt, d_ww, d_tw)
