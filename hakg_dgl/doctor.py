"""What is installed here, which kernels would run, and what to install for faster ones."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch

from hakg_dgl.errors import ConfigError, MissingDependencyError
from hakg_dgl.kernels.choice import explain_backend, explain_cuda_graphs

DISTRIBUTIONS = ("hakg_dgl", "torch", "triton", "numba", "dgl", "numpy", "pandas", "pyarrow")


def examine() -> dict[str, Any]:
    """Versions, devices, DGL's state and the backend of each device.

    Nothing that is missing is an error here: it is what the answer is about.

    Returns
    -------
    dict
        ``versions``: of Python and of each distribution, None where it is not installed. ``cuda``: ``built`` (CUDA
        version of this PyTorch, None for a CPU build), ``available``, ``devices``, each with ``name``, ``capability``
        and ``memory_bytes``, and ``graphs``: ``usable`` (whether steps are recorded here, with ``kernels = auto``
        and ``cuda_graphs = auto``), and the ``problem`` or None. ``dgl``: ``problem`` (why it cannot be imported, or
        None), ``cuda`` (whether its kernels run on the GPU) and ``shims``. ``kernels``: for ``cpu`` and, where there
        is one, ``cuda`` the ``backend`` that ``kernels = auto`` runs, the ``reason``, and what to install for a
        ``faster`` one or None.
        ``advice``: a list of sentences.
    """
    found: dict[str, Any] = {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in DISTRIBUTIONS},
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": _cuda(),
        "dgl": _dgl(),
    }
    devices = ["cpu", "cuda"] if found["cuda"]["available"] else ["cpu"]
    choices = {device: explain_backend(device) for device in devices}
    found["kernels"] = {
        device: {"backend": choice.name, "reason": choice.reason, "faster": choice.faster}
        for device, choice in choices.items()
    }
    problem = explain_cuda_graphs(choices["cuda"].name, "cuda") if "cuda" in choices else "there is no CUDA device"
    found["cuda"]["graphs"] = {"usable": problem is None, "problem": problem}
    found["advice"] = _advice(found)
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cuda() -> dict[str, Any]:
    devices = []
    available = torch.cuda.is_available()
    for number in range(torch.cuda.device_count() if available else 0):
        about = torch.cuda.get_device_properties(number)
        devices.append({
            "name": about.name, "capability": f"{about.major}.{about.minor}", "memory_bytes": about.total_memory,
        })  # fmt: skip
    return {"built": torch.version.cuda or torch.version.hip, "available": available, "devices": devices}


def _dgl() -> dict[str, Any]:
    try:
        from hakg_dgl.graph.dgl_gate import DGL_INFO, dgl_has_cuda
    except (MissingDependencyError, ConfigError) as error:
        return {"problem": str(error), "cuda": False, "shims": []}
    return {"problem": None, "cuda": dgl_has_cuda(), "shims": list(DGL_INFO.shims)}


def _advice(found: dict[str, Any]) -> list[str]:
    """What to do next, most needed first."""
    advice = []
    if found["dgl"]["problem"] is not None:
        advice.append(found["dgl"]["problem"])
    if found["cuda"]["built"] is None:
        advice.append(
            "This PyTorch has no CUDA. On a machine with a GPU, install a build of it that has (docs/gpu.md)."
        )
    elif not found["cuda"]["available"]:
        advice.append("This PyTorch has CUDA but finds no device: see whether the driver is loaded (nvidia-smi).")
    for device, kernels in found["kernels"].items():
        if kernels["faster"] is not None:
            advice.append(f"For faster kernels on {device}: {kernels['faster']}")
    if find_spec("triton") is None and not found["cuda"]["available"]:
        advice.append("Triton is not installed; it is needed on a GPU alone.")
    return advice
