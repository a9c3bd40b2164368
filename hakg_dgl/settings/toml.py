"""Settings as text: TOML files, and ``key=value`` as a command line has it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hakg_dgl.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOML_BYTES, TOML_DOTS = 2**17, 500
"""A TOML file may have this many bytes, and a line of it this many dots: the parser takes quadratic time on dots."""


def read_toml(path: str | Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises
    ------
    ConfigError
        If it cannot be read, is far longer than settings are, or is not TOML.
    """
    file = Path(path)
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):  # a pipe or a device may have no end
            raise ConfigError(f"{path}: is not a regular file; write the settings to a file, and give that")
        if file.is_file() and file.stat().st_size > TOML_BYTES:
            raise ConfigError(f"{path}: is longer than {TOML_BYTES:,} bytes, which settings never are; check the path")
        return _parsed(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError, or what its parser lets through
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: is not valid TOML: {error}") from error


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Values of ``key=value`` texts, each read as TOML, a bare word as text; of equal keys the last one wins.

    Raises
    ------
    ConfigError
        For a text that is not such an assignment.
    """
    parsed: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set {assignment!r}: write it as key=value, for example lr=0.001")
        key, text = key.strip(), text.strip()
        try:
            document = _parsed(f"value = {text}")
        except (ValueError, RecursionError) as error:
            if text.startswith(("[", "{", '"', "'")):
                raise ConfigError(f"--set {assignment!r}: {text} is not valid TOML: {error}") from error
            document = {"value": text}  # a bare word: formulation=paper needs no quotes
        if len(document) > 1:
            raise ConfigError(f"--set {assignment!r}: give one setting in each --set")
        parsed.pop(key, None)  # the last of equal keys wins, whatever stands between
        parsed[key] = document["value"]
    return parsed


def _parsed(text: str) -> dict[str, Any]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.count(".") > TOML_DOTS:
            raise ValueError(f"line {number} has more than {TOML_DOTS} dots; put long lists over several lines")
    return tomllib.loads(text)
