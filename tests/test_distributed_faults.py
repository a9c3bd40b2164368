"""Whatever happens to a process of a training, all end within a minute with one message, and the run goes on."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from small_demo import small_demo

from hakg_dgl.distributed.launch import HUNG, Launched, free_port
from hakg_dgl.distributed.lost import LOST_EXIT
from hakg_dgl.training.run_folder import RunFolder

pytestmark = pytest.mark.slow

SECONDS = 60.0
QUICK = {"HAKG_SILENCE": "10"}
TRAIN = ["--model", "lightgcn", "--epochs", "100", "--device", "cpu"]
TRAIN += [word for setting in ("dim=8", "eval_every=1", "dtype=float64", "patience=100") for word in ("--set", setting)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faults") / "data"
    small_demo().save(path)
    return path


def command(data: Path, run: Path) -> list[str]:
    return [sys.executable, "-m", "hakg_dgl.cli", "train", str(data), "--out", str(run), *TRAIN]


def wait_for_epochs(run: Path, n: int) -> None:
    began = time.monotonic()
    while len(RunFolder(run).metrics) < n:
        assert time.monotonic() - began < 2 * SECONDS
        time.sleep(0.05)


class Trained:
    """``hakg train --processes 2`` in a session of its own, whose processes can be sent signals."""

    def __init__(self, data: Path, run: Path, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [*command(data, run), "--processes", "2"],
            env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def children(self) -> list[int]:
        """Numbers of the processes that train, the first first."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return sorted(map(int, found))


@pytest.fixture
def trained(data: Path, tmp_path: Path) -> Iterator[Trained]:
    started = Trained(data, tmp_path / "run", QUICK)
    children: list[int] = []
    try:
        wait_for_epochs(tmp_path / "run", 2)
        children = started.children()
        yield started
    finally:
        for number in (*children, started.process.pid):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        started.process.communicate()


def ends(number: int, within: float) -> bool:
    """Whether a process ends, or is a zombie, within so many seconds."""
    began = time.monotonic()
    while time.monotonic() - began < within:
        status = Path(f"/proc/{number}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_hangs_ends_all_of_them_with_one_message(trained: Trained, rank: int) -> None:
    os.kill(trained.children()[rank], signal.SIGSTOP)
    _, said = trained.process.communicate(timeout=SECONDS)
    assert trained.process.returncode == 2
    assert said.count("Error:") == 1, said
    assert f"process {rank} of 2 did not answer any more and was ended" in said
    assert "Continue with --resume" in said


def test_a_disk_that_is_full_for_one_process_ends_all_of_them(trained: Trained, tmp_path: Path) -> None:
    resource.prlimit(trained.children()[1], resource.RLIMIT_FSIZE, (1000, 1000))
    _, said = trained.process.communicate(timeout=2 * SECONDS)
    assert trained.process.returncode == 2
    assert said.count("Error:") == 1, said
    assert "process 1 of 2 ended with exit code 2, and with it the training" in said
    assert "-00001-of-00002.safetensors: cannot be written" in said
    index = json.loads(RunFolder(tmp_path / "run").state_index_file.read_text())
    assert all((tmp_path / "run" / name).exists() for name in index["files"])


def test_a_command_that_is_asked_to_stop_says_so_once_and_the_run_goes_on(trained: Trained, tmp_path: Path) -> None:
    trained.process.terminate()
    _, said = trained.process.communicate(timeout=SECONDS)
    assert trained.process.returncode == 143
    assert said.count("Stopping after this step") == 1, said
    assert said.count("Interrupted. Continue with: hakg train") == 1, said
    assert "Error" not in said
    assert RunFolder(tmp_path / "run").state_index_file.exists()


def test_a_port_that_another_program_uses_is_named(data: Path, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        alone = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        done = subprocess.run(
            command(data, tmp_path / "run"), env={**os.environ, **alone}, capture_output=True, text=True,
            timeout=SECONDS, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert f"port {port}, where the processes were to meet, is used by another program" in done.stderr


def test_processes_do_not_outlive_the_command_that_started_them(trained: Trained) -> None:
    children = trained.children()
    trained.process.kill()
    assert all(ends(number, SECONDS / 2) for number in children)


def test_a_killed_first_process_ends_the_others_and_the_run_goes_on(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    launched = Launched(command(data, run), 2)
    try:
        wait_for_epochs(run, 2)
        os.kill(launched.processes[0].pid, signal.SIGKILL)
        assert launched.wait() == (0, -signal.SIGKILL)
        assert launched.processes[1].returncode in (LOST_EXIT, -signal.SIGKILL)
        assert HUNG not in [process.returncode for process in launched.processes]
    finally:
        launched.close()
    done = subprocess.run([*command(data, run), "--resume"], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr  # by one process
    assert RunFolder(run).result["epochs_run"] == 100
    assert [line["epoch"] for line in RunFolder(run).metrics][:100] == list(range(1, 101))


def test_a_full_disk_is_told_once(data: Path, tmp_path: Path) -> None:
    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    done = subprocess.run(
        [*command(data, tmp_path / "run"), "--processes", "2"],
        preexec_fn=full, capture_output=True, text=True, timeout=2 * SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("Error:") == 1, done.stderr
    assert "model-00000001-00000-of-00002.safetensors: cannot be written" in done.stderr


def test_other_versions_are_refused_in_one_message(data: Path, tmp_path: Path) -> None:
    for name in ("hakg_dgl", "torch"):  # what is found first on the path of the second process
        (tmp_path / "other" / f"{name}-9.8.7.dist-info").mkdir(parents=True)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.8.7\n"
        (tmp_path / "other" / f"{name}-9.8.7.dist-info" / "METADATA").write_text(metadata)
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    own = [{"RANK": "0"}, {"RANK": "1", "PYTHONPATH": str(tmp_path / "other")}]
    started = [
        subprocess.Popen(
            command(data, tmp_path / "run"), env={**common, **more}, cwd=tmp_path,  # where no build left metadata
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for more in own
    ]  # fmt: skip
    for process in started:
        _, said = process.communicate(timeout=2 * SECONDS)
        assert process.returncode == 2, said
        assert said.count("Error:") == 1, said
        assert "process 1 has other version of hakg_dgl (9.8.7, there " in said
        assert " and PyTorch (" in said
    assert not (tmp_path / "run").exists()


def test_torchrun_starts_again_and_the_run_goes_on(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line += ["--max-restarts", "1", *command(data, run)[1:]]
    started = subprocess.Popen(line, env={**os.environ, **QUICK}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        wait_for_epochs(run, 3)
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
        os.kill(max(map(int, children)), signal.SIGKILL)
        started.communicate(timeout=10 * SECONDS)
        assert started.returncode == 0
    finally:
        started.kill()
        started.wait()
    assert RunFolder(run).result["epochs_run"] == 100
    assert [line["epoch"] for line in RunFolder(run).metrics] == list(range(1, len(RunFolder(run).metrics) + 1))
