"""Hyper-Know against its equations in the Klein model, edge by edge, and its two levels against exact derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense import error
from small_demo import small_demo, small_settings
from torch import Tensor

from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.layers.sampling import NegativeSampler
from hakg_dgl.models.hyper_know import OUTER_EVERY, HyperKnow
from hakg_dgl.models.ranking_loss import RankingLoss
from hakg_dgl.randomness import torch_generator
from hakg_dgl.training.trainee import Trainee

DEMO = small_demo()
CPU = torch.device("cpu")
USERS, ITEMS = torch.from_numpy(DEMO.pairs("train")[::7]).unbind(1)
Tables = tuple[Tensor, Tensor, Tensor]


def settings(**overrides: Any) -> Any:
    return small_settings("hyper-know", **({"dtype": "float64", "seed": 5, "init_scale": 0.2} | overrides))


def hyper_know(**overrides: Any) -> HyperKnow:
    read = settings(**overrides)
    return HyperKnow(build_graph(DEMO), read.model, read.loss, read.run)


def begun(**overrides: Any) -> tuple[Trainee, HyperKnow]:
    trainee = Trainee(DEMO, settings(**overrides), CPU, ("train",))
    assert isinstance(trainee.model, HyperKnow)
    return trainee, trainee.model


def ball(tangent: Tensor) -> Tensor:
    length = tangent.norm(dim=-1, keepdim=True)
    return torch.tanh(length) * tangent / length


def apart(x: Tensor, y: Tensor) -> Tensor:
    """Distance by arcosh, another formula than the package's."""
    squared = (x - y).square().sum(-1)
    return torch.arccosh(1.0 + 2.0 * squared / ((1.0 - x.square().sum(-1)) * (1.0 - y.square().sum(-1))))


def dense_unlike(model: HyperKnow, entity: Tensor, relation: Tensor) -> Tensor:
    """Squared distances of items to the midpoints of their facts, item by item, in the Klein model."""
    graph, edges = model.graph, []
    for head, r, tail in graph.triples().tolist():
        edges += [(head, r, tail), (tail, r + graph.n_relations, head)]
    points, translations = ball(entity), ball(relation)
    found = []
    for item in range(graph.n_items):
        own = [(r, t) for h, r, t in edges if h == item]
        if not own:
            found.append(entity.new_zeros(()))
            continue
        x, y = (torch.stack(rows) for rows in zip(*((points[t], translations[r]) for r, t in own), strict=True))
        xy, xx, yy = (x * y).sum(1, keepdim=True), x.square().sum(1, keepdim=True), y.square().sum(1, keepdim=True)
        moved = ((1 + 2 * xy + yy) * x + (1 - xx) * y) / (1 + 2 * xy + xx * yy)
        powers = torch.exp(-apart(points[item].expand_as(moved), moved))
        klein = 2.0 * moved / (1.0 + moved.square().sum(1, keepdim=True))
        gamma = 1.0 / torch.sqrt(1.0 - klein.square().sum(1))
        weights = powers / powers.sum() * gamma
        middle = (weights.unsqueeze(1) * klein).sum(0) / weights.sum()
        middle = middle / (1.0 + torch.sqrt(1.0 - middle.square().sum()))
        found.append(apart(points[item], middle).square())
    return torch.stack(found)


def test_items_are_drawn_to_the_midpoints_of_their_facts() -> None:
    model = hyper_know()
    found = model.unlike_facts(model.entity, model.relation)
    expected = dense_unlike(model, model.entity, model.relation)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)
    weights = torch.linspace(-1.0, 1.0, len(found), dtype=torch.float64)
    parameters = [model.entity, model.relation]
    gradients = [torch.autograd.grad((weights * x).sum(), parameters) for x in (found, expected)]
    for mine, theirs in zip(*gradients, strict=True):
        assert error(mine, theirs) < 1e-6


def test_scores_rank_by_distance() -> None:
    model = hyper_know()
    users, items = ball(model.user).detach(), ball(model.entity[: model.graph.n_items]).detach()
    distances = torch.stack([apart(user.expand_as(items), items) for user in users])
    scores = model.scorer().scores(torch.arange(DEMO.n_users))
    torch.testing.assert_close(scores, -torch.cosh(distances), rtol=1e-9, atol=1e-11)


def dense_hinge(tables: Tables, users: Tensor, items: Tensor, negatives: Tensor) -> Tensor:
    user, entity, _ = tables
    mine = ball(user)[users]
    near, far = (apart(mine, ball(entity)[ids]) for ids in (items, negatives))
    squares = sum(x.square().sum() for x in (user[users], entity[items], entity[negatives]))
    hinge = (0.4 + near - far).clamp_min(0.0).mean()
    return hinge + 0.3 * squares / (2 * len(users))


