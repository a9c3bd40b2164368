"""Where the trials of a search stand, kept up at a cost that does not grow with their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hakg_dgl.studies.journal import STUDY_NAME, Journal

if TYPE_CHECKING:
    import optuna


class Trials:
    """Counts the trials of a journal.

    A trial that is over never changes, so each one is read until it is over and then only remembered as a number.

    Parameters
    ----------
    journal
        The open journal; :meth:`update` reads what was added to it, by any process.

    Attributes
    ----------
    open
        Number -> trial of those that are waiting or running.
    repetitions
        Numbers of the trials that repeat an earlier one whose worker was interrupted or killed, in order.
    best
        Number and value of the best completed trial (of equal ones the first), or None.
    reasons
        Why trials failed by themselves, in the order in which they were seen.
    any_result
        Whether any trial was completed or pruned.
    """

    def __init__(self, journal: Journal) -> None:
        self._storage = journal.storage
        self._study_id = journal.storage.get_study_id_from_name(STUDY_NAME)
        self._known = 0
        self.open: dict[int, optuna.trial.FrozenTrial] = {}
        self.repetitions: list[int] = []
        self.best: tuple[int, float] | None = None
        self.reasons: list[str] = []
        self.any_result = False

    @property
    def counted(self) -> int:
        """The number of trials without those that were repeated."""
        return self._known - len(self.repetitions)

    @property
    def done(self) -> int:
        """The number of trials that are over, without those that were repeated."""
        return self.counted - len(self.open)

    @property
    def running(self) -> list[optuna.trial.FrozenTrial]:
        """The trials that a worker, living or dead, is training."""
        return [trial for trial in self.open.values() if trial.state.name == "RUNNING"]

    @property
    def waiting(self) -> optuna.trial.FrozenTrial | None:
        """The first trial that is to be repeated and that no worker has begun."""
        return next((trial for trial in self.open.values() if trial.state.name == "WAITING"), None)

    def trial(self, number: int) -> optuna.trial.FrozenTrial:
        """A trial as it is now.

        Raises
        ------
        KeyError
            If there is no trial of this number.
        """
        return self._storage.get_trial(
            self._storage.get_trial_id_from_study_id_trial_number(self._study_id, trial_number=number)
        )

    def update(self) -> Trials:
        """Read the trials that are new or were not over; returns itself."""
        for number in list(self.open):
            self._take(self.trial(number))
        while True:
            try:
                trial = self.trial(self._known)
            except KeyError:
                return self
            self._known += 1
            if "retry_of" in trial.user_attrs:
                self.repetitions.append(trial.number)
            self._take(trial)

    def _take(self, trial: optuna.trial.FrozenTrial) -> None:
        if not trial.state.is_finished():
            self.open[trial.number] = trial
            return
        self.open.pop(trial.number, None)
        self.any_result |= trial.state.name in ("COMPLETE", "PRUNED")
        if "reason" in trial.user_attrs:
            self.reasons.append(trial.user_attrs["reason"])
        if trial.state.name == "COMPLETE" and trial.value is not None:
            found = (trial.value, -trial.number)
            if self.best is None or found > (self.best[1], -self.best[0]):
                self.best = (trial.number, trial.value)
