"""Locks on files, by filelock: the operating system's where it has them, which end with their holder."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hakg_dgl.errors import CheckpointError

LOCK_NAME = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class HeldError(Exception):
    """Another process, or another holder in this one, has the lock; its argument says which, as far as is known."""


@contextmanager
def sole_holder(file: Path, text: str | None = None) -> Iterator[None]:
    """Hold a lock file without waiting for it; the file is removed at the end.

    A kill releases the lock and leaves the file, which says nothing by itself. File systems without locks (some
    network ones) give none, and then nothing is held.

    Parameters
    ----------
    file
        The lock file, in an existing folder.
    text
        What the file says while it is held. Default: which process of which machine holds it.

    Raises
    ------
    HeldError
        If it is held already; with what the file says.
    OSError
        If the file cannot be made.
    """
    lock = FileLock(file, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise HeldError(_text_of(file) or "another process") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        with suppress(OSError):  # the text is a courtesy, for which a full disk may have no room
            file.write_text(text or f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is held: whoever opened the file sees that it has no name any more
        lock.release()


def is_held(file: Path) -> bool:
    """Whether a process of this machine, or this process itself, holds a lock file; one that is not held is removed."""
    if not file.exists():
        return False
    try:
        with sole_holder(file):
            return False
    except HeldError:
        return True


@contextmanager
def in_turn(file: Path) -> Iterator[None]:
    """Hold a lock file, waiting for it as long as it takes; the file stays.

    Where the file system has no locks, the existence of the file is the lock, as far as filelock can tell who lives.
    """
    with FileLock(file):
        yield


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Be the only trainer in an existing folder, by its lock file ``.lock``.

    Raises
    ------
    CheckpointError
        If another process, or another trainer of this one, works there.
    OSError
        If the file cannot be made.
    """
    with ExitStack() as held:
        try:
            held.enter_context(sole_holder(folder / LOCK_NAME))
        except HeldError as error:
            raise CheckpointError(
                f"{folder}: {error} is training in it; wait for it, end it, or train in another folder"
            ) from None
        yield


def _text_of(file: Path) -> str:
    """The start of what a file says; nothing if it cannot be read."""
    try:
        with file.open(encoding="utf-8", errors="replace") as handle:
            return handle.read(200).strip()
    except OSError:
        return ""