def draws() -> tuple[NegativeSampler, torch.Generator]:
    return NegativeSampler(*DEMO.positives("train"), DEMO.n_items), torch_generator(5, "negatives")


HINGE = {"ranking_loss": "hinge", "margin": 0.4, "weight_decay": 0.3, "fact_weight": 0.7}


def test_a_step_of_the_model_is_the_hinge_and_the_weighted_distances() -> None:
    trainee, model = begun(**HINGE)
    with torch.no_grad():
        model.importance.normal_(generator=torch.Generator().manual_seed(1))
    found = trainee.passes[0].loss(USERS, ITEMS)
    sampler, generator = draws()
    negatives = sampler.sample(USERS, 1, generator).squeeze(1)
    tables = model.user, model.entity, model.relation
    unlike = dense_unlike(model, model.entity, model.relation)
    with_facts = int((unlike > 0).sum())
    weights = (2.0 / (1.0 + torch.exp(-model.importance))).detach()
    expected = dense_hinge(tables, USERS, ITEMS, negatives) + 0.7 * (weights * unlike).sum() / with_facts
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    for mine, theirs in zip(torch.autograd.grad(found, tables), torch.autograd.grad(expected, tables), strict=True):
        assert error(mine, theirs) < 1e-6


@pytest.mark.parametrize("ranking_loss", ["softmax", "bpr"])
def test_other_losses_are_on_lorentzian_products(ranking_loss: str) -> None:
    trainee, model = begun(ranking_loss=ranking_loss, weight_decay=0.3, fact_weight=0.0)
    assert [each.name for each in trainee.passes] == ["interactions"]
    found = trainee.passes[0].loss(USERS, ITEMS)
    ranking = RankingLoss(model.graph, model.loss, torch_generator(5, "negatives"))
    scored, own = [], []
    for table in (model.user, model.entity[: model.graph.n_items]):
        length = table.norm(dim=1, keepdim=True)  # the point is at twice the length of its tangent vector
        scored.append(torch.cat([torch.cosh(2 * length), torch.sinh(2 * length) * table / length], 1))
        own.append([table])
    sign = torch.ones(scored[0].shape[1], dtype=torch.float64)
    sign[0] = -1.0
    expected = ranking(scored[0] * sign, scored[1], USERS, ITEMS, decayed=(own[0], own[1]))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_the_weights_of_items_follow_the_outer_loss_through_a_step_of_the_model() -> None:
    """Against the exact derivative through the step, by autograd of the dense equations twice."""
    trainee, model = begun(**HINGE, lr=0.05)
    with torch.no_grad():
        model.importance.normal_(generator=torch.Generator().manual_seed(1))
    half = len(USERS) // 2
    found = trainee.passes[1].loss(USERS, ITEMS)
    (mine,) = torch.autograd.grad(found, [model.importance])

    sampler, generator = draws()
    first = sampler.sample(USERS[:half], 1, generator).squeeze(1)
    second = sampler.sample(USERS[half:], 1, generator).squeeze(1)
    tables = tuple(x.detach().clone().requires_grad_() for x in (model.user, model.entity, model.relation))
    unlike = dense_unlike(model, tables[1], tables[2])
    weights = 2.0 * model.importance.sigmoid()
    inner = dense_hinge(tables, USERS[:half], ITEMS[:half], first)  # type: ignore[arg-type]
    inner = inner + 0.7 * (weights * unlike).sum() / int((unlike > 0).sum())
    steps = torch.autograd.grad(inner, tables, create_graph=True)
    ahead = tuple(x - 0.05 * step for x, step in zip(tables, steps, strict=True))
    outer = dense_hinge(ahead, USERS[half:], ITEMS[half:], second)  # type: ignore[arg-type]
    torch.testing.assert_close(found, outer, rtol=1e-6, atol=1e-8)
    (exact,) = torch.autograd.grad(outer, [model.importance])
    factor = 0.05 * 0.7 / int((unlike > 0).sum())  # left out, for Adam
    assert error(mine * factor, exact) < 1e-3
    assert float(exact.abs().max()) > 0


def test_the_pass_of_the_weights_is_a_part_of_an_epoch() -> None:
    trainee, model = begun(fact_weight=0.5)
    model_pass, weights_pass = trainee.passes
    assert len(weights_pass.batches) == -(-len(model_pass.batches) // OUTER_EVERY) == len(list(weights_pass.batches))
    before = model.entity.detach().clone()
    trainee.passes[1].loss(USERS, ITEMS).backward()  # type: ignore[no-untyped-call]
    assert model.entity.grad is None
    assert torch.equal(model.entity, before)
    fixed, plain = begun(fact_weight=0.5, adaptive=False)
    assert [each.name for each in fixed.passes] == ["interactions"]
    assert torch.equal(plain.weights(), torch.ones(DEMO.n_items, dtype=torch.float64))
