"""Ctrl-C, SIGTERM, two trainers in one folder, and disks that take no more: the run is whole, and goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from small_demo import read_by, small_demo, small_settings

from hakg_dgl import locks
from hakg_dgl.atomic_files import write_text
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import CheckpointError
from hakg_dgl.models import inverse
from hakg_dgl.models.hakg.objective import Objective
from hakg_dgl.models.item_knn import ItemSimilarity
from hakg_dgl.ranking import topk
from hakg_dgl.ranking.evaluation import Evaluator
from hakg_dgl.training import session, trainee
from hakg_dgl.training.progress import Progress
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.trainer import Trainer, make_trainer

cli = pytest.importorskip("hakg_dgl.cli", reason="python -m pip install -e .")
EPOCHS = 3
SMALL = {"dim": 8, "layers": 1, "batch_size": 160, "lr": 0.01, "epochs": EPOCHS, "refit": True}
STEPS = 4


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def demo() -> Dataset:
    return small_demo()


@pytest.fixture(scope="module")
def data(demo: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "demo"
    demo.save(path)
    return path


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert hakg_train(data, run).exit_code == 0
    return run


def hakg_train(data: Path, run: Path, *options: str, **overrides: Any) -> Result:
    small = read_by(overrides.get("kind", "hakg"), SMALL)
    values = {} if "--resume" in options else small | overrides
    given = [f"--set={key}={str(value).lower()}" for key, value in values.items()]
    return CliRunner().invoke(cli.main, ["train", str(data), "--out", str(run), *given, *options])


def assert_same(run: Path, expected: Path) -> None:
    mine, theirs = RunFolder(run), RunFolder(expected)
    for key in ("best_epoch", "epochs_run", "stopped", "metrics", "refit"):
        assert mine.result[key] == theirs.result[key]
    lines = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in folder.metrics] for folder in (mine, theirs)
    ]
    assert lines[0] == lines[1]
    for file in ("model_file", "state_file"):
        ours, others = (folder.load_tensors(getattr(folder, file))[0] for folder in (mine, theirs))
        assert ours.keys() == others.keys()
        assert [name for name in ours if not torch.equal(ours[name], others[name])] == []
    assert not [file.name for file in run.iterdir() if file.name.startswith(".")]


def at_call(n: int, inner: Callable[..., Any], act: Callable[[], None]) -> Callable[..., Any]:
    """The function, which on its nth call acts first."""
    calls = [0]

    def outer(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == n:
            act()
        return inner(*args, **options)

    return outer


def send(number: signal.Signals, times: int = 1) -> Callable[[], None]:
    def act() -> None:
        for _ in range(times):
            signal.raise_signal(number)

    return act


# --- signals ------------------------------------------------------------------------------------------------------

MOMENTS = {
    "the very first step": (Objective, "__call__", 1),
    "a step": (Objective, "__call__", 2 * STEPS + 3),
    "the last step of an epoch": (Objective, "__call__", STEPS),
    "an evaluation": (Evaluator, "__call__", 2),
    "a line of metrics": (RunFolder, "append_metrics", 2),
    "a write of the best model": (RunFolder, "save_tensors", 1),
    "a write of the state": (RunFolder, "save_tensors", 2),
    "the refit": (Objective, "__call__", EPOCHS * STEPS + 2),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_with_a_state_to_resume_from(
    data: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, moment: str, number: signal.Signals
) -> None:
    run, before = tmp_path / "a run", [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    owner, name, n = MOMENTS[moment]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, at_call(n, getattr(owner, name), send(number)))
        result = hakg_train(data, run)
    assert result.exit_code == (130 if number == signal.SIGINT else 143), result.output
    assert result.stderr.endswith(f"\nInterrupted. Continue with: hakg train {data} --out '{run}' --resume\n")
    assert result.stdout == ""
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    standing = RunFolder(run).load_metadata(run / "state.safetensors")["standing"]
    steps = standing["epoch"] * STEPS + standing["step"]
    if owner is Objective and standing["refit_from"] is None:
        assert steps == n  # not one step is lost
    assert not RunFolder(run).result_file.exists()
    assert hakg_train(data, run, "--resume").exit_code == 0
    assert_same(run, whole)


def test_a_second_signal_stops_at_once(
    data: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Objective, "__call__", at_call(6, Objective.__call__, send(signal.SIGTERM, 2)))
        assert hakg_train(data, run).exit_code == 143
    assert capfd.readouterr().err == "\nStopping after this step; a second signal stops at once.\n"
    standing = RunFolder(run).load_metadata(run / "state.safetensors")["standing"]
    assert (standing["epoch"], standing["step"]) == (1, 0)
    assert hakg_train(data, run, "--resume").exit_code == 0
    assert_same(run, whole)


def test_the_second_of_two_kinds_counts(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def both() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Objective, "__call__", at_call(2, Objective.__call__, both))
    assert hakg_train(data, tmp_path / "run").exit_code == 130


def test_a_signal_before_training_writes_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainee, "build_model", at_call(1, trainee.build_model, send(signal.SIGTERM)))
    result = hakg_train(data, tmp_path / "run")
    assert result.exit_code == 143
    assert result.stderr == "\nInterrupted. Nothing was written.\n"
    assert not (tmp_path / "run").exists()


def test_an_ignored_signal_stays_ignored(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        monkeypatch.setattr(Objective, "__call__", at_call(2, Objective.__call__, send(signal.SIGINT)))
        assert hakg_train(data, tmp_path / "run").exit_code == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_models_in_closed_form_stop_after_a_choice(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    given = {"kind": "ease", "ease_l2": "[10,20,30]"}
    assert hakg_train(data, whole, **given).exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_metrics", at_call(2, RunFolder.append_metrics, send(signal.SIGTERM)))
        assert hakg_train(data, run, **given).exit_code == 143
    assert [line["epoch"] for line in RunFolder(run).metrics] == [1, 2]
    assert hakg_train(data, run, "--resume").exit_code == 0
    assert RunFolder(run).result["metrics"] == RunFolder(whole).result["metrics"]


@pytest.mark.parametrize(
    ("kind", "owner", "name"), [("ease", inverse, "_factor_block"), ("item-knn", ItemSimilarity, "scores")]
)
def test_models_in_closed_form_stop_in_the_middle_of_a_solution(
    demo: Dataset, monkeypatch: pytest.MonkeyPatch, kind: str, owner: Any, name: str
) -> None:
    """Of many blocks none is begun after the signal."""
    trainer, blocks, inner = make_trainer(demo, small_settings(kind)), [], getattr(owner, name)
    monkeypatch.setattr(inverse, "NARROWEST", 10)
    monkeypatch.setattr(inverse, "WORK", 0.0)
    monkeypatch.setattr(topk, "SCORES_PER_BLOCK", 1)

    def outer(*args: Any) -> Any:
        blocks.append(args)
        if len(blocks) == 2:
            trainer.interrupt()
        return inner(*args)

    monkeypatch.setattr(owner, name, outer)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert len(blocks) == 2


def test_a_long_epoch_saves_its_state_on_the_way(
    demo: Dataset, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if (progress.epoch, progress.step) == (2, 3):
            raise Stop

    monkeypatch.setattr(session, "STATE_AGE", 0.0)
    settings = small_settings(**SMALL)
    with pytest.raises(Stop):
        Trainer(demo, settings, run=tmp_path / "run", on_progress=stop).fit()
    standing = RunFolder(tmp_path / "run").load_metadata(tmp_path / "run" / "state.safetensors")["standing"]
    assert (standing["epoch"], standing["step"]) == (1, 2)
    Trainer(demo, settings, run=tmp_path / "run").fit(resume=True)
    assert_same(tmp_path / "run", whole)


# --- two trainers in one folder -----------------------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("lock", sys.argv[1])
lock = module_from_spec(spec)
spec.loader.exec_module(lock)
with lock.sole_writer(Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of ``tmp_path / "run"``."""
    (tmp_path / "run").mkdir()
    line = [sys.executable, "-c", HOLDER, str(locks.__file__), str(tmp_path / "run")]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("kind", ["hakg", "bpr-mf", "popularity"])
