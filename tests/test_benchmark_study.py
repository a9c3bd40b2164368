"""``hakg benchmark``: what is tuned and trained, the ranking against its parts, going on, failures, refusals."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from bad_input import COMMAND, hakg
from small_demo import small_demo
from test_registry import declared

from hakg_dgl import BenchmarkProgress, BenchmarkStudy, Settings, compare, evaluate, load_scorer
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import CheckpointError, ConfigError, HakgError, IntegrityError
from hakg_dgl.locks import sole_holder
from hakg_dgl.models.registry import model_names
from hakg_dgl.ranking.evaluation import ALSO
from hakg_dgl.studies import benchmark_steps
from hakg_dgl.studies.benchmark_plan import Budget, chosen_names, contenders
from hakg_dgl.studies.benchmark_text import space_rows
from hakg_dgl.studies.pool import Ended
from hakg_dgl.studies.tuning import Study
from hakg_dgl.training.run_folder import RunFolder

pytest.importorskip("optuna", reason="python -m pip install -e .[tune]")

DEMO = small_demo()
OTHER = dataclasses.replace(small_demo(split="cold-items"), name="other <b>& 100% $x$")
SMALL = {"epochs": 2, "dim": 4, "layers": 1, "batch_size": 320, "device": "cpu"}
SET = [f"--set={key}={value}" for key, value in SMALL.items()]
MODELS = ("hakg", "popularity", "ease", "bpr-mf")


def in_this_process(
    work: Callable[..., Any], calls: Sequence[tuple[Any, ...]], *, workers: int, fresh: bool,
    ended: Callable[[Ended], None], tick: Callable[[], None],
) -> None:  # fmt: skip
    """Stands for the pool where the processes do not matter: starting one takes seconds."""
    for number, call in enumerate(calls):
        ended(Ended(number, work(*call)))
        tick()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_steps, "run_calls", in_this_process)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Four models, two trials and two seeds, in one go: the study, its report and what was told meanwhile."""
    seen: list[BenchmarkProgress] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark_steps, "run_calls", in_this_process)
        path = tmp_path_factory.mktemp("benchmark") / "study"
        study = BenchmarkStudy(path, [DEMO], MODELS, overrides=SMALL, trials=2, seeds=2)
        yield study, study.run(resamples=100, on_progress=seen.append), seen


def rows_of(report: dict[str, Any], place: int = 0) -> dict[str, dict[str, Any]]:
    return {row["model"]: row for row in report["datasets"][place]["ranking"]}


def outcomes(report: dict[str, Any]) -> dict[str, Any]:
    kept = ("metrics", "tail", "cold", "parameters", "stored", "settings", "runs", "rank")
    return {name: [row[key] for key in kept] for name, row in rows_of(report).items()}


def small_study(path: Path, models: Sequence[str], data: Sequence[Dataset] = (DEMO,), **more: Any) -> BenchmarkStudy:
    return BenchmarkStudy(path, data, models, **{"overrides": {"device": "cpu"}, "trials": 0, "seeds": 1, **more})


# --- what is trained ----------------------------------------------------------------------------------------------


def test_each_model_gets_the_overrides_that_it_reads_and_searches_the_rest() -> None:
    found = {c.name: c for c in contenders(MODELS, {"lr": 0.01, "training.epochs": 3, "layers": 2})}
    assert found["hakg"].settings is not None
    assert found["hakg"].settings.values()["lr"] == 0.01
    assert found["hakg"].settings.values()["epochs"] == 3
    assert found["hakg"].space is not None
    assert not {"lr", "layers"} & set(found["hakg"].space.dimensions)
    assert found["popularity"].space is None
    assert found["ease"].space is not None
    (alone,) = contenders(["ease"], {"ease_l2": 100.0})
    assert alone.space is None, "nothing is left to search"


def test_one_ranking_loss_for_all_that_have_one() -> None:
    found = {c.name: c.loss for c in contenders(("kgin", "hgcf", "bpr-mf", "ease"), {"ranking_loss": "bpr"})}
    assert found == {"kgin": "bpr", "hgcf": "bpr", "bpr-mf": "its own", "ease": "closed form"}


