"""Training: repeatable, resumable at any moment, honest about the test split, and better than no training."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from several_processes import PROCESSES
from small_demo import small_demo, small_settings, with_interactions
from torch import Tensor
from with_dgl import BACKENDS_HERE, needs_dgl

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.preprocess import preprocess
from hakg_dgl.data.synthetic import DemoSettings, generate_demo
from hakg_dgl.errors import (
    CheckpointError,
    ConfigError,
    FormatVersionError,
    HakgError,
    IntegrityError,
    MissingDependencyError,
    NumericalError,
)
from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.evaluation import evaluate
from hakg_dgl.ranking.topk import EmbeddingScorer
from hakg_dgl.ranking.yardsticks import PopularityScorer, RandomScorer
from hakg_dgl.training import checkpoint
from hakg_dgl.training.circumstances import choose_device
from hakg_dgl.training.loading import load_model
from hakg_dgl.training.phases import learning_rate
from hakg_dgl.training.progress import Progress
from hakg_dgl.training.protocol import PUBLISHED_NOTE
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.trainer import Trainer

EPOCHS = 5
METRICS = {"recall@20", "ndcg@20", "precision@20", "hit@20", "mrr@20"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for one another are slow on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def demo() -> Dataset:
    return small_demo()


@dataclasses.dataclass
class Outcome:
    """All that must be the same when a run is repeated or resumed."""

    result: dict[str, Any]
    lines: list[dict[str, Any]]
    weights: dict[str, Tensor]
    state: dict[str, Tensor]


def outcome(run: Path) -> Outcome:
    folder = RunFolder(run)
    result = {key: folder.result[key] for key in ("best_epoch", "epochs_run", "stopped", "metrics", "settings")}
    lines = [{key: value for key, value in line.items() if key != "seconds"} for line in folder.metrics]
    tensors = (folder.load_tensors(file)[0] for file in (folder.model_file, folder.state_file))
    return Outcome(result, lines, *tensors)


def assert_same(run: Path, expected: Outcome) -> None:
    mine = outcome(run)
    assert mine.lines == expected.lines
    assert mine.result == expected.result
    for tensors, others in ((mine.weights, expected.weights), (mine.state, expected.state)):
        assert tensors.keys() == others.keys()
        assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == []
    assert not [file.name for file in run.iterdir() if file.name.endswith(".tmp") or file.name.startswith(".tmp")]


def train(dataset: Dataset, run: Path, *, resume: bool = False, **overrides: Any) -> Outcome:
    Trainer(dataset, small_settings(**overrides), run=run).fit(resume=resume)
    return outcome(run)


@pytest.fixture(scope="module")
def whole(demo: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """An uninterrupted run."""
    return train(demo, tmp_path_factory.mktemp("whole") / "run", epochs=EPOCHS)


class Stop(Exception):
    """Raised by tests in the middle of training."""


def stop_at(epoch: int, step: int, error: BaseException) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if (progress.epoch, progress.step) == (epoch, step):
            raise error

    return report


# --- repeatable -------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_run(demo: Dataset, tmp_path: Path, whole: Outcome) -> None:
    train(demo, tmp_path / "again")
    assert_same(tmp_path / "again", whole)


def test_without_a_folder_the_result_is_the_same(demo: Dataset, whole: Outcome) -> None:
    trainer = Trainer(demo, small_settings())
    for _ in range(2):  # the second time it starts anew
        result = trainer.fit()
        assert result["metrics"] == whole.result["metrics"]
        for name, tensor in trainer.model.state_dict().items():
            assert torch.equal(tensor, whole.weights[name])


def test_fitting_twice_starts_the_folder_anew(demo: Dataset, tmp_path: Path, whole: Outcome) -> None:
    trainer = Trainer(demo, small_settings(), run=tmp_path / "run")
    trainer.fit()
    trainer.fit()
    assert_same(tmp_path / "run", whole)


def test_another_seed_gives_another_run(demo: Dataset, tmp_path: Path, whole: Outcome) -> None:
    other = train(demo, tmp_path / "run", seed=7)
    assert other.lines[0]["loss"] != whole.lines[0]["loss"]
    assert not torch.equal(other.weights["user"], whole.weights["user"])


def test_training_leaves_global_random_states_alone(demo: Dataset) -> None:
    before = torch.get_rng_state()
    Trainer(demo, small_settings(epochs=1)).fit()
    assert torch.equal(before, torch.get_rng_state())


def test_progress_counts_steps_and_epochs(demo: Dataset) -> None:
    reports: list[Progress] = []
    result = Trainer(demo, small_settings(epochs=3, eval_every=2), on_progress=reports.append).fit()
    assert [(report.epoch, report.step) for report in reports] == [(e, s) for e in (1, 2, 3) for s in (1, 2, 3, 4)]
    ends = reports[3::4]
    assert [report.metrics is not None for report in reports] == [False] * 7 + [True] + [False] * 3 + [True]
    assert [report.stopped for report in ends] == [None, None, "3 epochs done"]
    assert max(report.epoch for report in ends if report.best) == result["best_epoch"]
    assert all(report.steps == 4 and report.epochs == 3 and report.seconds > 0 for report in reports)


# --- resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epoch", "step", "error"),
    [(1, 1, Stop()), (1, 4, KeyboardInterrupt()), (3, 2, KeyboardInterrupt()), (4, 4, Stop()), (5, 4, Stop())],
)
def test_an_interrupted_run_resumes_to_the_same_end(
    demo: Dataset, tmp_path: Path, whole: Outcome, epoch: int, step: int, error: BaseException
) -> None:
    run = tmp_path / "run"
    trainer = Trainer(demo, small_settings(), run=run, on_progress=stop_at(epoch, step, error))
    with pytest.raises(type(error)):
        trainer.fit()
    Trainer(demo, small_settings(), run=run).fit(resume=True)
    assert_same(run, whole)


@pytest.mark.parametrize(("epoch", "step"), [(1, 2), (3, 2), (3, 4)])
def test_the_interrupted_trainer_itself_may_resume(
    demo: Dataset, tmp_path: Path, whole: Outcome, epoch: int, step: int
) -> None:
    again = [stop_at(epoch, step, Stop())]
    trainer = Trainer(
        demo, small_settings(), run=tmp_path / "run", on_progress=lambda report: again[0](report) if again else None
    )
    with pytest.raises(Stop):
        trainer.fit()
    again.clear()
    trainer.fit(resume=True)
    assert_same(tmp_path / "run", whole)


@pytest.fixture
def costly_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """State is written after the first epoch and at the end only."""
    monkeypatch.setattr(checkpoint, "STATE_SHARE", 0.0)


@pytest.mark.usefixtures("costly_state")
def test_a_run_resumes_to_the_same_end_where_states_were_skipped(demo: Dataset, tmp_path: Path, whole: Outcome) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stop):
        Trainer(demo, small_settings(), run=run, on_progress=stop_at(5, 1, Stop())).fit()
    assert RunFolder(run).load_tensors(run / "state.safetensors")[1]["standing"]["epoch"] == 1
    assert len(RunFolder(run).metrics) == 4
    train(demo, run, resume=True)
    assert_same(run, whole)


@pytest.mark.usefixtures("costly_state")
def test_the_best_model_of_lost_epochs_is_not_taken_for_that_of_the_state(demo: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stop):
        Trainer(demo, small_settings(), run=run, on_progress=stop_at(5, 1, Stop())).fit()
    assert RunFolder(run).load_tensors(run / "model.safetensors")[1]["epoch"] > 1
    one = train(demo, tmp_path / "one", epochs=1)
    train(demo, run, resume=True, epochs=1)
    assert_same(run, one)


def test_the_state_is_written_seldom_where_writing_takes_long(
    demo: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, written = [0.0], []
    save = RunFolder.save_tensors

    def slow(self: RunFolder, file: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        if file == self.state_file:
            written.append(about["standing"]["epoch"])
            now[0] += 10.0
        save(self, file, tensors, about)

    def epoch_of_a_minute(report: Progress) -> None:
        now[0] += 60.0 if report.step == report.steps else 0.0

    monkeypatch.setattr(RunFolder, "save_tensors", slow)
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    Trainer(demo, small_settings(epochs=11), run=tmp_path / "run", on_progress=epoch_of_a_minute).fit()
    assert written == [1, 5, 9, 11]  # 10 s are a twentieth of 200 s, and the last one is always written


def test_a_finished_run_goes_on_with_more_epochs(demo: Dataset, tmp_path: Path, whole: Outcome) -> None:
    run = tmp_path / "run"
    train(demo, run, epochs=2)
    train(demo, run, epochs=EPOCHS, resume=True)
    assert RunFolder(run).settings.training.epochs == EPOCHS
    assert_same(run, whole)
    train(demo, run, epochs=EPOCHS, resume=True)  # nothing left to do
    assert_same(run, whole)


def test_a_run_that_stopped_early_goes_on_with_more_patience(demo: Dataset, tmp_path: Path) -> None:
    patient = train(demo, tmp_path / "patient", epochs=20, patience=4, lr=0.05)
    run = tmp_path / "run"
    assert len(train(demo, run, epochs=20, patience=1, lr=0.05).lines) < len(patient.lines)
    train(demo, run, epochs=20, patience=4, lr=0.05, resume=True)
    assert_same(run, patient)


def test_a_search_whose_time_is_over_ends_with_an_evaluation(demo: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    lines = train(demo, run, epochs=20, eval_every=5, max_seconds=1e-9).lines
    assert [line["epoch"] for line in lines] == [1]
    assert "ndcg@20" in lines[0]
    assert RunFolder(run).result["stopped"] == "max_seconds = 1e-09 are over after 1 epoch"


def test_a_run_whose_time_was_over_goes_on_with_more_time(demo: Dataset, tmp_path: Path, whole: Outcome) -> None:
    run = tmp_path / "run"
    assert len(train(demo, run, epochs=EPOCHS, max_seconds=1e-9).lines) == 1
    train(demo, run, epochs=EPOCHS, max_seconds=0, resume=True)
    assert_same(run, whole)


def test_the_refit_is_not_part_of_the_time_of_the_search(demo: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(demo, run, epochs=5, max_seconds=1e-9, refit=True)
    result = RunFolder(run).result
    assert result["refit"]["epochs"] == 1
    assert result["stopped"].startswith("max_seconds")


def test_settings_that_change_nothing_may_differ_when_resuming(demo: Dataset, tmp_path: Path, whole: Outcome) -> None:
    run = tmp_path / "run"
    train(demo, run, epochs=2, patience=50)
    mine = train(demo, run, resume=True, device="auto" if not torch.cuda.is_available() else "cpu")
    assert mine.lines == whole.lines


def test_a_lost_or_damaged_best_model_is_restored_from_the_state(demo: Dataset, tmp_path: Path, whole: Outcome) -> None:
    run = tmp_path / "run"
    train(demo, run)
    (run / "model.safetensors").write_bytes(b"garbage")
    train(demo, run, resume=True)
    assert_same(run, whole)


# --- killed at any moment ---------------------------------------------------------------------------------------------


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_when(kind: str) -> Callable[[Progress], None]:
    """Arrange for this process to be killed in epoch 3 at the moment of that name."""
    save, append, describe, rename = RunFolder.save_tensors, RunFolder.append_metrics, RunFolder.describe, Path.replace
    best = [0]
    checkpoint.STATE_SHARE = 1e9  # never skip a state

    def save_tensors(self: RunFolder, file: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        is_state = file == self.state_file
        if is_state and kind == "before the state" and about["standing"]["epoch"] == 3:
            die()
        save(self, file, tensors, about)
        best[0] = best[0] if is_state else about["epoch"]
        if not is_state and kind == "after the best model" and about["epoch"] >= 3:
            die()

    def append_metrics(self: RunFolder, line: dict[str, Any]) -> None:
        if kind == "within a line of metrics" and line["epoch"] == 3:
            with self.metrics_file.open("a") as handle:
                handle.write(json.dumps(line)[:40])
            die()
        append(self, line)

    def replace(self: Path, target: Path) -> Path:
        if (
            kind == "before a rename"
            and target.name == "state.safetensors"
            and len(RunFolder(target.parent).metrics) > 2
        ):
            die()
        if kind == "before there is a run" and target.name == "run.json":
            die()
        return rename(self, target)

    def describe_run(self: RunFolder, *args: Any) -> None:
        describe(self, *args)
        if kind == "before the first step":
            die()

    RunFolder.save_tensors, RunFolder.append_metrics, RunFolder.describe = save_tensors, append_metrics, describe_run
    Path.replace = replace
    moments = {"within the first epoch": (1, 2), "within an epoch": (3, 2), "after an epoch": (3, 4)}

    def report(progress: Progress) -> None:
        if (progress.epoch, progress.step) == moments.get(kind):
            die()

    return report


def train_in_child(dataset: Dataset, run: Path, overrides: dict[str, Any], kind: str, resume: bool) -> None:
    torch.set_num_threads(1)
    Trainer(dataset, small_settings(**overrides), run=run, on_progress=die_when(kind)).fit(resume=resume)


@pytest.fixture(scope="module")
def start(demo: Dataset) -> Iterator[Callable[..., Any]]:
    """Starts training in a process of its own."""
    processes = []

    def begin(run: Path, kind: str = "", *, resume: bool = False, **overrides: Any) -> Any:
        process = PROCESSES.Process(target=train_in_child, args=(demo, run, overrides, kind, resume))
        process.start()
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()


@pytest.mark.parametrize(
    "kind",
    [
        "before there is a run",
        "before the first step",
        "within the first epoch",
        "within an epoch",
        "after the best model",
        "within a line of metrics",
        "before the state",
        "before a rename",
        "after an epoch",
    ],
)
def test_a_run_killed_at_a_chosen_moment_resumes_to_the_same_end(
    start: Callable[..., Any], demo: Dataset, tmp_path: Path, whole: Outcome, kind: str
) -> None:
    run = tmp_path / "run"
    process = start(run, kind)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    train(demo, run, resume=True)
    assert_same(run, whole)


def test_a_run_killed_again_and_again_comes_to_the_same_end(
    start: Callable[..., Any], demo: Dataset, tmp_path: Path
) -> None:
    expected = train(demo, tmp_path / "whole", epochs=24, patience=24)
    run, delays, kills = tmp_path / "run", random.Random(2020), 0
    for _ in range(5):
        lines = RunFolder(run).metrics_file
        before = lines.stat().st_size if lines.exists() else 0
        process = start(run, resume=RunFolder(run).exists(), epochs=24, patience=24)
        while process.is_alive() and (not lines.exists() or lines.stat().st_size <= before):  # till it comes somewhere
            process.join(0.01)
        process.join(delays.uniform(0.0, 0.15))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills >= 3
    train(demo, run, resume=True, epochs=24, patience=24)
    assert_same(run, expected)


# --- what cannot be resumed -------------------------------------------------------------------------------------------


@pytest.fixture
def finished(demo: Dataset, tmp_path: Path) -> Path:
    train(demo, tmp_path / "run", epochs=2)
    return tmp_path / "run"


def files_of(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in run.iterdir()}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"lr": 0.02}, r"other settings: lr \(was 0\.01, now 0\.02\); resume with its own"),
        ({"seed": 1, "gate": False}, r"gate \(was True, now False\), seed \(was 2020, now 1\)"),
        ({"epochs": 1}, "has done 2 epochs already; epochs = 1 is too few"),
    ],
)
def test_other_settings_are_not_resumed(demo: Dataset, finished: Path, overrides: dict[str, Any], message: str) -> None:
    before = files_of(finished)
    with pytest.raises(CheckpointError, match=message):
        train(demo, finished, resume=True, **{"epochs": 2, **overrides})
    assert files_of(finished) == before


def test_what_changes_no_number_may_change(finished: Path) -> None:
    saved = RunFolder(finished).settings
    ours = saved.replace({"cuda_graphs": True, "tensorboard": True, "epochs": 9, "patience": 3})
    assert checkpoint.changed_settings(saved.to_dict(), ours) == []
    assert checkpoint.changed_settings(saved.to_dict(), ours.replace({"batch_size": 7})) == [
        "batch_size (was 160, now 7)"
    ]


def test_an_edited_config_does_not_pass_for_the_settings_of_the_state(demo: Dataset, finished: Path) -> None:
    config = finished / "config.toml"
    config.write_text(config.read_text().replace("margin = 0.6", "margin = 0.5"))
    with pytest.raises(CheckpointError, match=r"margin \(was 0\.6, now 0\.5\)"):
        Trainer(demo, Settings.resolve(file=config), run=finished).fit(resume=True)


def test_a_schedule_over_the_epochs_is_not_stretched(demo: Dataset, tmp_path: Path) -> None:
    train(demo, tmp_path / "run", epochs=2, lr_schedule="cosine")
    with pytest.raises(CheckpointError, match=r"epochs \(was 2, now 3\)"):
        train(demo, tmp_path / "run", epochs=3, lr_schedule="cosine", resume=True)


def test_another_data_set_is_not_resumed(demo: Dataset, finished: Path) -> None:
    before = files_of(finished)
    with pytest.raises(IntegrityError, match="was trained on data set 'demo'"):
        train(with_interactions(demo, demo.interactions.iloc[1:]), finished, epochs=2, resume=True)
    assert files_of(finished) == before


def test_nothing_to_resume(demo: Dataset, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="run: there is no run to resume; train without --resume"):
        train(demo, tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(CheckpointError, match="no run folder"):
        Trainer(demo, small_settings()).fit(resume=True)


def test_a_run_without_state_is_resumed_only_as_itself(demo: Dataset, finished: Path) -> None:
    (finished / "state.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lr \(was 0\.01, now 0\.02\)"):
        train(demo, finished, resume=True, lr=0.02)
    with pytest.raises(IntegrityError):
        train(with_interactions(demo, demo.interactions.iloc[1:]), finished, epochs=2, resume=True)


@pytest.mark.parametrize("content", [b"", b"garbage", None], ids=["empty", "garbage", "truncated"])
@pytest.mark.parametrize("name", ["state.safetensors", "run.json"])
def test_a_damaged_run_is_not_resumed(demo: Dataset, finished: Path, name: str, content: bytes | None) -> None:
    file = finished / name
    file.write_bytes(file.read_bytes()[:-30] if content is None else content)
    before = files_of(finished)
    with pytest.raises(CheckpointError, match=rf"{name}: is damaged"):
        train(demo, finished, epochs=4, resume=True)
    assert files_of(finished) == before


def edit_state(run: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> None:
    folder = RunFolder(run)
    tensors, about = folder.load_tensors(folder.state_file)
    change(tensors, about)
    folder.save_tensors(folder.state_file, tensors, about)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, about: tensors.pop("model.user"), "does not fit this run"),
        (lambda tensors, about: tensors.pop("random.negatives"), "does not fit this run"),
        (lambda tensors, about: tensors.update({"strange.thing": torch.zeros(1)}), "does not fit this run"),
        (lambda tensors, about: tensors.update({"model.user": torch.zeros(2, 2)}), "does not fit this run"),
        (lambda tensors, about: about.pop("standing"), "does not say where training stood"),
        (lambda tensors, about: about["standing"].pop("worse"), "does not say where training stood"),
        (lambda tensors, about: about.update(settings={"model": {"size": 3}}), "does not say where training stood"),
        (lambda tensors, about: about.update(settings=None), "does not say where training stood"),
        (lambda tensors, about: about["standing"].update(best_epoch=1, epoch=2), "lacks the best weights, of epoch 1"),
        (lambda tensors, about: about.update(device="cuda"), r"device \(was 'cuda', now 'cpu'\)"),
    ],
)
def test_a_state_that_does_not_fit_is_not_resumed(
    demo: Dataset, finished: Path, change: Callable[..., None], message: str
) -> None:
    def forget_best_and_change(tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        for name in [name for name in tensors if name.startswith("best.")]:
            del tensors[name]
        change(tensors, about)

    edit_state(finished, forget_best_and_change)
    with pytest.raises(CheckpointError, match=message):
        train(demo, finished, epochs=4, resume=True)


def test_a_state_of_a_newer_version_is_not_resumed(demo: Dataset, finished: Path) -> None:
    edit_state(finished, lambda tensors, about: about.update(format_version=99))
    with pytest.raises(FormatVersionError, match=r"state\.safetensors: state format 99"):
        train(demo, finished, epochs=4, resume=True)


# --- a full disk ------------------------------------------------------------------------------------------------------


def train_with_limit(dataset: Dataset, run: Path, limit: int, told: Any) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        Trainer(dataset, small_settings(), run=run).fit(resume=True)
    except HakgError as error:
        told.send((type(error).__name__, str(error)))
    told.close()


@pytest.mark.parametrize("victim", ["state.safetensors", "model.safetensors", "metrics.jsonl"])
def test_no_room_leaves_the_last_state_intact(demo: Dataset, tmp_path: Path, whole: Outcome, victim: str) -> None:
    run = tmp_path / "run"
    train(demo, run, epochs=3)
    limit = int(0.9 * (run / victim).stat().st_size)  # each is several times as large as the one named after it
    hear, told = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=train_with_limit, args=(demo, run, limit, told))
    process.start()
    told.close()
    kind, message = hear.recv()
    process.join(60)
    assert kind == "CheckpointError"
    assert f"{victim}: cannot be written: " in message
    assert "File too large" in message
    assert "continue with --resume" in message
    train(demo, run, resume=True)
    assert_same(run, whole)


# --- selection --------------------------------------------------------------------------------------------------------


def with_other_test_split(dataset: Dataset) -> Dataset:
    """Every test item of a user replaced by the next item that the user has not."""
    rows = dataset.interactions
    test = rows["split"] == "test"
    taken = set(map(tuple, rows[["user", "item"]].to_numpy().tolist()))
    changed = []
    for user, item in rows.loc[test, ["user", "item"]].to_numpy().tolist():
        free = next(i % dataset.n_items for i in range(item, 2 * item + 99) if (user, i % dataset.n_items) not in taken)
        taken.add((user, free))
        changed.append(free)
    items = rows["item"].to_numpy(copy=True)
    items[test.to_numpy()] = changed
    return with_interactions(dataset, rows.assign(item=items))


def test_validation_never_looks_at_the_test_split(demo: Dataset, tmp_path: Path, whole: Outcome) -> None:
    other = train(with_other_test_split(demo), tmp_path / "run")
    assert other.lines == whole.lines
    for kind in ("weights", "state"):
        for name, tensor in getattr(whole, kind).items():
            assert torch.equal(getattr(other, kind)[name], tensor)
    assert other.result["metrics"]["valid"] == whole.result["metrics"]["valid"]
    assert other.result["metrics"]["test"] != whole.result["metrics"]["test"]
    assert {line["split"] for line in whole.lines} == {"valid"}


def test_without_a_test_split_there_is_no_test_result(demo: Dataset) -> None:
    rows = demo.interactions
    result = Trainer(with_interactions(demo, rows[rows["split"] != "test"]), small_settings(epochs=1)).fit()
    assert result["metrics"]["test"] is None
    assert set(result["metrics"]["valid"]) == METRICS


def test_published_selects_on_the_test_split_and_says_so(demo: Dataset, tmp_path: Path) -> None:
    fixed = {"facts_weight": 0.0, "linear_weight": 8.0, "linear_l2": 400.0}  # nothing to choose beside the epoch
    settings = small_settings(protocol="published", epochs=8, **fixed)
    result = Trainer(demo, settings, run=tmp_path / "run").fit()
    lines = RunFolder(tmp_path / "run").metrics
    assert {line["split"] for line in lines} == {"test"}
    best = max(lines, key=lambda line: line["ndcg@20"])
    assert result["best_epoch"] == best["epoch"]
    assert result["metrics"] == {"valid": None, "test": {name: best[name] for name in result["metrics"]["test"]}}
    assert result["protocol"] == "published"
    assert result["note"] == PUBLISHED_NOTE
    assert "test split" in PUBLISHED_NOTE
    assert RunFolder(tmp_path / "run").result == result


def test_published_trains_on_the_validation_split_too(demo: Dataset) -> None:
    for protocol, splits in (("validation", ("train",)), ("published", ("train", "valid"))):
        trainer = Trainer(demo, small_settings(protocol=protocol))
        assert len(trainer.trainee.passes[0].batches.pairs) == len(demo.pairs(*splits))
        assert trainer.model.graph.packed.interactions.n_edges == len(demo.pairs(*splits))


def test_training_stops_after_patience_evaluations_without_a_better_one(demo: Dataset, tmp_path: Path) -> None:
    result = Trainer(demo, small_settings(lr=1e-8, epochs=50, patience=3, eval_every=2), run=tmp_path / "run").fit()
    assert result["best_epoch"] == 2  # equal is not better
    assert result["epochs_run"] == 8
    assert result["stopped"] == "no better ndcg@20 in 3 evaluations"
    lines = RunFolder(tmp_path / "run").metrics
    assert [line["epoch"] for line in lines if "ndcg@20" in line] == [2, 4, 6, 8]


def test_the_chosen_metric_picks_the_epoch_and_the_model(demo: Dataset, tmp_path: Path) -> None:
    best = {}
    for select_by in ("recall@5", "mrr@5", "recall@20"):
        run = tmp_path / select_by
        result = Trainer(demo, small_settings(epochs=9, lr=0.05, select_by=select_by), run=run).fit()
        lines = RunFolder(run).metrics
        best[select_by] = max(lines, key=lambda line: line[select_by])["epoch"]  # the first of equals
        assert result["best_epoch"] == best[select_by]
        assert RunFolder(run).load_tensors(run / "model.safetensors")[1]["epoch"] == best[select_by]
        cuts = {20, int(select_by.partition("@")[2])}
        expected = {f"{name.partition('@')[0]}@{cut}" for name in METRICS for cut in cuts}
        assert set(result["metrics"]["test"]) == set(result["metrics"]["valid"]) == expected
        scorer = EmbeddingScorer(*load_model(run, demo).ranking_vectors())
        for split in ("valid", "test"):
            assert evaluate(scorer, demo, split=split, ks=sorted(cuts)).metrics == result["metrics"][split]
    assert len(set(best.values())) > 1, "all metrics picked the same epoch: this tests little"


def test_the_last_epoch_is_evaluated_in_any_case(demo: Dataset, tmp_path: Path) -> None:
    Trainer(demo, small_settings(epochs=5, eval_every=3), run=tmp_path / "run").fit()
    lines = RunFolder(tmp_path / "run").metrics
    assert [line["epoch"] for line in lines if "ndcg@20" in line] == [3, 5]


# --- what is written --------------------------------------------------------------------------------------------------


def test_metrics_and_result_hold_what_is_promised(demo: Dataset, tmp_path: Path) -> None:
    run, settings = tmp_path / "run", small_settings(epochs=2, eval_every=2)
    result = Trainer(demo, settings, run=run, data_path=tmp_path / "data").fit()
    first, second = RunFolder(run).metrics
    assert set(first) == {"epoch", "seconds", "loss"}
    assert set(second) == {"epoch", "seconds", "loss", "split", "learned"} | METRICS
    assert 0 < first["seconds"] < 60
    assert result == json.loads((run / "result.json").read_text())
    assert result["data"] == {"name": "demo", "digest": demo.digest, "path": str(tmp_path / "data")}
    assert RunFolder(run).data_path == tmp_path / "data"
    assert result["settings"] == settings.to_dict()
    assert result["protocol"] == "validation"
    assert result["note"] is None
    assert set(result["versions"]) == {"python", "hakg_dgl", "torch", "triton", "dgl", "numpy", "pandas"}
    assert result["versions"]["torch"] == torch.__version__
    assert result["device"].startswith("cpu")
    assert 50e6 < result["peak_memory_bytes"] < 64e9
    assert result["seconds"] == pytest.approx(first["seconds"] + second["seconds"], abs=0.01)


# --- NaN and infinity -------------------------------------------------------------------------------------------------


def spoil(trainer: Trainer, epoch: int, value: float, name: str = "entity") -> None:
    """Put a value into a parameter at the end of an epoch."""

    def report(progress: Progress) -> None:
        if (progress.epoch, progress.step) == (epoch, progress.steps):
            with torch.no_grad():
                trainer.model.get_parameter(name)[0, 0] = value

    trainer.session.recording.report = report


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["entity", "gate_item.0"])
def test_a_loss_that_is_not_finite_stops_training(
    demo: Dataset, tmp_path: Path, whole: Outcome, value: float, name: str
) -> None:
    trainer = Trainer(demo, small_settings(), run=tmp_path / "run")
    spoil(trainer, 3, value, name)
    with pytest.raises(NumericalError) as caught:
        trainer.fit()
    message = str(caught.value)
    assert re.match(r"the loss became (nan|inf) in epoch 4, step [12]\. Largest row norms: user ", message)
    assert re.search(rf" {name.partition('.')[0]} (nan|inf)", message)
    best = max(whole.lines[:3], key=lambda line: line["ndcg@20"])["epoch"]
    assert f"The best model and the last good state are kept in {tmp_path / 'run'}: epoch {best}." in message
    assert "Lower lr (now 0.01), raise batch_size (now 160), or lower angle_weight (now 0.1), or set" in message
    model = load_model(tmp_path / "run", demo)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    for parameter, kept in zip(trainer.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(parameter, kept)
    train(demo, tmp_path / "run", resume=True)  # the state was good
    assert_same(tmp_path / "run", whole)


def test_a_gradient_that_is_not_finite_in_the_last_step_does_not_reach_the_state(
    demo: Dataset, tmp_path: Path, whole: Outcome
) -> None:
    run = tmp_path / "run"
    trainer = Trainer(demo, small_settings(eval_every=EPOCHS), run=run)
    backward_passes = [0]

    def hook(gradient: Tensor) -> Tensor:
        backward_passes[0] += 1
        return gradient * math.nan if backward_passes[0] == 8 else gradient

    trainer.model.user.register_hook(hook)
    with pytest.raises(NumericalError, match=r"a parameter became NaN or infinite in epoch 2, step 4\..* user nan"):
        trainer.fit()
    state = RunFolder(run).load_tensors(run / "state.safetensors")
    assert state[1]["standing"]["epoch"] == 1
    mine = train(demo, run, resume=True, eval_every=EPOCHS)
    assert [line["loss"] for line in mine.lines] == [line["loss"] for line in whole.lines]


def test_without_a_folder_the_model_is_set_back_to_the_best(demo: Dataset) -> None:
    trainer = Trainer(demo, small_settings())
    spoil(trainer, 2, math.nan)
    with pytest.raises(NumericalError, match=r"The best model is set back to epoch [12]\."):
        trainer.fit()
    assert all(bool(parameter.isfinite().all()) for parameter in trainer.model.parameters())


def test_the_very_first_step_may_fail(demo: Dataset, tmp_path: Path) -> None:
    trainer = Trainer(demo, small_settings(dtype="float64"), run=tmp_path / "run")
    with torch.no_grad():
        trainer.model.user.fill_(math.nan)
    with pytest.raises(NumericalError, match="epoch 1, step 1") as caught:
        trainer.fit()
    assert "kept" not in str(caught.value)
    assert "float64" not in str(caught.value)


# --- data and settings of every kind ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "missing", "message"),
    [
        ("validation", "valid", "has no valid interactions, which protocol 'validation' needs; .* --valid"),
        ("validation", "train", "has no train interactions"),
        ("published", "test", "has no test interactions, which protocol 'published' needs; .* --test"),
    ],
)
def test_a_missing_split_is_refused(demo: Dataset, protocol: str, missing: str, message: str) -> None:
    rows = demo.interactions
    dataset = with_interactions(demo, rows[rows["split"] != missing])
    with pytest.raises(ConfigError, match=message):
        Trainer(dataset, small_settings(protocol=protocol))


def test_a_data_set_without_triples_trains(demo: Dataset, tmp_path: Path) -> None:
    for relations in (demo.relations, demo.relations.iloc[:0]):
        dataset = dataclasses.replace(demo, triples=demo.triples.iloc[:0], relations=relations)
        run = tmp_path / f"{len(relations)} relations"
        expected = train(dataset, run, epochs=3)
        assert all(math.isfinite(line["loss"]) for line in expected.lines)
        train(dataset, tmp_path / "resumed", epochs=1)
        train(dataset, tmp_path / "resumed", epochs=3, resume=True)
        assert_same(tmp_path / "resumed", expected)


def test_users_and_items_without_training_interactions_do_no_harm(demo: Dataset) -> None:
    rows = demo.interactions
    cold = (rows["split"] == "train") & (rows["user"].isin([0, 7]) | rows["item"].isin([0, 3]))
    trainer = Trainer(with_interactions(demo, rows[~cold]), small_settings(epochs=2))
    result = trainer.fit()
    assert math.isfinite(result["metrics"]["test"]["ndcg@20"])
    assert all(bool(vectors.isfinite().all()) for vectors in trainer.model.ranking_vectors())


@pytest.mark.parametrize(
    "overrides",
    [
        {"geometry": "euclidean"},
        {"gate": False},
        {"dual_item_embeddings": False},
        {"formulation": "paper"},
        {"formulation": "paper", "geometry": "euclidean", "angle_direction": "attribute"},
        {"formulation": "paper", "curvature": 0.3, "hierarchical_relations": ["auto"]},
        {"score": "separate"},
        {"angle_weight": 0.0},
        {"angle_mask": "edge"},
        {"kg_edge_dropout": 0.0, "interaction_dropout": 0.0, "message_dropout": 0.0, "angle_dropout": 0.0},
        {"layers": 2},
        {"layers": 4, "lr_schedule": "cosine"},
        pytest.param({"kernels": "dgl"}, marks=needs_dgl),
        {"batch_size": 1000, "negatives": 1},
    ],
    ids=str,
)
def test_every_kind_of_model_learns(demo: Dataset, overrides: dict[str, Any]) -> None:
    losses: list[float] = []
    trainer = Trainer(
        demo,
        small_settings(epochs=3, **overrides),
        on_progress=lambda report: losses.append(report.loss) if report.step == report.steps else None,
    )
    result = trainer.fit()
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]
    assert 0 < result["metrics"]["test"]["ndcg@20"] <= 1


def test_float64_is_float64_and_nearly_float32(demo: Dataset, tmp_path: Path, whole: Outcome) -> None:
    wide = train(demo, tmp_path / "wide", dtype="float64")
    assert {t.dtype for t in wide.weights.values() if t.is_floating_point()} == {torch.float64}
    # The initial values are drawn in another way, so the runs are alike, not equal.
    assert wide.lines[-1]["loss"] == pytest.approx(whole.lines[-1]["loss"], rel=0.15)
    train(demo, tmp_path / "resumed", dtype="float64", epochs=2)
    train(demo, tmp_path / "resumed", dtype="float64", resume=True)
    assert_same(tmp_path / "resumed", wide)


@pytest.mark.parametrize("formulation", ["released", "paper"])
def test_all_kernels_train_alike(demo: Dataset, tmp_path: Path, formulation: str) -> None:
    runs = {
        kernels: train(
            demo, tmp_path / kernels, kernels=kernels, formulation=formulation, epochs=2, dtype="float64", layers=1
        )
        for kernels in ("readable", *BACKENDS_HERE)
    }
    expected = [line["loss"] for line in runs.pop("torch").lines]
    for other in runs.values():
        assert [line["loss"] for line in other.lines] == pytest.approx(expected, rel=1e-7)


def test_cosine_goes_from_the_rate_to_a_hundredth() -> None:
    rates = [learning_rate(0.1, "cosine", epoch, 9) for epoch in range(1, 10)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[4] == pytest.approx(0.0505)
    assert rates[-1] == pytest.approx(0.001)
    assert sorted(rates, reverse=True) == rates
    assert learning_rate(0.1, "cosine", 1, 1) == pytest.approx(0.1)
    assert {learning_rate(0.1, "constant", epoch, 9) for epoch in range(1, 10)} == {0.1}


def test_the_device() -> None:
    assert choose_device("cpu").type == "cpu"
    if torch.cuda.is_available():
        assert choose_device("auto").type == choose_device("cuda").type == "cuda"
    else:
        assert choose_device("auto").type == "cpu"
        with pytest.raises(ConfigError, match="finds no CUDA device; use --device cpu"):
            choose_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_run_on_a_gpu_resumes(demo: Dataset, tmp_path: Path, whole: Outcome) -> None:
    run = tmp_path / "run"
    train(demo, run, device="cuda", epochs=3)
    mine = train(demo, run, device="cuda", resume=True)
    assert [line["epoch"] for line in mine.lines] == list(range(1, EPOCHS + 1))
    # Other random numbers than on CPU, and sums in any order.
    assert mine.lines[-1]["loss"] == pytest.approx(whole.lines[-1]["loss"], rel=0.15)
    with pytest.raises(CheckpointError, match=r"device \(was 'cuda', now 'cpu'\)"):
        train(demo, run, resume=True)
    load_model(run, demo, device="cpu")


def test_training_beats_popularity_and_chance() -> None:
    sizes = dataclasses.replace(DemoSettings.load(), users=200, items=300, makers=60, mean_interactions=30.0)
    dataset = preprocess(generate_demo(sizes))
    settings = Settings.resolve(
        overrides={"dim": 16, "layers": 2, "lr": 0.01, "negatives": 50, "batch_size": 1024, "epochs": 12}
    )
    trained = Trainer(dataset, settings).fit()["metrics"]["test"]["ndcg@20"]
    popular = evaluate(PopularityScorer(dataset, ("train", "valid")), dataset).metrics["ndcg@20"]
    chance = evaluate(RandomScorer(dataset.n_users, dataset.n_items, 1), dataset).metrics["ndcg@20"]
    assert trained > 1.3 * popular > 1.3 * chance


# --- TensorBoard ------------------------------------------------------------------------------------------------------


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_every_epoch_once(demo: Dataset, tmp_path: Path, whole: Outcome) -> None:
    pytest.importorskip("tensorboard")
    run, settings = tmp_path / "run", small_settings(tensorboard=True)
    with pytest.raises(Stop):
        Trainer(demo, settings, run=run, on_progress=stop_at(4, 2, Stop())).fit()
    edit_state(run, lambda tensors, about: None)
    Trainer(demo, settings, run=run).fit(resume=True)
    shown = scalars(run)
    expected = {"loss", "learning_rate", "seconds"} | {f"valid/{name}" for name in METRICS}
    assert set(shown) == expected
    for tag, points in shown.items():
        assert [step for step, _ in points] == list(range(1, EPOCHS + 1)), tag
    for line, (_, loss), (_, ndcg) in zip(whole.lines, shown["loss"], shown["valid/ndcg@20"], strict=True):
        assert (loss, ndcg) == pytest.approx((line["loss"], line["ndcg@20"]), rel=1e-6)


@pytest.mark.usefixtures("costly_state")
def test_tensorboard_hides_the_epochs_that_were_lost(demo: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run, settings = tmp_path / "run", small_settings(tensorboard=True, epochs=5)
    with pytest.raises(Stop):
        Trainer(demo, settings, run=run, on_progress=stop_at(4, 2, Stop())).fit()
    Trainer(demo, settings.replace({"epochs": 2}), run=run).fit(resume=True)
    assert [step for step, _ in scalars(run)["loss"]] == [1, 2]


def test_a_new_run_forgets_the_events_of_the_earlier_one(demo: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for epochs in (3, 1):
        Trainer(demo, small_settings(tensorboard=True, epochs=epochs), run=tmp_path / "run").fit()
    assert [step for step, _ in scalars(tmp_path / "run")["loss"]] == [1]


def test_a_missing_tensorboard_is_named_before_training(
    demo: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match="pip install tensorboard"):
        Trainer(demo, small_settings(tensorboard=True), run=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    Trainer(demo, small_settings(epochs=1), run=tmp_path / "run").fit()


def test_tensorboard_needs_a_folder(demo: Dataset) -> None:
    with pytest.raises(ConfigError, match="no run folder"):
        Trainer(demo, small_settings(tensorboard=True))