def test_the_second_trainer_of_a_folder_is_refused_and_a_kill_lets_go(
    data: Path, tmp_path: Path, holder: subprocess.Popen[str], kind: str
) -> None:
    result = hakg_train(data, tmp_path / "run", kind=kind)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {tmp_path / 'run'}: process {holder.pid} on ")
    assert "is training in it; wait for it, end it, or train in another folder" in result.stderr
    assert [file.name for file in (tmp_path / "run").iterdir()] == [".lock"]
    holder.kill()
    holder.wait()
    assert hakg_train(data, tmp_path / "run", kind=kind).exit_code == 0
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("kind", ["hakg", "popularity"])
def test_a_trainer_of_the_same_process_is_refused_too(demo: Dataset, tmp_path: Path, kind: str, resume: bool) -> None:
    settings, refused = small_settings(kind, **read_by(kind, {"epochs": 1})), []

    def intrude(progress: Progress) -> None:
        with pytest.raises(CheckpointError, match=f"process {os.getpid()} on"):
            make_trainer(demo, settings, run=tmp_path / "run").fit(resume=resume)
        refused.append(progress)

    make_trainer(demo, settings, run=tmp_path / "run", on_progress=intrude).fit()
    assert refused
    make_trainer(demo, settings, run=tmp_path / "run").fit(resume=True)


