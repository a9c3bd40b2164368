"""The KGCN layout, and RecBole folders without a graph, in parts or split already."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hakg_dgl import preprocess, read_kgat, read_kgcn, read_recbole
from hakg_dgl.data.preprocess import PreprocessOptions
from hakg_dgl.data.readers.detect import detect_format
from hakg_dgl.errors import ConfigError, DataError

RATINGS = [[0, 0, 1], [0, 1, 0], [1, 1, 1], [1, 2, 1]]
GRAPH = [[0, 0, 4], [1, 0, 4], [2, 1, 3]]


def folder_of(path: Path, **files: str | bytes) -> Path:
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        target = path / name.replace("__", ".")
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(rows: Any) -> str:
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def array(rows: Any, kind: str = "int64") -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array(rows, dtype=kind), allow_pickle=False)
    return stream.getvalue()


ids = st.integers(0, 40)


@settings(max_examples=25, deadline=None)
@given(
    ratings=st.lists(st.tuples(ids, ids, st.integers(0, 1)), min_size=1, max_size=8),
    graph=st.lists(st.tuples(ids, st.integers(0, 3), ids), min_size=1, max_size=8),
)
def test_kgcn_as_text_and_as_arrays(tmp_path_factory: Any, ratings: Any, graph: Any) -> None:
    ratings = [*ratings, (1, 2, 1)]
    at = tmp_path_factory.mktemp("k")
    text = folder_of(at / "music", ratings_final__txt=lines(ratings), kg_final__txt=lines(graph))
    binary = folder_of(at / "b", ratings_final__npy=array(ratings, "float64"), kg_final__npy=array(graph, "int32"))
    half = len(graph) // 2
    parts = {"kg_final_1__txt": lines(graph[half:])} | ({"kg_final_0__txt": lines(graph[:half])} if half else {})
    split = folder_of(at / "p", ratings_final__txt=lines(ratings), **parts)
    assert detect_format(text) == detect_format(binary) == detect_format(split) == "kgcn"
    found = [read_kgcn(folder) for folder in (text, binary, split)]
    for raw in found:
        assert raw.interactions.to_numpy().tolist() == [[u, i] for u, i, label in ratings if label]
        assert [tuple(row) for row in raw.triples.to_numpy().tolist()] == list(dict.fromkeys(graph))
        assert raw.report["rows_of_label_0_left_out"] == sum(label == 0 for _, _, label in ratings)


def test_kgcn_names_of_items(tmp_path: Path) -> None:
    files = {"ratings_final__txt": lines(RATINGS), "kg_final__txt": lines(GRAPH)}
    folder = folder_of(tmp_path / "k", **files, item_index2entity_id__txt="900\t0\n17\t1\n5\t2\n3\t3\n")
    data = preprocess(read_kgcn(folder))
    assert data.items["original_id"].tolist() == ["900", "17", "5", "3"]
    assert (data.n_users, data.n_items, data.n_entities) == (2, 4, 5)


def claims(shape: str) -> bytes:
    good = array(GRAPH)
    return good.replace(b"(3, 3)", shape.encode())


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"ratings_final__txt": "0 1 5\n"}, "label 5 is neither"),
        ({"ratings_final__txt": "0 1 0\n"}, "every label is 0"),
        ({"ratings_final__txt": "0 1\n"}, "2 numbers instead of three"),
        ({"kg_final__npy": b"\x93NUMPY garbage"}, "not a readable NumPy file"),
        ({"kg_final__npy": claims("(9, 3)")}, "holds 72 bytes"),
        ({"kg_final__npy": array([1, 2, 3])}, "not rows of three"),
        ({"kg_final__npy": array([[0, 0, -1]])}, "row 0 .from 0.: 0, 0, -1"),
        ({"kg_final__npy": array([[0.5, 0, 1]], "float64")}, "not integers"),
        ({"kg_final__npy": np.array([[None] * 3]).dumps()}, "not a readable NumPy file"),
        ({}, "there is no kg_final.txt"),
    ],
)
def test_kgcn_that_cannot_be_read(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    base: dict[str, Any] = {"ratings_final__txt": lines(RATINGS)} | ({"kg_final__txt": lines(GRAPH)} if files else {})
    base = {name: text for name, text in base.items() if not (name == "kg_final__txt" and "kg_final__npy" in files)}
    with pytest.raises(DataError, match=message):
        read_kgcn(folder_of(tmp_path / "k", **(base | files)))


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([[{}, 1, 2]], dtype=object), allow_pickle=True)
    folder = folder_of(tmp_path / "k", ratings_final__txt=lines(RATINGS), kg_final__npy=stream.getvalue())
    with pytest.raises(DataError, match="Python objects"):
        read_kgcn(folder)


def test_kgat_graph_in_parts(tmp_path: Path) -> None:
    parts = {f"kg_final_{at}__txt": f"{at} 0 20\n" for at in (2, 10, 1)}
    raw = read_kgat(folder_of(tmp_path / "k", train__txt="0 1 2\n", test__txt="0 3\n", **parts))
    assert raw.triples["head"].tolist() == [1, 2, 10]


INTER = "user_id:token\titem_id:token\tlabel:float\nann\ta\t1\nann\tb\t0\nbob\tb\t1\n"
ITEM = (
    "item_id:token\tmovie_title:token_seq\tclass:token_seq\tyear:token\na\tThe A\tx y\t1999\nb\tB\tx\t1999\nc\tC\t\t\n"
)
USER = "user_id:token\tage:token\nann\t24\nbob\t24\nzed\t99\n"


def test_recbole_attributes_are_facts(tmp_path: Path) -> None:
    raw = read_recbole(folder_of(tmp_path / "s", s__inter=INTER, s__item=ITEM, s__user=USER), facts={"year": "values"})
    assert {tuple(row) for row in raw.triples.to_numpy()} == {
        ("a", "class", "class=x"), ("a", "class", "class=y"), ("b", "class", "class=x"),
        ("a", "year", "year=1999"), ("b", "year", "year=1999"),
    }  # fmt: skip
    data = preprocess(raw, PreprocessOptions(rating_threshold=1))
    assert len(data.interactions) == 2
    assert data.items["name"].tolist() == ["The A", "B", "C"]
    assert len(data.user_facts) == 2
    assert data.report["user_facts_of_users_without_interactions_dropped"] == 1
    assert preprocess(raw).report["ratings_of_0_counted_as_positives"] == 1
    with pytest.raises(ConfigError, match="nope"):
        read_recbole(tmp_path / "s", facts={"nope": "out"})


def test_recbole_log_alone(tmp_path: Path) -> None:
    raw = read_recbole(folder_of(tmp_path / "s", s__inter=INTER))
    assert not len(raw.triples)
    assert raw.notes == ("there is no s.kg, s.item or s.user",)


def test_recbole_split_already_with_a_graph_a_relation(tmp_path: Path) -> None:
    head = "user_id:token\titem_id:token\n"
    kg = "head_id:token\ttail_id:token\n"
    folder = folder_of(
        tmp_path / "s", s__train__inter=head + "u\ta\nv\tb\n", s__test__inter=head + "u\tb\n",
        s__valid__inter=head + "v\ta\n", s__genre__kg=kg + "a\tg\n", s__maker__kg=kg + "b\tm\n",
        s__link="item_id:token\tentity_id:token\na\ta\nb\tb\n",
    )  # fmt: skip
    raw = read_recbole(folder)
    assert raw.interactions["split"].tolist() == ["train", "train", "valid", "test"]
    assert raw.triples.to_numpy().tolist() == [["a", "genre", "g"], ["b", "maker", "m"]]
    assert preprocess(raw).split_strategy == "given"
    (folder / "s.train.inter").unlink()
    with pytest.raises(DataError, match=r"no s\.train\.inter|several data sets"):
        read_recbole(folder, name="s")
