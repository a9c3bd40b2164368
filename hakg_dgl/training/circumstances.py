"""Where a run was made: device, memory, versions."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError
from hakg_dgl.models.settings import Settings


def choose_device(name: str) -> torch.device:
    """The device of this setting; ``auto`` is CUDA where PyTorch has it.

    Raises
    ------
    ConfigError
        If CUDA is asked for and PyTorch has none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device = 'cuda', but this PyTorch ({torch.__version__}) finds no CUDA device; "
            "use --device cpu, or install a CUDA build of PyTorch (docs/install.md)"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def circumstances(
    dataset: Dataset, settings: Settings, data_path: str | Path | None, device: torch.device
) -> dict[str, Any]:
    """What ``result.json`` says of every run: settings, data set, machine, versions."""
    return {
        "settings": settings.to_dict(),
        "data": {
            "name": dataset.name,
            "digest": dataset.digest,
            "path": None if data_path is None else str(Path(data_path).resolve()),
        },
        "machine": machine(),
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "peak_memory_bytes": _peak_memory(device),
        "versions": _versions(),
    }


def machine() -> dict[str, Any]:
    """``cpu`` (the processor's name), ``cores`` that this process may use, ``memory_bytes``; None where not known."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows, and systems that do not tell
        memory = None
    return {"cpu": _processor(), "cores": cores, "memory_bytes": memory}


def _processor() -> str:
    """The name of the processor; its architecture where the system tells no more."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"


def _peak_memory(device: torch.device) -> int | None:
    """Bytes: of the GPU where one is used, else the process's resident set; None where that is not known."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:  # getrusage would count the process that started this one
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _versions() -> dict[str, str]:
    names = ("hakg_dgl", "torch", "triton", "dgl", "numpy", "pandas")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
