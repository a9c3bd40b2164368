"""A training by several processes: every method that phases call is a step of all of them together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hakg_dgl.data.owners import Owners
from hakg_dgl.distributed.checkpoint import SharedCheckpoint
from hakg_dgl.distributed.evaluation import SharedEvaluator
from hakg_dgl.distributed.ranks import Ranks
from hakg_dgl.distributed.saving import SharedFiles
from hakg_dgl.distributed.trainee import DistributedTrainee
from hakg_dgl.errors import NumericalError
from hakg_dgl.training.checkpoint import Checkpoint, copied
from hakg_dgl.training.protocol import cuts, further_metrics
from hakg_dgl.training.selection import Measured, Selection
from hakg_dgl.training.session import Session
from hakg_dgl.training.trainee import Trainee


class DistributedSession(Session):
    """See :class:`~hakg_dgl.training.session.Session`; ``best`` and what is trained are of own rows.

    Parameters
    ----------
    ranks, owners
        The processes and what they own.
    run
        Folder of the run, in all processes, or None.
    given
        What a session takes.
    """

    def __init__(self, ranks: Ranks, owners: Owners, run: str | Path | None, *given: Any) -> None:
        self.ranks: Ranks = ranks
        self.owners: Owners = owners
        self.run: str | Path | None = run
        self.stop_after_epoch = False
        self._files: SharedFiles | None = None
        self._evaluators: dict[str, SharedEvaluator] = {}
        super().__init__(*given)

    @property
    def first(self) -> bool:
        """Whether this process is the one that decides and records."""
        return self.ranks.rank == 0

    @property
    def shared(self) -> DistributedTrainee:
        """What is trained."""
        assert isinstance(self.trainee, DistributedTrainee)
        return self.trainee

    @property
    def shared_checkpoint(self) -> SharedCheckpoint:
        """What saves and restores it."""
        assert isinstance(self.checkpoint, SharedCheckpoint)
        return self.checkpoint

    @property
    def files(self) -> SharedFiles | None:
        """What writes to the folder of the run; None where nothing is written."""
        if self._files is None and self.run is not None:
            self._files = SharedFiles(self.ranks, self.shared.ownership, self.run)
        return self._files

    def new_trainee(self, splits: tuple[str, ...]) -> Trainee:
        """See the base class."""
        return DistributedTrainee(self.dataset, self.settings, self.device, splits, self.start, self.ranks, self.owners)

    def new_checkpoint(self) -> Checkpoint | None:
        """See the base class."""
        return None if self.files is None else SharedCheckpoint(self.files, self.settings, self.shared)

    def count_steps(self) -> None:
        """Have dropout go on where training stands."""
        standing = self.standing
        self.shared.steps_done = (standing.epoch - (standing.refit_from or 0)) * len(self.trainee) + standing.step

    # --- what phases ask for ----------------------------------------------------------------------------------------

    def evaluate(self, split: str) -> Measured:
        """Evaluate what is trained on a split, each process for its own users."""
        training = self.settings.training
        if split not in self._evaluators:
            self._evaluators[split] = SharedEvaluator(
                self.ranks, self.shared.ownership, self.dataset, split, cuts(training),
                also=further_metrics(training), keep_overlap=training.keep_overlap and split == "test",
            )  # fmt: skip
        evaluator, shard = self._evaluators[split], self.shared.shard
        shard.model.eval()
        user, item = shard.ranking_vectors()
        metrics, width = evaluator(user, item), shard.learned_width
        if width is None:
            return Measured(metrics, None)
        return Measured(metrics, evaluator(user[:, :width], item[:, :width])[training.select_by])

    def measure(self, number: int) -> Measured:
        """See the base class."""
        try:
            return self.evaluate(self.settings.training.selected_on)
        except NumericalError as error:
            raise self.numerical_error(f"scores are not finite numbers ({error})", number, "evaluation") from error

    def choose(self) -> None:
        """See the base class; the first process chooses."""
        terms = self.shared.terms
        if not self.best or terms is None:
            return
        model, last = self.trainee.model, copied(self.trainee.model)
        model.load_tensors(self.best)
        chosen = terms.choose(lambda dataset: Selection(dataset, self.settings.training))
        self.standing.chosen = self.ranks.told(chosen)
        if self.standing.chosen:
            self.standing.best_metrics = self.measure(self.standing.best_epoch).metrics
            self.keep_as_best()
        model.load_tensors(last)

    def take_choice(self) -> None:
        """See the base class."""
        if self.shared.terms is not None:
            self.shared.terms.take(self.standing.chosen)

    def save_best(self) -> None:
        """Write the best weights as the run's model, each process its share."""
        if self.files is not None:
            self.files.save_model(self.best, self.shared.shard.row_types, self.about_best())

    @property
    def state_is_old(self) -> bool:
        """States are written between epochs only."""
        return False

    def agreed_seconds(self, seconds: float) -> float:
        """See the base class; so all processes stop after the same epoch where ``max_seconds`` is set."""
        return float(self.ranks.max(torch.tensor(seconds, dtype=torch.float64)))

    def stop_if_asked(self) -> None:
        """After an epoch: stop if any process was asked to."""
        if int(self.ranks.max(torch.tensor(int(self.stop_after_epoch)))):
            self.save_state()
            raise KeyboardInterrupt

    # --- when numbers are no longer numbers -------------------------------------------------------------------------

    def set_back(self) -> None:
        """Make what is trained the best of the search; that of a resumed refit is in the run folder alone."""
        if not self.best:
            return
        if self.trainee.splits != self.settings.training.training_splits:
            self.set_up(self.settings.training.training_splits)
        self.trainee.model.load_tensors(self.best)

    def largest_norms(self) -> dict[str, float]:
        """See the base class; of the rows of all processes."""
        own = super().largest_norms()
        values = torch.tensor(list(own.values()), dtype=torch.float64).nan_to_num(nan=torch.inf, posinf=torch.inf)
        found: Tensor = self.ranks.max(values)
        return dict(zip(own, found.tolist(), strict=True))
