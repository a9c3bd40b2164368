"""The most popular items, the same for every user."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hakg_dgl.graph.heterograph import INTERACTS
from hakg_dgl.models.recommender import Abilities, ClosedFormRecommender, NoSettings, Sections
from hakg_dgl.ranking.fold_in import FoldIn, ScorerFoldIn
from hakg_dgl.ranking.topk import Scorer
from hakg_dgl.ranking.yardsticks import SameForAllScorer, popularity
from hakg_dgl.settings.run import RunSettings
from hakg_dgl.settings.training import SelectionSettings


class Popularity(ClosedFormRecommender):
    """The number of interactions of each item; see :func:`~hakg_dgl.ranking.yardsticks.popularity`.

    Parameters are those of :class:`~hakg_dgl.models.recommender.Recommender`.
    """

    name = "popularity"
    sections = Sections(NoSettings, NoSettings, SelectionSettings, RunSettings)
    abilities = Abilities(folds_in_users=True)
    popularity: Tensor

    def build(self) -> None:
        """One count an item."""
        self.register_buffer("popularity", torch.zeros(self.graph.n_items, dtype=torch.float64))

    def candidates(self) -> list[dict[str, float]]:
        """One, empty."""
        return [{}]

    def solve(self, chosen: Mapping[str, float]) -> None:
        """Count."""
        self.popularity = popularity(self.graph.edges[INTERACTS][1].cpu(), self.graph.n_items)

    def scorer(self) -> Scorer:
        """Counts, with fractions that order equal ones."""
        return SameForAllScorer(self.graph.n_users, self.popularity.cpu())

    def fold_in(self) -> FoldIn:
        """New users get the same list."""
        row = self.popularity.cpu()
        return ScorerFoldIn(self.graph.n_items, lambda indptr, items: SameForAllScorer(len(indptr) - 1, row))
