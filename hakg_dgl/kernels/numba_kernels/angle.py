# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code="no-untyped-def,no-untyped-call,misc"
"""The angle loss over its pairs, and its gradient, in Numba; formulas are those of :mod:`hakg_dgl.geometry.cones`.

The coordinates that a step keeps are copied to a table of their own first, so that those left out are neither read nor
multiplied. A pass over the pairs has their inner products, and then, a block of pairs at a time, the excesses and their
slopes by the three numbers of a pair, in one loop without branches. The gradient is a pass over the entities, each of
which adds up its partners in pairs, so no sum depends on the number of threads.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numba import njit

from hakg_dgl.geometry import guards
from hakg_dgl.kernels.numba_kernels import coefficients
from hakg_dgl.kernels.numba_kernels.coefficients import ball_point
from hakg_dgl.kernels.numba_kernels.numbers import adding, arccosine, arcsine, fetch_ahead, inlined, number, stamp_of

AHEAD = 8
"""Pairs between fetching a row and reading it."""

_FLOOR = guards.SQUARED_NORM_FLOOR
_MARGIN = guards.ANGLE_MARGIN
_LIMIT = 1.0 - guards.ANGLE_MARGIN


@inlined
def _root(squared):
    """Floored square root and its slope."""
    floor = number(_FLOOR, squared)
    root = sqrt(max(squared, floor))
    return root, number(0.5, squared) / root if squared >= floor else number(0.0, squared)


@inlined
def _opening(apex, aperture, flat):
    """Half aperture of the cone and its slope."""
    none, one, limit = number(0.0, apex), number(1.0, apex), number(_LIMIT, apex)
    kept = apex if flat else min(apex, limit)
    root, slope = _root(kept)
    sine = aperture * (one if flat else one - kept) / root
    d_sine = -sine * slope / root
    if not flat:
        d_sine = d_sine - aperture / root if apex <= limit else none
    clipped = min(max(sine, -limit), limit)
    d_opening = d_sine / sqrt(one - clipped * clipped) if abs(sine) <= limit else none
    return arcsine(clipped), d_opening


@inlined
def _excess(apex, point, dot, aperture, flat):
    """How far a point is outside the cone, and the slopes of that by both squared norms and the inner product."""
    none, one, two = number(0.0, apex), number(1.0, apex), number(2.0, apex)
    margin, limit = number(_MARGIN, apex), number(_LIMIT, apex)
    opening, d_opening = _opening(apex, aperture, flat)
    length, d_length = _root(apex)
    gap, d_gap = _root(apex + point - two * dot)
    radicand = one + apex * point - two * dot
    root = one if flat else sqrt(max(radicand, margin))
    d_root = none if flat or radicand < margin else number(0.5, apex) / root
    above = dot - apex if flat else dot * (one + apex) - apex * (one + point)
    above_apex = -one if flat else dot - (one + point)
    above_point = none if flat else -apex
    above_dot = one if flat else one + apex
    below = length * gap * root + margin
    through_gap, through_root = length * root * d_gap, length * gap * d_root
    inverse = one / below
    cosine = above * inverse
    clipped = min(max(cosine, -limit), limit)
    d_cosine = -inverse / sqrt(one - clipped * clipped) if abs(cosine) <= limit else none
    below_apex = d_length * gap * root + through_gap + through_root * point
    below_point = through_gap + through_root * apex
    below_dot = -two * (through_gap + through_root)
    excess = arccosine(clipped) - opening
    outside = excess >= none
    d_apex = d_cosine * (above_apex - cosine * below_apex) - d_opening if outside else none
    d_point = d_cosine * (above_point - cosine * below_point) if outside else none
    d_dot = d_cosine * (above_dot - cosine * below_dot) if outside else none
    return max(excess, none), d_apex, d_point, d_dot


@inlined
def _pair(xx, yy, xy, curvature, limit, aperture, flat, mapped, both):
    """Excess of a pair of an item x and an attribute y, and its slopes by their squared norms and inner product."""
    none = number(0.0, xx)
    ball = number(1.0, xx) if flat else curvature
    x_norm, y_norm, shared = ball * xx, ball * yy, ball
    x_slope, y_slope, shared_x, shared_y = ball, ball, none, none
    if mapped:
        x_scale, x_norm, x_scale_slope, x_norm_slope = ball_point(curvature * xx, limit)
        y_scale, y_norm, y_scale_slope, y_norm_slope = ball_point(curvature * yy, limit)
        x_slope, y_slope, shared = curvature * x_norm_slope, curvature * y_norm_slope, curvature * x_scale * y_scale
        shared_x = curvature * curvature * x_scale_slope * y_scale
        shared_y = curvature * curvature * x_scale * y_scale_slope
    excess, d_y, d_x, d_dot = _excess(y_norm, x_norm, shared * xy, aperture, flat)
    if both:
        more, more_x, more_y, more_dot = _excess(x_norm, y_norm, shared * xy, aperture, flat)
        excess, d_x, d_y, d_dot = excess + more, d_x + more_x, d_y + more_y, d_dot + more_dot
    along = d_dot * xy
    return excess, d_x * x_slope + along * shared_x, d_y * y_slope + along * shared_y, d_dot * shared


@adding
def _add(total, a, x, k):
    for j in range(len(total)):
        total[j] += a * x[k, j]


def _kernels(stamp):
    """The kernels; Numba looks for compiled ones by a function's own file and by what it encloses, so by the stamp."""
    summing = njit(error_model="numpy", fastmath={"contract", "reassoc"}, nogil=True, cache=True)
    exact = njit(error_model="numpy", fastmath={"contract"}, nogil=True, cache=True)

    @summing
    def narrow(first, last, x, coordinates, out, squares):
        """Some coordinates of rows ``first`` to ``last`` of x in ``out``, and the squared norms of what is there."""
        n = len(coordinates) if stamp >= 0 else 0
        for i in range(first, last):
            total = number(0.0, x[i, 0])
            for j in range(n):
                value = x[i, coordinates[j]]
                out[i, j] = value
                total += value * value
            squares[i] = total

    @summing
    def products(first, last, indptr, cols, x, squares, gram):
        """Squared norms of both ends of the pairs of rows ``first`` to ``last``, and inner products: three a pair."""
        end = indptr[last] if stamp >= 0 else 0
        for i in range(first, last):
            for e in range(indptr[i], indptr[i + 1]):
                fetch_ahead(x, cols[min(e + AHEAD, end - 1)])
                t = cols[e]
                total = number(0.0, squares[i])
                for j in range(x.shape[1]):
                    total += x[i, j] * x[t, j]
                gram[0, e], gram[1, e], gram[2, e] = squares[i], squares[t], total

    @exact
    def slopes(first, last, curvature, limit, aperture, flat, mapped, both, gram, excess):
        """Excesses of the pairs ``first`` to ``last``, and their slopes in the place of the inner products."""
        for e in range(first, last if stamp >= 0 else first):
            excess[e], gram[0, e], gram[1, e], gram[2, e] = _pair(
                gram[0, e], gram[1, e], gram[2, e], curvature, limit, aperture, flat, mapped, both
            )

    @summing
    def gradient(first, last, indptr, cols, col_indptr, pairs, partners, slopes, scale, x, coordinates, out):
        """Rows ``first`` to ``last`` of the gradient of x, of all coordinates: those that were left out have zeros.

        The pairs in which a row is the column are ``pairs``, and ``partners`` are their rows.
        """
        n_rows = len(indptr) - 1 if stamp >= 0 else 0
        total = np.zeros(x.shape[1], x.dtype)
        for i in range(first, last):
            own = number(0.0, scale)
            for j in range(x.shape[1]):
                total[j] = own
            if i < n_rows:
                for e in range(indptr[i], indptr[i + 1]):
                    fetch_ahead(x, cols[min(e + AHEAD, len(cols) - 1)])
                    own += slopes[0, e]
                    _add(total, slopes[2, e], x, cols[e])
            for place in range(col_indptr[i], col_indptr[i + 1]):
                e = pairs[place]
                fetch_ahead(x, partners[min(place + AHEAD, len(cols) - 1)])
                own += slopes[1, e]
                _add(total, slopes[2, e], x, partners[place])
            own += own
            for j in range(out.shape[1]):
                out[i, j] = 0
            for j in range(len(coordinates)):
                out[i, coordinates[j]] = (total[j] + own * x[i, j]) * scale

    return narrow, products, slopes, gradient


narrow, products, slopes, gradient = _kernels(stamp_of(__file__, coefficients.__file__))
