"""Edge types, their names and directions, and packing, which must lose nothing."""

import numpy as np
import pandas as pd
import pytest
import torch
from dense import empty_graph, odd_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from hakg_dgl.data.preprocess import preprocess
from hakg_dgl.data.synthetic import generate_demo
from hakg_dgl.errors import ConfigError
from hakg_dgl.graph.heterograph import (
    INTERACTED_BY,
    INTERACTS,
    as_heterograph,
    build_graph,
    graph_from_arrays,
    pack,
    relation_edge_types,
)

quick = settings(max_examples=60, deadline=None, derandomize=True)
SIZES = {"n_users": 2, "n_items": 2, "n_entities": 3}


def named(names):
    """A graph with the triple (0, r, 2) for every relation r, and (1, 0, 2) besides."""
    triples = [[0, relation, 2] for relation in range(len(names))] + [[1, 0, 2]]
    return graph_from_arrays(torch.tensor([[0, 0], [1, 1]]), torch.tensor(triples), names, **SIZES)


def edge_set(graph, etype):
    source, destination = graph.edges[etype]
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
    assert list(graph.relation_types) == types
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


def test_relations_keep_their_numbers_whatever_their_names():
    """Sorted by name, r10 would come before r2."""
    source = odd_graph()
    graph = source.heterograph()
    assert list(graph.relation_types) == relation_edge_types([f"r{i}" for i in range(11)])
    assert graph.names == {f"r{i}": i for i in range(11)}


@pytest.mark.parametrize("seed", range(3))
def test_packing_gives_back_what_the_graph_was_made_of(seed):
    source = odd_graph(seed)
    graph = source.heterograph()
    for version in (graph, graph.to("cpu")):
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
    assert graph.n_nodes == {"user": 3, "item": 2, "entity": 4}
    assert len(graph.canonical_etypes) == 2 + 2 * n_relations
    packed = pack(graph)
    assert (packed.n_relations, packed.knowledge.n_edges, packed.interactions.n_edges) == (n_relations, 0, 0)


def test_what_is_not_a_graph_is_refused():
    with pytest.raises(ConfigError, match=r"build_graph.*not str"):
        as_heterograph("graph")


def test_a_part_of_the_graph_has_all_nodes_and_the_order_of_the_whole():
    graph = odd_graph().heterograph()
    types = [graph.relation_types[3], INTERACTS]
    part = graph.restrict(types)
    assert part.canonical_etypes == [INTERACTS, graph.relation_types[3]]
    assert part.n_nodes == graph.n_nodes
    assert part.num_edges() == graph.num_edges(INTERACTS) + graph.num_edges(graph.relation_types[3])
    with pytest.raises(ConfigError, match=r"'follows'.*'interacts'"):
        graph.restrict([("user", "follows", "user")])


def test_the_graph_goes_to_another_device_with_its_views():
    graph = odd_graph().heterograph()
    assert graph.to("cpu") is graph
    assert graph.packed is graph.packed
    moved = graph.to("meta")
    assert moved.device.type == "meta"
    assert moved.canonical_etypes == graph.canonical_etypes
    assert moved.names == graph.names


def test_triples_pairs_and_positives_are_those_it_was_made_of():
    source = odd_graph()
    graph = source.heterograph()
    assert sorted(graph.triples().tolist()) == sorted(source.triples.tolist())
    assert graph.pairs().tolist() == source.interactions.tolist()
    indptr, items = graph.positives()
    lists = [part.tolist() for part in torch.split(items, indptr.diff().tolist())]
    expected = [sorted(i for u, i in source.interactions.tolist() if u == user) for user in range(source.n_users)]
    assert lists == expected


def test_joined_edges_tell_the_place_of_each_edge():
    graph = odd_graph().heterograph()
    types = (graph.relation_types[2], graph.relation_types[0], ("user", "interacts", "item"))
    joined = graph.joined(types)
    assert graph.joined(types) is joined
    assert (joined.receivers, joined.senders) == (("entity", "item"), ("entity", "user"))
    starts = {"entity": 0, "item": graph.n_entities, "user": graph.n_entities}
    for number, etype in enumerate(types):
        source, destination = graph.edges[etype]
        places = joined.places[etype]
        assert torch.equal(joined.pattern.pairs.rows[places], destination + starts[etype[2]])
        assert torch.equal(joined.pattern.pairs.cols[places], source + starts[etype[0]])
        assert (joined.pattern.relation[places] == number).all()
    assert sorted(joined.order.tolist()) == list(range(joined.pattern.n_edges))
    square = graph.joined((INTERACTED_BY,), one_table=True)
    assert square.receivers == square.senders == ("user", "item")
    assert square.pattern.pairs.n_rows == square.pattern.pairs.n_cols == graph.n_users + graph.n_items


# --- from a data set ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset():
    return preprocess(generate_demo())


def test_a_data_set_becomes_its_training_graph(dataset):
    graph = build_graph(dataset)
    assert graph.num_nodes("user") == dataset.n_users
    assert graph.num_nodes("item") == dataset.n_items
    assert graph.num_nodes("entity") == dataset.n_entities
    user, item = graph.edges[INTERACTS]
    assert np.array_equal(torch.stack([user, item], 1).numpy(), dataset.pairs("train"))
    back_item, back_user = graph.edges[INTERACTED_BY]
    assert torch.equal(back_user, user)
    assert torch.equal(back_item, item)
    names = list(dataset.relations["name"])
    assert [name for _, name, _ in graph.relation_types[: len(names)]] == names
    for relation, name in enumerate(names):
        of_relation = dataset.triples[dataset.triples["relation"] == relation]
        expected = sorted(zip(of_relation["tail"], of_relation["head"], strict=True))
        assert edge_set(graph, ("entity", name, "entity")) == expected
        assert edge_set(graph, ("entity", "inverse_" + name, "entity")) == sorted((h, t) for t, h in expected)


def test_relations_are_found_by_original_id_and_by_name(dataset):
    """A name wins: it is what people are shown."""
    relations = dataset.relations
    names = build_graph(dataset).names
    assert [names[name] for name in relations["name"]] == list(range(len(relations)))
    assert set(names) == {*relations["name"], *relations["original_id"].astype(str)}


def test_other_splits_can_be_asked_for(dataset):
    several = build_graph(dataset, ("train", "valid"))
    assert several.num_edges(INTERACTS) == len(dataset.pairs("train")) + len(dataset.pairs("valid"))
    assert build_graph(dataset, ("test",)).num_edges(INTERACTS) == len(dataset.pairs("test"))


def test_relation_ids_of_the_data_set_are_those_of_the_packed_graph(dataset):
    """What the angle loss picks by id are the relations that were meant."""
    relations = pd.DataFrame(dataset.triples)["relation"]
    packed = pack(build_graph(dataset))
    counted = torch.bincount(packed.knowledge.relation, minlength=2 * packed.n_relations).tolist()
    expected = np.bincount(relations, minlength=packed.n_relations).tolist()
    assert counted == expected + expected
