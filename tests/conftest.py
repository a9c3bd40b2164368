"""Fixtures for all tests."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

gc.disable()  # until all tests are imported
if "--without-dgl" in sys.argv:  # before anything imports DGL; programs that tests start read it too
    os.environ["HAKG_WITHOUT_DGL"] = "1"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it for what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
pytest.register_assert_rewrite("bad_input", "planted")
import global_state  # noqa: E402
from bad_input import here, trained, work  # noqa: E402, F401 (fixtures)
from planted import planted, planted_run, planted_runs  # noqa: E402, F401 (fixtures)
from several_processes import import_before  # noqa: E402

from hakg_dgl.models import registry  # noqa: E402

# Machines that run tests are shared, so a slow example is not a failure.
settings.register_profile("hakg", deadline=None)
settings.load_profile("hakg")

_SHARED = Path(os.environ.get("HAKG_SHARED_DIR") or Path(__file__).resolve().parents[2] / "shared")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--without-dgl", action="store_true", help="run as if DGL were not installed")


LONG = (
    "distributed_faults", "triton_aggregation", "notebooks", "distributed_command", "tuning", "ablation", "films",
    "numba_backend", "broken_inputs", "distributed_step", "benchmark_study", "distributed_training", "audit",
    "two_hosts", "recommend_more", "kill_resume", "cli_failures", "registry", "picture_folder",
)  # fmt: skip
"""Files that take longest, though some have few tests. They come first, so that no process works alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Counter(item.path for item in items)
    place = {f"test_{name}": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: (place.get(item.path.stem, len(place)), -tests[item.path], str(item.path)))


def pytest_collection_finish() -> None:
    """What is there before the first test stays, so garbage is looked for in the rest alone: a look took a second."""
    gc.enable()
    gc.collect()
    gc.freeze()
    import_before()


@pytest.fixture(autouse=True)
def left_as_found() -> Iterator[None]:
    """A test that leaves changed what others see fails. The fixture is the first to begin, so it watches the others."""
    global_state.start_of_chance()
    before = global_state.state()
    yield
    changed = global_state.changed(before, global_state.state())
    if changed:
        pytest.fail("the test leaves changed what other tests see\n" + "\n".join(changed), pytrace=False)


@pytest.fixture(autouse=True)
def own_registry(left_as_found: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that a test registers, as the examples of the documentation do, is gone after the test."""
    monkeypatch.setattr(registry, "_REGISTERED", registry._REGISTERED.copy())


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of real data and reference arrays, which are not part of the repository."""
    if not _SHARED.is_dir():
        pytest.skip(f"no shared data: {_SHARED} does not exist (set HAKG_SHARED_DIR)")
    return _SHARED
