"""Tables of numbers in ids and names."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from small_demo import small_demo

from hakg_dgl import Dataset, RandomScorer, recommend, with_names


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return small_demo()


def test_lists_are_told_in_ids_and_names(dataset: Dataset) -> None:
    lists = recommend(RandomScorer(dataset.n_users, dataset.n_items, 1), np.array([5, 2]), k=3)
    named = with_names(lists, dataset)
    assert [*named] == ["user", "rank", "item", "name", "score"]
    for of, table in (("user", dataset.users), ("item", dataset.items)):
        assert named[of].tolist() == [table["original_id"][number] for number in lists[of]]
    assert named["name"].tolist() == [dataset.items["name"][number] for number in lists["item"]]
    pd.testing.assert_frame_equal(named[["rank", "score"]], lists[["rank", "score"]])


@pytest.mark.parametrize("of", ["user", "item"])
def test_the_name_is_that_of_what_is_similar(dataset: Dataset, of: str) -> None:
    table = getattr(dataset, f"{of}s")
    named = with_names(pd.DataFrame({of: [3], "rank": [1], "similar": [7], "score": [0.5]}), dataset)
    assert named.to_dict("records") == [
        {of: table["original_id"][3], "rank": 1, "similar": table["original_id"][7], "name": table["name"][7],
         "score": 0.5}
    ]  # fmt: skip


def test_users_may_be_numbered_otherwise(dataset: Dataset) -> None:
    named = with_names(pd.DataFrame({"user": [1, 0], "item": [4, 4]}), dataset, user_ids=["ann", "bob"])
    assert named["user"].tolist() == ["bob", "ann"]
    assert named["item"].tolist() == [dataset.items["original_id"][4]] * 2


def test_an_empty_table_stays_empty(dataset: Dataset) -> None:
    lists = recommend(RandomScorer(dataset.n_users, dataset.n_items, 1), np.empty(0, dtype=np.int64), k=3)
    named = with_names(lists, dataset)
    assert [*named] == ["user", "rank", "item", "name", "score"]
    assert named.empty


def test_users_and_candidates_may_be_plain_lists(dataset: Dataset) -> None:
    scorer = RandomScorer(dataset.n_users, dataset.n_items, 1)
    pd.testing.assert_frame_equal(
        recommend(scorer, [5, 2], k=3, candidates=[1, 4, 9]),
        recommend(scorer, np.array([5, 2]), k=3, candidates=np.array([1, 4, 9])),
    )
