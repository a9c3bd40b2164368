"""Lists for known users with newer items, new users with attributes, new items, likeness, pairs, limits and shards."""

from __future__ import annotations

import dataclasses
import gc
import json
import signal
import subprocess
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bad_input import hakg
from hakg_dgl.cli.report import table
from small_demo import small_demo, small_settings

from hakg_dgl import (
    Dataset,
    about_users,
    at_most,
    explain,
    from_tables,
    items_where,
    load_fold_in,
    load_model,
    load_scorer,
    make_trainer,
    preprocess,
    read_new_items,
    read_new_users,
    read_tables,
    recommend,
    score_pairs,
    similar_items,
    write_shards,
)
from hakg_dgl.data.readers.table_form import TableForm
from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.ranking.candidates import known_items, undecided
from hakg_dgl.ranking.topk import masked_topk


def with_user_facts() -> Dataset:
    """The demo whose users come from two places."""
    demo = small_demo()
    places = pd.DataFrame({"original_id": ["from=north", "from=south"], "name": ["north", "south"]})
    facts = pd.DataFrame({
        "user": np.arange(demo.n_users), "relation": 0, "entity": demo.n_entities + np.arange(demo.n_users) % 2,
    })  # fmt: skip
    return dataclasses.replace(
        demo,
        entities=pd.concat([demo.entities, places], ignore_index=True),
        user_facts=facts,
        user_relations=pd.DataFrame({"original_id": ["from"], "name": ["from"]}),
    )


