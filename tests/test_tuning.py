"""Studies on a small demo: what they find, that they go on after interruptions, and what they never look at."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bad_input import COMMAND
from click.testing import CliRunner, Result
from small_demo import small_demo, small_settings, with_interactions

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import CheckpointError, ConfigError, FormatVersionError, IntegrityError
from hakg_dgl.models.settings import Settings
from hakg_dgl.studies.search_space import SearchSpace
from hakg_dgl.studies.tuning import Study, StudyProgress
from hakg_dgl.studies.tuning_report import ranked
from hakg_dgl.training import phases
from hakg_dgl.training.trainer import make_trainer

pytest.importorskip("optuna", reason="python -m pip install -e .[tune]")

SPACE = {"lr": {"low": 1e-3, "high": 0.1, "log": True}, "margin": {"low": 0.3, "high": 0.8}, "gate": [True, False]}
TRIALS = 11  # one more than are drawn at random


@pytest.fixture(scope="module")
def demo() -> Dataset:
    return small_demo()


def begin(path: Path, demo: Dataset, space: dict[str, Any] | None = None, **settings: Any) -> Study:
    chosen = small_settings(**{"epochs": 2, **settings})
    return Study(path, demo, chosen, SearchSpace.from_dict(space or SPACE, chosen))


def outcomes(report: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Settings and curve of the trials that count, in order."""
    return [
        (trial["settings"], trial["state"], trial["curve"])
        for trial in report["trials"]
        if trial["state"] != "repeated"
    ]


