from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_tables import INTERACTIONS, TRIPLES, named, toy

from hakg_dgl.data.dataset import load_dataset
from hakg_dgl.errors import DataError, FormatVersionError, IntegrityError


def test_tables_are_in_canonical_order():
    data = toy()
    assert data.interactions[["user", "item"]].to_numpy().tolist() == [[0, 0], [0, 1], [0, 3], [1, 0], [1, 2], [2, 0]]
    assert data.triples.to_numpy().tolist() == sorted(map(list, TRIPLES))
    assert (data.n_users, data.n_items, data.n_entities, data.n_relations) == (3, 4, 6, 2)
    assert data.digest == toy(INTERACTIONS[::-1], TRIPLES[::-1]).digest


def test_pairs_and_positives():
    data = toy()
    assert data.pairs("train").tolist() == [[0, 1], [0, 3], [1, 0]]
    assert data.pairs("train", "valid").tolist() == [[0, 0], [0, 1], [0, 3], [1, 0]]
    assert len(data.pairs()) == 6
    assert data.pairs().dtype == np.int64
    indptr, items = data.positives("train")
    assert (indptr.tolist(), items.tolist()) == ([0, 2, 3, 3], [1, 3, 0])
    indptr, items = toy([(0, 0, "train")]).positives("test")
    assert (indptr.tolist(), items.tolist()) == ([0, 0, 0, 0], [])
    with pytest.raises(ValueError, match="no split called 'dev'"):
        data.pairs("dev")


def test_it_is_shown_in_a_line():
    shown = repr(toy())
    assert (shown.count("\n"), f"{toy().name!r}" in shown, f"{toy().n_users} users" in shown) == (0, True, True)


def test_numbers_of_users_and_items_are_found_by_their_ids():
    data = toy()
    for of, number in (("user", data.user_number), ("item", data.item_number)):
        ids = getattr(data, f"{of}s")["original_id"]
        assert [number(original_id) for original_id in ids] == list(range(len(ids)))
        with pytest.raises(DataError, match=rf"no {of} with the id 'nobody'\n.*'{ids[0]}'"):
            number("nobody")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"interactions": [*INTERACTIONS, (0, 1, "test")]}, r"\(0, 1\) occurs twice"),
        ({"interactions": [(3, 0, "train")]}, r"interactions\.user has values 3 to 3, allowed are 0 to 2"),
        ({"interactions": [(0, 4, "train")]}, r"interactions\.item"),
        ({"interactions": [(0, 0, "dev")]}, "interactions.split has dev"),
        ({"interactions": [(0.0, 0, "train")]}, "not integer"),
        ({"triples": [(0, 0, 6)]}, r"triples\.tail"),
        ({"triples": [(-1, 0, 1)]}, r"triples\.head"),
        ({"triples": [(0, 0, 1), (0, 0, 1)]}, "occurs twice"),
        ({"entities": named("a")}, "every item is an entity"),
        ({"users": pd.DataFrame({"name": ["a"]})}, "lacks the columns"),
    ],
)
def test_refused_tables(changed, message):
    with pytest.raises(DataError, match=message):
        toy(**changed)


def test_digest_covers_what_matters_and_is_stable():
    data = toy()
    assert data.digest == "4c3f68b2fa07807a05406502621dc209e35a3aa652fe66d8b8dbd7525917b93e"
    others = [
        toy(INTERACTIONS[1:]),
        toy([(2, 0, "train"), *INTERACTIONS[1:]]),
        toy(triples=TRIPLES[1:]),
        replace(data, users=named("u0", "u", "1ü2")),
        replace(data, relations=named("has", "part", "more")),
    ]
    assert len({data.digest, *(other.digest for other in others)}) == 6
    assert replace(data, name="other", options={}).digest == data.digest


def test_save_and_load(tmp_path):
    data = toy()
    data.save(tmp_path / "new" / "data")
    again = load_dataset(tmp_path / "new" / "data")
    for table in ("interactions", "triples", "users", "items", "entities", "relations"):
        pd.testing.assert_frame_equal(getattr(data, table), getattr(again, table))
    for key in ("name", "options", "sources", "report", "split_strategy", "digest"):
        assert getattr(data, key) == getattr(again, key)
    about = json.loads((tmp_path / "new" / "data" / "dataset.json").read_text())
    assert about["format_version"] == 1
    assert about["counts"]["train"] == 3


def test_timestamps_survive(tmp_path):
    frame = toy().interactions.assign(timestamp=np.arange(6.0))
    replace(toy(), interactions=frame).save(tmp_path / "d")
    assert load_dataset(tmp_path / "d").interactions["timestamp"].tolist() == list(range(6))


