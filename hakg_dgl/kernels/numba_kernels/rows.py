# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code="no-untyped-def,no-untyped-call,misc"
"""Squared norms of rows, and their dropout and normalisation, in Numba: one pass each way."""

from __future__ import annotations

import numpy as np
from numba import njit

from hakg_dgl.geometry.guards import ROW_NORM_FLOOR
from hakg_dgl.kernels.numba_kernels.numbers import number


def _kernels(floor):
    """The kernels; Numba looks for compiled ones by a function's own file and by what it encloses."""
    kept = njit(error_model="numpy", fastmath={"contract", "reassoc"}, nogil=True, cache=True)

    @kept
    def squares(first, last, x, out):
        """Squared norms of rows ``first`` to ``last`` of x, in the type of ``out``."""
        for i in range(first, last):
            total = number(0.0, out[i])
            for j in range(x.shape[1]):
                value = number(x[i, j], out[i])
                total += value * value
            out[i] = total

    @kept
    def normalise(first, last, x, mask, unit, inverse):
        """Rows ``first`` to ``last`` of x in ``unit``; one over their lengths in ``inverse``. An empty mask is none."""
        masked = len(mask) > 0
        for i in range(first, last):
            total = number(0.0, x[i, 0])
            for j in range(x.shape[1]):
                value = x[i, j]
                if masked:
                    value = value if mask[i, j] else number(0.0, value)
                unit[i, j] = value
                total += value * value
            inverse[i] = number(1.0, total) / max(np.sqrt(total), number(floor, total))
            for j in range(x.shape[1]):
                unit[i, j] *= inverse[i]

    @kept
    def normalise_backward(first, last, grad, unit, inverse, mask, grad_x):
        """Gradient of x's rows in ``grad_x``, from that of the unit rows."""
        masked = len(mask) > 0
        for i in range(first, last):
            along = number(0.0, grad[i, 0])
            for j in range(grad.shape[1]):
                along += grad[i, j] * unit[i, j]
            for j in range(grad.shape[1]):
                value = (grad[i, j] - along * unit[i, j]) * inverse[i]
                if masked:
                    value = value if mask[i, j] else number(0.0, value)
                grad_x[i, j] = value

    return squares, normalise, normalise_backward


squares, normalise, normalise_backward = _kernels(ROW_NORM_FLOOR)
