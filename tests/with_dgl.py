"""Tests that need DGL skip where it cannot be imported, and say why."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from hakg_dgl.errors import ConfigError, MissingDependencyError


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
