"""``hakg train --processes``: trains, and ends with one message when a process dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from hakg_dgl.cli import main as commands
from several_processes import run_in
from small_demo import small_demo

from hakg_dgl.data.edge_blocks import SavedEdges
from hakg_dgl.data.owners import hash_owners
from hakg_dgl.data.part_writing import write_parts
from hakg_dgl.distributed.launch import Launched
from hakg_dgl.distributed.loading import load_own
from hakg_dgl.distributed.trainer import DistributedTrainer
from hakg_dgl.models.settings import Settings
from hakg_dgl.training.run_folder import RunFolder

SMALL = ["--set", "dim=8", "--set", "linear_rank=4", "--set", "facts_rank=4", "--device", "cpu"]


def hakg(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hakg_dgl.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_two_processes_train_and_one_evaluates(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    small_demo().save(data)
    write_parts(SavedEdges(data), hash_owners(SavedEdges(data), 2), tmp_path / "parts", method="hash")
    train = ["train", str(data), "--out", str(run), "--epochs", "2", *SMALL]
    done = hakg(*train, "--processes", "2", "--parts", str(tmp_path / "parts"), "--quiet")
    assert done.returncode == 0, done.stderr
    assert "epoch" not in done.stderr
    assert "recall@20" in done.stdout
    assert RunFolder(run).result["epochs_run"] == 2
    for arguments in (["evaluate", str(run)], ["export", str(run), "--out", str(tmp_path / "exported")]):
        later = CliRunner().invoke(commands, arguments)
        assert later.exit_code == 0, later.output
    wrong = CliRunner().invoke(
        commands, [*train, "--overwrite", "--processes", "3", "--parts", str(tmp_path / "parts")]
    )
    assert "there are 2 parts and 3 processes" in wrong.output
    alone = CliRunner().invoke(commands, [*train, "--overwrite", "--parts", str(tmp_path / "parts")])
    assert "--parts is for several processes" in alone.output


def train_whole(rank: int, folder: Path, data: Path, run: Path, settings: Settings) -> None:
    dataset, owners = load_own(data, None)
    DistributedTrainer(dataset, settings, run=run, owners=owners).fit()


@pytest.mark.slow
def test_a_killed_process_ends_all_of_them_and_the_run_goes_on_to_the_same_result(tmp_path: Path) -> None:
    data = tmp_path / "data"
    small_demo().save(data)
    train = ["train", str(data), "--model", "lightgcn", "--epochs", "15", "--set", "dim=8", "--set", "eval_every=1"]
    train += ["--set", "dtype=float64", "--device", "cpu", "--out"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    launched = Launched([sys.executable, "-m", "hakg_dgl.cli", *train, str(killed)], 2)
    try:
        metrics = RunFolder(killed).metrics_file
        while not metrics.exists() or len(metrics.read_bytes().splitlines()) < 3:
            assert launched.processes[0].poll() is None
            time.sleep(0.02)
        began = time.monotonic()
        os.kill(launched.processes[1].pid, signal.SIGKILL)
        assert launched.wait() == (1, -signal.SIGKILL)
    finally:
        launched.close()
    assert time.monotonic() - began < 40
    assert not RunFolder(killed).result_file.exists()
    done = hakg(*train, str(killed), "--resume", "--processes", "2")
    assert done.returncode == 0, done.stderr
    run_in(2, train_whole, tmp_path / "meeting", data, whole, RunFolder(killed).settings)
    results = [RunFolder(run).result for run in (killed, whole)]
    assert results[0]["best_epoch"] == results[1]["best_epoch"]
    assert results[0]["metrics"] == results[1]["metrics"]


def test_other_models_are_refused_before_anything_starts(tmp_path: Path) -> None:
    small_demo().save(tmp_path / "data")
    done = hakg("train", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--model", "ease", "--processes", "2")
    assert done.returncode == 2
    assert "several can train hakg, lightgcn, bpr-mf" in done.stderr
    assert not (tmp_path / "run").exists()