def test_models_are_named_in_the_order_of_the_registry() -> None:
    assert chosen_names(["ease", "hakg", "ease"]) == ("hakg", "ease")
    assert chosen_names(["all"]) == model_names()


def test_a_model_is_named_with_another_loss_than_its_default() -> None:
    assert chosen_names(["kgin:bpr", "hakg:hinge", "kgin", "kgin:softmax"]) == ("hakg:hinge", "kgin", "kgin:bpr")
    every = chosen_names(["all:bpr"])
    assert {"kgin:bpr", "kgcl:bpr", "hgcf+facts:bpr"} <= set(every)
    assert not {"hakg", "ease"} & {name.partition(":")[0] for name in every}, "they do not allow it"
    found = {c.name: c for c in contenders(("kgin", "kgin:bpr"), {"dim": 4})}
    assert [(c.loss, c.settings and c.settings.values()["dim"]) for c in found.values()] == [("softmax", 4), ("bpr", 4)]
    space = found["kgin:bpr"].space
    assert space is not None
    assert "ranking_loss" not in space.dimensions


@pytest.mark.usefixtures("quick")
def test_a_model_with_two_losses_has_two_rows_and_two_folders(tmp_path: Path) -> None:
    settings = {"epochs": 1, "dim": 4, "device": "cpu"}
    report = small_study(tmp_path / "study", ["kgin", "kgin:bpr"], overrides=settings).run(resamples=100)
    assert {name: row["loss"] for name, row in rows_of(report).items()} == {"kgin": "softmax", "kgin:bpr": "bpr"}
    runs = [RunFolder(tmp_path / "study" / "data" / "demo" / name / "seed-1") for name in ("kgin", "kgin_bpr")]
    assert [run.settings.values()["ranking_loss"] for run in runs] == ["softmax", "bpr"]
    more = BenchmarkStudy(tmp_path / "study", [DEMO], ["popularity"])
    assert [c.name for c in more.contenders] == ["popularity", "kgin", "kgin:bpr"]


def test_models_by_chance_are_trained_with_every_seed_and_others_once(made: Any) -> None:
    study, report, seen = made
    runs = {name: row["runs"] for name, row in rows_of(report).items()}
    both = ["seed-1", "seed-2"]
    assert runs == {"hakg": both, "bpr-mf": both, "popularity": ["seed-1"], "ease": ["seed-1"]}
    for name, row in rows_of(report).items():
        for run in row["runs"]:
            settings = Settings.resolve(file=study.path / "data" / "demo" / name / run / "config.toml")
            assert settings.training.refit
            best = {} if row["tuning"] is None else row["tuning"]["settings"]
            assert settings == settings.replace(best)
            assert all(settings.values()[key] == value for key, value in SMALL.items() if key in settings.values())
    assert {name: row["tuning"] and row["tuning"]["trials"]["completed"] for name, row in rows_of(report).items()} == {
        "hakg": 2, "bpr-mf": 2, "popularity": None, "ease": 2,
    }  # fmt: skip
    assert (seen[0].done, seen[-1].done, seen[-1].total) == (0, 9, 9)
    assert {progress.total for progress in seen} == {9}
    said = [text for progress in seen for text in progress.running]
    assert any(text.startswith("tuning ease on demo") for text in said)
    assert any(text.startswith("bpr-mf, seed 2, on demo") for text in said)


# --- what is reported ---------------------------------------------------------------------------------------------


