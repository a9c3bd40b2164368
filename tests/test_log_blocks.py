"""A log that is read in blocks gives what it gives in one piece: rows, counts, notes, errors with their lines."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hakg_dgl.data.parquet import ParquetColumns
from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.data.readers.table_form import marked_pieces, with_pair_marks
from hakg_dgl.data.readers.tables import read_tables
from hakg_dgl.data.readers.text import cleaned_pieces, normalised
from hakg_dgl.errors import DataError


def frame(n: int = 60) -> pd.DataFrame:
    """Interactions with repeats, gaps, and ids that are not ASCII."""
    draw = np.random.default_rng(5)
    users = [f"ü{number}" if number % 3 else str(number) for number in draw.integers(0, 12, n)]
    items = [f"i{number}" for number in draw.integers(0, 9, n)]
    found = pd.DataFrame({"user": users, "item": items, "rating": draw.integers(1, 6, n), "time": np.arange(n)[::-1]})
    found.loc[[7, n - 5], "item"] = None
    return found


def csv(table: pd.DataFrame, **options: Any) -> bytes:
    return table.to_csv(index=False, **options).encode()


def as_zip(data: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log.csv", data)
    return sink.getvalue()


def as_zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue().to_pybytes())


def as_parquet(table: pd.DataFrame, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), sink, **options)
    return bytes(sink.getvalue().to_pybytes())


def dated(style: str) -> pd.DataFrame:
    return frame().assign(time=pd.date_range("2024-01-01", periods=60).strftime(style))


REVIEWS = frame().assign(text=[f'a "quote", and\na line {at}' for at in range(60)])
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zip": as_zip, "zst": as_zstd,
}  # fmt: skip


def priced(value: str, last: str) -> pd.DataFrame:
    """The log with one rating, as people write it, in all rows but the last."""
    return frame().assign(rating=[*[value] * 59, last])


HEADERLESS = {"user_col": "1", "item_col": "2", "rating_col": "3", "timestamp_col": "4", "no_header": ["interactions"]}
LOGS: dict[str, tuple[str, bytes, dict[str, Any]]] = {
    "csv": ("log.csv", csv(frame()), {}),
    "windows": ("log.csv", b"\xef\xbb\xbf" + csv(frame(), lineterminator="\r\n"), {}),
    "old mac": ("log.csv", csv(frame(), lineterminator="\r"), {}),
    "no last line end": ("log.csv", csv(frame()).rstrip(), {}),
    "lines in quotes": ("log.csv", csv(REVIEWS), {}),
    "spaces and blank lines": ("log.csv", csv(frame()).replace(b",i", b", i").replace(b"\n", b"\n\n"), {}),
    "double colons": ("log.dat", csv(frame()).replace(b",", b"::"), {}),
    "no header": ("log.tsv", csv(frame(), sep="\t", header=False), HEADERLESS),
    "latin-1": ("log.csv", csv(frame()).decode().encode("latin-1"), {"encoding": "latin-1"}),
    "utf-16": ("log.csv", csv(frame()).decode().encode("utf-16"), {"encoding": "utf-16"}),
    "iso dates": ("log.csv", csv(dated("%Y-%m-%d")), {}),
    "days first, shown at the end": ("log.csv", csv(dated("%d/%m/%Y")), {}),
    "months first": ("log.csv", csv(dated("%m/%d/%Y")), {"date_order": "month-first"}),
    "decimal commas": ("log.csv", csv(priced("2,000", "3,5"), sep=";"), {}),
    "thousands, shown at the end": ("log.csv", csv(priced("2,000", "1,299.50"), sep=";"), {}),
    "decimal commas, told": ("log.csv", csv(priced("2,000", "2,000"), sep=";"), {"decimal": "comma"}),
    "parquet": ("log.parquet", as_parquet(frame(), row_group_size=17), {}),
    "parquet of dates": ("log.parquet", as_parquet(frame().assign(time=pd.date_range("2024-01-01", periods=60))), {}),
    "packed parquet": ("log.parquet.gz", gzip.compress(as_parquet(frame())), {}),
    **{end: (f"log.csv.{end}", pack(csv(frame())), {}) for end, pack in PACKERS.items()},
}


def test_a_comma_that_may_be_either_is_refused_by_its_line_in_blocks_too(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(csv(priced("4", "2,000"), sep=";"))
    messages = []
    for rows in (10**6, 7):
        with pytest.raises(DataError) as caught:
            read(tmp_path / "log.csv", rows)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "line 61" in messages[0]
    assert "--decimal" in messages[0]


def read(path: Path | pd.DataFrame, rows: int, **options: Any) -> RawData:
    return read_tables(path, rows_at_once=rows, **{"rating_col": "rating", "timestamp_col": "time"} | options)


@pytest.mark.parametrize("kind", LOGS)
def test_blocks_change_nothing(kind: str, tmp_path: Path) -> None:
    name, data, options = LOGS[kind]
    (tmp_path / name).write_bytes(data)
    whole, blocks = read(tmp_path / name, 10**6, **options), read(tmp_path / name, 7, **options)
    assert len(whole.interactions) == 58
    for column in whole.interactions:
        assert whole.interactions[column].tolist() == blocks.interactions[column].tolist()
    assert whole.report == blocks.report
    assert whole.notes == blocks.notes
    assert whole.sources == blocks.sources
    first = preprocess(whole, PreprocessOptions(split="temporal", rating_threshold=2))
    second = preprocess(blocks, PreprocessOptions(split="temporal", rating_threshold=2))
    assert first.digest == second.digest
    pd.testing.assert_frame_equal(first.interactions, second.interactions)
    for table in ("users", "items", "entities"):
        pd.testing.assert_frame_equal(getattr(first, table), getattr(second, table))


@pytest.mark.parametrize("split", ["random", "temporal", "temporal-global", "leave-one-out", "cold-items"])
def test_ids_as_text_and_as_categories_make_the_same_data_set(split: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(csv(frame()))
    raw = read(tmp_path / "log.csv", 9)
    assert isinstance(raw.interactions["user"].dtype, pd.CategoricalDtype)
    text = raw.interactions.assign(user=raw.interactions["user"].astype(str), item=raw.interactions["item"].astype(str))
    options = PreprocessOptions(split=split, min_user_interactions=2, seed=3)
    coded, plain = preprocess(raw, options), preprocess(dataclasses.replace(raw, interactions=text), options)
    assert coded.digest == plain.digest
    assert coded.report == plain.report
    pd.testing.assert_frame_equal(coded.interactions, plain.interactions)


def test_a_frame_and_several_files_are_read_in_blocks_too(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(csv(frame()[:40]))
    (tmp_path / "b.csv").write_bytes(csv(frame()[40:]))
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    found = read_tables([*files], rating_col="rating", timestamp_col="time", rows_at_once=11)
    of_frame = read(frame(), 11)
    assert found.interactions["user"].tolist() == of_frame.interactions["user"].tolist()
    assert found.interactions["rating"].tolist() == of_frame.interactions["rating"].tolist()
    assert found.report["interactions_without_id_dropped"] == 2


WRONG: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "rating": (csv(frame().astype({"rating": object}).replace({"rating": {5: "five"}})), {}, "'five'"),
    "time": (csv(frame().assign(time=["x" if at == 43 else at for at in range(60)])), {}, "line 45.*not a finite"),
    "values": (csv(frame()) + b"u,i,3\n", {}, "line 62.*3 values"),
    "lines in an id": (csv(frame()) + b'"u\n1",i,3,4\n', {}, "line 62.*over several lines"),
    "a NUL byte": (csv(frame()) + b"u\0,i,3,4\n", {}, "line 62.*NUL"),
    "encoding": (csv(frame()) + b"u\xff,i,3,4\n", {}, "line 62.*not UTF-8"),
    "ascii": (csv(frame()), {"encoding": "ascii"}, "line [234].*is not ascii"),
    "order of dates": (csv(dated("%d/%m/2024")[:11]), {}, "line 3.*no date of the column shows"),
    "both orders": (csv(dated("%d/%m/%Y").replace({"time": {"01/02/2024": "02/13/2024"}})), {}, "the other way"),
    "column": (csv(frame()), {"rating_col": "stars"}, "no column 'stars'"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_errors_name_the_same_line(kind: str, tmp_path: Path) -> None:
    data, options, pattern = WRONG[kind]
    (tmp_path / "log.csv").write_bytes(data)
    messages = set()
    for rows in (10**6, 8):
        with pytest.raises(DataError, match=f"(?s){pattern}") as caught:
            read(tmp_path / "log.csv", rows, **options)
        messages.add(str(caught.value))
    assert len(messages) == 1, messages


def test_rows_of_parquet_are_counted_over_blocks(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"user": ["u"] * 30, "item": ["i"] * 30, "time": [1.0] * 25 + [None] * 5}), tmp_path / "l.pq"
    )
    with pytest.raises(DataError, match=r"row 25 \(from 0\): time is missing"):
        read_tables(tmp_path / "l.pq", timestamp_col="time", rows_at_once=4)


def test_text_that_expands_too_far_is_refused_block_by_block(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user": ["u" * 10**5] * 2000, "item": ["i"] * 2000}), path)
    taken = 0
    with pytest.raises(DataError, match="decodes to"):  # noqa: PT012 - what was taken counts
        for block in ParquetColumns(path, path, remedy="").blocks(["user"], 100):
            taken += block.nbytes
    assert taken < 10**8


TEXT = "\ufeffä,€::𝄞\r\n:::b\r\r\n\n::\rc::".encode()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_pieces_of_text_are_what_the_whole_is(size: int) -> None:
    def pieces(data: bytes) -> list[bytes]:
        return [data[at : at + size] for at in range(0, len(data), size)]

    path = Path("x")
    assert b"".join(cleaned_pieces(path, pieces(TEXT))) == normalised(TEXT)
    marked = b"".join(marked_pieces(path, cleaned_pieces(path, pieces(TEXT))))
    assert marked == with_pair_marks(path, normalised(TEXT))
    wide = TEXT.decode("utf-8-sig").encode("utf-16")
    assert b"".join(cleaned_pieces(path, pieces(wide), "utf-16")) == normalised(TEXT)
    for cut in (TEXT[:-20] + b"\xe2", b"a\xffb"):
        with pytest.raises(DataError, match="not UTF-8"):
            list(cleaned_pieces(path, pieces(cut)))
