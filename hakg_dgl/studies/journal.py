"""The journal of a search, as Optuna writes it: a JSON object a line, appended under a lock. It cannot run code."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from hakg_dgl.errors import CheckpointError, MissingDependencyError
from hakg_dgl.locks import in_turn

if TYPE_CHECKING:
    import optuna
    from optuna.storages import JournalStorage

STUDY_NAME = "hakg"
CUT_LINES = "journal_lines_cut"
"""The user attribute of Optuna's study that counts the lines that a kill cut off, which are left out."""


@dataclass(frozen=True)
class Journal:
    """An open journal: Optuna's view of it, and the storage behind that."""

    study: optuna.Study
    storage: JournalStorage


def require_optuna() -> None:
    """Raise MissingDependencyError if Optuna cannot be imported."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"tuning needs Optuna, which cannot be imported ({error}): pip install 'hakg_dgl[tune]'"
        ) from error


def _lock_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


class _JournalLock:
    """A lock in the form that Optuna's journal takes; it ends at once when its process is killed."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(_lock_file(path))

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def open_journal(path: Path) -> Journal:
    """Open a journal; it is made if there is none.

    Raises
    ------
    CheckpointError
        If the journal is damaged, or cannot be written.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = path.absolute()
    lock: Any = _JournalLock(path)
    verbosity = optuna.logging.get_verbosity()
    try:
        cut = _cut_torn_line(path)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
            if STUDY_NAME in optuna.get_all_study_names(storage):
                study = optuna.load_study(study_name=STUDY_NAME, storage=storage)
            else:
                study = optuna.create_study(
                    study_name=STUDY_NAME, storage=storage, direction="maximize", load_if_exists=True
                )
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written: {error.strerror}\n"
            "Free some space or fix the permissions, then give the same command again."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError) as error:
        raise CheckpointError(
            f"{path}{_first_bad_line(path)}: is damaged, or not the journal of a study ({error!r})\n"
            "Remove that line to lose what it says, restore the file, or tune into another folder."
        ) from error
    finally:
        optuna.logging.set_verbosity(verbosity)
    if cut:
        study.set_user_attr(CUT_LINES, int(study.user_attrs.get(CUT_LINES, 0)) + 1)
    return Journal(study, storage)


def _cut_torn_line(path: Path) -> bool:
    """Cut off a last line without an end, which a kill or a full disk leaves; the next one would be joined to it."""
    if not path.exists():
        return False
    with in_turn(_lock_file(path)), path.open("rb+") as handle:
        size = handle.seek(0, os.SEEK_END)
        if size == 0:
            return False
        handle.seek(size - 1)
        if handle.read(1) == b"\n":
            return False
        handle.seek(0)
        handle.truncate(handle.read().rfind(b"\n") + 1)
    return True


def _first_bad_line(path: Path) -> str:
    """``, line N`` for the first line that is not a JSON object; empty if every line is one."""
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            if not isinstance(json.loads(line), dict):
                return f", line {number}"
        except (ValueError, RecursionError):
            return f", line {number}"
    return ""
