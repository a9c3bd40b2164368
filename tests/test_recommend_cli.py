"""``hakg recommend`` with candidates, conditions and new users; the functions behind them."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bad_input import hakg
from hypothesis import given
from hypothesis import strategies as st
from small_demo import small_demo, small_settings

from hakg_dgl import Dataset, items_where, load_fold_in, make_trainer, read_new_users, recommend
from hakg_dgl.data.id_files import read_item_ids
from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.ranking.candidates import known_items

DEMO = small_demo()
ITEM_IDS = DEMO.items["original_id"].to_numpy()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data set ``D`` and the runs ``R`` and ``MF`` (bpr-mf)."""
    folder = tmp_path_factory.mktemp("recommend")
    DEMO.save(folder / "D")
    for name, kind in (("R", "hakg"), ("MF", "bpr-mf")):
        settings = small_settings(kind=kind, epochs=2)
        make_trainer(DEMO, settings, run=folder / name, data_path=folder / "D").fit()
    return folder


def succeed(*args: object) -> Any:
    result = hakg("recommend", *args, "--device", "cpu")
    assert result.exit_code == 0, result.output
    return result


def refused(*args: object) -> str:
    result = hakg("recommend", *args, "--device", "cpu")
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return str(result.stderr)


def lines(result: Any) -> pd.DataFrame:
    return pd.DataFrame([json.loads(line) for line in result.stdout.splitlines()])


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# --- conditions ---------------------------------------------------------------------------------------------------


def facts(dataset: Dataset) -> pd.DataFrame:
    """Every fact of an item, whichever end it is: item, relation and entity by number."""
    triples = dataset.triples
    turned = triples.rename(columns={"head": "tail", "tail": "head"})
    both = pd.concat([triples, turned]).rename(columns={"head": "item", "tail": "entity"})
    return both[both["item"] < dataset.n_items]


def test_items_with_a_fact_are_found_by_id_and_by_name() -> None:
    table = facts(DEMO)
    relation, entity = table[["relation", "entity"]].iloc[0]
    expected = sorted({*table.loc[(table["relation"] == relation) & (table["entity"] == entity), "item"]})
    for key in ("original_id", "name"):
        condition = f"{DEMO.relations[key].iloc[relation]}={DEMO.entities[key].iloc[entity]}"
        assert items_where(DEMO, condition).tolist() == expected
        assert items_where(DEMO, condition.replace("=", " = ")).tolist() == expected


def renamed(**tables: Any) -> Dataset:
    """The demo with other names: table -> row -> name."""
    frames = {}
    for table, names in tables.items():
        frame = getattr(DEMO, table).copy()
        for row, name in names.items():
            frame.loc[row, "name"] = name
        frames[table] = frame
    return dataclasses.replace(DEMO, **frames)


def test_an_id_comes_before_a_name_and_a_name_stands_for_all_that_have_it() -> None:
    table = facts(DEMO)
    relation = int(table["relation"].iloc[0])
    mine = table[table["relation"] == relation]
    one, two = mine["entity"].unique()[:2]
    name = str(DEMO.relations["name"].iloc[relation])
    both = renamed(entities={one: "same", two: "same"})
    assert items_where(both, f"{name}=same").tolist() == sorted({*mine.loc[mine["entity"].isin([one, two]), "item"]})
    first_id = str(DEMO.entities["original_id"].iloc[one])
    confusing = renamed(entities={two: first_id})
    assert items_where(confusing, f"{name}={first_id}").tolist() == sorted({*mine.loc[mine["entity"] == one, "item"]})


