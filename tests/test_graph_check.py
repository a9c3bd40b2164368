"""What is checked of a knowledge graph against the log."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from hakg_dgl.data.graph_check import REMEDIES, check_graph
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.errors import DataError

LOG = pd.DataFrame({"user": ["u", "u", "v"], "item": ["1", "2", "3"]}, dtype=object)


def raw_of(triples: list[tuple[str, str, str]], log: pd.DataFrame = LOG) -> RawData:
    own = pd.DataFrame({"item": log["item"].unique(), "entity": log["item"].unique()}, dtype=object)
    return RawData("x", log, pd.DataFrame(triples, columns=["head", "relation", "tail"], dtype=object), own)


def checked(triples: list[tuple[str, str, str]], log: pd.DataFrame = LOG, threshold: float | None = None) -> Any:
    return check_graph(raw_of(triples, log), log, threshold=threshold)


def test_facts_about_no_item_are_an_error_that_shows_both_kinds_of_ids() -> None:
    with pytest.raises(DataError, match=r"none of the 3 items .* called '1', '2', '3', heads of facts '0001'"):
        checked([("0001", "genre", "g")])
    assert checked([]) == {}
    assert checked([("x", "about", "3")]) == {}


def test_items_that_are_attributes_too_are_counted() -> None:
    years = [("1", "year", "2"), ("2", "year", "2"), ("3", "year", "2")]
    assert checked(years) == {"items_that_are_attributes_of_items_too": 1}
    assert checked([("1", "sequel_of", "2"), ("2", "sequel_of", "3")]) == {}


def test_gaps_that_became_text_are_counted() -> None:
    log = LOG.assign(user=["nan", "u", "v"])
    found = checked([("1", "brand", "nan"), ("2", "brand", "NULL"), ("3", "brand", "Nan & Co")], log)
    assert found == {"rows_with_ids_that_read_like_gaps": 3}


def test_ratings_of_zero_are_counted_unless_a_threshold_is_set_or_all_are_zero() -> None:
    log = LOG.assign(rating=[0.0, 1.0, 0.0])
    assert checked([], log) == {"ratings_of_0_counted_as_positives": 2}
    assert checked([], log, threshold=1.0) == {}
    assert checked([], log.assign(rating=0.0)) == {}


def test_users_in_triples_are_counted() -> None:
    assert checked([("1", "genre", "g"), ("u", "age", "young")]) == {"user_ids_in_triples": 1}


def test_every_count_has_a_remedy() -> None:
    log = LOG.assign(rating=[0.0, 1.0, 1.0], user=["nan", "u", "v"])
    years = [("1", "year", "2"), ("2", "year", "2"), ("3", "year", "2"), ("u", "age", "young")]
    assert set(checked(years, log)) == set(REMEDIES)
