"""Two network namespaces, each with a process and what it reads, train one model to the numbers of one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from small_demo import small_demo

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "two_hosts.py"


@pytest.mark.slow
def test_two_hosts_train_what_one_process_trains(tmp_path: Path) -> None:
    small_demo().save(tmp_path / "data")
    small = ["--data", str(tmp_path / "data"), "--model", "lightgcn", "--epochs", "2", "--limit", "240"]
    command = [sys.executable, str(SCRIPT), *small, "--set", "dim=8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    if done.returncode == 77:
        pytest.skip(f"needs Linux, root and network namespaces: {done.stdout.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