def test_both_sides_of_a_condition_may_hold_an_equals_sign() -> None:
    table = facts(DEMO)
    relation, entity = map(int, table[["relation", "entity"]].iloc[0])
    odd = renamed(relations={relation: "a=b"}, entities={entity: "c=d"})
    plain = f"{DEMO.relations['name'].iloc[relation]}={DEMO.entities['name'].iloc[entity]}"
    assert items_where(odd, "a=b=c=d").tolist() == items_where(DEMO, plain).tolist()


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("genre", "'genre' is not a condition\nWrite relation=entity, such as belongs_to=..."),
        ("", "'' is not a condition"),
        ("made_bye=x", "'made_bye=x': there is no relation 'made_bye'\nThere are 4, such as 'made_by'."),
        ("=x", "'=x': there is no relation ''\nThere are 4, such as 'belongs_to', 'subcategory_of'"),
        (
            "made_by=nobody",
            "'made_by=nobody': there is no entity 'nobody'\nBy 'made_by' items have, for example, 'Maker",
        ),
        ("made_by=MAKER 3", "there is no entity 'MAKER 3'\nBy 'made_by' items have, for example, 'Maker 3'."),
        ("made_by=year_1989", "no item has 'year_1989' by the relation 'made_by'\nBy 'made_by' items have"),
        ("subcategory_of=maker_1", "no item has 'maker_1' by the relation 'subcategory_of'\nNo item has any by it."),
    ],
)
def test_a_condition_that_matches_nothing_is_refused_by_name(condition: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        items_where(DEMO, condition)
    assert message in str(caught.value)


def test_conditions_hold_together_or_are_refused() -> None:
    table = facts(DEMO)
    by_item = table[table["relation"] == 2].merge(table[table["relation"] == 3], on="item")
    first = by_item.iloc[0]
    maker, year = (DEMO.entities["name"].iloc[int(first[key])] for key in ("entity_x", "entity_y"))
    found = items_where(DEMO, f"made_by={maker}", f"released_in={year}")
    assert found.tolist() == sorted(
        {*by_item.loc[(by_item["entity_x"] == first["entity_x"]) & (by_item["entity_y"] == first["entity_y"]), "item"]}
    )
    other = DEMO.entities["name"].iloc[int(by_item.loc[by_item["entity_x"] != first["entity_x"], "entity_x"].iloc[0])]
    with pytest.raises(DataError, match="is true of some items, but all of them of none"):
        items_where(DEMO, f"made_by={maker}", f"made_by={other}")  # an item has one maker


@given(st.text(max_size=12))
def test_text_that_names_no_relation_is_refused_with_it(text: str) -> None:
    with pytest.raises(DataError) as caught:
        items_where(DEMO, text)
    assert repr(text) in str(caught.value)


def test_a_list_is_limited_to_items_with_a_fact(place: Path) -> None:
    condition = f"made_by={DEMO.entities['name'].iloc[facts(DEMO).query('relation == 2')['entity'].iloc[0]]}"
    allowed = {*ITEM_IDS[items_where(DEMO, condition)]}
    listed = lines(succeed(place / "R", "--user", "user_1", "--where", condition, "--include-seen", "--json"))
    assert {*listed["item"]} == allowed
    assert "there is no relation 'maker'" in refused(place / "R", "--user", "user_1", "--where", "maker=x")


# --- named items --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["some.txt", "some.csv", "some.tsv", "some.parquet", "some.txt.gz"])
def test_candidates_come_from_options_and_files(place: Path, tmp_path: Path, name: str) -> None:
    path, ids = tmp_path / name, ["item_3", "item_8"]
    if name.endswith(".parquet"):
        pd.DataFrame({"item": ids}).to_parquet(path)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress("\n".join(ids).encode()))
    else:
        write(path, ("" if ".txt" in name else "item\n") + "\n".join(ids) + "\n\n")
    assert read_item_ids(path) == ids
    listed = lines(
        succeed(place / "R", "--user", "user_1", "--items", path, "--item", "item_5", "--include-seen", "--json")
    )
    assert sorted(listed["item"]) == ["item_3", "item_5", "item_8"]
    assert listed["rank"].tolist() == [1, 2, 3]


def test_unknown_candidates_are_counted_and_refused(place: Path, tmp_path: Path) -> None:
    message = refused(place / "R", "--user", "user_1", "--item", "nix", "--item", "item_1", "--item", "nope")
    assert "2 of 3 items are not in the data set, such as 'nix', 'nope'\nIds look like these: 'item_0'" in message
    assert "there is no id in it" in refused(
        place / "R", "--user", "user_1", "--items", write(tmp_path / "e.txt", "\n ")
    )
    assert "No such file" in refused(place / "R", "--user", "user_1", "--items", tmp_path / "gone.txt")
    with pytest.raises(DataError, match="no items to choose from"):
        known_items(DEMO, [])


def test_scores_of_a_list_have_as_many_digits(capsys: pytest.CaptureFixture[str]) -> None:
    from hakg_dgl.cli.recommend import _print

    _print(pd.DataFrame({"user": "u", "rank": [1, 2], "item": "i", "name": "n", "score": [11.66666, 9.5]}))
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[2:4]] == ["11.6667", "9.5000"]


def test_items_are_known_by_a_name_that_one_of_them_has() -> None:
    named = renamed(items={4: "Heat", 7: "Chasing Amy", 9: "Chasing Amy", 3: "item_8"})
    assert known_items(named, ["Heat", "item_2"]).tolist() == [2, 4]
    assert known_items(named, ["item_8"]).tolist() == [8], "ids come before names"
    with pytest.raises(DataError, match=r"2 items have the name 'Chasing Amy'\nGive an id: 'item_7', 'item_9'\."):
        known_items(named, ["Heat", "Chasing Amy"])
    with pytest.raises(DataError, match=r"There are 'Chasing Amy' \(item_7\), 'Chasing Amy' \(item_9\). Ids look like"):
        known_items(named, ["chasing"])
    with pytest.raises(DataError, match=r"no item with the id 'Haet'\nThere are 'Heat' \(item_4\)"):
        known_items(named, ["Haet"])


