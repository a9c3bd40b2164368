"""KGIN against the published equations on dense matrices, and against update functions on batches of edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from small_demo import small_demo, small_settings
from torch import Tensor

from hakg_dgl.graph.heterograph import INTERACTED_BY, INTERACTS, HeteroGraph, build_graph
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.layers.executors import make_executor
from hakg_dgl.layers.updates import Copy, Silent
from hakg_dgl.models.kgin import KGIN, RelationalMean, distance_correlation
from hakg_dgl.models.ranking_loss import RankingLoss
from hakg_dgl.randomness import torch_generator
from hakg_dgl.ranking.fold_in import EmbeddingFoldIn
from hakg_dgl.training.trainee import Trainee

DEMO = small_demo()
CPU = torch.device("cpu")
formulations = pytest.mark.parametrize("formulation", ["released", "paper"])


def kgin(**overrides: Any) -> KGIN:
    read = small_settings("kgin", **({"dtype": "float64", "layers": 3, "intents": 3, "seed": 5} | overrides))
    return KGIN(build_graph(DEMO), read.model, read.loss, read.run)


def dense_knowledge(graph: HeteroGraph) -> Tensor:
    """``[2R, n_entities, n_entities]``: how often head (rows) has tail by a relation or an inverse."""
    dense = torch.zeros(2 * graph.n_relations, graph.n_entities, graph.n_entities, dtype=torch.float64)
    for head, relation, tail in graph.triples().tolist():
        dense[relation, head, tail] += 1.0
        dense[relation + graph.n_relations, tail, head] += 1.0
    return dense


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)


def dense_kgin(model: KGIN) -> tuple[Tensor, Tensor]:
    """The equations, intent by intent and relation by relation."""
    graph, released = model.graph, model.settings.formulation == "released"
    knowledge = dense_knowledge(graph)
    interactions = torch.zeros(graph.n_users, graph.n_items, dtype=torch.float64)
    interactions[graph.pairs().unbind(1)] = 1.0
    per_user, per_head = interactions.sum(1, keepdim=True), knowledge.sum((0, 2)).unsqueeze(1)
    mixture = torch.exp(model.mixture) / torch.exp(model.mixture).sum(1, keepdim=True)
    intents = [sum(w * r for w, r in zip(row, model.relation, strict=True)) for row in mixture]
    user, entity, total_user, total_entity = model.user, model.entity, model.user, model.entity
    for _ in range(model.settings.layers):
        logits = torch.stack([
            (user @ key if released else model.user @ intent)
            for key, intent in zip(model.key if released else intents, intents, strict=True)
        ], 1)  # fmt: skip
        beta = torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True)
        items = entity[: graph.n_items]
        next_user = sum(
            beta[:, p : p + 1] * (interactions @ (items * intent)) / per_user.clamp_min(1)
            for p, intent in enumerate(intents)
        )
        received = sum(a @ (entity * r) for a, r in zip(knowledge, model.relation, strict=True))
        entity = received / per_head.clamp_min(1)
        if released:
            next_user = unit(next_user + interactions @ items / per_user.clamp_min(1))
            entity = unit(entity)
        user = next_user
        total_user, total_entity = total_user + user, total_entity + entity
    return total_user, total_entity[: graph.n_items]


@formulations
def test_propagation_is_that_of_dense_matrices(formulation: str) -> None:
    model = kgin(formulation=formulation)
    ours, dense = model.propagate(), dense_kgin(model)
    weights = [torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1)) for x in dense]
    parameters = list(model.parameters())
    gradients = []
    for found in (ours, dense):
        total = sum(((w * x).sum() for w, x in zip(weights, found, strict=True)), start=torch.zeros(()).double())
        gradients.append(torch.autograd.grad(total, parameters))
    for mine, expected in zip(ours, dense, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-11, atol=1e-13)
    for mine, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("kernels", ["torch", "readable"])
def test_a_layer_is_a_mapping_from_edge_type_to_update_function(kernels: str) -> None:
    """As DGL users would write it, run on batches of edges."""
    model = kgin()
    graph = model.graph

    class AlongRelation:
        reduce = "mean"

        def __init__(self, vector: Tensor) -> None:
            self.vector = vector

        def __call__(self, edges: Any) -> Tensor:
            return edges.src["x"] * self.vector

    updates: dict[Any, Any] = {INTERACTS: Silent(), INTERACTED_BY: Copy(reduce="mean")}
    for etype, vector in zip(graph.relation_types, model.relation, strict=True):
        updates[etype] = AlongRelation(vector)
    features = {"user": model.user, "item": model.entity[: graph.n_items], "entity": model.entity}
    received = make_executor(graph, kernels).run(updates, features)
    expected = model.relational_mean(model.entity, model.relation)
    torch.testing.assert_close(received["entity"], expected, rtol=1e-11, atol=1e-13)
    user = model.through_intents(model.user, received["user"])
    mean = torch.zeros_like(model.user)
    for number in range(graph.n_users):
        mean[number] = model.entity[graph.pairs()[graph.pairs()[:, 0] == number, 1]].mean(0)
    torch.testing.assert_close(user, model.through_intents(model.user, mean), rtol=1e-11, atol=1e-13)


def test_means_are_over_the_edges_that_are_kept() -> None:
    graph = build_graph(DEMO)
    knowledge = graph.packed.knowledge
    mean = RelationalMean(knowledge, choose_backend("torch"))
    generator = torch.Generator().manual_seed(2)
    entity = torch.randn(graph.n_entities, 4, dtype=torch.float64, generator=generator)
    relation = torch.randn(2 * graph.n_relations, 4, dtype=torch.float64, generator=generator)
    mask = torch.rand(knowledge.n_edges, generator=generator) < 0.4
    expected = torch.zeros_like(entity)
    count = torch.zeros(graph.n_entities, 1)
    edges = zip(knowledge.pairs.rows.tolist(), knowledge.relation.tolist(), knowledge.pairs.cols.tolist(), strict=True)
    for kept, (head, r, tail) in zip(mask.tolist(), edges, strict=True):
        if kept:
            expected[head] += relation[r] * entity[tail]
            count[head] += 1
    torch.testing.assert_close(mean(entity, relation, mask), expected / count.clamp_min(1))


@given(st.integers(0, 1000), st.integers(3, 20))
@settings(max_examples=20, derandomize=True, deadline=None)
def test_distance_correlation_is_that_of_its_definition(seed: int, n: int) -> None:
    x, y = np.random.default_rng(seed).standard_normal((2, n))
    centred = []
    for values in (x, y):
        distances = cdist(values[:, None], values[:, None])
        centre = np.eye(n) - 1.0 / n
        centred.append(centre @ distances @ centre)
    covariance, of_x, of_y = (
        (a * b).mean() for a, b in ((centred[0], centred[1]), (centred[0],) * 2, (centred[1],) * 2)
    )
    expected = np.sqrt(covariance / np.sqrt(of_x * of_y))
    found = distance_correlation(torch.from_numpy(x), torch.from_numpy(y)).item()
    assert found == pytest.approx(expected, abs=1e-4)


def test_distance_correlation_of_lines_is_one_and_gradients_are_finite() -> None:
    x = torch.linspace(-1.0, 2.0, 9, dtype=torch.float64)
    assert distance_correlation(x, -3.0 * x + 1.0).item() == pytest.approx(1.0, abs=1e-6)
    same = torch.zeros(9, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(distance_correlation(same, x), same)
    assert bool(gradient.isfinite().all())


@formulations
def test_a_step_is_the_ranking_loss_and_the_dependence(formulation: str) -> None:
    off = {"kg_edge_dropout": 0.0, "interaction_dropout": 0.0, "message_dropout": 0.0}
    if formulation == "paper":
        del off["message_dropout"]
    read = small_settings("kgin", dtype="float64", layers=2, seed=5, formulation=formulation, weight_decay=0.3,
                          independence_weight=0.2, intents=3, **off)  # fmt: skip
    begun = Trainee(DEMO, read, CPU, ("train",))
    model = begun.model
    assert isinstance(model, KGIN)
    users, items = torch.from_numpy(DEMO.pairs("train")[::7]).unbind(1)
    found = begun.passes[0].loss(users, items)
    ranking = RankingLoss(model.graph, model.loss, torch_generator(5, "negatives"))
    expected = ranking(*dense_kgin(model), users, items, decayed=([model.user], [model.entity]))
    first, second, third = model.intents()
    pairs = ((first, second), (first, third), (second, third))
    expected = expected + 0.2 * sum((distance_correlation(*pair) for pair in pairs), start=torch.zeros(()).double())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@formulations
def test_a_new_user_is_a_trained_one_without_parameters(formulation: str) -> None:
    model = kgin(formulation=formulation)
    with torch.no_grad():
        model.user[3] = 0.0
    indptr, items = model.graph.positives()
    fold = model.fold_in()
    assert isinstance(fold, EmbeddingFoldIn)
    own = items[indptr[3] : indptr[4]]
    torch.testing.assert_close(fold.fold_in([0, len(own)], own)[0], model.propagate()[0][3].detach())
    assert bool((fold.fold_in([0, 0], [])[0] == 0).all())
