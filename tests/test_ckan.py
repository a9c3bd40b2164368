"""CKAN against the published equations, triple by triple."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_demo import small_demo, small_settings
from torch import Tensor

from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.models.ckan import CKAN, _Spread
from hakg_dgl.models.ranking_loss import RankingLoss
from hakg_dgl.randomness import torch_generator
from hakg_dgl.ranking.fold_in import EmbeddingFoldIn
from hakg_dgl.training.trainee import Trainee

DEMO = small_demo()


def ckan(**overrides: Any) -> CKAN:
    given = {"dtype": "float64", "layers": 2, "user_set": 5, "item_set": 7, "seed": 5}
    read = small_settings("ckan", **(given | overrides))
    return CKAN(build_graph(DEMO), read.model, read.loss, read.run)


def dense_parts(model: CKAN, spread: _Spread, row: int) -> list[Tensor]:
    """Parts of the vector of one set, a triple at a time."""
    members = spread.members.cols[spread.members.rows == row]
    parts = [model.entity[members].mean(0)]
    for pattern, _, pair in spread.triples.hops:
        powers, tails = [], []
        for edge in (pattern.rows == row).nonzero().flatten().tolist():
            head = model.entity[spread.triples.pair_head[pair[edge]]]
            relation = model.relation[spread.triples.pair_relation[pair[edge]]]
            whole = torch.cat([model.of_head, model.of_relation], 1) @ torch.cat([head, relation])
            hidden = (model.hidden @ whole.clamp_min(0)).clamp_min(0)
            powers.append(torch.exp(1 / (1 + torch.exp(-(model.weigh @ hidden)))))
            tails.append(model.entity[pattern.cols[edge]])
        total = sum(powers, start=torch.zeros(1, dtype=torch.float64))
        parts.append(sum((p / total * t for p, t in zip(powers, tails, strict=True)), start=torch.zeros_like(parts[0])))
    return parts


def dense_ckan(model: CKAN) -> tuple[Tensor, Tensor]:
    kind, rows = model.settings.aggregator, []
    for spread, n in ((model.of_users, model.graph.n_users), (model.of_items, model.graph.n_items)):
        found = []
        for row in range(n):
            parts = dense_parts(model, spread, row)
            if spread is model.of_items:
                parts = [model.entity[row], *parts[1:]] if kind == "concat" else [*parts, model.entity[row]]
            if kind == "concat":
                found.append(torch.cat(parts))
            else:
                found.append(sum(parts[1:], start=parts[0]) if kind == "sum" else torch.stack(parts).max(0).values)
        rows.append(torch.stack(found))
    return rows[0], rows[1]


@pytest.mark.parametrize("aggregator", ["sum", "pool", "concat"])
def test_propagation_is_that_of_single_triples(aggregator: str) -> None:
    model = ckan(aggregator=aggregator)
    parameters, gradients = list(model.parameters()), []
    ours, dense = model.propagate(), dense_ckan(model)
    for found in (ours, dense):
        total = sum((x.square().sum() for x in found), start=torch.zeros(()).double())
        gradients.append(torch.autograd.grad(total, parameters))
    for mine, expected in zip([*ours, *gradients[0]], [*dense, *gradients[1]], strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-11)


def test_members_are_the_items_of_users_and_items_that_users_of_an_item_have() -> None:
    model = ckan(item_set=40)
    _, items = model.graph.positives()
    assert torch.equal(model.of_users.members.cols, items)
    has = torch.zeros(DEMO.n_users, DEMO.n_items)
    has[model.graph.pairs().unbind(1)] = 1.0
    beside = (has.T @ has) > 0
    members = model.of_items.members
    for item in range(DEMO.n_items):
        drawn = members.cols[members.rows == item]
        if has[:, item].any():
            assert len(drawn) == 40
            assert bool(beside[item, drawn].all())
        else:
            assert drawn.tolist() == [item]


def test_a_step_is_the_published_cross_entropy() -> None:
    read = small_settings("ckan", dtype="float64", seed=5, ranking_loss="cross-entropy", weight_decay=0.3)
    begun = Trainee(DEMO, read, torch.device("cpu"), ("train",))
    model = begun.model
    assert isinstance(model, CKAN)
    users, items = torch.from_numpy(DEMO.pairs("train")[::7]).unbind(1)
    found = begun.passes[0].loss(users, items)
    sampler = RankingLoss(model.graph, model.loss, torch_generator(5, "negatives")).sampler
    negatives = sampler.sample(users, 1, torch_generator(5, "negatives")).squeeze(1)
    of_users, of_items = model.propagate()
    scores = of_users @ of_items.T
    labels = torch.cat([torch.ones(len(users)), torch.zeros(len(users))]).double()
    given = torch.sigmoid(torch.cat([scores[users, items], scores[users, negatives]]))
    expected = torch.nn.functional.binary_cross_entropy(given, labels)
    squares = of_users[users].square().sum() + model.entity[torch.cat([items, negatives])].square().sum()
    torch.testing.assert_close(found, expected + 0.3 * squares / (2 * len(users)), rtol=1e-9, atol=1e-11)


def test_a_new_user_is_what_a_trained_one_with_these_items_is() -> None:
    model = ckan()
    indptr, items = model.graph.positives()
    fold = model.fold_in()
    assert isinstance(fold, EmbeddingFoldIn)
    own = items[indptr[3] : indptr[4]]
    torch.testing.assert_close(fold.fold_in([0, len(own)], own.flip(0))[0], model.ranking_vectors()[0][3])
    assert bool((fold.fold_in([0, 0], [])[0] == 0).all())