def test_the_ranking_is_what_the_runs_measure(made: Any) -> None:
    study, report, _ = made
    assert json.loads((study.path / "report.json").read_text()) == report
    rows = rows_of(report)
    measured = {
        name: {
            run: evaluate(
                load_scorer(study.path / "data" / "demo" / name / run, DEMO),
                DEMO,
                ks=(20,),
                groups=True,
                per_user=True,
                also=ALSO,
            )
            for run in row["runs"]
        }
        for name, row in sorted(rows.items())
    }
    for name, runs in measured.items():
        for metric, mean in (rows[name]["metrics"] | rows[name]["beyond"]).items():
            assert mean == pytest.approx(sum(run.metrics[metric] for run in runs.values()) / len(runs), abs=1e-9)
        tails = [group["recall@20"] for run in runs.values() for group in (run.groups or {})["item_popularity"]
                 if group["group"] == "tail"]  # fmt: skip
        assert rows[name]["tail"] == pytest.approx(sum(tails) / len(tails), abs=1e-9)
        assert set(rows[name]["beyond"]) == {"map@20", "auc", "diversity@20", "novelty@20", "coverage@20"}
    expected = compare(measured, ("ndcg@20", "recall@20"), resamples=100)
    best = report["datasets"][0]["ranking"][0]
    assert (best["model"], best["rank"], best["p"]) == (expected.reference, 1, {})
    for found in expected.differences:
        assert rows[found.group]["p"][found.metric] == pytest.approx(found.p_bootstrap_holm, abs=1e-9)
    ranked = [row["metrics"]["ndcg@20"] for row in report["datasets"][0]["ranking"]]
    assert ranked == sorted(ranked, reverse=True)


def test_seconds_memory_and_sizes_are_those_of_the_runs(made: Any) -> None:
    study, report, _ = made
    for name, row in rows_of(report).items():
        results = [
            json.loads((study.path / "data" / "demo" / name / run / "result.json").read_text()) for run in row["runs"]
        ]
        assert row["seconds"] == pytest.approx(sum(result["seconds"] for result in results) / len(results))
        assert row["memory_bytes"] == max(result["peak_memory_bytes"] for result in results)
    assert rows_of(report)["bpr-mf"]["parameters"] == 4 * (DEMO.n_users + DEMO.n_items)
    assert (rows_of(report)["ease"]["parameters"], rows_of(report)["ease"]["stored"]) == (0, DEMO.n_items**2)


def test_every_format_has_the_models_and_their_losses(made: Any) -> None:
    study, report, _ = made
    texts = {suffix: (study.path / f"report.{suffix}").read_text() for suffix in ("md", "tex", "html")}
    for name, row in rows_of(report).items():
        assert f"| {row['rank']} | {name} | {row['metrics']['ndcg@20']:.4f}" in texts["md"]
        assert f"\n{row['rank']} & {name} & {row['metrics']['ndcg@20']:.4f}" in texts["tex"]
        assert f"<td>{name}</td>" in texts["html"]
        assert row["loss"] in texts["md"]
    assert any("different ranking losses" in note for note in report["notes"])
    assert all(report["notes"][0] in text for text in texts.values())
    assert "\\toprule" in texts["tex"]
    assert "-{}-set ranking\\_loss=softmax" in texts["tex"], "LaTeX makes a dash of two hyphens"


def test_the_table_for_papers_marks_the_best_and_what_differs(made: Any) -> None:
    study, report, _ = made
    lines = (study.path / "report.md").read_text().partition("## Results")[2].splitlines()
    rows = [re.split(r" ?\| ?", line)[1:-1] for line in lines if line.startswith("| ")][2:]
    shown = {row[0]: dict(zip(("recall@20", "ndcg@20"), row[1:], strict=True)) for row in rows[: len(MODELS)]}
    ranking = report["datasets"][0]["ranking"]
    assert list(shown) == [row["model"] for row in ranking]
    for metric in ("recall@20", "ndcg@20"):
        values = sorted({round(row["metrics"][metric], 4) for row in ranked_rows(report)}, reverse=True)
        for row in ranking:
            cell, value = shown[row["model"]][metric], round(row["metrics"][metric], 4)
            assert f"{value:.4f}" in cell
            assert cell.startswith("**") is (value == values[0])
            assert (cell.startswith("*") and not cell.startswith("**")) is (value == values[1])
            assert cell.endswith("†") is (row["p"].get(metric, 1.0) < 0.05)
            assert ("±" in cell) is (len(row["runs"]) > 1)
    latex, page = (study.path / "report.tex").read_text(), (study.path / "report.html").read_text()
    best = ranking[0]
    assert f"\\textbf{{{best['metrics']['ndcg@20']:.4f}" in latex
    captions = latex.count("\\caption{") - latex.count("\\begin{figure}")
    assert latex.count("\\begin{table}") == captions == latex.count("\\label{tab:benchmark-") >= 6
    assert len(set(re.findall(r"\\label\{(.+)\}", latex))) == latex.count("\\label{")
    assert f'<td class="n best">{best["metrics"]["ndcg@20"]:.4f}' in page


