"""``hakg preprocess`` and ``hakg info``: every kind of source, what is written and what is said."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from hakg_dgl.data import cards
from hakg_dgl.data.dataset import load_dataset
from hakg_dgl.data.downloads import git_blob_id
from hakg_dgl.data.kgat_files import write_kgat
from hakg_dgl.data.synthetic import generate_demo

cli = pytest.importorskip("hakg_dgl.cli", reason="python -m pip install -e .")


def hakg(*args: object) -> Result:
    return CliRunner().invoke(cli.main, [str(arg) for arg in args])


def succeed(*args: object) -> Result:
    result = hakg(*args)
    assert result.exit_code == 0, result.output
    return result


KGAT = {
    "train.txt": "0 0 1 1\n1 1 2\n2\n",
    "test.txt": "0 2 1\n1 0\n",
    "kg_final.txt": "0 0 3\n1 0 3\n2 1 4\n2 1 4\n",
}


def write_files(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_demo(tmp_path: Path) -> None:
    result = succeed("preprocess", "demo", "--out", tmp_path / "data", "--seed", 7, "--valid", 0.2)
    dataset = load_dataset(tmp_path / "data")
    assert (dataset.name, dataset.n_users, dataset.n_items) == ("demo", 600, 800)
    assert dataset.options["seed"] == 7
    assert dataset.options["valid"] == 0.2
    assert "600 users" in result.stdout
    assert f"hakg train {tmp_path / 'data'}" in result.stdout
    assert "2,007" not in result.stdout  # the seed is in the report, and counts nothing
    assert result.stderr == ""  # no bar where stderr is not a terminal, and no line within half a minute
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_the_seed_changes_the_demo(tmp_path: Path) -> None:
    digests = set()
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        succeed("preprocess", "demo", "--out", tmp_path / out, "--seed", seed)
        digests.add(load_dataset(tmp_path / out).digest)
    assert len(digests) == 2


def test_a_kgat_folder_keeps_its_split_and_repairs_are_told_with_counts(tmp_path: Path) -> None:
    source = write_files(tmp_path / "tiny", KGAT)
    result = succeed("preprocess", source, "--out", tmp_path / "data", "--valid", 0)
    dataset = load_dataset(tmp_path / "data")
    assert dataset.pairs("train").tolist() == [[0, 0], [0, 1], [1, 1], [1, 2]]
    assert dataset.pairs("test").tolist() == [[0, 2], [1, 0]]
    assert dataset.split_strategy == "given"
    told = [line.strip() for line in result.stdout.splitlines()]
    for line in (
        "1 train repeat dropped",
        "1 train test overlap dropped from test",
        "1 train line with user alone",
        "1 triple repeat dropped",
    ):
        assert line in told
    assert not any(line.startswith("0 ") for line in told)


def test_a_kgat_folder_with_names_from_a_given_format(tmp_path: Path) -> None:
    raw = generate_demo()
    raw.interactions["split"] = "train"
    raw.interactions.loc[::5, "split"] = "test"
    write_kgat(raw, tmp_path / "source")
    succeed("preprocess", tmp_path / "source", "--out", tmp_path / "data", "--format", "kgat", "--name", "mine")
    dataset = load_dataset(tmp_path / "data")
    assert dataset.name == "mine"
    assert dataset.items["original_id"].tolist()[:2] == ["item_0", "item_1"]


def test_a_recbole_folder(tmp_path: Path) -> None:
    source = write_files(
        tmp_path / "small",
        {
            "small.inter": "user_id:token\titem_id:token\trating:float\nann\ta\t5\nann\tb\t2\nbob\tb\t4\nbob\ta\t4\n",
            "small.kg": "head_id:token\trelation_id:token\ttail_id:token\nQ1\tgenre\tQ9\nQ2\tgenre\tQ9\n",
            "small.link": "item_id:token\tentity_id:token\na\tQ1\nb\tQ2\n",
            "small.item": "item_id:token\tmovie_title:token_seq\talt_name:token_seq\na\tHeat\tH\nb\tAlien\tA\n",
        },
    )
    out = tmp_path / "data"
    succeed("preprocess", source, "--out", out, "--rating-threshold", 4, "--title-col", "alt_name")
    dataset = load_dataset(out)
    assert len(dataset.interactions) == 3
    assert dataset.items["name"].tolist() == ["H", "A"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_with_every_column_named(tmp_path: Path, suffix: str) -> None:
    tables = {
        "ratings": pd.DataFrame(
            {
                "who": ["ann", "ann", "ann", "bob", "bob", "bob"],
                "film": ["a", "b", "c", "a", "b", "c"],
                "stars": [5, 4, 4, 1, 5, 5],
                "day": ["2024-01-03", "2024-01-02", "2024-01-01"] * 2,
            }
        ),
        "facts": pd.DataFrame({"h": ["Q1", "Q2"], "r": ["genre"] * 2, "t": ["Q9"] * 2}),
        "links": pd.DataFrame({"film": ["a", "b"], "entity": ["Q1", "Q2"]}),
        "names": pd.DataFrame({"film": ["a", "b"], "title": ["Heat", "Alien"]}),
    }
    paths = {name: tmp_path / f"{name}{suffix}" for name in tables}
    for name, frame in tables.items():
        frame.to_csv(paths[name], index=False) if suffix == ".csv" else frame.to_parquet(paths[name])
    result = succeed(
        *("preprocess", "tables", "--out", tmp_path / "data", "--interactions", paths["ratings"]),
        *("--triples", paths["facts"], "--links", paths["links"], "--item-names", paths["names"], "--name", "films"),
        *("--user-col", "who", "--item-col", "film", "--rating-col", "stars", "--timestamp-col", "day"),
        *("--head-col", "h", "--relation-col", "r", "--tail-col", "t", "--link-item-col", "film"),
        *("--name-item-col", "film", "--name-col", "title", "--rating-threshold", 2),
        *("--split", "leave-one-out", "--valid", 0),
    )
    dataset = load_dataset(tmp_path / "data")
    assert dataset.name == "films"
    assert dataset.items["name"].tolist() == ["Heat", "Alien", "c"]
    assert dataset.pairs("test").tolist() == [[0, 0], [1, 1]]  # the latest of each
    assert "1 below rating threshold dropped" in result.stdout
    assert "1 item without entity" in result.stdout


@pytest.fixture
def card_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A card ``tiny`` in a folder of cards, and a mirror with its files."""
    mirror = write_files(tmp_path / "mirror", KGAT)
    files = "".join(
        f'[[files]]\nname = "{name}"\nurl = "https://example.invalid/{name}"\n'
        f'git_blob = "{git_blob_id(mirror / name)}"\n'
        for name in KGAT
    )
    about = 'name = "tiny"\ntitle = "Tiny"\nlayout = "kgat"\nterms = "Do not share."\n'
    folder = write_files(tmp_path / "cards", {"tiny.toml": f"{about}{files}[counts]\nusers = 3\nitems = 4\n"})
    monkeypatch.setattr(cards, "resource_folder", lambda: folder)
    return mirror


