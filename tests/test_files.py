"""Atomic writing: the old file or the new one, whatever happens."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hakg_dgl import atomic_files
from hakg_dgl.atomic_files import recover_folder, replace_file, replace_folder, write_json, write_text

pytest.importorskip("resource", reason="permissions and limits of POSIX")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "file.txt"
    path.write_text("old")
    return path


def only_file(path: Path) -> str:
    """The text of the only file in its folder."""
    assert list(path.parent.iterdir()) == [path]
    return path.read_text(encoding="utf-8")


def test_text_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    for text in ("first", "", "später ∞\n"):
        write_text(path, text)
        assert only_file(path) == text


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("no")])
def test_a_writer_that_fails_leaves_the_old_file_alone(old: Path, error: BaseException) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text("ha")
        assert old.read_text() == "old"
        raise error

    with pytest.raises(type(error)):
        replace_file(old, write)
    assert only_file(old) == "old"


def test_a_rename_that_fails_leaves_the_old_file_alone(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, target: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_text(old, "new")
    assert only_file(old) == "old"


def test_the_content_is_on_disk_before_the_name(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(atomic_files, "sync_file", lambda path: seen.append((path.read_text(), old.read_text())))
    write_text(old, "new")
    assert seen == [("new", "old")]
    assert only_file(old) == "new"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, mask: int) -> None:
    def write_privately(temporary: Path) -> None:
        temporary.unlink()  # as safetensors does: a private file takes the place
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))

    before = os.umask(mask)
    try:
        replace_file(tmp_path / "file", write_privately)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "missing" / "file.txt", "text")


def test_json_is_read_back_and_has_no_nan(old: Path) -> None:
    value = {"text": "∞", "number": 0.1 + 0.2, "none": None, "list": [1, 2]}
    write_json(old, value)
    assert json.loads(only_file(old)) == value
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(old, {"bad": [bad]})
    assert json.loads(only_file(old)) == value


LIMITED = """
import resource, sys
from pathlib import Path
from hakg_dgl.atomic_files import write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_text(Path(sys.argv[1]), "x" * 5000)
except OSError as error:
    print(error.strerror)
"""


def test_a_file_that_has_no_room_leaves_the_old_one_alone(old: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(old)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stdout.strip() == "File too large", result.stderr
    assert only_file(old) == "old"


# --- folders ----------------------------------------------------------------------------------------------------------


def filled(text: str) -> Callable[[Path], None]:
    return lambda folder: write_text(folder / "a.txt", text)


KILLED = """
import os, signal
from pathlib import Path
from hakg_dgl import atomic_files

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

{fault}
atomic_files.replace_folder(Path("d"), lambda folder: (folder / "a.txt").write_text("new"))
"""
BETWEEN_TWO_RENAMES = """
atomic_files._exchange = lambda one, other: False
rename = Path.rename
Path.rename = lambda path, to: kill() if path.suffix == ".new" else rename(path, to)
"""


@pytest.mark.parametrize(
    ("fault", "stands"),
    [
        ("atomic_files._sync_tree = kill", "old"),
        ("atomic_files._exchange = kill", "old"),
        (BETWEEN_TWO_RENAMES, None),
        ("atomic_files._sync_folder = lambda folder: kill() if (folder / 'd').exists() else None", "new"),
    ],
)
def test_a_kill_leaves_a_whole_folder_and_the_next_run_no_leftovers(tmp_path, fault, stands):
    replace_folder(tmp_path / "d", filled("old"))
    code = KILLED.format(fault=fault)
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == -9, ended.stderr
    assert len(list(tmp_path.iterdir())) == 2, "the kill left something behind"
    assert (tmp_path / "d").exists() == (stands is not None)
    recover_folder(tmp_path / "d")
    assert (tmp_path / "d" / "a.txt").read_text() == (stands or "old")
    replace_folder(tmp_path / "d", filled("newer"))
    assert only_file(tmp_path / "d" / "a.txt") == "newer"
    assert list(tmp_path.iterdir()) == [tmp_path / "d"]


@pytest.mark.parametrize("can_swap", [True, False])
def test_a_folder_is_replaced(tmp_path, monkeypatch, can_swap):
    if not can_swap:
        monkeypatch.setattr(atomic_files, "_exchange", lambda one, other: False)
    for text in ("one", "two"):
        replace_folder(tmp_path / "deep" / "d", filled(text))
        assert only_file(tmp_path / "deep" / "d" / "a.txt") == text
        assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "d"]


def test_everything_is_on_the_disk_before_the_names_change(tmp_path, monkeypatch):
    events = []
    sync, exchange = os.fsync, atomic_files._exchange
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("sync"), sync(descriptor))[1])
    monkeypatch.setattr(atomic_files, "_exchange", lambda *names: (events.append("swap"), exchange(*names))[1])
    replace_folder(tmp_path / "d", lambda folder: (folder / "a.txt").write_text("one"))
    events.clear()
    replace_folder(tmp_path / "d", lambda folder: (folder / "a.txt").write_text("two"))
    assert events == ["sync", "sync", "swap", "sync"]  # the file, its folder; then the folder above


def test_the_folder_of_a_process_at_work_is_left_alone(tmp_path):
    def write(folder):
        replace_folder(tmp_path / "d", filled("other"))
        assert folder.is_dir()
        write_text(folder / "a.txt", "mine")

    replace_folder(tmp_path / "d", write)
    assert only_file(tmp_path / "d" / "a.txt") == "mine"


def test_a_failed_write_leaves_the_old_folder_alone(tmp_path):
    replace_folder(tmp_path / "d", filled("old"))

    def fails(folder):
        write_text(folder / "a.txt", "half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        replace_folder(tmp_path / "d", fails)
    assert only_file(tmp_path / "d" / "a.txt") == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "d"]
