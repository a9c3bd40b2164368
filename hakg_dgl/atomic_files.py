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
