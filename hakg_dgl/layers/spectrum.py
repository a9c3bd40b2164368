r"""The leading singular values and right singular vectors of a sparse matrix, on the device where it lies.

Of :math:`G = M M^\top` (or :math:`M^\top M`, whichever is smaller) a block Lanczos method with full orthogonalisation
and thick restarts finds the largest eigenvalues (Golub and Underwood 1977; Wu and Simon 2000, "Thick-restart Lanczos
method for large symmetric eigenvalue problems"). All of it is products with blocks: sparse ones with G, dense ones with
the basis. On a CPU ARPACK's method of single vectors is faster as long as few are asked for. Small matrices are
decomposed at once. :func:`way` chooses.
"""

from __future__ import annotations

from inspect import signature
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor

from hakg_dgl.graph.packed import Grouping, SparsePattern
from hakg_dgl.kernels.choice import choose_backend

DENSE_UP_TO = 2048
"""Rows or columns, whichever are fewer, up to which all singular vectors are computed at once."""
ARPACK_UP_TO = 2e9
"""Rows or columns times the square of the values asked for, up to which ARPACK is faster on a CPU (one thread)."""
BLOCK = 32
"""Vectors that the basis grows by."""
CLOSE = 1e-8
"""Of the largest eigenvalue: the largest residual of those that are found."""
BASIS_BYTES = 1 << 30
"""Of the basis, if that is more than twice what is asked for."""
MOST_PRODUCTS = 10_000
"""Blocks after which what is found is taken as it is."""
_STRIPE = 256
"""Columns of a dense G that are computed at once."""


class Matrix:
    """A sparse matrix in float64 with its transpose, and products with both.

    Parameters
    ----------
    pattern
        Where it is not zero, each place once.
    values
        float64 ``[n_edges]``.
    """

    def __init__(self, pattern: SparsePattern, values: Tensor) -> None:
        self.pattern: SparsePattern = pattern
        self.values: Tensor = values
        self.shape: tuple[int, int] = (pattern.n_rows, pattern.n_cols)
        self.device: torch.device = values.device
        by_col = pattern.by_col
        self._transposed = Grouping(by_col.indptr, None), by_col.permute(pattern.rows), by_col.permute(values)
        self._backend = choose_backend("auto", values.device)

    @classmethod
    def of(cls, matrix: sparse.csr_matrix, device: torch.device) -> Matrix:
        """A SciPy matrix without duplicates."""
        counts = torch.from_numpy(np.diff(matrix.indptr).astype(np.int64))
        rows = torch.repeat_interleave(counts).to(device)
        cols, values = torch.from_numpy(matrix.indices.astype(np.int64)), torch.from_numpy(matrix.data)
        return cls(SparsePattern.from_pairs(rows, cols.to(device), *matrix.shape), values.double().to(device))

    def times(self, x: Tensor) -> Tensor:
        """``M x``, ``[n_rows, k]`` from ``[n_cols, k]``."""
        return self._backend.weighted_sum(self.pattern.by_row, self.pattern.cols, self.values, x)

    def transposed_times(self, x: Tensor) -> Tensor:
        """``M^T x``, ``[n_cols, k]`` from ``[n_rows, k]``."""
        return self._backend.weighted_sum(*self._transposed, x)

    def to_scipy(self) -> sparse.csr_matrix:
        """The same on the CPU."""
        indptr, cols = self.pattern.by_row.indptr.cpu().numpy(), self.pattern.cols.cpu().numpy()
        return sparse.csr_matrix((self.values.cpu().numpy(), cols, indptr), self.shape)


def way(n: int, r: int, device: torch.device) -> Literal["dense", "arpack", "blocks"]:
    """How ``r`` eigenvalues of a symmetric matrix ``[n, n]`` are found on a device."""
    if n <= max(DENSE_UP_TO, r):
        return "dense"
    return "arpack" if device.type == "cpu" and n * r**2 <= ARPACK_UP_TO else "blocks"


def leading(matrix: Matrix, r: int) -> tuple[Tensor, Tensor]:
    """The ``r`` largest squared singular values, and their right vectors.

    Parameters
    ----------
    matrix
        Of any shape and rank.
    r
        At most the number of its rows or columns.

    Returns
    -------
    tuple of Tensor
        float64 ``[r]``, the largest first, and ``[n_cols, r]``, on the matrix's device; the same every time. Vectors of
        values that are zero do not matter.
    """
    n_rows, n_cols = matrix.shape
    if not matrix.pattern.n_edges:
        return matrix.values.new_zeros(r), matrix.values.new_zeros(n_cols, r)
    solve = {"dense": _at_once, "arpack": _by_arpack, "blocks": _by_blocks}[way(min(n_rows, n_cols), r, matrix.device)]
    squared, vectors = solve(matrix, r)
    squared = squared.clamp(min=0.0)
    if n_rows >= n_cols:
        return squared, vectors.contiguous()
    scale = squared.sqrt()
    right = matrix.transposed_times(vectors.contiguous())
    return squared, right / torch.where(scale > 1e-7 * scale.max(), scale, torch.inf)


