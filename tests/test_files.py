"""Atomic writing: the old file or the new one, whatever happens."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hakg_dgl import atomic_files
from hakg_dgl.atomic_files import replace_file, write_json, write_text

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
