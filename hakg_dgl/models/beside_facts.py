"""Models without facts with the profile of facts beside them: the sum of both scores, weighted on validation.

It is what anyone can add to a model in a minute, and so the yardstick for models that read facts themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.graph.matrices import fact_matrix, interaction_matrix
from hakg_dgl.models.bpr_mf import BPRMF, BPRMFSettings
from hakg_dgl.models.ease import EASE, EASESettings
from hakg_dgl.models.facts_profile import ProfileScorer
from hakg_dgl.models.hgcf import HGCF, HGCFSettings
from hakg_dgl.models.item_knn import ItemKNN, ItemKNNSettings
from hakg_dgl.models.lightgcn import LightGCN, LightGCNSettings
from hakg_dgl.models.recommender import (
    Abilities,
    Axis,
    ClosedFormRecommender,
    GradientRecommender,
    Judge,
    Pass,
    Recommender,
    Sections,
    require_tensors,
)
from hakg_dgl.models.rp3beta import RP3Beta, RP3BetaSettings
from hakg_dgl.ranking.fold_in import AboutUsers, FoldIn, rows_fold_in
from hakg_dgl.ranking.topk import IdArray, Scorer
from hakg_dgl.settings.section import Range
from hakg_dgl.settings.training import TrainingSettings

SAMPLED_USERS = 512
"""Users whose scores tell a standard deviation."""
WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
_MULTIPLIER = "facts_multiplier"
_BASE = "base."


class BesideFacts(Recommender):
    r"""The scores of a model without facts, plus w times those of the profile of facts.

    :math:`\mathrm{score} = b + w \frac{\sigma_b}{\sigma_p} p` with the model's scores b, those of
    :class:`~hakg_dgl.models.facts_profile.FactsProfile` p, and their standard deviations, so that w means the same for
    all models. Of the setting ``facts_weight`` the value that selects best is kept.

    Attributes
    ----------
    beside
        The class of the model without facts.
    """

    beside: ClassVar[type[Recommender]]
    facts_multiplier: Tensor

    def __init_subclass__(cls, **rest: Any) -> None:
        """Cite the paper of the model."""
        super().__init_subclass__(**rest)
        if "beside" in cls.__dict__:
            cls.citation = cls.beside.citation

    def build(self) -> None:
        """Make the model, with its own parameters and random streams."""
        self.base: Recommender = self.beside(self.graph, self.settings, self.loss, self.run)
        self.interactions: Any = interaction_matrix(self.graph)
        self.facts: Any = fact_matrix(self.graph)
        self.register_buffer(_MULTIPLIER, torch.zeros((), dtype=torch.float64))

    def require_resources(self) -> None:
        """Those of the model."""
        self.base.require_resources()

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take a trained model; ValueError if the tensors are not those of such a model on this graph."""
        own = {name: value for name, value in tensors.items() if not name.startswith(_BASE)}
        require_tensors(own, {_MULTIPLIER: ((), torch.float64)})
        self.base.load_tensors({name.removeprefix(_BASE): tensors[name] for name in tensors.keys() - own.keys()})
        self.facts_multiplier.copy_(own[_MULTIPLIER])

    def choose(self, judge: Judge) -> dict[str, float]:
        """The weight of the profile."""
        worth = {}
        for weight in sorted(set(self.settings.facts_weight)):
            self.take({"facts_weight": weight})
            worth[weight] = judge.worth(self.scorer())
        chosen = {"facts_weight": max(worth, key=lambda weight: worth[weight])}
        self.take(chosen)
        return chosen

    def take(self, chosen: Mapping[str, float]) -> None:
        """Weigh the profile by the standard deviations of both scores as they are."""
        n = self.graph.n_users
        users = torch.linspace(0, n - 1, min(n, SAMPLED_USERS), dtype=torch.float64).round().long()
        base, profile = (_spread(scorer, users) for scorer in (self.base.scorer(), self._profile()))
        self.facts_multiplier.fill_(chosen["facts_weight"] * base / profile if profile > 0.0 else 0.0)

    def _profile(self) -> Scorer:
        return ProfileScorer(self.interactions, self.facts)

    def scorer(self) -> Scorer:
        """The sum of both scores."""
        return SumScorer(self.base.scorer(), self._profile(), float(self.facts_multiplier))

    def fold_in(self) -> FoldIn:
        """New users as the model has them, and by the facts of their items."""
        if not self.abilities.folds_in_users:
            return super().fold_in()
        base, weight = self.base.fold_in(), float(self.facts_multiplier)
        profile = rows_fold_in(self.graph.n_items, lambda rows: ProfileScorer(rows, self.facts))
        return SumFoldIn(base, profile, weight)

    def with_new_items(self, graph: HeteroGraph) -> BesideFacts:
        """The model, for which a new item scores 0 as one without interactions does, and the profile of all facts."""
        model = type(self)(graph, self.settings, self.loss, self.run)
        model.base = self.base.with_new_items(graph)
        model.facts_multiplier.copy_(self.facts_multiplier)
        return model.eval()

    def warnings(self) -> list[str]:
        """Those of the model."""
        return self.base.warnings()


