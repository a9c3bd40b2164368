"""Interactions and facts as matrices."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from hakg_dgl.graph.heterograph import HeteroGraph, graph_from_arrays
from hakg_dgl.graph.matrices import fact_matrix, interaction_matrix


def graph_of(triples: list[tuple[int, int, int]], n_items: int = 4, n_entities: int = 7) -> HeteroGraph:
    pairs = torch.tensor([[0, 1], [0, 0], [2, 1]])
    table = torch.tensor(triples, dtype=torch.int64).reshape(-1, 3)
    return graph_from_arrays(pairs, table, ["a", "b"], n_users=3, n_items=n_items, n_entities=n_entities)


def test_interactions_are_ones_in_ascending_columns() -> None:
    found = interaction_matrix(graph_of([]))
    assert found.toarray().tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    assert found.indices.tolist() == [0, 1, 1]


def test_facts_are_weighed_by_how_few_items_they_hold_for() -> None:
    """Entity 4 is two facts, of items 0 and 1 by relation 0 and of 1 and 2 by relation 1; 5 is of one item alone."""
    of_four = [(0, 0, 4), (1, 0, 4), (1, 1, 4), (2, 1, 4)]
    facts = fact_matrix(graph_of([*of_four, (3, 0, 5), (0, 0, 6), (1, 0, 6), (2, 0, 6)]))
    two, three = math.log(4 / 2), math.log(4 / 3)
    short, long = math.hypot(two, three), math.sqrt(2 * two**2 + three**2)
    expected = [
        [two / short, three / short, 0.0],
        [two / long, three / long, two / long],
        [0.0, three / short, two / short],
        [0.0, 0.0, 0.0],
    ]
    assert np.allclose(facts.toarray(), expected)


def test_the_two_directions_of_a_relation_are_two_facts() -> None:
    facts = fact_matrix(graph_of([(0, 0, 4), (1, 0, 4), (4, 0, 2), (4, 0, 3)]))
    assert np.allclose(facts.toarray(), [[1, 0], [1, 0], [0, 1], [0, 1]])


def test_what_holds_for_all_items_and_repeats_say_nothing() -> None:
    everything = [(item, 0, 4) for item in range(4)]
    assert fact_matrix(graph_of(everything)).shape == (4, 0)
    some = [(0, 0, 5), (1, 0, 5)]
    once, twice = fact_matrix(graph_of(everything + some)), fact_matrix(graph_of(everything + some + some))
    assert np.allclose(once.toarray(), twice.toarray())
    assert fact_matrix(graph_of([])).shape == (4, 0)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1), st.integers(0, 6)), max_size=40, unique=True))
def test_rows_have_length_one_or_zero(triples: list[tuple[int, int, int]]) -> None:
    facts = fact_matrix(graph_of(triples))
    lengths = np.sqrt(facts.multiply(facts).sum(1))
    assert np.all(np.isclose(lengths, 1.0) | (lengths == 0.0))
    assert (facts.data > 0).all()
    holders = np.bincount(facts.indices, minlength=facts.shape[1])
    assert (holders >= 2).all()