def test_saving_replaces_only_data_sets(tmp_path):
    path = tmp_path / "data"
    path.mkdir()
    toy().save(path)  # an empty folder is free
    toy(name="second").save(path)
    assert load_dataset(path).name == "second"
    (path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"other files, such as 'notes\.txt'"):
        toy().save(path)
    assert (path / "notes.txt").read_text() == "mine"
    (path / "notes.txt").unlink()
    (path / "dataset.json").write_text("{}")
    with pytest.raises(DataError, match="not a data set"):
        toy().save(path)
    with pytest.raises(DataError, match="not a folder"):
        toy().save(path / "dataset.json")
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("moment", ["write", "rename"])
def test_a_failed_save_changes_nothing(tmp_path, monkeypatch, moment):
    path = tmp_path / "data"
    toy().save(path)

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if moment == "write":
        monkeypatch.setattr(Path, "write_text", full_disk)
    else:
        rename = Path.rename
        monkeypatch.setattr("hakg_dgl.atomic_files._exchange", lambda one, other: False)
        monkeypatch.setattr(Path, "rename", lambda p, to: full_disk() if p.suffix == ".new" else rename(p, to))
    with pytest.raises(DataError, match="No space left"):
        toy(name="second").save(path)
    assert load_dataset(path).name == "toy"
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_edited_files_are_noticed(tmp_path):
    path = tmp_path / "data"
    toy().save(path)
    toy(INTERACTIONS[1:]).interactions.to_parquet(path / "interactions.parquet")
    with pytest.raises(IntegrityError, match=r"interactions\.parquet: the file was changed"):
        load_dataset(path)
    assert len(load_dataset(path, verify=False).interactions) == 5

    toy().save(path)
    about = json.loads((path / "dataset.json").read_text())
    (path / "dataset.json").write_text(json.dumps(about | {"counts": {"users": 9}}))
    with pytest.raises(IntegrityError, match="digest or counts"):
        load_dataset(path)


def test_damaged_data_sets(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        load_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no dataset\.json"):
        load_dataset(tmp_path)
    path = tmp_path / "data"
    toy().save(path)
    (path / "items.parquet").write_bytes(b"PAR1 truncated")
    with pytest.raises(DataError, match=r"items\.parquet: not a readable Parquet file"):
        load_dataset(path, verify=False)
    (path / "items.parquet").unlink()
    with pytest.raises(DataError, match=r"items\.parquet: the file is missing"):
        load_dataset(path)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", DataError, "cannot be read"),
        ('{"format": "other"}', DataError, "does not describe"),
        ('{"format": "hakg-dataset", "format_version": 3}', FormatVersionError, "format version 3"),
        ('{"format": "hakg-dataset", "format_version": 1}', DataError, "name, digest"),
    ],
)
def test_bad_description(tmp_path, text, error, message):
    toy().save(tmp_path / "data")
    (tmp_path / "data" / "dataset.json").write_text(text)
    with pytest.raises(error, match=message):
        load_dataset(tmp_path / "data")


# --- facts and links of users -----------------------------------------------------------------------------------------

FACTS, LINKS = [(2, 0, 5), (0, 0, 4)], [(1, 1, 0), (0, 1, 2)]


def social(facts=FACTS, links=LINKS, relations=("likes", "knows")):
    return toy(
        user_facts=pd.DataFrame(facts, columns=["user", "relation", "entity"], dtype=np.int64),
        user_links=pd.DataFrame(links, columns=["user", "relation", "other"], dtype=np.int64),
        user_relations=named(*relations),
    )


def test_facts_and_links_of_users_survive(tmp_path):
    data = social()
    assert data.user_facts.to_numpy().tolist() == [[0, 0, 4], [2, 0, 5]]
    assert data.user_links.to_numpy().tolist() == [[0, 1, 2], [1, 1, 0]]
    assert data.counts.items() - toy().counts.items() == {("user_facts", 2), ("user_links", 2), ("user_relations", 2)}
    data.save(tmp_path / "d")
    again = load_dataset(tmp_path / "d")
    for table in ("user_facts", "user_links", "user_relations"):
        pd.testing.assert_frame_equal(getattr(data, table), getattr(again, table))
    assert json.loads((tmp_path / "d" / "dataset.json").read_text())["format_version"] == 2
    toy().save(tmp_path / "d")
    assert not list((tmp_path / "d").glob("user_*"))
    assert len(load_dataset(tmp_path / "d").user_links) == 0


def test_the_digest_covers_facts_and_links_of_users():
    variants = [
        toy(), social(), social(facts=FACTS[1:]), social(links=LINKS[1:]), social(facts=[]), social(links=[]),
        social(relations=("likes", "trusts")), social(facts=[(2, 0, 4), (0, 0, 5)]),
    ]  # fmt: skip
    assert len({data.digest for data in variants}) == len(variants)
    assert social(FACTS[::-1], LINKS[::-1]).digest == social().digest


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"facts": [(3, 0, 4)]}, r"user_facts\.user has values 3 to 3, allowed are 0 to 2"),
        ({"facts": [(0, 0, 6)]}, r"user_facts\.entity"),
        ({"facts": [(0, 0, 4), (0, 0, 4)]}, r"user_facts: .* occurs twice"),
        ({"links": [(0, 2, 1)]}, r"user_links\.relation"),
        ({"links": [(0, 1, 3)]}, r"user_links\.other"),
        ({"links": [(1, 1, 1)]}, "user_links links user 1 to itself"),
        ({"links": [(0, 0, 1)]}, r"user relation 0 \('name likes'\) occurs in user_facts and in user_links"),
    ],
)
def test_refused_facts_and_links(changed, message):
    with pytest.raises(DataError, match=message):
        social(**changed)


def test_a_missing_or_changed_table_of_users_is_noticed(tmp_path):
    social().save(tmp_path / "d")
    social(links=LINKS[1:]).user_links.to_parquet(tmp_path / "d" / "user_links.parquet")
    with pytest.raises(IntegrityError, match=r"user_links\.parquet: the file was changed"):
        load_dataset(tmp_path / "d")
    (tmp_path / "d" / "user_links.parquet").unlink()
    with pytest.raises(DataError, match=r"user_links\.parquet: the file is missing"):
        load_dataset(tmp_path / "d")