def test_a_card_is_fetched_verified_and_compared(tmp_path: Path, card_of_ours: Path) -> None:
    cache = tmp_path / "cache"
    args = ("preprocess", "tiny", "--out", tmp_path / "data", "--mirror", card_of_ours, "--cache", cache)
    result = succeed(*args)
    assert load_dataset(tmp_path / "data").name == "tiny"
    assert sorted(path.name for path in (cache / "tiny").iterdir()) == sorted(KGAT)
    assert "remark: items: the card says 4, the data has 3" in result.stdout
    assert "users: the card" not in result.stdout
    assert "terms: Do not share." in result.stdout
    (card_of_ours / "train.txt").write_text("0 1\n")
    assert succeed(*args).exit_code == 0  # taken from the cache
    (cache / "tiny" / "train.txt").unlink()
    failed = hakg(*args)
    assert failed.exit_code == 2
    assert "this is not the file of the card" in failed.stderr


def test_the_cache_follows_the_environment(tmp_path: Path, card_of_ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    succeed("preprocess", "tiny", "--out", tmp_path / "a", "--mirror", card_of_ours)
    assert (tmp_path / "xdg" / "hakg_dgl" / "tiny" / "train.txt").is_file()
    monkeypatch.setenv("HAKG_CACHE", str(tmp_path / "mine"))
    succeed("preprocess", "tiny", "--out", tmp_path / "b", "--mirror", card_of_ours)
    assert (tmp_path / "mine" / "tiny" / "train.txt").is_file()


def test_a_name_with_a_path_is_a_folder_not_a_card(
    tmp_path: Path, card_of_ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path / "tiny", KGAT | {"test.txt": "1 0\n"})
    monkeypatch.chdir(tmp_path)
    succeed("preprocess", "./tiny", "--out", "data", "--valid", 0)
    assert len(load_dataset("data").pairs("test")) == 1


def test_a_data_set_is_replaced_and_anything_else_is_refused(tmp_path: Path) -> None:
    source = write_files(tmp_path / "tiny", KGAT)
    succeed("preprocess", "demo", "--out", tmp_path / "data")
    succeed("preprocess", source, "--out", tmp_path / "data")
    assert load_dataset(tmp_path / "data").name == "tiny"
    result = hakg("preprocess", "demo", "--out", source)
    assert result.exit_code == 2
    assert "holds other files" in result.stderr
    assert sorted(path.name for path in source.iterdir()) == sorted(KGAT)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["lastfm"], "SOURCE 'lastfm' is not a folder; did you mean 'last-fm'?"),
        (["nowhere/at/all"], "no such folder"),
        (["tables"], "SOURCE 'tables' needs --interactions"),
        (["tables", "--triples", "x.csv"], "SOURCE 'tables' needs --interactions"),
        (["tables", "--interactions", "x.csv"], "x.csv: cannot be read"),
        (["tables", "--interactions", "x-*.csv"], "--interactions: no file is called like 'x-*.csv'"),
        (["tables", "--interactions", "x.csv", "--facts", "a=out"], "give that too"),
        (["tables", "--interactions", "x.csv", "--items", "y.csv", "--facts", "a"], "--facts takes COLUMN=KIND"),
        (["tables", "--interactions", "x.csv", "--interactions", "x.csv"], "x.csv: another file of this name"),
        (["tables", "--interactions", "x.csv", "--triples", "y.csv"], "x.csv: cannot be read"),
        (["demo", "--links", "x.csv"], "--links is an option for tables, and 'demo' is a demo"),
        (["demo", "--mirror", "m"], "--mirror is an option for card"),
        (["demo", "--valid", "1.5"], "valid = 1.5 is not allowed"),
        (["demo", "--split", "fair"], "'fair' is not one of"),
        (["demo", "--split", "given"], "no split to keep"),
        (["demo", "--min-user-interactions", "10000"], "min_user_interactions"),
        (["demo", "--rating-threshold", "3"], "rating"),
    ],
)
def test_what_cannot_be_done_ends_with_code_2_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = hakg("preprocess", *args, "--out", "data")
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_info_says_what_the_data_set_is_like(tmp_path: Path) -> None:
    source = write_files(tmp_path / "tiny", KGAT)
    succeed("preprocess", source, "--out", tmp_path / "data")
    about = json.loads(succeed("info", tmp_path / "data", "--json").stdout)
    assert about["digest"] == load_dataset(tmp_path / "data").digest
    assert (about["counts"]["users"], about["counts"]["triples"]) == (3, 3)
    text = succeed("info", tmp_path / "data").stdout
    for part in (
        "3 of 3 items occur",
        "users without training interactions",
        "relation_1",
        "1 triple repeat dropped",
        "hierarchical",
        "orders_attributes",
    ):
        assert part in text


