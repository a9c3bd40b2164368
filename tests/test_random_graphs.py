"""Random graphs of the sizes of a data set."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import pytest

from hakg_dgl.data.random_graphs import generate_like
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.errors import ConfigError

COUNTS = {
    "users": 300, "items": 200, "entities": 500, "relations": 7, "triples": 2000, "train": 4000, "test": 900,
}  # fmt: skip


def frames_equal(a: RawData, b: RawData) -> bool:
    return a.interactions.equals(b.interactions) and a.triples.equals(b.triples)


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
