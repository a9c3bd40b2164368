"""Memory of models that are gone goes back to the system.

glibc keeps freed blocks for later, in a heap a thread. A model that is made for a request and dropped leaves gaps in
them that the next one does not fill exactly, so the process would grow by a part of a model now and then.
"""

from __future__ import annotations

import ctypes
import platform


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
