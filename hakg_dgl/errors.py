"""Exceptions that users of the package can catch.

Every message says what is wrong, where (file, line, value) and how to fix it. All of them derive from
:class:`HakgError`; the command line turns each into one short text on stderr and exit code 2.
"""

from __future__ import annotations

from pathlib import Path


class HakgError(Exception):
    """Base of everything this package raises on purpose."""


class DataError(HakgError, ValueError):
    """Input data cannot be used.

    Parameters
    ----------
    problem
        What is wrong, with the offending value.
    path
        File it was found in.
    line
        Line in that file, counted from 1.
    remedy
        How to fix it.
    """

    def __init__(
        self, problem: str, *, path: str | Path | None = None, line: int | None = None, remedy: str | None = None
    ) -> None:
        self.problem: str = problem
        self.path: str | Path | None = path
        self.line: int | None = line
        self.remedy: str | None = remedy
        where = "" if path is None else f"{path}: " if line is None else f"{path}, line {line}: "
        super().__init__(where + problem + ("" if remedy is None else f"\n{remedy}"))


class IntegrityError(DataError):
    """Files do not match their digests, or a run does not belong to this data set."""


class FormatVersionError(DataError):
    """A file was written by a newer version of this package."""


class ConfigError(HakgError, ValueError):
    """A setting has a value that is not allowed, or does not exist."""


class DownloadError(HakgError):
    """A file could not be fetched, or is not the file its card describes."""


class MissingDependencyError(HakgError, ImportError):
    """An optional (or broken) dependency is needed for what was asked."""


class NumericalError(HakgError, ArithmeticError):
    """Training produced NaN or infinity; the last good state is kept."""


class CheckpointError(HakgError):
    """A run folder is incomplete, or belongs to other data or settings."""