class SumFoldIn:
    """Folds users into a sum of two models' scores; parameters are as for :class:`SumScorer`."""

    def __init__(self, first: FoldIn, second: FoldIn, weight: float) -> None:
        self.n_items: int = first.n_items
        self.first: FoldIn = first
        self.second: FoldIn = second
        self.weight: float = weight

    def scorer(self, indptr: IdArray, items: IdArray, about: AboutUsers | None = None) -> Scorer:
        """The sum of both scores; see :class:`~hakg_dgl.ranking.fold_in.FoldIn`."""
        first = self.first.scorer(indptr, items) if about is None else self.first.scorer(indptr, items, about)
        return SumScorer(first, self.second.scorer(indptr, items), self.weight)


class SumScorer:
    """The scores of one scorer plus those of another times a weight.

    Parameters
    ----------
    first, second
        Of the same users and items.
    weight
        Of the second.
    """

    def __init__(self, first: Scorer, second: Scorer, weight: float) -> None:
        self.n_users: int = first.n_users
        self.n_items: int = first.n_items
        self.first: Scorer = first
        self.second: Scorer = second
        self.weight: float = weight

    def scores(self, users: Tensor) -> Tensor:
        """``[B, n_items]`` of the users ``[B]``, on the device and in the type of the first."""
        scores = self.first.scores(users)
        if self.weight == 0.0:
            return scores
        return scores + self.second.scores(users).to(scores) * self.weight


class _ClosedForm(BesideFacts, ClosedFormRecommender):
    """Beside a model in closed form."""

    base: ClosedFormRecommender

    def candidates(self) -> list[dict[str, float]]:
        """The model's."""
        return self.base.candidates()

    def solve(self, chosen: Mapping[str, float]) -> None:
        """Solve for the model, without the profile."""
        self.base.on_block = self.on_block
        self.base.solve(chosen)
        self.facts_multiplier.zero_()

    def remedies(self) -> str:
        """The model's."""
        return self.base.remedies()


class _ByGradients(BesideFacts, GradientRecommender):
    """Beside a model that is trained by gradients, whose loss does not see the profile."""

    base: GradientRecommender

    def prepare(self) -> None:
        """The model's."""
        self.base.prepare()

    def passes(self, training: TrainingSettings, random: Mapping[str, torch.Generator]) -> Sequence[Pass]:
        """The model's."""
        return self.base.passes(training, random)

    def axes(self) -> Mapping[str, tuple[Axis, ...]]:
        """The model's."""
        return {_BASE + name: axes for name, axes in self.base.axes().items()}

    def begin_epoch(self, number: int) -> None:
        """The model's."""
        self.base.begin_epoch(number)

    def optimizers(self, lr: float) -> dict[str, torch.optim.Optimizer]:
        """The model's."""
        return self.base.optimizers(lr)

    def remedies(self) -> str:
        """The model's."""
        return self.base.remedies()


@dataclass(frozen=True)
class EASEBesideSettings(EASESettings):
    """Settings of EASE, and ``facts_weight``: of several weights of the profile the one that selects best is kept."""

    facts_weight: Annotated[tuple[float, ...], Range(0.0, 1e3)] = WEIGHTS


@dataclass(frozen=True)
class ItemKNNBesideSettings(ItemKNNSettings):
    """Settings of item neighbours, and ``facts_weight`` as in :class:`EASEBesideSettings`."""

    facts_weight: Annotated[tuple[float, ...], Range(0.0, 1e3)] = WEIGHTS


