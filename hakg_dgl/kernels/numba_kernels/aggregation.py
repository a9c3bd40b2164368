# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code="no-untyped-def,no-untyped-call,misc"
"""Relation-transitive aggregation in Numba: passes over the edges in the order of their heads, in blocks.

Of a block of edges the inner products are computed edge by edge, then the coefficients of all of them in one loop
without branches, which the compiler turns into vector instructions, then the sums, for which the rows are still in
cache. No array of edges x d exists.

A call is for some of the edges, in the type of ``squared`` and ``limit``, which may be wider than that of the tables:
messages to heads near the edge of the ball are computed in float64, from tables of float32. With ``every`` the rows of
heads without any of the edges become zero, else they are left alone.

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

_kept = njit(error_model="numpy", fastmath={"contract"}, nogil=True, cache=True)


# Rows are named by table and number: a view of a row would be counted, one call for each row.


@adding
def _products(head, h, tail, t, rel, k, like):
    """``<h,t>``, ``<h,w>``, ``<t,w>`` of rows h, t and k."""
    ht, hw, tw = number(0.0, like), number(0.0, like), number(0.0, like)
    for j in range(head.shape[1]):
        x, y, z = number(head[h, j], like), number(tail[t, j], like), number(rel[k, j], like)
        ht += x * y
        hw += x * z
        tw += y * z
    return ht, hw, tw


@adding
def _product(one, h, other, t, like):
    total = number(0.0, like)
    for j in range(one.shape[1]):
        total += number(one[h, j], like) * number(other[t, j], like)
    return total


@adding
def _add_one(total, i, a, x, k):
    for j in range(total.shape[1]):
        total[i, j] += a * number(x[k, j], a)


@adding
def _add_two(total, i, a, x, k, b, y, m):
    for j in range(total.shape[1]):
        total[i, j] += a * number(x[k, j], a) + b * number(y[m, j], a)


@adding
def _add_three(total, i, a, x, k, b, y, m, c, z, n):
    for j in range(total.shape[1]):
        total[i, j] += a * number(x[k, j], a) + b * number(y[m, j], a) + c * number(z[n, j], a)


@adding
def _add_four(total, i, a, x, k, b, y, m, c, z, n, d, v, o):
    for j in range(total.shape[1]):
        more = a * number(x[k, j], a) + b * number(y[m, j], a) + c * number(z[n, j], a) + d * number(v[o, j], a)
        total[i, j] += number(more, total[i, j])


@adding
def _take(out, h, total, a, x, b, y, factor):
    """Move the total to row h of ``out``, with rows h of x and y added; it is zero then."""
    for j in range(out.shape[1]):
        sum_of_all = (total[0, j] + a * number(x[h, j], a) + b * number(y[h, j], a)) * factor
        out[h, j] = number(sum_of_all, out[h, j])
        total[0, j] = 0


@adding
def _clear(out, first, last):
    """Zero in rows ``first`` to ``last``."""
    for h in range(first, last):
        for j in range(out.shape[1]):
            out[h, j] = 0


# Each kernel is made by a function of the stamp: Numba looks for a compiled one by the kernel's own file and by what it
# encloses, and so finds none after a change of the files that it takes functions from.


def _forward(stamp):
    @_kept
    def forward(
        first, last, every, indptr, rows, cols, relations, inverse, squared, squared_relation, limit, paper, entity,
        relation, out, inner,
    ):  # fmt: skip
        """Means of the messages of heads ``first`` to ``last`` in ``out``; their edges' inner products in ``inner``."""
        begin, end = indptr[first], indptr[last]
        none = number(0.0, limit)
        block, total = np.empty((9, BLOCK), squared.dtype), np.zeros((1, entity.shape[1]), squared.dtype)
        hh, ht, hw, tt, ww, tw, a, b, c = (
            block[0], block[1], block[2], block[3], block[4], block[5], block[6], block[7], block[8],
        )  # fmt: skip
        if begin == end:
            _clear(out, first, last if every else first)
            return
        along, row = none, np.int64(rows[begin] if stamp >= 0 else last)
        _clear(out, first, row if every else first)
        for start in range(begin, end, BLOCK):
            n = min(BLOCK, end - start)
            for i in range(n):
                fetch_ahead(entity, cols[min(start + i + AHEAD, end - 1)])
                h, t, k = rows[start + i], cols[start + i], relations[start + i]
                ht[i], hw[i], tw[i] = _products(entity, h, entity, t, relation, k, limit)
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
                if row != h:
                    _take(out, row, total, along, entity, none, entity, inverse[row])
                    _clear(out, row + 1, h if every else row)
                    along, row = none, h
                along += a[i]
                _add_two(total, 0, b[i], entity, cols[start + i], c[i], relation, relations[start + i])
        _take(out, row, total, along, entity, none, entity, inverse[row])
        _clear(out, row + 1, last if every else row)

    return forward


