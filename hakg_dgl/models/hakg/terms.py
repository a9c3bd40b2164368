r"""The terms of HAKG's score that are solved for, not learned: items by items, and items by their facts.

Both are :math:`w \sum_{j \in N_u} K_{ji}` with a matrix K between items of low rank, so that the score stays one inner
product.

**Items by items.** K is EASE's B of the interactions, as they are or divided by a power of their degrees
(:mod:`hakg_dgl.layers.item_item`).

**Facts.** With the facts F of items (:func:`~hakg_dgl.graph.matrices.fact_matrix`) and its singular value
decomposition :math:`F = U S V^\top`, :math:`K = U D U^\top`, :math:`D = S^2 / (S^2 + \lambda)`: the prediction of a
ridge regression on the facts. It is the profile :math:`F F^\top` with its strong directions damped, so that what few
items share counts beside what half the catalogue is. A user's sum is divided by :math:`\sqrt{|N_u|}`.

**Items without interactions** are known by their facts alone. They have a λ and a weight of this term of their own, and
a bias that makes up for what their learned vectors never were: chosen.

Weights and λ are chosen on the split that selects, when the learned part is trained
(:mod:`hakg_dgl.models.hakg.choice`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from scipy import sparse
from torch import Tensor, nn

from hakg_dgl.graph.matrices import fact_matrix
from hakg_dgl.layers.item_item import Spectrum, fact_spectrum, interaction_spectrum
from hakg_dgl.ranking.topk import SCORES_PER_BLOCK

if TYPE_CHECKING:
    from hakg_dgl.graph.heterograph import HeteroGraph
    from hakg_dgl.models.hakg.settings import HAKGSettings

POWER = 0.5
"""A user's sum over facts is divided by the number of the user's items to this power."""
SAMPLED_USERS = 512
"""Users whose scores tell the standard deviation of a term."""

UNSOLVED, PROVISIONAL, CHOSEN = 0, 1, 2
"""Stages of the terms: zero; solved for, with the middle weights for the learned part as it is; chosen."""

Terms = tuple[Tensor, Tensor]
"""User ``[n_users, k]`` and item ``[n_items, k]`` columns, whose inner products are terms of the score."""


def least(values: tuple[float, ...]) -> float:
    """The smallest above 0, or 0."""
    return min((value for value in values if value), default=0.0)


def middle(values: tuple[float, ...]) -> float:
    """The value that is used until one is chosen: that in the middle of those above 0."""
    ordered = sorted(value for value in values if value) or [0.0]
    return ordered[len(ordered) // 2]


class ClosedTerms(nn.Module):
    """Factors and weights of the terms; all are buffers, and zero until :meth:`solve`.

    Parameters
    ----------
    settings
        Which terms there are, and the values to choose from.
    n_items
        Rows of the factors.
    widths
        Columns of the factors of interactions and of facts; 0 for a term that is not there.
    dtype, device
        Of the buffers.
    facts
        What :meth:`solve_facts` solves for: :func:`~hakg_dgl.graph.matrices.fact_matrix`.

    Attributes
    ----------
    linear_left, linear_right
        ``[n_items, r]``: :math:`B_{ij} = \\langle left_i, right_j\\rangle`.
    facts
        ``[n_items, r]``: :math:`K_{ij} = \\langle facts_i, facts_j\\rangle`.
    new_scale
        ``[r]``: what a direction of ``facts`` counts for items without interactions, which have a λ of their own.
    damping
        ``[2]``, float64: λ for items with and without interactions.
    weights
        ``[4]``: of the item-item term, of the facts for items with and without interactions, and the latter's bias.
    stage
        :data:`UNSOLVED`, :data:`PROVISIONAL` or :data:`CHOSEN`, int64.
    """

    linear_left: Tensor
    linear_right: Tensor
    facts: Tensor
    new_scale: Tensor
    damping: Tensor
    weights: Tensor
    stage: Tensor

    def __init__(
        self,
        settings: HAKGSettings,
        n_items: int,
        widths: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
        facts: sparse.csr_matrix | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self._spectra: dict[str | float, Spectrum] = {}
        self._facts = facts
        of_pairs, of_facts = widths
        for name, width in (("linear_left", of_pairs), ("linear_right", of_pairs), ("facts", of_facts)):
            empty = torch.zeros(n_items, width, dtype=dtype, device=device)
            self.register_buffer(name, empty, persistent=width > 0)
        self.register_buffer("new_scale", torch.zeros(of_facts, dtype=dtype, device=device), persistent=of_facts > 0)
        damping = torch.zeros(2, dtype=torch.float64, device=device)
        self.register_buffer("damping", damping, persistent=of_facts > 0)
        self.register_buffer("weights", torch.zeros(4, dtype=dtype, device=device), persistent=sum(widths) > 0)
        self.register_buffer("stage", torch.tensor(UNSOLVED, device=device), persistent=sum(widths) > 0)

    @classmethod
    def of(cls, settings: HAKGSettings, graph: HeteroGraph, dtype: torch.dtype) -> ClosedTerms:
        """Those that the settings ask for, with the facts of a graph and a row for each of its items."""
        facts = fact_matrix(graph) if settings.has_facts_term else None
        linear = min(settings.linear_rank, graph.n_users, graph.n_items) if settings.has_linear_term else 0
        widths = linear, 0 if facts is None else min(settings.facts_rank, *facts.shape)
        return cls(settings, graph.n_items, widths, dtype, graph.device, facts)

    def solve(self, graph: HeteroGraph, chosen: Mapping[str, float]) -> None:
        """Compute the factors for the chosen λ; decompositions are kept for the next choice until :meth:`forget`."""
        if self.linear_left.shape[1]:
            exponent = chosen.get("linear_exponent", 0.0)
            if exponent not in self._spectra:
                interactions, rank = graph.packed.interactions, self.linear_left.shape[1]
                self._spectra[exponent] = interaction_spectrum(interactions, rank, exponent)
            left, right = self._spectra[exponent].ease_factors(chosen["linear_l2"])
            self.linear_left.copy_(left)
            self.linear_right.copy_(right)
        if self.facts.shape[1]:
            self.solve_facts(chosen["facts_l2"], chosen.get("new_items_l2", chosen["facts_l2"]))

    def solve_facts(self, l2: float, new_l2: float) -> None:
        """Compute the factors over facts for a λ, and one for items without interactions."""
        if self._facts is None or not self.facts.shape[1]:
            return
        if "facts" not in self._spectra:
            self._spectra["facts"] = fact_spectrum(self._facts, self.facts.shape[1], self.facts.device)
        found = self._spectra["facts"]
        shares = found.shares(l2)
        self.facts.copy_(found.vectors * shares.sqrt())
        self.new_scale.copy_(torch.where(shares > 0.0, found.shares(new_l2) / shares, 0.0))
        self.damping.copy_(torch.tensor([l2, new_l2], dtype=torch.float64))

    def forget(self) -> None:
        """Let go of the decompositions, when all is chosen."""
        self._spectra.clear()

    def first_choice(self) -> dict[str, float]:
        """What is used until there is a choice: the middle values, and no facts for items with interactions.

        Those without compete, but their weight and bias are the least, so that they do not hide how others rank.
        """
        s = self.settings
        chosen: dict[str, float] = {}
        if self.linear_left.shape[1]:
            chosen |= {"linear_exponent": min(s.linear_exponent)}
            chosen |= {"linear_weight": middle(s.linear_weight), "linear_l2": middle(s.linear_l2)}
        if self.facts.shape[1]:
            chosen |= {"facts_weight": 0.0, "facts_l2": middle(s.facts_l2), "new_items_l2": middle(s.facts_l2)}
            chosen |= {"new_items_weight": least(s.new_items_weight), "new_items_bias": least(s.new_items_bias)}
        return chosen

    def set_weights(self, chosen: Mapping[str, float], unit: float, new_unit: float, spread: float) -> None:
        """Take the weights of a choice.

        Parameters
        ----------
        chosen
            The choice.
        unit
            The standard deviation of the other terms over that of the term over facts.
        new_unit
            The same with the λ of items without interactions.
        spread
            The standard deviation of the other terms.
        """
        values = [chosen.get("linear_weight", 0.0)]
        values += [unit * chosen.get("facts_weight", 0.0), new_unit * chosen.get("new_items_weight", 0.0)]
        values += [spread * chosen.get("new_items_bias", 0.0)]
        self.weights.copy_(torch.tensor(values, dtype=torch.float64))

    def columns(
        self, new: Tensor, learned: Terms, past: Callable[[Tensor, float], Tensor], *, facts: bool = True
    ) -> Terms:
        """All columns of the score: those of the learned part, then those of the terms.

        Parameters
        ----------
        new
            Which items have no interactions, bool ``[n_items]``.
        learned
            Columns of the learned part.
        past
            Sums rows of items over each user's items, and divides by a power of their number.
        facts
            Whether with the term over facts and the bias.
        """
        parts = [learned]
        if self.linear_left.shape[1]:
            parts.append((past(self.linear_left, 0.0) * self.weights[0], self.linear_right))
        if facts and self.facts.shape[1]:
            weight, bias = torch.where(new, self.weights[2], self.weights[1]), self.weights[3] * new
            user, item = past(self.facts, POWER), self.scaled_facts(new) * weight.unsqueeze(1)
            parts.append((torch.cat([user, user.new_ones(len(user), 1)], 1), torch.cat([item, bias.unsqueeze(1)], 1)))
        users, items = zip(*parts, strict=True)
        return torch.cat(users, 1), torch.cat(items, 1)

    def scaled_facts(self, new: Tensor) -> Tensor:
        """Rows of items as they are scored, ``[n_items, r]``; ``new`` ``[n_items]``: those without interactions."""
        return torch.where(new.unsqueeze(1), self.facts * self.new_scale, self.facts)


def spread(user: Tensor, item: Tensor) -> float:
    """Standard deviation of the scores of some users, evenly spaced, with all items."""
    places = sampled_users(len(user), len(item)).to(user.device)
    return float((user[places] @ item.T).detach().double().std(correction=0))


def sampled_users(n_users: int, n_items: int) -> Tensor:
    """The users, evenly spaced, whose scores tell a standard deviation, int64 ``[n]``."""
    n = max(1, min(SAMPLED_USERS, SCORES_PER_BLOCK // max(1, n_items), n_users))
    return torch.linspace(0, n_users - 1, n, dtype=torch.float64).round().long()


def install(
    terms: ClosedTerms,
    graph: HeteroGraph,
    learned: Terms,
    past: Callable[[Tensor, float], Tensor],
    chosen: Mapping[str, float],
) -> Terms:
    """Set the terms to a choice; all columns of the score with it."""
    terms.solve(graph, chosen)
    terms.stage.fill_(CHOSEN)
    return weighed(terms, new_items(graph), learned, past, chosen)


def new_items(graph: HeteroGraph) -> Tensor:
    """Which items have no interactions, bool ``[n_items]``."""
    return graph.packed.interactions.col_degree == 0


def weighed(
    terms: ClosedTerms,
    new: Tensor,
    learned: Terms,
    past: Callable[[Tensor, float], Tensor],
    chosen: Mapping[str, float],
    spread: Callable[[Tensor, Tensor], float] = spread,
) -> Terms:
    """Set the weights to a choice, for the learned part as it is; all columns of the score with it.

    ``new`` and ``past`` are those of :meth:`ClosedTerms.columns`; ``spread`` tells the standard deviation of scores.
    """
    terms.set_weights(chosen, 1.0, 1.0, 1.0)
    without_facts = terms.columns(new, learned, past, facts=False)
    if "facts_l2" not in chosen:
        return without_facts
    base, sums = spread(*without_facts), past(terms.facts, POWER)
    unit, new_unit = (ratio(base, spread(sums, rows)) for rows in (terms.facts, terms.facts * terms.new_scale))
    terms.set_weights(chosen, unit, new_unit, base)
    return terms.columns(new, learned, past)


def ratio(whole: float, part: float) -> float:
    """``whole / part``, 0 where ``part`` is 0."""
    return whole / part if part > 0.0 else 0.0
