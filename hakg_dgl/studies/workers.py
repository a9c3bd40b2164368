"""Which workers of a search are alive: each holds a locked file that it keeps fresh."""

from __future__ import annotations

import os
import platform
import secrets
import threading
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from hakg_dgl.locks import is_held, sole_holder

BEAT_EVERY, DEAD_AFTER = 10.0, 120.0
"""Seconds between a worker's signs of life, and without one until a worker of another machine is taken for dead."""


class Worker:
    """A sign of life in a study's folder, from ``with`` to the end of the process at the latest.

    A killed worker of this machine is known at once, since the lock on its file ends with it; one of another machine
    after ``DEAD_AFTER`` seconds, since locks need not reach across a network file system.

    Parameters
    ----------
    folder
        Where the files of all workers are; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.id: str = secrets.token_hex(8)
        self._folder, self._file = folder, folder / self.id
        self._held, self._stop = ExitStack(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="hakg-tune-beat", daemon=True)

    def __enter__(self) -> Worker:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._held.enter_context(sole_holder(self._file, _machine()))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._held.close()

    def is_alive(self, other: str | None) -> bool:
        """Whether the worker with this id is alive; what is left of a dead one is removed."""
        if other is None:
            return False
        file = self._folder / other
        try:
            if file.read_text(encoding="utf-8", errors="replace") == _machine():
                return is_held(file)
            os.utime(self._file)  # both times are the file server's, so clocks that differ do no harm
            alive = self._file.stat().st_mtime - file.stat().st_mtime < DEAD_AFTER
        except FileNotFoundError:
            return False
        if not alive:
            file.unlink(missing_ok=True)
        return alive

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_EVERY):
            try:
                os.utime(self._file)
            except OSError:  # removed, or the file server is away: the next beat may tell
                continue


def _machine() -> str:
    """The id of this machine since its last start, which ended all locks of earlier ones."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return platform.node()
