"""What a test must leave as it found it, because later tests in the same process see it."""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import sys
from typing import Any

import numpy as np
import torch

import hakg_dgl
from hakg_dgl.models import registry

_OURS = ("HAKG_", "OMP_", "CUDA_")


def start_of_chance() -> None:
    """Global generators start alike in every test, whatever ran before it; the package itself has its own."""
    torch.default_generator.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)


def state() -> dict[str, Any]:
    """Name -> value of everything that is compared before and after a test."""
    return {
        "the environment": {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        "the working directory": os.getcwd(),
        "sys.path": dict.fromkeys(sys.path),
        "sys.argv": list(sys.argv),
        "sys.excepthook": sys.excepthook,
        "signal handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "socket's default timeout": socket.getdefaulttimeout(),
        "modules of the package": {name: module for name, module in sys.modules.items() if name[:8] == "hakg_dgl"},
        "names of the package": dict(vars(hakg_dgl)),
        "registered models": dict(registry._REGISTERED),
        "loggers": {name: _logger(name) for name in ("", "hakg_dgl")},
        "PyTorch's default type": torch.get_default_dtype(),
        "PyTorch's threads": torch.get_num_threads(),
        "PyTorch's gradients": torch.is_grad_enabled(),
        "PyTorch's deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "PyTorch's precision": torch.get_float32_matmul_precision(),
        "NumPy's errors": np.geterr(),
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs, a line each. A test may import modules and look names up, so more of them are no difference."""
    found = []
    for name, value in before.items():
        now = after[name]
        if isinstance(value, dict) and name != "registered models":
            now = {key: kept for key, kept in now.items() if key in value or key.startswith(_OURS)}
        if now != value:
            found.append(f"{name}: {_difference(value, now)}")
    return found


def _logger(name: str) -> tuple[Any, ...]:
    logger = logging.getLogger(name)
    handlers = [handler for handler in logger.handlers if not type(handler).__module__.startswith("_pytest")]
    return logger.level if name else None, logger.propagate, logger.disabled, handlers  # pytest sets the root's level


def _difference(before: Any, after: Any) -> str:
    if isinstance(before, dict):
        keys = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
        return "; ".join(f"{key} was {before.get(key)!r}, is {after.get(key)!r}" for key in sorted(keys))
    return f"was {before!r}, is {after!r}"
