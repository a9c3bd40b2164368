"""EASE with side information, in closed form.

Jeunen, Van Balen and Goethals, "Closed-Form Models for Collaborative Filtering with Side-Information", RecSys 2020.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from hakg_dgl.errors import NumericalError
from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.graph.matrices import fact_matrix
from hakg_dgl.models.ease import EASE, ease_weights, require_memory
from hakg_dgl.models.recommender import Abilities, NoSettings, Sections
from hakg_dgl.settings.run import NumericSettings
from hakg_dgl.settings.section import Range, Section
from hakg_dgl.settings.training import SelectionSettings

COLLECTIVE, ADDITIVE = 7, 8
"""Matrices of items by items in float64 that either way holds at once."""

SideInformation: TypeAlias = Literal["collective", "additive"]


@dataclass(frozen=True)
class EASEFactsSettings(Section):
    """Settings of EASE with side information; every combination is tried, and the one that selects best is kept.

    Attributes
    ----------
    side_information
        ``collective``: one model of interactions and facts; ``additive``: the sum of a model of each.
    ease_l2
        Weights of the L2 term.
    facts_weight
        How much facts count: ``collective``, what their rows are multiplied by beside those of interactions;
        ``additive``, what their weights are multiplied by beside those of interactions, which have 1.
    facts_l2
        Weights of the L2 term of the model of facts; read with ``additive`` alone.
    """

    side_information: SideInformation = "collective"
    ease_l2: Annotated[tuple[float, ...], Range(1e-3, 1e9)] = (50.0, 200.0, 800.0)
    facts_weight: Annotated[tuple[float, ...], Range(0.0, 1e6)] = (1.0, 3.0, 10.0)
    facts_l2: Annotated[tuple[float, ...], Range(1e-3, 1e9)] = (3.0, 30.0)


class EASEFacts(EASE):
    r"""EASE whose weights between items follow from interactions X and facts F.

    The facts are those of :func:`~hakg_dgl.graph.matrices.fact_matrix`, ``[n_items, n_facts]``.

    - ``collective``: :func:`~hakg_dgl.models.ease.ease_weights` of :math:`X^\top X + \alpha^2 F F^\top`, which is EASE
      on the rows of X and, times α, those of :math:`F^\top` (Jeunen et al. 2020, CEASE).
    - ``additive``: :math:`B_X + \alpha B_F`, EASE on either (Jeunen et al. 2020, Add-EASE, which writes the same with
      weights that add up to one).

    Parameters are those of :class:`~hakg_dgl.models.recommender.Recommender`.
    """

    name = "ease-facts"
    citation = r"""
@inproceedings{jeunen2020cease,
  author = {Olivier Jeunen and Jan Van Balen and Bart Goethals},
  title = {{Closed-Form Models for Collaborative Filtering with Side-Information}},
  booktitle = {Proceedings of the 14th ACM Conference on Recommender Systems},
  year = {2020},
  pages = {651--656},
  doi = {10.1145/3383313.3418480}
}
"""
    sections = Sections(EASEFactsSettings, NoSettings, SelectionSettings, NumericSettings)
    space: ClassVar[Mapping[str, Any]] = {
        "side_information": ["collective", "additive"],
        "ease_l2": {"low": 10.0, "high": 3000.0, "log": True},
        "facts_weight": {"low": 0.1, "high": 30.0, "log": True},
        "facts_l2": {"low": 0.3, "high": 300.0, "log": True},
    }
    abilities = Abilities(facts=True, folds_in_users=True, explains=True)

    def build(self) -> None:
        """No weights yet."""
        super().build()
        self._facts_gram: Tensor | None = None
        self._of_facts: tuple[float, Tensor] | None = None
        self._of_interactions: tuple[float, Tensor] | None = None

    def require_resources(self) -> None:
        """Raise ConfigError if the matrices of items by items do not fit into memory."""
        additive = self.settings.side_information == "additive"
        require_memory(self.graph.n_items, self.device, self.name, ADDITIVE if additive else COLLECTIVE)

    @classmethod
    def idle_settings(cls, values: Mapping[str, Any]) -> Mapping[str, str]:
        """The L2 term of facts is read where they have a model of their own."""
        additive = values["side_information"] == "additive"
        return {} if additive else {"facts_l2": "with side_information = 'additive'"}

    def candidates(self) -> list[dict[str, float]]:
        """Every combination of the values, those that need no new solution side by side."""
        s = self.settings
        keys = ("facts_l2", "ease_l2", "facts_weight") if s.side_information == "additive" else _COLLECTIVE
        return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(getattr(s, k) for k in keys))]

    def solve(self, chosen: Mapping[str, float]) -> None:
        """Solve for the weights, ``[n_items, n_items]``; NumericalError if there is no finite solution."""
        try:
            self.weights = self._solution(chosen).to(self.dtype)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise NumericalError(str(error).splitlines()[0]) from error

    def _solution(self, chosen: Mapping[str, float]) -> Tensor:
        """B, float64."""
        weight = chosen["facts_weight"]
        if self.settings.side_information == "collective":
            gram = self._interactions_gram() + weight**2 * self._gram_of_facts()
            return ease_weights(gram, chosen["ease_l2"], self.between_blocks)
        if self._of_facts is None or self._of_facts[0] != chosen["facts_l2"]:
            solved = ease_weights(self._gram_of_facts(), chosen["facts_l2"], self.between_blocks)
            self._of_facts = chosen["facts_l2"], solved
        if self._of_interactions is None or self._of_interactions[0] != chosen["ease_l2"]:
            solved = ease_weights(self._interactions_gram(), chosen["ease_l2"], self.between_blocks)
            self._of_interactions = chosen["ease_l2"], solved
        return self._of_interactions[1] + weight * self._of_facts[1]

    def _interactions_gram(self) -> Tensor:
        r""":math:`X^\top X`."""
        if self._gram is None:
            self._gram = torch.from_numpy((self.interactions.T @ self.interactions).toarray()).to(self.device)
        return self._gram

    def _gram_of_facts(self) -> Tensor:
        r""":math:`F F^\top`."""
        if self._facts_gram is None:
            facts = fact_matrix(self.graph)
            self._facts_gram = torch.from_numpy((facts @ facts.T).toarray()).to(self.device)
        return self._facts_gram

    def with_new_items(self, graph: HeteroGraph) -> EASEFacts:
        """Refused: the weights of items follow from a solution for all of them."""
        raise self._cannot("solves for the weights of all items at once, so that new items need training")

    def remedies(self) -> str:
        """What regularises the solution."""
        return "ease_l2"


_COLLECTIVE = ("ease_l2", "facts_weight")
