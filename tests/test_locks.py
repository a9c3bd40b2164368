"""Locks within a process and between processes, and what a killed holder leaves."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from hakg_dgl.locks import HeldError, in_turn, is_held, sole_holder

HOLDER = """
import sys
from pathlib import Path
from hakg_dgl.locks import sole_holder
with sole_holder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds ``tmp_path / "lock"``."""
    line = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_holder_is_told_who_has_it_and_a_kill_lets_go(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    file = tmp_path / "lock"
    for _ in range(2):  # the first one that is refused leaves the name
        with pytest.raises(HeldError, match=f"process {holder.pid} on "), sole_holder(file):
            pass
    assert is_held(file)
    holder.kill()
    holder.wait()
    assert file.exists()
    assert not is_held(file)
    assert not file.exists()
    with sole_holder(file, "mine"):
        assert file.read_text() == "mine"
    assert not file.exists()


def test_a_lock_is_not_taken_twice_in_a_process(tmp_path: Path) -> None:
    with sole_holder(tmp_path / "lock"), pytest.raises(HeldError, match=f"process {os.getpid()} on "):
        sole_holder(tmp_path / "lock").__enter__()


def test_a_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), sole_holder(tmp_path / "lock"):
        _ = 1 / 0
    with sole_holder(tmp_path / "lock"):
        pass


def test_who_waits_for_a_turn_gets_it_when_the_other_is_done(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with in_turn(tmp_path / "turn"):
            order.append("second")

    waiting = threading.Thread(target=second)
    with in_turn(tmp_path / "turn"):
        waiting.start()
        time.sleep(0.2)
        order.append("first")
    waiting.join(30)
    assert order == ["first", "second"]


def test_nothing_is_held_where_the_file_system_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(FileLock, "acquire", refused)
    with sole_holder(tmp_path / "lock"), sole_holder(tmp_path / "lock"):
        pass
