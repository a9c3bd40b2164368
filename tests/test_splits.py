from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
from hakg_dgl.data.splits import carve_validation, held_out, k_core, rating_threshold
from hakg_dgl.data.synthetic import DemoSettings, generate_demo
from hakg_dgl.errors import DataError
from hakg_dgl.ranking.evaluation import cold_items

pair_lists = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8)), unique=True, max_size=40)
strategies = st.sampled_from(["random", "temporal", "leave-one-out"])


def frame(rows: list[tuple[int, int]], *extra: list[float], columns: tuple[str, ...] = ()) -> pd.DataFrame:
    data = pd.DataFrame(rows, columns=["user", "item"])
    return data.assign(**dict(zip(columns, extra, strict=True)))


@settings(max_examples=80, deadline=None)
@given(rows=pair_lists, strategy=strategies, fraction=st.floats(0, 0.99), seed=st.integers(0, 9), data=st.data())
def test_held_out_invariants(rows, strategy, fraction, seed, data):
    times = data.draw(st.lists(st.integers(0, 3).map(float), min_size=len(rows), max_size=len(rows)))
    interactions = frame(rows, times, columns=("timestamp",))
    mask = held_out(interactions, strategy, fraction, np.random.default_rng(seed))
    assert mask.dtype == bool
    assert mask.shape == (len(rows),)
    for _, part in interactions.assign(held=mask, at=range(len(rows))).groupby("user"):
        n, held = len(part), int(part["held"].sum())
        expected = min(n - 1, 1 if strategy == "leave-one-out" else int(n * fraction + 0.5))
        assert held == expected
        if strategy != "random":  # the held out are the last, ties in original order
            in_order = part.sort_values(["timestamp", "at"])["held"].tolist()
            assert in_order == sorted(in_order)
    again = held_out(interactions, strategy, fraction, np.random.default_rng(seed))
    assert (mask == again).all()


def test_random_draws_are_uniform_and_follow_the_generator():
    interactions = frame([(0, item) for item in range(10)])
    generator = np.random.default_rng(1)
    drawn = sum(held_out(interactions, "random", 0.3, generator).astype(int) for _ in range(2000))
    assert drawn.sum() == 3 * 2000
    assert abs(drawn / 2000 - 0.3).max() < 0.05
    one, other = (held_out(interactions, "random", 0.3, np.random.default_rng(seed)) for seed in (1, 2))
    assert (one != other).any()


def test_leave_one_out_without_timestamps_is_random():
    interactions = frame([(0, item) for item in range(9)] + [(1, 0)])
    chosen = {
        int(np.flatnonzero(held_out(interactions, "leave-one-out", 0, np.random.default_rng(s)))[0]) for s in range(40)
    }
    assert len(chosen) > 5
    assert 9 not in chosen


@settings(max_examples=80, deadline=None)
@given(rows=pair_lists, fraction=st.floats(0, 0.99), data=st.data())
def test_one_cut_in_time_is_before_all_that_is_held_out(rows, fraction, data):
    times = data.draw(st.lists(st.integers(0, 4).map(float), min_size=len(rows), max_size=len(rows)))
    interactions = frame(rows, times, columns=("timestamp",))
    wanted = int(len(rows) * fraction + 0.5)
    if wanted and len(set(times)) == 1:
        with pytest.raises(DataError, match="same timestamp"):
            held_out(interactions, "temporal-global", fraction, np.random.default_rng(0))
        return
    mask = held_out(interactions, "temporal-global", fraction, np.random.default_rng(0))
    if not wanted:
        assert not mask.any()
        return
    assert interactions["timestamp"][~mask].max() < interactions["timestamp"][mask].min()
    sizes = [sum(time >= moment for time in times) for moment in sorted(set(times))[1:]]
    assert abs(mask.sum() - wanted) == min(abs(size - wanted) for size in sizes)


