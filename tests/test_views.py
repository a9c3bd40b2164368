"""Light propagation against dense powers of the adjacency, the contrast of views against its formula."""

from __future__ import annotations

import math

import pytest
import torch
from dense import adjacency, error, odd_graph, random_table
from torch import Tensor

from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.layers.views import info_nce, light_propagation

TORCH = choose_backend("torch")


def test_light_propagation_is_the_mean_of_dense_powers() -> None:
    graph = odd_graph()
    pattern = graph.packed().interactions
    user, item = (random_table(n, 4, torch.float64, n).requires_grad_() for n in (graph.n_users, graph.n_items))
    bipartite = adjacency(graph.interactions, graph.n_users, graph.n_items, torch.float64)
    n = graph.n_users
    dense = torch.zeros(n + graph.n_items, n + graph.n_items, dtype=torch.float64)
    dense[:n, n:], dense[n:, :n] = bipartite, bipartite.T
    scale = torch.diag(dense.sum(1).clamp_min(1).rsqrt())
    start = torch.cat([user, item])
    expected = sum(torch.linalg.matrix_power(scale @ dense @ scale, power) @ start for power in range(4)) / 4
    found = torch.cat(light_propagation(TORCH, pattern, user, item, 3))
    assert error(found, expected) < 1e-12
    weights = torch.linspace(-1.0, 1.0, found.numel(), dtype=torch.float64).view(found.shape)
    gradients = [torch.autograd.grad((weights * x).sum(), [user, item], retain_graph=True) for x in (found, expected)]
    for mine, theirs in zip(*gradients, strict=True):
        assert error(mine, theirs) < 1e-12


def formula(first: Tensor, second: Tensor, nodes: Tensor, temperature: float) -> Tensor:
    x, y = (view / view.norm(dim=1, keepdim=True) for view in (first, second))
    powers = torch.exp(x @ y.T / temperature)
    return -torch.log(powers.diagonal() / powers.sum(1))[nodes].mean()


def test_each_node_is_told_from_all_others() -> None:
    first, second = (torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(s)).requires_grad_()
                     for s in (1, 2))  # fmt: skip
    nodes = torch.tensor([0, 3, 4, 8])
    found = info_nce(TORCH, first, second, nodes, temperature=0.3, generator=torch.Generator())
    expected = formula(first, second, nodes, 0.3)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    gradients = [torch.autograd.grad(x, [first, second]) for x in (found, expected)]
    for mine, theirs in zip(*gradients, strict=True):
        assert error(mine, theirs) < 1e-10


def test_where_there_are_many_nodes_some_stand_for_all() -> None:
    first, second = (torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    nodes = torch.tensor([2, 5])
    found = info_nce(TORCH, first, second, nodes, temperature=0.5, candidates=4,
                     generator=torch.Generator().manual_seed(3))  # fmt: skip
    drawn = torch.randperm(7, generator=torch.Generator().manual_seed(3))[:4].tolist()
    x, y = (view / view.norm(dim=1, keepdim=True) for view in (first, second))
    powers = torch.exp(x @ y.T / 0.5)
    expected = [math.log1p(7 / 4 * sum(float(powers[n, j]) for j in drawn if j != n) / float(powers[n, n]))
                for n in nodes.tolist()]  # fmt: skip
    assert found.item() == pytest.approx(sum(expected) / 2, rel=1e-12)
