"""KGAT against the published equations on dense matrices, edge by edge where attention is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_demo import small_demo, small_settings
from torch import Tensor
from torch.nn import functional as F

from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.layers.triples import Triples
from hakg_dgl.models import kgat as module
from hakg_dgl.models.kgat import KGAT, collaborative_knowledge
from hakg_dgl.models.ranking_loss import RankingLoss
from hakg_dgl.randomness import torch_generator
from hakg_dgl.training.trainee import Trainee

DEMO = small_demo()
CPU = torch.device("cpu")


def settings(**overrides: Any) -> Any:
    given = {"dtype": "float64", "seed": 5, "relation_dim": 6, "layer_widths": [7, 4], "message_dropout": 0.0}
    return small_settings("kgat", **(given | overrides))


def kgat(**overrides: Any) -> KGAT:
    read = settings(**overrides)
    model = KGAT(build_graph(DEMO), read.model, read.loss, read.run)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # so that biases take part
        for linear in (*model.sums, *model.products):
            linear.bias.normal_(0.0, 0.1, generator=generator)
    return model


def edges_of(model: KGAT) -> list[tuple[int, int, int]]:
    """Head, relation and tail of all edges: users are nodes 0.., entities follow."""
    graph, n = model.graph, model.graph.n_users
    edges = [(user, 0, n + item) for user, item in graph.pairs().tolist()]
    edges += [(n + item, 1, user) for user, item in graph.pairs().tolist()]
    for head, relation, tail in graph.triples().tolist():
        edges.append((n + head, 2 + relation, n + tail))
        edges.append((n + tail, 2 + graph.n_relations + relation, n + head))
    return edges


def dense_attention(model: KGAT) -> Tensor:
    """Shares ``[n_nodes, n_nodes]``; equal pairs of different relations add up."""
    nodes = torch.cat([model.user, model.entity]).detach()
    powers = torch.zeros(len(nodes), len(nodes), dtype=torch.float64)
    for head, relation, tail in edges_of(model):
        matrix = model.matrices[relation].detach()
        moved = torch.tanh(matrix @ nodes[head] + model.relation[relation].detach())
        powers[head, tail] += torch.exp((matrix @ nodes[tail]) @ moved)
    return powers / powers.sum(1, keepdim=True).clamp_min(1e-300)


def dense_kgat(model: KGAT, attention: Tensor) -> tuple[Tensor, Tensor]:
    nodes = torch.cat([model.user, model.entity])
    found = [nodes]
    for of_sum, of_product in zip(model.sums, model.products, strict=True):
        gathered = attention @ nodes
        total = (nodes + gathered) @ of_sum.weight.T + of_sum.bias
        product = (nodes * gathered) @ of_product.weight.T + of_product.bias
        nodes = torch.where(total > 0, total, 0.2 * total) + torch.where(product > 0, product, 0.2 * product)
        found.append(nodes / nodes.norm(dim=1, keepdim=True))
    whole, n = torch.cat(found, 1), model.graph.n_users
    return whole[:n], whole[n : n + model.graph.n_items]


def test_the_edges_are_interactions_and_facts_in_both_directions() -> None:
    model = kgat()
    pattern = collaborative_knowledge(model.graph)
    found = zip(pattern.pairs.rows.tolist(), pattern.relation.tolist(), pattern.pairs.cols.tolist(), strict=True)
    assert sorted(found) == sorted(edges_of(model))


@pytest.mark.parametrize("block", [1 << 18, 17])
def test_attention_is_a_softmax_over_what_a_node_receives(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EDGES_PER_BLOCK", block)
    model = kgat()
    shares, expected = model.attend(), dense_attention(model)
    found = torch.zeros_like(expected)
    found.index_put_((model.edges.pairs.rows, model.edges.pairs.cols), shares, accumulate=True)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
    assert not shares.requires_grad


def test_propagation_is_that_of_dense_matrices() -> None:
    model = kgat()
    ours, dense = model.propagate(model.attend()), dense_kgat(model, dense_attention(model))
    weights = [torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2)) for x in dense]
    parameters = [model.user, model.entity, *model.sums.parameters(), *model.products.parameters()]
    gradients = []
    for found in (ours, dense):
        total = sum(((w * x).sum() for w, x in zip(weights, found, strict=True)), start=torch.zeros(()).double())
        gradients.append(torch.autograd.grad(total, parameters))
    for mine, expected in zip(ours, dense, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-12)
    for mine, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("ranking", ["softmax", "bpr"])
def test_the_pass_over_interactions_ranks_what_attention_gathers(ranking: str) -> None:
    begun = Trainee(DEMO, settings(ranking_loss=ranking, weight_decay=0.3, fact_decay=0.2), CPU, ("train",))
    model = begun.model
    assert isinstance(model, KGAT)
    assert [each.name for each in begun.passes] == ["interactions", "facts"]
    assert [each.optimizer for each in begun.passes] == list(begun.optimizers)
    users, items = torch.from_numpy(DEMO.pairs("train")[::7]).unbind(1)
    model.begin_epoch(1)
    found = begun.passes[0].loss(users, items)
    chosen = RankingLoss(model.graph, model.loss, torch_generator(5, "negatives"))
    expected = chosen(*dense_kgat(model, dense_attention(model)), users, items, decayed=([model.user], [model.entity]))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_the_pass_over_facts_is_that_of_transr() -> None:
    begun = Trainee(DEMO, settings(fact_decay=0.2), CPU, ("train",))
    model = begun.model
    assert isinstance(model, KGAT)
    pairs, relation = model.edges.pairs, model.edges.relation
    assert sum(len(numbers) for (numbers,) in begun.passes[1].batches) == model.edges.n_edges
    numbers = torch.arange(0, model.edges.n_edges, 9)
    found = begun.passes[1].loss(numbers)
    triples = Triples(pairs.rows, relation, pairs.cols, pairs.n_rows, model.edges.n_relations)
    drawn = triples.false_tails(numbers, torch_generator(5, "facts")).squeeze(1)
    true, nodes = set(edges_of(model)), torch.cat([model.user, model.entity])
    total = torch.zeros((), dtype=torch.float64)
    for head, r, tail, other in zip(*(x.tolist() for x in (*triples.of(numbers), drawn)), strict=True):
        assert (head, r, tail) in true
        assert (head, r, other) not in true
        near, far = (
            (model.matrices[r] @ (nodes[head] - nodes[end]) + model.relation[r]).square().sum() for end in (tail, other)
        )
        total = total - F.logsigmoid(far - near) + 0.1 * nodes[[head, tail, other]].square().sum()
    torch.testing.assert_close(found, total / len(numbers), rtol=1e-9, atol=1e-11)


def test_attention_stays_as_it_is_during_an_epoch() -> None:
    model = kgat()
    model.begin_epoch(1)
    before = model.attention.clone()
    with torch.no_grad():
        model.relation.add_(1.0)
    assert torch.equal(model.attention, before)
    assert not torch.allclose(model.attend(), before)
    model.begin_epoch(2)
    assert torch.equal(model.attention, model.attend())
