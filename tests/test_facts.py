"""Facts from the columns of a table of items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from hakg_dgl import cli, load_dataset
from hakg_dgl.data.facts import FOLLOWS, KINDS, PART_OF, facts_of_columns
from hakg_dgl.data.readers.tables import read_tables
from hakg_dgl.errors import ConfigError, DataError

ITEMS = pd.Series([f"p{number}" for number in range(40)], dtype=object)


def facts(values: list[str | None], kind: str | None = None, column: str = "c") -> pd.DataFrame:
    items = ITEMS.head(len(values))
    found = facts_of_columns(items, pd.DataFrame({column: values}, dtype=object), {column: kind} if kind else {})
    return found.triples


def kind_of(values: list[str | None]) -> str:
    return facts_of_columns(ITEMS.head(len(values)), pd.DataFrame({"c": values}, dtype=object)).columns[0].kind


def test_values_are_entities_of_their_column() -> None:
    table = pd.DataFrame({"brand": ["a", "b", "a", None], "maker": ["a", "a", "c", "c"]}, dtype=object)
    found = facts_of_columns(ITEMS.head(4), table)
    assert [tuple(row) for row in found.triples.to_numpy()] == [
        ("p0", "brand", "brand=a"), ("p1", "brand", "brand=b"), ("p2", "brand", "brand=a"),
        ("p0", "maker", "maker=a"), ("p1", "maker", "maker=a"), ("p2", "maker", "maker=c"), ("p3", "maker", "maker=c"),
    ]  # fmt: skip
    assert dict(found.entities.to_numpy()) == {"brand=a": "a", "brand=b": "b", "maker=a": "a", "maker=c": "c"}
    assert [(row.column, row.kind, row.facts, row.entities) for row in found.columns] == [
        ("brand", "values", 3, 2), ("maker", "values", 4, 2),
    ]  # fmt: skip


def test_text_stays_as_it_is() -> None:
    assert facts(["007", "7", "007", "7.0"])["tail"].tolist() == ["c=007", "c=7", "c=007", "c=7.0"]


def test_lists_are_taken_apart() -> None:
    found = facts(["x|y", "y | x|", "y", "|"])
    assert found["head"].tolist() == ["p0", "p0", "p1", "p1", "p2"]
    assert found["tail"].tolist() == ["c=x", "c=y", "c=y", "c=x", "c=y"]
    assert facts(["x; y", "x"])["tail"].tolist() == ["c=x", "c=y", "c=x"]
    assert facts(["x, y", "x"], "list")["tail"].tolist() == ["c=x", "c=y", "c=x"]


def test_paths_are_chains_and_the_item_has_the_last_level() -> None:
    found = facts_of_columns(ITEMS.head(3), pd.DataFrame({"c": ["Home > Kitchen > Knives", "Home > Garden", "Home"]}))
    assert [tuple(row) for row in found.triples.to_numpy()] == [
        ("p0", "c", "c=Home > Kitchen > Knives"), ("p1", "c", "c=Home > Garden"), ("p2", "c", "c=Home"),
        ("c=Home > Kitchen", PART_OF, "c=Home"), ("c=Home > Kitchen > Knives", PART_OF, "c=Home > Kitchen"),
        ("c=Home > Garden", PART_OF, "c=Home"),
    ]  # fmt: skip
    names = dict(found.entities.to_numpy())
    assert names["c=Home > Kitchen > Knives"] == "Knives"
    assert names["c=Home"] == "Home"


def test_equal_names_below_different_levels_are_different() -> None:
    found = facts(["A > x", "B > x"])
    assert found["tail"].head(2).tolist() == ["c=A > x", "c=B > x"]


def test_numbers_become_bins_with_about_as_many_items_each() -> None:
    found = facts([f"{number}.5" for number in range(40)])
    of_items, order = found[found["relation"] == "c"], found[found["relation"] == FOLLOWS]
    assert of_items["tail"].value_counts().tolist() == [5] * 8
    bins = of_items["tail"].unique()
    assert order["tail"].tolist() == bins[:-1].tolist()
    assert order["head"].tolist() == bins[1:].tolist()
    assert bins[0] == "c=0.5 to 5.375"


def test_dates_are_months_of_years() -> None:
    found = facts(["2024-01-31", "2024-02-01T10:00:00", "2023-01-31", "2024-01-02"])
    assert found["tail"].head(4).tolist() == ["c=2024-01", "c=2024-02", "c=2023-01", "c=2024-01"]
    order = found[found["relation"] == PART_OF]
    assert dict(zip(order["head"], order["tail"], strict=True)) == {
        "c=2023-01": "c=2023", "c=2024-01": "c=2024", "c=2024-02": "c=2024",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([f"Thing {n}, blue" for n in range(40)], "out"),
        ([None] * 4, "out"),
        (["one"] * 40, "out"),
        (["true", "false"] * 20, "values"),
        ([str(n % 5) for n in range(40)], "values"),
        ([str(n) for n in range(40)], "bins"),
        (["12", "abc"] * 20, "values"),
        (["a > b", "a"], "path"),
        (["a>b", "a > b > c"], "path"),
        (["x|y", "x"], "list"),
        ([f"{'new, ' * (n % 2)}{'sale, ' * (n // 2 % 2)}tag {n % 5}" for n in range(40)], "list"),
        ([f"City {n % 9}, Land" for n in range(40)], "values"),
        ([f"Family {n % 9}, Name {n % 7}" for n in range(40)], "out"),
        ([f"A fine thing, number {n}; just the right one for you" for n in range(40)], "out"),
        ([f"A fine thing, number {n} | just the right one for you" for n in range(40)], "out"),
        (["2024-01-02", "2024-03-04"], "dates"),
        (["1e400", *map(str, range(39))], "out"),
    ],
)  # fmt: skip
def test_columns_are_read_by_what_they_hold(values: list[str | None], kind: str) -> None:
    assert kind_of(values) == kind


def test_every_choice_can_be_changed() -> None:
    assert facts(["x|y", "x"], "values")["tail"].tolist() == ["c=x|y", "c=x"]
    assert facts(["x", "y"], "out").empty
    assert facts(["1", "2", "3"], "bins")["relation"].tolist() == ["c", "c", "c", FOLLOWS, FOLLOWS]
    for wrong, message in (({"d": "out"}, "did you mean"), ({"c": "bin"}, "choose from values, list")):
        with pytest.raises(ConfigError, match=message):
            facts_of_columns(ITEMS.head(2), pd.DataFrame({"c": ["1", "2"], "dd": ["1", "2"]}), wrong)
    with pytest.raises(ConfigError, match="'x', which is not a number"):
        facts(["1", "x"], "bins")
    with pytest.raises(ConfigError, match="not a date"):
        facts(["1", "x"], "dates")


def test_an_item_that_is_called_like_a_value_is_another_entity() -> None:
    items = pd.Series(["brand=a", "p1"], dtype=object)
    found = facts_of_columns(items, pd.DataFrame({"brand": ["a", "b"]}, dtype=object))
    assert found.triples["tail"].tolist() == ["brand==a", "brand==b"]


texts = st.one_of(st.none(), st.text(min_size=1, max_size=8), st.sampled_from(["a > b", "1", "2.5", "x|y", "2024-01"]))


@given(st.lists(texts, min_size=1, max_size=30))
def test_whatever_a_column_holds_gives_facts_of_its_items(values: list[str | None]) -> None:
    items = ITEMS.head(len(values)) if len(values) <= len(ITEMS) else ITEMS
    found = facts_of_columns(items, pd.DataFrame({"c": values}, dtype=object))
    assert found.columns[0].kind in KINDS
    assert not found.triples.duplicated().any()
    named = set(found.entities["id"])
    assert set(found.triples["tail"]) <= named
    assert set(found.triples["head"]) <= named | set(items)


# --- by the command -----------------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An order log in two files, and a catalogue of 40 products of which 10 have no orders."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for month in (1, 2):
        rows = [(f"c{u}", item) for u in range(12) for item in rng.choice(30, 8, replace=False)]
        pd.DataFrame(rows, columns=["customer", "sku"]).to_csv(f"orders-{month}.csv", index=False)
    pd.DataFrame(
        {
            "sku": range(40),
            "title": [f"Thing {n}, blue" for n in range(40)],
            "brand": [f"Brand {n % 3}" for n in range(40)],
            "category": [f"Men > Shoes > {'Run' if n % 2 else 'Walk'}" for n in range(40)],
            "tags": ["|".join(["eco"] * (n % 2) + ["new"] * (n % 3 == 0)) for n in range(40)],
            "price": [f"{5 + 1.37 * n:.2f}" for n in range(40)],
        }
    ).to_csv("products.csv", index=False)
    return tmp_path


def preprocess(*args: str) -> Result:
    columns = ("--user-col", "customer", "--item-col", "sku", "--out", "data")
    return CliRunner().invoke(cli.main, ["preprocess", "tables", *args, *columns])


def test_a_catalogue_becomes_a_knowledge_graph(shop: Path) -> None:
    result = preprocess("--interactions", "orders-*.csv", "--items", "products.csv")
    assert result.exit_code == 0, result.output
    data = load_dataset("data")
    assert data.n_items == 40
    assert len(data.pairs()) == len(pd.concat(map(pd.read_csv, ("orders-1.csv", "orders-2.csv"))).drop_duplicates())
    assert data.relations["name"].tolist() == ["brand", "category", "follows", "part_of", "price", "tags"]
    assert data.items["name"].iloc[7] == "Thing 7, blue"
    assert data.report["catalogue_items_without_interactions"] == 10
    assert {"Brand 0", "Shoes", "Run", "eco"} <= set(data.entities["name"])
    assert [row["kind"] for row in data.options["columns"]] == ["values", "path", "list", "bins"]
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["price", "bins", "40", "8", "40", "different", "numbers"] in lines


def test_new_items_of_the_catalogue_are_listed(shop: Path) -> None:
    """Everyone who buys brand 0 buys all of it; the items of that brand without orders are then listed for them."""
    rows = [(f"c{u}", item) for u in range(30) for item in range(u % 3, 30, 3) if (item + u) % 4]
    pd.DataFrame(rows, columns=["customer", "sku"]).to_csv("orders.csv", index=False)
    assert preprocess("--interactions", "orders.csv", "--items", "products.csv").exit_code == 0
    small = [f"--set={value}" for value in ("dim=8", "layers=1", "new_items_weight=0.5", "new_items_bias=1")]
    for args in (["train", "data", "--out", "run", "--epochs", "5", "--set", "lr=0.01", *small],):
        result = CliRunner().invoke(cli.main, args)
        assert result.exit_code == 0, result.output
    result = CliRunner().invoke(cli.main, ["recommend", "run", "--user", "c0", "--k", "20"])
    assert result.exit_code == 0, result.output


def test_choices_are_changed_by_an_option(shop: Path) -> None:
    options = ("--facts", "price=out", "--facts", "title=values")
    result = preprocess("--interactions", "orders-1.csv", "--items", "products.csv", *options)
    assert result.exit_code == 2
    assert "no column 'title' for facts" in result.stderr  # it names the items
    assert preprocess("--interactions", "orders-1.csv", "--items", "products.csv", *options[:2]).exit_code == 0
    assert "price" not in load_dataset("data").relations["name"].tolist()


def test_a_log_alone_is_a_data_set(shop: Path) -> None:
    result = preprocess("--interactions", "orders-1.csv")
    assert result.exit_code == 0, result.output
    assert "nothing is known of the items" in result.stdout
    assert load_dataset("data").n_relations == 0
    trained = CliRunner().invoke(cli.main, ["train", "data", "--out", "run", "--model", "ease"])
    assert trained.exit_code == 0, trained.output


def test_triples_and_a_catalogue_are_taken_together(shop: Path) -> None:
    Path("more.csv").write_text("head,relation,tail\nQ3,made_in,x\nQ4,made_in,x\n")
    Path("links.csv").write_text("item,entity\n3,Q3\n4,Q4\n")
    files = {"interactions": "orders-1.csv", "items": "products.csv", "triples": "more.csv", "links": "links.csv"}
    result = preprocess(*(word for name, file in files.items() for word in (f"--{name}", file)))
    assert result.exit_code == 0, result.output
    data = load_dataset("data")
    assert data.n_items == 40
    made_in = data.relations["name"].tolist().index("made_in")
    heads = data.triples.loc[data.triples["relation"] == made_in, "head"]
    assert sorted(data.items["original_id"].iloc[heads]) == ["3", "4"]
    brand = data.relations["name"].tolist().index("brand")
    assert (data.triples["relation"] == brand).sum() == 40


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "number,brand\n1,a\n",
            "products.csv, line 1: no column 'sku' with the ids of items; there are: 'number', 'brand'",
        ),
        ("sku,brand\n,a\n", "products.csv: no row has an id"),
        ("sku,brand\n", "products.csv: there is no row below the header"),
        ("sku,item,brand\n1,x,a\n", "column 'item' is neither the id nor the name of items"),
    ],
)
def test_what_is_wrong_with_a_catalogue_is_named(shop: Path, content: str, message: str) -> None:
    Path("products.csv").write_text(content)
    result = preprocess("--interactions", "orders-1.csv", "--items", "products.csv")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not Path("data").exists()


def test_a_catalogue_given_as_triples_is_told_where_it_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("orders.csv").write_text("user,item\nann,1\nbob,2\nann,2\n")
    Path("products.csv").write_text("item,title,brand\n1,Pot,Acme\n2,Pan,Acme\n")
    with pytest.raises(DataError) as caught:
        read_tables("orders.csv", triples="products.csv")
    assert caught.value.line == 1
    assert "no column 'head'; there are: 'item', 'title', 'brand'" in str(caught.value)
    assert "is read by --items" in str(caught.value)
    pd.read_csv("products.csv").to_parquet("products.parquet")
    pd.read_csv("products.csv").to_json("products.jsonl", orient="records", lines=True)
    pd.read_csv("products.csv").to_csv("products.csv.gz", index=False)
    Path("one-column-of-a-triple.csv").write_text("id,s,relation,note\n1,Pot,Acme,a\n2,Pan,Acme,b\n")
    for name in ("products.parquet", "products.jsonl", "products.csv.gz", "one-column-of-a-triple.csv"):
        with pytest.raises(DataError, match="is read by --items"):
            read_tables("orders.csv", triples=name)


def test_the_column_of_ids_may_be_named_and_that_of_names_has_other_common_names(tmp_path: Path) -> None:
    log, items = tmp_path / "orders.csv", tmp_path / "products.csv"
    log.write_text("user,item\nann,1\nbob,2\nann,2\n")
    items.write_text("nr,Product-Name,brand\n1,Pot,Acme\n2,Pan,Acme\n")
    with pytest.raises(DataError, match="--items-id-col"):
        read_tables(log, items=items)
    raw = read_tables(log, items=items, items_id_col="nr")
    assert raw.items is not None
    assert raw.items.to_numpy().tolist() == [["1", "Pot"], ["2", "Pan"]]
    assert any("'Product-Name' is read as the name" in note for note in raw.notes)
    with pytest.raises(DataError, match="no column 'number'"):
        read_tables(log, items=items, items_id_col="number")
