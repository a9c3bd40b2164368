"""Relation-transitive aggregation of every backend against the dense evaluation by vectors, values and gradients.

In float32 both evaluations round; where heads are near the edge, both are measured against the same formulas in
float64 (with float32's margin).
"""

import pytest
import torch
from dense import (
    DTYPES,
    RULES,
    Graph,
    dense_mean,
    empty_graph,
    error,
    gradients,
    make_rule,
    odd_graph,
    on_one_thread,
    random_table,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from with_dgl import BACKENDS_HERE, backend_objects

from hakg_dgl.kernels import aggregation
from hakg_dgl.kernels.aggregation import relation_transitive_mean
from hakg_dgl.kernels.choice import choose_backend

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

backends = pytest.mark.parametrize("backend", backend_objects())
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
rules = pytest.mark.parametrize(("formulation", "geometry", "c"), RULES)
quick = settings(max_examples=12, deadline=None, derandomize=True)
BOUND = {torch.float32: 2e-5, torch.float64: 1e-11}
EDGE_BOUND = {torch.float32: 1e-4, torch.float64: 1e-9}


@pytest.fixture
def small_chunks(monkeypatch):
    """So that the odd graph takes many chunks of both kinds, the last of them cut short."""
    monkeypatch.setattr(aggregation, "CHUNK", 13)
    monkeypatch.setattr(aggregation, "VECTOR_CHUNK", 7)


def with_gradients(function, entity, relation):
    entity, relation = entity.clone().requires_grad_(), relation.clone().requires_grad_()
    output = function(entity, relation)
    return [output.detach(), *gradients(output, entity, relation)]


def check_gradients(backend, knowledge, entity, relation, rule):
    """Finite differences of every entry; along random directions for DGL, whose calls take longer."""

    def mean(e, w):
        return relation_transitive_mean(backend, knowledge, e, w, rule)

    assert gradcheck(mean, (entity, relation), eps=1e-7, fast_mode=backend.name == "dgl")


def compare(backend, knowledge, edges, entity, relation, rule, bound, as_rough=2.0):
    """Value and both gradients, over the first heads; or ``as_rough`` times what the dense evaluation rounds."""
    n_heads = knowledge.pairs.n_rows
    ours = with_gradients(lambda e, w: relation_transitive_mean(backend, knowledge, e, w, rule), entity, relation)

    def dense(e, w):
        return dense_mean(edges, e, w, rule, n_heads)

    theirs = with_gradients(dense, entity, relation)
    exact = with_gradients(dense, entity.double(), relation.double()) if entity.dtype == torch.float32 else theirs
    for mine, other, truth in zip(ours, theirs, exact, strict=True):
        assert mine.dtype == entity.dtype
        assert error(mine, truth) < max(bound, as_rough * error(other, truth))


@backends
@rules
@dtypes
def test_interior_heads(backend, formulation, geometry, c, dtype, small_chunks):
    """Scaled norms up to tanh(1) = 0.76; a zero row among entities and relations."""
    graph = odd_graph()
    entity, relation = random_table(14, 5, dtype, 1) / c**0.5, random_table(22, 5, dtype, 2) / c**0.5
    rule = make_rule(formulation, geometry, c, dtype)
    packed = graph.packed()
    compare(backend, packed.knowledge, graph.edges(), entity, relation, rule, BOUND[dtype])
    edges = graph.edges()
    few = edges[edges[:, 0] < packed.n_items]
    kept = packed.knowledge.keep(None, packed.n_items)
    compare(backend, kept, few, entity, relation, rule, BOUND[dtype])


@backends
@rules
@dtypes
def test_heads_at_the_edge_among_others(backend, formulation, geometry, c, dtype, small_chunks):
    """Entities up to tanh(4) = 0.999, of which the outer half takes the vectors' way."""
    graph, rule = odd_graph(), make_rule(formulation, geometry, c, dtype)
    entity = random_table(14, 5, dtype, 1, reach=4.0, zero=False) / c**0.5
    relation = random_table(22, 5, dtype, 2, zero=False) / c**0.5
    knowledge = graph.packed().knowledge
    if geometry == "poincare":  # what this test is about happens
        outer = c * rule.point(entity).square().sum(1) > aggregation.VECTORS_BEYOND[dtype]
        by_vectors = int(outer[knowledge.pairs.rows].sum())
        assert 7 < by_vectors < knowledge.n_edges - 7
    compare(backend, knowledge, graph.edges(), entity, relation, rule, EDGE_BOUND[dtype])


@backends
@pytest.mark.parametrize("formulation", ["released", "paper"])
@dtypes
def test_both_ways_agree_where_they_meet(backend, formulation, dtype, monkeypatch):
    """Scalars and vectors give the same messages to heads on either side of the switch."""
    graph, rule = odd_graph(), make_rule(formulation, "poincare", 1.0, dtype)
    entity = random_table(14, 5, dtype, 1, reach=1.8, zero=False)
    relation = random_table(22, 5, dtype, 2, zero=False)
    results = []
    for beyond in (-1.0, 2.0):  # vectors everywhere, vectors nowhere
        monkeypatch.setattr(aggregation, "VECTORS_BEYOND", dict.fromkeys(DTYPES, beyond))
        results.append(
            with_gradients(
                lambda e, w: relation_transitive_mean(backend, graph.packed().knowledge, e, w, rule), entity, relation
            )
        )
    for by_vectors, by_scalars in zip(*results, strict=True):
        assert error(by_scalars, by_vectors) < EDGE_BOUND[dtype]


@backends
@rules
def test_chunks_change_nothing(backend, formulation, geometry, c, monkeypatch):
    graph, rule = odd_graph(), make_rule(formulation, geometry, c, torch.float64)
    knowledge, entity, relation = graph.packed().knowledge, *(random_table(n, 4, torch.float64, n) for n in (14, 22))
    results = []
    for size in (10**6, 5, 17):
        monkeypatch.setattr(aggregation, "CHUNK", size)
        results.append(
            with_gradients(lambda e, w: relation_transitive_mean(backend, knowledge, e, w, rule), entity, relation)
        )
    for one, other, another in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(one, another, rtol=1e-12, atol=1e-13)


@backends
@pytest.mark.parametrize("formulation", ["released", "paper"])
def test_more_edges_than_entity_relation_cells(backend, formulation):
    """Two entities, one relation, forty parallel edges: every pattern here has more edges than cells."""
    triples = torch.tensor([[0, 0, 1]] * 40 + [[1, 0, 1]] * 3)
    graph = Graph(torch.empty(0, 2).long(), triples, 1, 1, 2, 1)
    rule = make_rule(formulation, "poincare", 1.0, torch.float64)
    entity, relation = random_table(2, 3, torch.float64, 1), random_table(2, 3, torch.float64, 2)
    compare(backend, graph.packed().knowledge, graph.edges(), entity, relation, rule, 1e-12)


@given(st.integers(0, 2**31), st.integers(0, 14), st.floats(0.0, 1.0), st.sampled_from(RULES), st.integers(1, 6))
@quick
def test_kept_edges_are_the_graph_of_these_edges(seed, n_heads, share, names, dim):
    """Means over kept edges, by every backend, equal those of a graph that has no others."""
    graph, rule = odd_graph(seed % 7, n_triples=seed % 40), make_rule(*names, torch.float64)
    knowledge = graph.packed().knowledge
    mask = torch.rand(knowledge.n_edges, generator=torch.Generator().manual_seed(seed)) < share
    ends = torch.stack([knowledge.pairs.rows, knowledge.relation, knowledge.pairs.cols], 1)
    left = ends[mask & (ends[:, 0] < n_heads)]
    entity, relation = random_table(14, dim, torch.float64, seed), random_table(22, dim, torch.float64, seed + 1)
    for name in BACKENDS_HERE:
        kept = knowledge.keep(mask, n_heads)
        compare(choose_backend(name), kept, left, entity, relation, rule, 1e-10)


@backends
@rules
def test_gradients_by_finite_differences(backend, formulation, geometry, c):
    """Every entry of a tiny graph with a self loop, parallel relations and an entity without edges."""
    triples = torch.tensor([[0, 0, 1], [0, 1, 1], [2, 0, 2], [1, 1, 2]])
    knowledge = Graph(torch.empty(0, 2).long(), triples, 1, 1, 4, 2).packed().knowledge
    rule = make_rule(formulation, geometry, c, torch.float64)
    entity = random_table(4, 2, torch.float64, 3, zero=False).requires_grad_()
    relation = random_table(4, 2, torch.float64, 4, zero=False).requires_grad_()
    check_gradients(backend, knowledge, entity, relation, rule)


@backends
@pytest.mark.parametrize("formulation", ["released", "paper"])
def test_gradients_by_finite_differences_through_vectors(backend, formulation, monkeypatch):
    monkeypatch.setattr(aggregation, "VECTORS_BEYOND", dict.fromkeys(DTYPES, 0.3))
    triples = torch.tensor([[0, 0, 1], [1, 0, 2], [2, 0, 0]])
    knowledge = Graph(torch.empty(0, 2).long(), triples, 1, 1, 3, 1).packed().knowledge
    rule = make_rule(formulation, "poincare", 1.0, torch.float64)
    entity = torch.tensor([[1.0, 0.2], [0.1, 0.2], [-0.3, 0.8]], dtype=torch.float64, requires_grad=True)
    relation = random_table(2, 2, torch.float64, 4, zero=False).requires_grad_()
    check_gradients(backend, knowledge, entity, relation, rule)


@backends
@rules
@pytest.mark.parametrize("n_relations", [0, 2])
def test_no_edges(backend, formulation, geometry, c, n_relations):
    knowledge = empty_graph(n_relations).packed().knowledge
    rule = make_rule(formulation, geometry, c, torch.float32)
    entity = random_table(4, 3, torch.float32, 1).requires_grad_()
    relation = random_table(max(1, 2 * n_relations), 3, torch.float32, 2).requires_grad_()
    mean = relation_transitive_mean(backend, knowledge, entity, relation, rule)
    assert torch.equal(mean, torch.zeros(4, 3))
    assert all(torch.equal(g, torch.zeros_like(g)) for g in torch.autograd.grad(mean.sum(), (entity, relation)))


@backends
@rules
@dtypes
def test_everything_is_finite_with_opposite_points_at_the_edge(backend, formulation, geometry, c, dtype):
    """Tails and relations cancelling each other, long vectors, zeros: in one dimension, where all are collinear."""
    values = torch.tensor([0.0, 1e-20, 1e-13, 0.4, -0.4, 1.5, -1.5, 1.8, 4.0, -4.0, 9.0, -9.0, 12.0, -20.0, 1e3])
    n = len(values)
    heads, tails = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    triples = torch.stack([heads.reshape(-1), (heads + tails).reshape(-1) % n, tails.reshape(-1)], 1)
    knowledge = Graph(torch.empty(0, 2).long(), triples, 1, 1, n, n).packed().knowledge
    entity = torch.stack([values, torch.zeros(n)], 1).to(dtype).requires_grad_()
    relation = torch.cat([entity.detach(), -entity.detach()]).requires_grad_()
    rule = make_rule(formulation, geometry, c, dtype)
    mean = relation_transitive_mean(backend, knowledge, entity, relation, rule)
    assert mean.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(mean.sum(), (entity, relation)))


@backends
def test_inputs_are_left_alone_and_backward_runs_once_for_each_forward(backend):
    graph, rule = odd_graph(), make_rule("released", "poincare", 1.0, torch.float64)
    knowledge = graph.packed().knowledge
    entity, relation = random_table(14, 4, torch.float64, 1), random_table(22, 4, torch.float64, 2)
    before = entity.clone(), relation.clone()
    first = with_gradients(lambda e, w: relation_transitive_mean(backend, knowledge, e, w, rule), entity, relation)
    again = with_gradients(lambda e, w: relation_transitive_mean(backend, knowledge, e, w, rule), entity, relation)
    assert torch.equal(before[0], entity)
    assert torch.equal(before[1], relation)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
