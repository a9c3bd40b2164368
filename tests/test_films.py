"""The commands one after the other on a real data set, as a newcomer gives them: films are shown by their titles."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from bad_input import hakg

from hakg_dgl import Dataset, load_dataset

SMALL = ("--set", "dim=8", "--set", "refit=false", "--set", "linear_rank=16", "--device", "cpu")


def succeed(*args: object) -> str:
    result = hakg(*args)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


@pytest.fixture(scope="module")
def place(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data set ``D``, a run ``R`` and a study ``S``, made by the commands."""
    source = shared_dir / "data" / "ml-100k-recbole"
    if not source.is_dir():
        pytest.skip(f"{source} is missing; HAKG_SHARED_DIR names the folder that holds data/")
    folder = tmp_path_factory.mktemp("films")
    succeed("preprocess", source, "--out", folder / "D")
    succeed("train", folder / "D", "--out", folder / "R", "--epochs", 1, *SMALL)
    return folder


@pytest.fixture(scope="module")
def films(place: Path) -> Dataset:
    return load_dataset(place / "D")


@pytest.fixture(scope="module")
def lists(place: Path) -> pd.DataFrame:
    """Lists of all users, as a table on disk."""
    succeed("recommend", place / "R", "--k", 3, "--out", place / "lists.csv", "--device", "cpu")
    return pd.read_csv(place / "lists.csv", dtype={"user": str, "item": str})


def titles(films: Dataset) -> dict[str, str]:
    return dict(zip(films.items["original_id"], films.items["name"], strict=True))


def test_the_data_set_holds_titles_and_says_what_has_no_name(place: Path, films: Dataset) -> None:
    assert titles(films)["50"] == "Star Wars"
    assert (films.items["name"] != films.items["original_id"]).all()
    assert "ml-100k" in succeed("info", place / "D")


def test_a_run_is_measured_beside_another(place: Path) -> None:
    succeed("train", place / "D", "--out", place / "popular", "--model", "popularity")
    assert "recall@20 by item popularity" in succeed("evaluate", place / "R", "--device", "cpu")
    text = succeed("compare", place / "R", place / "popular", "--resamples", 200)
    assert re.search(r"^popularity|^popular ", text, re.MULTILINE)


def test_lists_name_films_on_the_terminal_and_in_files(place: Path, films: Dataset, lists: pd.DataFrame) -> None:
    assert len(lists) == 3 * films.n_users
    assert lists["name"].tolist() == lists["item"].map(titles(films)).tolist()
    mine = lists[lists["user"] == "196"]
    text = succeed("recommend", place / "R", "--user", "196", "--k", 3, "--device", "cpu")
    assert text.startswith("User 196\n")
    assert all(re.search(rf"^ +[123]  {row.item} +{re.escape(row.name_)} +", text, re.MULTILINE)
               for row in mine.rename(columns={"name": "name_"}).itertuples())  # fmt: skip
    rows = succeed("recommend", place / "R", "--user", "196", "--item", "Toy Story", "--json", "--device", "cpu")
    assert json.loads(rows)["name"] == "Toy Story"


def test_explanations_name_films_and_tell_entities_by_films(place: Path, films: Dataset, lists: pd.DataFrame) -> None:
    pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")
    best = lists[lists["user"] == "196"].iloc[0]
    picture = place / "why.svg"
    text = succeed("explain", place / "R", "--user", "196", "--item", best["item"], "--picture", picture, "--top", 5)
    assert text.startswith(f"User 196, item {best['name']} ({best['item']}): score")
    seen = films.pairs("train")
    past = films.items.iloc[seen[seen[:, 0] == films.users["original_id"].tolist().index("196"), 1]]
    assert sum(f"{row['name']} ({row['original_id']}) " in text for _, row in past.iterrows()) >= 5
    assert re.search(r"^(--|<-)film\.\S+ m\.\w+ +-?\d\.\d+ +\S+%  [A-Z0-9].*", text, re.MULTILINE), "also of: titles"
    assert "The data set names none of these entities: there are ids such as m." in text
    drawn = picture.read_text(encoding="utf-8")
    assert f"item {best['name']}".replace("&", "&amp;") in drawn
    assert "whole score" in drawn
    assert "linear" in drawn
    assert re.search(r"of [0-9,]+ items", drawn)


def test_a_genre_by_its_english_name_is_answered_with_what_there_is(place: Path) -> None:
    result = hakg("recommend", place / "R", "--user", "196", "--where", "film.film.genre=Comedy")
    assert result.exit_code == 2
    assert re.search(r"for example, 'm\.\w+' \(genre: [A-Z].*; …\)", result.stderr)
    assert "The data set has no names for them" in result.stderr
    assert "User 196" in succeed("recommend", place / "R", "--user", "196", "--where", "film.film.genre=m.05p553")


def test_the_page_and_the_pictures_name_films(place: Path, films: Dataset) -> None:
    pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")
    text = succeed("plot", place / "R", "--out", place / "P", "--format", "png", "--device", "cpu")
    assert "…films_in_this_genre" in text
    page = (place / "P" / "hierarchy.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    about: dict[str, Any] = json.loads(data)
    assert about["name"][: about["items"]] == films.items["name"].tolist()
    assert about["id"][:3] == films.items["original_id"].head(3).tolist()


def test_the_report_and_the_study_name_films(place: Path) -> None:
    pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")
    study = ("ablate", place / "D", "--out", place / "S", "--seeds", "1", "--only", "full", "--only", "no-gate")
    succeed(*study, "--resamples", 200, "--epochs", 1, *SMALL)
    again = succeed("ablate", place / "D", "--out", place / "S", "--resamples", 200, "--only", "no-gate")
    assert "2 runs" in again
    report = json.loads((place / "S" / "report.json").read_text(encoding="utf-8"))
    for row in report["tables"]["ablation"]["differences"]:
        assert row["low"] <= row["mean"] <= row["high"]
    succeed("report", place / "R", "--out", place / "r.html", "--examples", 1, "--ablation", place / "S")
    page = (place / "r.html").read_text(encoding="utf-8")
    assert re.search(r"<h3>User \d+: ", page)
    assert re.search(r"Why [A-Z][^<]+: where its score of", page)
    assert "33,030 of 33,030, beside the items" in page
    assert "without the gate" in page


def test_the_export_holds_titles(place: Path, films: Dataset) -> None:
    succeed("export", place / "R", "--out", place / "V", "--device", "cpu")
    items = pd.read_parquet(place / "V" / "items.parquet", columns=["original_id", "name"])
    assert items["name"].tolist() == films.items["name"].tolist()
    assert set(items["original_id"]) == set(titles(films))
