"""Selecting the best epoch: evaluation on the split that selects, and when to stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import NumericalError
from hakg_dgl.models.recommender import GradientRecommender
from hakg_dgl.ranking.evaluation import Evaluator, cold_items
from hakg_dgl.ranking.topk import EmbeddingScorer, Scorer
from hakg_dgl.settings.training import SelectionSettings, TrainingSettings
from hakg_dgl.training.checkpoint import Standing
from hakg_dgl.training.protocol import cuts, further_metrics

JUDGES = 3000
"""Users that a choice beside training is made by, at most."""
FEW = 20
"""Users who have chosen an item without interactions, below which such items are not judged."""


@dataclass(frozen=True)
class Measured:
    """What an evaluation found.

    Attributes
    ----------
    metrics
        On the split that selects.
    learned
        The selecting metric of the score without what is not learned; None where that is the whole score.
    """

    metrics: dict[str, float]
    learned: float | None


def selecting_evaluator(dataset: Dataset, training: SelectionSettings) -> Evaluator:
    """What measures on the split that selects."""
    further, overlap = further_metrics(training), training.keep_overlap
    return Evaluator(dataset, training.selected_on, cuts(training), also=further, keep_overlap=overlap)


class Selection:
    """Evaluates a model on the split that selects, and keeps track of the best epoch.

    Parameters
    ----------
    dataset, training
        What is evaluated on, and how it is selected.
    """

    def __init__(self, dataset: Dataset, training: TrainingSettings) -> None:
        self.dataset: Dataset = dataset
        self.training: TrainingSettings = training
        self._evaluator: Evaluator | None = None
        self._sample: Evaluator | None = None
        self._among_new: tuple[Evaluator | None] | None = None

    def measure(self, model: GradientRecommender) -> Measured:
        """Evaluate the model as it is; NumericalError if its scores are not finite."""
        if self._evaluator is None:
            self._evaluator = selecting_evaluator(self.dataset, self.training)
        model.eval()
        scorer = model.scorer()
        metrics = dict(self._evaluator(_finite(scorer)).metrics)
        learned = model.learned_scorer(scorer)
        if learned is None:
            return Measured(metrics, None)
        return Measured(metrics, self._evaluator(learned).metrics[self.training.select_by])

    def worth(self, scorer: Scorer) -> float:
        """The selecting metric of a scorer, over :data:`JUDGES` users at most."""
        if self._sample is None:
            self._sample = self._evaluator_of()
        return self._sample(_finite(scorer)).metrics[self.training.select_by]

    def worth_of_new_items(self, scorer: Scorer) -> float | None:
        """The same among items without interactions; None where fewer than :data:`FEW` users have chosen one."""
        if self._among_new is None:
            new = cold_items(self.dataset, self.training.selected_on)
            pairs = self.dataset.pairs(self.training.selected_on)
            choosers = len(np.unique(pairs[np.isin(pairs[:, 1], new), 0]))
            self._among_new = (self._evaluator_of(new) if choosers >= FEW else None,)
        (evaluator,) = self._among_new
        return None if evaluator is None else evaluator(_finite(scorer)).metrics[self.training.select_by]

    def _evaluator_of(self, candidates: NDArray[np.int64] | None = None) -> Evaluator:
        """For some of the users, evenly spaced, where there are many."""
        split = self.training.selected_on
        pairs = self.dataset.pairs(split)
        if candidates is not None:
            pairs = pairs[np.isin(pairs[:, 1], candidates)]
        users = np.unique(pairs[:, 0])
        kept = users[np.linspace(0, len(users) - 1, min(len(users), JUDGES)).round().astype(np.int64)]
        left_out = np.setdiff1d(np.arange(self.dataset.n_users), kept)
        return Evaluator(
            self.dataset, split, (self.training.selecting_cut,), exclude_users=left_out, candidates=candidates,
            also=further_metrics(self.training), keep_overlap=self.training.keep_overlap,
        )  # fmt: skip

    def note(self, standing: Standing, measured: Measured, number: int) -> bool:
        """Take an evaluation into account; whether it is the best so far."""
        value, learned = measured.metrics[self.training.select_by], measured.learned
        # Beside a strong linear term the score falls before it rises: training goes on while what is learned improves.
        if learned is not None and (standing.best_learned is None or learned > standing.best_learned):
            standing.best_learned, standing.worse = learned, -1
        if standing.best_value is not None and not value > standing.best_value:
            standing.worse += 1
            return False
        standing.best_value, standing.best_epoch, standing.worse = value, number, 0
        standing.best_metrics = measured.metrics
        return True

    def reason_to_stop(self, standing: Standing) -> str | None:
        """Why the search for the best epoch is over, None while it is not."""
        if standing.worse >= self.training.patience:
            return f"no better {self.training.select_by} in {standing.worse} evaluations"
        done = standing.epoch if standing.refit_from is None else standing.refit_from
        if done >= self.training.epochs:
            return f"{done} epoch{'s' * (done != 1)} done"
        if standing.best_epoch and self.time_is_over(standing.search_seconds):
            return f"max_seconds = {self.training.max_seconds:g} are over after {done} epoch{'s' * (done != 1)}"
        return None

    def time_is_over(self, seconds: float) -> bool:
        """Whether a search that took this long has no time for another epoch."""
        return 0.0 < self.training.max_seconds <= seconds


def _finite(scorer: Scorer) -> Scorer:
    """The scorer; NumericalError if its inner products may overflow, which ranks without a NaN to be seen."""
    if isinstance(scorer, EmbeddingScorer):
        longest = [_longest(vectors) for vectors in (scorer.user_vectors, scorer.item_vectors)]
        if not longest[0] * longest[1] <= torch.finfo(scorer.user_vectors.dtype).max:
            raise NumericalError(f"the longest vectors have norms {longest[0]:.3g} and {longest[1]:.3g}")
    return scorer


def _longest(vectors: Tensor) -> float:
    return float(vectors.norm(dim=1).amax()) if len(vectors) else 0.0
