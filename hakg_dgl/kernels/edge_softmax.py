"""Softmax over the edges that each row of a pattern receives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hakg_dgl.graph.packed import SparsePattern
from hakg_dgl.kernels.interface import SparseBackend
from hakg_dgl.kernels.products import sum_by_group


def _row_sums(backend: SparseBackend, pattern: SparsePattern, values: Tensor) -> Tensor:
    """Sum of the values ``[n_edges]`` of each row, ``[n_rows]``, added in the order of the edges."""
    return sum_by_group(backend, pattern.by_row, values.unsqueeze(1)).squeeze(1)


class _EdgeSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backend: SparseBackend, pattern: SparsePattern, logits: Tensor) -> Tensor:
        # Edges that were dropped from a padded pattern lie behind its bounds; they get a share of zero.
        places = torch.arange(pattern.n_edges, device=logits.device)
        within = places < pattern.by_row.indptr[-1]
        held = torch.where(within, logits, -torch.inf)
        # A maximum does not depend on the order in which it is taken.
        top = held.new_full((pattern.n_rows,), -torch.inf).scatter_reduce(0, pattern.rows, held, "amax")
        powers = torch.where(within, torch.exp(held - top.index_select(0, pattern.rows)), 0.0)
        shares = powers / _row_sums(backend, pattern, powers).index_select(0, pattern.rows)
        shares = torch.where(within, shares, 0.0)
        ctx.backend, ctx.pattern = backend, pattern
        ctx.save_for_backward(shares)
        return shares

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:
        (shares,) = ctx.saved_tensors
        mean = _row_sums(ctx.backend, ctx.pattern, shares * grad).index_select(0, ctx.pattern.rows)
        return None, None, shares * (grad - mean)


def edge_softmax(backend: SparseBackend, pattern: SparsePattern, logits: Tensor) -> Tensor:
    r"""Each edge's share :math:`\exp(z_e) / \sum_{e'} \exp(z_{e'})` among the edges of its row.

    Sums are added in the order of the edges, on any device; a padded pattern is read within its bounds.

    Parameters
    ----------
    backend
        Who adds up.
    pattern
        Which edges share a row.
    logits
        ``[n_edges]`` in the order of the pattern, float32 or float64.

    Returns
    -------
    Tensor
        ``[n_edges]``, differentiable; zero for edges behind the bounds of a padded pattern.
    """
    shares: Tensor = _EdgeSoftmax.apply(backend, pattern, logits)  # type: ignore[no-untyped-call]
    return shares
