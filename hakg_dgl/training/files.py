"""Writing files so that a kill at any moment leaves either the old or the new one, never a part."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Have ``write`` fill a temporary file beside ``path``, then rename it to ``path``.

    The file gets the permissions of any new file, whatever ``write`` gave it (safetensors makes private ones), and is
    on the disk, with its name, when this returns. Only a kill leaves the temporary, ``.NAME.*.tmp``, behind.

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
        _sync(temporary, os.O_RDWR)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # elsewhere folders cannot be opened
        _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) by :func:`replace_file`."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    replace_file(path, write)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON by :func:`replace_file`; NaN is refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
