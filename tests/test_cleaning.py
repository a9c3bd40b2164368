"""Cleaning of the knowledge graph, against a plain loop over triples."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hakg_dgl.data.cleaning import Cleaning, cleaned
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.errors import ConfigError, DataError

Triple = tuple[str, str, str]
ITEMS = ("i0", "i1")


def raw_of(triples: list[Triple]) -> RawData:
    log = pd.DataFrame({"user": ["u", "u"], "item": list(ITEMS)})
    own = pd.DataFrame({"item": list(ITEMS), "entity": list(ITEMS)})
    return RawData("x", log, pd.DataFrame(triples, columns=["head", "relation", "tail"], dtype=object), own)


def degrees(triples: list[Triple]) -> Counter[str]:
    return Counter(node for head, _, tail in triples for node in {head, tail})


def plainly(triples: list[Triple], options: Cleaning) -> list[Triple]:
    if options.max_entity_triples is not None:
        hubs = {n for n, d in degrees(triples).items() if d > options.max_entity_triples and n not in ITEMS}
        triples = [t for t in triples if t[0] not in hubs and t[2] not in hubs]
    if options.max_hops is not None:
        near = set(ITEMS)
        for _ in range(options.max_hops - 1):
            near |= {n for h, _, t in triples if h in near or t in near for n in (h, t)}
        triples = [t for t in triples if t[0] in near or t[2] in near]
    while True:
        count = Counter(relation for _, relation, _ in triples)
        kept = [t for t in triples if count[t[1]] >= options.min_relation_triples]
        rare = {n for n, d in degrees(kept).items() if d < options.min_entity_triples and n not in ITEMS}
        kept = [t for t in kept if t[0] not in rare and t[2] not in rare]
        if kept == triples:
            return kept
        triples = kept


node = st.sampled_from([*ITEMS, *(f"e{number}" for number in range(7))])
least, most = st.integers(1, 3), st.one_of(st.none(), st.integers(1, 4))


@settings(max_examples=80, deadline=None)
@given(
    triples=st.lists(st.tuples(node, st.sampled_from("rst"), node), min_size=1, max_size=25, unique=True),
    options=st.builds(Cleaning, least, least, most, most),
)
def test_as_a_plain_loop(triples: Any, options: Cleaning) -> None:
    raw, report = raw_of(triples), {}
    expected = plainly(triples, options)
    if not expected:
        with pytest.raises(DataError, match="no fact is left"):
            cleaned(raw, raw.interactions, options, report)
        return
    found = cleaned(raw, raw.interactions, options, report).triples
    assert [tuple(row) for row in found.to_numpy()] == expected
    assert sum(count for key, count in report.items() if key.startswith("triples_")) == len(triples) - len(expected)


def test_row_numbers_stay() -> None:
    triples = pd.DataFrame({"head": [0, 1, 0], "relation": [0, 0, 3], "tail": [5, 5, 9]})
    log = pd.DataFrame({"user": [0, 0], "item": [0, 1]})
    report: dict[str, int] = {}
    found = cleaned(RawData("x", log, triples, ids_are_indices=True), log, Cleaning(min_relation_triples=2), report)
    assert found.triples["tail"].tolist() == [5, 5]
    assert (found.counts["entities"], found.counts["relations"]) == (10, 4)
    assert report["rare_relations_dropped"] == 1


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5])
def test_values_that_are_not_allowed(wrong: Any) -> None:
    for name in ("min_entity_triples", "max_hops"):
        with pytest.raises(ConfigError, match=name):
            Cleaning(**{name: wrong})