def ranked_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in report["datasets"][0]["ranking"] if row["rank"] is not None]


def test_the_papers_are_those_that_the_table_cites(made: Any) -> None:
    study, report, _ = made
    entries = re.findall(r"^@\w+\{(\w+),", (study.path / "references.bib").read_text(), re.MULTILINE)
    cited = re.findall(r"~\\cite\{([^}]+)\}", (study.path / "report.tex").read_text())
    assert entries[0] == "du2022hakg"
    assert sorted(entries) == sorted(cited) == ["du2022hakg", "rendle2009bpr", "steck2019ease"]
    assert {name: row["citations"] for name, row in rows_of(report).items()} == {
        "hakg": ["du2022hakg"], "ease": ["steck2019ease"], "bpr-mf": ["rendle2009bpr"], "popularity": [],
    }  # fmt: skip


def test_what_was_searched_is_told_with_its_ends(made: Any) -> None:
    study, report, _ = made
    lines = (study.path / "report.md").read_text().partition("### Search spaces")[2].partition("###")[0].splitlines()
    cells = [re.split(r" ?\| ?", line.replace("\\", ""))[1:-1] for line in lines if line.startswith("| ")][2:]
    rows = {(model, setting): rest for model, setting, *rest in cells}
    expected = {(name, key) for name, row in rows_of(report).items() for key in row["searched"] or ()}
    assert set(rows) == expected
    assert rows["ease", "ease_l2"][0] == "10 to 3000, log"
    searched = {
        "layers": {"low": 1, "high": 4},
        "l2": {"low": 1e-4, "high": 1.0, "log": True},
        "rate": {"low": 0.0, "high": 0.8},
        "kind": ["a", "b"],
    }
    found = ({"layers": 4, "l2": 0.95, "rate": 0.3, "kind": "a"}, {"layers": 2, "l2": 0.5, "rate": 0.001})
    ranking = [{"model": "m", "searched": searched, "tuning": {"settings": best}} for best in found]
    data = {"ranking": ranking}
    assert [row["at an end"] for row in space_rows(data)] == ["yes", "yes", "", "", "", "", "yes", ""]
    assert [row["best"] for row in space_rows(data)][3::4] == ["a", "–"]
    beyond = {"model": "m", "searched": searched, "tuning": {"settings": {"layers": 9, "l2": [0.2, 0.4], "rate": 0.0}}}
    assert [row["at an end"] for row in space_rows({"ranking": [beyond]})] == ["yes", "", "yes", ""], "a default may be"


def test_hours_machine_and_data_sets_are_told(made: Any) -> None:
    study, report, _ = made
    for row in ranked_rows(report):
        results = [
            json.loads((study.path / "data" / "demo" / row["model"] / run / "result.json").read_text())
            for run in row["runs"]
        ]
        tuning = 0.0 if row["tuning"] is None else row["tuning"]["seconds"]
        expected = {"tuning": tuning, "training": sum(each["seconds"] for each in results)}
        assert row["cost"] == pytest.approx(expected)
    whole = sum(sum(row["cost"].values()) for row in ranked_rows(report))
    assert report["cost"]["hours"] == pytest.approx(whole / 3600)
    (machine,) = report["machines"]
    assert machine["runs"] == 6
    assert machine["cpu"]
    assert machine["cores"] >= 1
    assert machine["versions"]["python"] == platform.python_version()
    about = report["datasets"][0]["about"]
    assert about["counts"]["test users"] == len({user for user, _ in DEMO.pairs("test").tolist()})
    assert about["counts"]["items"] == DEMO.n_items
    assert about["split"] == "random"
    for suffix in ("md", "tex", "html"):
        text = (study.path / f"report.{suffix}").read_text()
        assert "The study took " in text
        assert f"6 runs on {machine['cpu'][:3]}" in text
        assert "Every item is ranked for every user" in text
        assert report["datasets"][0]["digest"][:12] in text


