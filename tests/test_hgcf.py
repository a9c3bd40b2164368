"""HGCF against the published equations on dense matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_demo import small_demo, small_settings
from torch import Tensor
from with_dgl import named

from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.kernels.choice import BACKENDS, choose_backend
from hakg_dgl.layers.sampling import NegativeSampler
from hakg_dgl.models.hgcf import HGCF
from hakg_dgl.randomness import torch_generator
from hakg_dgl.ranking.fold_in import EmbeddingFoldIn
from hakg_dgl.training.trainee import Trainee

DEMO = small_demo()
CPU = torch.device("cpu")


def hgcf(**overrides: Any) -> HGCF:
    read = small_settings("hgcf", **({"dtype": "float64", "layers": 3, "seed": 5} | overrides))
    return HGCF(build_graph(DEMO), read.model, read.loss, read.run)


def dense_hgcf(model: HGCF) -> tuple[Tensor, Tensor]:
    """Points of users and items, by a dense adjacency with rows that sum to 1."""
    graph = model.graph
    n = graph.n_users
    adjacency = torch.zeros(n + graph.n_items, n + graph.n_items, dtype=torch.float64)
    users, items = graph.pairs().unbind(1)
    adjacency[users, n + items] = adjacency[n + items, users] = 1.0
    released = model.settings.formulation == "released"
    if released:
        adjacency = adjacency + torch.eye(len(adjacency))
    adjacency = adjacency / adjacency.sum(1, keepdim=True).clamp_min(1)
    layer = torch.cat([model.user, model.item])
    total = torch.zeros_like(layer)
    for _ in range(model.settings.layers):
        layer = adjacency @ layer if released else layer + adjacency @ layer
        total = total + layer
    length = total.norm(dim=1, keepdim=True)
    points = torch.cat([torch.cosh(length), torch.sinh(length) * total / length], 1)
    return points[:n], points[n:]


formulations = pytest.mark.parametrize("formulation", ["released", "paper"])


@formulations
@pytest.mark.parametrize("kernels", [*named(*BACKENDS), "readable"])
def test_propagation_is_that_of_dense_matrices(kernels: str, formulation: str) -> None:
    try:
        choose_backend("torch" if kernels == "readable" else kernels)
    except ImportError as error:
        pytest.skip(str(error))
    model = hgcf(kernels=kernels, formulation=formulation)
    gradients = []
    for users, items in (model.propagate(), dense_hgcf(model)):
        total = (users * torch.linspace(0, 1, users.numel()).view(users.shape).double()).sum() + items.square().sum()
        gradients.append(torch.autograd.grad(total, [model.user, model.item]))
    for mine, expected in zip(model.propagate(), dense_hgcf(model), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-11, atol=1e-13)
    for mine, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-11)


def test_scores_rank_by_distance() -> None:
    model = hgcf()
    users, items = dense_hgcf(model)
    lorentzian = users[:, 1:] @ items[:, 1:].T - users[:, :1] @ items[:, :1].T
    scores = model.scorer().scores(torch.arange(DEMO.n_users))
    torch.testing.assert_close(scores, lorentzian.detach(), rtol=1e-11, atol=1e-13)
    distances = torch.arccosh(-lorentzian)
    assert torch.equal(scores.argsort(1, descending=True), distances.argsort(1))


def test_the_hinge_is_that_of_the_publication() -> None:
    read = small_settings("hgcf", dtype="float64", layers=2, seed=5, ranking_loss="hinge", margin=0.4, weight_decay=0.3)
    begun = Trainee(DEMO, read, CPU, ("train",))
    model = begun.model
    assert isinstance(model, HGCF)
    users, items = torch.from_numpy(DEMO.pairs("train")[::7]).unbind(1)
    found = begun.passes[0].loss(users, items)
    sampler = NegativeSampler(*DEMO.positives("train"), DEMO.n_items)
    negatives = sampler.sample(users, 1, torch_generator(5, "negatives")).squeeze(1)
    of_users, of_items = dense_hgcf(model)
    squared = torch.arccosh(of_users[:, :1] @ of_items[:, :1].T - of_users[:, 1:] @ of_items[:, 1:].T).square()
    expected = (0.4 + squared[users, items] - squared[users, negatives]).clamp_min(0.0).mean()
    squares = sum(x.square().sum() for x in (model.user[users], model.item[items], model.item[negatives]))
    expected = expected + 0.3 * squares / (2 * len(users))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    parameters = [model.user, model.item]
    for mine, theirs in zip(
        torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


@formulations
def test_a_new_user_is_a_trained_one_without_parameters(formulation: str) -> None:
    model = hgcf(formulation=formulation)
    with torch.no_grad():
        model.user[3] = 0.0
    indptr, items = model.graph.positives()
    fold = model.fold_in()
    assert isinstance(fold, EmbeddingFoldIn)
    own = items[indptr[3] : indptr[4]]
    # A user with parameters of zero takes part in the trained graph like any other: items see nothing of it.
    torch.testing.assert_close(fold.fold_in([0, len(own)], own)[0], model.ranking_vectors()[0][3])