def test_info_of_no_data_set(tmp_path: Path) -> None:
    result = hakg("info", tmp_path)
    assert result.exit_code == 2
    assert "not a data set" in result.stderr


def test_names_from_data_cannot_control_the_terminal(tmp_path: Path) -> None:
    source = write_files(tmp_path / "tiny", KGAT | {"relation_list.txt": "org_id remap_id\n\x1b[31mred 0\nb 1\n"})
    succeed("preprocess", source, "--out", tmp_path / "data")
    assert "\x1b" not in succeed("info", tmp_path / "data").stdout


def test_the_shared_recbole_files(tmp_path: Path, shared_dir: Path) -> None:
    source = shared_dir / "data" / "ml-100k-recbole"
    if not source.is_dir():
        pytest.skip(f"{source} is missing")
    result = succeed("preprocess", source, "--out", tmp_path / "data", "--drop-unlinked", "--split", "temporal")
    dataset = load_dataset(tmp_path / "data")
    assert (dataset.n_users, dataset.split_strategy) == (943, "temporal")
    assert "interactions with unlinked items dropped" in result.stdout


SHOP = {
    "reviews.csv": "user,business\n1,a\n1,b\n2,a\n2,c\n3,b\n3,c\n",
    "facts.csv": "head,relation,tail\na,city,ulm\nb,city,ulm\nc,city,bonn\n",
    "friends.csv": "user,friend\n1,2\n2,1\n1,2\n3,3\n2,9\n",
    "about.csv": "user,relation,entity\n1,lives_in,ulm\n2,lives_in,rome\n2,votes,k1\n9,lives_in,oslo\n",
}


def test_friends_and_facts_of_users(tmp_path: Path) -> None:
    source = write_files(tmp_path / "shop", SHOP)
    args = ["--interactions", source / "reviews.csv", "--item-col", "business", "--triples", source / "facts.csv"]
    extra = ["--user-links", source / "friends.csv", "--user-facts", source / "about.csv"]
    said = succeed("preprocess", "tables", *args, *extra, "--out", tmp_path / "data").stdout
    assert "3 user facts, 2 user links, 3 user relations" in said
    for line in (
        "1 user link to oneself dropped",
        "1 user link repeat dropped",
        "1 user link with users without interactions dropped",
        "1 user fact of users without interactions dropped",
    ):
        assert f"  {line}\n" in said
    data = load_dataset(tmp_path / "data")
    assert data.entities["original_id"].tolist() == ["a", "b", "c", "bonn", "k1", "rome", "ulm"]
    assert data.user_relations["name"].tolist() == ["lives_in", "votes", "linked_to"]
    assert data.user_links.to_numpy().tolist() == [[0, 2, 1], [1, 2, 0]]
    text = succeed("info", tmp_path / "data").stdout
    assert "3 facts of users; 2 users have any" in text
    assert "2 links of users; 2 users have any" in text
    about = json.loads(succeed("info", tmp_path / "data", "--json").stdout)
    assert about["counts"]["user_facts"] == 3
    assert [(row["name"], row["to"], row["triples"]) for row in about["user_relations"]] == [
        ("lives_in", "entity", 2), ("votes", "entity", 1), ("linked_to", "user", 2),
    ]  # fmt: skip
    succeed("preprocess", "tables", *args, "--out", tmp_path / "data")
    assert "of users" not in succeed("info", tmp_path / "data").stdout
