"""KGRec against the published equations on dense matrices, with the masks that its random streams draw."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense import error
from small_demo import small_demo, small_settings
from torch import Tensor

from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.models.kgrec import KGRec, gumbel
from hakg_dgl.models.ranking_loss import RankingLoss
from hakg_dgl.randomness import torch_generator
from hakg_dgl.ranking.fold_in import EmbeddingFoldIn
from hakg_dgl.training.trainee import Trainee

DEMO = small_demo()
CPU = torch.device("cpu")
Edges = tuple[Tensor, Tensor, Tensor]


def settings(**overrides: Any) -> Any:
    given = {"dtype": "float64", "layers": 2, "seed": 5, "message_dropout": 0.0}
    return small_settings("kgrec", **(given | overrides))


def kgrec(**overrides: Any) -> KGRec:
    read = settings(**overrides)
    return KGRec(build_graph(DEMO), read.model, read.loss, read.run)


def edges_of(model: KGRec) -> Edges:
    """Head, relation or inverse, and tail of all edges, in the order of the model's."""
    graph, edges = model.graph, []
    for head, relation, tail in graph.triples().tolist():
        edges += [(head, relation, tail), (tail, relation + graph.n_relations, head)]
    head, relation, tail = torch.tensor(sorted(edges)).unbind(1)
    return head, relation, tail


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)


def dense_shares(model: KGRec, edges: Edges, entity: Tensor) -> Tensor:
    """ω of each edge, from the definition."""
    head, relation, tail = edges
    keys = (entity[tail] @ model.key.T) * model.relation[relation]
    powers = torch.exp(((entity[head] @ model.query.T) * keys).sum(1) / model.settings.dim**0.5)
    same = head.unsqueeze(1) == head.unsqueeze(0)
    return powers / (same.double() @ powers)


