"""A study in a folder: variants of the model over several seeds, that goes on after interruptions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hakg_dgl.atomic_files import write_json
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import CheckpointError, ConfigError, FormatVersionError, IntegrityError
from hakg_dgl.locks import HeldError, sole_holder
from hakg_dgl.models.registry import model_class, model_names
from hakg_dgl.models.settings import Settings
from hakg_dgl.studies.ablation_report import summary, write_report
from hakg_dgl.studies.runs import PlannedRun, train_all
from hakg_dgl.studies.variants import chosen_variants
from hakg_dgl.training.progress import Progress
from hakg_dgl.training.run_folder import settings_differences

STUDY_FORMAT_VERSION = 1
SEEDS = (2020, 2021, 2022)
_MAY_CHANGE = ("seed", "device")


@dataclass(frozen=True)
class AblationProgress:
    """Where a study stands.

    Attributes
    ----------
    done, total
        Runs of this call that are over, and how many there are.
    running
        Name of the run that trains in this process, None if none does.
    epoch, epochs
        Its epoch, and the most there will be.
    """

    done: int
    total: int
    running: str | None = None
    epoch: int | None = None
    epochs: int | None = None


OnProgress = Callable[[AblationProgress], None]


class AblationStudy:
    """Trains the full model and each of :data:`~hakg_dgl.studies.variants.VARIANTS` with several seeds.

    Checkpoints are selected on the validation split; the test split is measured once, at the end of each run.

    Parameters
    ----------
    path
        The folder; made if it is not there.
    dataset
        With a validation and a test split.
    settings
        Of the full model. Default: those of the study, or of the package for a new one.
    seeds
        Added to those that the study has. Default: those, or 2020, 2021 and 2022 for a new one.
    data_path
        Where the data set lies, noted in the runs for later commands.

    Raises
    ------
    ConfigError
        If the model is not HAKG, the protocol is not ``validation``, the data set has no validation or test split, or
        the study has other settings.
    IntegrityError
        If the study belongs to another data set.
    CheckpointError
        If the folder is damaged, holds something else, or cannot be written.

    Examples
    --------
    >>> study = AblationStudy("study", load_dataset("data"), seeds=(1, 2, 3))
    >>> report = study.run(workers=2)
    >>> report["tables"]["ablation"]["differences"]
    """

    def __init__(
        self,
        path: str | Path,
        dataset: Dataset,
        settings: Settings | None = None,
        *,
        seeds: Iterable[int] | None = None,
        data_path: str | Path | None = None,
    ) -> None:
        self.path, self.dataset = Path(path), dataset
        self.data_path = None if data_path is None else Path(data_path)
        self.about_file = self.path / "study.json"
        _require_splits(dataset)
        known = self._read() if self.about_file.exists() else None
        self.settings = (settings or Settings.resolve()) if known is None else known[0]
        _require_variants(self.settings)
        if known is not None and settings is not None:
            self._refuse_changes(settings)
            self.settings = self.settings.replace({"device": settings.run.device})
        given = SEEDS if seeds is None and known is None else seeds or ()
        self.seeds = tuple(sorted({*given, *(known[1] if known else ())}))
        for seed in self.seeds:
            self.settings.replace({"seed": seed})  # refuses what is none
        self._write()

    def planned(self, only: Iterable[str] = ()) -> list[PlannedRun]:
        """The runs of these variants (all, if none is named), finished or not, seed by seed.

        Raises
        ------
        ConfigError
            If there is no variant of a name.
        """
        variants = chosen_variants(self.settings, only)
        return [
            PlannedRun(
                variant.name,
                variant.label,
                seed,
                self.path / "runs" / variant.name / f"seed-{seed}",
                self.settings.replace({**variant.overrides, "seed": seed}),
            )
            for seed in self.seeds
            for variant in variants
        ]

    def run(
        self,
        only: Iterable[str] = (),
        *,
        workers: int = 1,
        threads: int | None = None,
        resamples: int = 10_000,
        on_progress: OnProgress | None = None,
    ) -> dict[str, Any]:
        """Train what is not finished, and write the report, also when interrupted.

        A run that was interrupted continues from its last saved state. One that fails for its settings' sake is in the
        report with the reason, and is tried again by the next call.

        Parameters
        ----------
        only
            Names of variants; all, if there is none. The report is on all that are finished.
        workers
            Processes; 1 trains in this one.
        threads
            Of each worker; by default, this process's are shared out.
        resamples
            Of the bootstrap.
        on_progress
            Called after each step with one worker, and when a run is over.

        Returns
        -------
        dict
            The content of ``report.json``.

        Raises
        ------
        ConfigError
            If there is no variant of a name.
        CheckpointError
            If another process works on the study, or the folder cannot be written.
        """
        if workers < 1 or (threads is not None and threads < 1):
            raise ConfigError(f"workers = {workers} and threads = {threads}: both must be at least 1")
        todo = [run for run in self.planned(only) if not run.finished]
        report = on_progress or (lambda progress: None)
        failures: dict[Path, str] = {}
        with self._alone():
            try:
                self._train(todo, workers, threads, report, failures)
            except KeyboardInterrupt:
                self._report(failures, resamples)
                raise
            return self._report(failures, resamples)

    def _train(
        self,
        todo: Sequence[PlannedRun],
        workers: int,
        threads: int | None,
        report: OnProgress,
        failures: dict[Path, str],
    ) -> None:
        done = 0

        def watch(run: PlannedRun, progress: Progress) -> None:
            report(AblationProgress(done, len(todo), run.name, progress.epoch, progress.epochs))

        report(AblationProgress(0, len(todo)))
        for over in train_all(todo, self.dataset, self.data_path, workers=workers, threads=threads, watch=watch):
            done += 1
            if over.failure is not None:
                failures[over.run.folder] = over.failure
            report(AblationProgress(done, len(todo)))

    def _report(self, failures: Mapping[Path, str], resamples: int) -> dict[str, Any]:
        found = summary(self.planned(), self.settings, self.dataset, failures, resamples)
        try:
            return write_report(self.path, found)
        except OSError as error:
            raise CheckpointError(f"{error.filename or self.path}: cannot be written: {error.strerror}") from error

    # --- the folder -----------------------------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the study's lock, which ends with the process."""
        with ExitStack() as held:
            try:
                held.enter_context(sole_holder(self.path / "study.lock"))
            except HeldError as error:
                raise CheckpointError(
                    f"{self.path}: {error} works on this study; wait for it, or give more --workers there"
                ) from None
            yield

    def _read(self) -> tuple[Settings, tuple[int, ...]]:
        try:
            about = json.loads(self.about_file.read_bytes())
            version = about["format_version"]
            if isinstance(version, int) and version > STUDY_FORMAT_VERSION:
                raise FormatVersionError(
                    f"study format {version}, this version reads up to {STUDY_FORMAT_VERSION}",
                    path=self.about_file,
                    remedy="Install a newer hakg_dgl, or choose another folder.",
                )
            settings, seeds = Settings.from_dict(about["settings"]), tuple(map(int, about["seeds"]))
            name, digest = str(about["data"]["name"]), str(about["data"]["digest"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, FormatVersionError):
                raise
            raise CheckpointError(
                f"{self.about_file}: is damaged, or of no ablation study ({error})\n"
                "Restore it, or choose another folder."
            ) from error
        if digest != self.dataset.digest:
            raise IntegrityError(
                f"the study is on data set {name!r} (digest {digest[:12]}), "
                f"not on {self.dataset.name!r} (digest {self.dataset.digest[:12]})",
                path=self.path,
                remedy="Give the data set it was begun on, or choose another folder.",
            )
        return settings, seeds

    def _write(self) -> None:
        occupied = self.path.exists() and not self.about_file.exists()
        if occupied and (not self.path.is_dir() or any(self.path.iterdir())):
            raise CheckpointError(
                f"{self.path}: holds something else than an ablation study; choose another folder, or empty it yourself"
            )
        about = {
            "format_version": STUDY_FORMAT_VERSION,
            "data": {"name": self.dataset.name, "digest": self.dataset.digest},
            "settings": self.settings.to_dict(),
            "seeds": list(self.seeds),
        }
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.about_file, about)
        except OSError as error:
            raise CheckpointError(f"{self.about_file}: cannot be written: {error.strerror}") from error

    def _refuse_changes(self, settings: Settings) -> None:
        different = settings_differences(self.settings.to_dict(), settings, _MAY_CHANGE)
        if different:
            raise ConfigError(
                f"{self.path}: the study has other settings: {'; '.join(different)}\n"
                "Continue it without them, or choose another folder."
            )


def _require_variants(settings: Settings) -> None:
    protocol = settings.training.protocol
    if not settings.model_class.variants:
        able = ", ".join(name for name in model_names() if model_class(name).variants)
        raise ConfigError(
            f"kind = {settings.kind!r} has no parts to switch off ({able} has); 'hakg compare' compares other models"
        )
    if protocol != "validation":
        raise ConfigError(f"protocol = {protocol!r}: the study must not select on the test split; use 'validation'")


def _require_splits(dataset: Dataset) -> None:
    for split in ("valid", "test"):
        if not len(dataset.pairs(split)):
            raise ConfigError(
                f"data set {dataset.name!r} has no {split} interactions, which the study needs; "
                f"preprocess again with a larger --{split}"
            )
