"""Variants of the facts: what stays, what changes, and what equal generators give."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_demo import small_demo

from hakg_dgl import Dataset
from hakg_dgl.data import fact_variants
from hakg_dgl.data.fact_variants import share_of_true_facts, shuffled_facts, thinned_facts, without_facts
from hakg_dgl.errors import ConfigError

DEMO = small_demo()
COLUMNS = ["head", "relation", "tail"]
triples = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 2), st.integers(0, 5)), unique=True, min_size=1, max_size=60
)
seeds = st.integers(0, 5)


def with_facts(rows: list[tuple[int, int, int]]) -> Dataset:
    return dataclasses.replace(DEMO, triples=pd.DataFrame(rows, columns=COLUMNS))


def facts_of(dataset: Dataset) -> set[tuple[int, ...]]:
    return set(dataset.triples[COLUMNS].itertuples(index=False, name=None))


def degrees(dataset: Dataset, end: str) -> dict[tuple[int, int], int]:
    return dict(dataset.triples.groupby(["relation", end]).size())


def same_but_for_facts(one: Dataset, other: Dataset) -> bool:
    tables = ("interactions", "users", "items", "entities", "relations", "user_facts", "user_links")
    return all(getattr(one, table).equals(getattr(other, table)) for table in tables)


@given(rows=triples, seed=seeds)
def test_shuffling_keeps_degrees_and_states_no_fact_twice(rows: list[tuple[int, int, int]], seed: int) -> None:
    true = with_facts(rows)
    shuffled = shuffled_facts(true, np.random.default_rng(seed))
    assert len(facts_of(shuffled)) == len(shuffled.triples) == len(rows)
    for end in ("head", "tail"):
        assert degrees(shuffled, end) == degrees(true, end)
    assert same_but_for_facts(true, shuffled)
    assert shuffled.digest == shuffled_facts(true, np.random.default_rng(seed)).digest
    assert (shuffled.digest == true.digest) == (share_of_true_facts(true, shuffled) == 1)


@given(rows=triples, seed=seeds, shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_thinned_facts_are_nested_true_and_as_many_as_asked(
    rows: list[tuple[int, int, int]], seed: int, shares: tuple[float, float]
) -> None:
    true, (few, more) = with_facts(rows), sorted(shares)
    small, large = (thinned_facts(true, share, np.random.default_rng(seed)) for share in (few, more))
    assert facts_of(small) <= facts_of(large) <= facts_of(true)
    for share, thinned in ((few, small), (more, large)):
        assert len(thinned.triples) == round(share * len(rows))
        assert share_of_true_facts(true, thinned) == len(thinned.triples) / len(rows)
        assert same_but_for_facts(true, thinned)


def test_the_ends_of_the_shares_are_all_and_none() -> None:
    assert thinned_facts(DEMO, 1.0, np.random.default_rng(1)).digest == DEMO.digest
    none = without_facts(DEMO)
    assert thinned_facts(DEMO, 0.0, np.random.default_rng(1)).digest == none.digest
    assert (len(none.triples), share_of_true_facts(DEMO, none)) == (0, 0.0)
    assert same_but_for_facts(DEMO, none)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="a share of the facts is a number from 0 to 1"):
            thinned_facts(DEMO, share, np.random.default_rng(1))


def test_the_variants_of_the_demo_have_digests_of_their_own() -> None:
    variants = [
        without_facts(DEMO),
        *(shuffled_facts(DEMO, np.random.default_rng(seed)) for seed in (1, 2)),
        *(thinned_facts(DEMO, share, np.random.default_rng(1)) for share in (0.25, 0.5, 0.75)),
        thinned_facts(DEMO, 0.5, np.random.default_rng(2)),
    ]
    assert len({DEMO.digest, *(variant.digest for variant in variants)}) == 8
    assert share_of_true_facts(DEMO, variants[1]) < 0.6


@settings(max_examples=30)
@given(seed=seeds)
def test_a_relation_in_which_few_permutations_state_no_fact_twice(seed: int) -> None:
    """Eight heads, of which each has all but one of six tails: a permutation at once states facts twice."""
    rows = [(head, 0, tail) for head in range(8) for tail in range(6) if tail != head % 6]
    true = with_facts(rows)
    shuffled = shuffled_facts(true, np.random.default_rng(seed))
    assert degrees(shuffled, "head") == degrees(true, "head")
    assert degrees(shuffled, "tail") == degrees(true, "tail")
    assert shuffled.digest != true.digest


def test_a_relation_that_states_all_it_could_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fact_variants, "REPAIRS", 3)
    full = with_facts([(head, 0, tail) for head in range(4) for tail in range(5)])
    assert shuffled_facts(full, np.random.default_rng(1)).digest == full.digest
    one_tail = with_facts([(head, 1, 3) for head in range(7)])
    assert shuffled_facts(one_tail, np.random.default_rng(1)).digest == one_tail.digest


def test_tails_are_drawn_alike() -> None:
    """Ten heads with a tail each: every head has every tail equally often."""
    true = with_facts([(head, 0, head) for head in range(10)])
    generator = np.random.default_rng(0)
    counts = np.zeros((10, 10))
    for _ in range(400):
        drawn = shuffled_facts(true, generator).triples
        counts[drawn["head"], drawn["tail"]] += 1
    assert abs(counts / 400 - 0.1).max() < 0.06
