"""A trained run that is opened for pictures: its model, the positions of its entities, and how well it ranks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd
import torch

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError
from hakg_dgl.figures.depth import known_tree
from hakg_dgl.models.positions import Positions
from hakg_dgl.models.recommender import Recommender
from hakg_dgl.models.registry import models_that
from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.evaluation import Evaluation, Evaluator
from hakg_dgl.ranking.yardsticks import PopularityScorer, RandomScorer
from hakg_dgl.training.loading import TrainedModel, load_trained
from hakg_dgl.training.run_folder import RunFolder

if TYPE_CHECKING:
    from hakg_dgl.ranking.topk import Scorer


@dataclass(frozen=True, eq=False)
class Subject:
    """A run and its data set; costly parts are computed when they are first asked for.

    Attributes
    ----------
    folder
        The folder of the run.
    dataset
        The data set it was trained on.
    values
        Embeddings that the pictures show, ``parameters`` or ``output``.
    device
        The device of the model.
    """

    folder: RunFolder
    dataset: Dataset
    values: str = "parameters"
    device: torch.device | str = "cpu"

    @cached_property
    def settings(self) -> Settings:
        """The run's settings."""
        return self.folder.settings

    @cached_property
    def trained(self) -> TrainedModel:
        """The best model, from one reading of its file."""
        return load_trained(self.folder.path, self.dataset, device=self.device)

    @property
    def model(self) -> Recommender:
        """The best model."""
        return self.trained.model

    @cached_property
    def scorer(self) -> Scorer:
        """The best model, ready to rank."""
        return self.model.scorer()

    @cached_property
    def positions(self) -> Positions | None:
        """Positions of entities and items; None for a model without positions."""
        return self.model.positions(self.values) if self.model.abilities.positions else None

    @cached_property
    def tree(self) -> pd.DataFrame | None:
        """The tree that was planted in the data set; None if it is not known."""
        return known_tree(self.dataset)

    @cached_property
    def best_epoch(self) -> int | None:
        """The epoch that was kept."""
        epoch = self.trained.epoch
        if self.folder.result_file.exists():
            epoch = self.folder.result.get("best_epoch", epoch)
        return epoch if isinstance(epoch, int) else None

    @cached_property
    def split(self) -> str | None:
        """The split that is measured: test, or validation if there is no test and the model has not seen validation."""
        seen = self.trained.splits
        free = [split for split in ("test", "valid") if split not in seen and len(self.dataset.pairs(split))]
        return free[0] if free else None

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """``model``, ``popularity`` and ``random`` on :attr:`split`, with groups; empty where nothing is left."""
        if self.split is None:
            return {}
        keep = self.settings.training.keep_overlap and self.split == "test"
        evaluator = Evaluator(self.dataset, self.split, (20,), groups=True, keep_overlap=keep)
        scorers = {
            "model": self.scorer,
            "popularity": PopularityScorer(self.dataset, evaluator.mask),
            "random": RandomScorer(self.dataset.n_users, self.dataset.n_items, self.settings.run.seed),
        }
        return {name: evaluator(scorer) for name, scorer in scorers.items()}


def require_positions(subject: Subject) -> Positions:
    """The positions of a run's entities; ConfigError if its model does not place them."""
    if subject.positions is None:
        raise ConfigError(
            f"{subject.folder.path}: model {subject.settings.kind!r} does not place entities in a space, so there are "
            f"no distances to compare; the models that do: {', '.join(models_that('positions'))}"
        )
    return subject.positions