def _backward_of_heads(stamp):
    @_kept
    def backward_of_heads(
        first, last, every, indptr, rows, cols, relations, inverse, squared, squared_relation, limit, paper, entity,
        relation, inner, grad, grad_entity, grad_relation, shares,
    ):  # fmt: skip
        """Gradients of heads ``first`` to ``last``, those of relations through their edges, and the edges' shares."""
        begin, end = indptr[first], indptr[last]
        none, one = number(0.0, limit), number(1.0, limit)
        block, total = np.empty((9, BLOCK), squared.dtype), np.zeros((1, entity.shape[1]), squared.dtype)
        hh, ht, hw, tt, ww, tw, a, b, c = (
            block[0], block[1], block[2], block[3], block[4], block[5], block[6], block[7], block[8],
        )  # fmt: skip
        own = np.zeros(len(relation), squared.dtype)
        grad_relation[:] = 0
        if begin == end:
            _clear(grad_entity, first, last if every else first)
            return
        along, along_grad, row = none, none, np.int64(rows[begin] if stamp >= 0 else last)
        _clear(grad_entity, first, row if every else first)
        d_a, known = none, np.int64(-1)
        for start in range(begin, end, BLOCK):
            n = min(BLOCK, end - start)
            for i in range(n):
                fetch_ahead(entity, cols[min(start + i + AHEAD, end - 1)])
                h, t, k = rows[start + i], cols[start + i], relations[start + i]
                if h != known:
                    d_a, known = _product(grad, h, entity, h, limit) * inverse[h], h
                a[i] = d_a
                b[i] = _product(grad, h, entity, t, limit) * inverse[h]
                c[i] = _product(grad, h, relation, k, limit) * inverse[h]
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
                if row != h:
                    _take(grad_entity, row, total, along, entity, along_grad, grad, one)
                    _clear(grad_entity, row + 1, h if every else row)
                    along, along_grad, row = none, none, h
                along += hh[i] + hh[i]
                along_grad += a[i] * inverse[h]
                own[k] += ww[i] + ww[i]
                shares[e, 0], shares[e, 1], shares[e, 2], shares[e, 3] = b[i] * inverse[h], ht[i], tt[i] + tt[i], tw[i]
                _add_two(total, 0, ht[i], entity, t, hw[i], relation, k)
                _add_three(grad_relation, k, c[i] * inverse[h], grad, h, hw[i], entity, h, tw[i], entity, t)
        _take(grad_entity, row, total, along, entity, along_grad, grad, one)
        _clear(grad_entity, row + 1, last if every else row)
        for k in range(len(relation)):
            _add_one(grad_relation, k, own[k], relation, k)

    return backward_of_heads


def _backward_of_tails(stamp):
    @_kept
    def backward_of_tails(mine, n_threads, at_once, rows, cols, relations, entity, relation, grad, grad_entity, shares):
        """Add the gradients of tails ``mine``, ``mine + n_threads``, ... to ``grad_entity``.

        ``at_once``: an edge's whole gradient is added up before it is rounded to the table's type. Else what is along
        the tail itself is added once a tail.
        """
        n_edges = len(rows)
        own = np.zeros(0 if at_once and stamp >= 0 else len(entity), entity.dtype)
        for e in range(n_edges):
            h, t, k = rows[e], cols[e], relations[e]
            fetch_ahead(grad_entity, cols[min(e + AHEAD, n_edges - 1)])
            if np.uint32(t) % np.uint32(n_threads) != mine:
                continue
            by_grad, by_head, by_tail, by_relation = shares[e, 0], shares[e, 1], shares[e, 2], shares[e, 3]
            if at_once:
                _add_four(
                    grad_entity, t, by_grad, grad, h, by_head, entity, h, by_tail, entity, t, by_relation, relation, k
                )
            else:
                own[t] += by_tail
                _add_three(grad_entity, t, by_grad, grad, h, by_head, entity, h, by_relation, relation, k)
        for t in range(mine, len(own), n_threads):
            if own[t] != 0:
                _add_one(grad_entity, t, own[t], entity, t)

    return backward_of_tails


_STAMP = stamp_of(__file__, coefficients.__file__)
forward = _forward(_STAMP)
backward_of_heads = _backward_of_heads(_STAMP)
backward_of_tails = _backward_of_tails(_STAMP)
