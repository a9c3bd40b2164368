"""The inverse of a large positive definite matrix, by blocks, so that it can be interrupted on the way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WORK = 2e10
"""Floating-point operations of a block, which is a second or less on two cores; wide matrices take a few."""
NARROWEST = 128
"""Columns of a block at least; narrower ones are slow."""


def positive_inverse(matrix: Tensor, between: Callable[[], None]) -> Tensor:
    r"""The inverse of a symmetric positive definite matrix.

    :math:`A = L L^\top` by Cholesky; then for the columns J of each block, of which only the rows from the first of J
    on are computed, since the inverse is symmetric: :math:`L Y = I_J`, :math:`L^\top X = Y`. It takes n³ operations in
    all, as LAPACK's ``potrf`` and ``potri`` do, but those do not return before the end, and Python hears no signal
    until they do.

    Parameters
    ----------
    matrix
        ``[n, n]``, float; its lower triangle is overwritten by L.
    between
        Called between blocks; what it raises ends the computation.

    Returns
    -------
    Tensor
        ``[n, n]``, exactly symmetric.

    Raises
    ------
    torch.linalg.LinAlgError
        If the matrix is not positive definite.
    """
    n = len(matrix)
    width = max(NARROWEST, int(WORK / (2 * max(n, 1) ** 2)))
    blocks = [(start, min(start + width, n)) for start in range(0, n, width)]
    for start, end in blocks:
        between()
        _factor_block(matrix, start, end)
    inverse = torch.empty_like(matrix)
    for start, end in blocks:
        between()
        _invert_block(matrix, inverse, start, end)
    return inverse


def _factor_block(matrix: Tensor, start: int, end: int) -> None:
    """Columns ``start`` to ``end`` of L, from those on their left."""
    columns = matrix[start:, start:end]
    if start:
        columns.addmm_(matrix[start:, :start], matrix[start:end, :start].T, alpha=-1.0)
    corner = torch.linalg.cholesky(columns[: end - start])
    columns[: end - start] = corner
    if end < len(matrix):
        below = columns[end - start :]
        below.copy_(torch.linalg.solve_triangular(corner.T, below, upper=True, left=False))


def _invert_block(factor: Tensor, inverse: Tensor, start: int, end: int) -> None:
    """Columns ``start`` to ``end`` of the inverse below the diagonal, and their mirror image."""
    below = factor[start:, start:]
    columns = below.new_zeros(len(below), end - start)
    columns[: end - start].fill_diagonal_(1.0)
    columns = torch.linalg.solve_triangular(below, columns, upper=False)
    columns = torch.linalg.solve_triangular(below.T, columns, upper=True)
    corner = columns[: end - start]
    columns[: end - start] = (corner + corner.T) / 2
    inverse[start:, start:end] = columns
    inverse[start:end, start:] = columns.T
