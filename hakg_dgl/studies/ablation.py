"""The ablation study: a model and its variants, each trained with several seeds, and compared."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError
from hakg_dgl.models.registry import model_class, model_names
from hakg_dgl.models.settings import Settings
from hakg_dgl.studies.ablation_report import summary, write_report
from hakg_dgl.studies.progress import OnProgress, RunsProgress, train_and_tell
from hakg_dgl.studies.requirements import require_splits, require_validation
from hakg_dgl.studies.study import PlannedRun, Standing, StudyFolder, StudyKind
from hakg_dgl.studies.variants import chosen_variants
from hakg_dgl.training.run_folder import settings_differences

KIND = StudyKind("ablate", "ablation study", "an ablation study", "choose another folder", "runs")
SEEDS = (2020, 2021, 2022)
_MAY_CHANGE = ("seed", "device")

AblationProgress = RunsProgress


class AblationStudy:
    """Trains the full model and each variant that its class declares with several seeds.

    Checkpoints are selected on the validation split; the test split is measured once, at the end of each run.

    Parameters
    ----------
    path
        The folder; it is made if it is not there.
    dataset
        A data set with a validation and a test split.
    settings
        The settings of the full model. Default: those of the study, or of the package for a new one.
    seeds
        Seeds that are added to those of the study. Default: none, or 2020, 2021 and 2022 for a new study.
    data_path
        Where the data set lies; the runs note it for later commands.

    Raises
    ------
    ConfigError
        If the model has no variants, the protocol is not ``validation``, the data set has no validation or test
        split, or the study has other settings.
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
        self.folder: StudyFolder = StudyFolder(path, dataset, KIND)
        self.path: Path = self.folder.path
        self.dataset: Dataset = dataset
        self.about_file: Path = self.folder.about_file
        self.data_path = None if data_path is None else Path(data_path)
        require_splits(dataset)
        if self.folder.exists:
            self.seeds = self._continue(settings, seeds)
        else:
            self.settings = settings or Settings.resolve()
            self.seeds = tuple(sorted(set(SEEDS if seeds is None else seeds)))
        _require_variants(self.settings)
        for seed in self.seeds:
            self.settings.replace({"seed": seed})  # refuses a value that is not a seed
        self.folder.make()
        self.folder.write(self.settings, self.data_path, {"seeds": list(self.seeds)})

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

        A run that was interrupted continues from its last saved state. A run that its settings make fail is in the
        report with the reason, and is tried again by the next call.

        Parameters
        ----------
        only
            The names of variants to train; by default, all are. The report is on all that are finished.
        workers
            The number of processes; 1 trains in this one.
        threads
            The threads of each worker; by default, those of this process are shared out.
        resamples
            The number of resamples of the bootstrap.
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
        failures: dict[Path, str] = {}

        def train() -> None:
            train_and_tell(
                todo, self.dataset, self.data_path, workers=workers, threads=threads, on_progress=on_progress,
                failures=failures,
            )  # fmt: skip

        def report() -> dict[str, Any]:
            standing = Standing.of(self.planned(), failures)
            return write_report(self.path, summary(standing, self.settings, self.dataset, resamples))

        with self.folder.sole_worker():
            return self.folder.work_and_report(train, report)

    def _continue(self, settings: Settings | None, seeds: Iterable[int] | None) -> tuple[int, ...]:
        """Take the settings of the study that is in the folder; returns its seeds and those that are added."""
        self.settings, data_path, known = self.folder.read(_seeds_of)
        self.data_path = self.data_path or data_path
        if settings is not None:
            different = settings_differences(self.settings.to_dict(), settings, _MAY_CHANGE)
            self.folder.refuse_changes("other settings", different)
            self.settings = self.settings.replace({"device": settings.run.device})
        return tuple(sorted({*known, *(seeds or ())}))


def _seeds_of(about: dict[str, Any], settings: Settings) -> tuple[int, ...]:
    """The seeds in the content of ``study.json``."""
    return tuple(int(seed) for seed in about["seeds"])


def _require_variants(settings: Settings) -> None:
    if not settings.model_class.variants:
        able = ", ".join(name for name in model_names() if model_class(name).variants)
        raise ConfigError(
            f"kind = {settings.kind!r} has no parts to switch off ({able} has); 'hakg compare' compares other models"
        )
    require_validation(settings)