@pytest.fixture(scope="module")
def whole(demo: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A study that nothing disturbed."""
    path = tmp_path_factory.mktemp("tuning") / "study"
    return path, begin(path, demo).run(TRIALS)


def test_the_report_has_all_trials_and_the_best(whole: tuple[Path, dict[str, Any]]) -> None:
    path, report = whole
    assert json.loads((path / "report.json").read_bytes()) == report
    assert report["counts"]["completed"] == TRIALS
    best = max(report["trials"], key=lambda trial: trial["value"])
    assert ranked(report)[0] == best
    assert report["best"]["number"] == best["number"]
    assert best["metrics"]["ndcg@20"] == best["value"]
    assert best["value"] >= max(value for _, value in best["curve"]), "the terms are chosen after the last epoch"
    assert [trial["number"] for trial in report["trials"]] == list(range(TRIALS))
    assert all(set(trial["settings"]) == set(SPACE) for trial in report["trials"])
    assert sum(report["importance"]["values"].values()) == pytest.approx(1, abs=1e-4)
    assert set(report["importance"]["values"]) == set(SPACE)
    assert [len(points) for points in report["slices"].values()] == [TRIALS] * 3
    assert [axis["name"] for axis in report["parallel"]["axes"]] == [*SPACE, "ndcg@20"]
    assert len(report["parallel"]["lines"]) == TRIALS
    text = (path / "report.md").read_text()
    assert f"Trial {best['number']}: ndcg@20 {best['value']:.4f}" in text
    assert all(command in text for command in report["commands"])
    assert "| gate |" in text


def test_the_best_settings_are_a_config(whole: tuple[Path, dict[str, Any]], demo: Dataset) -> None:
    path, report = whole
    settings = Settings.resolve(file=path / "best.toml")
    assert settings == small_settings(epochs=2, **report["best"]["settings"])
    assert len(report["commands"]) == 3


def test_the_same_seed_gives_the_same_trials_through_interruptions(
    whole: tuple[Path, dict[str, Any]], demo: Dataset, tmp_path: Path
) -> None:
    """Two interruptions among the random trials, one among those that the sampler chose by what it learned."""
    for stop_at in (1, 4, 10):

        def interrupt(progress: StudyProgress, stop_at: int = stop_at) -> None:
            if progress.done == stop_at and progress.epoch == 1:
                raise KeyboardInterrupt

        study = begin(tmp_path / "study", demo)
        with pytest.raises(KeyboardInterrupt):
            study.run(TRIALS, on_progress=interrupt)
        stopped = json.loads((tmp_path / "study" / "report.json").read_bytes())
        assert stopped["counts"]["waiting"] == 1
    report = Study(tmp_path / "study", demo).run(TRIALS)
    assert report["counts"]["repeated"] == 3
    assert len(report["trials"]) == TRIALS + 3
    assert outcomes(report) == outcomes(whole[1])
    assert not list((tmp_path / "study" / "workers").iterdir())


def test_another_seed_gives_other_trials(whole: tuple[Path, dict[str, Any]], demo: Dataset, tmp_path: Path) -> None:
    report = begin(tmp_path / "study", demo, seed=7).run(2)
    assert [trial["settings"] for trial in report["trials"]] != [t["settings"] for t in whole[1]["trials"][:2]]
    assert report["trials"][0]["settings"] != report["trials"][1]["settings"]
    assert "too few" in report["importance"]["remark"]


def test_a_study_with_enough_trials_makes_no_more(whole: tuple[Path, dict[str, Any]], demo: Dataset) -> None:
    journal = (whole[0] / "journal.jsonl").read_bytes()
    assert Study(whole[0], demo).run(TRIALS - 2) | {"wanted": TRIALS} == whole[1]
    assert (whole[0] / "journal.jsonl").read_bytes() == journal


def test_no_trial_begins_after_the_time(demo: Dataset, tmp_path: Path) -> None:
    report = begin(tmp_path / "study", demo).run(None, seconds=1e-9)
    assert (report["trials"], report["best"], report["commands"]) == ([], None, [])
    assert not (tmp_path / "study" / "best.toml").exists()
    assert "Trials: none" in (tmp_path / "study" / "report.md").read_text()


def test_the_test_split_is_not_looked_at(whole: tuple[Path, dict[str, Any]], demo: Dataset, tmp_path: Path) -> None:
    """Other test interactions, the same trials; and none is there for the trainer to see."""
    frame = demo.interactions
    test = frame["split"] == "test"
    taken = set(zip(frame["user"][~test], frame["item"][~test], strict=True))
    moved = frame[test].assign(item=lambda rows: (rows["item"] + 1) % demo.n_items)
    moved = moved[[pair not in taken for pair in zip(moved["user"], moved["item"], strict=True)]]
    other = with_interactions(demo, pd.concat([frame[~test], moved]))
    assert other.digest != demo.digest
    study = begin(tmp_path / "study", other)
    assert len(other.pairs("test")) > 0
    assert len(study._seen.pairs("test")) == 0
    assert np.array_equal(study._seen.pairs("train", "valid"), demo.pairs("train", "valid"))
    assert outcomes(study.run(2)) == outcomes(whole[1])[:2]
    assert "test" not in json.dumps([trial["metrics"] for trial in whole[1]["trials"]])


def test_trials_that_fall_behind_are_pruned(demo: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hakg_dgl.studies.tuning.PRUNED_FROM_EVALUATION", 2)
    space = {"lr": [0.02, 1e-7]}
    settings = {"epochs": 3, "linear_weight": 0.0, "facts_weight": 0.0}  # these terms rank well whatever is learned
    report = begin(tmp_path / "pruned", demo, space, **settings).run(8)
    pruned = [trial for trial in report["trials"] if trial["state"] == "pruned"]
    assert pruned
    assert {trial["settings"]["lr"] for trial in pruned} == {1e-7}
    assert all(trial["epochs"] == 2 and trial["number"] >= 5 for trial in pruned)
    assert report["best"]["settings"]["lr"] == 0.02
    chosen = small_settings(epochs=3)
    kept = Study(tmp_path / "kept", demo, chosen, SearchSpace.from_dict(space, chosen), prune=False)
    assert type(kept._optuna.pruner).__name__ == "NopPruner"


def test_a_trial_that_fails_is_recorded_with_the_reason(demo: Dataset, tmp_path: Path) -> None:
    space = {"hierarchical_relations": [["all"], ["no_such_relation"]]}
    report = begin(tmp_path / "study", demo, space).run(6)
    failed = [trial for trial in report["trials"] if trial["state"] == "failed"]
    assert 0 < len(failed) < 6
    assert all(trial["settings"] == {"hierarchical_relations": ["no_such_relation"]} for trial in failed)
    assert all("no_such_relation" in trial["reason"] for trial in failed)
    assert report["counts"]["completed"] == 6 - len(failed)
    assert "## Failed trials" in (tmp_path / "study" / "report.md").read_text()


def test_a_loss_that_becomes_nan_is_recorded(demo: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "learning_rate", lambda lr, *_: math.nan if lr == 0.02 else lr)
    report = begin(tmp_path / "study", demo, {"lr": [0.01, 0.02]}).run(5)
    state = {0.01: "completed", 0.02: "failed"}
    assert [trial["state"] for trial in report["trials"]] == [state[t["settings"]["lr"]] for t in report["trials"]]
    assert report["counts"]["failed"] > 0
    reasons = [trial["reason"] for trial in report["trials"] if trial["state"] == "failed"]
    assert all(reason.startswith("NumericalError: the loss became nan in epoch 1") for reason in reasons)


def test_a_mistake_of_ours_is_not_hidden(demo: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "learning_rate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        begin(tmp_path / "study", demo).run(5)
    report = json.loads((tmp_path / "study" / "report.json").read_bytes())
    assert [trial["reason"] for trial in report["trials"]] == ["ZeroDivisionError: division by zero"]


def test_a_study_of_failures_gives_up(demo: Dataset, tmp_path: Path) -> None:
    study = begin(tmp_path / "study", demo, {"hierarchical_relations": [["nothing"], ["nowhere"]]})
    with pytest.raises(ConfigError, match=r"all of the first 10 trials failed.*\n.*no(thing|where)"):
        study.run(30)
    assert json.loads((tmp_path / "study" / "report.json").read_bytes())["counts"]["failed"] == 10


def test_workers_share_a_study_and_take_up_what_a_killed_one_leaves(demo: Dataset, tmp_path: Path) -> None:
    killed: list[int | None] = []

    def kill_one(progress: StudyProgress) -> None:
        if progress.running == 2 and not killed:
            victim = multiprocessing.active_children()[0]
            killed.append(victim.pid)
            victim.kill()

    study = begin(tmp_path / "study", demo, {"lr": [0.01, 0.02], "margin": {"low": 0.3, "high": 0.9}}, epochs=8)
    report = study.run(4, workers=2, threads=1, on_progress=kill_one)
    assert killed
    assert not multiprocessing.active_children()
    assert report["counts"] | {"pruned": 0} == dict.fromkeys(report["counts"], 0) | {"completed": 4, "repeated": 1}
    (lost,) = (trial for trial in report["trials"] if trial["state"] == "repeated")
    again = int(lost["reason"].split()[-1])
    # One that is killed before its settings are drawn has none.
    assert lost["settings"] in ({}, report["trials"][again]["settings"])


def test_a_trial_that_kills_its_worker_each_time_is_given_up(demo: Dataset, tmp_path: Path) -> None:
    """Three workers that ended in the middle, each of which left a running trial with an id that is no more."""
    study = begin(tmp_path / "study", demo)
    for killed in range(3):
        trial = study._claims.claim(DEAD, 1)
        assert trial is not None
        assert trial.number == killed
    report = Study(tmp_path / "study", demo).run(2)
    assert [trial["state"] for trial in report["trials"]] == ["repeated", "repeated", "failed", "completed"]
    assert "killed each time" in report["trials"][2]["reason"]
    assert report["trials"][0]["settings"] == report["trials"][2]["settings"] != report["trials"][3]["settings"]


class _Dead:
    """A worker that was killed, so no other one lives in its eyes either."""

    id = "killed"

    def is_alive(self, other: str | None) -> bool:
        return False


DEAD: Any = _Dead()


def test_the_settings_of_a_baseline_are_searched_in_its_own_space(demo: Dataset, tmp_path: Path) -> None:
    study = Study(tmp_path / "study", demo, Settings.resolve(overrides={"kind": "ease", "device": "cpu"}))
    report = study.run(3)
    assert list(report["search"]) == ["ease_l2"]
    found = report["best"]["settings"]["ease_l2"]
    best = Settings.resolve(file=tmp_path / "study" / "best.toml").model.ease_l2
    assert best == (tuple(found) if isinstance(found, list) else (found,))
    assert report["commands"] == [f"hakg train DATA --out {tmp_path}/study-best --config {tmp_path}/study/best.toml"]


def test_the_first_trial_has_the_settings_as_they_are(demo: Dataset, tmp_path: Path) -> None:
    """Lists of values, of which training chooses, included: the best of the search is never worse than them."""
    settings = Settings.resolve(overrides={"kind": "ease", "device": "cpu"})
    report = Study(tmp_path / "ease", demo, settings).run(3)
    first, *others = report["trials"]
    assert [trial["given"] for trial in report["trials"]] == [True, False, False]
    assert tuple(first["settings"]["ease_l2"]) == settings.model.ease_l2
    assert first["value"] == make_trainer(demo, settings.replace({"refit": False})).fit()["metrics"]["valid"]["ndcg@20"]
    assert report["best"]["value"] >= first["value"]
    assert "| 0, as given |" in (tmp_path / "ease" / "report.md").read_text()
    assert [point[2] for point in report["slices"]["ease_l2"]] == [1, 2], "a list has no place on an axis"
    assert len(report["parallel"]["lines"]) == 2
    one = Study(tmp_path / "one", demo, settings.replace({"ease_l2": 77.0})).run(2)
    assert one["trials"][0]["settings"] == {"ease_l2": 77.0}
    assert one["slices"]["ease_l2"][0][0] == 77.0
    assert all(isinstance(trial["settings"]["ease_l2"], float) for trial in others)


def test_a_space_of_the_callers_own_that_leaves_the_settings_out_is_kept_to(demo: Dataset, tmp_path: Path) -> None:
    space = {"lr": {"low": 0.02, "high": 0.03}, "gate": [True, False]}
    for name, given, lr in (("without", False, 0.01), ("with", True, 0.025)):
        report = begin(tmp_path / name, demo, space, lr=lr).run(2)
        assert [trial["given"] for trial in report["trials"]] == [given, False]
        assert all(0.02 <= trial["settings"]["lr"] <= 0.03 for trial in report["trials"])


def test_the_first_trial_stays_as_given_when_it_is_made_again(demo: Dataset, tmp_path: Path) -> None:
    def interrupt(progress: StudyProgress) -> None:
        raise KeyboardInterrupt

    settings = small_settings(epochs=2)
    with pytest.raises(KeyboardInterrupt):
        Study(tmp_path / "study", demo, settings).run(2, on_progress=interrupt)
    report = Study(tmp_path / "study", demo).run(2)
    assert [(trial["state"], trial["given"]) for trial in report["trials"]] == [
        ("repeated", True), ("completed", True), ("completed", False),
    ]  # fmt: skip
    undisturbed = Study(tmp_path / "undisturbed", demo, settings).run(2)
    assert outcomes(report) == outcomes(undisturbed)


# --- what does not fit --------------------------------------------------------------------------------------------


def test_a_study_keeps_its_data_settings_and_space(whole: tuple[Path, dict[str, Any]], demo: Dataset) -> None:
    path, _ = whole
    other = with_interactions(demo, demo.interactions.iloc[1:])
    with pytest.raises(IntegrityError, match="the study is on data set 'demo'"):
        Study(path, other)
    with pytest.raises(ConfigError, match=r"the study has others: dim \(was 8, now 16\)"):
        Study(path, demo, small_settings(epochs=2, dim=16))
    with pytest.raises(ConfigError, match="the search space, in margin, layers"):
        Study(path, demo, None, SearchSpace.from_dict({**SPACE, "margin": [0.1, 0.2], "layers": [1, 2]}))
    with pytest.raises(ConfigError, match=r"pruning \(was on\)"):
        Study(path, demo, prune=False)


def test_a_search_on_the_test_split_is_refused(demo: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must not select on the test split"):
        Study(tmp_path / "study", demo, small_settings(protocol="published"))
    with pytest.raises(ConfigError, match="no valid interactions"):
        Study(tmp_path / "other", small_demo(valid=0.0))


def test_a_folder_of_something_else_is_left_alone(demo: Dataset, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="holds something else than a study"):
        Study(tmp_path, demo)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("content", ["", "[]", "{}", "3", '{"format_version": 1, "data": {}}'])
def test_a_damaged_study_is_an_error_with_the_file(demo: Dataset, tmp_path: Path, content: str) -> None:
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"study\.json: is damaged, or of no study"):
        Study(tmp_path, demo)


def test_a_study_of_a_newer_version_is_refused(demo: Dataset, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text('{"format_version": 99}')
    with pytest.raises(FormatVersionError, match="study format 99"):
        Study(tmp_path, demo)


# --- the command --------------------------------------------------------------------------------------------------

cli = pytest.importorskip("hakg_dgl.cli", reason="python -m pip install -e .")
FIXED = [f"--set={key}={value}" for key, value in {"dim": 8, "layers": 1, "negatives": 10, "batch_size": 160}.items()]


def hakg(*args: object) -> Result:
    return CliRunner().invoke(cli.main, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def data(demo: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "demo"
    demo.save(path)
    return path


def test_the_command_finds_settings_that_train_takes(data: Path, tmp_path: Path) -> None:
    space, out = tmp_path / "space.toml", tmp_path / "study"
    space.write_text("[training]\nlr = { low = 1e-3, high = 0.1, log = true }\n")
    options = ("--search", space, *FIXED, "--epochs", 1, "--seed", 3)
    result = hakg("tune", data, "--out", out, "--trials", 2, *options)
    assert result.exit_code == 0, result.output
    assert "2 completed" in result.output
    (command,) = (line for line in result.output.splitlines() if line.strip().endswith("--seed 2"))
    again = hakg("tune", data, "--out", out, "--trials", 3)
    assert "3 completed" in again.output, "continued with the settings and the space that it has"
    assert hakg("tune", data, "--out", out, "--trials", 3, *options).exit_code == 0
    trained = hakg(*command.split()[1:])
    assert trained.exit_code == 0, trained.output
    assert (tmp_path / "study-seed-2" / "result.json").exists()


def test_the_command_refuses_bad_input_in_a_line(data: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.toml"
    space.write_text("lr = { low = 1 }\n")
    result = hakg("tune", data, "--out", tmp_path / "study", "--search", space)
    assert result.exit_code == 2
    assert f"{space}: lr: the range has no 'high'" in result.output
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_says_how_to_continue(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    out, progress = tmp_path / "a study", Study.progress

    def stop_in_a_trial(self: Study, trials: int | None = None, epoch: int | None = None) -> StudyProgress:
        if epoch == 2:
            os.kill(os.getpid(), number)
        return progress(self, trials, epoch)

    monkeypatch.setattr(Study, "progress", stop_in_a_trial)
    before = signal.getsignal(signal.SIGTERM)
    result = hakg("tune", data, "--out", out, "--trials", 2, *FIXED, "--epochs", 3)
    assert result.exit_code == (130 if number == signal.SIGINT else 143), result.output
    assert f"Continue with: hakg tune {data} --out '{out}'" in result.output
    assert signal.getsignal(signal.SIGTERM) == before
    report = json.loads((out / "report.json").read_bytes())
    assert (report["counts"]["repeated"], report["counts"]["waiting"]) == (1, 1)


@pytest.mark.slow
def test_workers_give_their_trials_back_when_the_command_is_interrupted(data: Path, tmp_path: Path) -> None:
    """By Ctrl-C; test_ablation.py has the same for SIGTERM, which one process gets."""
    out = tmp_path / "study"
    long = ("--set", "epochs=100000", "--set", "patience=100000", "--device", "cpu")
    command = [*COMMAND, "tune", str(data), "--out", str(out), "--workers", "2", "--threads", "1", *FIXED, *long]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until and evaluated_trials(out) < 2:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all
        try:
            stdout, stderr = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert f"Interrupted. Continue with: hakg tune {data} --out {out}" in stderr
    assert stdout == ""
    report = json.loads((out / "report.json").read_bytes())
    assert (report["counts"]["repeated"], report["counts"]["waiting"]) == (2, 2)
    assert not list((out / "workers").iterdir())


def evaluated_trials(study: Path) -> int:
    """How many trials have a value in the journal of a study that others work on."""
    journal = study / "journal.jsonl"
    whole, _, _ = (journal.read_text() if journal.exists() else "").rpartition("\n")
    lines = whole.splitlines()
    return len({line["trial_id"] for line in map(json.loads, lines) if "intermediate_value" in line})
