"""The linear item-item term of the score: EASE in the span of the leading singular vectors.

Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019 (arXiv 1905.03375), whose weights in closed form
become inner products of short vectors here, so that a score stays the inner product of a user and an item vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor

from hakg_dgl.graph.packed import SparsePattern

FloatArray = NDArray[np.float64]
DENSE_UP_TO = 2048
"""Users or items, whichever are fewer, up to which all singular vectors are computed at once; beyond, by Lanczos."""
SUBSPACE_STEPS = 12
"""Products with a matrix whose rank is below that asked for, which Lanczos cannot do."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    r"""The leading singular values and vectors of a matrix M whose columns are items.

    Attributes
    ----------
    squared
        :math:`S^2`, float64 ``[r]``, the largest first.
    vectors
        V, float64 ``[n_items, r]``; zero rows for items whose columns are zero.
    sent
        What a user's item counts, float64 ``[n_items]``; None where each counts 1.
    """

    squared: Tensor
    vectors: Tensor
    sent: Tensor | None = None

    def shares(self, l2: float) -> Tensor:
        r""":math:`D = S^2 / (S^2 + \lambda)`, float64 ``[r]``."""
        return self.squared / (self.squared + l2)

    def ease_factors(self, l2: float) -> tuple[Tensor, Tensor]:
        """``left`` and ``right`` of :func:`item_item_factors`, for another λ without another decomposition."""
        left = self.vectors * self.shares(l2)
        right = self.vectors / (1.0 - (left * self.vectors).sum(1, keepdim=True))
        return left if self.sent is None else left * self.sent.unsqueeze(1), right


def item_item_factors(
    interactions: SparsePattern, l2: float, rank: int, exponent: float = 0.0
) -> tuple[Tensor, Tensor]:
    r"""Factors of the weights of EASE: :math:`B_{ij} = \langle left_i, right_j\rangle` for i ≠ j.

    EASE scores by :math:`x_u B` with :math:`B = I - P \,\mathrm{diag}(P)^{-1}`,
    :math:`P = (X^\top X + \lambda I)^{-1}` (Steck 2019, eq. 8). With the singular value decomposition
    :math:`X = U S V^\top`, :math:`P = (I - V D V^\top) / \lambda` where :math:`D = S^2 / (S^2 + \lambda)`, so off the
    diagonal :math:`B_{ij} = (V D V^\top)_{ij} / (1 - q_j)`, :math:`q_j = (V D V^\top)_{jj}`. Directions with
    :math:`S^2 \ll \lambda` hardly count, and the leading ``rank`` of them suffice; with all of them it is EASE itself.
    The diagonal differs, but concerns only items a user has, which are not ranked for the user.

    With an exponent α > 0, X is :math:`c\, d_u^{-\alpha} X_{ui} d_i^{-\alpha}` with the numbers of interactions d and a
    c that leaves the sum of squares what it was, and an item of the user counts :math:`d_i^{-\alpha}`, scaled to a mean
    of 1 over interactions: popular items and busy users say less.

    Parameters
    ----------
    interactions
        Pattern users x items, X.
    l2
        λ, above 0.
    rank
        Singular vectors used, fewer where there are fewer users or items.
    exponent
        α, at least 0.

    Returns
    -------
    tuple of Tensor
        ``left`` and ``right``, float64 ``[n_items, r]`` on the pattern's device, r = min(rank, n_users, n_items).
        Zero rows for items without interaction.
    """
    return interaction_spectrum(interactions, rank, exponent).ease_factors(l2)


def interaction_spectrum(interactions: SparsePattern, rank: int, exponent: float = 0.0) -> Spectrum:
    """Of the interactions, users x items, on the pattern's device; r = min(rank, n_users, n_items)."""
    pattern = interactions
    n_users, n_items = pattern.n_rows, pattern.n_cols
    indptr, cols = pattern.by_row.indptr.cpu().numpy(), pattern.cols.cpu().numpy()
    matrix = sparse.csr_matrix((np.ones(len(cols)), cols, indptr), (n_users, n_items))
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    r, device = min(rank, n_users, n_items), pattern.cols.device
    if exponent == 0.0 or not matrix.nnz:
        return _spectrum(matrix, r, device)
    quiet, sent = (np.maximum(matrix.sum(axis), 1.0).A1 ** -exponent for axis in (1, 0))
    sent *= matrix.nnz / float(matrix.sum(0).A1 @ sent)
    evened = (sparse.diags(quiet) @ matrix @ sparse.diags(sent)).tocsr()
    evened *= np.sqrt(matrix.nnz / np.square(evened.data).sum())
    found = _spectrum(evened, r, device)
    return Spectrum(found.squared, found.vectors, torch.from_numpy(sent).to(device))


