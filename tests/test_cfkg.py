"""CFKG: its losses and its scores against the published formulas."""

from __future__ import annotations

import pytest
import torch
from small_demo import small_demo, small_settings
from torch import Tensor

from hakg_dgl.layers.triples import knowledge_triples
from hakg_dgl.models.cfkg import CFKG
from hakg_dgl.models.ranking_loss import RankingLoss
from hakg_dgl.randomness import torch_generator
from hakg_dgl.training.trainee import Trainee

DEMO = small_demo()
USERS, ITEMS = torch.from_numpy(DEMO.pairs("train")[::7]).unbind(1)


def trainee(**overrides: object) -> Trainee:
    settings = small_settings("cfkg", dtype="float64", seed=5, negatives=3, **overrides)
    return Trainee(DEMO, settings, torch.device("cpu"), ("train",))


def published(moved: Tensor, table: Tensor, true: Tensor, false: Tensor, decay: float) -> Tensor:
    """-ln σ(s) - Σ ln σ(-s') and L2, a triple at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for x, t, others in zip(moved, true.tolist(), false.tolist(), strict=True):
        total = total - torch.log(torch.sigmoid(x @ table[t])) + decay / 2 * (x @ x + table[t] @ table[t])
        for other in others:
            total = total - torch.log(torch.sigmoid(-(x @ table[other]))) + decay / 2 * table[other] @ table[other]
    return total / len(true)


@pytest.mark.parametrize("ranking", ["logistic", "softmax", "bpr"])
def test_a_step_is_the_loss_of_interactions_and_that_of_facts(ranking: str) -> None:
    begun = trainee(ranking_loss=ranking, fact_weight=0.4, weight_decay=0.3)
    model = begun.model
    assert isinstance(model, CFKG)
    loss = begun.passes[0].loss(USERS, ITEMS)
    parameters = [model.user, model.entity, model.relation, model.buy]
    gradients = torch.autograd.grad(loss, parameters)

    graph, generator = model.graph, torch_generator(5, "facts")
    facts = knowledge_triples(graph)
    drawn = facts.draw(-(-len(USERS) * len(facts) // len(graph.pairs())), generator)
    false = facts.false_tails(drawn, generator, 3)
    head, relation, tail = facts.of(drawn)
    expected = 0.4 * published(model.entity[head] + model.relation[relation], model.entity, tail, false, 0.3)
    chosen = RankingLoss(graph, model.loss, torch_generator(5, "negatives"))
    item = model.entity[: graph.n_items]
    if ranking == "logistic":
        items = chosen.sampler.sample(USERS, 3, torch_generator(5, "negatives"))
        expected = expected + published(model.user[USERS] + model.buy, item, ITEMS, items, 0.3)
    else:
        expected = expected + chosen(model.user + model.buy, item, USERS, ITEMS, decayed=([model.user], [item]))
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_a_score_is_that_of_the_triple_of_having_bought() -> None:
    model = trainee().model
    scores = model.scorer().scores(torch.arange(DEMO.n_users))
    assert isinstance(model, CFKG)
    for user, item in ((0, 0), (7, 31), (59, 49)):
        assert scores[user, item].item() == pytest.approx(
            ((model.user[user] + model.buy[0]) @ model.entity[item]).item(), rel=1e-12
        )


def test_without_weight_facts_take_no_part() -> None:
    begun = trainee(fact_weight=0.0)
    begun.passes[0].loss(USERS, ITEMS).backward()
    model = begun.model
    assert isinstance(model, CFKG)
    assert model.relation.grad is None
    assert model.entity.grad is not None
    assert bool((model.entity.grad[DEMO.n_items :] == 0).all())
