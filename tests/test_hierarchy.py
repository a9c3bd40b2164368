from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tables import named, toy

from hakg_dgl.data.hierarchy import hierarchical_relations, hierarchy_score, relation_table


def test_hierarchical_relations():
    genre = [(item, 0, 4 + item % 2) for item in range(4)]
    # the same facts backwards; one attribute for each item; items alone; a cycle between items and attributes
    backwards = [(tail, 1, head) for head, _, tail in genre]
    single = [(0, 2, 4), (1, 2, 5)]
    items = [(0, 3, 2), (1, 3, 2)]
    cycle = [(item, 4, 4) for item in range(4)] + [(4, 4, item) for item in range(4)]
    data = toy(triples=genre + backwards + single + items + cycle, relations=named(*"abcdef"))
    assert hierarchical_relations(data.facts) == [0, 1]
    table = relation_table(data.facts, data.relations["name"])
    assert table["hierarchy"].tolist() == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    assert table["triples"].tolist() == [4, 4, 2, 2, 8, 0]


edges = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=16)


@given(edges)
def test_hierarchy_score_is_exact_on_small_graphs(pairs):
    reach = np.zeros((8, 8), dtype=bool)
    for head, tail in pairs:
        reach[head, tail] = True
    for middle in range(8):
        reach |= reach[:, [middle]] & reach[[middle]]
    np.fill_diagonal(reach, False)
    expected = (reach & ~reach.T).sum() / max(reach.sum(), 1)
    head, tail = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    assert hierarchy_score(head, tail) == pytest.approx(expected)


def test_hierarchy_score_estimate():
    rng = np.random.default_rng(0)
    head = rng.integers(0, 3000, 4000)
    tail = np.where(rng.random(4000) < 0.98, head + rng.integers(1, 50, 4000), head - 3).clip(0, 3100)
    exact = hierarchy_score(head, tail, sources=10_000)
    assert hierarchy_score(head, tail) == pytest.approx(exact, abs=0.05)
    assert 0 < exact < 1
