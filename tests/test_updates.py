"""Aggregations of a layer: update functions by edge type, and the packed fast path, on one interface.

Both are compared with dense matrices, with and without dropped edges.
"""

import warnings

import pytest
import torch
from dense import (
    DTYPES,
    RULES,
    adjacency,
    dense_mean,
    empty_graph,
    error,
    gradients,
    make_rule,
    odd_graph,
    on_one_thread,
    random_table,
)

from hakg_dgl.graph.dgl_gate import dgl
from hakg_dgl.graph.dgl_graph import from_dgl, to_dgl
from hakg_dgl.graph.edge_types import INTERACTED_BY, INTERACTS
from hakg_dgl.kernels.interface import BACKENDS, choose_backend
from hakg_dgl.layers.aggregators import PackedAggregator
from hakg_dgl.layers.updates import ReadableAggregator, RelationTransitiveUpdate, collaborative_update, update_all

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

PATHS = ("readable", *BACKENDS)
paths = pytest.mark.parametrize("path", PATHS)
rules = pytest.mark.parametrize(("formulation", "geometry", "c"), RULES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])


def small_graph(seed=0):
    """Few relations, since each is a call of DGL; the second has no edges."""
    return odd_graph(seed, n_relations=3)


def aggregator_of(path, graph, rule):
    heterograph = to_dgl(graph.heterograph())
    packed = from_dgl(heterograph).packed
    if path == "readable":
        return ReadableAggregator(heterograph, packed, list(from_dgl(heterograph).relation_types), rule), packed
    return PackedAggregator(packed, choose_backend(path), rule), packed


def masks(packed, seed=0, share=0.5):
    generator = torch.Generator().manual_seed(seed)
    kg = torch.rand(packed.knowledge.n_edges, generator=generator) < share
    return kg, torch.rand(packed.interactions.n_edges, generator=generator) < share


def kept_edges(packed, mask):
    knowledge = packed.knowledge
    return torch.stack([knowledge.pairs.rows, knowledge.relation, knowledge.pairs.cols], 1)[mask]


def bound(dtype):
    return 2e-5 if dtype == torch.float32 else 1e-11


def assert_same(ours, theirs, *inputs):
    dtype = theirs.dtype
    assert ours.dtype == dtype
    assert error(ours, theirs) < bound(dtype)
    for a, b in zip(gradients(ours, *inputs), gradients(theirs, *inputs), strict=True):
        assert error(a, b) < 2.0 * bound(dtype)


def tables(graph, dtype, dim=4):
    counts = (graph.n_users, graph.n_items, graph.n_entities, max(1, 2 * graph.n_relations))
    return [random_table(n, dim, dtype, seed, reach=0.7).requires_grad_() for seed, n in enumerate(counts)]


# --- both paths against dense matrices ----------------------------------------------------------------------------


@paths
@rules
@dtypes
def test_entities(path, formulation, geometry, c, dtype):
    graph, rule = small_graph(), make_rule(formulation, geometry, c, dtype)
    aggregator, packed = aggregator_of(path, graph, rule)
    *_, entity, relation = tables(graph, dtype)
    for n_heads in (graph.n_entities, graph.n_items):
        ours = aggregator.entities(entity, relation, n_heads)
        edges = graph.edges()
        theirs = dense_mean(edges[edges[:, 0] < n_heads], entity, relation, rule, n_heads)
        assert_same(ours, theirs, entity, relation)
        kg, _ = masks(packed)
        kept = kept_edges(packed, kg)
        theirs = dense_mean(kept[kept[:, 0] < n_heads], entity, relation, rule, n_heads)
        assert_same(aggregator.drop(kg, None, 1.0).entities(entity, relation, n_heads), theirs, entity, relation)
        torch.testing.assert_close(aggregator.entities(entity, relation, n_heads), ours)  # itself as it was


@paths
@dtypes
def test_interactions(path, dtype):
    graph, rule = small_graph(), make_rule("released", "poincare", 1.0, dtype)
    aggregator, packed = aggregator_of(path, graph, rule)
    user, item, *_ = tables(graph, dtype)
    matrix = adjacency(graph.interactions, graph.n_users, graph.n_items, dtype)
    assert_same(aggregator.item_sum(user), matrix.T @ user, user)
    assert_same(aggregator.user_sum(item), matrix @ item, item)
    _, mask = masks(packed)
    pairs = torch.stack([packed.interactions.rows, packed.interactions.cols], 1)
    kept = 4.0 * adjacency(pairs[mask], graph.n_users, graph.n_items, dtype)
    dropped = aggregator.drop(None, mask, 4.0)
    assert_same(dropped.item_sum(user), kept.T @ user, user)
    assert_same(dropped.user_sum(item), kept @ item, item)
    assert_same(aggregator.drop(None, None, 4.0).user_sum(item), 4.0 * (matrix @ item), item)


