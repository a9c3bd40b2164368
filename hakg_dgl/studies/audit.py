"""The audit: what the facts of a data set are worth to a model, trained with them, without them, and with others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError
from hakg_dgl.models.registry import models_that
from hakg_dgl.models.settings import Settings
from hakg_dgl.studies.audit_report import summary, write_report
from hakg_dgl.studies.audit_segments import segment_metrics
from hakg_dgl.studies.audited_facts import LABELS, KnownVariants, chosen_facts, variant_of
from hakg_dgl.studies.progress import OnProgress, train_and_tell
from hakg_dgl.studies.requirements import require_splits, require_validation
from hakg_dgl.studies.runs import OfRun
from hakg_dgl.studies.study import PlannedRun, Standing, StudyFolder, StudyKind
from hakg_dgl.training.run_folder import settings_differences

KIND = StudyKind("audit", "audit", "an audit", "choose another folder", "runs")
SEEDS = (2020, 2021, 2022)
_MAY_CHANGE = ("seed", "device")


class AuditStudy:
    """Trains a model on the true facts and on other ones, with several seeds, and compares.

    Checkpoints are selected on the validation split; the test split is measured once, at the end of each run.

    Parameters
    ----------
    path
        The folder; it is made if it is not there.
    dataset
        A data set with triples, and with a validation and a test split.
    settings
        The settings of the model. Default: those of the study, or of the package for a new one.
    seeds
        Seeds that are added to those of the study. Default: none, or 2020, 2021 and 2022 for a new study.
    data_path
        Where the data set lies; the runs on the true facts note it for later commands.

    Raises
    ------
    ConfigError
        If the model reads no facts, the data set has none, the protocol is not ``validation``, the data set has no
        validation or test split, or the study has other settings.
    IntegrityError
        If the study belongs to another data set.
    CheckpointError
        If the folder is damaged, holds something else, or cannot be written.

    Examples
    --------
    >>> study = AuditStudy("study", load_dataset("data"), seeds=(1, 2, 3))
    >>> print(study.run(workers=2)["verdict"])
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
        _require_triples(dataset)
        if self.folder.exists:
            self.seeds = self._continue(settings, seeds)
        else:
            self.settings = settings or Settings.resolve()
            self.seeds = tuple(sorted(set(SEEDS if seeds is None else seeds)))
        _require_facts_read(self.settings)
        require_validation(self.settings)
        for seed in self.seeds:
            self.settings.replace({"seed": seed})  # refuses a value that is not a seed
        self.variants: KnownVariants = KnownVariants(dataset)
        self.folder.make()
        self.folder.write(self.settings, self.data_path, {"seeds": list(self.seeds)})

    def planned(self, only: Iterable[str] = ()) -> list[PlannedRun]:
        """The runs on these facts (on all, if none are named), finished or not, seed by seed.

        Facts that come out the same with a seed are trained on once.

        Raises
        ------
        ConfigError
            If there are no facts of a name.
        """
        names = chosen_facts(only)
        wanted = dict.fromkeys((self.variants.stands_for(name, seed), seed) for seed in self.seeds for name in names)
        return [self._run(name, seed) for name, seed in wanted]

    def dataset_of(self, run: PlannedRun) -> Dataset:
        """The data set that a run is trained on."""
        return variant_of(self.dataset, run.name, run.seed)

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
            The facts to train on beside the true ones; by default, all are. The report is on all that are finished.
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
            If there are no facts of a name.
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
                failures=failures, of_run=OfRun(_dataset_of, segment_metrics),
            )  # fmt: skip

        def report() -> dict[str, Any]:
            standing = Standing.of(self.planned(), failures)
            return write_report(self.path, summary(standing, self.settings, self.dataset, self.variants, resamples))

        with self.folder.sole_worker():
            return self.folder.work_and_report(train, report)

    def _run(self, name: str, seed: int) -> PlannedRun:
        folder = self.path / "runs" / name / f"seed-{seed}"
        return PlannedRun(name, LABELS[name], seed, folder, self.settings.replace({"seed": seed}))

    def _continue(self, settings: Settings | None, seeds: Iterable[int] | None) -> tuple[int, ...]:
        """Take the settings of the study that is in the folder; returns its seeds and those that are added."""
        self.settings, data_path, known = self.folder.read(_seeds_of)
        self.data_path = self.data_path or data_path
        if settings is not None:
            different = settings_differences(self.settings.to_dict(), settings, _MAY_CHANGE)
            self.folder.refuse_changes("other settings", different)
            self.settings = self.settings.replace({"device": settings.run.device})
        return tuple(sorted({*known, *(seeds or ())}))


def _dataset_of(run: PlannedRun, dataset: Dataset) -> Dataset:
    """What a worker trains a run on."""
    return variant_of(dataset, run.name, run.seed)


def _seeds_of(about: dict[str, Any], settings: Settings) -> tuple[int, ...]:
    """The seeds in the content of ``study.json``."""
    return tuple(int(seed) for seed in about["seeds"])


def _require_facts_read(settings: Settings) -> None:
    if not settings.model_class.abilities.facts:
        raise ConfigError(
            f"kind = {settings.kind!r} reads no facts, so there is nothing to audit; "
            f"the models that do are {', '.join(models_that('facts'))}"
        )


def _require_triples(dataset: Dataset) -> None:
    if not len(dataset.triples):
        raise ConfigError(
            f"data set {dataset.name!r} has no triples, so there are no facts to audit; preprocess again with a "
            "knowledge graph (--triples)"
        )
