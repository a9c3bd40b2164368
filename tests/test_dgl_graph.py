"""Graphs that go to DGL and come back, and what is said where DGL is missing."""

import os
import pickle
import subprocess
import sys

import pytest
import torch
from dense import empty_graph, odd_graph
from with_dgl import dgl_or_skip, needs_dgl

from hakg_dgl import build_graph, build_heterograph, from_dgl, to_dgl
from hakg_dgl.data.preprocess import preprocess
from hakg_dgl.data.synthetic import generate_demo
from hakg_dgl.errors import DataError
from hakg_dgl.graph.edge_types import INTERACTED_BY, INTERACTS, relation_edge_types


def assert_same_graph(ours, theirs):
    assert ours.n_nodes == theirs.n_nodes
    assert sorted(ours.canonical_etypes) == sorted(theirs.canonical_etypes)
    assert ours.relation_types == theirs.relation_types
    for etype in theirs.canonical_etypes:
        for a, b in zip(ours.edges[etype], theirs.edges[etype], strict=True):
            assert torch.equal(a, b)
            assert a.dtype == torch.int64


@needs_dgl
@pytest.mark.parametrize("graph", [odd_graph(), odd_graph(1), empty_graph(), empty_graph(2)])
def test_there_and_back_is_the_same_graph(graph):
    """With eleven relations: DGL sorts edge types by name, where r10 comes before r2."""
    heterograph = graph.heterograph()
    converted = to_dgl(heterograph)
    if heterograph.relation_types:
        assert converted.canonical_etypes == [INTERACTS, INTERACTED_BY, *heterograph.relation_types]
    # Integers of either width, and a graph that was written and read, are the same graph.
    for version in (converted, converted.int(), converted.to("cpu"), pickle.loads(pickle.dumps(converted))):
        assert_same_graph(from_dgl(version), heterograph)


@needs_dgl
def test_metagraph_and_sizes():
    graph = to_dgl(odd_graph().heterograph())
    assert sorted(graph.ntypes) == ["entity", "item", "user"]
    assert {node: graph.num_nodes(node) for node in graph.ntypes} == {"user": 8, "item": 6, "entity": 14}
    metagraph = graph.metagraph()
    assert set(metagraph.nodes) == {"user", "item", "entity"}
    assert len(metagraph.edges) == 2 + 22
    between = {key for source, destination, key in metagraph.edges(keys=True) if source != destination}
    assert between == {"interacts", "interacted_by"}
    assert not any(graph.nodes[node].data for node in graph.ntypes)
    assert not any(graph.edges[etype].data for etype in graph.canonical_etypes)


@needs_dgl
def test_the_graph_of_a_data_set_is_that_of_build_graph():
    dataset = preprocess(generate_demo())
    for splits in (("train",), ("train", "valid")):
        assert_same_graph(from_dgl(build_heterograph(dataset, splits)), build_graph(dataset, splits))


def whole():
    return {
        INTERACTS: ([0, 1], [0, 0]),
        INTERACTED_BY: ([0, 0], [0, 1]),
        ("entity", "genre", "entity"): ([1], [0]),
        ("entity", "inverse_genre", "entity"): ([0], [1]),
    }


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({("entity", "director", "entity"): ([1], [0])}, ["3 relation edge types, 1 of them", "build_heterograph"]),
        ({INTERACTED_BY: ([0], [0])}, ["2 edges of type", "interacts", "1 of its inverse", "interacted_by"]),
        ({INTERACTED_BY: None}, ["no edges of type", "interacted_by"]),
        ({("entity", "genre", "entity"): None, ("entity", "inverse_genre", "entity"): None}, ["no nodes", "'entity'"]),
    ],
)
def test_a_graph_that_lacks_something_is_refused_with_a_remedy(change, parts):
    dgl = dgl_or_skip()
    edges = {etype: ends for etype, ends in {**whole(), **change}.items() if ends is not None}
    with pytest.raises(DataError) as caught:
        from_dgl(dgl.heterograph(edges))
    for part in parts:
        assert part in str(caught.value)


def test_edges_and_their_inverses_may_come_in_any_order():
    """Interactions and inverses are the edges of their counterparts, whatever the order they were given in."""
    dgl = dgl_or_skip()
    graph = from_dgl(dgl.heterograph({**whole(), INTERACTED_BY: ([0, 0], [1, 0])}))
    assert [end.tolist() for end in graph.edges[INTERACTED_BY]] == [[0, 0], [0, 1]]
    assert graph.names == {"genre": 0}
    assert list(graph.relation_types) == relation_edge_types(["genre"])


WITHOUT = """
import hakg_dgl, sys
from hakg_dgl.data.preprocess import preprocess
from hakg_dgl.data.synthetic import generate_demo
from hakg_dgl.errors import MissingDependencyError
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.models.hakg import HAKGSettings
dataset = preprocess(generate_demo())
for kernels in ("auto", "torch"):
    model = hakg_dgl.HAKG(hakg_dgl.build_graph(dataset), HAKGSettings(dim=4, kernels=kernels))
    model.propagate().user.sum().backward()
for wrong in (lambda: hakg_dgl.build_heterograph(dataset), lambda: choose_backend("dgl")):
    try:
        wrong()
    except MissingDependencyError as error:
        print(str(error).splitlines()[0])
print("dgl" in sys.modules)
"""


def test_without_dgl_models_run_and_what_needs_it_says_so():
    environment = {**os.environ, "HAKG_WITHOUT_DGL": "1"}
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT], env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == lines[1] == "DGL is hidden by the environment variable HAKG_WITHOUT_DGL: unset it"
    assert lines[2] == "False"
