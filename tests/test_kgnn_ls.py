"""KGNN-LS against the published equations, a user and an entity at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_demo import small_demo, small_settings
from torch import Tensor

from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.layers.sampling import NegativeSampler
from hakg_dgl.models import kgnn_ls as module
from hakg_dgl.models.kgnn_ls import KGNNLS
from hakg_dgl.randomness import torch_generator
from hakg_dgl.training.trainee import Trainee

DEMO = small_demo()
CPU = torch.device("cpu")


def settings(**overrides: Any) -> Any:
    given = {"dtype": "float64", "seed": 5, "dim": 5, "layers": 2, "sample_size": 4, "weight_decay": 0.3}
    return small_settings("kgnn-ls", **(given | overrides))


def kgnn_ls(**overrides: Any) -> KGNNLS:
    read = settings(**overrides)
    return with_biases(KGNNLS(build_graph(DEMO), read.model, read.loss, read.run))


def with_biases(model: Any) -> KGNNLS:
    assert isinstance(model, KGNNLS)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for linear in model.layers:
            linear.bias.normal_(0.0, 0.1, generator=generator)
    return model


def neighbours(model: KGNNLS, entity: int) -> list[tuple[int, int]]:
    n = int(model.n_tails[entity])
    return list(zip(model.tail_relation[entity, :n].tolist(), model.tail[entity, :n].tolist(), strict=True))


def shares(model: KGNNLS, user: int, entity: int) -> list[tuple[Tensor, int]]:
    """Weight and tail of each neighbour."""
    own = neighbours(model, entity)
    powers = [torch.exp(model.user[user] @ model.relation[relation]) for relation, _ in own]
    total = sum(powers, start=torch.zeros(()).double())
    return [(power / total, tail) for power, (_, tail) in zip(powers, own, strict=True)]


def vector(model: KGNNLS, user: int, entity: int, layer: int) -> Tensor:
    if layer == 0:
        return model.entity[entity]
    own = vector(model, user, entity, layer - 1)
    for share, tail in shares(model, user, entity):
        own = own + share * vector(model, user, tail, layer - 1)
    linear = model.layers[layer - 1]
    value = linear.weight @ own + linear.bias
    return torch.tanh(value) if layer == len(model.layers) else value.clamp_min(0)


def dense_scores(model: KGNNLS, users: list[int], items: list[int]) -> Tensor:
    n = len(model.layers)
    return torch.stack([torch.stack([model.user[u] @ vector(model, u, i, n) for i in items]) for u in users])


def label(model: KGNNLS, user: int, entity: int, held_out: int, hops: int) -> Tensor:
    owned = {tuple(pair) for pair in model.graph.pairs().tolist()}
    if entity < model.graph.n_items and entity != held_out:
        return torch.tensor(float((user, entity) in owned)).double()
    if hops == 0 or not neighbours(model, entity):
        return torch.tensor(0.5).double()
    arrived = [share * label(model, user, tail, held_out, hops - 1) for share, tail in shares(model, user, entity)]
    return sum(arrived, start=torch.zeros(()).double())


def same(model: KGNNLS, found: Tensor, expected: Tensor) -> None:
    """Values and gradients in all parameters."""
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    gradients = [
        torch.autograd.grad(
            x.square().sum(), list(model.parameters()), allow_unused=True, materialize_grads=True, retain_graph=True
        )
        for x in (found, expected)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("layers", [1, 2])
def test_scores_are_those_of_single_users_and_entities(layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NUMBERS_PER_BLOCK", 1200)  # two users a block with one layer, one with two
    model = kgnn_ls(layers=layers)
    users, items = [3, 17, 40], [0, 5, 12, 49]
    expected = dense_scores(model, users, items)
    same(model, model.scores(model.user[users], torch.tensor(items)), expected)
    pairs = model.of_pairs(model.user[users], torch.tensor(items[:3]))
    same(model, (pairs * model.user[users]).sum(1), expected[range(3), range(3)])
    ranked = model.scorer().scores(torch.tensor(users))
    torch.testing.assert_close(ranked[:, items], expected.detach(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("hops", "pairs_in_table"), [(1, module.PAIRS_IN_TABLE), (2, 0)])
def test_labels_propagate_as_published(hops: int, pairs_in_table: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAIRS_IN_TABLE", pairs_in_table)
    model = kgnn_ls(label_hops=hops, sample_size=6)
    pairs = model.graph.pairs()[::60]
    users, items = torch.cat([pairs, torch.tensor([[2, 7], [9, 30]])]).unbind(1)
    expected = [label(model, u, i, i, hops) for u, i in zip(users.tolist(), items.tolist(), strict=True)]
    found = model.predicted_labels(users, items)
    same(model, found, torch.stack(expected))
    assert len(set(found.tolist())) > 1


@pytest.mark.parametrize("kind", ["cross-entropy", "bpr", "softmax"])
def test_a_step_is_the_ranking_loss_and_the_label_smoothness(kind: str) -> None:
    read = settings(layers=1, ranking_loss=kind, label_weight=0.4, **({"candidates": 20, "temperature": 0.7}
                    if kind == "softmax" else {}))  # fmt: skip
    begun = Trainee(DEMO, read, CPU, ("train",))
    model = with_biases(begun.model)
    users, items = torch.from_numpy(DEMO.pairs("train")[::40]).unbind(1)
    found = begun.passes[0].loss(users, items)
    generator = torch_generator(5, "negatives")
    negatives = NegativeSampler(*DEMO.positives("train"), DEMO.n_items).sample(users, 1, generator).squeeze(1)
    triples = list(zip(users.tolist(), items.tolist(), negatives.tolist(), strict=True))
    owned = {tuple(pair) for pair in model.graph.pairs().tolist()}
    candidates = torch.randperm(DEMO.n_items, generator=generator)[:20].tolist() if kind == "softmax" else []
    total, floor = torch.zeros(()).double(), 1e-6
    for user, item, other in triples:
        near, far = dense_scores(model, [user], [item, other])[0]
        if kind == "bpr":
            total = total - torch.log(torch.sigmoid(near - far))
        elif kind == "cross-entropy":
            total = total - (torch.log(torch.sigmoid(near)) + torch.log(1 - torch.sigmoid(far))) / 2
        else:
            rivals = [each for each in candidates if (user, each) not in owned]
            powers = torch.exp((dense_scores(model, [user], rivals)[0] - near) / 0.7).sum()
            total = total + torch.log(1 + DEMO.n_items / 20 * powers)
        total = total + 0.15 * model.user[user].square().sum() + 0.15 * model.entity[item].square().sum()
        if kind != "softmax":
            total = total + 0.15 * model.entity[other].square().sum()
        yes, no = (label(model, user, each, each, 2).clamp(floor, 1 - floor) for each in (item, other))
        total = total - 0.2 * (torch.log(yes) + torch.log(1 - no))
    same(model, found, total / len(triples))