def test_the_page_fetches_nothing(made: Any) -> None:
    pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")
    study, _, _ = made
    page = (study.path / "report.html").read_text()
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!data:)", page)
    assert "<script" not in page
    assert "data:image/svg+xml;base64," in page
    assert all((study.path / f"quality_over_time.{suffix}").stat().st_size for suffix in ("png", "pdf", "svg"))
    assert "\\includegraphics[width=\\linewidth]{quality_over_time}" in (study.path / "report.tex").read_text()


@pytest.mark.usefixtures("quick")
def test_two_data_sets_are_ranked_apart_and_by_mean_rank(tmp_path: Path) -> None:
    report = small_study(tmp_path / "study", ["popularity", "ease", "ease-facts"], [OTHER, DEMO]).run(resamples=1000)
    assert [data["name"] for data in report["datasets"]] == [OTHER.name, "demo"]
    ranks = {row["model"]: row["ranks"] for row in report["mean_ranks"]}
    for place, data in enumerate(report["datasets"]):
        for name, row in rows_of(report, place).items():
            assert ranks[name][data["name"]] == row["rank"]
    assert rows_of(report)["ease-facts"]["cold"] is not None
    assert rows_of(report, 1)["ease-facts"]["cold"] is None, "the demo has no cold item in its test split"
    page = (tmp_path / "study" / "report.html").read_text()
    assert "other &lt;b&gt;&amp; 100% $x$" in page
    assert "<b>" not in page
    latex = (tmp_path / "study" / "report.tex").read_text()
    assert r"other \textless{}b\textgreater{}\& 100\% \$x\$" in latex
    assert r"\multicolumn{2}{c}{other \textless{}b" in latex
    assert latex.count(r"\cmidrule") == 2
    assert latex.count(r"\cite{") == 2
    tests = [p for data in report["datasets"] for row in data["ranking"] for p in row["p"].values()]
    markdown = (tmp_path / "study" / "report.md").read_text().partition("## Results")[2].partition("## Data")[0]
    assert markdown.count("† |") == latex.count("$^\\dagger$ &") + latex.count("$^\\dagger$ \\\\")
    assert 0 < markdown.count("† |") == sum(p < 0.05 for p in tests) < len(tests)


@pytest.mark.usefixtures("quick")
def test_without_matplotlib_there_is_a_report_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    report = small_study(tmp_path / "study", ["popularity"]).run()
    assert any("There is no figure" in note and "hakg_dgl[plot]" in note for note in report["notes"])
    assert "<img" not in (tmp_path / "study" / "report.html").read_text()
    assert report["datasets"][0]["comparison"] is None


# --- going on -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_an_interrupted_benchmark_goes_on_to_the_same_ranking(made: Any, tmp_path: Path) -> None:
    def stop_at(done: int) -> Callable[[BenchmarkProgress], None]:
        def stop(progress: BenchmarkProgress) -> None:
            if progress.done == done:
                raise KeyboardInterrupt

        return stop

    path = tmp_path / "study"
    study = BenchmarkStudy(path, [DEMO], MODELS, overrides=SMALL, trials=2, seeds=2)
    with pytest.raises(KeyboardInterrupt):
        study.run(resamples=100, on_progress=stop_at(2))
    assert {row["reason"] for row in json.loads((path / "report.json").read_text())["datasets"][0]["ranking"]} == {
        "not finished"
    }
    with pytest.raises(KeyboardInterrupt):
        BenchmarkStudy(path, [DEMO]).run(resamples=100, on_progress=stop_at(4))
    before = {file: file.stat().st_mtime_ns for file in path.rglob("measured.json")}
    assert len(before) == 3
    report = BenchmarkStudy(path, [DEMO]).run(resamples=100)
    assert outcomes(report) == outcomes(made[1])
    assert {file: file.stat().st_mtime_ns for file in before} == before


