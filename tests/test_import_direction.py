"""Data flows down the layout: what a part of the package may import, and what the commands must not load."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# The parts of the package from top to bottom: a part may import those above it. A new part needs a place here.
ORDER = (
    "errors", "randomness", "atomic_files", "locks", "checkout", "settings", "data", "geometry", "graph", "kernels",
    "layers", "ranking", "models", "training", "distributed", "insight", "studies", "figures", "serving", "quickstart",
    "estimator", "doctor", "cli",
)  # fmt: skip
GATE = REPOSITORY / "hakg_dgl" / "graph" / "dgl_gate.py"


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*.py"))]


def name_of(path: Path) -> str:
    """Path of a file, for test names."""
    return path.relative_to(REPOSITORY).as_posix()


def module_of(path: Path) -> list[str]:
    """Dotted name, in parts, of the module in a file; ``cli/`` is installed as ``hakg_dgl.cli``."""
    parts = list(path.relative_to(REPOSITORY).with_suffix("").parts)
    return ["hakg_dgl", *parts] if parts[0] == "cli" else parts


def imports_in(source: str, module: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Line and absolute dotted name, in parts, of everything a module's source imports, wherever it stands."""
    package = module[:-1]  # true of a package's __init__ too, whose last part is "__init__"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            yield from ((node.lineno, [*base, alias.name]) for alias in node.names)


