"""A run on a later log: ids, masks, what is left out, and the numbers of the test split where both hold the same."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from bad_input import hakg
from hakg_dgl.cli.evaluate import _behind_popularity
from small_demo import small_demo

from hakg_dgl.data.dataset import Dataset, load_dataset
from hakg_dgl.data.later_log import later_log
from hakg_dgl.errors import DataError


def pairs(dataset: Dataset, split: str) -> pd.DataFrame:
    """The pairs of a split in original ids."""
    found = dataset.pairs(split)
    ids = dataset.users["original_id"].to_numpy()[found[:, 0]], dataset.items["original_id"].to_numpy()[found[:, 1]]
    return pd.DataFrame({"user": ids[0], "item": ids[1]})


def test_rows_are_numbered_and_what_is_left_out_is_counted() -> None:
    data = small_demo()
    test, train = pairs(data, "test"), pairs(data, "train")
    strangers = pd.DataFrame({"user": ["nobody", "nobody", test["user"][0]], "item": [test["item"][0], "new", "new"]})
    rows = pd.concat([test.head(9), test.head(2), train.head(4), pairs(data, "valid").head(1), strangers])
    found = later_log(rows, data)
    assert found.report == {
        "repeated_interactions_dropped": 2, "unknown_users": 1, "unknown_items": 1,
        "rows_of_unknown_users_or_items_left_out": 3, "pairs_that_were_known_before_left_out": 5,
    }  # fmt: skip
    assert found.dataset.pairs("test").tolist() == data.pairs("test")[:9].tolist()
    for split in ("train", "valid"):
        assert found.dataset.pairs(split).tolist() == data.pairs(split).tolist()


def test_ratings_are_filtered_as_those_of_the_data_set() -> None:
    data = small_demo()
    rows = pairs(data, "test").head(4).assign(rating=[1.0, 3.0, 4.0, 5.0])
    options = {**data.options, "rating_threshold": 4.0}
    rated = Dataset(**{**{name: getattr(data, name) for name in data.__dataclass_fields__}, "options": options})
    assert len(later_log(rows, data).dataset.pairs("test")) == 4
    found = later_log(rows, rated)
    assert len(found.dataset.pairs("test")) == 2
    assert found.report["below_rating_threshold_dropped"] == 2


def test_a_log_that_leaves_nothing_is_an_error() -> None:
    data = small_demo()
    with pytest.raises(DataError, match="in it already"):
        later_log(pairs(data, "train"), data)
    with pytest.raises(DataError, match="users are called 'x' here"):
        later_log(pd.DataFrame({"user": ["x"], "item": ["y"]}), data)


def test_the_test_split_as_a_later_log_has_the_numbers_of_the_test_split(work: Path) -> None:
    rows = pairs(load_dataset("D"), "test").set_axis(["who", "what"], axis=1)
    pd.concat([rows, pd.DataFrame({"who": ["nobody"], "what": ["0"]})]).to_csv("later.csv", index=False)
    log = ("--interactions", "later.csv", "--user-col", "who", "--item-col", "what")
    also = [word for name in ("map", "auc", "coverage", "diversity", "novelty") for word in ("--also", name)]
    of_test, of_log = (
        json.loads(hakg("evaluate", "R", "--k", 3, *also, *options, "--json", "-").stdout) for options in ((), log)
    )
    assert of_log["split"] == "later"
    assert of_log["later"]["report"]["unknown_users"] == 1
    for scorer in ("model", "popularity", "random"):
        assert of_log[scorer]["metrics"] == of_test[scorer]["metrics"]
        assert of_log[scorer]["mask"] == ["train", "valid"]
        assert of_log[scorer]["groups"] == of_test[scorer]["groups"]
    assert set(of_test["model"]["metrics"]) == {
        "recall@3", "ndcg@3", "precision@3", "hit@3", "mrr@3", "map@3", "auc", "coverage@3", "diversity@3", "novelty@3",
    }  # fmt: skip
    told = hakg("evaluate", "R", *log, "--per-user", "users.csv", "--sampled", 2)
    assert told.exit_code == 0, told.output
    assert "1 unknown user" in told.stdout
    assert "sampled items" in told.stdout
    assert len(pd.read_csv("users.csv")) == rows["who"].nunique()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--interactions", "later.csv", "--split", "valid"), "leave --split out"),
        (("--user-col", "u"), "--user-col is about --interactions"),
        (("--interactions", "later.csv"), "later.csv, line 1: no column 'user'"),
        (("--interactions", "none.csv"), "none.csv"),
        (("--also", "gain"), "'gain' is not one of"),
    ],
)
def test_what_is_refused(work: Path, options: tuple[str, ...], message: str) -> None:
    Path("later.csv").write_text("who,item\n0,5\n")
    done = hakg("evaluate", "R", *options)
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_later_log_may_be_written_as_the_first_one(work: Path) -> None:
    rows = pairs(load_dataset("D"), "test")
    Path("later.dat").write_text("".join(f"{user}::{item}\n" for user, item in rows.itertuples(index=False)))
    told = hakg("evaluate", "R", "--interactions", "later.dat", "--no-groups")
    assert told.exit_code == 2
    assert "--no-header interactions --user-col 1 --item-col 2" in told.stderr
    done = hakg("evaluate", "R", "--interactions", "later.dat", "--no-header", "interactions", "--no-groups")
    assert done.exit_code == 0, done.output
    assert f"{len(rows)} relevant item" in done.stdout
    idle = hakg("evaluate", "R", "--decimal", "comma")
    assert "--decimal is about --interactions" in idle.stderr


def test_popularity_that_is_ahead_is_remarked_on() -> None:
    def result(ndcg: float) -> Any:
        return SimpleNamespace(ks=[20], metrics={"ndcg@20": ndcg})

    assert "Popularity ranks as well" in _behind_popularity({"model": result(0.2), "popularity": result(0.3)})[0]
    assert not _behind_popularity({"model": result(0.3), "popularity": result(0.2)})
