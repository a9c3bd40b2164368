"""Sparse products by DGL's gSDDMM and gSpMM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hakg_dgl.graph.dgl_gate import dgl
from hakg_dgl.graph.packed import Grouping


def _bipartite(by_row: Grouping, cols: Tensor, n_cols: int) -> Any:
    edge_numbers = torch.empty(0, dtype=cols.dtype, device=cols.device)  # DGL reads none as 0, 1, 2, ...
    return dgl.heterograph(
        {("col", "to", "row"): ("csc", (by_row.indptr, cols, edge_numbers))},
        num_nodes_dict={"col": n_cols, "row": len(by_row.indptr) - 1},
    )


class DGLBackend:
    """See :class:`~hakg_dgl.kernels.interface.SparseBackend`; CUDA only where DGL was built with it."""

    name = "dgl"

    def dot(self, by_row: Grouping, cols: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """SDDMM by ``dgl.ops.u_dot_v``."""
        values: Tensor = dgl.ops.u_dot_v(_bipartite(by_row, cols, len(y)), y, x)
        return values.squeeze(-1)

    def weighted_sum(self, by_row: Grouping, cols: Tensor, weights: Tensor | None, y: Tensor) -> Tensor:
        """SpMM by ``dgl.ops.u_mul_e_sum`` or ``copy_u_sum``."""
        graph = _bipartite(by_row, cols, len(y))
        summed: Tensor = (
            dgl.ops.copy_u_sum(graph, y) if weights is None else dgl.ops.u_mul_e_sum(graph, y, weights.unsqueeze(-1))
        )
        return summed
