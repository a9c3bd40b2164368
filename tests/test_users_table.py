"""A table of users, a row a user: its facts, from files and from the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bad_input import hakg

from hakg_dgl.data.dataset import Dataset, load_dataset
from hakg_dgl.data.id_files import read_new_users
from hakg_dgl.data.preprocess import preprocess
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.data.readers.tables import read_tables
from hakg_dgl.data.readers.users_table import people_of, with_people
from hakg_dgl.errors import ConfigError, DataError

N = 30


@pytest.fixture
def shop(here: Path) -> Path:
    """30 customers with attributes, of whom 28 order; an item table with a column of the same name."""
    orders = [(f"{u:03d}", f"p{(u * j + j) % 12}") for u in range(N - 2) for j in range(1, 5)]
    pd.DataFrame(orders, columns=["customer", "item"]).to_csv("orders.csv", index=False)
    rows = [
        (f"{u:03d}", f"Ann {u}", "mf"[u % 2], 20.5 + u, f"202{u % 3}-0{1 + u % 4}-02", ["a|b", "b", "", "c|a"][u % 4],
         "Paris" if u % 3 else None)
        for u in range(N)
    ]  # fmt: skip
    people = pd.DataFrame(rows, columns=["customer", "name", "gender", "age", "since", "likes", "city"])
    people.to_csv("people.csv", index=False)
    items = [(f"p{i}", ["Paris", "Rome"][i % 2]) for i in range(12)]
    pd.DataFrame(items, columns=["item", "city"]).to_csv("items.csv", index=False)
    return here


def read(**options: object) -> Dataset:
    return preprocess(read_tables("orders.csv", user_col="customer", users="people.csv", **options))  # type: ignore[arg-type]


def facts_of(data: Dataset, user: str) -> set[tuple[str, str]]:
    number = data.users["original_id"].tolist().index(user)
    rows = data.user_facts[data.user_facts["user"] == number]
    names = data.user_relations["original_id"].iloc[rows["relation"]], data.entities["name"].iloc[rows["entity"]]
    return set(zip(*names, strict=True))


def test_columns_become_facts_of_users(shop: Path) -> None:
    data = read()
    assert facts_of(data, "004") == {
        ("gender", "m"), ("age", "24.125 to 27.75"), ("since", "2021-01"), ("likes", "a"), ("likes", "b"),
        ("city", "Paris"),
    }  # fmt: skip
    assert [(row["column"], row["kind"]) for row in data.options["user_columns"]] == [
        ("gender", "values"), ("age", "bins"), ("since", "dates"), ("likes", "list"), ("city", "values"),
    ]  # fmt: skip
    assert data.users["name"].iloc[4] == "Ann 4"
    assert data.n_users == N - 2
    assert data.report["users_of_the_table_without_interactions_left_out"] == 2
    assert data.report["user_facts_of_users_without_interactions_dropped"] > 0


def test_bins_and_dates_keep_their_order(shop: Path) -> None:
    data = read()
    names = data.entities["name"]
    follows = data.triples[data.triples["relation"] == data.relations["name"].tolist().index("follows")]
    ages = sorted({fact for user in range(N - 2) for name, fact in facts_of(data, f"{user:03d}") if name == "age"})
    assert len(ages) == 8
    assert set(names.iloc[follows["tail"]]) | set(names.iloc[follows["head"]]) == set(ages)
    part_of = data.triples[data.triples["relation"] == data.relations["name"].tolist().index("part_of")]
    assert {names.iloc[t] for t in part_of["tail"]} == {"2020", "2021", "2022"}


def test_a_value_of_users_is_another_entity_than_that_of_items(shop: Path) -> None:
    data = read(items="items.csv")
    assert sorted(data.entities.loc[data.entities["name"] == "Paris", "original_id"]) == [
        "city=Paris", "user:city=Paris",
    ]  # fmt: skip
    assert set(data.user_facts["entity"]).isdisjoint(data.triples.loc[data.triples["head"] < data.n_items, "tail"])


def test_attributes_of_new_users_are_found_as_those_of_the_table(shop: Path) -> None:
    data = read(items="items.csv")
    Path("new.csv").write_text("user,gender,age,since,city,likes\nzoe,f,22,2021-01-30,Paris,a|c\nmax,m,5,,Rome,b\n")
    found = read_new_users("new.csv", data)
    names = {
        relation: [
            data.entities["original_id"].iloc[packed[1][packed[0][u] : packed[0][u + 1]]].tolist() for u in (0, 1)
        ]
        for relation, packed in found.facts.items()
    }
    assert names == {
        "gender": [["user:gender=f"], ["user:gender=m"]],
        "age": [["user:age=20.5 to 24.125"], ["user:age=20.5 to 24.125"]],
        "since": [["user:since=2021-01"], []],
        "city_1": [["user:city=Paris"], []],  # items have a relation of that name too
        "likes": [["user:likes=a", "user:likes=c"], ["user:likes=b"]],
    }


def test_an_id_that_looks_like_an_attribute_is_no_attribute(shop: Path) -> None:
    pd.DataFrame({"head": ["p0"], "relation": ["r"], "tail": ["user:gender=m"]}).to_csv("facts.csv", index=False)
    data = read(triples="facts.csv")
    assert (data.entities["original_id"] == "user:gender=m").sum() == 1
    assert (data.entities["original_id"] == "user::gender=m").sum() == 1
    of_users = set(data.entities["original_id"].iloc[data.user_facts["entity"].unique()])
    assert "user:gender=m" not in of_users


def test_the_command_says_what_it_made_of_each_column(shop: Path) -> None:
    options = ("--interactions", "orders.csv", "--user-col", "customer", "--users", "people.csv")
    done = hakg("preprocess", "tables", *options, "--user-columns", "age=out", "--out", "data")
    assert done.exit_code == 0, done.output
    assert "column of users" in done.stdout
    assert "2 users of the table without interactions left out" in done.stdout
    data = load_dataset("data")
    assert "age" not in set(data.user_relations["name"])
    assert {"gender", "since", "likes", "city"} == set(data.user_relations["name"])


def test_links_between_users_of_two_tables(shop: Path) -> None:
    Path("friends.csv").write_text("user,friend\n001,002\n002,001\n003,003\n001,029\n")
    data = read(user_links="friends.csv")
    assert data.user_links[["user", "other"]].to_numpy().tolist() == [[1, 2], [2, 1]]
    assert data.report["user_links_to_oneself_dropped"] == 1
    assert data.report["user_links_with_users_without_interactions_dropped"] == 1


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (
            "who,age\n1,2\n",
            (),
            "people.csv, line 1: no column 'customer' with the ids of users; there are: 'who', 'age'",
        ),
        ("customer,age\n,2\n", (), "people.csv: no row has an id"),
        ("customer,user,age\n1,2,3\n", (), "column 'user' is neither the id nor the name of users"),
        ("customer,age\n1,2\n2,3\n", (), "none of the 2 users of the table of users has an interaction"),
        ("customer,age\n001,2\n", ("--user-columns", "agee=bins"), "the table of users has no column 'agee'"),
        ("customer,age\n001,2\n", ("--user-columns", "age=path of"), "cannot be read as 'path of'"),
        ("customer,age\n001,2\n", ("--user-columns", "age"), "--user-columns takes COLUMN=KIND"),
    ],
)
def test_what_is_wrong_is_named(shop: Path, content: str, options: tuple[str, ...], message: str) -> None:
    Path("people.csv").write_text(content)
    tables = ("--interactions", "orders.csv", "--user-col", "customer", "--users", "people.csv", "--out", "data")
    done = hakg("preprocess", "tables", *tables, *options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not Path("data").exists()


def test_user_columns_need_a_table(shop: Path) -> None:
    done = hakg("preprocess", "tables", "--interactions", "orders.csv", "--user-columns", "age=bins", "--out", "data")
    assert done.exit_code == 2
    assert "give that too" in done.stderr


def test_rows_that_a_reader_has_read_become_facts(shop: Path) -> None:
    """The door for readers of other formats."""
    rows = pd.DataFrame({"user": ["a", "b", "a"], "name": None, "job": ["x", "y", "z"]}, dtype=object)
    log = pd.DataFrame({"user": ["a", "b"], "item": ["p", "p"]})
    raw = RawData("toy", log, pd.DataFrame({"head": [], "relation": [], "tail": []}, dtype=object))
    data = preprocess(with_people(raw, people_of(rows)))
    assert facts_of(data, "a") == {("job", "x"), ("job", "z")}
    assert facts_of(data, "b") == {("job", "y")}
    with pytest.raises(ConfigError, match="table of users has no column"):
        people_of(rows, {"city": "values"})
    stranger = people_of(rows.assign(user=np.array(["s", "t", "s"], dtype=object)))
    with pytest.raises(DataError, match="none of the 2 users"):
        preprocess(with_people(raw, stranger))


def test_the_column_of_ids_may_have_another_name_than_in_the_log(shop: Path) -> None:
    people = pd.read_csv("people.csv", dtype=str).rename(columns={"customer": "cust_no"})
    people.to_csv("people.csv", index=False)
    tables = ("--interactions", "orders.csv", "--user-col", "customer", "--users", "people.csv", "--out", "data")
    assert "--users-id-col" in hakg("preprocess", "tables", *tables).stderr
    done = hakg("preprocess", "tables", *tables, "--users-id-col", "cust_no")
    assert done.exit_code == 0, done.output
    assert "gender" in set(load_dataset("data").user_relations["name"])


@pytest.mark.parametrize("option", ["--items-id-col", "--head-col", "--friend-col", "--name-col", "--fact-user-col"])
def test_a_column_of_a_table_that_is_not_given_is_refused(shop: Path, option: str) -> None:
    done = hakg("preprocess", "tables", "--interactions", "orders.csv", option, "x", "--out", "data")
    assert done.exit_code == 2
    assert f"{option} is about a column of" in done.stderr


def test_tables_with_typed_headers_beside_a_graph(shop: Path) -> None:
    log = pd.DataFrame({"user_id:token": ["a", "b", "a"], "item_id:token": ["1", "2", "3"]})
    facts = pd.DataFrame({"head_id:token": ["1", "2"], "relation_id:token": ["g"] * 2, "tail_id:token": ["x", "x"]})
    users = pd.DataFrame({"user_id:token": ["a", "b"], "age:float": [20.0, 30.0], "likes:token_seq": ["p q", "q"]})
    raw = read_tables(log, facts, users=users, user_columns={"age": "values"})
    found = {tuple(row) for row in raw.user_facts.to_numpy()}
    assert found == {
        ("a", "age", "user:age=20"),
        ("b", "age", "user:age=30"),
        ("a", "likes", "user:likes=p"),
        ("a", "likes", "user:likes=q"),
        ("b", "likes", "user:likes=q"),
    }
    Path("rb").mkdir()
    for end, frame in (("inter", log), ("kg", facts), ("user", users)):
        frame.to_csv(f"rb/rb.{end}", sep="\t", index=False)
    assert "need no link" in hakg("preprocess", "rb", "--out", "data").stderr
    pd.DataFrame({"item_id:token": ["1"], "entity_id:token": ["1"]}).to_csv("rb/rb.link", sep="\t", index=False)
    done = hakg("preprocess", "rb", "--out", "data")
    assert "rb.user is not read" in done.stdout
