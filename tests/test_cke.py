"""CKE: its losses and its scores against the published formulas."""

from __future__ import annotations

import pytest
import torch
from small_demo import small_demo, small_settings

from hakg_dgl.layers.triples import knowledge_triples
from hakg_dgl.models.cke import CKE
from hakg_dgl.models.ranking_loss import RankingLoss
from hakg_dgl.randomness import torch_generator
from hakg_dgl.training.trainee import Trainee

DEMO = small_demo()
USERS, ITEMS = torch.from_numpy(DEMO.pairs("train")[::7]).unbind(1)


def trainee(**overrides: object) -> Trainee:
    settings = small_settings("cke", dtype="float64", seed=5, relation_dim=6, **overrides)
    return Trainee(DEMO, settings, torch.device("cpu"), ("train",))


@pytest.mark.parametrize("ranking", ["softmax", "bpr"])
def test_a_step_is_the_ranking_loss_and_that_of_facts(ranking: str) -> None:
    begun = trainee(ranking_loss=ranking, fact_weight=0.4, weight_decay=0.3, fact_decay=0.2)
    model = begun.model
    assert isinstance(model, CKE)
    with torch.no_grad():
        model.item.normal_(generator=torch.Generator().manual_seed(1))
    loss = begun.passes[0].loss(USERS, ITEMS)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters)

    graph, generator = model.graph, torch_generator(5, "facts")
    facts = knowledge_triples(graph)
    drawn = facts.draw(-(-len(USERS) * len(facts) // len(graph.pairs())), generator)
    false = facts.false_tails(drawn, generator).squeeze(1)
    of_facts = torch.zeros((), dtype=torch.float64)
    for h, r, t, other in zip(*(x.tolist() for x in (*facts.of(drawn), false)), strict=True):
        near, far = (
            (model.matrices[r] @ (model.entity[h] - model.entity[end]) + model.relation[r]).square().sum()
            for end in (t, other)
        )
        squares = model.entity[[h, t, other]].square().sum()
        of_facts = of_facts - torch.log(torch.sigmoid(far - near)) + 0.2 / 2 * squares
    of_facts = of_facts / len(drawn) + 0.2 / 2 * model.matrices.square().sum()
    chosen = RankingLoss(graph, model.loss, torch_generator(5, "negatives"))
    item = model.item + model.entity[: graph.n_items]
    decayed = ([model.user], [model.item, model.entity])
    expected = chosen(model.user, item, USERS, ITEMS, decayed=decayed) + 0.4 * of_facts
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_an_item_is_its_entity_and_an_offset() -> None:
    model = trainee().model
    assert isinstance(model, CKE)
    assert bool((model.item == 0).all()), "the offset begins at the mean of its prior"
    with torch.no_grad():
        model.item.normal_(generator=torch.Generator().manual_seed(1))
    expected = model.user @ (model.item + model.entity[: DEMO.n_items]).T
    torch.testing.assert_close(model.scorer().scores(torch.arange(DEMO.n_users)), expected.detach())
