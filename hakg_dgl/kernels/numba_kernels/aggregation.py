# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code="no-untyped-def,no-untyped-call,misc"
"""Relation-transitive aggregation in Numba: passes over the edges in the order of their heads, in blocks.

Of a block of edges the inner products are computed edge by edge, then the coefficients of all of them in one loop
without branches, which the compiler turns into vector instructions, then the sums, for which the rows are still in
cache. No array of edges x d exists. Heads near the edge of the ball (``outer``) are left out: their messages are
computed by vectors, as in :mod:`hakg_dgl.kernels.aggregation`.

Threads share heads between them (:func:`forward`, :func:`backward_of_heads`) or tails (:func:`backward_of_tails`, where
each goes over all edges and adds those of its own tails). Sums over relations are made piece by piece, and pieces do
not depend on the number of threads, so that every sum has the same order whatever that number is.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from hakg_dgl.kernels.numba_kernels import coefficients
from hakg_dgl.kernels.numba_kernels.coefficients import (
    paper_coefficients,
    paper_gradients,
    released_coefficients,
    released_gradients,
)
from hakg_dgl.kernels.numba_kernels.numbers import adding, fetch_ahead, number, stamp_of

BLOCK = 128
"""Edges of a block: their tails, at d = 64 in float32, fill 32 KB."""
AHEAD = 8
"""Edges between fetching a row and reading it."""
SHARES = 4
"""Numbers an edge that the backward pass keeps for the gradient of its tail."""


# Rows are named by table and number: a view of a row would be counted, one call for each row.


@adding
def _products(head, h, tail, t, rel, k):
    """``<h,t>``, ``<h,w>``, ``<t,w>`` of rows h, t and k."""
    ht, hw, tw = number(0.0, head[h, 0]), number(0.0, head[h, 0]), number(0.0, head[h, 0])
    for j in range(head.shape[1]):
        ht += head[h, j] * tail[t, j]
        hw += head[h, j] * rel[k, j]
        tw += tail[t, j] * rel[k, j]
    return ht, hw, tw


@adding
def _product(one, h, other, t):
    total = number(0.0, one[h, 0])
    for j in range(one.shape[1]):
        total += one[h, j] * other[t, j]
    return total


@adding
def _add_one(total, i, a, x, k):
    for j in range(total.shape[1]):
        total[i, j] += a * x[k, j]


@adding
def _add_two(total, i, a, x, k, b, y, m):
    for j in range(total.shape[1]):
        total[i, j] += a * x[k, j] + b * y[m, j]


@adding
def _add_three(total, i, a, x, k, b, y, m, c, z, n):
    for j in range(total.shape[1]):
        total[i, j] += a * x[k, j] + b * y[m, j] + c * z[n, j]


@adding
def _take(out, h, total, a, x, b, y, factor):
    """Move the total to row h of ``out``, with rows h of x and y added; it is zero then."""
    for j in range(out.shape[1]):
        out[h, j] = (total[0, j] + a * x[h, j] + b * y[h, j]) * factor
        total[0, j] = 0


@adding
def _over_degree(indptr, h, like):
    return number(1.0, like) / number(max(indptr[h + 1] - indptr[h], 1), like)


def _kernels(stamp):
    """The kernels; Numba looks for compiled ones by a function's own file and by what it encloses, so by the stamp."""
    kept = njit(error_model="numpy", fastmath={"contract"}, nogil=True, cache=True)

    @kept
    def forward(
        first, last, indptr, rows, cols, relations, entity, relation, squared, squared_relation, outer, limit, paper,
        out, inner,
    ):  # fmt: skip
        """Means of the messages of heads ``first`` to ``last`` in ``out``; their edges' inner products in ``inner``."""
        begin, end = indptr[first], indptr[last]
        block, total = np.empty((9, BLOCK), entity.dtype), np.zeros((1, entity.shape[1]), entity.dtype)
        hh, ht, hw, tt, ww, tw, a, b, c = (
            block[0], block[1], block[2], block[3], block[4], block[5], block[6], block[7], block[8],
        )  # fmt: skip
        none = number(0.0, limit)
        along, row = none, np.int64(first if stamp >= 0 else last)
        for start in range(begin, end, BLOCK):
            n = min(BLOCK, end - start)
            for i in range(n):
                fetch_ahead(entity, cols[min(start + i + AHEAD, end - 1)])
                h, t, k = rows[start + i], cols[start + i], relations[start + i]
                ht[i], hw[i], tw[i] = _products(entity, h, entity, t, relation, k)
                hh[i], tt[i], ww[i] = squared[h], squared[t], squared_relation[k]
                inner[0, start + i], inner[1, start + i], inner[2, start + i] = ht[i], hw[i], tw[i]
            if paper:
                for i in range(n):
                    a[i], b[i], c[i] = paper_coefficients(hh[i], ht[i], hw[i], tt[i], ww[i], tw[i], limit)
            else:
                for i in range(n):
                    a[i], b[i], c[i] = released_coefficients(hh[i], ht[i], hw[i], tt[i], ww[i], tw[i], limit)
            for i in range(n):
                h = rows[start + i]
                while row < h:
                    _take(out, row, total, along, entity, none, entity, _over_degree(indptr, row, limit))
                    along, row = none, row + 1
                if not outer[h]:
                    along += a[i]
                    _add_two(total, 0, b[i], entity, cols[start + i], c[i], relation, relations[start + i])
        while row < last:
            _take(out, row, total, along, entity, none, entity, _over_degree(indptr, row, limit))
            along, row = none, row + 1

    @kept
    def backward_of_heads(
        first, last, indptr, rows, cols, relations, entity, relation, squared, squared_relation, outer, limit, paper,
        inner, grad, grad_entity, grad_relation, shares,
    ):  # fmt: skip
        """Gradients of heads ``first`` to ``last``, those of relations through their edges, and the edges' shares."""
        begin, end = indptr[first], indptr[last]
        block, total = np.empty((9, BLOCK), entity.dtype), np.zeros((1, entity.shape[1]), entity.dtype)
        hh, ht, hw, tt, ww, tw, a, b, c = (
            block[0], block[1], block[2], block[3], block[4], block[5], block[6], block[7], block[8],
        )  # fmt: skip
        own = np.zeros(len(relation), entity.dtype)
        grad_relation[:] = 0
        none, one = number(0.0, limit), number(1.0, limit)
        along, along_grad, row = none, none, np.int64(first if stamp >= 0 else last)
        inverse, d_a, known = none, none, np.int64(-1)
        for start in range(begin, end, BLOCK):
            n = min(BLOCK, end - start)
            for i in range(n):
                fetch_ahead(entity, cols[min(start + i + AHEAD, end - 1)])
                h, t, k = rows[start + i], cols[start + i], relations[start + i]
                if h != known:
                    inverse = _over_degree(indptr, h, limit)
                    d_a, known = _product(grad, h, entity, h) * inverse, h
                a[i] = d_a
                b[i], c[i] = _product(grad, h, entity, t) * inverse, _product(grad, h, relation, k) * inverse
                hh[i], tt[i], ww[i] = squared[h], squared[t], squared_relation[k]
                ht[i], hw[i], tw[i] = inner[0, start + i], inner[1, start + i], inner[2, start + i]
            if paper:
                for i in range(n):
                    (a[i], b[i], c[i]), (hh[i], ht[i], hw[i], tt[i], ww[i], tw[i]) = paper_gradients(
                        hh[i], ht[i], hw[i], tt[i], ww[i], tw[i], a[i], b[i], c[i], limit
                    )
            else:
                for i in range(n):
                    (a[i], b[i], c[i]), (hh[i], ht[i], hw[i], tt[i], ww[i], tw[i]) = released_gradients(
                        hh[i], ht[i], hw[i], tt[i], ww[i], tw[i], a[i], b[i], c[i], limit
                    )
            for i in range(n):
                e = start + i
                h, t, k = rows[e], cols[e], relations[e]
                while row < h:
                    _take(grad_entity, row, total, along, entity, along_grad, grad, one)
                    along, along_grad, row = none, none, row + 1
                if not outer[h]:
                    inverse = _over_degree(indptr, h, limit)
                    along += hh[i] + hh[i]
                    along_grad += a[i] * inverse
                    own[k] += ww[i] + ww[i]
                    shares[e, 0], shares[e, 1], shares[e, 2], shares[e, 3] = b[i] * inverse, ht[i], tt[i] + tt[i], tw[i]
                    _add_two(total, 0, ht[i], entity, t, hw[i], relation, k)
                    _add_three(grad_relation, k, c[i] * inverse, grad, h, hw[i], entity, h, tw[i], entity, t)
        while row < last:
            _take(grad_entity, row, total, along, entity, along_grad, grad, one)
            along, along_grad, row = none, none, row + 1
        for k in range(len(relation)):
            _add_one(grad_relation, k, own[k], relation, k)

    @kept
    def backward_of_tails(
        mine, n_threads, n_edges, rows, cols, relations, entity, relation, outer, grad, grad_entity, shares
    ):
        """Add the gradients of tails ``mine``, ``mine + n_threads``, ... to ``grad_entity``."""
        own = np.zeros(len(entity) if stamp >= 0 else 0, entity.dtype)
        for e in range(n_edges):
            h, t = rows[e], cols[e]
            fetch_ahead(grad_entity, cols[min(e + AHEAD, n_edges - 1)])
            if np.uint32(t) % np.uint32(n_threads) == mine and not outer[h]:
                own[t] += shares[e, 2]
                _add_three(
                    grad_entity, t, shares[e, 0], grad, h, shares[e, 1], entity, h, shares[e, 3], relation, relations[e]
                )
        for t in range(mine, len(entity), n_threads):
            if own[t] != 0:
                _add_one(grad_entity, t, own[t], entity, t)

    return forward, backward_of_heads, backward_of_tails


forward, backward_of_heads, backward_of_tails = _kernels(stamp_of(__file__, coefficients.__file__))
