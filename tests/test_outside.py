"""Programs that use the package as somebody else's project would: they run, and strict type checkers accept them."""

from __future__ import annotations

import dataclasses
import math
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from test_docs import TINY
from test_packaging import PYPROJECT, REPOSITORY

import hakg_dgl
from hakg_dgl.data.synthetic import DemoSettings

OUTSIDE = REPOSITORY / "tests" / "outside"
PROGRAMS = sorted(path.stem for path in OUTSIDE.glob("*.py"))


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a program, with a smaller demo than the usual one."""
    tiny = dataclasses.replace(DemoSettings.load(), **TINY)  # type: ignore[arg-type]
    generate = hakg_dgl.generate_demo
    monkeypatch.setattr(hakg_dgl, "generate_demo", lambda: generate(tiny))
    monkeypatch.syspath_prepend(str(OUTSIDE))
    return import_module


@pytest.mark.slow
def test_the_pipeline_runs(programs: Any, tmp_path: Path) -> None:
    assert 0.0 <= programs("pipeline").main(tmp_path) <= 1.0
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"data", "run", "vectors", "lists.csv", "why.csv"}


def test_an_edge_type_of_ones_own_runs(programs: Any) -> None:
    gradient = programs("own_edge_type").main()
    assert torch.isfinite(gradient)
    assert gradient != 0


def test_a_model_of_ones_own_runs(programs: Any) -> None:
    assert math.isfinite(programs("own_model").main())


def test_type_checkers_read_all_of_them_strictly() -> None:
    """``make lint`` gives them to mypy with the sources, ``make types`` to mypy and pyright with what is installed."""
    assert PYPROJECT["tool"]["mypy"]["strict"] is True
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert "/mypy hakg_dgl cli benchmarks tests/outside" in makefile
    assert re.search(r"cd tests/outside && .+/mypy --strict", makefile)
    assert "pyright -p tests/outside" in makefile
    assert '"strict"' in (OUTSIDE / "pyrightconfig.json").read_text(encoding="utf-8")
    assert (REPOSITORY / "hakg_dgl" / "py.typed").is_file()
    for name in PROGRAMS:
        assert not re.search(r"type: ignore|\bAny\b|\bcast\b", (OUTSIDE / f"{name}.py").read_text(encoding="utf-8")), (
            name
        )


def test_they_use_much_of_what_is_public() -> None:
    used = {name for stem in PROGRAMS for name in re.findall(r"hakg_dgl\.(\w+)", (OUTSIDE / f"{stem}.py").read_text())}
    assert {"preprocess", "Trainer", "evaluate", "recommend", "explain", "HAKG", "register_model"} <= used
