"""What the tests of bad input share: running ``hakg``, and comparing all it says and all it leaves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

COMMAND = (sys.executable, "-m", "hakg_dgl.cli")
SMALL = (
    "--epochs", "1", "--set", "dim=4", "--set", "layers=1", "--set", "refit=false",
    "--device", "cpu",
)  # fmt: skip

Content = str | bytes | None
Message = str | re.Pattern[str]


def hakg(*args: object) -> Result:
    """Run the command in this process."""
    cli = pytest.importorskip("hakg_dgl.cli", reason="python -m pip install -e .")
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], prog_name="hakg")


def write(folder: Path, files: Mapping[str, Content]) -> Path:
    """Write files (None: leave the file out)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if content is not None:
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def contents(place: Path) -> dict[str, Any]:
    """Everything below a folder, to see what a command changed."""
    found: dict[str, Any] = {}
    for path in sorted(place.rglob("*")):
        whole = path.is_file() and not path.is_symlink() and os.access(path, os.R_OK)
        found[str(path.relative_to(place))] = path.read_bytes() if whole else None
    return found


def usage(command: str, message: str) -> str:
    """What click says of a wrong option."""
    positional = {"preprocess": "SOURCE", "train": "DATA", "info": "DATA"}.get(command, "RUN")
    return f"Usage: hakg {command} [OPTIONS] {positional}\nTry 'hakg {command} --help' for help.\n\nError: {message}"


def check_refusal(code: int, stdout: str, stderr: str, message: Message) -> None:
    """Exit code 2, the whole text on stderr and nothing on stdout."""
    assert code == 2, stderr + stdout
    if isinstance(message, re.Pattern):
        assert re.fullmatch(f"Error: (?:{message.pattern})\n", stderr, message.flags), stderr
    else:
        assert stderr == (message if message.startswith("Usage") else f"Error: {message}") + "\n"
    assert "Traceback" not in stderr
    assert stdout == ""


def refuse(message: Message, *args: object) -> None:
    """The command, run here, is refused with this message and changes nothing here."""
    before = contents(Path.cwd())
    result = hakg(*args)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    check_refusal(result.exit_code, result.stdout, result.stderr, message)
    assert contents(Path.cwd()) == before


def refuse_in_a_process(message: Message, *args: object, prefix: Sequence[str] = (), **options: Any) -> None:
    """The same in a process of its own."""
    before = contents(Path.cwd())
    done = subprocess.run(
        [*prefix, *COMMAND, *map(str, args)], capture_output=True, text=True, timeout=120, check=False, **options
    )
    check_refusal(done.returncode, done.stdout, done.stderr, message)
    assert contents(Path.cwd()) == before


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, so that messages hold short relative paths."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw files ``src``, their data set ``D`` and a run ``R`` on it: 12 users, 8 items."""
    place = tmp_path_factory.mktemp("trained")
    split = {
        "train.txt": "".join(f"{u} {' '.join(str((u + j) % 8) for j in range(4))}\n" for u in range(12)),
        "test.txt": "".join(f"{u} {(u + 5) % 8}\n" for u in range(12)),
        "kg_final.txt": "".join(f"{i} {i % 2} {8 + i % 3}\n" for i in range(8)),
    }
    write(place / "src", split)
    for args in (
        ("preprocess", place / "src", "--out", place / "D", "--valid", 0.25),
        ("train", place / "D", "--out", place / "R", *SMALL),
    ):
        result = hakg(*args)
        assert result.exit_code == 0, result.output
    return place


@pytest.fixture
def work(trained: Path, here: Path) -> Path:
    """A copy of ``src``, ``D`` and ``R`` to spoil, and to work in."""
    shutil.copytree(trained, here, dirs_exist_ok=True)
    about = here / "R" / "run.json"
    about.write_text(about.read_text().replace(str(trained), str(here)))
    return here
