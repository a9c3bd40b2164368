"""The notebooks of the documentation: saved as they ran, and they still run."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import hakg_dgl

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from notebooks import FOLDER, digest, executed, problems

ROOT = FOLDER.parents[1]
FILES = sorted(FOLDER.glob("*.ipynb"))
HOME = "/" + "home"  # no committed text names such a folder
each = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def text_of(notebook: Any, kind: str) -> str:
    return "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind)


def test_there_are_notebooks_and_the_index_has_them_all() -> None:
    assert len(FILES) >= 4
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert [file.name for file in FILES if f"(notebooks/{file.name})" not in index] == []


@each
def test_a_notebook_is_saved_as_it_ran(file: Path) -> None:
    assert problems(read(file)) == []
    assert any(
        "image/png" in output.get("data", {}) for cell in read(file)["cells"] for output in cell.get("outputs", [])
    )


@each
def test_a_notebook_uses_public_names_and_links_to_what_is_there(file: Path) -> None:
    names = set(re.findall(r"\bhakg_dgl\.(\w+)\(", text_of(read(file), "code")))
    assert names <= set(hakg_dgl.__all__)
    targets = re.findall(r"\]\(([^)\s#]+)", text_of(read(file), "markdown"))
    assert [target for target in targets if ":" not in target and not (file.parent / target).exists()] == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda cells: cells[0].update(source="1 + 2"), "its code was changed"),
        (lambda cells: cells[1].update(execution_count=7), "from top to bottom"),
        (lambda cells: [cell.update(outputs=[]) for cell in cells], "no outputs"),
        (
            lambda cells: cells[0]["outputs"].append({"output_type": "error", "ename": "ValueError"}),
            "ended with ValueError",
        ),
        (lambda cells: said(cells, "stderr", "a warning"), "stderr: 'a warning'"),
        (lambda cells: said(cells, "stdout", f"in {HOME}/ann"), f"path of the machine: '{HOME}/ann'"),
        (lambda cells: said(cells, "stdout", "x" * 500_000), "characters"),
    ],
)
def test_what_is_wrong_with_a_notebook_is_said(change: Any, problem: str) -> None:
    cells: list[Any] = [
        {"cell_type": "code", "source": "1 + 1", "execution_count": 1, "outputs": []},
        {"cell_type": "code", "source": ["print(\n", "2)"], "execution_count": 2, "outputs": []},
    ]
    said(cells, "stdout", "2 of runs/tmp/x, https://example.org/home/y")
    good: dict[str, Any] = {"cells": cells, "metadata": {}}
    good["metadata"] = {"hakg_dgl": {"code": digest(good)}}
    assert problems(good) == []
    formatted = copy.deepcopy(good)
    formatted["cells"][1]["source"] = "print(\n    2,\n)"
    assert problems(formatted) == []
    bad = copy.deepcopy(good)
    change(bad["cells"])
    (found,) = problems(bad)
    assert problem in found


def said(cells: list[Any], name: str, text: str) -> None:
    cells[1]["outputs"].append({"output_type": "stream", "name": name, "text": text})


@pytest.mark.slow
@each
def test_a_notebook_runs(file: Path) -> None:
    for needed in ("nbclient", "nbformat", "ipykernel"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed: python -m pip install -e '.[notebooks]'")
    import nbformat

    notebook = nbformat.read(file, as_version=4)
    ran = executed(with_few_epochs(notebook))
    assert [kinds(cell) for cell in ran["cells"]] == [kinds(cell) for cell in notebook["cells"]]


def with_few_epochs(notebook: Any) -> Any:
    """The same cells with two epochs a training: what they show is the same, but for the numbers."""
    few = copy.deepcopy(notebook)
    for cell in few["cells"]:
        if cell["cell_type"] == "code":
            cell["source"] = re.sub(r'"epochs": \d+', '"epochs": 2', cell["source"])
    return few


def kinds(cell: Any) -> list[Any]:
    """What a cell showed: text of a stream, a table, a picture."""
    return [output.get("name") or sorted(output["data"]) for output in cell.get("outputs", [])]
