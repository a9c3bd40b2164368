"""Runs a function in several processes that are joined by gloo on the loopback interface."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PROCESSES = multiprocessing.get_context("forkserver")
"""Children forked from a process that has imported what all of them use, and run nothing: they start at once."""


def import_before() -> None:
    """Have the process that children are forked from import what they use, whatever list a benchmark has for itself."""
    modules = ["hakg_dgl.cli", "hakg_dgl.distributed.trainer", "hakg_dgl.training.trainer", "pytest"]
    PROCESSES.set_forkserver_preload(modules)


def run_in(size: int, work: Callable[..., None], folder: Path, *args: Any) -> None:
    """Call ``work(rank, folder, *args)`` in each of ``size`` processes; what one raises is raised here."""
    folder.mkdir(parents=True, exist_ok=True)
    mp.start_processes(  # type: ignore[no-untyped-call]
        _joined, (size, work, folder, args), nprocs=size, start_method="forkserver"
    )


def _joined(rank: int, size: int, work: Callable[..., None], folder: Path, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    address = f"file://{(folder / 'meeting').resolve()}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    try:
        work(rank, folder, *args)
    finally:
        dist.destroy_process_group()
    # All is done and written: what PyTorch's threads do while Python takes itself down is not what is tested.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
