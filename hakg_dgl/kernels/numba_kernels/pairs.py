# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code="no-untyped-def,no-untyped-call,misc"
"""Inner products of the pairs of a pattern and squared norms, over some coordinates, and their gradient, in Numba.

The coordinates are copied to a table of their own first, so that those left out are neither read nor multiplied.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numba import njit

from hakg_dgl.kernels.numba_kernels import numbers
from hakg_dgl.kernels.numba_kernels.numbers import fetch_ahead, number

AHEAD = 8
"""Pairs between fetching a row and reading it."""


def _stamp() -> int:
    """A number that changes with the sources that the kernels are compiled from."""
    return zlib.crc32(b"".join(Path(file).read_bytes() for file in (__file__, numbers.__file__)))


def _kernels(stamp):
    """The kernels; Numba looks for compiled ones by a function's own file and by what it encloses, so by the stamp."""
    kept = njit(error_model="numpy", fastmath={"contract", "reassoc"}, nogil=True, cache=True)
    adding = njit(forceinline=True, error_model="numpy", fastmath={"contract", "reassoc"})

    @adding
    def add(total, a, x, k):
        for j in range(len(total)):
            total[j] += a * x[k, j]

    @kept
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

    @kept
    def dots(first, last, indptr, cols, x, out):
        """``<x[row], x[col]>`` of the pairs of rows ``first`` to ``last``."""
        end = indptr[last] if stamp >= 0 else 0
        for i in range(first, last):
            for e in range(indptr[i], indptr[i + 1]):
                fetch_ahead(x, cols[min(e + AHEAD, end - 1)])
                t = cols[e]
                total = number(0.0, x[i, 0])
                for j in range(x.shape[1]):
                    total += x[i, j] * x[t, j]
                out[e] = total

    @kept
    def gradient(
        first, last, indptr, cols, col_indptr, col_order, rows, grad_dot, grad_square, x, coordinates, out
    ):  # fmt: skip
        """Rows ``first`` to ``last`` of the gradient of x, of all coordinates: those that were left out have zeros."""
        n_rows = len(indptr) - 1 if stamp >= 0 else 0
        total = np.zeros(x.shape[1], x.dtype)
        for i in range(first, last):
            twice = grad_square[i] + grad_square[i]
            for j in range(x.shape[1]):
                total[j] = twice * x[i, j]
            if i < n_rows:
                for e in range(indptr[i], indptr[i + 1]):
                    fetch_ahead(x, cols[min(e + AHEAD, len(cols) - 1)])
                    add(total, grad_dot[e], x, cols[e])
            for place in range(col_indptr[i], col_indptr[i + 1]):
                e = col_order[place]
                fetch_ahead(x, rows[col_order[min(place + AHEAD, len(cols) - 1)]])
                add(total, grad_dot[e], x, rows[e])
            for j in range(out.shape[1]):
                out[i, j] = 0
            for j in range(len(coordinates)):
                out[i, coordinates[j]] = total[j]

    return narrow, dots, gradient


narrow, dots, gradient = _kernels(_stamp())
