"""What a process knows of the one that started it as one of several."""

from __future__ import annotations

import os

STARTED_BY = "HAKG_STARTED_BY"
"""In the environment, the number of the process that started this one and says what has ended it."""


def orphaned() -> bool:
    """Whether the process that started this one has ended."""
    starter = os.environ.get(STARTED_BY)
    return starter is not None and os.getppid() != int(starter)


def quiet() -> bool:
    """Whether what started this process is there and says why it ended."""
    return STARTED_BY in os.environ and not orphaned()