def dense_kgrec(model: KGRec, edges: Edges, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Users and entities, by incidence matrices."""
    head, relation, tail = edges
    entity = total = model.entity
    users = model.user
    owners = (torch.arange(model.graph.n_users).unsqueeze(1) == pairs[:, 0]).double()
    heads = (torch.arange(model.graph.n_entities).unsqueeze(1) == head).double()
    for _ in range(model.settings.layers):
        mean = owners @ entity[pairs[:, 1]] / owners.sum(1, keepdim=True).clamp_min(1)
        shares = dense_shares(model, edges, entity).unsqueeze(1)
        entity = unit(heads @ (shares * model.relation[relation] * entity[tail]))
        users, total = users + unit(mean), total + entity
    return users, total


def assert_same_gradients(found: Tensor, expected: Tensor, parameters: list[Tensor], tolerance: float) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    for mine, theirs in zip(
        torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        assert error(mine, theirs) < tolerance


def test_propagation_is_that_of_dense_matrices() -> None:
    model = kgrec()
    found, dense = model.propagate(), dense_kgrec(model, edges_of(model), model.graph.pairs())
    for mine, expected in zip(found, dense, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-12)
    weights = torch.linspace(-1.0, 1.0, found[1].numel(), dtype=torch.float64).view(found[1].shape)
    totals = [(weights * entities).sum() + users.sum() for users, entities in (found, dense)]
    assert_same_gradients(*totals, [model.user, model.entity, model.relation, model.query, model.key], 1e-8)


def test_rational_scores_are_shares_times_the_number_of_facts() -> None:
    model = kgrec()
    edges = edges_of(model)
    expected = dense_shares(model, edges, model.entity) * edges[0].bincount()[edges[0]]
    found = model.rational_scores(model.edges.pattern)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-10, atol=1e-12)
    assert not found.requires_grad
    of_items = model.item_scores(model.edges.pattern, found)
    for item in range(model.graph.n_items):
        own = torch.cat([found[edges[0] == item], found[edges[2] == item]])
        assert of_items[item].item() == pytest.approx(own.mean().item() if len(own) else 1.0)


@pytest.mark.parametrize("ranking_loss", ["softmax", "bpr"])
def test_a_step_is_ranking_rebuilding_and_contrast(ranking_loss: str) -> None:
    overrides = {"weight_decay": 0.3, "rebuild_weight": 0.2, "masked_facts": 20, "contrast_weight": 0.7,
                 "contrast_temperature": 0.4, "contrast_dropout": 0.4, "kg_edge_dropout": 0.0,
                 "interaction_dropout": 0.0}  # fmt: skip
    begun = Trainee(DEMO, settings(ranking_loss=ranking_loss, **overrides), CPU, ("train",))
    model = begun.model
    assert isinstance(model, KGRec)
    users, items = torch.from_numpy(DEMO.pairs("train")[::7]).unbind(1)
    found = begun.passes[0].loss(users, items)

    stream, edges, pairs = torch_generator(5, "masks"), edges_of(model), model.graph.pairs()
    n_items = model.graph.n_items
    score = (dense_shares(model, edges, model.entity) * edges[0].bincount()[edges[0]]).detach()
    noisy = score + gumbel(score, stream)
    masked = torch.zeros(len(score), dtype=torch.bool)
    masked[noisy.argsort(descending=True)[:20]] = True
    user, entity = dense_kgrec(model, tuple(x[~masked] for x in edges), pairs)  # type: ignore[arg-type]
    ranking = RankingLoss(model.graph, model.loss, torch_generator(5, "negatives"))
    expected = ranking(user, entity[:n_items], users, items, decayed=([model.user], [model.entity]))
    head, relation, tail = (x[masked] for x in edges)
    logits = (entity[head] * model.relation[relation] * entity[tail]).sum(1)
    expected = expected + 0.2 * torch.log1p(torch.exp(-logits)).mean()

    mean_score = model.item_scores(model.edges.pattern, score)[pairs[:, 1]]
    drawn = (mean_score + gumbel(mean_score, stream)).argsort(descending=True)[: round(0.6 * len(pairs))]
    bipartite = torch.zeros(model.graph.n_users, n_items, dtype=torch.float64)
    bipartite[pairs[drawn].unbind(1)] = 1.0
    bipartite = bipartite / bipartite.sum(1, keepdim=True).clamp_min(1).sqrt()
    degree = torch.zeros(n_items).double().index_add_(0, pairs[drawn, 1], torch.ones(len(drawn)).double())
    bipartite = bipartite / degree.clamp_min(1).sqrt()
    of_user, of_item = [model.user], [model.entity[:n_items]]
    for _ in range(2):
        of_user.append(bipartite @ of_item[-1])
        of_item.append(bipartite.T @ of_user[-2])
    strong = noisy.argsort(descending=True)[: round(0.6 * len(noisy))]
    head, relation, tail = (x[strong] for x in edges)
    heads = (torch.arange(model.graph.n_entities).unsqueeze(1) == head).double()
    layer = of_facts = model.entity
    for _ in range(2):
        layer = unit(heads @ (model.relation[relation] * layer[tail]) / heads.sum(1, keepdim=True).clamp_min(1))
        of_facts = of_facts + layer
    first, second = model.networks["interactions"](sum(of_item) / 3), model.networks["facts"](of_facts[:n_items])
    powers = torch.exp(unit(first) @ unit(second).T / 0.4)
    expected = expected - 0.7 * torch.log(powers.diagonal() / powers.sum(1))[torch.unique(items)].mean()
    networks = list(model.networks.parameters())
    assert_same_gradients(
        found, expected, [model.user, model.entity, model.relation, model.query, model.key, *networks], 1e-7
    )


def test_the_highest_of_noisy_logits_are_a_sample() -> None:
    """Gumbel noise: the first is drawn with the probability of the softmax (Gumbel 1954)."""
    logits = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    noisy = logits + gumbel(logits.expand(20_000, 3), torch.Generator().manual_seed(1))
    share = noisy.argmax(1).bincount(minlength=3) / 20_000
    expected = torch.exp(logits) / torch.exp(logits).sum()
    assert bool(((share - expected).abs() < 0.015).all())  # four standard deviations


def test_no_more_than_half_of_the_edges_are_masked() -> None:
    begun = Trainee(DEMO, settings(masked_facts=1_000_000, contrast_weight=0.0), CPU, ("train",))
    users, items = torch.from_numpy(DEMO.pairs("train")[::7]).unbind(1)
    begun.passes[0].loss(users, items).backward()  # type: ignore[no-untyped-call]
    query = begun.model.get_parameter("query").grad
    assert query is not None
    assert float(query.abs().max()) > 0, "attention has edges left"


def test_a_new_user_is_a_trained_one_without_parameters() -> None:
    model = kgrec()
    with torch.no_grad():
        model.user[3] = 0.0
    indptr, items = model.graph.positives()
    fold = model.fold_in()
    assert isinstance(fold, EmbeddingFoldIn)
    own = items[indptr[3] : indptr[4]]
    torch.testing.assert_close(fold.fold_in([0, len(own)], own)[0], model.propagate()[0][3].detach())
    assert bool((fold.fold_in([0, 0], [])[0] == 0).all())