@dataclass(frozen=True)
class RP3BetaBesideSettings(RP3BetaSettings):
    """Settings of RP3beta, and ``facts_weight`` as in :class:`EASEBesideSettings`."""

    facts_weight: Annotated[tuple[float, ...], Range(0.0, 1e3)] = WEIGHTS


@dataclass(frozen=True)
class HGCFBesideSettings(HGCFSettings):
    """Settings of HGCF, and ``facts_weight`` as in :class:`EASEBesideSettings`."""

    facts_weight: Annotated[tuple[float, ...], Range(0.0, 1e3)] = WEIGHTS


@dataclass(frozen=True)
class BPRMFBesideSettings(BPRMFSettings):
    """Settings of BPR-MF, and ``facts_weight`` as in :class:`EASEBesideSettings`."""

    facts_weight: Annotated[tuple[float, ...], Range(0.0, 1e3)] = WEIGHTS


@dataclass(frozen=True)
class LightGCNBesideSettings(LightGCNSettings):
    """Settings of LightGCN, and ``facts_weight`` as in :class:`EASEBesideSettings`."""

    facts_weight: Annotated[tuple[float, ...], Range(0.0, 1e3)] = WEIGHTS


def _sections(model: type[Recommender], settings: type[Any]) -> Sections:
    return Sections(settings, model.sections.loss, model.sections.training, model.sections.run)


class EASEBesideFacts(_ClosedForm):
    """EASE and the profile of facts; see :class:`BesideFacts`."""

    name, beside, sections = "ease+facts", EASE, _sections(EASE, EASEBesideSettings)
    space: ClassVar[Mapping[str, Any]] = EASE.space
    abilities = Abilities(facts=True, folds_in_users=True, new_items=True)


class ItemKNNBesideFacts(_ClosedForm):
    """Item neighbours and the profile of facts; see :class:`BesideFacts`."""

    name, beside, sections = "item-knn+facts", ItemKNN, _sections(ItemKNN, ItemKNNBesideSettings)
    space: ClassVar[Mapping[str, Any]] = ItemKNN.space
    abilities = Abilities(facts=True, folds_in_users=True, new_items=True)


class RP3BetaBesideFacts(_ClosedForm):
    """RP3beta and the profile of facts; see :class:`BesideFacts`."""

    name, beside, sections = "rp3beta+facts", RP3Beta, _sections(RP3Beta, RP3BetaBesideSettings)
    space: ClassVar[Mapping[str, Any]] = RP3Beta.space
    abilities = Abilities(facts=True, folds_in_users=True, new_items=True)


class BPRMFBesideFacts(_ByGradients):
    """BPR-MF and the profile of facts; see :class:`BesideFacts`."""

    name, beside, sections = "bpr-mf+facts", BPRMF, _sections(BPRMF, BPRMFBesideSettings)
    space: ClassVar[Mapping[str, Any]] = BPRMF.space
    abilities = Abilities(facts=True, folds_in_users=BPRMF.abilities.folds_in_users, new_items=True)
    streams = BPRMF.streams


class LightGCNBesideFacts(_ByGradients):
    """LightGCN and the profile of facts; see :class:`BesideFacts`."""

    name, beside, sections = "lightgcn+facts", LightGCN, _sections(LightGCN, LightGCNBesideSettings)
    space: ClassVar[Mapping[str, Any]] = LightGCN.space
    abilities = Abilities(facts=True, folds_in_users=LightGCN.abilities.folds_in_users, new_items=True)
    streams = LightGCN.streams


class HGCFBesideFacts(_ByGradients):
    """HGCF and the profile of facts; see :class:`BesideFacts`."""

    name, beside, sections = "hgcf+facts", HGCF, _sections(HGCF, HGCFBesideSettings)
    space: ClassVar[Mapping[str, Any]] = HGCF.space
    abilities = Abilities(facts=True, folds_in_users=HGCF.abilities.folds_in_users, new_items=True)
    streams = HGCF.streams


def _spread(scorer: Scorer, users: Tensor) -> float:
    """Standard deviation of the scores of some users with all items."""
    return float(scorer.scores(users).double().std(correction=0))
