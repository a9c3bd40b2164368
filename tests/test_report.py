"""The report: what it holds for HAKG, baselines and studies, and that it opens in a browser."""

from __future__ import annotations

import dataclasses
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from bad_input import contents, hakg, refuse
from browser import browser, complaints, opened, requests  # noqa: F401 (a fixture)
from small_demo import small_demo, small_settings

from hakg_dgl import RunFolder, Trainer, compare, evaluate, load_dataset
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import DataError, IntegrityError
from hakg_dgl.figures.ablation_section import ablation_section
from hakg_dgl.figures.report import report_page
from hakg_dgl.figures.report_tables import changed_settings, unnamed
from hakg_dgl.figures.subject import Subject
from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.yardsticks import PopularityScorer, RandomScorer

pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")
EVIL = "<script>alert('x')</script> & $co_"
VOID = {"meta", "link", "br", "img", "input", "rect", "circle", "use", "path", "image"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs ``hakg`` and ``popularity`` on ``D``, the small demo in which all users have an evil name."""
    place, demo = tmp_path_factory.mktemp("runs"), small_demo()
    dataset = dataclasses.replace(demo, users=demo.users.assign(name=EVIL + demo.users["name"]))
    dataset.save(place / "D")
    Trainer(dataset, small_settings(epochs=2), run=place / "hakg", data_path=place / "D").fit()
    assert hakg("train", place / "D", "--out", place / "popularity", "--set", "kind=popularity").exit_code == 0
    return place


@pytest.fixture(scope="module")
def dataset(runs: Path) -> Dataset:
    return load_dataset(runs / "D")


@pytest.fixture(scope="module")
def page(runs: Path, dataset: Dataset) -> str:
    return report_page(Subject(RunFolder(runs / "hakg"), dataset), notes=["mind <this>"], examples=2)


class Elements(HTMLParser):
    """Ids and text of a page; every element must be closed in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.scripts = 0
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [str(value) for name, value in attrs if name == "id"]
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [str(value) for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(page: str) -> Elements:
    elements = Elements()
    elements.feed(page)
    assert elements.open == []
    return elements


def test_the_page_is_whole_and_nothing_in_it_runs(page: str) -> None:
    elements = parsed(page)
    assert elements.scripts == 0
    assert EVIL in elements.text
    assert "mind <this>" in elements.text
    assert len(elements.ids) == len(set(elements.ids)), "pictures keep their ids apart"
    for section in ("data", "settings", "training", "metrics", "hierarchy", "examples"):
        assert section in elements.ids
    for name in ("disk", "popularity", "relations", "curves", "groups"):
        assert f"picture-{name}" in elements.ids


def test_numbers_are_those_of_an_evaluation(page: str, runs: Path, dataset: Dataset) -> None:
    text = parsed(page).text
    subject = Subject(RunFolder(runs / "hakg"), dataset)
    for scorer in (subject.scorer, PopularityScorer(dataset, ("train", "valid"))):
        assert f"{evaluate(scorer, dataset, split='test', ks=(20,)).metrics['ndcg@20']:.4f}" in text
    assert f"{len(dataset.interactions):,}" in text


@pytest.mark.parametrize("name", ["__BODY__", "{{ title }}", "a'\"b<script>alert(1)", "&amp; <b>"])
def test_a_run_may_have_any_name(runs: Path, dataset: Dataset, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    shutil.copytree(runs / "popularity", folder)
    named = dataclasses.replace(dataset, name=f"__BODY__{EVIL}")
    elements = parsed(report_page(Subject(RunFolder(folder), named), examples=0))
    assert elements.scripts == 0
    assert f"{named.name}: run {folder.name} (popularity)" in elements.text


def test_settings_that_differ_come_first(page: str) -> None:
    text = parsed(page).text
    assert text.index("Different from the defaults") < text.index("batch_size") < text.index("The others")
    assert changed_settings(Settings()) == {}
    assert changed_settings(Settings.resolve(overrides={"lr": 0.5})) == {"lr": (0.5, Settings().training.lr)}
    assert changed_settings(Settings.resolve(overrides={"kind": "lightgcn"})) == {}, "defaults of its kind"


def test_examples_are_new_to_their_users_and_explained(page: str) -> None:
    text = parsed(page).text
    assert text.count("where its score of") == 2
    assert "the user's own parameters" in text
    assert "strongest facts of the item" in text
    assert text.count("User ") >= 2
    assert "entities without a name" not in text


def test_entities_without_names_are_counted(runs: Path, dataset: Dataset) -> None:
    bare = dataclasses.replace(dataset, entities=dataset.entities.assign(name=dataset.entities["original_id"]))
    others = dataset.n_entities - dataset.n_items
    assert (bare.entities["original_id"] == "genre_root").sum() == 1  # an id of words is a name
    assert unnamed(bare) == {"entities without a name": f"{others - 1} of {others}, beside the items"}


def test_of_a_baseline_hierarchy_and_explanations_are_left_out(runs: Path, dataset: Dataset) -> None:
    elements = parsed(report_page(Subject(RunFolder(runs / "popularity"), dataset), examples=1))
    assert "hierarchy" not in elements.ids
    assert "picture-groups" in elements.ids
    assert "where its score of" not in elements.text
    assert "This model does not take its scores apart" in elements.text


# --- a study ----------------------------------------------------------------------------------------------------------


def study(folder: Path, dataset: Dataset, **changes: Any) -> Path:
    """A study of two models, as ``hakg ablate`` writes it."""
    folder.mkdir()
    scorers = {"full": PopularityScorer(dataset), "without <all>": RandomScorer(dataset.n_users, dataset.n_items, 1)}
    groups = {name: {"seed 1": evaluate(scorer, dataset, per_user=True)} for name, scorer in scorers.items()}
    found = compare(groups, ("recall@20", "ndcg@20"), against="full", resamples=100)
    report = {
        "data": {"name": dataset.name, "digest": dataset.digest},
        "settings": small_settings().to_dict(),
        "notes": ["One seed."],
        "tables": {"ablation": found.to_dict()},
        **changes,
    }
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_a_study_is_shown(runs: Path, dataset: Dataset, tmp_path: Path) -> None:
    place = study(tmp_path / "study", dataset)
    text = parsed(report_page(Subject(RunFolder(runs / "hakg"), dataset), ablation=place, examples=0)).text
    assert "without <all>" in text
    found = evaluate(PopularityScorer(dataset), dataset).metrics["ndcg@20"]
    assert f"{found:.4f} [" in text


def test_studies_that_cannot_be_shown_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no report of a study"):
        ablation_section(tmp_path, dataset)
    other = study(tmp_path / "other", dataset, data={"name": "x", "digest": "0"})
    with pytest.raises(IntegrityError, match="the study is on data set 'x', not on this one"):
        ablation_section(other, dataset)
    damaged = study(tmp_path / "damaged", dataset, tables={"ablation": {"groups": 3}})
    with pytest.raises(DataError, match="is damaged, or is not a report of a study"):
        ablation_section(damaged, dataset)
    (damaged / "report.json").write_text("[1")
    with pytest.raises(DataError, match="cannot be read"):
        ablation_section(damaged, dataset)


# --- hakg report ------------------------------------------------------------------------------------------------------


def test_the_command_writes_a_page_that_a_browser_opens(browser: Any, runs: Path, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "new" / "report.html"
    result = hakg("report", runs / "hakg", "--out", file, "--examples", 1)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"Wrote {file}\n"
    driver = opened(browser, file)
    assert driver.title == "demo: run hakg (hakg)"
    assert complaints(driver) == []
    assert requests(driver) == [driver.current_url]
    widths = driver.execute_script("return [...document.querySelectorAll('figure svg')].map(x => x.clientWidth)")
    assert len(widths) == 6
    assert min(widths) > 300
    driver.find_element("link text", "Metrics").click()
    assert driver.current_url.endswith("#metrics")
    details = driver.find_element("css selector", "#settings details")
    details.find_element("tag name", "summary").click()
    assert "training.lr" in details.text
    assert driver.execute_script("return document.documentElement.scrollWidth") <= 1200


@pytest.mark.usefixtures("work")
def test_bad_input_is_refused() -> None:
    refuse(
        "S/report.json: there is no report of a study\n"
        "Give the folder that 'hakg ablate' wrote, or write its report again with the same command.",
        "report", "R", "--out", "r.html", "--ablation", "S",
    )  # fmt: skip
    before = contents(Path.cwd())
    result = hakg("report", "R", "--out", "r.pdf")
    assert result.exit_code == 2
    assert "'r.pdf' must end with one of .html, .htm" in result.stderr
    assert contents(Path.cwd()) == before
