"""Edge types, their names and directions, and packing, which must lose nothing."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from dense import empty_graph, odd_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from hakg_dgl.data.preprocess import preprocess
from hakg_dgl.data.synthetic import generate_demo
from hakg_dgl.errors import DataError
from hakg_dgl.graph.dgl_gate import dgl
from hakg_dgl.graph.heterograph import (
    INTERACTED_BY,
    INTERACTS,
    build_heterograph,
    heterograph_from_arrays,
    pack,
    pack_relation_types,
    relation_edge_types,
)

quick = settings(max_examples=60, deadline=None, derandomize=True)
SIZES = {"n_users": 2, "n_items": 2, "n_entities": 3}


def named(names):
    """A graph with the triple (0, r, 2) for every relation r, and (1, 0, 2) besides."""
    triples = [[0, relation, 2] for relation in range(len(names))] + [[1, 0, 2]]
    return heterograph_from_arrays(torch.tensor([[0, 0], [1, 1]]), torch.tensor(triples), names, **SIZES)


def edge_set(graph, etype):
    source, destination = graph.edges(etype=etype)
    return sorted(zip(source.tolist(), destination.tolist(), strict=True))


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["genre", "director"], ["genre", "director", "inverse_genre", "inverse_director"]),
        (["interacts"], ["interacts#0", "inverse_interacts#0"]),
        (["interacted_by"], ["interacted_by#0", "inverse_interacted_by#0"]),
        (["x", "inverse_x"], ["x", "inverse_x#1", "inverse_x", "inverse_inverse_x#1"]),
        (["inverse_x", "x"], ["inverse_x", "x#1", "inverse_inverse_x", "inverse_x#1"]),
        (["x", "x", "x#1"], ["x", "x#1", "x#1#2", "inverse_x", "inverse_x#1", "inverse_x#1#2"]),
        (["", ""], ["", "#1", "inverse_", "inverse_#1"]),
        ([], []),
    ],
)
def test_taken_names_get_their_relations_number(names, expected):
    types = relation_edge_types(names)
    assert [name for _, name, _ in types] == expected
    assert {(source, destination) for source, _, destination in types} <= {("entity", "entity")}


# Deep prefixes: a relation's name may be the inverse's inverse of another's.
name_lists = st.lists(
    st.builds("{}{}".format, st.sampled_from(["", "inverse_", "inverse_inverse_"]), st.sampled_from("xyz#1")),
    min_size=1,
    max_size=6,
)


@given(name_lists)
@quick
def test_any_names_give_unique_types_that_packing_pairs_up_again(names):
    types = relation_edge_types(names)
    n = len(names)
    assert len({*types, INTERACTS, INTERACTED_BY}) == 2 * n + 2
    assert all(inverse[1] == "inverse_" + forward[1] for forward, inverse in zip(types[:n], types[n:], strict=True))
    graph = named(names)
    assert pack_relation_types(graph) == types
    packed = pack(graph)
    assert packed.n_relations == n
    assert packed.knowledge.n_edges == 2 * (n + 1)


# --- the graph ----------------------------------------------------------------------------------------------------


def test_messages_flow_to_the_head_and_back_along_the_inverse():
    graph = named(["genre", "director"])
    assert edge_set(graph, INTERACTS) == [(0, 0), (1, 1)]
    assert edge_set(graph, INTERACTED_BY) == [(0, 0), (1, 1)]
    assert edge_set(graph, ("entity", "genre", "entity")) == [(2, 0), (2, 1)]  # tail to head
    assert edge_set(graph, ("entity", "inverse_genre", "entity")) == [(0, 2), (1, 2)]
    assert edge_set(graph, ("entity", "director", "entity")) == [(2, 0)]
    graph.nodes["entity"].data["x"] = torch.tensor([[1.0], [10.0], [100.0]])
    graph.update_all(dgl.function.copy_u("x", "m"), dgl.function.sum("m", "y"), etype="inverse_genre")
    assert graph.nodes["entity"].data["y"].tolist() == [[0.0], [0.0], [11.0]]


def test_metagraph_and_sizes():
    graph = odd_graph().heterograph()
    assert sorted(graph.ntypes) == ["entity", "item", "user"]
    assert {node: graph.num_nodes(node) for node in graph.ntypes} == {"user": 8, "item": 6, "entity": 14}
    metagraph = graph.metagraph()
    assert set(metagraph.nodes) == {"user", "item", "entity"}
    assert len(metagraph.edges) == 2 + 22
    between = {key for source, destination, key in metagraph.edges(keys=True) if source != destination}
    assert between == {"interacts", "interacted_by"}
    assert not any(graph.nodes[node].data for node in graph.ntypes)
    assert not any(graph.edges[etype].data for etype in graph.canonical_etypes)


def test_relations_keep_their_numbers_whatever_their_names():
    """DGL sorts edge types by name, where r10 comes before r2."""
    source = odd_graph()
    graph = source.heterograph()
    assert pack_relation_types(graph) == relation_edge_types([f"r{i}" for i in range(11)])
    packed, direct = pack(graph), source.packed()
    for ours, theirs in (
        (packed.knowledge.pairs.rows, direct.knowledge.pairs.rows),
        (packed.knowledge.relation, direct.knowledge.relation),
        (packed.interactions.rows, direct.interactions.rows),
        (packed.interactions.cols, direct.interactions.cols),
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("seed", range(3))
def test_packing_gives_back_what_the_graph_was_made_of(seed):
    source = odd_graph(seed)
    graph = source.heterograph()
    # Integers of either width, and a graph that was written and read, are the same graph.
    for version in (graph, graph.int(), graph.to("cpu"), pickle.loads(pickle.dumps(graph))):
        packed = pack(version)
        knowledge = packed.knowledge
        edges = torch.stack([knowledge.pairs.rows, knowledge.relation, knowledge.pairs.cols], 1)
        assert sorted(edges.tolist()) == sorted(source.edges().tolist())
        interactions = torch.stack([packed.interactions.rows, packed.interactions.cols], 1)
        assert sorted(interactions.tolist()) == sorted(source.interactions.tolist())
        assert {x.dtype for x in (edges, interactions, knowledge.pairs.by_row.indptr)} == {torch.int64}
        assert (packed.n_users, packed.n_items, packed.n_entities, packed.n_relations) == (8, 6, 14, 11)


@pytest.mark.parametrize("n_relations", [0, 2])
def test_graphs_without_edges_are_graphs(n_relations):
    graph = empty_graph(n_relations).heterograph()
    assert {node: graph.num_nodes(node) for node in graph.ntypes} == {"user": 3, "item": 2, "entity": 4}
    assert len(graph.canonical_etypes) == 2 + 2 * n_relations
    packed = pack(graph)
    assert (packed.n_relations, packed.knowledge.n_edges, packed.interactions.n_edges) == (n_relations, 0, 0)


def test_a_relation_without_inverse_is_refused_with_a_remedy():
    graph = dgl.heterograph({
        INTERACTS: ([0], [0]),
        INTERACTED_BY: ([0], [0]),
        ("entity", "genre", "entity"): ([1], [0]),
        ("entity", "inverse_genre", "entity"): ([0], [1]),
        ("entity", "director", "entity"): ([1], [0]),
    })  # fmt: skip
    with pytest.raises(DataError, match=r"(?s)3 relation edge types, 1 of them.*build_heterograph"):
        pack(graph)


# --- from a data set ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset():
    return preprocess(generate_demo())


def test_a_data_set_becomes_its_training_graph(dataset):
    graph = build_heterograph(dataset)
    assert graph.num_nodes("user") == dataset.n_users
    assert graph.num_nodes("item") == dataset.n_items
    assert graph.num_nodes("entity") == dataset.n_entities
    user, item = graph.edges(etype=INTERACTS)
    assert np.array_equal(torch.stack([user, item], 1).numpy(), dataset.pairs("train"))
    back_item, back_user = graph.edges(etype=INTERACTED_BY)
    assert torch.equal(back_user, user)
    assert torch.equal(back_item, item)
    names = list(dataset.relations["name"])
    assert [name for _, name, _ in pack_relation_types(graph)[: len(names)]] == names
    for relation, name in enumerate(names):
        of_relation = dataset.triples[dataset.triples["relation"] == relation]
        expected = sorted(zip(of_relation["tail"], of_relation["head"], strict=True))
        assert edge_set(graph, ("entity", name, "entity")) == expected
        assert edge_set(graph, ("entity", "inverse_" + name, "entity")) == sorted((h, t) for t, h in expected)


def test_other_splits_can_be_asked_for(dataset):
    several = build_heterograph(dataset, ("train", "valid"))
    assert several.num_edges(INTERACTS) == len(dataset.pairs("train")) + len(dataset.pairs("valid"))
    assert build_heterograph(dataset, ("test",)).num_edges(INTERACTS) == len(dataset.pairs("test"))


def test_relation_ids_of_the_data_set_are_those_of_the_packed_graph(dataset):
    """What the angle loss picks by id are the relations that were meant."""
    relations = pd.DataFrame(dataset.triples)["relation"]
    packed = pack(build_heterograph(dataset))
    counted = torch.bincount(packed.knowledge.relation, minlength=2 * packed.n_relations).tolist()
    expected = np.bincount(relations, minlength=packed.n_relations).tolist()
    assert counted == expected + expected
