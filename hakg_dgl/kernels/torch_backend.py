"""Sparse products by PyTorch's own operators: sampled matrix product and weighted embedding bags."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn import functional as F

from hakg_dgl.graph.packed import Grouping


class TorchBackend:
    """See :class:`~hakg_dgl.kernels.interface.SparseBackend`; any device that PyTorch supports."""

    name = "torch"

    def dot(self, by_row: Grouping, cols: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """SDDMM by ``torch.sparse.sampled_addmm``, or a dense product where it has fewer entries than edges."""
        n_rows = len(by_row.indptr) - 1
        if n_rows * len(y) <= len(cols):
            # Edges then repeat pairs, and sampled_addmm cuts a pattern of more edges than cells.
            rows = torch.repeat_interleave(by_row.indptr.diff(), output_size=len(cols))
            return (x @ y.T)[rows, cols]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            pattern = torch.sparse_csr_tensor(
                by_row.indptr, cols, x.new_zeros(len(cols)), (n_rows, len(y)), check_invariants=False
            )
        torch.sparse.sampled_addmm(pattern, x, y.t(), beta=0.0, out=pattern)
        values: Tensor = pattern.values()
        return values

    def weighted_sum(self, by_row: Grouping, cols: Tensor, weights: Tensor | None, y: Tensor) -> Tensor:
        """SpMM by ``embedding_bag``."""
        if len(cols) == 0:
            return y.new_zeros(len(by_row.indptr) - 1, y.shape[1])
        return F.embedding_bag(cols, y, by_row.indptr, mode="sum", per_sample_weights=weights, include_last_offset=True)
