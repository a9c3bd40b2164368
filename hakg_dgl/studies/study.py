"""What every study has: its folder, with what it is about, and its report; and the runs that some studies plan."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hakg_dgl.atomic_files import write_json
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import CheckpointError, ConfigError, FormatVersionError, IntegrityError
from hakg_dgl.locks import HeldError, in_turn, sole_holder
from hakg_dgl.models.settings import Settings
from hakg_dgl.training.run_folder import RunFolder

STUDY_FORMAT_VERSION = 1
_ABOUT, _TURNS, _SOLE = "study.json", "claims.lock", "study.lock"
_BEFORE = (_TURNS, f".{_ABOUT}.")
"""How the names of files begin that a process ended at the very beginning leaves in the folder."""

Own = TypeVar("Own")
Report = TypeVar("Report")


@dataclass(frozen=True)
class StudyKind:
    """A kind of study, and the words that messages have for it.

    Attributes
    ----------
    name
        Its name in ``study.json``, which is that of its command.
    noun
        What it is called: "ablation study".
    noun_with_article
        The same with its article: "an ablation study".
    instead
        What a user can do where a folder cannot be used: "choose another folder".
    parts
        What it is made of, which a report that cannot be written leaves intact: "runs".
    """

    name: str
    noun: str
    noun_with_article: str
    instead: str
    parts: str


class StudyFolder:
    """The folder of a study.

    ``study.json`` in it says what stays fixed: the version of the format, the kind of study, the data set's name and
    digest and where it lies, the settings, and what each kind of study adds.

    Parameters
    ----------
    path
        The folder; it need not exist before :meth:`make`.
    dataset
        What the study is on.
    kind
        Which kind of study it is.
    """

    def __init__(self, path: str | Path, dataset: Dataset, kind: StudyKind) -> None:
        self.path: Path = Path(path)
        self.dataset: Dataset = dataset
        self.kind: StudyKind = kind
        self.about_file: Path = self.path / _ABOUT

    @property
    def exists(self) -> bool:
        """Whether a study was begun here."""
        return self.about_file.exists()

    def make(self) -> None:
        """Make the folder if it is not there.

        Raises
        ------
        CheckpointError
            If it holds something else than a study, or cannot be made.
        """
        if not self.exists and self.path.exists() and (not self.path.is_dir() or self._holds_other_files()):
            raise CheckpointError(
                f"{self.path}: holds something else than {self.kind.noun_with_article}; choose another folder, "
                "or empty it yourself"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: cannot be made: {error.strerror}\nFix the permissions, or choose another folder."
            ) from error

    def write(self, settings: Settings | None, data_path: str | Path | None, own: Mapping[str, Any]) -> None:
        """Write ``study.json``.

        Parameters
        ----------
        settings
            What stays fixed in the study; None if it has no settings of one model.
        data_path
            Where the data set lies, None if it is not on disk.
        own
            What this kind of study adds, plain values.

        Raises
        ------
        CheckpointError
            If it cannot be written.
        """
        about = {
            "format_version": STUDY_FORMAT_VERSION,
            "study": self.kind.name,
            "data": {
                "name": self.dataset.name,
                "digest": self.dataset.digest,
                "path": None if data_path is None else str(Path(data_path).resolve()),
            },
            "settings": {} if settings is None else settings.to_dict(),
            **own,
        }
        try:
            write_json(self.about_file, about)
        except OSError as error:
            raise CheckpointError(
                f"{self.about_file}: cannot be written: {error.strerror}\n"
                "Free some space or fix the permissions, then give the same command again."
            ) from error

    def read(self, parse: Callable[[dict[str, Any], Settings], Own]) -> tuple[Settings, Path | None, Own]:
        """Read ``study.json``.

        Parameters
        ----------
        parse
            Called with the content of the file and the settings; returns what this kind of study adds.

        Returns
        -------
        tuple
            The settings, where the data set lies (None if that is not known), and what ``parse`` returned.

        Raises
        ------
        FormatVersionError
            If a newer version of the package wrote it.
        CheckpointError
            If it is damaged, or of another kind of study.
        IntegrityError
            If the study is on another data set.
        """
        try:
            about = json.loads(self.about_file.read_bytes())
            self._check_version(about["format_version"])
            self._refuse_other_kind(about["study"])
            name, digest, where = (about["data"][key] for key in ("name", "digest", "path"))
            if not isinstance(name, str) or not isinstance(digest, str):
                raise ValueError("it does not name a data set")
            data_path = None if where is None else Path(where)
            settings = Settings.from_dict(about["settings"])
            own = parse(about, settings)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, FormatVersionError):
                raise
            raise CheckpointError(
                f"{self.about_file}: is damaged, or of no {self.kind.noun} ({error})\n"
                f"Restore it, or {self.kind.instead}."
            ) from error
        if digest != self.dataset.digest:
            raise IntegrityError(
                f"the study is on data set {name!r} (digest {digest[:12]}), "
                f"not on {self.dataset.name!r} (digest {self.dataset.digest[:12]})",
                path=self.path,
                remedy=f"Give the data set it was begun on, or {self.kind.instead}.",
            )
        return settings, data_path, own

    def refuse_changes(self, what: str, different: Iterable[str]) -> None:
        """Raise ConfigError if there are differences from what the study has.

        Parameters
        ----------
        what
            What the study has: "other settings".
        different
            The differences, as texts.
        """
        if differences := "; ".join(different):
            raise ConfigError(
                f"{self.path}: the study has {what}: {differences}\nContinue it without them, or {self.kind.instead}."
            )

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Wait until no other process is within such a block, on this or another machine."""
        with in_turn(self.path / _TURNS):
            yield

    @contextmanager
    def sole_worker(self) -> Iterator[None]:
        """Be the only process that works on the study; raises CheckpointError if another one does."""
        with ExitStack() as held:
            try:
                held.enter_context(sole_holder(self.path / _SOLE))
            except HeldError as error:
                raise CheckpointError(
                    f"{self.path}: {error} works on this study; wait for it, or give more --workers there"
                ) from None
            yield

    def work_and_report(self, work: Callable[[], None], report: Callable[[], Report]) -> Report:
        """Do the work, and write the report after it, also when the work is interrupted or fails.

        Parameters
        ----------
        work
            Called first.
        report
            Writes the report, and returns its content.

        Returns
        -------
        object
            The content of the report.

        Raises
        ------
        CheckpointError
            If the report cannot be written; earlier files are then as they were.
        """
        try:
            work()
        finally:
            try:
                found = report()
            except OSError as error:
                raise CheckpointError(
                    f"{self.path}: the report cannot be written: {error.strerror or error}; "
                    f"the {self.kind.parts} are safe"
                ) from error
        return found

    def _holds_other_files(self) -> bool:
        return any(not file.name.startswith(_BEFORE) for file in self.path.iterdir())

    def _check_version(self, version: object) -> None:
        if type(version) is not int or version < 1:
            raise ValueError(f"its format version is {version!r}")
        if version > STUDY_FORMAT_VERSION:
            raise FormatVersionError(
                f"study format {version}, this version reads up to {STUDY_FORMAT_VERSION}",
                path=self.about_file,
                remedy=f"Install a newer hakg_dgl, or {self.kind.instead}.",
            )

    def _refuse_other_kind(self, name: object) -> None:
        if name != self.kind.name:
            raise CheckpointError(
                f"{self.about_file}: the study is one by 'hakg {name}', not by 'hakg {self.kind.name}'\n"
                f"Give that command, or {self.kind.instead}."
            )