@pytest.mark.usefixtures("quick")
def test_models_and_seeds_may_be_added(tmp_path: Path) -> None:
    settings = {"epochs": 1, "dim": 4, "device": "cpu"}
    small_study(tmp_path / "study", ["bpr-mf"], overrides=settings).run()
    report = BenchmarkStudy(tmp_path / "study", [DEMO], ["popularity"], seeds=2).run(resamples=100)
    assert {name: len(row["runs"]) for name, row in rows_of(report).items()} == {"bpr-mf": 2, "popularity": 1}


@pytest.mark.usefixtures("quick")
def test_the_time_of_a_search_goes_on_where_it_stood(tmp_path: Path) -> None:
    """Trials of earlier calls count for the time, so that a call without any left trains what was best."""
    study = small_study(tmp_path / "study", ["ease"], trials=None, seconds=60.0)
    (part,) = study.parts(DEMO)
    Study(part.tuning, DEMO, part.contender.settings, part.contender.space).run(2)
    trials = json.loads((part.tuning / "report.json").read_text())["trials"]
    study.budget = Budget(None, sum(trial["seconds"] for trial in trials))
    report = study.run()
    assert rows_of(report)["ease"]["tuning"]["trials"]["completed"] == 2


# --- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_a_model_whose_settings_fail_is_a_row(tmp_path: Path) -> None:
    overrides = {"hierarchical_relations": ("nowhere",), "device": "cpu", "epochs": 1}
    study = small_study(tmp_path / "study", ["popularity", "hakg"], overrides=overrides, trials=2)
    report = study.run()
    assert rows_of(report)["popularity"]["rank"] == 1
    failed = rows_of(report)["hakg"]
    assert (failed["rank"], failed["metrics"]) == (None, None)
    assert "all 2 trials failed" in failed["reason"]
    assert "nowhere" in failed["reason"]
    assert "Traceback" in (tmp_path / "study" / "data" / "demo" / "hakg" / "failure.txt").read_text()
    for suffix in ("md", "tex", "html"):
        assert "Failed or not finished" in (tmp_path / "study" / f"report.{suffix}").read_text()


@pytest.mark.usefixtures("quick")
def test_nan_and_too_little_memory_are_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hakg_dgl.models.ease import EASE
    from hakg_dgl.training import phases

    def too_large(self: Any, chosen: Any) -> None:
        raise MemoryError("20 GiB")

    monkeypatch.setattr(phases, "learning_rate", lambda *_: math.nan)
    monkeypatch.setattr(EASE, "solve", too_large)
    settings = {"epochs": 1, "dim": 4, "device": "cpu"}
    report = small_study(tmp_path / "study", ["popularity", "ease", "bpr-mf"], overrides=settings).run()
    assert rows_of(report)["popularity"]["reason"] is None
    assert rows_of(report)["ease"]["reason"] == "MemoryError: 20 GiB"
    assert rows_of(report)["bpr-mf"]["reason"].startswith("NumericalError: a parameter became NaN")


BROKEN = """
from hakg_dgl.models.popularity import Popularity
class Broken(Popularity):
    name = "broken"
    def solve(self, chosen):
        raise ZeroDivisionError("in another package")
"""