def test_what_a_kill_at_the_very_beginning_leaves_is_no_obstacle(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in (".lock", ".config.toml.0123abcd.tmp"):
        (run / name).write_text("x")
    (run / "notes.txt").write_text("mine")
    result = hakg_train(data, run, epochs=1)
    assert result.exit_code == 2
    assert "holds something else than a run" in result.stderr
    (run / "notes.txt").unlink()
    assert hakg_train(data, run, epochs=1).exit_code == 0
    assert not [file.name for file in run.iterdir() if file.name.startswith(".")]


def test_overwriting_that_is_killed_does_not_go_on_with_the_old_settings(
    demo: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    Trainer(demo, small_settings(epochs=1), run=folder.path).fit()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", at_call(3, Path.unlink, send(signal.SIGINT)))
        with pytest.raises(KeyboardInterrupt):
            folder.create(small_settings(epochs=1, lr=0.5), demo, None)
    assert folder.settings.training.lr == 0.5


# --- folders that cannot be written -------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None:
        pytest.skip("there is no mount command")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not allowed: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run([umount, "-l", place], check=True)


def test_a_full_disk_leaves_the_last_state(data: Path, small_disk: Path, whole: Path) -> None:
    run = small_disk / "run"
    first = hakg_train(data, run, epochs=1, refit=False)
    assert first.exit_code == 0, first.output
    saved = (run / "state.safetensors").read_bytes()
    filler = small_disk / "filler"
    free = shutil.disk_usage(small_disk).free
    filler.write_bytes(b"\0" * free)
    result = hakg_train(data, run, "--resume", "--epochs", str(EPOCHS))
    assert result.exit_code == 2
    assert "cannot be written: No space left on device; what the run saved earlier is intact" in result.stderr
    assert "continue with --resume" in result.stderr
    assert (run / "state.safetensors").read_bytes() == saved
    filler.unlink()
    assert hakg_train(data, run, "--resume", "--epochs", str(EPOCHS)).exit_code == 0
    mine, theirs = ([line["loss"] for line in RunFolder(path).metrics][:EPOCHS] for path in (run, whole))
    assert mine == theirs


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named_and_left_as_it_is(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert hakg_train(data, run, epochs=1).exit_code == 0
    files = {file.name: file.read_bytes() for file in run.iterdir()}
    run.chmod(0o555)
    try:
        result = hakg_train(data, run, "--resume", "--epochs", "2")
    finally:
        run.chmod(0o755)
    assert result.exit_code == 2
    assert f"{run}: cannot be written: Permission denied; what the run saved earlier is intact" in result.stderr
    assert {file.name: file.read_bytes() for file in run.iterdir()} == files


def test_an_interrupted_write_leaves_no_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "file", "old")
    monkeypatch.setattr(Path, "replace", at_call(1, Path.replace, send(signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "file", "new")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"