@pytest.mark.parametrize("condition", ["genre=Comedy", "genre"])
def test_without_relations_there_is_no_condition(condition: str) -> None:
    bare = dataclasses.replace(DEMO, triples=DEMO.triples.head(0), relations=DEMO.relations.head(0))
    with pytest.raises(DataError, match=f"'{condition}': the data set has no relations\nLeave"):
        items_where(bare, condition)


def test_entities_without_names_are_told_by_items_in_the_message() -> None:
    bare = dataclasses.replace(DEMO, entities=DEMO.entities.assign(name=DEMO.entities["original_id"]))
    with pytest.raises(DataError) as caught:
        items_where(bare, "made_by=Comedy")
    assert re.search(r"for example, 'maker_[0-9]+' \(made_by: \w.*; …\), ", str(caught.value)), caught.value
    assert str(caught.value).endswith("The data set has no names for them, only ids: give one of these.")
    backwards = bare.entities.set_index(pd.RangeIndex(bare.n_entities)[::-1])  # rows are numbers, whatever their labels
    with pytest.raises(DataError) as again:
        items_where(dataclasses.replace(bare, entities=backwards), "made_by=Comedy")
    assert str(again.value) == str(caught.value)
    with pytest.raises(DataError, match="No item has any by it"):
        items_where(bare, "subcategory_of=Comedy")
    dotted = renamed(relations={0: "film.film.genre", 1: "film.genre.films"})
    with pytest.raises(DataError, match=r"such as 'film.film.genre', 'film.genre.films'\."):
        items_where(dotted, "genre=x")


def test_named_items_without_the_fact_are_refused(place: Path) -> None:
    maker = int(facts(DEMO).query("relation == 2")["entity"].iloc[0])
    condition = f"made_by={DEMO.entities['original_id'].iloc[maker]}"
    without = next(i for i in range(DEMO.n_items) if i not in items_where(DEMO, condition))
    message = refused(place / "R", "--user", "user_1", "--item", ITEM_IDS[without], "--where", condition)
    assert f"of the items named none has {condition}" in message


# --- new users ----------------------------------------------------------------------------------------------------

TABLE = "user,item\nann,item_4\nbob,item_9\nann,item_2\nann,item_4\n"


def test_lists_of_new_users_are_those_of_the_fold_in(place: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "new.csv", TABLE)
    result = succeed(place / "R", "--new-users", file, "--k", 4, "--json")
    assert f"{file}: 1 repeat dropped." in result.stderr
    new = read_new_users(file, DEMO)
    assert new.ids.tolist() == ["ann", "bob"]
    assert [new.indptr.tolist(), new.items.tolist()] == [[0, 2, 3], [2, 4, 9]]
    expected = recommend(load_fold_in(place / "R", DEMO).scorer(*new.lists), np.arange(2), 4, seen=new.lists)
    listed = lines(result)
    assert listed["user"].tolist() == ["ann"] * 4 + ["bob"] * 4
    assert listed["item"].tolist() == ITEM_IDS[expected["item"]].tolist()
    assert listed["score"].tolist() == pytest.approx(expected["score"].tolist(), abs=1e-6)
    whole = lines(succeed(place / "R", "--new-users", file, "--user", "bob", "--k", 99, "--include-seen", "--json"))
    assert sorted(whole["item"]) == sorted(ITEM_IDS)
    assert {*whole["user"]} == {"bob"}


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_lists_of_new_users_are_written(place: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"lists{suffix}"
    text = TABLE.replace("user,item", "who\twhat").replace(",", "\t")
    file = write(tmp_path / "new.tsv", text)
    options = ("--user-col", "who", "--item-col", "what", "--k", 3)
    assert f"Wrote {out}: 6 rows, 2 users" in succeed(place / "R", "--new-users", file, *options, "--out", out).stdout
    read = {".csv": pd.read_csv, ".parquet": pd.read_parquet}.get(suffix, lambda path: pd.read_json(path, lines=True))
    assert read(out)["user"].tolist() == ["ann"] * 3 + ["bob"] * 3  # type: ignore[operator]


def test_unknown_items_of_new_users_are_refused_or_skipped_with_a_count(place: Path, tmp_path: Path) -> None:
    rows = "user,item\nann,item_4\nann,nix\nbob,nope\nuser_1,item_1\n,item_1\neve,\n"
    file = write(tmp_path / "new.csv", rows)
    message = refused(place / "R", "--new-users", file)
    assert f"{file}: 2 rows are of 2 items that are not in the data set, such as 'nix', 'nope'" in message
    assert "skip them (--unknown-items skip)" in message
    result = succeed(place / "R", "--new-users", file, "--unknown-items", "skip", "--k", 1)
    for note in (
        "2 rows without id dropped", "2 rows of unknown items skipped", "1 user without known item left out",
        "1 user known by the data set whose past counts",
    ):  # fmt: skip
        assert f"Note: {file}: {note}." in result.stderr
    assert [line for line in result.stdout.splitlines() if line[:1] in "U"] == ["User ann", "", "User user_1", ""]
    file = write(tmp_path / "none.csv", "user,item\nann,nix\n")
    assert "no row has a user and an item of the data set" in refused(
        place / "R", "--new-users", file, "--unknown-items", "skip"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("user,item\n", "there is no row below the header"),
        ("who,item\na,item_1\n", "user"),
        ("user,item\nann,item_1,3\n", "line 2"),
    ],
)
def test_files_that_cannot_be_read_are_refused_with_their_name(
    place: Path, tmp_path: Path, text: str, message: str
) -> None:
    file = write(tmp_path / "new.csv", text)
    said = refused(place / "R", "--new-users", file)
    assert str(file) in said
    assert message in said


