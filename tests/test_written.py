"""Numbers and dates as people write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hakg_dgl import preprocess, read_tables
from hakg_dgl.data.new_items import read_new_items
from hakg_dgl.data.written import plain_numbers, plainly
from hakg_dgl.errors import ConfigError, DataError


def column(*values: str | None) -> pd.Series[Any]:
    return pd.Series(list(values), dtype=object)


@pytest.mark.parametrize(
    ("written", "decimal", "plain"),
    [
        (("3,5", "4", None), None, ["3.5", "4", None]),
        (("1.299,00", "5"), None, ["1299.00", "5"]),
        (("1,299.00", "5"), None, ["1299.00", "5"]),
        (("1 299,00", "-0,5"), None, ["1299.00", "-0.5"]),
        (("1'299.50", "7"), None, ["1299.50", "7"]),
        (("0,125", "2"), None, ["0.125", "2"]),  # nobody writes thousands as 0,125
        (("1,299", "2"), "comma", ["1.299", "2"]),
        (("1,299", "2"), "point", ["1299", "2"]),
        (("1.5", "2e3", "inf"), None, ["1.5", "2e3", "inf"]),
        (("3,5", "4,25", "wide"), None, ["3.5", "4.25", "wide"]),
        (("1,2,3", "4"), None, ["1,2,3", "4"]),
    ],
)
def test_numbers(written: tuple[str | None, ...], decimal: str | None, plain: list[str | None]) -> None:
    assert plain_numbers(column(*written), decimal).texts.tolist() == plain


def test_a_comma_that_may_be_either_is_not_guessed() -> None:
    found = plain_numbers(column("1,299", "2,500", "7"))
    assert found.unclear
    assert found.texts.tolist() == ["1,299", "2,500", "7"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=6), st.sampled_from(["{:,.2f}", "{:.1f}"]))
def test_numbers_of_either_custom_are_the_same(numbers: list[int], form: str) -> None:
    points = [form.format(number / 100) for number in numbers]
    commas = [text.translate(str.maketrans(",.", ".,")) for text in points]
    expected = [float(text.replace(",", "")) for text in points]
    for texts in (points, commas):
        assert plain_numbers(column(*texts)).texts.astype(float).tolist() == expected


@pytest.mark.parametrize(
    ("written", "plain", "told"),
    [
        (("12,99 €", "1.000,00 €"), ["12.99", "1000.00"], "€"),
        (("$12.99", "$1,000.00"), ["12.99", "1000.00"], "$"),
        (("USD 5", "USD 7"), ["5", "7"], "USD"),
        (("5%", "10 %"), ["5", "10"], "%"),
        (("5 €", "$7"), ["5 €", "$7"], "2 units"),
        (("31/12/2024", "01/02/2024"), ["2024-12-31", "2024-02-01"], "day first"),
        (("12/31/2024", "01/02/2024 10:00"), ["2024-12-31", "2024-01-02"], "month first"),
        (("01/02/2024", "03/04/2024"), ["01/02/2024", "03/04/2024"], "may have the day or the month"),
        (("31.12.24", "01.02.24", "02.02.24"), ["2024-12-31", "2024-02-01", "2024-02-02"], "day first"),
        (("24-12-31", "24-02-01", "24-02-02"), ["2024-12-31", "2024-02-01", "2024-02-02"], "year first"),
        (("12/31/24 5:04 PM", "1/2/24 1:04 AM"), ["2024-12-31", "2024-01-02"], "month first"),
        (("01/02/24", "03/04/25"), ["01/02/24", "03/04/25"], "may have the day or the month or the year first"),
        (("31/12/2024", "12/31/2024"), ["31/12/2024", "12/31/2024"], "do not all"),
        (("BMW 320", "BMW 520"), ["BMW 320", "BMW 520"], ""),
        (("7", "nine"), ["7", "nine"], ""),
        ((None, None), [None, None], ""),
    ],
)
def test_columns(written: tuple[str | None, ...], plain: list[str | None], told: str) -> None:
    found = plainly(column(*written))
    assert found.texts.tolist() == plain
    assert told in (found.note or "")
    assert bool(found.note) == bool(told)


def test_ratings_with_decimal_commas(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("user;item;rating\nann;1;3,5\nbob;2;4,0\n")
    raw = read_tables(log, rating_col="rating")
    assert raw.interactions["rating"].tolist() == [3.5, 4.0]
    assert any("'rating' holds numbers with decimal commas" in note for note in raw.notes)
    log.write_text("user;item;rating\nann;1;1,299\nbob;2;2,500\n")
    with pytest.raises(DataError, match="--decimal comma, or --decimal point") as caught:
        read_tables(log, rating_col="rating")
    assert caught.value.line == 2
    assert read_tables(log, rating_col="rating", decimal="comma").interactions["rating"].tolist() == [1.299, 2.5]
    assert read_tables(log, rating_col="rating", decimal="point").interactions["rating"].tolist() == [1299, 2500]
    log.write_text('user,item,rating\nann,1,"3,5"\nbob,2,4\n')
    with pytest.raises(DataError, match="--decimal comma"):
        read_tables(log, rating_col="rating")
    assert read_tables(log, rating_col="rating", decimal="comma").interactions["rating"].tolist() == [3.5, 4.0]
    with pytest.raises(ConfigError, match="decimal 'dot'"):
        read_tables(log, decimal="dot")


def test_prices_and_dates_of_a_catalogue_are_read_and_found_again(tmp_path: Path) -> None:
    log, items, new = tmp_path / "log.csv", tmp_path / "items.csv", tmp_path / "new.csv"
    log.write_text("user,item\n" + "".join(f"u{n % 5},{n}\n" for n in range(30)))
    items.write_text(
        "item;price;since\n" + "".join(f"{n};{n},50 €;{n % 28 + 1:02d}.{n % 4 + 1:02d}.2024\n" for n in range(30))
    )
    raw = read_tables(log, items=items)
    assert {row["column"]: row["kind"] for row in raw.columns} == {"price": "bins", "since": "dates"}
    new.write_text("item;price;since\nx;3,10 €;17.02.2024\ny;29,10 €;05.01.2024\n")
    grown = read_new_items(new, preprocess(raw))
    known = grown.dataset.entities["name"]
    facts = grown.dataset.triples[grown.dataset.triples["head"].isin(grown.numbers)]
    assert known.iloc[facts["tail"]].tolist() == ["0.5 to 4.125", "2024-02", "25.875 to 29.5", "2024-01"]
    assert not grown.report["values_unknown_left_out"]
    as_values = read_tables(log, items=items, facts={"price": "values", "since": "out"})
    assert "price=3,50 €" in set(as_values.entities["id"])


def test_markup_is_taken_out() -> None:
    found = plainly(column("<p>Black &amp; <b>Decker</b></p>", "a < b", "Shoes &gt; Run", "<br/>"))
    assert found.texts.tolist() == ["Black & Decker", "a < b", "Shoes > Run", None]
    assert found.note == "text without its markup"
