"""The phases of a training: the search for the best epoch, and the refit."""

from __future__ import annotations

import math

from hakg_dgl.training.checkpoint import Standing
from hakg_dgl.training.loop import Epoch, run_epoch
from hakg_dgl.training.progress import Progress
from hakg_dgl.training.protocol import REFIT_SPLITS
from hakg_dgl.training.session import Session


def learning_rate(base: float, schedule: str, epoch: int, epochs: int) -> float:
    """Learning rate of an epoch counted from 1: ``constant``, or ``cosine`` from ``base`` down to a hundredth of it."""
    if schedule == "constant":
        return base
    return base * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * (epoch - 1) / max(1, epochs - 1))))


class Search:
    """Train until the selecting metric gets no better, and keep the best epoch.

    Parameters
    ----------
    session
        The training.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    def run(self) -> None:
        """Make epochs until there is a reason to stop."""
        session = self.session
        while session.standing.refit_from is None and session.selection.reason_to_stop(session.standing) is None:
            self._epoch()
        if session.standing.refit_from is None:
            session.choose()

    def _epoch(self) -> None:
        session, standing, training = self.session, self.session.standing, self.session.settings.training
        number = standing.epoch + 1
        lr = learning_rate(training.lr, training.lr_schedule, number, training.epochs)
        epoch = Epoch(number, training.epochs, lr, session.began())
        loss = run_epoch(session, epoch)
        measured, best = None, False
        spent = session.agreed_seconds(epoch.seconds)
        last = number == training.epochs or session.selection.time_is_over(standing.search_seconds + spent)
        if last or number % training.eval_every == 0:
            measured = session.measure(number)
            best = session.selection.note(standing, measured, number)
            if best:
                session.keep_as_best()
        standing.epoch = number
        seconds = session.agreed_seconds(epoch.seconds)
        standing.seconds += seconds
        standing.search_seconds += seconds
        line = {"epoch": number, "seconds": round(seconds, 4), "loss": loss}
        scalars = {"loss": loss, "learning_rate": lr, "seconds": seconds}
        metrics = None if measured is None else measured.metrics
        if measured is not None:
            line |= {} if measured.learned is None else {"learned": measured.learned}
            line |= {"split": training.selected_on, **measured.metrics}
            scalars |= {f"{training.selected_on}/{key}": value for key, value in measured.metrics.items()}
        session.recording.epoch(line, scalars)
        stopped = session.selection.reason_to_stop(standing)
        session.save_state(force=stopped is not None)
        steps = len(session.trainee)
        session.recording.report(Progress(number, training.epochs, steps, steps, loss, seconds, metrics, best, stopped))
        session.stop_if_asked()


class Refit:
    """Train the best afresh on train and validation together, for as many epochs as were best.

    Parameters
    ----------
    session
        The training, its search being over.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    def run(self) -> None:
        """Begun or not, to the end; nothing happens where the settings ask for no refit."""
        session, standing = self.session, self.session.standing
        if not session.settings.training.refits:
            return
        if standing.refit_from is None:
            self._begin(standing)
        while self._done(standing) < standing.best_epoch:
            self._epoch()
        session.take_choice()
        session.measure(standing.best_epoch)  # for its error, before the best model of the search is replaced
        session.keep_as_best()

    def _begin(self, standing: Standing) -> None:
        session = self.session
        session.keep_search()
        session.set_up(REFIT_SPLITS)
        standing.refit_from, standing.step = standing.epoch, 0

    @staticmethod
    def _done(standing: Standing) -> int:
        """Epochs of the refit that are done."""
        assert standing.refit_from is not None
        return standing.epoch - standing.refit_from

    def _epoch(self) -> None:
        session, standing, training = self.session, self.session.standing, self.session.settings.training
        number = self._done(standing) + 1
        lr = learning_rate(training.lr, training.lr_schedule, number, training.epochs)
        epoch = Epoch(number, standing.best_epoch, lr, session.began())
        loss = run_epoch(session, epoch)
        standing.epoch += 1
        seconds = epoch.seconds
        standing.seconds += seconds
        session.recording.epoch(
            {"epoch": standing.epoch, "seconds": round(seconds, 4), "loss": loss, "refit": number},
            {"loss": loss, "learning_rate": lr, "seconds": seconds},
        )
        last = number == standing.best_epoch
        session.save_state(force=last)
        steps = len(session.trainee)
        stopped = f"trained again on train and validation for {number} epochs" if last else None
        session.recording.report(
            Progress(number, standing.best_epoch, steps, steps, loss, seconds, stopped=stopped, refit=True)
        )
        session.stop_if_asked()
