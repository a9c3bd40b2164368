"""LightGCN: matrix factorisation whose vectors are averaged over the neighbourhoods of the interaction graph.

He, Deng, Wang, Li, Zhang and Wang, "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation",
SIGIR 2020 (arXiv 2002.02126).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hakg_dgl.graph.packed import SparsePattern
from hakg_dgl.kernels.interface import SparseBackend
from hakg_dgl.kernels.products import sum_over_columns, sum_over_rows
from hakg_dgl.models.bpr_mf import MatrixFactorisation


class LightGCN(MatrixFactorisation):
    r"""Vectors :math:`E = \frac{1}{L+1} \sum_{l=0}^{L} \hat A^l E^{(0)}` of users and items (He et al., eqs. 3-8).

    :math:`\hat A = D^{-1/2} A D^{-1/2}` with A the adjacency of the bipartite interaction graph and D its degrees;
    nodes without an interaction get zero from their neighbours. :math:`E^{(0)}` are the parameters.

    Parameters
    ----------
    interactions
        Pattern user x item of the interactions, on the device where the model will lie.
    layers
        L.
    backend
        Who computes the sparse products.
    dim, seed, dtype
        As in :class:`~hakg_dgl.models.bpr_mf.MatrixFactorisation`.
    """

    def __init__(
        self,
        interactions: SparsePattern,
        layers: int,
        backend: SparseBackend,
        dim: int,
        *,
        seed: int = 2020,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(interactions.n_rows, interactions.n_cols, dim, seed=seed, dtype=dtype)
        self.interactions, self.layers, self.backend = interactions, layers, backend
        degrees = interactions.row_degree, interactions.col_degree
        self._user_scale, self._item_scale = (degree.clamp_min(1).to(dtype).rsqrt()[:, None] for degree in degrees)

    def propagate(self) -> tuple[Tensor, Tensor]:
        """User ``[n_users, d]`` and item ``[n_items, d]`` vectors: the means over all layers."""
        users, items = user, item = super().propagate()
        for _ in range(self.layers):
            # Both ends are scaled around plain sums, so no weight an edge is kept.
            user, item = (
                self._user_scale * sum_over_columns(self.backend, self.interactions, self._item_scale * item),
                self._item_scale * sum_over_rows(self.backend, self.interactions, self._user_scale * user),
            )
            users, items = users + user, items + item
        return users / (self.layers + 1), items / (self.layers + 1)
