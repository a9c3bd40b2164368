"""Writing files and folders so that a kill at any moment leaves either the old or the new one, never a part."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Have ``write`` fill a temporary file beside ``path``, then rename it to ``path``.

    The content is on the disk before the name is changed. The file gets the permissions of any new file, whatever
    ``write`` gave it (safetensors makes private ones). Only a kill leaves the temporary, ``.NAME.*.tmp``, behind.

    Raises
    ------
    OSError
        If the folder cannot be written or the disk is full. As with anything that ``write`` raises, ``path`` is then
        as it was, and the temporary is gone.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)
        sync_file(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Return when the content of a file is on the disk."""
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) by :func:`replace_file`."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    replace_file(path, write)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON by :func:`replace_file`; NaN is refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def replace_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Have ``write`` fill a new folder beside ``path``, then put it in the place of ``path``.

    All files are on the disk before the names change. Where the system can, both folders swap their names in one step;
    elsewhere a kill between two renames leaves the old folder under a hidden name, and :func:`recover_folder` brings it
    back. Hidden folders that earlier kills left (``.NAME.*.new`` and ``.NAME.*.old``) are removed, but not those of a
    process that is still at work.

    Parameters
    ----------
    path
        The folder; it is replaced if it exists, and its parents are made if they are missing. The caller checks that it
        may be replaced.
    write
        Called with the new, empty folder.

    Raises
    ------
    OSError
        If the folder cannot be written or the disk is full. As with anything that ``write`` raises, ``path`` is then
        as it was, and the new folder is gone.
    """
    path = path.absolute()
    recover_folder(path)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(6)}.new")
    try:
        fresh.mkdir(parents=True)
        with _held(fresh):
            for left in (*_leftovers(path, "new"), *_leftovers(path, "old")):
                _remove_if_free(left)
            write(fresh)
            _sync_tree(fresh)
            _take_place(fresh, path)
            _sync_folder(path.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Bring back the folder that stood at ``path``, if a kill in :func:`replace_folder` left it under a hidden name."""
    path = path.absolute()
    if path.exists() or path.is_symlink():
        return
    for old in _leftovers(path, "old"):
        with suppress(OSError), _held(old):  # waits for a process that is just replacing the folder
            if not path.exists():
                old.rename(path)


def _take_place(fresh: Path, path: Path) -> None:
    """Give ``fresh`` the name ``path``; a folder that stands there ends under the name ``fresh``, or is removed."""
    if not path.exists():
        fresh.rename(path)
        return
    if _exchange(fresh, path):
        return
    old = fresh.with_suffix(".old")
    with _held(path):
        path.rename(old)
        try:
            fresh.rename(path)
        except OSError:
            old.rename(path)
            raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step, by ``renameat2`` of Linux; False where there is no such call, or where it fails."""
    at_cwd, rename_exchange = -100, 2
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    return bool(renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), rename_exchange) == 0)


def _leftovers(path: Path, kind: str) -> list[Path]:
    """Hidden folders of :func:`replace_folder` for ``path``, newest first."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}\.{kind}")
    try:
        found = [entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name)]
    except OSError:
        return []
    return sorted(found, key=lambda entry: entry.lstat().st_mtime, reverse=True)


def _remove_if_free(folder: Path) -> None:
    """Remove a hidden folder, unless the process that made it still holds it."""
    with suppress(OSError), _held(folder, wait=False):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _held(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock on a folder, which ends with the process; nothing is held on file systems without locks.

    Raises
    ------
    BlockingIOError
        If another process holds it and ``wait`` is False.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
                raise
        yield
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for entry in folder.rglob("*"):
        if entry.is_dir():
            _sync_folder(entry)
        else:
            sync_file(entry)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on the disk; some file systems sync no folders."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
