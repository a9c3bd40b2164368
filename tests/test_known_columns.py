"""Tables of a grown log are read as the earlier ones were: numbers in the same bins, columns in the same kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hakg_dgl import preprocess
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.facts import facts_of_columns
from hakg_dgl.data.growth import GrowthOptions, grow
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.data.readers.tables import read_tables
from hakg_dgl.data.values import ValuesOfColumn, bin_of, facts_of_rows, number
from hakg_dgl.errors import ConfigError

finite = st.one_of(
    st.floats(-1e300, 1e300),
    st.integers(0, 10_000).map(lambda cents: cents / 100),
    st.integers(1_234_560_000, 1_234_560_999).map(float),
)
"""Any numbers, prices, and numbers that are alike in their first six digits."""


@given(st.lists(finite, min_size=1, max_size=60), st.data())
@settings(max_examples=60, deadline=None)
def test_the_name_of_a_bin_says_exactly_which_numbers_are_in_it(numbers: list[float], data: st.DataObject) -> None:
    texts = pd.Series([repr(value) for value in numbers], dtype=object)
    items = pd.Series([f"i{n}" for n in range(len(numbers))], dtype=object)
    found = facts_of_columns(items, pd.DataFrame({"price": texts}), {"price": "bins"})
    facts = found.triples[found.triples["relation"] == "price"]
    assert facts["head"].tolist() == items.tolist()  # each number is in one bin
    names = facts["tail"].str.removeprefix("price=")
    bins = [(span, name) for name in dict.fromkeys(names) if (span := number(name)) is not None]
    assert len(bins) == names.nunique()
    for value, name in zip(numbers, names, strict=True):
        assert bin_of(bins, value) == name
    edges = sorted({end for span, _ in bins for end in span[:2]})
    edge = data.draw(st.sampled_from(edges))
    for value in (np.nextafter(edge, -np.inf), edge, np.nextafter(edge, np.inf)):
        holding = [name for span, name in bins if span.low <= value < span.high]
        if holding:
            assert [bin_of(bins, float(value))] == holding


def shop(prices: list[float], **columns: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A log, and a table of its items."""
    n = len(prices)
    log = pd.DataFrame([(f"u{u}", f"i{(7 * u + t) % n}", float(t)) for u in range(8) for t in range(min(n, 6))])
    items = pd.DataFrame({"item": [f"i{i}" for i in range(n)], "price": [repr(value) for value in prices], **columns})
    return log.set_axis(["user", "item", "time"], axis=1), items


