"""Two views of the same nodes, contrasted with each other, and light propagation over the interactions of a view."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from hakg_dgl.geometry.guards import ROW_NORM_FLOOR
from hakg_dgl.graph.packed import SparsePattern
from hakg_dgl.kernels.interface import SparseBackend
from hakg_dgl.kernels.products import sum_over_columns, sum_over_rows
from hakg_dgl.layers.losses import softmax_loss

MOST_CANDIDATES = 4096
"""Nodes that a node is told from, at most."""


def light_layers(
    backend: SparseBackend, pattern: SparsePattern, user: Tensor, item: Tensor, layers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    r"""Users and items of layers 0..L: those of layer l + 1 are :math:`\hat A` times those of layer l.

    Parameters
    ----------
    backend
        Who adds up.
    pattern
        The interactions of the view, user x item; :math:`\hat A` is normalised by their degrees.
    user, item
        Layer 0, ``[n_users, d]`` and ``[n_items, d]``.
    layers
        L.
    """
    of_user, of_item = light_scales(pattern, user.dtype)
    yield user, item
    for _ in range(layers):
        received = of_user * sum_over_columns(backend, pattern, of_item * item)
        item = of_item * sum_over_rows(backend, pattern, of_user * user)
        user = received
        yield user, item


def light_scales(pattern: SparsePattern, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """One over the root of the degrees of users ``[n_users, 1]`` and of items ``[n_items, 1]``; 1 for degree 0."""
    user, item = (
        degree.clamp_min(1).to(dtype).rsqrt().unsqueeze(1) for degree in (pattern.row_degree, pattern.col_degree)
    )
    return user, item


def light_propagation(
    backend: SparseBackend, pattern: SparsePattern, user: Tensor, item: Tensor, layers: int
) -> tuple[Tensor, Tensor]:
    r"""The mean of :math:`\hat A^l E` over layers 0..L, as LightGCN has it (He et al. 2020, eqs. 3-8).

    Parameters are those of :func:`light_layers`.

    Returns
    -------
    tuple of Tensor
        ``[n_users, d]`` and ``[n_items, d]``, differentiable in ``user`` and ``item``.
    """
    users, items = zip(*light_layers(backend, pattern, user, item, layers), strict=True)
    return torch.stack(users).mean(0), torch.stack(items).mean(0)


def info_nce(
    backend: SparseBackend,
    first: Tensor,
    second: Tensor,
    nodes: Tensor,
    *,
    temperature: float,
    generator: torch.Generator,
    candidates: int = MOST_CANDIDATES,
) -> Tensor:
    r"""Contrast of two views: each node is to be told from the others by its own row of the other view.

    The mean over nodes n of :math:`-\ln \frac{\exp(\cos(x_n, y_n) / \tau)}{\sum_{n'} \exp(\cos(x_n, y_{n'}) / \tau)}`
    (van den Oord et al. 2018, arXiv 1807.03748, eq. 4). Where there are more rows than ``candidates``, the other nodes
    are sampled and their sum is scaled up. Nothing larger than a block of scores is kept.

    Parameters
    ----------
    backend
        Who adds up.
    first, second
        The views x and y, ``[n, d]`` each.
    nodes
        int64 ``[batch]``, the rows whose loss is taken.
    temperature
        τ, above 0.
    generator
        Draws candidates; on the device of the views.
    candidates
        At most this many rows of the second view are compared with.

    Returns
    -------
    Tensor
        A scalar, differentiable once in both views.
    """
    n = len(first)
    drawn = None
    if candidates < n:
        drawn = torch.randperm(n, generator=generator, device=first.device)[:candidates].sort().values
    # Each node knows itself alone, so that the softmax over what it does not know is over all the other nodes.
    own = torch.arange(n + 1, device=first.device), torch.arange(n, device=first.device)
    x, y = (F.normalize(view, dim=1, eps=ROW_NORM_FLOOR) for view in (first, second))
    return softmax_loss(
        x, y, nodes, nodes, own, longest=1, candidates=drawn, temperature=temperature, backend=backend
    )  # fmt: skip
