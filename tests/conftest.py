"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("bad_input")
from bad_input import here, trained, work  # noqa: E402, F401 (fixtures)

# Machines that run tests are shared: a slow example is no failure.
settings.register_profile("hakg", deadline=None)
settings.load_profile("hakg")

_SHARED = Path(os.environ.get("HAKG_SHARED_DIR") or Path(__file__).resolve().parents[2] / "shared")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of real data and reference arrays, which are not part of the repository."""
    if not _SHARED.is_dir():
        pytest.skip(f"no shared data: {_SHARED} does not exist (set HAKG_SHARED_DIR)")
    return _SHARED