def test_what_new_users_cannot_be_used_for(place: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "new.csv", TABLE)
    assert "there is no user with the id 'cy'\nIds look like these: 'ann', 'bob'." in refused(
        place / "R", "--new-users", file, "--user", "cy"
    )
    assert "model 'bpr-mf' has no vectors for users it was not trained on" in refused(place / "MF", "--new-users", file)
    with pytest.raises(ConfigError, match="unknown_items = 'drop' is not allowed"):
        read_new_users(file, DEMO, unknown_items="drop")  # type: ignore[arg-type]


interactions = st.lists(
    st.tuples(st.sampled_from(["u1", "u2", "ü", ""]), st.sampled_from(["item_1", "item_2", "x", ""])), min_size=1
)


@given(interactions)
def test_every_row_of_new_users_is_kept_or_counted(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    file = tmp_path_factory.getbasetemp() / "rows.csv"
    write(file, "user,item,more\n" + "".join(f"{user},{item},1\n" for user, item in rows))
    wanted = {(user, item) for user, item in rows if user and item in ("item_1", "item_2")}
    if not wanted:
        with pytest.raises(DataError, match="no row has a user and an item"):
            read_new_users(file, DEMO, unknown_items="skip")
        return
    new = read_new_users(file, DEMO, unknown_items="skip")
    owners = np.repeat(new.ids.to_numpy(), np.diff(new.indptr))
    assert {*zip(owners, ITEM_IDS[new.items], strict=True)} == wanted
    counts = ("rows_without_id_dropped", "repeats_dropped", "rows_of_unknown_items_skipped")
    assert len(new.items) + sum(new.report[name] for name in counts) == len(rows)


# --- many users ---------------------------------------------------------------------------------------------------


def test_rows_are_written_in_large_blocks_whole_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    command = pytest.importorskip("hakg_dgl.cli.recommend")
    monkeypatch.setattr(command, "_ROWS_AT_ONCE", 10)
    blocks = [pd.DataFrame({"x": range(start, start + 4)}) for start in range(0, 32, 4)]
    joined = list(command._joined(iter(blocks)))
    assert [len(block) for block in joined] == [12, 12, 8]
    assert pd.concat(joined)["x"].tolist() == list(range(32))


# --- users with nothing left --------------------------------------------------------------------------------------


def everything(path: Path) -> Path:
    """A table of new users: ``power`` has every item, ``light`` has one."""
    rows = [f"power,{item}" for item in ITEM_IDS] + [f"light,{ITEM_IDS[0]}"]
    return write(path / "new.csv", "user,item\n" + "\n".join(rows) + "\n")


def test_a_user_who_has_every_item_gets_a_line(place: Path, tmp_path: Path) -> None:
    text = succeed(place / "R", "--new-users", everything(tmp_path), "--k", 2).stdout
    assert text.startswith("User light\n")
    assert "\n\nUser power\nNothing is left to list: " in text
    assert "--include-seen" in text


@pytest.mark.parametrize("args", [["--json"], ["--out", "lists.csv"], ["--out", "lists.parquet"], ["--out", "l.jsonl"]])
def test_the_list_of_a_user_who_has_every_item_is_empty(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    everything(tmp_path)
    alone = succeed(place / "R", "--new-users", "new.csv", "--user", "power", *args)
    assert "Note: Nothing is left to list for power (1 in all): " in alone.stderr
    if args == ["--json"]:
        assert alone.stdout == ""
    elif args[1] == "l.jsonl":
        assert Path("l.jsonl").read_text() == ""
    else:
        written = pd.read_csv(args[1]) if args[1].endswith("csv") else pd.read_parquet(args[1])
        assert (len(written), list(written)) == (0, ["user", "rank", "item", "name", "score"])
    both = succeed(place / "R", "--new-users", "new.csv", *args)
    assert "for power (1 in all)" in both.stderr
