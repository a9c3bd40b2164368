"""Clocks, memory, machine facts and Markdown tables: what the speed benchmarks share."""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, the device's work included."""
    _wait(device)
    began = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - began


def median_seconds(run: Callable[[], object], repeats: int, device: torch.device, *, warm_up: int = 1) -> float:
    """Median wall time of ``repeats`` calls after ``warm_up`` that are not counted."""
    times = [seconds(run, device) for _ in range(warm_up + repeats)]
    return statistics.median(times[warm_up:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_bandwidth(device: torch.device, n_bytes: int = 1 << 28, repeats: int = 5) -> float:
    """Bytes a second that ``copy_`` moves, read and written both counted, on an array larger than any cache."""
    source = torch.ones(n_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / median_seconds(lambda: target.copy_(source), repeats, device)


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: of the GPU's memory, or by this process.

    On Linux from ``VmHWM``: ``ru_maxrss`` of a started program begins with what the program that started it held.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken without swapping; within the limit of the control group, where there is one."""
    gc.collect()
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    info = Path("/proc/meminfo")
    if not info.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    (line,) = (line for line in info.read_text().splitlines() if line.startswith("MemAvailable:"))
    free, group = int(line.split()[1]) * 1024, Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.exists() and used.exists() and (most := limit.read_text().strip()).isdecimal():
        free = min(free, int(most) - int(used.read_text()))
    return free


def machine_facts(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on: processor, cores, threads, memory, versions."""
    cpu = Path("/proc/cpuinfo")
    models = [line for line in cpu.read_text().splitlines() if line.startswith("model name")] if cpu.exists() else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.processor() or platform.machine(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in ("hakg_dgl", "torch", "triton", "dgl", "numpy", "pandas", "pyarrow")},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def describe_machine(facts: dict[str, Any]) -> str:
    """The facts in a line."""
    chip = facts["gpu"] or facts["cpu"]
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return f"{chip}; {facts['cores']} cores, {facts['threads']} threads; {gigabytes(facts['memory_bytes'])}; {versions}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def duration(value: float) -> str:
    """Seconds in a unit that shows three digits."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def gigabytes(value: float) -> str:
    """Bytes in GB (10^9), as the targets are."""
    return f"{value / 1e9:.2f} GB"


def write_results(name: Path, values: dict[str, Any], device: torch.device) -> Path:
    """Write a JSON file, a bare name into ``benchmarks/results``, with the command and the machine's facts."""
    file = RESULTS / name if name.parent == Path() else name
    arguments = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    about = {"command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *arguments])}
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(about | {"machine": machine_facts(device)} | values, indent=1)
    file.write_text(text + "\n", encoding="utf-8")
    return file
