"""Freed memory is kept: arrays that come and go stop costing page faults. In a process of its own."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from hakg_dgl.training.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory() and keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        arrays = [torch.ones(2_000_000) for _ in range(10)]
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc, whose malloc this is about")
def test_arrays_that_come_and_go_cost_no_page_faults():
    def faults(mode: str) -> int:
        run = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True)
        return int(run.stdout)

    assert faults("kept") < faults("default") / 10
