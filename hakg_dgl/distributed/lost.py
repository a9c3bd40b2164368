"""The error of a process whose training cannot go on because of another one."""

from __future__ import annotations

from hakg_dgl.errors import HakgError

LOST_EXIT = 3
"""Exit code of a process that has lost another one."""


class LostProcessError(HakgError):
    """Another process of the training has ended, or can no longer be reached."""
