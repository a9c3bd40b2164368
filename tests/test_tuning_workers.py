"""Signs of life of workers, and the journal after kills and damage."""

from __future__ import annotations

import json
import os
import pickle
import time
from pathlib import Path

import pytest

from hakg_dgl.errors import CheckpointError, MissingDependencyError
from hakg_dgl.studies import workers
from hakg_dgl.studies.journal import CUT_LINES, open_journal, require_optuna
from hakg_dgl.studies.workers import DEAD_AFTER, Worker

optuna = pytest.importorskip("optuna", reason="python -m pip install -e .[tune]")


def test_a_worker_is_alive_as_long_as_it_works(tmp_path: Path) -> None:
    with Worker(tmp_path / "w") as first, Worker(tmp_path / "w") as second:
        assert first.id != second.id
        assert first.is_alive(second.id)
        assert first.is_alive(first.id)
        assert not first.is_alive(None)
        assert not first.is_alive("no such worker")
    with Worker(tmp_path / "w") as third:
        assert not third.is_alive(first.id)
        assert len(list((tmp_path / "w").iterdir())) == 1


def test_a_killed_worker_of_this_machine_is_known_at_once(tmp_path: Path) -> None:
    with Worker(tmp_path) as mine:
        left = tmp_path / "killed"
        left.write_text((tmp_path / mine.id).read_text())  # fresh, but its lock ended with it
        assert not mine.is_alive("killed")
        assert not left.exists()


def test_a_worker_of_another_machine_is_known_by_its_beat(tmp_path: Path) -> None:
    with Worker(tmp_path) as mine:
        other = tmp_path / "elsewhere"
        other.write_text("another machine")
        assert mine.is_alive("elsewhere")
        past = time.time() - DEAD_AFTER - 1
        os.utime(other, (past, past))
        assert not mine.is_alive("elsewhere")


def test_the_beat_keeps_the_file_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "BEAT_EVERY", 0.01)
    with Worker(tmp_path) as mine:
        file = tmp_path / mine.id
        os.utime(file, (0, 0))
        until = time.monotonic() + 10
        while file.stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert file.stat().st_mtime > 0


def test_a_journal_loads_nothing_pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "journal.jsonl"
    open_journal(file).study.ask().suggest_float("x", 0, 1)

    def loads(*_: object, **__: object) -> None:
        raise AssertionError("pickle")

    monkeypatch.setattr(pickle, "loads", loads)
    monkeypatch.setattr(pickle, "load", loads)
    study = open_journal(file).study
    assert len(study.trials) == 1
    assert all(isinstance(json.loads(line), dict) for line in file.read_text().splitlines())
    assert not hasattr(optuna.storages.journal.JournalFileBackend, "load_snapshot"), "snapshots are pickled"


def test_a_line_cut_off_by_a_kill_is_left_out_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    study = open_journal(file).study
    study.tell(study.ask(), 0.25)
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"op_code":4,"worker')
    study = open_journal(file).study
    assert [trial.value for trial in study.trials] == [0.25]
    assert study.user_attrs[CUT_LINES] == 1
    study.tell(study.ask(), 0.5)
    again = open_journal(file).study
    assert [trial.value for trial in again.trials] == [0.25, 0.5]
    assert again.user_attrs[CUT_LINES] == 1
    assert file.read_bytes().startswith(whole)


@pytest.mark.parametrize("line", [b"not JSON", b"[]", b'{"op_code": 99}', b'{"op_code": 4}'])
def test_a_damaged_journal_is_an_error_with_the_file(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "journal.jsonl"
    open_journal(file).study.ask()
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + line + b"\n" + b"".join(lines[1:]))
    with pytest.raises(CheckpointError, match=r"journal\.jsonl.*: is damaged") as caught:
        open_journal(file)
    if not line.startswith(b"{"):
        assert "journal.jsonl, line 2:" in str(caught.value)


def test_without_optuna_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'hakg_dgl\[tune\]'"):
        require_optuna()
