"""Tests that need DGL skip where it cannot be imported, and say why."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from hakg_dgl.errors import ConfigError, MissingDependencyError
from hakg_dgl.kernels.choice import BACKENDS, choose_backend


def why_not() -> str | None:
    """Why DGL cannot be imported here, in a line; None where it can."""
    try:
        import_module("hakg_dgl.graph.dgl_gate")
    except (MissingDependencyError, ConfigError) as error:
        return str(error).partition("\n")[0]
    return None


WHY_NOT = why_not()
needs_dgl = pytest.mark.skipif(WHY_NOT is not None, reason=f"needs DGL: {WHY_NOT}")


def dgl_or_skip() -> Any:
    """DGL; where there is none, the test (or, while it is imported, the module) is skipped."""
    if WHY_NOT is not None:
        pytest.skip(f"needs DGL: {WHY_NOT}", allow_module_level=True)
    return import_module("hakg_dgl.graph.dgl_gate").dgl


def named(*names: str) -> list[Any]:
    """Parameters of a test: names of kernels, of which ``dgl`` is skipped where it is missing."""
    return [pytest.param(name, marks=needs_dgl if name == "dgl" else (), id=name) for name in names]


BACKENDS_HERE = tuple(name for name in BACKENDS if name != "dgl" or WHY_NOT is None)


def backend_objects() -> list[Any]:
    """Parameters of a test: the backends themselves."""
    made = {name: choose_backend(name) for name in BACKENDS_HERE}
    return [pytest.param(made.get(name), marks=() if name in made else needs_dgl, id=name) for name in BACKENDS]