def _at_once(matrix: Matrix, r: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues of G, descending, and their vectors ``[n, r]``, as in all that follow."""
    if matrix.device.type != "cpu":
        squared, vectors = torch.linalg.eigh(_dense_gram(matrix))
        return squared.flip(0)[:r], vectors.flip(1)[:, :r]
    plain = matrix.to_scipy()
    wide = plain.shape[0] < plain.shape[1]
    values, vectors = np.linalg.eigh((plain @ plain.T if wide else plain.T @ plain).toarray())
    return _descending(values, vectors, r)


def _by_arpack(matrix: Matrix, r: int) -> tuple[Tensor, Tensor]:
    """Where it would have to restart by chance, by blocks."""
    plain = matrix.to_scipy()
    short = plain if plain.shape[0] < plain.shape[1] else plain.T.tocsr()
    long, n = short.T.tocsr(), min(plain.shape)
    gram = LinearOperator((n, n), matvec=lambda x: short @ (long @ x), dtype=np.float64)
    try:
        values, vectors = eigsh(gram, k=r, v0=np.ones(n), **_DRAWS)
        return _descending(values, vectors, r)
    except ArpackError:  # there are fewer than r directions
        return _by_blocks(matrix, r)


_DRAWS: dict[str, Any] = {"rng": 0} if "rng" in signature(eigsh).parameters else {}
"""ARPACK draws a vector of its own where singular values repeat; older SciPy takes no generator for it."""


def _descending(values: NDArray[np.float64], vectors: NDArray[np.float64], r: int) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(values[::-1][:r].copy()), torch.from_numpy(vectors[:, ::-1][:, :r].copy())


def _gram_times(matrix: Matrix, x: Tensor) -> Tensor:
    """``G x``, ``[n, k]``."""
    if matrix.shape[0] < matrix.shape[1]:
        return matrix.times(matrix.transposed_times(x))
    return matrix.transposed_times(matrix.times(x))


def _dense_gram(matrix: Matrix) -> Tensor:
    n = min(matrix.shape)
    one = torch.eye(n, dtype=torch.float64, device=matrix.device)
    return torch.cat([_gram_times(matrix, stripe.contiguous()) for stripe in torch.split(one, _STRIPE, 1)], 1)


def _by_blocks(matrix: Matrix, r: int) -> tuple[Tensor, Tensor]:
    """By a block Lanczos method.

    The rows of ``basis`` are orthonormal, and ``within`` is G in it. A new block is G times the last one, of which all
    that lies in the basis is taken off; in an invariant subspace what is left is rounding errors, which serve as new
    directions. At a restart the basis becomes the leading vectors found so far.
    """
    n, like = min(matrix.shape), matrix.values
    size = min(n, max(2 * r + 2 * BLOCK, min(8 * r, BASIS_BYTES // (8 * n))))
    basis, within = like.new_empty(size, n), like.new_zeros(size, size)
    draw = torch.Generator(like.device).manual_seed(0)
    block = _orthonormal(torch.randn(min(BLOCK, n), n, dtype=like.dtype, device=like.device, generator=draw))
    held, due = 0, min(size, 2 * r)
    for product in range(1, MOST_PRODUCTS + 1):
        before, held = held, held + len(block)
        basis[before:held] = block
        known = basis[:held]
        image = _gram_times(matrix, block.T.contiguous()).T.contiguous()
        shares = image @ known.T
        within[before:held, :held], within[:held, before:held] = shares, shares.T
        image.addmm_(shares, known, alpha=-1.0)
        block = _new_directions(image, known, min(BLOCK, n - held))
        full = held + len(block) > size
        if held < due and not full and len(block):
            continue
        values, turn = torch.linalg.eigh(within[:held, :held])
        values, turn = values.flip(0), turn.flip(1)
        residuals = (block @ image.T @ turn[before:held, :r]).norm(dim=0)
        if product == MOST_PRODUCTS or not len(block) or bool(residuals.max() <= CLOSE * values[0]):
            break
        due = held + max(BLOCK, r // 2)
        if full:
            kept = min(held - BLOCK, r + (size - r) // 4)
            basis[:kept] = turn[:, :kept].T @ basis[:held]
            within.zero_().diagonal()[:kept] = values[:kept]
            held = kept
    return values[:r], (turn[:, :r].T @ basis[:held]).T


def _orthonormal(rows: Tensor) -> Tensor:
    directions: Tensor = torch.linalg.qr(rows.T)[0]
    return directions.T.contiguous()


def _new_directions(rows: Tensor, known: Tensor, n: int) -> Tensor:
    """Orthonormal rows ``[n, ...]`` that span ``rows`` and are orthogonal to ``known``."""
    found = _orthonormal(rows)[:n]
    return _orthonormal(found.addmm(found @ known.T, known, alpha=-1.0)) if n else found
