"""A study: a search for settings that is kept in a folder, goes on after interruptions, and takes several workers."""

from __future__ import annotations

import dataclasses
import json
import time
import warnings
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hakg_dgl.atomic_files import write_json
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import CheckpointError, ConfigError, FormatVersionError, IntegrityError, NumericalError
from hakg_dgl.locks import in_turn
from hakg_dgl.models.recommender import GradientRecommender
from hakg_dgl.models.settings import Settings
from hakg_dgl.randomness import stream_seed
from hakg_dgl.studies.journal import open_journal, require_optuna
from hakg_dgl.studies.processes import orphaned, run_processes
from hakg_dgl.studies.search_space import SearchSpace
from hakg_dgl.studies.trials import Trials
from hakg_dgl.studies.tuning_report import summary, write_report
from hakg_dgl.studies.workers import Worker
from hakg_dgl.training.progress import Progress
from hakg_dgl.training.run_folder import settings_differences
from hakg_dgl.training.trainer import make_trainer

if TYPE_CHECKING:
    import optuna

STUDY_FORMAT_VERSION = 1
RANDOM_TRIALS = 10
"""Trials drawn at random before the sampler learns from them."""
PRUNED_FROM_TRIAL, PRUNED_FROM_EVALUATION = 5, 10
"""Trials that are completed before any is pruned, and evaluations that each trial gets."""
TRIES = 3
"""How often a trial is begun whose worker is killed each time."""
HOPELESS = 10
"""Failed trials, and not one that has a result, after which a study gives up."""


