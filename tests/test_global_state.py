"""A test that leaves changed what other tests see is found."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import global_state
import pytest
import torch

from hakg_dgl.models import registry


def remove_a_module(patch: pytest.MonkeyPatch) -> None:
    patch.delitem(sys.modules, "hakg_dgl.models.registry")


def handle(patch: pytest.MonkeyPatch) -> None:
    logging.getLogger("hakg_dgl").addHandler(logging.NullHandler())


CHANGES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "the environment: HAKG_X was None, is '1'": lambda patch: patch.setenv("HAKG_X", "1"),
    "the environment: PATH was": lambda patch: patch.delenv("PATH"),
    "the working directory: was": lambda patch: patch.chdir(Path(__file__).parent.parent / "docs"),
    "sys.path: ": lambda patch: patch.setattr(sys, "path", [at for at in sys.path if at != sys.path[0]]),
    "signal handlers: ": lambda patch: None,
    "modules of the package: hakg_dgl.models.registry was": remove_a_module,
    "registered models: mine was": lambda patch: patch.setitem(registry._REGISTERED, "mine", torch.nn.Module),  # type: ignore[arg-type]
    "loggers: hakg_dgl was": handle,
    "PyTorch's default type: was torch.float32": lambda patch: torch.set_default_dtype(torch.float64),
    "PyTorch's gradients: was True": lambda patch: None,
}


@pytest.mark.parametrize("expected", CHANGES)
def test_a_change_is_found_and_named(expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = global_state.state()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        CHANGES[expected](monkeypatch)
        if expected.startswith("signal"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if "gradients" in expected:
            torch.set_grad_enabled(False)
        (found,) = global_state.changed(before, global_state.state())
        assert found.startswith(expected)
    finally:
        signal.signal(signal.SIGTERM, handler)
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
        logging.getLogger("hakg_dgl").handlers.clear()
        monkeypatch.undo()
    assert global_state.changed(before, global_state.state()) == []


def test_what_is_only_added_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    before = global_state.state()
    monkeypatch.setenv("LIBRARY_OF_OTHERS", "1")
    monkeypatch.syspath_prepend(os.fspath(Path(__file__).parent))
    assert global_state.changed(before, global_state.state()) == []