DEMO = with_user_facts()
ITEM_IDS = DEMO.items["original_id"].to_numpy()
MAKER = "made_by"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data set ``D`` and a run ``R``."""
    folder = tmp_path_factory.mktemp("recommend_more")
    DEMO.save(folder / "D")
    make_trainer(DEMO, small_settings(epochs=2), run=folder / "R", data_path=folder / "D").fit()
    return folder


def succeed(*args: object) -> Any:
    result = hakg(*args, "--device", "cpu")
    assert result.exit_code == 0, result.output
    return result


def refused(*args: object) -> str:
    result = hakg("recommend", *args, "--device", "cpu")
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return str(result.stderr)


def listed(*args: object) -> pd.DataFrame:
    return pd.DataFrame([json.loads(line) for line in succeed("recommend", *args, "--json").stdout.splitlines()])


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# --- users --------------------------------------------------------------------------------------------------------


def test_newer_items_of_a_known_user_come_to_those_of_the_past(place: Path, tmp_path: Path) -> None:
    past = set(DEMO.pairs()[DEMO.pairs()[:, 0] == 3, 1].tolist())
    newer = next(item for item in range(DEMO.n_items) if item not in past)
    file = write(tmp_path / "today.csv", f"user,item\n{DEMO.users['original_id'][3]},{ITEM_IDS[newer]}\n")
    new = read_new_users(file, DEMO)
    assert new.known.tolist() == [3]
    assert new.items.tolist() == sorted({*past, newer})
    fold = load_fold_in(place / "R", DEMO)
    expected = fold.scorer(*new.lists, about_users(new)).scores(np_users(1))
    for option in ("--new-users", "--new-interactions"):
        rows = listed(place / "R", option, file, "--k", 99)
        assert set(rows["item"]) == set(ITEM_IDS) - set(ITEM_IDS[[*past, newer]])
        numbers = [int(np.flatnonzero(item == ITEM_IDS)[0]) for item in rows["item"]]
        assert rows["score"].tolist() == pytest.approx(expected[0, numbers].tolist(), abs=1e-5)
    # The past, the own parameters and the newer item each change the scores.
    without = fold.scorer(*new.lists).scores(np_users(1))
    assert (without - expected).abs().max() > 1e-4


def np_users(n: int) -> Any:
    import torch

    return torch.arange(n)


def test_new_users_have_attributes_interactions_or_both(place: Path, tmp_path: Path) -> None:
    alone = write(tmp_path / "who.csv", "user,from,shoe_size\nann,north,38\nbob,south,44\ncy,nowhere,40\n")
    bought = write(tmp_path / "what.csv", "user,item\nann,item_3\ndee,item_8\n")
    both = write(tmp_path / "both.csv", "user,item,from\nann,item_3,north\n")
    found = read_new_users([alone, bought], DEMO)
    assert found.ids.tolist() == ["ann", "dee", "bob", "cy"]
    assert np.diff(found.indptr).tolist() == [1, 1, 0, 0]
    indptr, entities = found.facts["from"]
    assert (np.diff(indptr).tolist(), entities.tolist()) == ([1, 0, 1, 0], [DEMO.n_entities - 2, DEMO.n_entities - 1])
    assert found.report["attributes_without_a_relation_left_out"] == found.report["values_unknown_left_out"] == 1
    rows = listed(place / "R", "--new-users", alone, "--new-interactions", bought, "--k", 5)
    one = listed(place / "R", "--new-users", both, "--k", 5)
    pd.testing.assert_frame_equal(rows[rows["user"] == "ann"].reset_index(drop=True), one)
    scores = rows.set_index(["user", "rank"])["score"]
    assert not np.allclose(scores["bob"], scores["cy"], atol=1e-6), "attributes count"


def test_files_of_newcomers_may_be_written_as_those_of_the_log(place: Path, tmp_path: Path) -> None:
    usual = write(tmp_path / "usual.csv", "user,item\nann,item_3\ncy,item_8\n")
    arrivals = write(tmp_path / "arrivals.csv", "item,name,made_by\nfresh,Frühling,maker_1\n")
    here = place / "R", "--k", 5
    expected = listed(*here, "--new-users", usual, "--new-items", arrivals)
    named = write(tmp_path / "named.csv", "Customer ID;StockCode\nann;item_3\ncy;item_8\n")
    pd.testing.assert_frame_equal(listed(*here, "--new-users", named, "--new-items", arrivals), expected)
    bare = write(tmp_path / "bare.csv", "ann,item_3\ncy,item_8\n")
    for option in ("new-users", "new-interactions"):
        rows = listed(*here, f"--{option}", bare, "--no-header", option, "--new-items", arrivals)
        pd.testing.assert_frame_equal(rows, expected)
    turned = write(tmp_path / "turned.csv", "item_3~ann\nitem_8~cy\n")
    latin = tmp_path / "latin.csv"
    latin.write_text(arrivals.read_text(encoding="utf-8"), encoding="latin-1")
    rows = listed(
        *here, "--new-interactions", turned, "--no-header", "new-interactions", "--delimiter", "new-interactions=~",
        "--item-col", 1, "--user-col", 2, "--new-items", latin, "--encoding", "new-items=latin-1",
    )  # fmt: skip
    # the option about items names a column of the other file too, and there it is none
    pd.testing.assert_frame_equal(rows, expected)


def test_lists_and_pairs_without_a_header(place: Path, tmp_path: Path) -> None:
    stock = write(tmp_path / "stock.csv", "item_3,9\nitem_8,4\nitem_9,0\n")
    here = place / "R", "--k", 5
    assert {*listed(*here, "--user", "user_1", "--items", stock, "--no-header", "items", "--include-seen")["item"]} == {
        "item_3", "item_8", "item_9",
    }  # fmt: skip
    kept = listed(*here, "--user", "user_1", "--not-in", stock, "--no-header", "not-in")["item"]
    assert not {"item_3", "item_8", "item_9"} & {*kept}
    pairs = write(tmp_path / "pairs.csv", "user_1;item_3\nuser_2;item_8\n")
    rows = listed(*here, "--pairs", pairs, "--no-header", "pairs")
    assert rows[["user", "item"]].to_numpy().tolist() == [["user_1", "item_3"], ["user_2", "item_8"]]


def test_options_about_the_form_of_a_table_that_is_not_given_are_refused(place: Path, tmp_path: Path) -> None:
    bare = write(tmp_path / "bare.csv", "17,item_3\n18,item_8\n")
    message = refused(place / "R", "--new-users", bare)
    assert "the first line looks like a row" in message
    assert "--no-header new-users --user-col 1 --item-col 2" in message
    message = refused(place / "R", "--new-users", bare, "--no-header", "new-items")
    assert "--no-header is about --new-items, which is not given" in message
    assert "--decimal is about tables" in refused(place / "R", "--user", "user_1", "--decimal", "comma")


def test_attributes_of_a_table_without_a_header_go_by_their_number(tmp_path: Path) -> None:
    numbered = dataclasses.replace(
        DEMO,
        entities=DEMO.entities.replace({"from=north": "user:2=north", "from=south": "user:2=south"}),
        user_relations=pd.DataFrame({"original_id": ["2"], "name": ["2"]}),
    )
    form = TableForm(headerless=True, table="new_users")
    file = write(tmp_path / "who.csv", "ann,north\nbob,south\n")
    found = read_new_users(file, numbered, forms=[form])
    assert found.facts["2"][1].tolist() == [DEMO.n_entities - 2, DEMO.n_entities - 1]
    assert len(found.items) == 0
    bought = write(tmp_path / "what.csv", "ann,item_3\n")
    assert len(read_new_users(bought, numbered, forms=[TableForm(headerless=True)], item_col="2").items) == 1


def test_a_table_without_items_or_attributes_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "who.csv", "user,shoe_size\nann,38\n")
    with pytest.raises(DataError, match="no column 'item' and no attribute; there are: 'user', 'shoe_size'"):
        read_new_users(file, DEMO)


def test_the_score_of_a_user_of_a_file_is_explained(place: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "new.csv", "user,item,from\nann,item_3,north\nann,item_8,north\nuser_1,item_4,\n")
    model, new = load_model(place / "R", DEMO), read_new_users(file, DEMO)
    scores = load_fold_in(place / "R", DEMO).scorer(*new.lists, about_users(new)).scores(np_users(2))
    for place_of_user, item in ((0, 12), (1, 30)):
        found = explain(model, DEMO, DEMO.n_users + place_of_user, item, new=new)
        assert found.score == pytest.approx(float(scores[place_of_user, item]), abs=1e-5)
        assert all(abs(rest) < 1e-4 for rest in found.rounding.values()), found.rounding
        past = new.items[new.indptr[place_of_user] : new.indptr[place_of_user + 1]]
        assert sorted(found.past_items["item"]) == past.tolist()
        assert len(found.user_facts) == 1
    about = json.loads(
        succeed("explain", place / "R", "--new-users", file, "--user", "ann", "--item", "item_12", "--json", "-").stdout
    )
    assert about["user"]["id"] == "ann"
    assert about["score"] == pytest.approx(float(scores[0, 12]), abs=1e-5)
    result = hakg("explain", place / "R", "--new-users", file, "--user", "eve", "--item", "item_12", "--device", "cpu")
    assert (result.exit_code, "there is no user with the id 'eve'" in result.stderr) == (2, True)


# --- items --------------------------------------------------------------------------------------------------------


def test_new_items_are_listed_filtered_and_alike(place: Path, tmp_path: Path) -> None:
    maker = str(DEMO.entities["name"].iloc[DEMO.triples.query("relation == 2")["tail"].iloc[0]])
    file = write(tmp_path / "arrivals.csv", f"item,name,{MAKER}\nfresh,Fresh one,{maker}\nodd,,nobody\n")
    new = read_new_items(file, DEMO)
    scorer = load_scorer(place / "R", DEMO, new_items=new)
    assert scorer.n_items == DEMO.n_items + 2
    every = listed(place / "R", "--user", "user_1", "--new-items", file, "--k", 99)
    assert {"fresh", "odd"} < set(every["item"])
    mine = every.set_index("item")
    assert mine["score"]["fresh"] == pytest.approx(float(scorer.scores(np_users(2))[1, DEMO.n_items]), abs=1e-5)
    assert mine["name"]["fresh"] == "Fresh one"
    some = listed(place / "R", "--user", "user_1", "--new-items", file, "--where", f"{MAKER}={maker}", "--k", 99)
    assert "fresh" in set(some["item"])
    assert "odd" not in set(some["item"])
    alike = listed(place / "R", "--similar-to", "fresh", "--new-items", file, "--k", 3)
    expected = similar_items(load_model(place / "R", DEMO, new_items=new), np.array([DEMO.n_items]), 3)
    assert alike["similar"].tolist() == new.dataset.items["original_id"].iloc[expected["similar"]].tolist()
    visitors = write(tmp_path / "visitors.csv", "user,item\nann,fresh\n")
    assert "fresh" not in set(listed(place / "R", "--new-users", visitors, "--new-items", file, "--k", 99)["item"])


def test_similar_items_and_users_are_listed_with_filters(place: Path) -> None:
    found = listed(
        place / "R", "--similar-to", "item_4", "--similar-to", "item_9", "--item", "item_1", "--item", "item_4"
    )
    assert found[["item", "similar"]].to_numpy().tolist() == [["item_4", "item_1"], *sorted([["item_9", i] for i in ("item_1", "item_4")], key=lambda row: found.query("item == 'item_9'")["similar"].tolist().index(row[1]))]  # fmt: skip # noqa: E501
    text = succeed("recommend", place / "R", "--similar-to-user", "user_3", "--k", 2).stdout
    assert text.startswith("User user_3\nrank  similar")
    assert "--where does nothing with --similar-to-user" in refused(
        place / "R", "--similar-to-user", "user_3", "--where", "a=b"
    )
    assert "different questions" in refused(place / "R", "--similar-to", "item_4", "--similar-to-user", "user_3")
    assert "--user does nothing with --similar-to" in refused(place / "R", "--similar-to", "item_4", "--user", "user_3")


def test_lists_leave_items_out_and_stock_lists_may_hold_others(place: Path, tmp_path: Path) -> None:
    stock = write(tmp_path / "stock.csv", "sku\nitem_3\nitem_5\nnew\n")
    options = (place / "R", "--user", "user_1", "--include-seen", "--item-col", "sku")
    result = succeed("recommend", *options, "--items", stock, "--unknown-items", "skip", "--json")
    assert "1 item that is not in the data set skipped, such as new" in result.stderr
    assert {json.loads(line)["item"] for line in result.stdout.splitlines()} == {"item_3", "item_5"}
    assert "--unknown-items skip" in refused(*options, "--items", stock)
    rest = listed(*options, "--not-in", stock, "--unknown-items", "skip", "--k", 99)
    assert set(rest["item"]) == set(ITEM_IDS) - {"item_3", "item_5"}
    assert "--unknown-items is about items of files" in refused(*options, "--unknown-items", "skip")
    nothing = write(tmp_path / "none.csv", "sku\nnew\n")
    assert str(nothing) in refused(*options, "--items", nothing, "--unknown-items", "skip")


# --- pairs --------------------------------------------------------------------------------------------------------


def test_pairs_of_a_file_are_scored_in_their_order(place: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "pairs.csv", "user,item\nuser_9,item_4\nuser_1,item_7\nuser_9,item_4\nwho,item_1\n")
    assert "1 row is of a user that is not known, such as 'who'" in refused(place / "R", "--pairs", file)
    found = listed(place / "R", "--pairs", file, "--unknown-items", "skip")
    users = [int(np.flatnonzero(DEMO.users["original_id"] == user)[0]) for user in found["user"]]
    matrix = load_scorer(place / "R", DEMO).scores(np_users(DEMO.n_users)).numpy()
    assert found["user"].tolist() == ["user_9", "user_1", "user_9"]
    assert found["score"].tolist() == pytest.approx(matrix[users, [4, 7, 4]].tolist(), abs=1e-5)
    out = tmp_path / "scores.parquet"
    succeed("recommend", place / "R", "--pairs", file, "--unknown-items", "skip", "--out", out)
    assert pd.read_parquet(out)["item"].tolist() == ["item_4", "item_7", "item_4"]


def test_every_pair_has_the_score_of_the_matrix() -> None:
    draw = np.random.default_rng(0)
    scorer = Matrix(draw.standard_normal((7, 5)))
    users, items = draw.integers(0, 7, 40), draw.integers(0, 5, 40)
    np.testing.assert_allclose(score_pairs(scorer, users, items), scorer.matrix[users, items])
    with pytest.raises(DataError, match="there are 1 user and 2 items"):
        score_pairs(scorer, users[:1], items[:2])


class Matrix:
    """A scorer of a matrix."""

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix = matrix
        self.n_users, self.n_items = matrix.shape

    def scores(self, users: Any) -> Any:
        import torch

        return torch.from_numpy(self.matrix[users.numpy()].copy())


# --- limits -------------------------------------------------------------------------------------------------------


def by_hand(ranking: list[int], values: Any, limit: int, k: int) -> list[int]:
    """Down the whole ranking, an item unless each list of its values is full."""
    taken: list[int] = []
    for item in ranking:
        shared = [sum(value in values[other] for other in taken) for value in values[item]]
        if all(count < limit for count in shared):
            taken.append(item)
    return taken[:k]


@pytest.mark.parametrize("text", [f"{MAKER}=1", "belongs_to=2"])
def test_limits_are_greedy_on_the_whole_ranking(text: str) -> None:
    limit, scorer = at_most(DEMO, text), Matrix(np.random.default_rng(1).standard_normal((9, DEMO.n_items)).round(1))
    users, seen = np.arange(9), (np.arange(10) * 3, np.tile([1, 4, 5], 9))
    whole, _ = masked_topk(scorer, users, DEMO.n_items, seen)
    for k in (3, 12, DEMO.n_items):
        found = recommend(scorer, users, k, seen, limits=[limit], block=4)
        for user, row in enumerate(whole.tolist()):
            expected = by_hand([item for item in row if item >= 0], limit.values, limit.limit, k)
            assert found.loc[found["user"] == user, "item"].tolist() == expected
    assert found["rank"].max() < DEMO.n_items - 3, "lists end where no further item is within the limit"


def test_a_limit_holds_in_the_command_and_is_checked(place: Path) -> None:
    found = listed(place / "R", "--user", "user_2", "--at-most", f"{MAKER}=1", "--k", 5)
    values = at_most(DEMO, f"{MAKER}=1").values
    makers = [values[int(np.flatnonzero(item == ITEM_IDS)[0])] for item in found["item"]]
    assert len(set(makers)) == len(makers) == 5
    assert "'made_by' is not a limit" in refused(place / "R", "--user", "user_2", "--at-most", "made_by")
    assert "there is no relation 'brand'" in refused(place / "R", "--user", "user_2", "--at-most", "brand=2")


# --- shards -------------------------------------------------------------------------------------------------------


def test_shards_hold_the_lists_and_a_stopped_run_goes_on(place: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.parquet", tmp_path / "lists.parquet"
    succeed("recommend", place / "R", "--k", 4, "--out", whole)
    text = succeed("recommend", place / "R", "--k", 4, "--out", out, "--shards", 7).stdout
    assert "7 files; 240 rows, 60 users" in text
    pd.testing.assert_frame_equal(pd.read_parquet(out), pd.read_parquet(whole), check_dtype=False)
    files = sorted(out.glob("part-*"))
    before = {file: file.stat().st_mtime_ns for file in files}
    files[2].unlink()
    again = succeed("recommend", place / "R", "--k", 4, "--out", out, "--shards", 7).stdout
    assert "7 files, 6 of them were there already; " in again
    pd.testing.assert_frame_equal(pd.read_parquet(out), pd.read_parquet(whole), check_dtype=False)
    assert [file for file in files if file.stat().st_mtime_ns != before[file]] == [files[2]]
    assert "its lists were made otherwise: options" in refused(place / "R", "--k", 5, "--out", out, "--shards", 7)
    assert "name it (--out lists.parquet)" in refused(place / "R", "--k", 5, "--shards", 7)


def test_a_damaged_shard_is_made_anew(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "lists.parquet"
    succeed("recommend", place / "R", "--k", 4, "--out", out, "--shards", 3)
    files = sorted(out.glob("part-*"))
    before = [file.read_bytes() for file in files]
    files[1].write_bytes(before[1][:-9])
    sorted(out.glob("_part-*"))[2].unlink()  # killed between the shard and its note
    text = succeed("recommend", place / "R", "--k", 4, "--out", out, "--shards", 3).stdout
    assert "3 files, 1 of them were there already; 160 rows, 40 users" in text
    assert [file.read_bytes() for file in files] == before


def test_several_processes_write_what_one_does(place: Path, tmp_path: Path) -> None:
    one, several = tmp_path / "one", tmp_path / "several.parquet"
    succeed("recommend", place / "R", "--k", 4, "--out", one.with_suffix(".parquet"), "--shards", 6)
    done = succeed("recommend", place / "R", "--k", 4, "--out", several, "--shards", 6, "--processes", 3)
    assert "6 files; 240 rows, 60 users" in done.stdout
    assert "ended early" not in done.stderr
    pd.testing.assert_frame_equal(pd.read_parquet(several), pd.read_parquet(one.with_suffix(".parquet")))
    assert not [path.name for path in several.iterdir() if path.name.startswith(".")]
    assert "--shards N" in refused(place / "R", "--k", 4, "--out", several, "--processes", 2)


def test_a_killed_process_is_made_up_for(tmp_path: Path) -> None:
    code = (
        "import sys, os, signal, numpy as np, pandas as pd\n"
        "from hakg_dgl.ranking.shards import write_shards\n"
        "def lists_of(users):\n"
        "    yield pd.DataFrame({'user': users})\n"
        "    if users[0] == 4: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_shards(sys.argv[1], np.arange(8), 4, lists_of, {'k': 1})\n"
    )
    folder = tmp_path / "s"
    died = subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert list(folder.glob(".part-*.tmp"))
    calls: list[int] = []

    def lists_of(users: Any) -> Any:
        calls.append(int(users[0]))
        yield pd.DataFrame({"user": users})

    done = write_shards(folder, np.arange(8), 4, lists_of, {"k": 1})
    assert done == (4, 2, 4, 4)
    assert calls == [4, 6]
    assert pd.read_parquet(folder)["user"].tolist() == list(range(8))
    assert not list(folder.glob(".*"))


def test_processes_share_the_shards_and_make_each_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def lists_of(users: Any) -> Any:
        calls.append(int(users[0]))
        time.sleep(0.01)
        yield pd.DataFrame({"user": users})

    def work(_: int) -> Any:
        return write_shards(tmp_path / "s", np.arange(40), 20, lists_of, {"k": 1})

    with ThreadPoolExecutor(3) as pool:  # locks are between holders, so threads stand for processes
        done = list(pool.map(work, range(3)))
    assert sorted(calls) == list(range(0, 40, 2))
    assert all(each.shards == 20 for each in done)
    assert write_shards(tmp_path / "s", np.arange(40), 20, lists_of, {"k": 1}).kept == 20


def test_one_block_is_held_at_a_time(tmp_path: Path) -> None:
    alive: list[weakref.ref[pd.DataFrame]] = []
    most = 0

    def lists_of(users: Any) -> Any:
        nonlocal most
        for user in users:
            block = pd.DataFrame({"user": [user] * 100})
            alive.append(weakref.ref(block))
            yield block
            del block
            gc.collect()
            most = max(most, sum(each() is not None for each in alive))

    assert write_shards(tmp_path / "s", np.arange(20), 2, lists_of, {}).rows == 2000
    assert most <= 1


def test_a_shard_is_whole_or_absent(tmp_path: Path) -> None:
    def lists_of(users: Any) -> Any:
        yield pd.DataFrame({"user": users, "item": users})
        if users[0] > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(tmp_path / "s", np.arange(8), 2, lists_of, {"k": 1})
    names = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert names == ["_lists.json", "_part-00000-of-00002.json", "part-00000-of-00002.parquet"]
    (tmp_path / "other").mkdir()
    write(tmp_path / "other" / "mine.txt", "x")
    with pytest.raises(DataError, match=r"holds other files, such as 'mine\.txt'"):
        write_shards(tmp_path / "other", np.arange(8), 2, lists_of, {})
    with pytest.raises(ConfigError, match="shards = 0"):
        write_shards(tmp_path / "s", np.arange(8), 0, lists_of, {})


# --- conditions ---------------------------------------------------------------------------------------------------


def shop(**values: list[str]) -> Dataset:
    """Four items; ``values`` has a value of each for a relation."""
    entities = [f"{name}={value}" for name, each in values.items() for value in dict.fromkeys(each)]
    rows = [(item, r, 4 + entities.index(f"{name}={v}")) for r, (name, each) in enumerate(values.items()) for item, v in enumerate(each)]  # noqa: E501 # fmt: skip
    items = pd.DataFrame({"original_id": [f"i{n}" for n in range(4)], "name": [f"i{n}" for n in range(4)]})
    others = pd.DataFrame({"original_id": entities, "name": [text.partition("=")[2] for text in entities]})
    return Dataset(
        name="shop", interactions=pd.DataFrame({"user": [0], "item": [0], "split": ["train"]}),
        triples=pd.DataFrame(rows, columns=["head", "relation", "tail"]), users=items[:1], items=items,
        entities=pd.concat([items, others], ignore_index=True),
        relations=pd.DataFrame({"original_id": list(values), "name": list(values)}),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("price<20", [0, 1]), ("price<=20", [0, 1, 2]), ("price>9.5", [1, 2, 3]), ("price>=20", [2, 3]),
        ("size<5", [0]), ("size<=10", [0, 1]), ("size>=10", [2, 3]), ("since<2001", [0, 1]),
        ("since>=2001-03", [2, 3]), ("since<=2000", [0, 1]), ("since > 2001", [3]), ("price=20", [2]),
        ("price<15,5", [0, 1]), ("price >= 15,50 €", [2, 3]), ("price<1.000,00", [0, 1, 2, 3]),
        ("since>31/12/2000", [2, 3]),
    ],
)  # fmt: skip
def test_numbers_bins_and_dates_are_compared(condition: str, expected: list[int]) -> None:
    data = shop(
        price=["9.5", "15", "20", "120"], size=["1 to 5", "5 to 10", "10 to 20", "20 to 40"],
        since=["2000-01", "2000-12", "2001-03", "2002-01"],
    )  # fmt: skip
    assert items_where(data, condition).tolist() == expected
    assert undecided(data, condition) == [] or condition == "size<=10", "an item of '10 to 20' may be 10"


def test_a_category_above_those_of_the_items_is_proposed() -> None:
    orders = pd.DataFrame({"user": list("aabbccdd"), "item": list("01122330")})
    kinds = ["Home > Kitchen > Pans", "Home > Kitchen > Knives", "Home > Garden", "Toys > Games"]
    data = from_tables(orders, items=pd.DataFrame({"item": list("0123"), "kind": kinds}), facts={"kind": "path"})
    with pytest.raises(DataError, match="no entity 'Kitchn'") as raised:
        items_where(data, "kind=Kitchn")
    assert str(raised.value.remedy) == "By 'kind' items have, for example, 'Kitchen'."
    assert items_where(data, "kind=Kitchen").tolist() == [0, 1]


def test_items_of_a_bin_on_both_sides_are_left_out_and_counted() -> None:
    data = shop(size=["1 to 5", "5 to 10", "5 to 10", "10 to 20"], name=list("abcd"))
    assert items_where(data, "size<7").tolist() == [0]
    assert undecided(data, "size<7", "name=a") == [
        "'size<7': 2 items are left out whose size (number) may be on either side, since the data set keeps a range for them"  # noqa: E501
    ]
    with pytest.raises(DataError, match="'size<3' is true of no item, but 1 item has a range"):
        items_where(data, "size<3")
    with pytest.raises(DataError, match="'name<3' compares '3' with what are not numbers"):
        items_where(data, "name<3")
    with pytest.raises(
        DataError, match=r"'size<1,299': '1,299' may have a comma before decimals or between thousands"
    ) as two:
        items_where(data, "size<1,299")
    assert "(10.5, 1299)" in str(two.value.remedy)
    with pytest.raises(DataError, match="there is no relation 'weight'"):
        items_where(data, "weight<3")


@pytest.mark.parametrize("name", ["part of", "part_of", "subcategory_of"])
def test_a_condition_reaches_what_is_below(name: str) -> None:
    data = shop(genre=["sf", "crime", "cooking", "sf"])
    ids = [*data.entities["name"], "fiction", "books"]
    fiction, books = len(ids) - 2, len(ids) - 1
    tree = pd.DataFrame([(4, 1, fiction), (5, 1, fiction), (fiction, 1, books)], columns=["head", "relation", "tail"])
    data = dataclasses.replace(
        data,
        triples=pd.concat([data.triples, tree]),
        entities=pd.DataFrame({"original_id": ids, "name": ids}),
        relations=pd.DataFrame({"original_id": ["genre", name], "name": ["genre", name]}),
    )
    assert items_where(data, "genre=fiction").tolist() == items_where(data, "genre=books").tolist() == [0, 1, 3]
    assert items_where(data, "genre=sf").tolist() == [0, 3]
    with pytest.raises(DataError) as caught:
        items_where(data, "genre=poetry")
    assert "no names for them" not in str(caught.value)


def test_unknown_items_may_be_skipped() -> None:
    skipped: list[str] = []
    assert known_items(DEMO, ["item_3", "nix"], skipped=skipped).tolist() == [3]
    assert skipped == ["nix"]
    with pytest.raises(DataError, match="no item with the id 'nix'"):
        known_items(DEMO, ["nix"], skipped=[])


def test_a_user_of_whom_the_run_knows_nothing_is_remarked_on(place: Path, tmp_path: Path) -> None:
    relation = DEMO.user_relations["name"][0]
    file = write(tmp_path / "who.csv", f"user,{relation}\nann,nothing-known\n")
    told = hakg("recommend", place / "R", "--new-users", file, "--k", "2", "--device", "cpu")
    assert told.exit_code == 0, told.output
    assert "1 user without an item or attribute that the run knows" in told.stderr
    assert "--new-users FILE" in refused(place / "R", "--user", "nobody")
    assert "--new-users FILE" not in refused(place / "R", "--new-users", file, "--user", "nobody")
    bare = write(tmp_path / "bare.csv", "ann::1\nann::2\n")
    assert "--no-header new-users" in refused(place / "R", "--new-users", bare)


def test_long_names_do_not_widen_a_table() -> None:
    lines = table([{"name": "x" * 5000, "n": 1}]).splitlines()
    assert max(map(len, lines)) < 120


def test_a_way_of_several_levels_is_found_by_its_whole(tmp_path: Path) -> None:
    log = pd.DataFrame({"user": ["a", "b", "a"], "item": ["1", "2", "3"]})
    items = pd.DataFrame({"item": ["1", "2", "3"], "kind": ["A > X", "B > X", "B > Y"]})
    data = preprocess(read_tables(log, items=items))
    assert items_where(data, "kind=A>X").tolist() == [0]
    assert items_where(data, "kind=X").tolist() == [0, 1]
