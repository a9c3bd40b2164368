"""Packed patterns against lists and sets, dropping edges against packing what is left."""

import itertools

import pytest
import torch
from dense import adjacency, empty_graph, odd_graph, on_one_thread
from hypothesis import given, settings
from hypothesis import strategies as st

from hakg_dgl.graph.packed import Grouping, KnowledgePattern, PackedGraph, SparsePattern

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

quick = settings(max_examples=60, deadline=None, derandomize=True)


def members(grouping, n_edges):
    """Edge numbers of each group."""
    order = torch.arange(n_edges) if grouping.order is None else grouping.order
    bounds = grouping.indptr.tolist()
    return [order[a:b].tolist() for a, b in itertools.pairwise(bounds)]


def assert_pattern(pattern, pairs, n_rows, n_cols):
    """Everything a pattern of these (row, column) pairs, in this order, has to say."""
    rows, cols = [row for row, _ in pairs], [col for _, col in pairs]
    assert (pattern.n_rows, pattern.n_cols, pattern.n_edges) == (n_rows, n_cols, len(pairs))
    assert pattern.rows.tolist() == rows
    assert pattern.cols.tolist() == cols
    for grouping, ends, n, degree in (
        (pattern.by_row, rows, n_rows, pattern.row_degree),
        (pattern.by_col, cols, n_cols, pattern.col_degree),
    ):
        expected = [[edge for edge, end in enumerate(ends) if end == group] for group in range(n)]
        assert members(grouping, len(pairs)) == expected
        assert degree.tolist() == [len(group) for group in expected]


# --- grouping -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 6).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1), max_size=20))))
@quick
def test_groups_hold_their_edges_in_edge_order(example):
    n, groups = example
    grouping = Grouping.of(torch.tensor(groups, dtype=torch.int64), n)
    assert members(grouping, len(groups)) == [[e for e, g in enumerate(groups) if g == group] for group in range(n)]
    values = torch.arange(2 * len(groups)).view(-1, 2)
    ordered = [values[e].tolist() for group in members(grouping, len(groups)) for e in group]
    assert grouping.permute(values).tolist() == ordered
    assert torch.equal(grouping.restore(grouping.permute(values)), values)


@pytest.mark.parametrize("n_groups", [1 << 16, (1 << 16) + 1])
def test_groups_beyond_sixteen_bits(n_groups):
    """Group numbers of 16 bits are sorted in another way."""
    group = torch.tensor([n_groups - 1, 0, 3, n_groups - 1, 32768, 0])
    grouping = Grouping.of(group, n_groups)
    assert grouping.order.tolist() == [1, 5, 2, 4, 0, 3]
    assert grouping.order.dtype == torch.int64
    assert grouping.indptr.diff().nonzero().squeeze(1).tolist() == [0, 3, 32768, n_groups - 1]
    assert len(grouping.indptr) == n_groups + 1


# --- patterns -----------------------------------------------------------------------------------------------------

shapes = st.tuples(st.integers(1, 5), st.integers(1, 5))
patterns = shapes.flatmap(
    lambda shape: st.tuples(
        st.just(shape),
        st.lists(st.tuples(st.integers(0, shape[0] - 1), st.integers(0, shape[1] - 1), st.booleans()), max_size=24),
    )
)


@given(patterns)
@quick
def test_dropping_edges_is_packing_the_others(example):
    (n_rows, n_cols), drawn = example
    drawn = sorted(drawn, key=lambda edge: edge[0])
    pairs, mask = [edge[:2] for edge in drawn], torch.tensor([edge[2] for edge in drawn], dtype=torch.bool)
    ends = torch.tensor(pairs, dtype=torch.int64).view(-1, 2)
    pattern = SparsePattern.from_pairs(ends[:, 0], ends[:, 1], n_rows, n_cols)
    assert_pattern(pattern, pairs, n_rows, n_cols)
    kept = pattern.keep(mask)
    left = [edge[:2] for edge in drawn if edge[2]]
    assert_pattern(kept, left, n_rows, n_cols)
    # Dropping again, and the pattern itself as it was.
    assert_pattern(kept.keep(torch.zeros(len(left), dtype=torch.bool)), [], n_rows, n_cols)
    assert_pattern(pattern, pairs, n_rows, n_cols)


