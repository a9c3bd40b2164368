"""Tables in memory, of pandas, polars, Arrow and any library that speaks Arrow's protocols, as tables in files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from small_demo import small_demo
from small_tables import toy

from hakg_dgl import Dataset, from_tables, read_later_log, read_new_items, read_new_users
from hakg_dgl.data.id_files import read_item_ids, read_pairs
from hakg_dgl.data.readers.sources import Frame
from hakg_dgl.errors import ConfigError, DataError

OPTIONS: dict[str, Any] = {"timestamp_col": "when", "rating_col": "stars", "rating_threshold": 3, "split": "temporal"}


class OnlyStream:
    """What another library's table is to this package: a stream of Arrow, and nothing else."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._table = pa.Table.from_pandas(frame, preserve_index=False)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


class OnlyInterchange:
    """A table of an older library, which exchanges by ``__dataframe__``."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._table = pa.Table.from_pandas(frame, preserve_index=False)

    def __dataframe__(self, nan_as_null: bool = False, allow_copy: bool = True) -> Any:
        return self._table.__dataframe__(nan_as_null, allow_copy)


def of_polars(frame: pd.DataFrame) -> Frame:
    polars = pytest.importorskip("polars", reason="python -m pip install -e .[polars]")
    made: Frame = polars.from_arrow(pa.Table.from_pandas(frame, preserve_index=False))
    return made


KINDS: dict[str, Callable[[pd.DataFrame], Frame]] = {
    "pandas": lambda frame: frame,
    "arrow": lambda frame: pa.Table.from_pandas(frame, preserve_index=False),
    "batch": lambda frame: pa.RecordBatch.from_pandas(frame, preserve_index=False),
    "polars": of_polars,
    "stream": OnlyStream,
    "interchange": OnlyInterchange,
}


def shop() -> dict[str, pd.DataFrame]:
    """Tables with a gap, a repeat and an unlinked item, so that there are repairs to count."""
    rng = np.random.default_rng(0)
    rows = 80
    log = pd.DataFrame(
        {
            "user": [f"user {at}" for at in rng.integers(0, 9, rows)],
            "item": rng.integers(0, 12, rows),
            "stars": rng.integers(1, 6, rows).astype(float),
            "when": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.permutation(rows), unit="h"),
        }
    )
    log.loc[[3, 5], "user"] = None
    items = pd.DataFrame({"item": range(14), "name": [f"item {at}" for at in range(14)]})
    items["price"] = [float(at % 5) + 0.5 for at in range(14)]
    items["colour"] = ["red", None, "blue;red", "green", "red", "blue", "blue"] * 2
    users = pd.DataFrame({"user": [f"user {at}" for at in range(9)], "town": ["Ulm", "Bern", "Ulm"] * 3})
    triples = pd.DataFrame({"head": ["e0", "e1", "e1", "e2"], "relation": "by", "tail": ["x", "x", "x", "y"]})
    links = pd.DataFrame({"item": [0, 1, 2], "entity": ["e0", "e1", "e2"]})
    return {"interactions": log, "items": items, "users": users, "knowledge_graph": triples, "links": links}


@pytest.fixture(scope="module")
def of_files(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("shop")
    for name, table in shop().items():
        table.to_parquet(folder / f"{name}.parquet")
        table.to_csv(folder / f"{name}.csv", index=False)
    csv, parquet = ({name: folder / f"{name}.{kind}" for name in shop()} for kind in ("csv", "parquet"))
    found = from_tables(**csv, **OPTIONS)
    assert from_tables(**parquet, **OPTIONS).digest == found.digest
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_tables_in_memory_give_what_the_same_files_give(kind: str, of_files: Dataset) -> None:
    found = from_tables(**{name: KINDS[kind](table) for name, table in shop().items()}, **OPTIONS)
    assert found.digest == of_files.digest
    assert dict(found.report) == dict(of_files.report)
    assert found.report["interactions_without_id_dropped"] == 2
    assert found.report["triple_repeats_dropped"] == 1
    pd.testing.assert_frame_equal(found.items, of_files.items)
    assert set(found.sources) == {"interactions", "items", "users", "triples", "links"}


@pytest.mark.parametrize("kind", KINDS)
def test_messages_name_the_table_and_the_row(kind: str) -> None:
    tables = shop()
    for name, column, values, message in (
        ("interactions", "stars", [1.0, None], r"^interactions: row 1 \(from 0\): stars is missing"),
        ("interactions", "item", [1, None], "^interactions: no column 'user'"),
        ("knowledge_graph", "head", ["e0", "e1"], "^knowledge_graph: no column 'relation'"),
        ("items", "price", [1.0, 2.0], "^items: no column 'item'"),
        ("users", "town", ["Ulm", "Bern"], "^users: no column 'user'"),
    ):
        spoiled = pd.DataFrame({column: values})
        if column == "stars":
            spoiled = pd.DataFrame({"user": ["a", "b"], "item": [1, 2], "stars": values, "when": [1, 2]})
        with pytest.raises(DataError, match=message):
            from_tables(**tables | {name: KINDS[kind](spoiled)}, **OPTIONS)


def test_several_tables_are_numbered_and_one_of_them_may_be_a_file(tmp_path: Path) -> None:
    log = shop()["interactions"]
    log[:40].to_csv(tmp_path / "early.csv", index=False)
    both = from_tables([tmp_path / "early.csv", OnlyStream(log[40:])], **OPTIONS)
    assert both.digest == from_tables(log, **OPTIONS).digest
    twice = from_tables([log[:40], log[40:]], shop()["items"], **OPTIONS)
    assert set(twice.sources) == {"interactions", "interactions-2", "items"}
    with pytest.raises(DataError, match=r"^knowledge_graph-2: the table has no row"):
        from_tables(log, knowledge_graph=[shop()["knowledge_graph"], shop()["knowledge_graph"][:0]], **OPTIONS)


def test_types_that_only_tables_in_memory_have() -> None:
    polars = pytest.importorskip("polars", reason="python -m pip install -e .[polars]")
    log = pd.DataFrame({"user": ["a", "b"], "item": ["1", "2"]})
    goods = polars.DataFrame(
        {
            "item": polars.Series(["1", "2"], dtype=polars.Categorical),
            "size": polars.Series(["L", "S"], dtype=polars.Enum(["S", "L"])),
            "tags": [["x", "y"], ["x"]],
            "void": [None, None],
            "place": polars.Series([[1, 2], [3, 4]], dtype=polars.Array(polars.Int64, 2)),
        }
    )
    found = from_tables(log, goods, valid=0, test=0)
    kinds = {row["column"]: row["kind"] for row in found.options["columns"]}
    assert kinds == {"size": "values", "tags": "list", "void": "out", "place": "out"}
    assert found.relations["name"].tolist() == ["size", "tags"]
    assert len(found.triples) == 5


def test_what_is_no_table_is_refused_with_what_to_give() -> None:
    class Query:
        def collect(self) -> None: ...

    for wrong, message in (
        (7, "^interactions: is a int, not a file"),
        (Query(), "has not run yet"),
        (pa.array(["a", "b"]), "columns have names"),
        (pa.table({}), "has no row"),
    ):
        with pytest.raises(DataError, match=message):
            from_tables(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'timestamp'; did you mean timestamp_col"):
        from_tables(shop()["interactions"], timestamp="when")
    with pytest.raises(ConfigError, match="test = 2"):
        from_tables(shop()["interactions"], test=2)


@pytest.mark.parametrize("kind", KINDS)
def test_tables_about_a_data_set_may_be_in_memory_too(kind: str) -> None:
    dataset, made = small_demo(), KINDS[kind]
    ids, users = dataset.items["original_id"], dataset.users["original_id"]
    genre = str(dataset.relations["name"][0])
    value = str(dataset.entities["original_id"].iloc[dataset.triples.query("relation == 0")["tail"].iloc[0]])
    later = read_later_log(made(pd.DataFrame({"user": users[:9], "item": ids[:9]})), dataset)
    assert len(later.dataset.pairs("test")) > 0
    new = read_new_users(made(pd.DataFrame({"user": ["new", "new"], "item": ids[:2].tolist()})), dataset)
    assert new.ids.tolist() == ["new"]
    assert new.items.tolist() == [0, 1]
    assert len(read_new_items(made(pd.DataFrame({"item": ["fresh"], genre: [value]})), dataset)) == 1
    pairs = read_pairs(made(pd.DataFrame({"user": users[:3], "item": ids[:3]})), users, dataset)
    assert pairs.items.tolist() == [0, 1, 2]
    assert read_item_ids(made(pd.DataFrame({"item": ids[:2]}))) == ids[:2].tolist()
    with pytest.raises(DataError, match=r"^users: 1 row is of an item that is not in the data set"):
        read_new_users(made(pd.DataFrame({"user": ["new"], "item": ["nothing"]})), dataset)
    with pytest.raises(DataError, match=r"^new items: no column 'item'"):
        read_new_items(made(pd.DataFrame({genre: [value]})), toy())
