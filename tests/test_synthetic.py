"""The demo and its planted hierarchy."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.data.synthetic import DEMO_RELATIONS, DemoSettings, generate_demo, planted_depth
from hakg_dgl.errors import ConfigError

BELONGS, BELOW, MADE, RELEASED = range(len(DEMO_RELATIONS))


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
