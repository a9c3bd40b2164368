"""Triples around sets of items: who may be in them, and that they depend on the items alone."""

from __future__ import annotations

import numpy as np
import torch
from dense import odd_graph
from scipy.stats import chisquare

from hakg_dgl.layers.neighbours import sampled_edges
from hakg_dgl.layers.triple_sets import TripleSets, draws, mixed, picked, salts_of_sets, triple_sets

GRAPH = odd_graph().heterograph()
KNOWLEDGE = GRAPH.packed.knowledge
INDPTR, ITEMS = np.array([0, 3, 3, 4, 6]), np.array([0, 3, 4, 5, 1, 2])


def sets_of(indptr: np.ndarray, items: np.ndarray, hops: int = 3, size: int = 6) -> TripleSets:
    return triple_sets(indptr, items, salts_of_sets(indptr, items, 7), KNOWLEDGE, hops=hops, size=size)


def triples_of(sets: TripleSets) -> list[list[tuple[int, int, int, int]]]:
    """Row, head, relation and tail of each edge, hop by hop."""
    found = []
    for pattern, by_pair, pair in sets.hops:
        for number in range(len(sets.pair_head)):
            order = by_pair.order[by_pair.indptr[number] : by_pair.indptr[number + 1]]
            assert bool((pair[order] == number).all())
        columns = (pattern.rows, sets.pair_head[pair], sets.pair_relation[pair], pattern.cols)
        found.append(list(zip(*(x.tolist() for x in columns), strict=True)))
    return found


def test_heads_are_members_or_tails_of_the_hop_before() -> None:
    true = set(
        zip(*(x.tolist() for x in (KNOWLEDGE.pairs.rows, KNOWLEDGE.relation, KNOWLEDGE.pairs.cols)), strict=True)
    )
    members = {row: set(ITEMS[INDPTR[row] : INDPTR[row + 1]].tolist()) for row in range(4)}
    for triples in triples_of(sets_of(INDPTR, ITEMS)):
        assert triples
        assert all((head, relation, tail) in true for _, head, relation, tail in triples)
        assert all(head in members[row] for row, head, _, _ in triples)
        assert max(np.bincount([row for row, *_ in triples])) <= 6
        members = {row: {tail for of, _, _, tail in triples if of == row} for row in range(4)}
        assert not members[1], "a set without members has no triples"


def test_a_set_has_the_same_triples_alone_and_among_others() -> None:
    whole = triples_of(sets_of(INDPTR, ITEMS))
    alone = triples_of(sets_of(np.array([0, 2]), ITEMS[4:]))
    for some, all_of_them in zip(alone, whole, strict=True):
        assert [triple[1:] for triple in some] == [triple[1:] for triple in all_of_them if triple[0] == 3]
    other_order = salts_of_sets(np.array([0, 3]), np.array([4, 0, 3]), 7)
    assert other_order[0] == salts_of_sets(INDPTR, ITEMS, 7)[0]
    assert other_order[0] != salts_of_sets(INDPTR, ITEMS, 8)[0]


def test_draws_are_uniform() -> None:
    salts = mixed(np.arange(3000, dtype=np.uint64))
    for stream in (0, 1):
        counts = np.bincount(picked(draws(salts, stream, 8), np.array(7)).ravel(), minlength=7)
        assert chisquare(counts).pvalue > 1e-3
    first, second = (picked(draws(salts, stream, 8), np.array(7)).ravel() for stream in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03


def test_rows_keep_a_uniform_sample_of_their_edges() -> None:
    pattern, size = KNOWLEDGE.pairs, 3
    kept = [sampled_edges(pattern, size, np.random.default_rng(seed)) for seed in range(400)]
    for mask in kept[:20]:
        per_row = torch.zeros(pattern.n_rows, dtype=torch.int64).index_add_(0, pattern.rows, mask.long())
        assert torch.equal(per_row, pattern.row_degree.clamp_max(size))
    of_hub = torch.stack(kept).sum(0)[: pattern.row_degree[0]]
    assert chisquare(of_hub.numpy()).pvalue > 1e-3
    assert torch.equal(kept[5], sampled_edges(pattern, size, np.random.default_rng(5)))
