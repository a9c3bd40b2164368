"""The search for settings: trials in a folder, which goes on after interruptions and takes several workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError
from hakg_dgl.models.recommender import GradientRecommender
from hakg_dgl.models.settings import Settings
from hakg_dgl.studies.claims import Claims
from hakg_dgl.studies.journal import open_journal, require_optuna
from hakg_dgl.studies.pool import Ended, run_calls
from hakg_dgl.studies.search_space import SearchSpace
from hakg_dgl.studies.study import StudyFolder, StudyKind
from hakg_dgl.studies.threads import on_threads, threads_each
from hakg_dgl.studies.trial_training import train_trial, without_test
from hakg_dgl.studies.trials import Trials
from hakg_dgl.studies.tuning_report import summary, write_report
from hakg_dgl.studies.workers import Worker
from hakg_dgl.training.run_folder import settings_differences

if TYPE_CHECKING:
    import optuna

KIND = StudyKind("tune", "study", "a study", "tune into another folder", "trials")
PRUNED_FROM_TRIAL, PRUNED_FROM_EVALUATION = 5, 10
"""Trials that are completed before any is pruned, and evaluations that each trial gets."""


@dataclass(frozen=True)
class StudyProgress:
    """Where a study stands.

    Attributes
    ----------
    done, running, total
        The number of trials that are over, that are running, and that there will be (None: as time allows).
    best, best_trial
        The best value of the metric and the trial that has it, None before the first is completed.
    epoch
        The last evaluated epoch of the trial that runs in this process, None if none does.
    """

    done: int
    running: int
    total: int | None
    best: float | None
    best_trial: int | None
    epoch: int | None = None


OnProgress = Callable[[StudyProgress], None]


class Study:
    """A search for the settings with the best validation metric, in a folder.

    ``study.json`` holds what stays fixed, ``journal.jsonl`` every trial. Any number of processes, on any number of
    machines that see the folder, can work on it at once. Trials never see the test split: their data set has none.

    Parameters
    ----------
    path
        The folder; it is made if it is not there.
    dataset
        A data set with a validation split.
    settings
        The settings that are not searched. Default: those of the study, or of the package for a new one.
    space
        What is searched. Default: the space of the study, or :meth:`SearchSpace.default` for a new one.
    data_path
        Where the data set lies, for the commands that the report names.
    prune
        Whether trials stop early whose best value so far is below the median of the others at the same epoch.
        Default: as the study has it, or True for a new one.

    Raises
    ------
    MissingDependencyError
        If Optuna is not installed.
    ConfigError
        If the data set has no validation split, the protocol is not ``validation``, or the study has other settings
        or another space.
    IntegrityError
        If the study belongs to another data set.
    CheckpointError
        If the folder is damaged, holds something else, or cannot be written.

    Examples
    --------
    >>> study = Study("study", load_dataset("data"), Settings.resolve(overrides={"epochs": 50}))
    >>> report = study.run(trials=20)
    >>> report["best"]["settings"]
    """

    def __init__(
        self,
        path: str | Path,
        dataset: Dataset,
        settings: Settings | None = None,
        space: SearchSpace | None = None,
        *,
        data_path: str | Path | None = None,
        prune: bool | None = None,
    ) -> None:
        require_optuna()
        self.folder: StudyFolder = StudyFolder(path, dataset, KIND)
        self.path: Path = self.folder.path
        self.dataset: Dataset = dataset
        self.about_file: Path = self.folder.about_file
        self.journal_file: Path = self.path / "journal.jsonl"
        if not len(dataset.pairs("valid")):
            raise ConfigError(
                f"data set {dataset.name!r} has no valid interactions, by which trials are compared; "
                "preprocess again with a larger --valid"
            )
        self.folder.make()
        with self.folder.in_turn():
            if not self.folder.exists:
                self._create(settings, space, data_path, prune)
        self.settings, self.data_path, (self.space, self.prune) = self.folder.read(_searched)
        self._refuse_changes(settings, space, prune)
        self._seen = without_test(dataset)
        journal = open_journal(self.journal_file)
        self._optuna, self._trials = journal.study, Trials(journal)
        self._optuna.pruner = self._pruner()
        self._claims = Claims(self.folder, journal, self._trials, self.space, self.settings)

    def run(
        self,
        trials: int | None = 50,
        *,
        seconds: float | None = None,
        workers: int = 1,
        threads: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> dict[str, Any]:
        """Make trials until the study has enough, and write the report, also when interrupted.

        With one worker, the same seed gives the same trials on the same machine, also across interruptions. A trial
        that is interrupted, or whose worker is killed, is begun again with the same settings. One that fails (a loss
        that becomes NaN, too little memory) is recorded with the reason.

        Parameters
        ----------
        trials
            How many trials the study shall have, those of earlier calls included; None for no limit.
        seconds
            The time after which no trial is begun.
        workers
            The number of processes; 1 works in this one.
        threads
            The threads of each worker; by default, those of this process are shared out.
        on_progress
            Called after each evaluation, or twice a second with several workers.

        Returns
        -------
        dict
            The content of ``report.json``.

        Raises
        ------
        ConfigError
            If the first ten trials all fail.
        CheckpointError
            If the folder cannot be written.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        each = threads_each(workers, threads)
        progress = on_progress or (lambda progress: None)

        def work() -> None:
            if workers == 1:
                self.work(trials, deadline, each, progress)
            else:
                self._work_together(trials, deadline, workers, each, progress)

        def report() -> dict[str, Any]:
            found = self.report(trials)
            write_report(self.path, found, self.settings)
            return found

        return self.folder.work_and_report(work, report)

    def work(
        self,
        trials: int | None,
        deadline: float | None,
        threads: int | None,
        report: OnProgress = lambda progress: None,
    ) -> None:
        """Make trials in this process until there are enough, or ``time.monotonic()`` is past the deadline."""
        from optuna.exceptions import UpdateFinishedTrialError

        with on_threads(threads), Worker(self.path / "workers") as worker:
            while deadline is None or time.monotonic() < deadline:
                trial = self._claims.claim(worker, trials)
                if trial is None:
                    return
                with suppress(UpdateFinishedTrialError):  # taken for dead, and the trial given to another worker
                    self._train(trial, lambda epoch: report(self.progress(trials, epoch)))
                report(self.progress(trials))

    def progress(self, trials: int | None = None, epoch: int | None = None) -> StudyProgress:
        """Where the study stands."""
        known = self._trials.update()
        number, value = known.best or (None, None)
        return StudyProgress(known.done, len(known.running), trials, value, number, epoch)

    def report(self, trials: int | None = None) -> dict[str, Any]:
        """What was found so far, as in ``report.json``; see :func:`~hakg_dgl.studies.tuning_report.summary`."""
        return summary(self._optuna, self.path, self.settings, self.space, self.dataset, self.data_path, trials)

    def _train(self, trial: optuna.Trial, report: Callable[[int], None]) -> None:
        try:
            train_trial(trial, self._optuna, self.space, self.settings, self._seen, report)
        except KeyboardInterrupt:
            self._claims.give_back(trial.number)
            raise

    def _work_together(
        self, trials: int | None, deadline: float | None, workers: int, threads: int | None, report: OnProgress
    ) -> None:
        """Have processes work; if some were killed, others take up what they left."""
        errors: list[Exception] = []

        def ended(worker: Ended) -> None:
            if worker.error is not None:
                errors.append(worker.error)

        while workers and not errors:
            run_calls(
                _work_on,
                [()] * workers,
                shared=(self.path, self.dataset, trials, deadline, threads),
                workers=workers,
                ended=ended,
                tick=lambda: report(self.progress(trials)),
            )
            with Worker(self.path / "workers") as observer:
                lost = self._claims.give_back_lost(observer)
            workers = 0 if deadline is not None and time.monotonic() >= deadline else min(workers, lost)
        if errors:
            raise errors[0]

    def _create(
        self, settings: Settings | None, space: SearchSpace | None, data_path: str | Path | None, prune: bool | None
    ) -> None:
        settings = settings or Settings.resolve()
        _require_validation(settings)
        search = (space or SearchSpace.default(settings)).to_dict()
        self.folder.write(settings, data_path, {"search": search, "prune": prune is not False})

    def _refuse_changes(self, settings: Settings | None, space: SearchSpace | None, prune: bool | None) -> None:
        different = []
        if settings is not None:
            different += settings_differences(self.settings.to_dict(), settings)
        if space is not None and space != self.space:
            keys = [*self.space.dimensions, *(key for key in space.dimensions if key not in self.space.dimensions)]
            changed = [key for key in keys if self.space.dimensions.get(key) != space.dimensions.get(key)]
            different.append(f"the search space, in {', '.join(changed) or 'its order'}")
        if prune is not None and prune != self.prune:
            different.append(f"pruning (was {'on' if self.prune else 'off'})")
        self.folder.refuse_changes("others", different)

    def _pruner(self) -> optuna.pruners.BasePruner:
        import optuna

        # What a closed-form model reports are choices of settings, none of which leads to the next.
        if self.prune and issubclass(self.settings.model_class, GradientRecommender):
            return optuna.pruners.MedianPruner(
                n_startup_trials=PRUNED_FROM_TRIAL,
                n_warmup_steps=PRUNED_FROM_EVALUATION * self.settings.training.eval_every,
            )
        return optuna.pruners.NopPruner()


def _work_on(path: Path, dataset: Dataset, trials: int | None, deadline: float | None, threads: int | None) -> None:
    """What each process of a search does."""
    Study(path, dataset).work(trials, deadline, threads)


def _searched(about: dict[str, Any], settings: Settings) -> tuple[SearchSpace, bool]:
    """The search space, and whether trials are pruned, in the content of ``study.json``."""
    space = SearchSpace.from_dict(about["search"], settings)
    _require_validation(settings)
    return space, bool(about["prune"])


def _require_validation(settings: Settings) -> None:
    if settings.training.protocol != "validation":
        raise ConfigError(
            f"protocol = {settings.training.protocol!r}: a search must not select on the test split; "
            "tune with protocol = 'validation', and train the best with the other"
        )
