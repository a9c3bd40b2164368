"""``hakg ablate``: which models are trained, going on after interruptions, the report against its parts, refusals."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from bad_input import COMMAND, hakg
from dense import on_one_thread
from small_demo import small_demo, small_settings

from hakg_dgl import AblationProgress, AblationStudy, Settings, compare, evaluate, load_scorer
from hakg_dgl.errors import (
    CheckpointError,
    ConfigError,
    FormatVersionError,
    HakgError,
    IntegrityError,
    NumericalError,
)
from hakg_dgl.locks import sole_holder
from hakg_dgl.studies.ablation_figures import _percent
from hakg_dgl.studies.runs import METRICS, user_metrics
from hakg_dgl.studies.variants import chosen_variants, is_full, shown_in, variants_of

DEMO = small_demo()
SETTINGS = small_settings(epochs=2, dim=4, refit=True, linear_rank=4, batch_size=640)
FEW = ("full", "no-gate", "layers-2")
SET = ("--epochs", 1, "--set", "dim=4", "--set", "layers=1", "--set", "batch_size=320", "--device", "cpu")
one_thread = pytest.fixture(autouse=True)(on_one_thread)


# --- variants -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["default", "paper", "released"])
def test_every_variant_changes_settings_or_is_the_full_model(preset: str) -> None:
    settings = Settings.resolve(preset=preset)
    same = {variant.name for variant in variants_of(Settings()) if is_full(variant, settings)}
    assert same >= {"full", settings.model.formulation, f"layers-{settings.model.layers}"}
    assert ("no-linear" in same) == (not settings.model.has_linear_term)
    assert ("no-facts-term" in same) == (not settings.model.has_facts_term)
    depths = {f"layers-{depth}" for depth in range(1, 5)}
    assert same <= {"full", "paper", "released", "no-linear", "no-facts-term"} | depths
    assert {"euclidean", "no-angle", "no-gate", "no-dual"} <= {v.name for v in chosen_variants(settings)}
    assert [v.name for v in chosen_variants(settings)] == [
        "full",
        *(v.name for v in variants_of(Settings()) if v.name not in same),
    ]


def test_a_variant_that_is_the_full_model_stands_for_it() -> None:
    settings = Settings.resolve(overrides={"layers": 3})
    assert [v.name for v in chosen_variants(settings, ["layers-3", "no-gate"])] == ["full", "no-gate"]
    with pytest.raises(ConfigError, match="there is no variant 'gate'; the variants are full, euclidean"):
        chosen_variants(settings, ["gate"])


@pytest.mark.parametrize(("layers", "full"), [(2, "L = 2 (full)"), (4, "L = 4 (full)"), (7, "full model (L = 7)")])
def test_the_depth_table_shows_the_full_model_where_it_stands(layers: int, full: str) -> None:
    rows = shown_in("depth", Settings.resolve(overrides={"layers": layers}))
    assert [label for label, name in rows.items() if name == "full"] == [full]
    assert len(rows) == (4 if layers <= 4 else 5)
    assert "full" not in shown_in("ablation", Settings())["without the gate"]


# --- a study ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[AblationStudy, dict[str, Any], list[AblationProgress]]:
    """Three variants of one layer with two seeds, in one go."""
    seen: list[AblationProgress] = []
    study = AblationStudy(tmp_path_factory.mktemp("ablation") / "study", DEMO, SETTINGS, seeds=(2, 1))
    return study, study.run(FEW, resamples=100, on_progress=seen.append), seen


def results(report: dict[str, Any]) -> dict[tuple[str, int], Any]:
    return {(run["variant"], run["seed"]): (run["best_epoch"], run["metrics"]) for run in report["runs"]}


def test_every_variant_is_trained_with_every_seed_and_its_settings(study: Any) -> None:
    made, report, seen = study
    assert sorted(results(report)) == sorted((name, seed) for name in FEW for seed in (1, 2))
    for run in report["runs"]:
        settings = Settings.resolve(file=made.path / run["folder"] / "config.toml")
        assert settings == SETTINGS.replace({**run["overrides"], "seed": run["seed"]})
    assert [(seen[0].done, seen[0].total), (seen[-1].done, seen[-1].total)] == [(0, 6), (6, 6)]
    assert {progress.running for progress in seen} >= {"full model, seed 1", "without the gate, seed 2"}


def test_the_report_compares_what_the_runs_measure(study: Any) -> None:
    made, report, _ = study
    assert json.loads((made.path / "report.json").read_text()) == report
    groups: dict[str, Any] = {}
    for run in report["runs"]:
        scorer = load_scorer(made.path / run["folder"], DEMO)
        measured = evaluate(scorer, DEMO, split="test", ks=(20,), per_user=True)
        assert measured.metrics == pytest.approx(run["metrics"]["test"], abs=1e-9)
        groups.setdefault(run["variant"], {})[f"seed {run['seed']}"] = measured
    expected = compare({"full model": groups["full"], "without the gate": groups["no-gate"]}, METRICS,
                       against="full model", resamples=100)  # fmt: skip
    found = report["tables"]["ablation"]
    (mine, _), (theirs, _) = found["differences"], expected.differences
    assert mine["mean"] == pytest.approx(theirs.mean, abs=1e-9)
    assert (mine["low"], mine["p_bootstrap"], mine["p_test"]) == pytest.approx(
        (theirs.low, theirs.p_bootstrap, theirs.p_test), abs=1e-9
    )
    assert [group["label"] for group in report["tables"]["depth"]["groups"]] == ["L = 1 (full)", "L = 2"]


def test_the_tables_say_the_same_in_every_format(study: Any) -> None:
    made, report, _ = study
    markdown, latex = ((made.path / f"report.{kind}").read_text() for kind in ("md", "tex"))
    table = pd.read_csv(made.path / "report.csv")
    assert len(table) == 2 * 2 * 2  # tables, groups, metrics
    for name, found in report["tables"].items():
        rows = table[table["table"] == name]
        for group in found["groups"]:
            for metric in METRICS:
                (row,) = rows[(rows["group"] == group["label"]) & (rows["metric"] == metric)].to_dict("records")
                mean = group["metrics"][metric]["mean"]
                assert row["mean"] == pytest.approx(mean)
                assert f"{mean:.4f}" in markdown
                assert f"{mean:.4f}" in latex
    assert table["difference"].isna().sum() == 4  # of the full model
    assert "selected on the validation split by ndcg@20, then trained again on train and validation" in markdown
    assert "6 of 22 runs are finished: groups may have different seeds." in markdown
    assert latex.count(r"\begin{tabular}") == 4
    assert "`gate=false`" in markdown


def test_finished_runs_are_not_touched_and_more_seeds_are_added(study: Any) -> None:
    made, report, _ = study
    models = {path: path.stat().st_mtime_ns for path in made.path.rglob("model.safetensors")}
    again = AblationStudy(made.path, DEMO)
    assert (again.settings, again.seeds) == (SETTINGS, (1, 2))
    assert again.run(FEW, resamples=100) == report
    assert {path: path.stat().st_mtime_ns for path in models} == models
    about = made.about_file.read_bytes()
    assert AblationStudy(made.path, DEMO, seeds=[7]).seeds == (1, 2, 7)
    assert len(AblationStudy(made.path, DEMO).planned(["no-gate"])) == 3
    made.about_file.write_bytes(about)


def test_a_study_that_was_interrupted_comes_to_the_same_result(study: Any, tmp_path: Path) -> None:
    _, report, _ = study

    def stop(progress: AblationProgress) -> None:
        if (progress.done, progress.epoch) == (2, 2):
            raise KeyboardInterrupt

    made = AblationStudy(tmp_path / "study", DEMO, SETTINGS, seeds=(1, 2))
    with pytest.raises(KeyboardInterrupt):
        made.run(FEW, resamples=100, on_progress=stop)
    part = json.loads((made.path / "report.json").read_text())
    assert len(part["runs"]) == 2
    assert results(AblationStudy(made.path, DEMO).run(FEW, resamples=100)) == results(report)


@pytest.mark.slow
def test_several_workers_come_to_the_same_result(study: Any, tmp_path: Path) -> None:
    _, report, _ = study
    made = AblationStudy(tmp_path / "study", DEMO, SETTINGS, seeds=(1, 2))
    assert results(made.run(FEW, workers=2, threads=1, resamples=100)) == results(report)


@pytest.mark.slow
def test_a_killed_worker_is_an_error_and_what_is_finished_stays(study: Any, tmp_path: Path) -> None:
    _, report, _ = study
    killed: list[int | None] = []

    def kill(progress: AblationProgress) -> None:
        if progress.done == 1:
            for victim in multiprocessing.active_children():
                killed.append(victim.pid)
                victim.kill()

    made = AblationStudy(tmp_path / "study", DEMO, SETTINGS, seeds=(1, 2))
    with pytest.raises(HakgError, match=r"a worker was killed; where memory ran out, take fewer \(--workers\)"):
        made.run(FEW, workers=2, threads=1, resamples=100, on_progress=kill)
    assert len(killed) == 2
    assert not multiprocessing.active_children()
    assert not (made.path / "study.lock").exists()
    part = json.loads((made.path / "report.json").read_text())
    assert 1 <= len(part["runs"]) < 6
    assert results(made.run(FEW, resamples=100)) == results(report)


@pytest.mark.slow
def test_workers_stop_when_the_command_is_interrupted(tmp_path: Path) -> None:
    """By SIGTERM, while runs are trained; test_tuning.py has the same for Ctrl-C, which a terminal sends to all.

    test_pool.py has the same while processes are being started.
    """
    DEMO.save(tmp_path / "D")
    out = tmp_path / "study"
    long = ("--set", "epochs=100000", "--set", "patience=100000", "--device", "cpu")
    command = [*COMMAND, "ablate", tmp_path / "D", "--out", out, "--workers", "2", "--threads", "1", *long]
    with subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        for _ in range(1200):
            if process.poll() is not None or list((out / "runs" / "full").rglob("metrics.jsonl")):
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        try:
            stdout, stderr = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr
    assert f"Interrupted. Continue with: hakg ablate {tmp_path / 'D'} --out {out}" in stderr
    assert stdout == ""
    assert AblationStudy(out, DEMO).planned(["full"])[0].folder.is_dir()


def test_a_table_of_users_that_is_of_another_model_is_measured_again(study: Any) -> None:
    made, _, _ = study
    run = made.planned(["full"])[0]
    file = run.folder / "users.parquet"
    good = user_metrics(run, DEMO)
    for spoil in (
        lambda: good.assign(**{"ndcg@20": good["ndcg@20"] + 0.1}).to_parquet(file),
        lambda: file.write_bytes(b"no table"),
        lambda: good[["user"]].to_parquet(file),
        file.unlink,
    ):
        spoil()
        pd.testing.assert_frame_equal(user_metrics(run, DEMO), good)
        pd.testing.assert_frame_equal(pd.read_parquet(file), good)


def test_a_run_that_fails_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    def fail(progress: AblationProgress) -> None:
        if progress.running == "without the gate, seed 1":
            raise NumericalError("the loss became nan")

    made = AblationStudy(tmp_path / "study", DEMO, SETTINGS.replace({"epochs": 1}), seeds=[1])
    report = made.run(["no-gate", "no-angle"], resamples=100, on_progress=fail)
    assert report["failed"] == [{"variant": "no-gate", "seed": 1, "reason": "NumericalError: the loss became nan"}]
    assert [run["variant"] for run in report["runs"]] == ["no-angle"]
    assert report["tables"] == {}
    assert {"without the gate, seed 1 failed.", "One seed: what chance in training does is not seen."} <= {
        *report["notes"]
    }
    assert "The full model has no finished run, so there is nothing to compare with." in report["notes"]
    assert (made.path / "report.csv").read_text().startswith("table,group,metric")
    again = made.run(["no-gate"], resamples=100)
    assert (len(again["runs"]), again["failed"]) == (2, [])


# --- figures ------------------------------------------------------------------------------------------------------


def test_the_figures_name_every_model_and_are_the_same_each_time(study: Any) -> None:
    pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")
    made, report, _ = study
    files = {
        f"{name}{suffix}": (made.path / f"{name}{suffix}")
        for name in ("ablation", "depth")
        for suffix in (".png", ".svg")
    }
    before = {name: file.read_bytes() for name, file in files.items()}
    assert before["ablation.png"].startswith(b"\x89PNG")
    text = re.sub(r"<[^>]*>", " ", before["ablation.svg"].decode())
    for words in ("without the gate", "Recall@20", "NDCG@20", "difference from the full model"):
        assert words in text
    change = next(row for row in report["tables"]["ablation"]["differences"] if row["metric"] == "ndcg@20")
    full = report["tables"]["ablation"]["groups"][0]["metrics"]["ndcg@20"]["mean"]
    assert f"{100 * change['mean'] / full:+.1f}%".replace("-", "−") in text
    made.run(FEW, resamples=100)
    assert {name: file.read_bytes() for name, file in files.items()} == before


def test_what_rounds_to_nothing_has_no_sign() -> None:
    assert [_percent(value) for value in (-0.04, 0.0, 0.04, -0.06, 12.34)] == [
        "0.0%",
        "0.0%",
        "0.0%",
        "−0.1%",
        "+12.3%",
    ]


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "ease"}, "kind = 'ease' has no parts to switch off"),
        ({"protocol": "published"}, "the study must not select on the test split"),
    ],
)
def test_settings_of_no_study_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AblationStudy(tmp_path / "study", DEMO, Settings.resolve(overrides={"device": "cpu", **changes}))
    assert not (tmp_path / "study").exists()


def test_a_data_set_without_a_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no test interactions, which the study needs"):
        AblationStudy(tmp_path / "study", small_demo(test=0.0), SETTINGS)


def test_a_study_of_something_else_is_refused(tmp_path: Path) -> None:
    AblationStudy(tmp_path / "study", DEMO, SETTINGS)
    with pytest.raises(ConfigError, match=r"the study has other settings: lr \(was 0.01, now 0.5\)"):
        AblationStudy(tmp_path / "study", DEMO, SETTINGS.replace({"lr": 0.5}))
    AblationStudy(tmp_path / "study", DEMO, SETTINGS.replace({"seed": 9}))  # which the seeds are instead
    with pytest.raises(IntegrityError, match="the study is on data set 'demo'"):
        AblationStudy(tmp_path / "study", small_demo(seed=3), SETTINGS)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(CheckpointError, match="holds something else than an ablation study"):
        AblationStudy(tmp_path / "other", DEMO, SETTINGS)
    with pytest.raises(ConfigError, match="seed = -1"):
        AblationStudy(tmp_path / "new", DEMO, SETTINGS, seeds=[-1])


def spoiled(about: dict[str, Any]) -> Iterator[tuple[str, type[Exception]]]:
    yield "{", CheckpointError
    yield "[]", CheckpointError
    for key in about:
        yield json.dumps({name: value for name, value in about.items() if name != key}), CheckpointError
    yield json.dumps(about | {"settings": {"model": {"dim": 0}}}), CheckpointError
    yield json.dumps(about | {"seeds": ["x"]}), CheckpointError
    yield json.dumps(about | {"format_version": 2}), FormatVersionError


def test_a_damaged_study_is_refused(tmp_path: Path) -> None:
    file = AblationStudy(tmp_path / "study", DEMO, SETTINGS).about_file
    for text, error in spoiled(json.loads(file.read_text())):
        file.write_text(text)
        with pytest.raises(error, match=re.escape(str(file))):
            AblationStudy(tmp_path / "study", DEMO)


def test_a_study_that_another_process_works_on_is_refused(tmp_path: Path) -> None:
    made = AblationStudy(tmp_path / "study", DEMO, SETTINGS)
    refused = pytest.raises(CheckpointError, match=f"study: process {os.getpid()} on .* works on this study")
    with sole_holder(made.path / "study.lock"), refused:
        made.run(FEW)
    assert not (made.path / "study.lock").exists()
    with pytest.raises(ConfigError, match="workers = 0"):
        made.run(FEW, workers=0)


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_trains_reports_and_goes_on(tmp_path: Path) -> None:
    DEMO.save(tmp_path / "D")
    out = tmp_path / "study"
    first = hakg("ablate", tmp_path / "D", "--out", out, "--seeds", 3, 4, "--only", "full", *SET, "--resamples", 100)
    assert first.exit_code == 0, first.output
    assert "The full model" not in first.stdout
    assert sorted(path.name for path in (out / "runs" / "full").iterdir()) == ["seed-3", "seed-4"]
    assert (torch.get_num_threads(), "Wrote" in first.stdout) == (1, True)
    more = hakg("ablate", tmp_path / "D", "--out", out, "--only", "no-angle", "--resamples", 100)
    assert more.exit_code == 0, more.output
    lines = [line.split("  ")[0] for line in more.stdout.splitlines()]
    assert lines[2:5] == ["", "model", "full model"] or "full model" in lines
    assert f"Wrote {out}: report.md, .tex, .csv and .json, 4 runs" in more.stdout
    about = json.loads((out / "runs" / "full" / "seed-3" / "run.json").read_text())
    assert about["data"]["path"] == str((tmp_path / "D").resolve())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--seeds", "a"], "'a': write whole numbers, such as 2020 2021 2022"),
        (["--seeds", ""], "'': write whole numbers"),
        (["--only", "gate"], "there is no variant 'gate'; the variants are full"),
        (["--set", "kind=ease"], "kind = 'ease' has no parts to switch off"),
        (["--set", "nonsense=1"], "there is no setting 'nonsense'"),
    ],
)
def test_what_the_command_refuses(tmp_path: Path, args: list[str], message: str) -> None:
    DEMO.save(tmp_path / "D")
    result = hakg("ablate", tmp_path / "D", "--out", tmp_path / "study", *args)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (tmp_path / "study" / "runs").exists()
