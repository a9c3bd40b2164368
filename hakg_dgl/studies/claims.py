"""Which trial of a search a worker takes next, and what becomes of the trials of workers that ended."""

from __future__ import annotations

import warnings
from bisect import bisect_left
from typing import TYPE_CHECKING

from hakg_dgl.errors import ConfigError
from hakg_dgl.models.settings import Settings
from hakg_dgl.randomness import stream_seed
from hakg_dgl.studies.journal import Journal
from hakg_dgl.studies.search_space import SearchSpace
from hakg_dgl.studies.study import StudyFolder
from hakg_dgl.studies.trials import Trials
from hakg_dgl.studies.workers import Worker

if TYPE_CHECKING:
    import optuna

RANDOM_TRIALS = 10
"""Trials drawn at random before the sampler learns from them."""
TRIES = 3
"""How often a trial is begun whose worker is killed each time."""
GIVEN = "given"
"""Mark of the trial that has the settings as they were given."""
HOPELESS = 10
"""Failed trials, and not one that has a result, after which a study gives up."""


class Claims:
    """Gives out the trials of a search, to one worker at a time.

    Parameters
    ----------
    folder
        The study's folder, in which workers wait for their turn.
    journal, trials
        Every trial, and where they stand.
    space
        What is searched.
    settings
        What the first trial has as it is, if that lies in the space; its seed is that of the sampler.
    """

    def __init__(
        self, folder: StudyFolder, journal: Journal, trials: Trials, space: SearchSpace, settings: Settings
    ) -> None:
        self._folder, self._study, self._trials = folder, journal.study, trials
        self._space, self._seed = space, settings.run.seed
        self._given = space.given(settings)

    def claim(self, worker: Worker, wanted: int | None) -> optuna.Trial | None:
        """The next trial, with its settings drawn; None if there are as many as wanted (None: no limit).

        Raises
        ------
        ConfigError
            If the first ten trials all failed.
        """
        import optuna

        with self._folder.in_turn():
            self._give_back_lost(worker)
            known = self._trials.update()
            if known.waiting is None and wanted is not None and known.counted >= wanted:
                return None
            self._refuse_hopeless()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self._study.sampler = optuna.samplers.TPESampler(
                    seed=self._sampler_seed(),
                    n_startup_trials=RANDOM_TRIALS,
                    multivariate=True,
                    constant_liar=True,  # other workers' running trials count, so that no two try the same
                )
            if known.counted == 0 and self._given is not None:
                self._study.enqueue_trial(self._given, user_attrs={GIVEN: True})
            trial = self._study.ask()
            trial.set_user_attr("worker", worker.id)
            self._space.suggest(trial)
            return trial

    def give_back(self, number: int) -> None:
        """Have a trial made again that was interrupted."""
        with self._folder.in_turn():
            self._give_back(self._trials.trial(number), killed=False)

    def give_back_lost(self, worker: Worker) -> int:
        """Have the trials made again whose workers were killed; returns how many there are."""
        with self._folder.in_turn():
            return self._give_back_lost(worker)

    def _give_back_lost(self, worker: Worker) -> int:
        running = self._trials.update().running
        lost = [trial for trial in running if not worker.is_alive(trial.user_attrs.get("worker"))]
        return sum(self._give_back(trial, killed=True) for trial in lost)

    def _give_back(self, trial: optuna.trial.FrozenTrial, *, killed: bool) -> bool:
        """Mark a running trial as failed and have it made again, unless that killed its worker too often."""
        import optuna

        told = self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
        tries = int(trial.user_attrs.get("tries", 0)) + killed
        if told.state.name != "FAIL" or tries >= TRIES:
            return False
        marks = {GIVEN: True} if GIVEN in trial.user_attrs else {}
        self._study.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number, "tries": tries, **marks})
        return True

    def _sampler_seed(self) -> int:
        """The seed of the next trial, by its place without repetitions: interruptions change no later trial."""
        known = self._trials
        number = known.counted + len(known.repetitions)
        if known.waiting is not None:
            first = known.waiting
            while (earlier := first.user_attrs.get("retry_of")) is not None:
                first = known.trial(earlier)
            number = first.number
        place = number - bisect_left(known.repetitions, number)
        return stream_seed(self._seed, f"trial {place}") % 2**32

    def _refuse_hopeless(self) -> None:
        reasons = self._trials.reasons
        if len(reasons) >= HOPELESS and not self._trials.any_result:
            raise ConfigError(
                f"{self._folder.path}: all of the first {len(reasons)} trials failed, the last with\n{reasons[-1]}\n"
                "Fix the settings or the search space, and tune into another folder."
            )