@paths
def test_kept_edges_are_the_graph_of_these_edges(path):
    """A mask over a relation and its inverse alike gives what a graph without those triples gives."""
    graph, rule = small_graph(), make_rule("released", "poincare", 1.0, torch.float64)
    aggregator, packed = aggregator_of(path, graph, rule)
    generator = torch.Generator().manual_seed(8)
    triple_kept = torch.rand(len(graph.triples), generator=generator) < 0.6
    pair_kept = torch.rand(len(graph.interactions), generator=generator) < 0.6
    smaller = graph._replace(interactions=graph.interactions[pair_kept], triples=graph.triples[triple_kept])
    kept = {tuple(edge) for edge in smaller.edges().tolist()}
    ends = kept_edges(packed, torch.ones(packed.knowledge.n_edges, dtype=torch.bool))
    kg = torch.tensor([tuple(edge) in kept for edge in ends.tolist()])
    pairs = {tuple(pair) for pair in smaller.interactions.tolist()}
    interactions = list(zip(packed.interactions.rows.tolist(), packed.interactions.cols.tolist(), strict=True))
    dropped = aggregator.drop(kg, torch.tensor([pair in pairs for pair in interactions]), 1.0)
    other, _ = aggregator_of(path, smaller, rule)
    user, item, entity, relation = tables(graph, torch.float64)
    assert_same(dropped.entities(entity, relation, 14), other.entities(entity, relation, 14), entity, relation)
    assert_same(dropped.item_sum(user), other.item_sum(user), user)
    assert_same(dropped.user_sum(item), other.user_sum(item), item)


@paths
@rules
def test_dropping_everything_leaves_zeros(path, formulation, geometry, c):
    graph, rule = small_graph(), make_rule(formulation, geometry, c, torch.float64)
    aggregator, packed = aggregator_of(path, graph, rule)
    kg, interactions = (torch.zeros_like(mask) for mask in masks(packed))
    dropped = aggregator.drop(kg, interactions, 2.0)
    user, item, entity, relation = tables(graph, torch.float64)
    outputs = [dropped.entities(entity, relation, 14), dropped.item_sum(user), dropped.user_sum(item)]
    for output, inputs in zip(outputs, ((entity, relation), (user,), (item,)), strict=True):
        assert torch.equal(output, torch.zeros_like(output))
        assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients(output, *inputs))