def test_what_cannot_be_held_out():
    with pytest.raises(DataError, match="needs timestamps"):
        held_out(frame([(0, 1)]), "temporal", 0.2, np.random.default_rng(0))
    with pytest.raises(DataError, match="needs timestamps"):
        held_out(frame([(0, 1)]), "temporal-global", 0.2, np.random.default_rng(0))
    for strategy, fraction in (("given", 0.2), ("random", 1.0), ("random", -0.1)):
        with pytest.raises(ValueError, match="cannot hold out"):
            held_out(frame([(0, 1)]), strategy, fraction, np.random.default_rng(0))


@given(rows=pair_lists, strategy=st.sampled_from(["random", "temporal", "leave-one-out", "given"]))
def test_validation_leaves_every_user_an_item(rows, strategy):
    train = frame(rows).assign(timestamp=0.0)
    mask = carve_validation(train, 0.5, np.random.default_rng(0), strategy=strategy)
    assert set(train["user"][~mask]) == set(train["user"])
    assert not carve_validation(train, 0, np.random.default_rng(0), strategy=strategy).any()


def test_k_core_repeats_until_nothing_changes():
    # dropping item 3 takes user 2 below two, which takes item 2 below two, which takes user 1 below two, and so on
    rows = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3)]
    assert len(k_core(frame(rows), 2, 2)) == 0
    square = [(u, i) for u in (7, 8) for i in (7, 8)]
    assert [tuple(row) for row in k_core(frame([*square, (9, 7)]), 2, 2).to_numpy()] == square


@given(rows=pair_lists, least=st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_k_core_is_the_largest(rows, least):
    expected = pd.DataFrame(rows, columns=["user", "item"])
    while True:  # one row at a time: the core does not depend on the order of dropping
        few = (expected.groupby("user")["item"].transform("size") < least[0]) | (
            expected.groupby("item")["user"].transform("size") < least[1]
        )
        if not few.any():
            break
        expected = expected.drop(index=few.idxmax())
    pd.testing.assert_frame_equal(k_core(frame(rows), *least), expected)


def test_rating_threshold():
    rated = frame([(0, 1), (0, 2), (0, 3)], [3.0, 4.0, 3.5], columns=("rating",))
    assert rating_threshold(rated, 3.5)["item"].tolist() == [2, 3]
    with pytest.raises(DataError, match="no ratings"):
        rating_threshold(frame([(0, 1)]), 3.5)


@settings(max_examples=80, deadline=None)
@given(rows=pair_lists, fraction=st.floats(0, 0.99), seed=st.integers(0, 9))
def test_cold_items_are_held_out_whole(rows, fraction, seed):
    interactions = frame(rows)
    mask = held_out(interactions, "cold-items", fraction, np.random.default_rng(seed))
    held, kept = set(interactions["item"][mask]), set(interactions["item"][~mask])
    assert held.isdisjoint(kept)
    n = len(held | kept)
    assert len(held) == (min(n - 1, int(n * fraction + 0.5)) if n else 0)
    order = np.random.default_rng(seed).permutation(len(rows))
    shuffled = held_out(interactions.iloc[order], "cold-items", fraction, np.random.default_rng(seed))
    assert set(interactions["item"].iloc[order][shuffled]) == held


def test_every_item_is_as_likely_to_be_held_out():
    interactions = frame([(user, item) for item in range(8) for user in range(item + 1)])
    generator = np.random.default_rng(1)
    drawn = np.zeros(8)
    for _ in range(2000):
        mask = held_out(interactions, "cold-items", 0.25, generator)
        drawn[interactions["item"][mask].unique()] += 1
    assert drawn.sum() == 2 * 2000
    assert abs(drawn / 2000 - 0.25).max() < 0.05


def test_validation_of_cold_items_is_of_other_items():
    demo = preprocess(generate_demo(DemoSettings.load()), PreprocessOptions(split="cold-items", test=0.2, valid=0.1))
    items = {split: set(demo.pairs(split)[:, 1]) for split in ("train", "valid", "test")}
    assert items["test"].isdisjoint(items["train"] | items["valid"])
    assert items["valid"].isdisjoint(items["train"])
    assert len(items["test"]) == round(0.2 * sum(map(len, items.values())))
    assert cold_items(demo, "test").tolist() == sorted(items["test"])
