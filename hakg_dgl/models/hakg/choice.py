"""Choosing the weights and λ of the closed-form terms by what ranks best.

Dozens of choices are ranked for the same users, and most differ from the one before in a weight alone. So the scores
of each term are kept, as many as :data:`KEPT_SCORES`, and a choice is a weighted sum of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.models.hakg.terms import POWER, ClosedTerms, Terms, install, middle, new_items, ratio, spread
from hakg_dgl.models.recommender import Judge

FREE = 0.002
"""The share of the selecting metric that a bias for new items may cost."""
LOWER = (-32.0, -8.0, -4.0, -2.0, -1.0)
"""Biases that are tried beside those of the settings, as facts that say little may put new items above all others."""
NEAR = 0.02
"""Of weights that rank new items nearly as well, within this share, the smallest is taken."""
EASY = 2
"""Values in a row without a gain after which a list of values is not followed further."""
KEPT_SCORES = 1 << 25
"""Scores of one term that are kept, at most: 128 MiB of float32."""

_SOLVED_FOR = ("linear_l2", "linear_exponent", "facts_l2", "new_items_l2")
"""What the factors of the terms depend on."""
_OF_FACTS = ("facts_weight", "new_items_weight", "new_items_bias")
"""Of a choice in which all of these are 0, facts are no part."""


def climb(values: tuple[float, ...], start: float, worth: Callable[[float], float]) -> tuple[float, float]:
    """From a value, go up while that is better, and if it never is, down; the best value seen and its worth."""
    ordered = sorted(set(values))
    first = ordered.index(start)
    best = ordered[first], worth(start)
    for step in (1, -1):
        place = first + step
        while 0 <= place < len(ordered) and (found := worth(ordered[place])) > best[1]:
            best = ordered[place], found
            place += step
        if best[0] != start:
            break
    return best


class TermScores:
    """Inner products of the columns of one term, which are kept for the next time while there is room.

    Parameters
    ----------
    columns
        User ``[n_users, k]`` and item ``[n_items, k]`` columns.
    """

    def __init__(self, columns: Terms) -> None:
        self.user, self.item = columns
        self._kept: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._room = KEPT_SCORES

    def block(self, users: Tensor) -> Tensor:
        """``[B, n_items]`` of the users ``[B]``; not to be written to."""
        key = (int(users[0]), len(users)) if len(users) else (-1, 0)
        found = self._kept.get(key)
        if found is not None and torch.equal(found[0], users):
            return found[1]
        scores = self.user[users] @ self.item.T
        if scores.numel() <= self._room:
            self._kept[key] = users, scores
            self._room -= scores.numel()
        return scores

    def of_items(self, users: Tensor, items: Tensor) -> Tensor:
        """``[B, m]`` of the users ``[B]`` and the items ``[m]``."""
        return self.user[users] @ self.item[items].T


class WeightedSum:
    """A :class:`~hakg_dgl.ranking.topk.Scorer`: scores of terms, each times a number or a number an item, summed.

    Parameters
    ----------
    first, others
        Terms; the first counts once, the others by a number or a row ``[n_items]``.
    bias
        ``[n_items]``, added; None for none.
    items
        Ids ``[m]``: only these have a score, others have ``-inf``. None for all.
    """

    def __init__(
        self,
        first: TermScores,
        others: list[tuple[TermScores, float | Tensor]],
        bias: Tensor | None = None,
        items: Tensor | None = None,
    ) -> None:
        self.first: TermScores = first
        self.others: list[tuple[TermScores, float | Tensor]] = others
        self.bias: Tensor | None = bias
        self.items: Tensor | None = items
        self.n_users: int = len(first.user)
        self.n_items: int = len(first.item)

    def scores(self, users: Tensor) -> Tensor:
        """``[B, n_items]`` of the users ``[B]``."""
        users = users.to(self.first.user.device)
        if self.items is None:
            total = self.first.block(users).clone()
            for term, weight in self.others:
                if isinstance(weight, Tensor):
                    total.addcmul_(term.block(users), weight)
                else:
                    total.add_(term.block(users), alpha=weight)
            return total if self.bias is None else total.add_(self.bias)
        some = self.first.of_items(users, self.items)
        for term, weight in self.others:
            some += term.of_items(users, self.items) * (weight[self.items] if isinstance(weight, Tensor) else weight)
        if self.bias is not None:
            some += self.bias[self.items]
        total = some.new_full((len(users), self.n_items), -torch.inf)
        total[:, self.items] = some
        return total


class Chooser:
    """Chooses weights and λ of the terms by what ranks best, one after the other.

    Parameters
    ----------
    terms, graph
        The terms and what they are solved for on.
    learned
        Columns of the learned part.
    past
        What sums rows of items over each user's items, divided by a power of their number.
    judge
        What to choose by.
    """

    def __init__(
        self,
        terms: ClosedTerms,
        graph: HeteroGraph,
        learned: Terms,
        past: Callable[[Tensor, float], Tensor],
        judge: Judge,
    ) -> None:
        self.terms: ClosedTerms = terms
        self.graph: HeteroGraph = graph
        self.past = past
        self.judge: Judge = judge
        self.learned: Terms = learned
        self._learned = TermScores(learned)
        self.chosen = terms.first_choice()
        self._new = new_items(graph)
        self._solved: dict[str, float] = {}
        self._linear: TermScores | None = None
        self._facts: TermScores | None = None
        self._spreads: dict[tuple[str | float, ...], float] = {}

    def __call__(self) -> dict[str, float]:
        """The choice, which the terms then have."""
        s = self.terms.settings
        if "linear_l2" in self.chosen:
            self._choose_for_pairs_of_items()
        if "facts_l2" in self.chosen:
            self.chosen |= {"new_items_weight": 0.0, "new_items_bias": 0.0}
            self._pick("facts_weight", s.facts_weight)
            if self.chosen["facts_weight"]:
                self._pick("facts_l2", s.facts_l2)
                self._pick("facts_weight", s.facts_weight)
            self._choose_for_new_items()
        self._linear = self._facts = None
        install(self.terms, self.graph, self.learned, self.past, self.chosen)
        self.terms.forget()
        return self.chosen

    def _choose_for_pairs_of_items(self) -> None:
        """λ, and for each λ the weight, for each exponent; of all what ranks best, of equal ones the first."""
        s, start = self.terms.settings, dict(self.chosen)
        start |= {key: 0.0 for key in ("new_items_weight", "new_items_bias") if key in start}
        best: tuple[float, dict[str, float]] | None = None
        for exponent in sorted(set(s.linear_exponent)):
            weight = start["linear_weight"]

            def by_l2(l2: float, exponent: float = exponent) -> float:
                nonlocal best, weight
                trial = start | {"linear_exponent": exponent, "linear_l2": l2}
                weight, worth = climb(
                    s.linear_weight, weight, lambda value: self._judged(trial | {"linear_weight": value})
                )
                if best is None or worth > best[0]:
                    best = worth, trial | {"linear_weight": weight}
                return worth

            climb(s.linear_l2, start["linear_l2"], by_l2)
        assert best is not None
        self.chosen = best[1]

    def _choose_for_new_items(self) -> None:
        """λ and weight that rank them best among themselves, then the largest bias that costs nothing to speak of.

        What it costs is measured from the lowest bias on, with which none of them is listed. Where too few users have
        chosen such an item to tell, the weight is the middle one, whose order among them is that of their facts, and
        the bias is at most 0, since nothing speaks for listing them before items that users have chosen.
        """
        s = self.terms.settings
        self.chosen["new_items_weight"] = middle(s.new_items_weight)
        biases = s.new_items_bias
        for key, values in (("new_items_l2", s.facts_l2), ("new_items_weight", s.new_items_weight)):
            measured = {value: self._judged_among_new(self.chosen | {key: value}) for value in values}
            known = {value: worth for value, worth in measured.items() if worth is not None}
            if not known:
                if not self._new.any():
                    return
                biases = ()
                break
            self.chosen[key] = max(known, key=lambda value: known[value])
            if key == "new_items_weight":
                self.chosen[key] = min(v for v, worth in known.items() if worth >= max(known.values()) * (1.0 - NEAR))
        worths: dict[float, float] = {}
        for value in sorted({0.0, *LOWER, *biases}):
            worths[value] = self._judged(self.chosen | {"new_items_bias": value})
            if len(worths) > EASY and all(w < max(worths.values()) * (1 - FREE) for w in list(worths.values())[-EASY:]):
                break
        best = max(worths.values())
        self.chosen["new_items_bias"] = max(v for v, worth in worths.items() if worth >= best - FREE * abs(best))

    def _pick(self, key: str, values: tuple[float, ...]) -> None:
        """The best of all the values, of equal ones the first: what little facts do may be lost in noise."""
        worths = {value: self._judged(self.chosen | {key: value}) for value in sorted(set(values))}
        self.chosen[key] = max(worths, key=lambda value: worths[value])

    def _judged(self, trial: dict[str, float]) -> float:
        return self.judge.worth(self._scorer(trial))

    def _judged_among_new(self, trial: dict[str, float]) -> float | None:
        return self.judge.worth_of_new_items(self._scorer(trial, alone=True))

    def _scorer(self, trial: dict[str, float], *, alone: bool = False) -> WeightedSum:
        """What scores by a choice; ``alone``: only items without interactions."""
        self._solve(trial)
        others: list[tuple[TermScores, float | Tensor]] = []
        if self._linear is not None:
            others.append((self._linear, trial["linear_weight"]))
        bias = None
        self.terms.set_weights(trial, 0.0, 0.0, 0.0)
        if self._facts is not None and any(trial[key] for key in _OF_FACTS):
            base = self._spread_of("base", trial, "linear_l2", "linear_exponent", "linear_weight")
            unit, new_unit = (ratio(base, self._spread_of(key, trial, key)) for key in ("facts_l2", "new_items_l2"))
            self.terms.set_weights(trial, unit, new_unit, base)
            _, known, unknown, more = self.terms.weights
            others.append((self._facts, torch.where(self._new, unknown, known)))
            bias = more * self._new
        return WeightedSum(self._learned, others, bias, self._new.nonzero().flatten() if alone else None)

    def _solve(self, trial: dict[str, float]) -> None:
        """Have the terms' factors, and the scores that are kept, belong to the λ of a choice."""
        wanted = {key: value for key, value in trial.items() if key in _SOLVED_FOR}
        if wanted == self._solved:
            return
        self.terms.solve(self.graph, trial)
        of_pairs = ("linear_l2", "linear_exponent")
        if "linear_l2" in wanted and any(wanted.get(key) != self._solved.get(key) for key in of_pairs):
            self._linear = TermScores((self.past(self.terms.linear_left, 0.0), self.terms.linear_right.clone()))
        if any(wanted.get(key) != self._solved.get(key) for key in ("facts_l2", "new_items_l2")):
            self._facts = TermScores((self.past(self.terms.facts, POWER), self.terms.scaled_facts(self._new)))
        self._solved = wanted

    def _spread_of(self, what: str, trial: dict[str, float], *keys: str) -> float:
        """The standard deviation of the terms but that over facts (``base``), or of that one with one λ.

        It is kept by what it depends on.
        """
        key: tuple[str | float, ...] = (what, *(trial.get(name, 0.0) for name in keys))
        if key not in self._spreads:
            if what == "base":
                self.terms.set_weights(trial, 0.0, 0.0, 0.0)
                columns = self.terms.columns(self._new, self.learned, self.past, facts=False)
            else:
                assert self._facts is not None
                facts = self.terms.facts
                columns = self._facts.user, facts * self.terms.new_scale if what == "new_items_l2" else facts
            self._spreads[key] = spread(*columns)
        return self._spreads[key]
