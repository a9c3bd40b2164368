"""What the C library does with freed memory: kept during training on a CPU, given back while requests are answered.

A step makes and frees some hundred arrays of several megabytes. By default glibc gives freed memory back to the system,
so every step waits for the same pages to be mapped and zeroed again, which takes about a quarter of its time.

In ``hakg serve`` it is the other way round: freed blocks stay in a heap a thread. A model that is made for a request
and dropped leaves gaps in them that the next one does not fill exactly, so the process would grow by a part of a model
now and then.
"""

from __future__ import annotations

import ctypes
import functools
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_MAPPED_FROM = 2**30
_NEVER = -1


@functools.cache
def keep_freed_memory() -> bool:
    """Make glibc serve arrays below a gigabyte from memory that the process never gives back; for the whole process.

    Returns
    -------
    bool
        Whether it took effect; False, and nothing done, where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _MAPPED_FROM)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))


def give_back_freed_memory() -> bool:
    """Have glibc give back the freed pages of all heaps; it takes some milliseconds.

    Returns
    -------
    bool
        Whether there were any; False, and nothing done, where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).malloc_trim(0))
