"""One trainer at a time in a run folder, by a lock of the operating system, which ends with its holder."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hakg_dgl.errors import CheckpointError

LOCK_NAME = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold ``.lock`` in an existing folder; it is removed at the end.

    A kill releases the lock and leaves the file, which says nothing by itself. File systems without locks (some
    network ones) give none, and then nothing is held.

    Raises
    ------
    CheckpointError
        If another process, or another trainer of this one, holds it.
    OSError
        If the file cannot be made.
    """
    file = folder / LOCK_NAME
    descriptor = _locked(file)
    try:
        with suppress(OSError):  # whose lock it is is a courtesy, for which a full disk may have no room
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is held: whoever waits for this file sees that it is no more
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # processes forked meanwhile hold the descriptor too
        os.close(descriptor)


def _locked(file: Path) -> int:
    """A descriptor of the file that has this name, locked."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise CheckpointError(
                f"{file.parent}: {holder} is training in it; wait for it, end it, or train in another folder"
            ) from None
        except FileNotFoundError:  # its holder let it go between the two looks
            pass
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return descriptor
            os.close(descriptor)
            raise
        os.close(descriptor)