def arrived(prices: list[float], **columns: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """New items, and who bought them."""
    n = len(prices)
    log = pd.DataFrame({"user": [f"u{i % 8}" for i in range(n)], "item": [f"n{i}" for i in range(n)], "time": 100.0})
    return log, pd.DataFrame({"item": log["item"], "price": [repr(value) for value in prices], **columns})


def values(data: Dataset, relation: str = "price") -> dict[str, str]:
    """Item -> the value that it has by a relation."""
    (number_,) = np.flatnonzero(data.relations["original_id"] == relation)
    triples = data.triples[(data.triples["relation"] == number_) & (data.triples["head"] < data.n_items)]
    items, entities = data.items["original_id"].to_numpy(), data.entities["original_id"].to_numpy()
    return dict(zip(items[triples["head"]], entities[triples["tail"]], strict=True))


def updated(old: Dataset, log: pd.DataFrame, items: pd.DataFrame, **options: Any) -> Dataset:
    raw = read_tables(log, items=items, timestamp_col="time", **options)
    return grow(old, raw, GrowthOptions(added=True, valid=0.4)).dataset


@given(st.data(), st.booleans())
@settings(max_examples=4, deadline=None)
def test_an_update_puts_numbers_into_the_bins_that_preprocessing_would(data: st.DataObject, whole: bool) -> None:
    """New items with the numbers of earlier ones are in their bins, whether the table has the earlier ones or not."""
    prices = data.draw(st.lists(finite, min_size=22, max_size=50, unique=True))
    log, items = shop(prices)
    old = preprocess(read_tables(log, items=items, timestamp_col="time"))
    again = data.draw(st.lists(st.integers(0, len(prices) - 1), min_size=3, max_size=30))
    added, new = arrived([prices[place] for place in again])
    grown = updated(old, added, pd.concat([items, new]) if whole else new)
    before, after = values(old), values(grown)
    assert {item: after[item] for item in before} == before
    assert [after[f"n{n}"] for n in range(len(again))] == [before[f"i{place}"] for place in again]
    assert grown.report["numbers_put_into_earlier_bins"] == len(again)
    assert set(after.values()) == set(before.values())
    (column,) = grown.options["columns"]
    assert column["kind"] == "bins"  # so that the next update knows it too


@pytest.fixture(scope="module")
def old() -> Dataset:
    prices = [1.0 + n for n in range(40)]
    texts = {"brand": [f"b{n % 4}" for n in range(40)], "about": [f"Text {n}" for n in range(40)]}
    log, items = shop(prices, **texts)
    items.loc[3, "price"] = None
    return preprocess(read_tables(log, items=items, timestamp_col="time"))


def kinds(data: Dataset | RawData) -> dict[str, str]:
    columns = data.options["columns"] if isinstance(data, Dataset) else data.columns
    return {row["column"]: row["kind"] for row in columns}


def test_few_new_rows_are_read_as_the_many_were(old: Dataset) -> None:
    """By themselves their brands would be left out, and their texts would be values."""
    log, items = arrived([5.5, 6.5, 30.5, 90.0], brand=["b1"] * 4, about=["new 1", "new 2", "new 3", "new 4"])
    raw = read_tables(log, items=items, timestamp_col="time")
    assert kinds(raw) == {"price": "values", "brand": "out", "about": "values"}
    grown = updated(old, log, items)
    assert kinds(grown) == kinds(old) == {"price": "bins", "brand": "values", "about": "out"}
    assert {item: value for item, value in values(grown, "brand").items() if item[0] == "n"} == dict.fromkeys(
        ["n0", "n1", "n2", "n3"], "brand=b1"
    )
    assert "about" not in set(grown.relations["original_id"])
    after = values(grown)
    assert [after["n0"], after["n3"]] == [values(old)["i4"], values(old)["i39"]]
    assert grown.n_entities == old.n_entities + 4


def test_a_known_item_gets_its_first_number_and_text_among_numbers_is_counted(old: Dataset) -> None:
    log, items = arrived([5.5, 6.5, 7.5], brand=["b1", "b2", "b3"])
    items.loc[1, "price"] = "on request"
    late = pd.DataFrame({"item": ["i3", "i4"], "price": ["38.5", "38.5"], "brand": ["b3", "b0"]})
    grown = updated(old, log, pd.concat([items, late]))
    before, after = values(old), values(grown)
    assert "i3" not in before
    assert after["i3"] == before["i38"]
    assert after["i4"] == before["i4"]  # it has a bin already
    assert "n1" not in after
    assert grown.report["values_of_another_kind_left_out"] == 1
    assert not grown.entities["original_id"].str.contains("on request").any()


def test_another_kind_may_not_be_asked_for_of_bins(old: Dataset) -> None:
    log, items = arrived([5.5, 6.5, 7.5])
    with pytest.raises(ConfigError, match="'price' is in bins in the data set so far, and cannot be read as values"):
        updated(old, log, items, facts={"price": "values"})
    assert not any(item.startswith("n") for item in values(updated(old, log, items, facts={"price": "out"})))


def test_a_second_update_knows_the_bins_too(old: Dataset) -> None:
    log, items = arrived([5.5, 6.5, 7.5], brand=["b1", "b2", "b3"])
    once = updated(old, log, items)
    log, items = arrived([8.5, 9.5, 10.5, 11.5], brand=["b1", "b2", "b3", "b0"])
    others = [f"m{n}" for n in range(4)]
    twice = updated(once, log.assign(item=others), items.assign(item=others))
    assert set(values(twice).values()) == set(values(old).values())
    assert values(twice)["m0"] == values(old)["i7"]


def values_of(**names: str) -> ValuesOfColumn:
    """Entities by the last part of their id, with their names."""
    ids = [f"group={text}" for text in names]
    return ValuesOfColumn(
        "group", pd.DataFrame({"original_id": ids, "name": list(names.values())}, index=range(7, 7 + len(ids)))
    )


def test_each_value_of_a_list_is_found_or_counted() -> None:
    known = values_of(a="A", b="B", c="Same", d="Same")
    assert known.find("a|B;nix") == [7, 8, None]
    assert known.find("nix") == known.find("nix, and no") == [None]
    assert known.find("A, nix") == [7, None]
    assert known.find("Same") == [None]  # it says neither of the two
    assert known.find("group=c") == [9]
    rows = pd.DataFrame({"owner": [0, 1, 2], "group": ["a|nix|no", "b", None]})
    report: dict[str, int] = {}
    assert facts_of_rows(rows, "owner", [("group", 3, known)], report).tolist() == [[0, 3, 7], [1, 3, 8]]
    assert report == {"values_unknown_left_out": 2}


def test_a_number_of_many_digits_is_found_however_it_is_written() -> None:
    known = ValuesOfColumn("year", pd.DataFrame({"original_id": ["year=1234567"], "name": ["1234567"]}, index=[4]))
    assert known.find("1234567.0") == known.find("1234567") == [4]
