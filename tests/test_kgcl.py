"""KGCL against the published equations on dense matrices, with the views that its random stream draws."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from dense import error
from small_demo import small_demo, small_settings
from torch import Tensor

from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.layers.dropout import draw_mask
from hakg_dgl.models.kgcl import KGCL
from hakg_dgl.models.ranking_loss import RankingLoss
from hakg_dgl.randomness import torch_generator
from hakg_dgl.ranking.fold_in import EmbeddingFoldIn
from hakg_dgl.training.trainee import Trainee

DEMO = small_demo()
CPU = torch.device("cpu")


def settings(**overrides: Any) -> Any:
    return small_settings("kgcl", **({"dtype": "float64", "layers": 2, "seed": 5} | overrides))


def kgcl(**overrides: Any) -> KGCL:
    read = settings(**overrides)
    return KGCL(build_graph(DEMO), read.model, read.loss, read.run)


def facts_of_items(model: KGCL) -> list[tuple[int, int, int]]:
    """Item, relation or inverse, and the other end, in the order of the model's edges."""
    graph, edges = model.graph, []
    for head, relation, tail in graph.triples().tolist():
        edges += [(head, relation, tail), (tail, relation + graph.n_relations, head)]
    return sorted(edge for edge in edges if edge[0] < graph.n_items)


def dense_items(model: KGCL, kept: Tensor | None = None) -> Tensor:
    """Items with their facts, item by item."""
    edges = facts_of_items(model)
    kept = torch.ones(len(edges), dtype=torch.bool) if kept is None else kept
    rows = []
    for item in range(model.graph.n_items):
        own = [(r, t) for (h, r, t), keep in zip(edges, kept.tolist(), strict=True) if h == item and keep]
        row = model.entity[item]
        if own:
            both = [model.of_tail @ model.entity[t] + model.of_item @ model.entity[item] for _, t in own]
            logits = torch.stack([model.relation[r] @ x for (r, _), x in zip(own, both, strict=True)])
            logits = torch.where(logits > 0, logits, 0.2 * logits)
            shares = torch.exp(logits) / torch.exp(logits).sum()
            row = row + sum(share * model.entity[t] for share, (_, t) in zip(shares, own, strict=True))
        rows.append(row)
    return torch.stack(rows)


def dense_light(model: KGCL, item: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    n = model.graph.n_users
    adjacency = torch.zeros(n + len(item), n + len(item), dtype=torch.float64)
    users, items = pairs.unbind(1)
    adjacency[users, n + items] = adjacency[n + items, users] = 1.0
    scale = torch.diag(adjacency.sum(1).clamp_min(1).rsqrt())
    layer = total = torch.cat([model.user, item])
    for _ in range(model.settings.layers):
        layer = scale @ adjacency @ scale @ layer
        total = total + layer
    total = total / (model.settings.layers + 1)
    return total[:n], total[n:]


def test_propagation_is_that_of_dense_matrices() -> None:
    model = kgcl()
    parameters = [model.user, model.entity, model.relation, model.of_tail, model.of_item]
    gradients, found = [], []
    for users, items in (model.propagate(), dense_light(model, dense_items(model), model.graph.pairs())):
        weights = torch.linspace(-1.0, 1.0, items.numel(), dtype=torch.float64).view(items.shape)
        found.append((users, items))
        gradients.append(torch.autograd.grad((weights * items).sum() + users.square().sum(), parameters))
    for mine, expected in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-11, atol=1e-13)
    for mine, expected in zip(*gradients, strict=True):
        assert error(mine, expected) < 1e-9


def test_interactions_are_kept_by_the_agreement_of_their_items() -> None:
    model = kgcl(interaction_dropout=0.5)
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randn(model.graph.n_items, 8, dtype=torch.float64, generator=generator) for _ in range(2))
    weight = torch.exp((first * second).sum(1) / first.norm(dim=1) / second.norm(dim=1))
    weight = ((weight - weight.min()) / (weight.max() - weight.min())).clamp_min(0.3)
    expected = (0.5 * weight / weight.mean()).clamp_max(0.95)
    torch.testing.assert_close(model.shares_kept(first, second), expected)
    same = model.shares_kept(first, first)  # cosines that differ by rounding alone, or not at all
    assert bool(((same > 0) & (same <= 0.95)).all())
    zero = torch.zeros_like(first)
    assert torch.equal(model.shares_kept(zero, zero), torch.full_like(expected, 0.5))


