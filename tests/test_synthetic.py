"""The demo's planted hierarchy, paper-sized random graphs, and the KGAT writer."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
from hakg_dgl.data.readers.kgat import read_kgat
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.data.synthetic import (
    DEMO_RELATIONS,
    DemoSettings,
    generate_demo,
    generate_like,
    planted_depth,
    write_kgat,
)
from hakg_dgl.errors import ConfigError, DataError

BELONGS, BELOW, MADE, RELEASED = range(len(DEMO_RELATIONS))
COUNTS = {
    "users": 300, "items": 200, "entities": 500, "relations": 7, "triples": 2000, "train": 4000, "test": 900,
}  # fmt: skip


@pytest.fixture(scope="module")
def demo() -> RawData:
    return generate_demo()


def frames_equal(a: RawData, b: RawData) -> bool:
    return a.interactions.equals(b.interactions) and a.triples.equals(b.triples)


# --- the demo ---------------------------------------------------------------------------------------------------------


def test_same_seed_same_demo(demo: RawData) -> None:
    assert frames_equal(demo, generate_demo(seed=2020))
    assert not frames_equal(demo, generate_demo(seed=1))


def test_demo_sizes(demo: RawData) -> None:
    settings = DemoSettings.load()
    assert demo.interactions["user"].nunique() == settings.users
    assert not demo.interactions.duplicated(["user", "item"]).any()
    activity = demo.interactions.groupby("user").size()
    assert activity.min() >= settings.min_interactions
    assert activity.max() <= settings.items // 2
    assert abs(activity.mean() - settings.mean_interactions) < 4
    assert demo.counts["entities"] == len(demo.entities) == 800 + (1 + 5 + 20 + 60 + 180) + 400 + 40
    assert not demo.triples.duplicated().any()
    ends = np.concatenate([demo.triples["head"], demo.triples["tail"]])
    assert set(ends) == set(range(demo.counts["entities"]))  # nothing stands outside the graph
    assert np.isfinite(demo.interactions["timestamp"]).all()


def test_names_are_distinct_and_readable(demo: RawData) -> None:
    for table in (demo.users, demo.items, demo.entities, demo.relations):
        assert table["original_id"].is_unique
        assert table["name"].is_unique
    assert demo.entities["id"].tolist() == list(range(len(demo.entities)))
    assert {"Item 0", "All genres", "Genre 2.1.3", "Maker 7", "Year 1999"} <= set(demo.entities["name"])


def test_tree_agrees_with_names_and_planted_depth(demo: RawData) -> None:
    depth = planted_depth().set_index("entity")["depth"]
    label = demo.entities["original_id"].str.partition("_")[2]
    links = demo.triples[demo.triples["relation"] == BELOW]
    assert links["head"].is_unique  # one parent each: a tree
    assert (depth[links["head"]].to_numpy() == depth[links["tail"]].to_numpy() + 1).all()
    for head, tail in links[["head", "tail"]].to_numpy():
        above = label[head].rpartition(".")[0] or "root"
        assert label[tail] == above
    of_items = demo.triples[demo.triples["relation"] == BELONGS]
    assert set(of_items["head"]) == set(range(800))
    assert (depth[of_items["tail"]] == 4).all()
    assert (depth[of_items["head"]] == 5).all()
    assert depth.value_counts().to_dict() == {0: 1, 1: 5, 2: 20, 3: 60, 4: 180, 5: 800}


def test_depth_survives_preprocessing(demo: RawData) -> None:
    dataset = preprocess(demo, PreprocessOptions(split="temporal"))
    planted = planted_depth()
    assert dataset.entities["original_id"].iloc[planted["entity"]].tolist() == planted["original_id"].tolist()
    assert dataset.n_entities == demo.counts["entities"]
    assert dataset.relations["name"].tolist() == list(DEMO_RELATIONS)


def test_makers_follow_a_power_law_and_say_nothing_of_taste(demo: RawData) -> None:
    works = demo.triples[demo.triples["relation"] == MADE].groupby("tail").size()
    assert works.max() > 5 * works.median()
    assert demo.triples[demo.triples["relation"] == RELEASED]["tail"].nunique() == 40


def ndcg(
    scores: npt.NDArray[np.float64], seen: npt.NDArray[np.bool_], test: npt.NDArray[np.bool_], k: int = 20
) -> float:
    top = np.argsort(-np.where(seen, -np.inf, scores), axis=1, kind="stable")[:, :k]
    discount = 1 / np.log2(np.arange(k) + 2)
    gain = (np.take_along_axis(test, top, axis=1) * discount).sum(axis=1)
    ideal = np.concatenate([[0], np.cumsum(discount)])[np.minimum(test.sum(axis=1), k)]
    return float((gain[ideal > 0] / ideal[ideal > 0]).mean())


@pytest.mark.parametrize("seed", [2020, 7])
def test_graph_and_other_users_beat_popularity_by_far(seed: int) -> None:
    raw = generate_demo(seed=seed)
    dataset = preprocess(raw, PreprocessOptions(valid=0.0))
    seen, test = (np.zeros((dataset.n_users, dataset.n_items), dtype=bool) for _ in range(2))
    seen[tuple(dataset.pairs("train").T)] = True
    test[tuple(dataset.pairs("test").T)] = True
    popularity = np.broadcast_to(seen.sum(axis=0), seen.shape).astype(np.float64)

    gram = seen.T.astype(np.float64) @ seen
    inverse = np.linalg.inv(gram + 200 * np.eye(dataset.n_items))
    weights = inverse / -np.diag(inverse)  # EASE (Steck, WWW 2019)
    np.fill_diagonal(weights, 0)

    # what the graph alone tells: shares of a user's items below each genre, at each level
    links = raw.triples[raw.triples["relation"] <= BELOW]
    step = np.zeros((raw.counts["entities"],) * 2, dtype=np.float32)
    step[links["head"], links["tail"]] = 1
    below = [step[: dataset.n_items]]
    for _ in range(3):
        below.append(below[-1] @ step)
    genres = np.minimum(sum(below), 1.0)
    profile = (seen @ genres) / seen.sum(axis=1, keepdims=True)
    rare = np.log(dataset.n_items / np.maximum(genres.sum(axis=0), 1))
    content = profile**2 @ (genres * rare).T * np.sqrt(popularity + 1)

    base, collaborative, by_graph = (ndcg(s, seen, test) for s in (popularity, seen @ weights, content))
    assert base < 0.25
    assert collaborative > 2 * base
    assert by_graph > 2 * base


@pytest.mark.parametrize(
    "wrong",
    [
        {"users": 0}, {"branching": ()}, {"focus": 0.9, "spill": 0.2}, {"popularity_exponent": 1.0},
        {"preferred_depths": (0.5, 0.4)}, {"preferred_depths": (0.2,) * 5}, {"mean_interactions": 500.0},
        {"second_taste": 1.5}, {"activity_spread": -1.0},
    ],
)  # fmt: skip
def test_impossible_settings_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        dataclasses.replace(DemoSettings.load(), **wrong)


@pytest.mark.parametrize(
    "changes", [{"branching": (1,), "preferred_depths": (1.0,)}, {"branching": (2, 9), "users": 3}]
)
def test_other_shapes_of_tree(changes: dict[str, object]) -> None:
    small = {"items": 50, "makers": 90, "years": 1, "mean_interactions": 5.0, "min_interactions": 1}
    settings = dataclasses.replace(DemoSettings.load(), **{"preferred_depths": (0.5, 0.5), **small, **changes})
    raw = generate_demo(settings, seed=3)
    assert set(raw.interactions["user"]) == set(range(settings.users))
    assert raw.triples[["head", "tail"]].to_numpy().max() < raw.counts["entities"]
    assert planted_depth(settings)["depth"].max() == len(settings.branching) + 1


# --- paper-sized graphs -----------------------------------------------------------------------------------------------


def check_graph(raw: RawData, counts: Mapping[str, int]) -> None:
    split = raw.interactions["split"].value_counts()
    assert (split["train"], split["test"], len(raw.triples)) == (counts["train"], counts["test"], counts["triples"])
    assert not raw.interactions.duplicated(["user", "item"]).any()
    assert not raw.triples.duplicated().any()
    train = raw.interactions[raw.interactions["split"] == "train"]
    assert set(train["user"]) == set(range(counts["users"]))
    assert set(train["item"]) == set(range(counts["items"]))
    head, relation, tail = (raw.triples[column].to_numpy() for column in ("head", "relation", "tail"))
    assert set(np.concatenate([head, tail])) == set(range(counts["entities"]))
    assert set(relation) == set(range(counts["relations"]))
    assert (head != tail).all()


def test_random_graph_meets_its_counts() -> None:
    raw = generate_like(COUNTS, seed=5)
    check_graph(raw, COUNTS)
    assert frames_equal(raw, generate_like(COUNTS, seed=5))
    assert not frames_equal(raw, generate_like(COUNTS, seed=6))
    degree = raw.interactions.groupby("item").size()
    assert degree.max() > 4 * degree.median()


def test_dense_graph_ends() -> None:
    check_graph(generate_like({**COUNTS, "train": 25_000, "test": 5_000}), {**COUNTS, "train": 25_000, "test": 5_000})


@pytest.mark.parametrize("name", ["last-fm", "yelp2018", "alibaba-ifashion"])
def test_scaled_card(name: str) -> None:
    raw = generate_like(name, scale=0.05)
    assert raw.ids_are_indices
    counts = {**raw.counts, **raw.interactions["split"].value_counts(), "triples": len(raw.triples)}
    check_graph(raw, counts)
    if name == "last-fm":
        expected = {"users": 23566, "items": 48123, "entities": 106389, "triples": 464567, "train": 1289003}
        assert {what: counts[what] for what in expected} == {what: round(n / 20) for what, n in expected.items()}
        assert counts["relations"] == 9


@pytest.mark.parametrize(
    ("like", "scale", "match"),
    [
        ("amazon-book", 1.0, "users, items"),
        ({**COUNTS, "train": 100}, 1.0, "train = 100"),
        ({**COUNTS, "test": 30_000}, 1.0, "test = 30000"),
        ({**COUNTS, "entities": 200}, 1.0, "entities = 200"),
        ({key: n for key, n in COUNTS.items() if key != "test"}, 1.0, "train and test"),
        (COUNTS, 0.0, "scale"),
        (COUNTS, float("nan"), "scale"),
    ],
)
def test_impossible_graphs_are_refused(like: str | dict[str, int], scale: float, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        generate_like(like, scale=scale)


@pytest.mark.slow
def test_full_size_is_quick() -> None:
    start = time.perf_counter()
    raw = generate_like("last-fm")
    assert time.perf_counter() - start < 5
    assert raw.interactions["split"].value_counts().to_dict() == {"train": 1289003, "test": 423635, "valid": 0}


# --- writing ----------------------------------------------------------------------------------------------------------


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
