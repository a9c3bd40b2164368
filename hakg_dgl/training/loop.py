"""The steps of one epoch."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass

from torch import Tensor

from hakg_dgl.models.recommender import Pass
from hakg_dgl.training.progress import Progress
from hakg_dgl.training.session import Session
from hakg_dgl.training.steps import LossRing


@dataclass(frozen=True)
class Epoch:
    """An epoch that is being made.

    Attributes
    ----------
    number, epochs
        Counted from 1, and the most there will be.
    lr
        Its learning rate.
    began
        When, on the clock ``time.perf_counter``.
    """

    number: int
    epochs: int
    lr: float
    began: float

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self.began


def run_epoch(session: Session, epoch: Epoch) -> float:
    """Make all steps of an epoch, or what is left of them after a resume; the mean loss.

    Raises
    ------
    NumericalError
        If a loss or a parameter becomes NaN or infinite.
    KeyboardInterrupt
        If asked to stop, with the state written.
    """
    trainee, standing = session.trainee, session.standing
    trainee.set_learning_rate(epoch.lr)
    if not standing.step:
        trainee.model.begin_epoch(epoch.number)
    trainee.model.train()
    steps = EpochSteps(session, epoch)
    before = 0
    for each in trainee.passes:
        if standing.step < before + len(each.batches):
            steps.over(each, before)
        before += len(each.batches)
    steps.require_finite_parameters(before)
    standing.step, standing.step_loss, standing.step_seconds = 0, 0.0, 0.0
    return steps.total / before


class EpochSteps:
    """Makes steps, adds up their losses, and stops where it must."""

    def __init__(self, session: Session, epoch: Epoch) -> None:
        self.session: Session = session
        self.epoch: Epoch = epoch
        self.steps: int = len(session.trainee)
        self.total = session.standing.step_loss if session.standing.step else 0.0
        self._losses = LossRing()

    def over(self, each: Pass, before: int) -> None:
        """The steps of a pass that begins after ``before`` steps of the epoch."""
        session, one = self.session, self.session.trainee.step(each)
        order = each.batches.generator.get_state()
        done = max(0, session.standing.step - before)
        for step, batch in enumerate(itertools.islice(each.batches, done, None), start=before + done + 1):
            self._losses.append(one.gradients(*batch))
            pause = step < self.steps and (session.stop_asked or session.state_is_old)
            # Reading the loss waits for a GPU, so there it is read every few steps; parameters change after the check.
            if self.reads_losses or step == self.steps or pause or len(self._losses) == self._losses.size:
                self._take_losses(step)
            one.update()
            if pause:
                self._pause(step, before + len(each.batches) == step, order)

    @property
    def reads_losses(self) -> bool:
        """Whether each loss is read at once, which costs nothing on a CPU."""
        return self.session.device.type == "cpu"

    def _take_losses(self, step: int) -> None:
        """Check and add the losses up to this step, and report them."""
        values = self._losses.take()
        for earlier, value in enumerate(values, start=step - len(values) + 1):
            if not math.isfinite(value):
                raise self.session.numerical_error(f"the loss became {value}", self.epoch.number, f"step {earlier}")
            self.total += value
        if step < self.steps:
            epoch, refit = self.epoch, self.session.standing.refit_from is not None
            self.session.recording.report(
                Progress(epoch.number, epoch.epochs, step, self.steps, self.total / step, epoch.seconds, refit=refit)
            )

    def _pause(self, step: int, pass_is_over: bool, order: Tensor) -> None:
        """Write the state after a step, and stop if that is asked for."""
        session, standing = self.session, self.session.standing
        self.require_finite_parameters(step)
        standing.step, standing.step_loss, standing.step_seconds = step, self.total, self.epoch.seconds
        session.save_state(order=None if pass_is_over else order)
        if session.stop_asked:
            raise KeyboardInterrupt

    def require_finite_parameters(self, step: int) -> None:
        """Raise NumericalError if a parameter is NaN or infinite."""
        if not self.session.trainee.finite():
            problem = "a parameter became NaN or infinite"
            raise self.session.numerical_error(problem, self.epoch.number, f"step {step}")