@paths
@pytest.mark.parametrize("n_relations", [0, 2])
def test_graphs_without_edges(path, n_relations):
    graph, rule = empty_graph(n_relations), make_rule("released", "poincare", 1.0, torch.float32)
    aggregator, packed = aggregator_of(path, graph, rule)
    user, item, entity, relation = tables(graph, torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for chosen in (aggregator, aggregator.drop(*masks(packed), 2.0)):
            assert torch.equal(chosen.entities(entity, relation, 4), torch.zeros(4, 4))
            assert torch.equal(chosen.entities(entity, relation, 2), torch.zeros(2, 4))
            assert torch.equal(chosen.item_sum(user), torch.zeros(2, 4))
            assert torch.equal(chosen.user_sum(item), torch.zeros(3, 4))


def test_repeated_triples_are_dropped_one_by_one():
    """Two equal edges have two places in the mask, in both paths."""
    graph = small_graph()
    twice = graph._replace(interactions=graph.interactions.repeat(2, 1), triples=graph.triples.repeat(3, 1))
    rule = make_rule("paper", "poincare", 1.0, torch.float64)
    user, _, entity, relation = tables(graph, torch.float64)
    readable, packed = aggregator_of("readable", twice, rule)
    fast, _ = aggregator_of("torch", twice, rule)
    for seed in range(3):
        drop = (*masks(packed, seed), 2.0)
        ours, theirs = fast.drop(*drop), readable.drop(*drop)
        assert_same(ours.entities(entity, relation, 14), theirs.entities(entity, relation, 14), entity, relation)
        assert_same(ours.item_sum(user), theirs.item_sum(user), user)


def test_graphs_of_short_integers_are_aggregated_alike():
    graph, rule = small_graph(), make_rule("released", "poincare", 1.0, torch.float64)
    heterograph = to_dgl(graph.heterograph()).int()
    packed = from_dgl(heterograph).packed
    readable = ReadableAggregator(heterograph, packed, list(from_dgl(heterograph).relation_types), rule)
    fast, _ = aggregator_of("torch", graph, rule)
    drop = (*masks(packed), 2.0)
    user, _, entity, relation = tables(graph, torch.float64)
    ours, theirs = readable.drop(*drop), fast.drop(*drop)
    assert_same(ours.entities(entity, relation, 14), theirs.entities(entity, relation, 14), entity, relation)
    assert_same(ours.item_sum(user), theirs.item_sum(user), user)


# --- as plain DGL -------------------------------------------------------------------------------------------------


def features(graph):
    nodes = {node: sorted(graph.nodes[node].data) for node in graph.ntypes}
    return nodes, {etype: sorted(graph.edges[etype].data) for etype in graph.canonical_etypes}


def test_nothing_stays_on_the_callers_graph():
    graph, rule = small_graph(), make_rule("released", "poincare", 1.0, torch.float64)
    heterograph = to_dgl(graph.heterograph())
    heterograph.nodes["entity"].data["e"] = torch.arange(14.0)  # the caller's own, under a name that the layer uses
    heterograph.nodes["user"].data["x"] = torch.arange(8.0)
    heterograph.edges[INTERACTS].data["m"] = torch.zeros(heterograph.num_edges(INTERACTS))
    before = features(heterograph)
    packed = from_dgl(heterograph).packed
    aggregator = ReadableAggregator(heterograph, packed, list(from_dgl(heterograph).relation_types), rule)
    user, item, entity, relation = tables(graph, torch.float64)
    for chosen in (aggregator, aggregator.drop(*masks(packed), 2.0)):
        chosen.entities(entity, relation, 14), chosen.item_sum(user), chosen.user_sum(item)
    assert features(heterograph) == before
    assert torch.equal(heterograph.nodes["entity"].data["e"], torch.arange(14.0))
    assert torch.equal(heterograph.nodes["user"].data["x"], torch.arange(8.0))
    assert not heterograph.edges[INTERACTS].data["m"].any()


def plain_layer(graph, relation_types, relation, rule, entity, user):
    """What a DGL user would write: features, a dictionary of update functions, one call."""
    with graph.local_scope():
        graph.nodes["entity"].data["e"], graph.nodes["user"].data["x"] = entity, user
        updates = {etype: RelationTransitiveUpdate(w, rule) for etype, w in zip(relation_types, relation, strict=True)}
        updates[INTERACTS] = collaborative_update
        updates = {etype: update for etype, update in updates.items() if graph.num_edges(etype)}
        update_all(graph, updates)
        return graph.nodes["entity"].data["total"], graph.nodes["item"].data["total"]


@rules
def test_update_functions_by_canonical_edge_type_make_a_layer(formulation, geometry, c):
    graph, rule = small_graph(), make_rule(formulation, geometry, c, torch.float64)
    heterograph = to_dgl(graph.heterograph())
    user, _, entity, relation = tables(graph, torch.float64)
    types = list(from_dgl(heterograph).relation_types)
    entities, items = plain_layer(heterograph, types, relation, rule, entity, user)
    edges = graph.edges()
    degree = torch.bincount(edges[:, 0], minlength=14).clamp_min(1)[:, None]
    assert_same(entities / degree, dense_mean(edges, entity, relation, rule, 14), entity, relation)
    assert_same(items, adjacency(graph.interactions, 8, 6, torch.float64).T @ user, user)


def test_a_relation_may_have_an_update_function_of_its_own():
    """One relation's messages are replaced; those of the others stay."""
    graph, rule = small_graph(), make_rule("released", "euclidean", 1.0, torch.float64)
    heterograph = to_dgl(graph.heterograph())
    *_, entity, relation = tables(graph, torch.float64)
    own = ("entity", "r2", "entity")

    def silent(edges):
        return {"m": torch.zeros_like(edges.src["e"])}

    with heterograph.local_scope():
        heterograph.nodes["entity"].data["e"] = entity
        updates = {}
        for etype, w in zip(list(from_dgl(heterograph).relation_types), relation, strict=True):
            if heterograph.num_edges(etype):
                updates[etype] = silent if etype == own else RelationTransitiveUpdate(w, rule)
        update_all(heterograph, updates)
        total = heterograph.nodes["entity"].data["total"]
    edges = graph.edges()
    edges = edges[edges[:, 1] != 2]
    degree = torch.bincount(edges[:, 0], minlength=14).clamp_min(1)[:, None]
    assert_same(total / degree, dense_mean(edges, entity, relation, rule, 14), entity, relation)


def test_one_edge_type_runs_by_dgls_own_update_all():
    graph, rule = small_graph(), make_rule("paper", "poincare", 1.0, torch.float64)
    heterograph = to_dgl(graph.heterograph())
    *_, entity, relation = tables(graph, torch.float64)
    etype = list(from_dgl(heterograph).relation_types)[2]
    with heterograph.local_scope():
        heterograph.nodes["entity"].data["e"] = entity
        update = RelationTransitiveUpdate(relation[2], rule)
        heterograph.update_all(update, dgl.function.mean("m", "mean"), etype=etype)
        mean = heterograph.nodes["entity"].data["mean"]
    edges = graph.edges()
    assert_same(mean, dense_mean(edges[edges[:, 1] == 2], entity, relation, rule, 14), entity, relation)


def test_collaborative_messages_flow_both_ways():
    heterograph = to_dgl(small_graph().heterograph())
    for etype in (INTERACTS, INTERACTED_BY):
        source, _, destination = etype
        x = torch.arange(2.0 * heterograph.num_nodes(source)).view(-1, 2)
        with heterograph.local_scope():
            heterograph.nodes[source].data["x"] = x
            update_all(heterograph, {etype: collaborative_update})
            total = heterograph.nodes[destination].data["total"]
        senders, receivers = heterograph.edges(etype=etype)
        expected = torch.zeros_like(total).index_add(0, receivers, x[senders])
        assert torch.equal(total, expected)
