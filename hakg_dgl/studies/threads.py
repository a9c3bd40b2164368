"""How many of PyTorch's threads the processes of a study have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def threads_each(workers: int, threads: int | None) -> int | None:
    """The threads of each worker: as many as given, or by default an equal share of those of this process.

    Returns
    -------
    int or None
        None where nothing is given and this process works alone, with the threads that it has.
    """
    if threads is not None or workers == 1:
        return threads
    return max(1, torch.get_num_threads() // workers)


@contextmanager
def on_threads(threads: int | None) -> Iterator[None]:
    """Compute with so many threads within the block (None: with those that there are), and as before after it."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)
        yield
    finally:
        torch.set_num_threads(before)