@dataclass(frozen=True)
class StudyProgress:
    """Where a study stands.

    Attributes
    ----------
    done, running, total
        Trials that are over and that are running, and how many there will be (None: as time allows).
    best, best_trial
        The best value of the metric and the trial that has it, None before the first is completed.
    epoch
        Last evaluated epoch of the trial running in this process, None if none does.
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
        The folder; made if it is not there.
    dataset
        With a validation split.
    settings
        Those that are not searched. Default: those of the study, or of the package for a new one.
    space
        What is searched. Default: that of the study, or :meth:`SearchSpace.default` for a new one.
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
        import optuna

        self.path, self.dataset = Path(path), dataset
        self.about_file, self.journal_file = self.path / "study.json", self.path / "journal.jsonl"
        if not len(dataset.pairs("valid")):
            raise ConfigError(
                f"data set {dataset.name!r} has no valid interactions, by which trials are compared; "
                "preprocess again with a larger --valid"
            )
        self._make_folder()
        with in_turn(self.path / "claims.lock"):
            if not self.about_file.exists():
                self._create(settings, space, data_path, prune)
        self.settings, self.space, self.data_path, self.prune = self._read()
        self._refuse_changes(settings, space, prune)
        self._seen = without_test(dataset)
        journal = open_journal(self.journal_file)
        self._optuna, self._trials = journal.study, Trials(journal)
        self._optuna.pruner = (
            optuna.pruners.MedianPruner(
                n_startup_trials=PRUNED_FROM_TRIAL,
                n_warmup_steps=PRUNED_FROM_EVALUATION * self.settings.training.eval_every,
            )
            # What a closed-form model reports are choices of settings, none of which leads to the next.
            if self.prune and issubclass(self.settings.model_class, GradientRecommender)
            else optuna.pruners.NopPruner()
        )

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
            How many the study shall have, those of earlier calls included; None for no limit.
        seconds
            No trial is begun after so many.
        workers
            Processes; 1 works in this one.
        threads
            Of each worker; by default, this process's are shared out.
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
        threads = threads or (None if workers == 1 else max(1, torch.get_num_threads() // workers))
        report = on_progress or (lambda progress: None)
        try:
            if workers == 1:
                self.work(trials, deadline, threads, report)
            else:
                self._work_together(trials, deadline, workers, threads, report)
        finally:
            result = self.report(trials)
            write_report(self.path, result, self.settings)
        return result

    def work(
        self,
        trials: int | None,
        deadline: float | None,
        threads: int | None,
        report: OnProgress = lambda progress: None,
    ) -> None:
        """Make trials in this process until there are enough, or ``time.monotonic()`` is past the deadline."""
        from optuna.exceptions import UpdateFinishedTrialError

        threads_before = torch.get_num_threads()
        try:
            if threads is not None:
                torch.set_num_threads(threads)
            with Worker(self.path / "workers") as worker:
                while deadline is None or time.monotonic() < deadline:
                    trial = self._claim(worker, trials)
                    if trial is None:
                        return
                    with suppress(UpdateFinishedTrialError):  # taken for dead, and the trial given to another worker
                        self._run(trial, lambda epoch: report(self.progress(trials, epoch)))
                    report(self.progress(trials))
        finally:
            torch.set_num_threads(threads_before)

    def progress(self, trials: int | None = None, epoch: int | None = None) -> StudyProgress:
        """Where the study stands."""
        known = self._trials.update()
        number, value = known.best or (None, None)
        return StudyProgress(known.done, len(known.running), trials, value, number, epoch)

    def report(self, trials: int | None = None) -> dict[str, Any]:
        """What was found so far, as in ``report.json``; see :func:`~hakg_dgl.studies.tuning_report.summary`."""
        return summary(self._optuna, self.path, self.settings, self.space, self.dataset, self.data_path, trials)

    # --- the folder -----------------------------------------------------------------------------------------------

    def _make_folder(self) -> None:
        occupied = self.path.exists() and not self.about_file.exists()
        if occupied and (
            not self.path.is_dir() or any(not file.name.startswith("claims.lock") for file in self.path.iterdir())
        ):
            raise CheckpointError(
                f"{self.path}: holds something else than a study; choose another folder, or empty it yourself"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: cannot be made: {error.strerror}\nMend the permissions, or choose another folder."
            ) from error

    def _create(
        self, settings: Settings | None, space: SearchSpace | None, data_path: str | Path | None, prune: bool | None
    ) -> None:
        settings = settings or Settings.resolve()
        _require_validation(settings)
        about = {
            "format_version": STUDY_FORMAT_VERSION,
            "data": {
                "name": self.dataset.name,
                "digest": self.dataset.digest,
                "path": None if data_path is None else str(Path(data_path).resolve()),
            },
            "settings": settings.to_dict(),
            "search": (space or SearchSpace.default(settings)).to_dict(),
            "prune": prune is not False,
        }
        try:
            write_json(self.about_file, about)
        except OSError as error:
            raise CheckpointError(
                f"{self.about_file}: cannot be written: {error.strerror}\n"
                "Free some space or mend the permissions, then give the same command again."
            ) from error

    def _read(self) -> tuple[Settings, SearchSpace, Path | None, bool]:
        try:
            about = json.loads(self.about_file.read_bytes())
            version = about["format_version"]
            if isinstance(version, int) and version > STUDY_FORMAT_VERSION:
                raise FormatVersionError(
                    f"study format {version}, this version reads up to {STUDY_FORMAT_VERSION}",
                    path=self.about_file,
                    remedy="Install a newer hakg_dgl, or tune into another folder.",
                )
            settings = Settings.from_dict(about["settings"])
            space = SearchSpace.from_dict(about["search"], settings)
            _require_validation(settings)
            data = about["data"]
            name, digest = data["name"], data["digest"]
            place = None if data["path"] is None else Path(data["path"])
            prune = bool(about["prune"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, FormatVersionError):
                raise
            raise CheckpointError(
                f"{self.about_file}: is damaged, or of no study ({error}); restore it, or tune into another folder"
            ) from error
        if digest != self.dataset.digest:
            raise IntegrityError(
                f"the study is on data set {name!r} (digest {str(digest)[:12]}), "
                f"not on {self.dataset.name!r} (digest {self.dataset.digest[:12]})",
                path=self.path,
                remedy="Give the data set it was begun on, or tune into another folder.",
            )
        return settings, space, place, prune

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
        if different:
            raise ConfigError(
                f"{self.path}: the study has others: {'; '.join(different)}\n"
                "Continue it without them, or tune into another folder."
            )

    # --- trials ---------------------------------------------------------------------------------------------------

    def _claim(self, worker: Worker, trials: int | None) -> optuna.Trial | None:
        """The next trial, with its settings drawn; None if there are enough. One worker at a time does this."""
        import optuna

        with in_turn(self.path / "claims.lock"):
            self._give_back_lost(worker)
            known = self._trials.update()
            if known.waiting is None and trials is not None and known.counted >= trials:
                return None
            _refuse_hopeless(self.path, known)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self._optuna.sampler = optuna.samplers.TPESampler(
                    seed=self._sampler_seed(),
                    n_startup_trials=RANDOM_TRIALS,
                    multivariate=True,
                    constant_liar=True,  # other workers' running trials count, so that no two try the same
                )
            trial = self._optuna.ask()
            trial.set_user_attr("worker", worker.id)
            self.space.suggest(trial)
            return trial

    def _sampler_seed(self) -> int:
        """Of the next trial: by its place, not counting repetitions, so that interruptions change no later trial."""
        known = self._trials
        number = known.counted + len(known.repetitions)
        if known.waiting is not None:
            first = known.waiting
            while (earlier := first.user_attrs.get("retry_of")) is not None:
                first = known.trial(earlier)
            number = first.number
        place = number - bisect_left(known.repetitions, number)
        return stream_seed(self.settings.run.seed, f"trial {place}") % 2**32

    def _run(self, trial: optuna.Trial, report: Callable[[int], None]) -> None:
        """Train with the trial's settings and record what came of it."""
        import optuna

        select_by = self.settings.training.select_by

        def evaluated(progress: Progress) -> None:
            if orphaned():
                raise KeyboardInterrupt
            if progress.metrics is None:
                return
            trial.report(progress.metrics[select_by], progress.epoch)
            report(progress.epoch)
            if trial.should_prune() and progress.stopped is None:
                raise optuna.TrialPruned

        try:
            values = self.space.decode(trial.params) | {"refit": False}
            if "tensorboard" in self.settings.by_section():
                values["tensorboard"] = False
            result = make_trainer(self._seen, self.settings.replace(values), on_progress=evaluated).fit()
            trial.set_user_attr("metrics", result["metrics"]["valid"])
            self._optuna.tell(trial, result["metrics"]["valid"][select_by])
        except optuna.TrialPruned:
            self._optuna.tell(trial, state=optuna.trial.TrialState.PRUNED)
        except optuna.exceptions.UpdateFinishedTrialError:
            raise
        except KeyboardInterrupt:
            with in_turn(self.path / "claims.lock"):
                self._give_back(self._trials.trial(trial.number), killed=False)
            raise
        except Exception as error:
            trial.set_user_attr("reason", f"{type(error).__name__}: {str(error).strip()}")
            self._optuna.tell(trial, state=optuna.trial.TrialState.FAIL)
            if not _may_happen(error):
                raise

    def _give_back_lost(self, worker: Worker) -> int:
        """Have the trials of dead workers made again; how many."""
        running = self._trials.update().running
        lost = [trial for trial in running if not worker.is_alive(trial.user_attrs.get("worker"))]
        return sum(self._give_back(trial, killed=True) for trial in lost)

    def _give_back(self, trial: optuna.trial.FrozenTrial, *, killed: bool) -> bool:
        """Mark a running trial as failed and have it made again, unless that killed its worker too often."""
        import optuna

        told = self._optuna.tell(trial.number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
        tries = int(trial.user_attrs.get("tries", 0)) + killed
        if told.state.name != "FAIL" or tries >= TRIES:
            return False
        self._optuna.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number, "tries": tries})
        return True

    def _work_together(
        self, trials: int | None, deadline: float | None, workers: int, threads: int | None, report: OnProgress
    ) -> None:
        """Have processes work; if some were killed, others take up what they left."""
        while workers:
            arguments = (self.path, self.dataset, trials, deadline, threads)
            run_processes(workers, _work_on, arguments, lambda: report(self.progress(trials)))
            with Worker(self.path / "workers") as observer, in_turn(self.path / "claims.lock"):
                lost = self._give_back_lost(observer)
            workers = 0 if deadline is not None and time.monotonic() >= deadline else min(workers, lost)


def _work_on(path: Path, dataset: Dataset, trials: int | None, deadline: float | None, threads: int | None) -> None:
    """What each process of a study does."""
    Study(path, dataset).work(trials, deadline, threads)


def without_test(dataset: Dataset) -> Dataset:
    """The data set without the interactions of its test split."""
    return dataclasses.replace(dataset, interactions=dataset.interactions[dataset.interactions["split"] != "test"])


def _require_validation(settings: Settings) -> None:
    if settings.training.protocol != "validation":
        raise ConfigError(
            f"protocol = {settings.training.protocol!r}: a search must not select on the test split; "
            "tune with protocol = 'validation', and train the best with the other"
        )


def _refuse_hopeless(path: Path, known: Trials) -> None:
    if len(known.reasons) >= HOPELESS and not known.any_result:
        raise ConfigError(
            f"{path}: all of the first {len(known.reasons)} trials failed, the last with\n{known.reasons[-1]}\n"
            "Fix the settings or the search space, and tune into another folder."
        )


def _may_happen(error: Exception) -> bool:
    """Whether settings can be to blame, so that other trials may go well."""
    if isinstance(error, (NumericalError, ConfigError, MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