@given(st.integers(0, 1000), st.integers(0, 14), st.floats(0.0, 1.0) | st.none())
@quick
def test_keeping_edges_and_heads_of_the_knowledge_graph(seed, n_heads, share):
    knowledge = odd_graph(seed, n_triples=seed % 30).packed().knowledge
    edges = list(
        zip(knowledge.pairs.rows.tolist(), knowledge.relation.tolist(), knowledge.pairs.cols.tolist(), strict=True)
    )
    mask = None if share is None else torch.rand(len(edges), generator=torch.Generator().manual_seed(seed)) < share
    left = [e for i, e in enumerate(edges) if e[0] < n_heads and (mask is None or mask[i])]
    kept = knowledge.keep(mask, n_heads)
    assert isinstance(kept, KnowledgePattern)
    assert_pattern(kept.pairs, [(head, tail) for head, _, tail in left], n_heads, 14)
    assert kept.relation.tolist() == [relation for _, relation, _ in left]
    by_relation = [[i for i, e in enumerate(left) if e[1] == relation] for relation in range(22)]
    assert members(kept.by_relation, len(left)) == by_relation
    assert kept.tail_relation.tolist() == [left[i][1] for group in members(kept.pairs.by_col, len(left)) for i in group]
    assert (kept.n_relations, kept.n_edges) == (22, len(left))
    assert len(edges) == knowledge.n_edges
    assert knowledge.pairs.n_rows == 14


# --- the packed graph ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_packing_keeps_every_interaction_and_adds_the_inverse_of_every_triple(seed):
    graph = odd_graph(seed)
    packed = graph.packed()
    assert (packed.n_users, packed.n_items, packed.n_entities, packed.n_relations) == (8, 6, 14, 11)
    assert_pattern(packed.interactions, sorted(map(tuple, graph.interactions.tolist())), 8, 6)
    knowledge = packed.knowledge
    edges = list(
        zip(knowledge.pairs.rows.tolist(), knowledge.relation.tolist(), knowledge.pairs.cols.tolist(), strict=True)
    )
    assert sorted(edges) == sorted(map(tuple, graph.edges().tolist()))
    assert [edge[:2] for edge in edges] == sorted(edge[:2] for edge in edges)  # by head, then relation
    assert_pattern(knowledge.pairs, [(head, tail) for head, _, tail in edges], 14, 14)
    # What the fixture promises.
    assert knowledge.pairs.row_degree[9] == knowledge.pairs.col_degree[9] == 0
    assert packed.interactions.row_degree[0] == packed.interactions.col_degree[1] == 0
    assert 1 not in knowledge.relation
    assert knowledge.pairs.row_degree[0] >= 13


def test_repeated_interactions_and_triples_are_all_kept():
    graph = odd_graph()
    twice = graph._replace(interactions=graph.interactions.repeat(2, 1), triples=graph.triples.repeat(2, 1))
    packed, single = twice.packed(), graph.packed()
    assert packed.knowledge.n_edges == 2 * single.knowledge.n_edges
    assert packed.interactions.n_edges == 2 * single.interactions.n_edges
    dense = adjacency(torch.stack([packed.interactions.rows, packed.interactions.cols], 1), 8, 6, torch.float64)
    assert torch.equal(dense, 2.0 * adjacency(graph.interactions, 8, 6, torch.float64))


@pytest.mark.parametrize("n_relations", [0, 2])
def test_graphs_without_edges(n_relations):
    packed = empty_graph(n_relations).packed()
    assert isinstance(packed, PackedGraph)
    assert_pattern(packed.interactions, [], 3, 2)
    for knowledge in (packed.knowledge, packed.knowledge.keep(None, 2), packed.knowledge.keep(torch.ones(0) > 0, 4)):
        assert knowledge.n_edges == 0
        assert knowledge.by_relation.indptr.tolist() == [0] * (2 * n_relations + 1)
        assert_pattern(knowledge.pairs, [], knowledge.pairs.n_rows, 4)
