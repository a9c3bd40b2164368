"""The linear item-item term of the score: EASE in the span of the leading singular vectors.

Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019 (arXiv 1905.03375), whose weights in closed form
become inner products of short vectors here, so that a score stays the inner product of a user and an item vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import sparse
from torch import Tensor

from hakg_dgl.graph.packed import SparsePattern
from hakg_dgl.layers.spectrum import Matrix, leading


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
    pattern = _distinct(interactions)
    n_users, n_items = pattern.n_rows, pattern.n_cols
    values, r = (
        torch.ones(pattern.n_edges, dtype=torch.float64, device=pattern.cols.device),
        min(rank, n_users, n_items),
    )
    if exponent == 0.0 or not pattern.n_edges:
        return Spectrum(*leading(Matrix(pattern, values), r))
    quiet, count = pattern.row_degree.double().clamp(min=1.0) ** -exponent, pattern.col_degree.double()
    sent = count.clamp(min=1.0) ** -exponent
    sent *= pattern.n_edges / (count @ sent)
    values = quiet[pattern.rows] * sent[pattern.cols]
    values *= (pattern.n_edges / values.square().sum()).sqrt()
    return Spectrum(*leading(Matrix(pattern, values), r), sent)


def _distinct(pattern: SparsePattern) -> SparsePattern:
    """Each pair of a pattern once."""
    names = pattern.rows * pattern.n_cols + pattern.cols
    if bool((names.diff() > 0).all()):
        return pattern
    names = torch.unique(names)
    return SparsePattern.from_pairs(names // pattern.n_cols, names % pattern.n_cols, pattern.n_rows, pattern.n_cols)


def fact_spectrum(facts: sparse.csr_matrix, rank: int, device: torch.device) -> Spectrum:
    """Of :func:`~hakg_dgl.graph.matrices.fact_matrix` ``[n_items, n_facts]``; r = min(rank, n_items, n_facts)."""
    return Spectrum(*leading(Matrix.of(facts.T.tocsr(), device), min(rank, *facts.shape)))