@dataclass(frozen=True)
class PlannedRun:
    """A run that a study plans.

    Attributes
    ----------
    name, label
        Which model it trains, for programs and for people.
    seed
        With which seed.
    folder
        Where it is trained.
    settings
        What it is trained with.
    """

    name: str
    label: str
    seed: int
    folder: Path
    settings: Settings

    @property
    def title(self) -> str:
        """The model and the seed, for people."""
        return f"{self.label}, seed {self.seed}"

    @property
    def finished(self) -> bool:
        """Whether it was trained to the end."""
        return RunFolder(self.folder).result_file.exists()


@dataclass(frozen=True)
class Standing:
    """Where the planned runs of a study stand.

    Attributes
    ----------
    planned
        All of them, finished or not.
    finished
        Those that were trained to the end.
    failed
        Those that failed in this call, each with the reason.
    """

    planned: tuple[PlannedRun, ...]
    finished: tuple[PlannedRun, ...]
    failed: tuple[tuple[PlannedRun, str], ...]

    @classmethod
    def of(cls, planned: Iterable[PlannedRun], failures: Mapping[Path, str]) -> Standing:
        """Where runs stand now; ``failures`` has the folder and the reason of each that failed."""
        runs = tuple(planned)
        return cls(
            runs,
            tuple(run for run in runs if run.finished),
            tuple((run, failures[run.folder]) for run in runs if run.folder in failures),
        )
