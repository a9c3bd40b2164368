"""Whatever goes wrong outside: one or a few lines, the right exit code, nothing half-written."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import resource
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hakg_dgl.errors import DataError, NumericalError
from hakg_dgl.training.run_folder import RunFolder

cli = pytest.importorskip("hakg_dgl.cli", reason="python -m pip install -e .")
from hakg_dgl.cli.failures import HakgGroup, after_interrupt, explain  # noqa: E402

COMMAND = [sys.executable, "-m", "hakg_dgl.cli"]
SMALL = ["--set", "dim=8", "--set", "layers=1"]


class OutOfMemoryError(RuntimeError):
    """Called as PyTorch's."""


def group_that(raises: BaseException, advice: str | None = None) -> click.Group:
    @click.group(cls=HakgGroup)
    def group() -> None:
        pass

    @group.command()
    def act() -> None:
        if advice is not None:
            after_interrupt(advice)
        raise raises

    return group


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DataError("wrong", path="a.txt", line=3, remedy="Fix it."), "Error: a.txt, line 3: wrong\nFix it.\n"),
        (NumericalError("the loss became nan"), "Error: the loss became nan\n"),
        (OSError(errno.ENOSPC, "No space left on device", "x.csv"), "Error: x.csv: No space left on device\nFree some"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "Error: x: Permission denied\nYou may not read or"),
        (OSError("odd"), "Error: odd\n"),
        (MemoryError(), "Error: out of memory\nClose other programs"),
        (MemoryError("Unable to allocate 9 TiB"), "Error: out of memory: Unable to allocate 9 TiB\nClose"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "Error: out of memory: DefaultCPU"),
        (
            OutOfMemoryError("CUDA is full.\nMore"),
            "Error: the device has too little memory: CUDA is full.\n",
        ),
    ],
)
def test_errors_a_user_can_fix(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HAKG_DEBUG", raising=False)
    result = CliRunner().invoke(group_that(error), ["act"])
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) <= 3
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        *((name, "batch_size") for name in ("train", "tune", "ablate", "audit")),
        *((name, "--k") for name in ("evaluate", "recommend")),
        *(("compare", "--metric"), ("preprocess", "more memory")),
    ],
)
def test_the_advice_for_too_little_memory_fits_the_command(command: str, advice: str) -> None:
    text = str(explain(MemoryError(), command))
    assert advice in text
    assert ("batch_size" in text) == (advice == "batch_size")
    assert command in cli.main.commands


@pytest.mark.parametrize("error", [RuntimeError("a mistake of ours"), ValueError("another"), KeyError("x")])
def test_mistakes_of_ours_are_not_hidden(error: Exception) -> None:
    assert CliRunner().invoke(group_that(error), ["act"]).exception is error


def test_debugging_shows_the_traceback_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAKG_DEBUG", "1")
    result = CliRunner().invoke(group_that(DataError("wrong")), ["act"])
    assert result.exit_code == 2
    assert result.stderr.startswith("Traceback")
    assert result.stderr.endswith("Error: wrong\n")


@pytest.mark.parametrize(("advice", "said"), [(None, "Nothing was written."), ("Go on with: x", "Go on with: x")])
def test_an_interruption_says_how_to_go_on(advice: str | None, said: str) -> None:
    result = CliRunner().invoke(group_that(KeyboardInterrupt(), advice), ["act"])
    assert result.exit_code == 130
    assert result.stderr == f"\nInterrupted. {said}\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "data"
    assert CliRunner().invoke(cli.main, ["preprocess", "demo", "--out", str(path)]).exit_code == 0
    return path


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_ctrl_c_in_training_leaves_a_run_to_resume(tmp_path: Path, data: Path) -> None:
    run = tmp_path / "run"
    forever = ["--epochs", "100000", "--set", "patience=100000", "--set", "refit=false", *SMALL]
    process = subprocess.Popen(
        [*COMMAND, "train", data, "--out", run, *forever], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        wait_for((run / "state.safetensors").exists, process)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert f"Interrupted. Continue with: hakg train {data} --out {run} --resume" in stderr
    assert "Traceback" not in stderr
    done = len(RunFolder(run).metrics)
    arguments = ["train", data, "--out", run, "--resume", "--epochs", done + 1]
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert [line["epoch"] for line in RunFolder(run).metrics] == list(range(1, done + 2))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_disk_that_is_full_leaves_the_old_file(tmp_path: Path, data: Path, suffix: str) -> None:
    run, lists = tmp_path / "run", tmp_path / f"lists{suffix}"
    arguments = ["train", data, "--out", run, "--epochs", 1, *SMALL]
    assert CliRunner().invoke(cli.main, [str(argument) for argument in arguments]).exit_code == 0
    lists.write_text("something good\n")
    result = subprocess.run(
        [*COMMAND, "recommend", run, "--out", lists],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr == f"Error: {lists}: {os.strerror(errno.EFBIG)}\n"
    assert lists.read_text() == "something good\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == [lists.name, "run"]


def test_progress_goes_to_a_terminal_and_results_to_stdout(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    command = [*COMMAND, "preprocess", "demo", "--out", tmp_path / "data"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
        stdout, _ = process.communicate(timeout=60)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert process.returncode == 0, shown
    assert "[1/3] reading demo" in shown
    assert "[3/3] writing" in shown
    assert [line.split()[0] for line in stdout.splitlines()] == ["demo:", "Wrote"]


def test_a_reader_that_closes_the_pipe_is_no_error(data: Path) -> None:
    command = f"{sys.executable} -m hakg_dgl.cli info {data} --json | head -c 10"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