def test_models_of_another_package_that_raise_are_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In processes of their own, to which the package is known too."""
    group = "[hakg_dgl.models]\n"
    declared(tmp_path, "broken_models", f"{group}broken = broken_models:Broken\n", BROKEN)
    declared(tmp_path, "absent_models", f"{group}absent = absent_models:Absent\n", "import nowhere_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    report = small_study(tmp_path / "study", ["popularity", "broken", "absent"]).run(workers=2, threads=1)
    rows = rows_of(report)
    assert rows["broken"]["reason"] == "ZeroDivisionError: in another package"
    assert "nowhere_at_all" in rows["absent"]["reason"]
    assert rows["popularity"]["rank"] == 1
    assert rows["popularity"]["side_by_side"] == 2
    assert any("trained beside others" in note for note in report["notes"])


@pytest.mark.parametrize("tuned", [False, True])
def test_a_model_whose_process_is_killed_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuned: bool) -> None:
    calls = 0

    def killed(work: Any, todo: Any, *, ended: Callable[[Ended], None], **rest: Any) -> None:
        nonlocal calls
        calls += 1
        for number in range(len(todo)):
            ended(Ended(number, killed=True))

    monkeypatch.setattr(benchmark_steps, "run_calls", killed)
    report = small_study(tmp_path / "study", ["ease"], trials=int(tuned)).run()
    assert "process was killed" in rows_of(report)["ease"]["reason"]
    assert calls == (benchmark_steps.KILLS + 1 if tuned else 1)  # an empty round of runs follows the tuning


@pytest.mark.usefixtures("quick")
def test_what_is_wrong_with_the_folder_ends_it(tmp_path: Path) -> None:
    study = small_study(tmp_path / "study", ["popularity"])
    (tmp_path / "study" / "data").write_text("no folder")
    with pytest.raises(CheckpointError, match="cannot be written"):
        study.run()


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "more", "message"),
    [
        (["eese"], {}, "there is no model 'eese'; did you mean 'ease'?"),
        (["nothing-like-it"], {}, "the models are hakg, popularity"),
        ([], {}, "name at least one model"),
        (["popularity", "ease"], {"overrides": {"lr": 0.1}}, "lr: none of the chosen models reads this setting"),
        (["hakg"], {"overrides": {"layer": 1}}, "did you mean 'layers'?"),
        (["hakg", "kgin"], {"overrides": {"ranking_loss": "hinge"}}, "model 'kgin': ranking_loss = 'hinge'"),
        (["kgin:hinge"], {}, "kgin:hinge: ranking_loss = 'hinge'"),
        (["ease:bpr"], {}, "ease:bpr: model 'ease' has no ranking_loss to choose"),
        (["all:bpx"], {}, "no model allows ranking_loss = 'bpx'"),
        (["kgin:bpr"], {"overrides": {"ranking_loss": "bpr"}}, "given by --set and by kgin:bpr"),
        (["hakg"], {"overrides": {"seed": 1}}, "seed: cannot be set in a benchmark"),
        (["hakg"], {"overrides": {"protocol": "published"}}, "selects on the validation split"),
        (["hakg"], {"seeds": 0}, "seeds = 0: it must be at least 1"),
        (["hakg"], {"trials": -1}, "trials = -1"),
        (["hakg"], {"trials": None, "seconds": 0.0}, "seconds = 0.0"),
    ],
)
def test_models_and_settings_that_do_not_fit_are_refused(
    tmp_path: Path, models: list[str], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        small_study(tmp_path / "study", models, **more)
    assert not (tmp_path / "study").exists()


def test_data_sets_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for data, message in [
        ([DEMO, DEMO], "data set 'demo' is given twice"),
        ([DEMO, dataclasses.replace(OTHER, name="demo")], "two data sets have the name 'demo'"),
        ([small_demo(valid=0.0)], "has no valid interactions"),
        ([small_demo(test=0.0)], "has no test interactions"),
        ([], "name at least one data set"),
    ]:
        with pytest.raises(ConfigError, match=message):
            small_study(tmp_path / "study", ["popularity"], data)
    assert not (tmp_path / "study").exists()


def test_a_study_keeps_its_data_settings_and_budget(made: Any) -> None:
    path = made[0].path
    with pytest.raises(IntegrityError, match="the study is on data set 'demo'"):
        BenchmarkStudy(path, [OTHER])
    with pytest.raises(ConfigError, match=r"other data sets: 'other.*added"):
        BenchmarkStudy(path, [DEMO, OTHER])
    with pytest.raises(ConfigError, match="the study has others: dim"):
        BenchmarkStudy(path, [DEMO], overrides={**SMALL, "dim": 8})
    with pytest.raises(ConfigError, match=r"the budget \(was 2 trials, now 3 trials\)"):
        BenchmarkStudy(path, [DEMO], trials=3)
    with sole_holder(path / "study.lock"), pytest.raises(HakgError, match="works on this study"):
        BenchmarkStudy(path, [DEMO]).run()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="holds something else than a benchmark"):
        small_study(tmp_path, ["popularity"])
    (tmp_path / "study.json").write_text('{"format_version": 1, "study": "tune"}')
    with pytest.raises(CheckpointError, match="the study is one by 'hakg tune', not by 'hakg benchmark'"):
        small_study(tmp_path, ["popularity"])
    (tmp_path / "study.json").write_text('{"format_version": 1, "study": "benchmark"}')
    with pytest.raises(CheckpointError, match="is damaged, or of no benchmark"):
        small_study(tmp_path, ["popularity"])


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "demo"
    DEMO.save(path)
    return path


@pytest.mark.usefixtures("quick")
def test_the_command_shows_the_ranking_and_goes_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    given = ("--models", "popularity, ease", "--trials", 1, "--seeds", 1, "--set", "device=cpu", "--quiet")
    result = hakg("benchmark", data, "--out", out, *given)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    assert re.search(r"^ +1  (ease|popularity) ", result.stdout, re.MULTILINE)
    assert f"Wrote {out}: report.md" in result.stdout
    again = hakg("benchmark", data, "--out", out, "--json", "-", "--quiet")
    assert json.loads(again.stdout) == json.loads((out / "report.json").read_text())


@pytest.mark.usefixtures("quick")
def test_the_command_ends_with_2_and_the_failed_models(data: Path, tmp_path: Path) -> None:
    options = ("--trials", 0, "--set", "hierarchical_relations=nowhere", "--set", "device=cpu")
    result = hakg("benchmark", data, "--out", tmp_path / "study", "--models", "popularity,hakg", *options)
    assert result.exit_code == 2
    assert "1 of 2 models failed" in result.stderr
    assert "hakg on demo: " in result.stderr
    assert "popularity" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "eese"], "did you mean 'ease'?"),
        (["--models", "ease", "--set", "lr=1"], "none of the chosen models reads"),
        (["--models", "ease", "--trials", "-1"], "--trials"),
    ],
)
def test_the_command_refuses_bad_input(data: Path, tmp_path: Path, options: list[str], message: str) -> None:
    result = hakg("benchmark", data, "--out", tmp_path / "study", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert not (tmp_path / "study").exists()


def test_the_command_refuses_a_data_set_that_is_given_twice(data: Path, tmp_path: Path) -> None:
    result = hakg("benchmark", data, data, "--out", tmp_path / "study", "--models", "ease")
    assert result.exit_code == 2
    assert result.stderr == "Error: data set 'demo' is given twice; name it once\n"


@pytest.mark.slow
def test_an_interrupted_command_says_how_to_go_on(data: Path, tmp_path: Path) -> None:
    """By SIGTERM; test_tuning.py has the same for Ctrl-C."""
    out = tmp_path / "study"
    long = ("--set", "epochs=100000", "--set", "patience=100000", "--set", "dim=4", "--set", "device=cpu")
    command = [*COMMAND, "benchmark", str(data), "--out", str(out), "--models", "bpr-mf", "--trials", "0", *long]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          start_new_session=True) as process:  # fmt: skip
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until and not list(out.rglob("seed-1.progress")):
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        try:
            stdout, stderr = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr
    assert f"Interrupted. Continue with: hakg benchmark {data} --out {out}" in stderr
    assert stdout == ""
    (row,) = json.loads((out / "report.json").read_bytes())["datasets"][0]["ranking"]
    assert row["reason"] == "not finished"