def contrast(first: Tensor, second: Tensor, nodes: Tensor) -> Tensor:
    x, y = (view / view.norm(dim=1, keepdim=True) for view in (first, second))
    powers = torch.exp(x @ y.T / 0.4)
    return -torch.log(powers.diagonal() / powers.sum(1))[nodes.unique()].mean()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("ranking_loss", ["softmax", "bpr"])
def test_a_step_is_the_ranking_loss_and_the_contrast_of_two_views(ranking_loss: str) -> None:
    read = settings(ranking_loss=ranking_loss, weight_decay=0.3, contrast_weight=0.7, contrast_temperature=0.4)
    begun = Trainee(DEMO, read, CPU, ("train",))
    model = begun.model
    assert isinstance(model, KGCL)
    users, items = torch.from_numpy(DEMO.pairs("train")[::7]).unbind(1)
    found = begun.passes[0].loss(users, items)

    stream, pairs = torch_generator(5, "views"), model.graph.pairs()
    masks = [draw_mask(len(facts_of_items(model)), 0.5, stream) for _ in range(2)]
    of_items = [dense_items(model, mask) for mask in masks]
    kept = model.shares_kept(*of_items)[pairs[:, 1]]
    views = []
    for item in of_items:
        drawn = torch.rand(len(pairs), generator=stream, dtype=torch.float64) < kept
        views.append(dense_light(model, item, pairs[drawn]))
    ranking = RankingLoss(model.graph, model.loss, torch_generator(5, "negatives"))
    vectors = dense_light(model, dense_items(model), pairs)
    expected = ranking(*vectors, users, items, decayed=([model.user], [model.entity]))
    for side, nodes in enumerate((users, items)):
        expected = expected + 0.7 * contrast(views[0][side], views[1][side], nodes)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    parameters = [model.user, model.entity, model.relation, model.of_tail]
    for mine, theirs in zip(
        torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        assert error(mine, theirs) < 1e-8


def test_the_pass_over_facts_is_that_of_the_facts_of_items() -> None:
    begun = Trainee(DEMO, settings(fact_decay=0.2), CPU, ("train",))
    model = begun.model
    assert isinstance(model, KGCL)
    true = facts_of_items(model)
    edges = model.facts
    columns = (edges.pairs.rows, edges.relation, edges.pairs.cols)
    assert sorted(zip(*(x.tolist() for x in columns), strict=True)) == true
    numbers = torch.arange(0, len(true), 5)
    found = begun.passes[1].loss(numbers)
    assert [each.optimizer for each in begun.passes] == list(begun.optimizers)
    again = Trainee(DEMO, settings(fact_decay=0.2), CPU, ("train",)).passes[1].loss(numbers)
    assert torch.equal(found, again)
    head, relation, tail = (x[numbers] for x in columns)
    false = torch.tensor([[0], [1]]).repeat(len(numbers), 1)[: len(numbers)].squeeze(1)
    total = torch.zeros((), dtype=torch.float64)
    for h, r, t, other in zip(*(x.tolist() for x in (head, relation, tail, false)), strict=True):
        near, far = (
            (model.matrices[r] @ (model.entity[h] - model.entity[end]) + model.relation[r]).square().sum()
            for end in (t, other)
        )
        squares = model.entity[[h, t, other]].square().sum()
        total = total + torch.log1p(torch.exp(near - far)) + 0.1 * squares
    torch.testing.assert_close(model.loss_of_facts(head, relation, tail, false), total / len(numbers))


def test_without_facts_there_is_no_pass_over_them() -> None:
    without = dataclasses.replace(DEMO, triples=DEMO.triples.head(0))
    bare = Trainee(without, settings(), CPU, ("train",))
    assert [each.name for each in bare.passes] == ["interactions"]
    model = bare.model
    assert isinstance(model, KGCL)
    torch.testing.assert_close(model.attentive(model.logits()), model.entity[: model.graph.n_items])


def test_a_new_user_is_a_trained_one_without_parameters() -> None:
    model = kgcl()
    with torch.no_grad():
        model.user[3] = 0.0
    indptr, items = model.graph.positives()
    fold = model.fold_in()
    assert isinstance(fold, EmbeddingFoldIn)
    own = items[indptr[3] : indptr[4]]
    torch.testing.assert_close(fold.fold_in([0, len(own)], own)[0], model.propagate()[0][3].detach())
