"""The KGAT layout as it is written, read back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hakg_dgl.data.kgat_files import write_kgat
from hakg_dgl.data.random_graphs import generate_like
from hakg_dgl.data.readers.kgat import read_kgat
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.data.synthetic import DEMO_RELATIONS, generate_demo
from hakg_dgl.errors import DataError

COUNTS = {
    "users": 300, "items": 200, "entities": 500, "relations": 7, "triples": 2000, "train": 4000, "test": 900,
}  # fmt: skip


@pytest.fixture(scope="module")
def demo() -> RawData:
    return generate_demo()


def canonical(frame: pd.DataFrame, *columns: str) -> list[tuple[object, ...]]:
    rows = zip(*(frame[column].tolist() for column in columns), strict=True)
    return sorted(rows)


def test_written_graph_reads_back(tmp_path: Path) -> None:
    raw = generate_like(COUNTS)
    back = read_kgat(write_kgat(raw, tmp_path / "new" / "kgat"))
    assert canonical(back.interactions, "user", "item", "split") == canonical(raw.interactions, "user", "item", "split")
    assert canonical(back.triples, "head", "relation", "tail") == canonical(raw.triples, "head", "relation", "tail")
    assert sorted(path.name for path in (tmp_path / "new" / "kgat").iterdir()) == [
        "kg_final.txt", "test.txt", "train.txt",
    ]  # fmt: skip


def test_written_names_and_lone_users(demo: RawData, tmp_path: Path) -> None:
    split = np.where(np.arange(len(demo.interactions)) % 5 == 0, "test", "train")
    split[demo.interactions["user"] == 599] = "test"
    raw = dataclasses.replace(demo, interactions=demo.interactions.assign(split=split))
    back = read_kgat(write_kgat(raw, tmp_path))
    assert (tmp_path / "train.txt").read_text().endswith("\n599\n")
    assert back.report["train_lines_with_user_alone"] == 1
    assert back.counts["users"] == 600
    assert dict(zip(back.entities["id"], back.entities["original_id"], strict=True))[822] == "genre_5.1"
    assert len(back.entities) == len(demo.entities)
    assert back.relations["original_id"].tolist() == list(DEMO_RELATIONS)
    assert canonical(back.interactions, "user", "item", "split") == canonical(raw.interactions, "user", "item", "split")


def test_unusual_names_are_written_as_they_are(tmp_path: Path) -> None:
    odd = pd.DataFrame({"id": [0, 1], "original_id": ['the "first", ï', "b c"], "name": ["x", "y"]})
    raw = RawData(
        name="odd",
        interactions=pd.DataFrame({"user": [0, 1, 1], "item": [0, 1, 0], "split": ["train", "train", "test"]}),
        triples=pd.DataFrame({"head": [0, 1], "relation": [0, 0], "tail": [2, 2]}),
        items=odd,
        ids_are_indices=True,
    )
    back = read_kgat(write_kgat(raw, tmp_path))
    assert back.items["original_id"].tolist() == odd["original_id"].tolist()
    with pytest.raises(DataError, match="line break"):
        write_kgat(dataclasses.replace(raw, items=odd.assign(original_id=["a\nb", "c"])), tmp_path)


def test_what_the_layout_cannot_hold_is_refused(demo: RawData, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no split"):
        write_kgat(demo, tmp_path / "x")
    raw = generate_like(COUNTS)
    with pytest.raises(DataError, match="row numbers"):
        write_kgat(dataclasses.replace(raw, ids_are_indices=False), tmp_path / "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_kgat(raw, tmp_path / "file" / "x")
    assert not (tmp_path / "x").exists()