def fact_spectrum(facts: sparse.csr_matrix, rank: int, device: torch.device) -> Spectrum:
    """Of :func:`~hakg_dgl.graph.matrices.fact_matrix` ``[n_items, n_facts]``; r = min(rank, n_items, n_facts)."""
    return _spectrum(facts.T.tocsr(), min(rank, *facts.shape), device)


def _spectrum(matrix: sparse.csr_matrix, r: int, device: torch.device) -> Spectrum:
    squared, vectors = _leading(matrix, r)
    return Spectrum(torch.from_numpy(squared.copy()).to(device), torch.from_numpy(vectors.copy()).to(device))


def _leading(matrix: sparse.csr_matrix, r: int) -> tuple[FloatArray, FloatArray]:
    """The ``r`` largest squared singular values and their right vectors ``[n_cols, r]``, float64."""
    n_rows, n_cols = matrix.shape
    if not matrix.nnz:
        return np.zeros(r), np.zeros((n_cols, r))
    if min(n_rows, n_cols) > max(DENSE_UP_TO, r):
        return _by_lanczos(matrix, r)
    wide = n_rows < n_cols
    squared, vectors = np.linalg.eigh((matrix @ matrix.T if wide else matrix.T @ matrix).toarray())
    squared, vectors = squared[::-1][:r].clip(min=0.0), vectors[:, ::-1][:, :r]
    return squared, np.ascontiguousarray(_right(matrix, squared, vectors) if wide else vectors)


def _by_lanczos(matrix: sparse.csr_matrix, r: int) -> tuple[FloatArray, FloatArray]:
    """As :func:`_leading`, by ARPACK; where it would have to restart by chance, by subspace iteration."""
    n_rows, n_cols = matrix.shape
    wide = n_rows < n_cols
    short = matrix if wide else matrix.T.tocsr()
    long, n = short.T.tocsr(), min(n_rows, n_cols)
    gram = LinearOperator((n, n), matvec=lambda x: short @ (long @ x), dtype=np.float64)
    try:
        values, found = eigsh(gram, k=r, v0=np.ones(n), **_DRAWS)
    except ArpackError:  # there are fewer than r directions
        return _by_subspace_iteration(matrix, r)
    squared, vectors = values[::-1].clip(min=0.0), found[:, ::-1]
    return squared, np.ascontiguousarray(_right(matrix, squared, vectors) if wide else vectors)


def _right(matrix: sparse.csr_matrix, squared: FloatArray, left: FloatArray) -> FloatArray:
    """Right singular vectors from the left ones; those of zero values do not matter."""
    scale = np.sqrt(squared)
    right: FloatArray = (matrix.T @ left) / np.where(scale > 1e-7 * scale.max(), scale, np.inf)
    return right


_DRAWS: dict[str, Any] = {"rng": 0} if "rng" in signature(eigsh).parameters else {}
"""ARPACK draws a vector of its own where singular values repeat; older SciPy takes no generator for it."""


def _by_subspace_iteration(matrix: sparse.csr_matrix, r: int) -> tuple[FloatArray, FloatArray]:
    """As :func:`_leading`, of a matrix of any rank (Halko et al. 2011, arXiv 0909.4061, algorithm 4.4)."""
    basis = np.random.default_rng(0).standard_normal((matrix.shape[1], r))
    for _ in range(SUBSPACE_STEPS):
        basis, _ = np.linalg.qr(matrix.T @ (matrix @ basis))
    image = matrix @ basis
    squared, turn = np.linalg.eigh(image.T @ image)
    return squared[::-1].clip(min=0.0), np.ascontiguousarray(basis @ turn[:, ::-1])
