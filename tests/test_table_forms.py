"""Tables as people have them: separators, encodings, packings, headers, dates, lists, frames."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from hakg_dgl import RawData, cli, preprocess, read_tables
from hakg_dgl.data.readers.table_form import forms_of, sniffed
from hakg_dgl.errors import ConfigError, DataError

ROWS = [("ann", "Boot, blue"), ("bob", "Boot, blue"), ("bob", "Hut")]


def pairs(raw: RawData) -> list[tuple[str, str]]:
    return list(raw.interactions[["user", "item"]].itertuples(index=False, name=None))


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


word = st.text("abcxyzäß0123456789 .-", min_size=1, max_size=8).map(str.strip).filter(bool)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(word, word, word), min_size=1, max_size=6),
    separator=st.sampled_from(["\t", ",", ";", "|", "::"]),
    suffix=st.sampled_from([".csv", ".txt", ".dat"]),
    header=st.booleans(),
)
def test_any_separator_round_trips(tmp_path_factory: Any, rows: Any, separator: str, suffix: str, header: bool) -> None:
    lines = [*([("user", "item", "note")] if header else []), *rows]
    text = "".join(separator.join(line) + "\n" for line in lines)
    path = written(tmp_path_factory.mktemp("t") / f"x{suffix}", text)
    raw = read_tables(path, no_header=() if header else ("interactions",))
    assert pairs(raw) == [(user, item) for user, item, _ in rows]
    told = any("separated by" in note for note in raw.notes)
    assert told == (separator not in "\t,")


def test_commas_and_semicolons_that_both_fit_are_not_guessed(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", "ann;boot;3,5\nbob;hut;4,0\n")
    with pytest.raises(DataError, match="commas or by semicolons") as caught:
        read_tables(path, no_header=["interactions"])
    assert "--delimiter semicolon" in str(caught.value)
    for delimiter in ("semicolon", ";", {"interactions": ";"}):
        assert pairs(read_tables(path, no_header=["interactions"], delimiter=delimiter))[0] == ("ann", "boot")


def test_lists_in_values_do_not_make_the_separator() -> None:
    assert sniffed(Path("x.txt"), "1,a|b|c\n2,d|e|f\n") == ","
    assert sniffed(Path("x.csv"), "id|name\n1|a, b\n") == "|"


@pytest.mark.parametrize("delimiter", ["ab", "x", '"', "\n", ""])
def test_what_cannot_separate_is_refused(delimiter: str) -> None:
    with pytest.raises(ConfigError, match="delimiter"):
        forms_of(("items",), delimiter=delimiter, encoding=None, headerless=(), date_order=None)


def test_a_first_row_is_not_taken_for_a_header(tmp_path: Path) -> None:
    path = written(tmp_path / "ratings.dat", "1::1193::5::978300760\n1::661::3::978302109\n2::661::3::978302268\n")
    for options in ({}, {"user_col": "1", "item_col": "1193"}):
        with pytest.raises(DataError, match="looks like a row") as caught:
            read_tables(path, **options)
        assert "--no-header" in str(caught.value)
    raw = read_tables(path, no_header=["interactions"], rating_col="3", timestamp_col="4")
    assert pairs(raw) == [("1", "1193"), ("1", "661"), ("2", "661")]
    assert raw.interactions["rating"].tolist() == [5, 3, 3]
    graph = written(tmp_path / "kg.tsv", "661\tgenre\tg\n1193\tgenre\tg\n")
    with pytest.raises(DataError, match="looks like a row"):
        read_tables(path, graph, no_header=["interactions"])
    assert len(read_tables(path, graph, no_header=["all"]).triples) == 2
    wrong = written(tmp_path / "bad.dat", "1::2::x\n1::3::4\n")
    with pytest.raises(DataError) as caught:
        read_tables(wrong, no_header=["interactions"], rating_col="3")
    assert caught.value.line == 1


def test_encodings(tmp_path: Path) -> None:
    text = "user,item\nJürgen,Müsli\n"
    for encoding in ("latin-1", "cp1252", "utf-16"):
        path = written(tmp_path / "x.csv", text, encoding)
        with pytest.raises(DataError, match="--encoding"):
            read_tables(path)
        assert pairs(read_tables(path, encoding=encoding)) == [("Jürgen", "Müsli")]
    with pytest.raises(DataError, match="is not ascii"):
        read_tables(written(tmp_path / "x.csv", text), encoding="ascii")
    for wrong in ("klingon", "zip", "punycode", "unicode_escape"):
        with pytest.raises(ConfigError, match="encoding"):
            read_tables(path, encoding=wrong)


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst"])
def test_packed_files(tmp_path: Path, suffix: str) -> None:
    text = b"user,item\n" + b"".join(f"u{n % 7},i{n}\n".encode() for n in range(500))
    packers = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress,
               "zst": lambda data: pa.compress(data, "zstd", asbytes=True)}  # fmt: skip
    data = packers[suffix](text)
    if suffix == "zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(text)
        data = sink.getvalue().to_pybytes()
    path = tmp_path / f"x.csv.{suffix}"
    path.write_bytes(data)
    assert len(read_tables(path).interactions) == 500
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"truncated|damaged"):
        read_tables(path)
    (tmp_path / "plain.csv").write_bytes(data)
    with pytest.raises(DataError, match=rf"compressed by .*\n.*\.{suffix}"):
        read_tables(tmp_path / "plain.csv")
    bomb = packers[suffix](b"user,item,text\n" + (b"u1,i1," + b"x" * 4000 + b"\n") * 2**15)
    if suffix != "zst":
        path.write_bytes(bomb)
        with pytest.raises(DataError, match="expands to more"):
            read_tables(path)


texts = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=6)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.tuples(texts, st.one_of(texts, st.integers(-(2**70), 2**70))), min_size=1, max_size=6))
def test_json_lines_round_trip(tmp_path_factory: Any, rows: Any) -> None:
    lines = [json.dumps({"user": user, "item": item}) for user, item in rows]
    path = written(tmp_path_factory.mktemp("j") / "x.jsonl", "\n\n".join(lines))
    assert pairs(read_tables(path)) == [(user, str(item)) for user, item in rows]


def test_half_of_a_letter_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", '{"user": "a", "item": "1"}\n{"user": "\\ud800", "item": "1"}\n')
    with pytest.raises(DataError, match="surrogate") as caught:
        read_tables(path)
    assert caught.value.line == 2
    with pytest.raises(DataError, match="surrogate"):
        read_tables(pd.DataFrame({"user": ["a", "\udcff"], "item": ["1", "2"]}, dtype=object))
    whole = written(tmp_path / "y.jsonl", '{"user": "\\ud83d\\ude00", "item": "1"}\n')
    assert pairs(read_tables(whole)) == [("\U0001f600", "1")]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('{"user": 1, "item": 2}\n{"user": 1,\n', 2, "not JSON"),
        ('{"user": 1, "item": 2}\n[1]\n', 2, "not an object"),
        ('{"user": 1, "item": NaN}\n', 1, "NaN"),
        ('{"user": 1, "item": {"id": 2}}\n', None, "struct"),
        ("[" * 100_000, None, "not JSON"),
        ("\n", None, "empty"),
    ],
)
def test_json_that_cannot_be_read(tmp_path: Path, text: str, line: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_tables(written(tmp_path / "x.jsonl", text))
    assert line is None or caught.value.line == line


def dated(folder: Path, *dates: str, **options: Any) -> list[str]:
    text = "user,item,when\n" + "".join(f"u,i{at},{date}\n" for at, date in enumerate(dates))
    raw = read_tables(written(folder / "d.csv", text), timestamp_col="when", **options)
    return pd.to_datetime(raw.interactions["timestamp"], unit="s").dt.strftime("%Y-%m-%d %H:%M").tolist()


def test_dates_are_never_swapped(tmp_path: Path) -> None:
    assert dated(tmp_path, "03/04/2024", "31/12/2023") == ["2024-04-03 00:00", "2023-12-31 00:00"]
    assert dated(tmp_path, "03/04/2024 10:30", "12/31/2023 1:05") == ["2024-03-04 10:30", "2023-12-31 01:05"]
    with pytest.raises(DataError, match=r"03\.04\.2024.*\n.*--date-order") as caught:
        dated(tmp_path, "05.05.2024", "03.04.2024")
    assert caught.value.line == 3
    assert dated(tmp_path, "03.04.2024", date_order="day-first") == ["2024-04-03 00:00"]
    assert dated(tmp_path, "03.04.2024", date_order="month-first") == ["2024-03-04 00:00"]
    with pytest.raises(DataError, match="other way") as caught:
        dated(tmp_path, "03/04/2024", "31/12/2023", "12/31/2023")
    assert caught.value.line == 4
    with pytest.raises(DataError, match="31/12/2023"):
        dated(tmp_path, "31/12/2023", date_order="month-first")
    with pytest.raises(DataError, match=r"3 April 2024.*\n.*31\.12\.26"):
        dated(tmp_path, "3 April 2024", date_order="day-first")


def test_years_of_two_digits_and_clocks_of_twelve_hours(tmp_path: Path) -> None:
    german = [f"{day:02d}.02.{26 - day % 2}" for day in range(1, 29)]
    assert dated(tmp_path, *german)[:2] == ["2025-02-01 00:00", "2026-02-02 00:00"]
    assert dated(tmp_path, "2/3/26 5:04 PM", "2/28/26 12:05 am", "12/1/69 12:00 p.m.") == [
        "2026-02-03 17:04", "2026-02-28 00:05", "1969-12-01 12:00",
    ]  # fmt: skip
    assert dated(tmp_path, "2026/2/3 5:04 PM", "2026-02-03 17:04:30") == ["2026-02-03 17:04"] * 2
    assert dated(tmp_path, *(f"24-{month:02d}-{day:02d}" for month in (1, 2) for day in range(1, 29)))[-1] == (
        "2024-02-28 00:00"
    )
    assert dated(tmp_path, "45/02/03", "46/12/31") == ["2045-02-03 00:00", "2046-12-31 00:00"]
    with pytest.raises(DataError, match=r"03\.02\.26.*\n.*day-first.*month-first.*year-first"):
        dated(tmp_path, "03.02.26", "04.05.25")
    assert dated(tmp_path, "03.02.26", date_order="day-first") == ["2026-02-03 00:00"]
    assert dated(tmp_path, "03.02.26", date_order="month-first") == ["2026-03-02 00:00"]
    assert dated(tmp_path, "03.02.26", "2026-01-31", date_order="year-first") == [
        "2003-02-26 00:00",
        "2026-01-31 00:00",
    ]
    for wrong in ("2/3/26 13:04 PM", "2/30/26", "31/12/2024"):
        with pytest.raises(DataError, match=wrong):
            dated(tmp_path, "2/3/26", wrong, date_order="month-first")
    with pytest.raises(DataError, match="31/12/2024"):
        dated(tmp_path, "24/12/31", "31/12/2024", date_order="year-first")


def test_names_of_columns_that_shops_use_are_known_and_told(tmp_path: Path) -> None:
    log = written(tmp_path / "log.csv", "Kundennummer;Artikelnummer\nann;007\nbob;008\n")
    items = written(tmp_path / "items.csv", "Artikelnummer;Bezeichnung;Marke\n007;Boot;Ridge\n008;Shoe;Ridge\n")
    raw = read_tables(log, items=items)
    assert pairs(raw) == [("ann", "007"), ("bob", "008")]
    assert raw.items is not None
    assert raw.items["name"].tolist() == ["Boot", "Shoe"]
    for told in ("'Kundennummer' is read as the user", "'Artikelnummer' is read as the id of items"):
        assert any(told in note for note in raw.notes)
    two = written(tmp_path / "two.csv", "user,sku,product_id\nann,1,2\n")
    with pytest.raises(DataError, match=r"could be meant: sku, product_id\n.*--item-col COLUMN"):
        read_tables(two)


def test_a_time_that_is_not_read_is_remarked_on(tmp_path: Path) -> None:
    log = written(tmp_path / "d.csv", "user,item,Ordered At,price\nann,1,2/3/26,5\n")
    (note,) = read_tables(log).notes
    assert "'Ordered At'" in note
    assert "--timestamp-col 'Ordered At'" in note
    assert not any(
        "is not read" in note for note in read_tables(log, timestamp_col="Ordered At", date_order="month-first").notes
    )


@pytest.mark.parametrize(
    ("header", "told"),
    [("userId,movieId", True), ("user_id:token,item_id:token", True), ("User-ID,ISBN", True), ("user,item", False)],
)
def test_other_common_names(tmp_path: Path, header: str, told: bool) -> None:
    raw = read_tables(written(tmp_path / "x.csv", f"{header}\nann,7\n"))
    assert pairs(raw) == [("ann", "7")]
    assert bool(raw.notes) == told


def test_several_columns_that_could_be_meant(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", "userId,customerId,item\na,b,7\n")
    with pytest.raises(DataError, match="userId, customerId"):
        read_tables(path)
    assert pairs(read_tables(path, user_col="customerId")) == [("b", "7")]


def test_lists_and_nested_columns_of_a_catalogue(tmp_path: Path) -> None:
    log = written(tmp_path / "x.csv", "user,item\na,1\nb,2\n")
    tags = [["x|y", "z"], ["z"], None]
    table = pa.table({"item": ["1", "2", "3"], "tags": tags, "box": [{"w": 1}, {"w": 2}, None]})
    pq.write_table(table, tmp_path / "p.parquet")
    frame = table.to_pandas()
    lines = [{"item": item, "tags": tag, "box": {"w": 1}} for item, tag in zip("123", tags, strict=True)]
    written(tmp_path / "p.jsonl", "\n".join(map(json.dumps, lines)))
    for source in (tmp_path / "p.parquet", tmp_path / "p.jsonl", table, frame):
        raw = read_tables(log, items=source)
        facts = {tuple(row) for row in raw.triples.to_numpy()}
        assert facts == {("1", "tags", "tags=x|y"), ("1", "tags", "tags=z"), ("2", "tags", "tags=z")}
        assert {row["column"]: row["kind"] for row in raw.columns} == {"tags": "list", "box": "out"}


def test_nanoseconds(tmp_path: Path) -> None:
    times = pa.array([1_700_000_000_123_456_789, 1_700_000_000_123_999_999], pa.int64()).cast(pa.timestamp("ns"))
    pq.write_table(pa.table({"user": ["a", "a"], "item": ["1", "2"], "ts": times}), tmp_path / "i.parquet")
    found = read_tables(tmp_path / "i.parquet", timestamp_col="ts").interactions["timestamp"]
    np.testing.assert_allclose(found, [1_700_000_000.123456, 1_700_000_000.123999], rtol=0, atol=1e-6)


def test_one_file_a_relation_and_a_graph_in_parts(tmp_path: Path) -> None:
    log = written(tmp_path / "x.csv", "user,item\na,1\nb,2\n")
    genre = written(tmp_path / "genre.csv", "head,tail\n1,g\n2,g\n")
    maker = written(tmp_path / "maker.tsv", "1\tm\n")
    raw = read_tables(log, genre)
    assert set(raw.triples["relation"]) == {"genre"}
    assert any("genre" in note for note in raw.notes)
    assert read_tables(log, maker, no_header=["triples"]).triples.to_numpy().tolist() == [["1", "maker", "m"]]


def test_frames_give_what_files_give(tmp_path: Path) -> None:
    log = pd.DataFrame({"user": ["a", "a", "b"], "item": [1, 2, 2], "when": pd.date_range("2024-01-01", periods=3)})
    facts = pd.DataFrame({"head": [1, 2], "relation": "genre", "tail": ["g", "g"]})
    log.to_csv(tmp_path / "log.csv", index=False)
    facts.to_csv(tmp_path / "facts.csv", index=False)
    files = preprocess(read_tables(tmp_path / "log.csv", tmp_path / "facts.csv", timestamp_col="when"))
    for kind in (lambda frame: frame, pa.Table.from_pandas, lambda frame: frame.set_index(frame.index + 7)):
        frames = preprocess(read_tables(kind(log), kind(facts), timestamp_col="when"))
        assert frames.digest == files.digest
    twice = read_tables([log, log.assign(user="c")], facts)
    assert len(twice.interactions) == 6
    assert set(twice.sources) == {"interactions", "interactions-2", "triples"}
    with pytest.raises(DataError, match="row 1"):
        read_tables(log.assign(r=[1.0, np.nan, 2.0]), facts, rating_col="r")
    for wrong in (7, log.head(0)):
        with pytest.raises(DataError):
            read_tables(wrong, facts)  # type: ignore[arg-type]


def test_raw_data_by_hand_is_checked() -> None:
    log = pd.DataFrame({"user": ["a", "b"], "item": ["1", "2"]})
    facts = pd.DataFrame({"head": ["1", "2"], "relation": "genre", "tail": "g"})
    assert preprocess(RawData("x", log, facts)).report["items_without_triples"] == 0
    for spoiled, message in (
        (log.assign(item=["1", None]), "row 1.*item is missing"),
        (log[["user"]], "no column 'item'"),
        (log.assign(timestamp=pd.Timestamp("2024-01-01")), "holds dates"),
        (log.assign(rating=["1", "x"]), "row 1.*rating"),
    ):
        with pytest.raises(DataError, match=message):
            preprocess(RawData("x", spoiled, facts))


def test_the_command(tmp_path: Path) -> None:
    log = written(tmp_path / "r.dat", "1::Größe\n2::Größe\n2::7\n", "latin-1")
    items = written(tmp_path / "p.csv", "item;farbe\nGröße;rot\n7;rot\n")
    args = ["preprocess", "tables", "--interactions", log, "--items", items, "--out", tmp_path / "d", "--valid", 0]
    run = lambda *more: CliRunner().invoke(cli.main, [str(arg) for arg in (*args, *more)])  # noqa: E731
    good = run("--no-header", "interactions", "--encoding", "interactions=latin-1", "--delimiter", "items=semicolon")
    assert good.exit_code == 0, good.output
    assert "note: r.dat: values are separated by '::'" in good.stdout
    for more, message in (
        (["--no-header", "links"], "--links, which is not given"),
        (["--encoding", "a", "--encoding", "b"], "given twice"),
        (["--encoding", "klingon"], "not known"),
    ):
        bad = run(*more)
        assert bad.exit_code == 2
        assert message in bad.output


def test_a_column_that_may_be_the_relation_is_not_dropped(tmp_path: Path) -> None:
    log = written(tmp_path / "x.csv", "user,item\na,1\nb,2\n")
    facts = written(tmp_path / "f.csv", "head,verb,tail\n1,likes,g\n2,likes,h\n")
    with pytest.raises(DataError, match="--relation-col verb") as caught:
        read_tables(log, facts)
    assert caught.value.line == 1
    assert set(read_tables(log, facts, relation_col="verb").triples["relation"]) == {"likes"}
    weighted = written(tmp_path / "genre.csv", "head,tail,weight\n1,g,0.5\n2,g,0.5\n")
    assert set(read_tables(log, weighted).triples["relation"]) == {"genre"}


def test_lines_of_a_table_without_a_header_are_counted_from_its_first(tmp_path: Path) -> None:
    path = written(tmp_path / "x.dat", "1::2::3\n1::3\n")
    with pytest.raises(DataError) as caught:
        read_tables(path, no_header=["interactions"])
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("names", "called"),
    [
        (("jan.csv", "feb.csv"), "jan+feb"),
        (("orders-2024-01.csv", "orders-2024-02.csv.gz"), "orders"),
        (("a.csv", "b.csv", "c.csv"), "a and 2 more"),
        (("log.csv",), "log"),
    ],
)
def test_what_a_data_set_of_several_files_is_called(tmp_path: Path, names: tuple[str, ...], called: str) -> None:
    for name in names:
        data = b"user,item\na,1\nb,2\n"
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert read_tables([tmp_path / name for name in names]).name == called


def test_the_hint_for_a_table_without_a_header_can_be_typed(tmp_path: Path) -> None:
    log = written(tmp_path / "r.dat", "1::1193::5\n1::661::3\n2::661::3\n")
    users = written(tmp_path / "u.dat", "1::F::20\n2::F::30\n")
    with pytest.raises(DataError, match="--no-header interactions --user-col 1 --item-col 2;"):
        read_tables(log)
    with pytest.raises(DataError, match="--no-header users --users-id-col 1;"):
        read_tables(log, no_header=["interactions"], users=users)
    raw = read_tables(
        log, no_header=["interactions", "users"], user_col="1", item_col="2", users=users, users_id_col="1"
    )
    assert raw.people.tolist() == ["1", "2"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<!DOCTYPE html>\n<html>\n<table>", "a web page, not a table"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<rows/>\n", "XML, not a table"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "a spreadsheet or document of an old kind"),
        (b"SQLite format 3\0" + bytes(100), "a database of SQLite"),
        (b"\x80\x04\x95" + bytes(100), "a pickle, which could run code"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF"),
    ],
)
def test_files_that_are_no_tables_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read_tables(path)
    assert "--encoding" not in str(caught.value)


def test_an_encoding_of_two_bytes_a_letter_that_the_file_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not utf-16"):
        read_tables(written(tmp_path / "x.csv", "user,item\na,1\nb,2\n"), encoding="utf-16")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"products": [{"item": 1}, {"item": 2}]}', "its 'products' has 2 others"),
        ('{"1": {"brand": "a"}, "2": {"brand": "b"}}', "is one object of 2 others"),
    ],
)
def test_rows_within_one_object_are_pointed_at(tmp_path: Path, text: str, message: str) -> None:
    log = written(tmp_path / "x.csv", "user,item\na,1\nb,2\n")
    with pytest.raises(DataError, match=message):
        read_tables(log, items=written(tmp_path / "p.json", text))


def test_columns_without_a_name_and_row_numbers(tmp_path: Path) -> None:
    log = written(tmp_path / "x.csv", "user,item\na,1\nb,2\n")
    raw = read_tables(log, items=written(tmp_path / "p.csv", ",item,brand,,\n0,1,x,,\n1,2,x,,\n2,3,y,,\n"))
    assert {row["column"]: (row["kind"], row["why"]) for row in raw.columns} == {
        "brand": ("values", "2 different values"),
        "column 1": ("out", "holds row numbers"),
        "column 4": ("out", "has no values"),
        "column 5": ("out", "has no values"),
    }
    assert set(raw.triples["relation"]) == {"brand"}