def parts_imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and part of the package for each import from the package itself."""
    for line, name in imports_in(path.read_text(encoding="utf-8"), module_of(path)):
        if name[0] == "hakg_dgl" and len(name) > 1:
            yield line, name[1]


def test_imports_are_read_as_python_reads_them() -> None:
    source = (
        "import dgl.nn\nfrom . import a\nfrom .b import c\nfrom ..data import d\ndef f():\n    from hakg_dgl import e\n"
    )
    expected = ["dgl.nn", "hakg_dgl.layers.a", "hakg_dgl.layers.b.c", "hakg_dgl.data.d", "hakg_dgl.e"]
    for module in ("layer", "__init__"):
        found = imports_in(source, ["hakg_dgl", "layers", module])
        assert [".".join(name) for _, name in sorted(found)] == expected


def imports_against_the_order(path: Path) -> list[str]:
    """The imports of a file that are of no part above its own."""
    part = module_of(path)[1]
    assert part in ORDER, f"{name_of(path)}: {part} has no place in ORDER"
    # The public names come from everywhere, so only the commands, which stand below everything, may take them.
    allowed = {*ORDER[: ORDER.index(part) + 1], *(public_names() if part == "cli" else ())}
    return [
        f"{name_of(path)}:{line} imports hakg_dgl.{imported}, and {part} may import {', '.join(sorted(allowed))}"
        for line, imported in parts_imported(path)
        if imported not in allowed
    ]


def public_names() -> list[str]:
    return list(importlib.import_module("hakg_dgl").__all__)


@pytest.mark.parametrize("path", python_files("hakg_dgl", "cli"), ids=name_of)
def test_a_part_imports_only_what_stands_above_it(path: Path) -> None:
    if module_of(path)[1] == "__init__":  # it has the public names, which come from everywhere but the commands
        assert "cli" not in {imported for _, imported in parts_imported(path)}
    else:
        assert not imports_against_the_order(path)


def test_an_import_against_the_order_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hakg_dgl" / "graph").mkdir(parents=True)
    path = tmp_path / "hakg_dgl" / "graph" / "packed.py"
    path.write_text(
        "from hakg_dgl.data import dataset\nfrom . import edge_types\nimport hakg_dgl.geometry.cones\n"
        "def f():\n    from ..layers import dropout\nif TYPE_CHECKING:\n    from hakg_dgl import Trainer\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "REPOSITORY", tmp_path)
    wrong = imports_against_the_order(path)
    assert [text.split(",")[0] for text in sorted(wrong)] == [
        "hakg_dgl/graph/packed.py:5 imports hakg_dgl.layers",
        "hakg_dgl/graph/packed.py:7 imports hakg_dgl.Trainer",
    ]


def files_imported(path: Path, files: dict[str, Path]) -> set[str]:
    """Names of the files that a file imports, or imports a name from, other than itself and the public names."""
    found = set()
    for _, name in imports_in(path.read_text(encoding="utf-8"), module_of(path)):
        file = file_of(name, files)
        if file is not None and files[file] != path:
            found.add(file)
    return found


def file_of(name: list[str], files: dict[str, Path]) -> str | None:
    """Name of the file that an imported name is, or is taken from; None for the public names and other packages."""
    for length in range(len(name), 1, -1):
        if ".".join(name[:length]) in files:
            return ".".join(name[:length])
    return None


def dotted(path: Path) -> str:
    return ".".join(part for part in module_of(path) if part != "__init__")


def circle_in(files: dict[str, Path]) -> list[str]:
    """The files of a circle of imports, the first one at both ends; empty where there is none."""
    imported = {name: files_imported(path, files) for name, path in files.items()}
    try:
        TopologicalSorter(imported).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_files_import_each_other_not_even_inside_functions() -> None:
    circle = circle_in({dotted(path): path for path in python_files("hakg_dgl", "cli")})
    assert not circle, " imports ".join(reversed(circle))


def test_a_circle_of_imports_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "hakg_dgl" / "part"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text("def f():\n    from hakg_dgl.part.b import g\n")
    (folder / "b.py").write_text("from .c import h\n")
    (folder / "c.py").write_text("if TYPE_CHECKING:\n    from hakg_dgl.part import a\n")
    monkeypatch.setattr(sys.modules[__name__], "REPOSITORY", tmp_path)
    files = {dotted(path): path for path in python_files("hakg_dgl")}
    assert set(circle_in(files)) == {f"hakg_dgl.part.{name}" for name in "abc"}
    (folder / "c.py").write_text("")
    assert not circle_in(files)


@pytest.mark.parametrize("path", python_files("hakg_dgl", "cli"), ids=name_of)
def test_only_the_gate_imports_dgl(path: Path) -> None:
    names = [name[0] for _, name in imports_in(path.read_text(encoding="utf-8"), module_of(path))]
    assert path == GATE or "dgl" not in names


def loaded_by(code: str) -> set[str]:
    """Which of the heavy modules a fresh interpreter holds after running ``code``."""
    report = "import sys; print(*{'dgl', 'triton', 'matplotlib', 'tensorboard'} & set(sys.modules))"
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_no_dgl() -> None:
    assert loaded_by("import hakg_dgl") == set()


def installed_command() -> bool:
    spec = find_spec("hakg_dgl.cli")
    return bool(spec and spec.origin and "def main" in Path(spec.origin).read_text(encoding="utf-8"))


@pytest.mark.skipif(not installed_command(), reason="hakg_dgl.cli is not installed: python -m pip install -e .")
def test_help_loads_no_dgl() -> None:
    code = "from hakg_dgl.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as stop:\n    code = stop.code"
    assert loaded_by(code + "\nassert not code") == set()


def committed_text() -> list[Path]:
    """Files under version control that are text."""
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    paths = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:1024]]


# Put together from pieces, so that this file does not hold what it looks for.
UNWANTED = re.compile(
    "|".join([rf"(?<![\w.])/(?:{'|'.join(['work', 'root', 'opt', 'home'])})/\w", "TO" + "DO", "FIX" + "ME", "XX" + "X"])
)


def test_unwanted_text_is_recognised() -> None:
    for text in ("open('/" + "work/x')", "see /" + "root/y", "# TO" + "DO: later"):
        assert UNWANTED.search(text), text
    for text in ("../shared/data", "a.b/work/c", "https://example.org/work/", "rest/root/x"):
        assert not UNWANTED.search(text), text


def test_no_committed_text_names_a_machine_path_or_unfinished_work() -> None:
    found = [
        f"{path.relative_to(REPOSITORY).as_posix()}:{number}: {line.strip()[:80]}"
        for path in committed_text()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if UNWANTED.search(line) and not line.strip().startswith('"image/png": "')  # in notebooks
    ]
    assert not found
