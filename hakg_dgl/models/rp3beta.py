"""RP3beta: random walks of three steps, with a penalty for popular items.

Paudel, Christoffel, Newell and Bernstein, "Updatable, Accurate, Diverse, and Scalable Recommendations for Interactive
Applications", ACM TiiS 7(1), 2017. Its P3alpha is that of Cooper, Lee, Radzik and Siantos, "Random walks in recommender
systems: exact computation and simulations", WWW 2014.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from hakg_dgl.models.item_knn import ItemKNN
from hakg_dgl.models.recommender import Abilities, NoSettings, Sections
from hakg_dgl.settings.run import NumericSettings
from hakg_dgl.settings.section import Range, Section
from hakg_dgl.settings.training import SelectionSettings


class WalksToItems:
    r"""Weights of the walks that lead to an item from every other one, by rows.

    .. math:: w_{ji} = |U_i|^{-\alpha} \sum_{v \in U_i \cap U_j} |I_v|^{-\alpha}

    :math:`U_i` are the users of item i, :math:`I_v` the items of user v: a walk goes from i to one of its users, and
    on to j. It is a :class:`~hakg_dgl.ranking.topk.Scorer` whose users are the items j, so that the neighbours are
    its top-k; neither an item itself nor one without a common user is a candidate.

    Parameters
    ----------
    interactions
        ``[n_users, n_items]``, ones.
    alpha
        α, the exponent of the probability of a step.
    between
        Called before each block of rows; what it raises ends the computation.
    """

    def __init__(
        self, interactions: sparse.csr_matrix, alpha: float, between: Callable[[], None] = lambda: None
    ) -> None:
        self._between = between
        self.n_users: int = interactions.shape[1]
        self.n_items: int = self.n_users
        self._by_item = interactions.T.tocsr()
        self._leaving_item = np.maximum(np.diff(self._by_item.indptr), 1.0) ** -alpha
        leaving_user = np.maximum(np.diff(interactions.indptr), 1.0) ** -alpha
        self._steps = sparse.diags(leaving_user) @ interactions

    def scores(self, users: Tensor) -> Tensor:
        """Float64 ``[B, n_items]`` of the items ``[B]``; ``-inf`` where there is no candidate."""
        self._between()
        rows = users.cpu().numpy()
        weights = (self._by_item[rows] @ self._steps).toarray()
        weights[np.arange(len(rows)), rows] = 0.0
        return torch.from_numpy(np.where(weights > 0.0, weights * self._leaving_item, -np.inf))


@dataclass(frozen=True)
class RP3BetaSettings(Section):
    """Settings of RP3beta; every value of each is tried with every value of the others.

    Attributes
    ----------
    neighbours
        Neighbours kept for each item; of several numbers the one that selects best is kept.
    alpha
        α, the power of the probability of each step; of several the one that selects best is kept.
    beta
        β, the power of an item's number of users by which its score is divided; of several the one that selects best
        is kept.
    """

    neighbours: Annotated[tuple[int, ...], Range(1, 100_000)] = (50, 100, 200, 500, 1000)
    alpha: Annotated[tuple[float, ...], Range(0.0, 10.0)] = (0.4, 0.6, 0.8, 1.0, 1.2)
    beta: Annotated[tuple[float, ...], Range(0.0, 10.0)] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6)


class RP3Beta(ItemKNN):
    r"""Walks user, item, user, item: :math:`\mathrm{score}(u, j) = |U_j|^{-\beta} \sum_{i \in I_u \cap N(j)} w_{ji}`.

    The weights w of :class:`WalksToItems` are the products of the transition probabilities to the power α (Paudel et
    al., section 3.2) along the second and third step; the first step's, :math:`|I_u|^{-\alpha}`, is the same for all
    items and left out. The authors sample walks or take all of them; here, as in item neighbours, each item j keeps the
    ``neighbours`` items N(j) of largest weight (of those equal as computed, lower ids), and walks are summed exactly.
    Computed by blocks, on the CPU.

    Parameters are those of :class:`~hakg_dgl.models.recommender.Recommender`.
    """

    name = "rp3beta"
    citation = r"""
@article{paudel2017rp3beta,
  author = {Bibek Paudel and Fabian Christoffel and Chris Newell and Abraham Bernstein},
  title = {{Updatable, Accurate, Diverse, and Scalable Recommendations for Interactive Applications}},
  journal = {ACM Transactions on Interactive Intelligent Systems},
  year = {2017},
  volume = {7},
  number = {1},
  doi = {10.1145/2955101}
}
"""
    sections = Sections(RP3BetaSettings, NoSettings, SelectionSettings, NumericSettings)
    space: ClassVar[Mapping[str, Any]] = {
        "neighbours": {"low": 5, "high": 1000, "log": True},
        "alpha": {"low": 0.0, "high": 2.0},
        "beta": {"low": 0.0, "high": 1.0},
    }
    abilities = Abilities(folds_in_users=True, explains=True)

    def candidates(self) -> list[dict[str, float]]:
        """Every α with every number of neighbours and every β."""
        settings = self.settings
        choices = itertools.product(settings.alpha, settings.neighbours, settings.beta)
        return [{"neighbours": neighbours, "alpha": alpha, "beta": beta} for alpha, neighbours, beta in choices]

    def solve(self, chosen: Mapping[str, float]) -> None:
        """Keep the weights as a CSR matrix ``[n_items, n_items]``; row j holds those of item j, largest first."""
        self._keep(*self._widest(chosen["alpha"]), int(chosen["neighbours"]))
        users_of = torch.from_numpy(np.diff(self.interactions.tocsc().indptr)).clamp_min(1).double()
        penalty = users_of.pow(-chosen["beta"]).to(self.dtype)
        self.values = self.values * torch.repeat_interleave(penalty, self.indptr.diff())

    def _similarity(self, choice: float) -> WalksToItems:
        """The walks with this α."""
        return WalksToItems(self.interactions, choice, self.between_blocks)

    def remedies(self) -> str:
        """What tames the weights."""
        return "alpha and beta"
