"""CFKG: interactions and facts as one knowledge graph, whose relations are translations.

Ai, Azizi, Chen and Zhang, "Learning Heterogeneous Knowledge Base Embeddings for Explainable Recommendation", Algorithms
11(9), 2018 (arXiv 1805.03352).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.layers.losses import batch_rows
from hakg_dgl.layers.triples import knowledge_triples
from hakg_dgl.models.ranking_loss import NEGATIVES, RankingLoss, RankingLossSettings, idle_ranking_settings
from hakg_dgl.models.recommender import Abilities, Axis, GradientRecommender, Pass, Sections, interaction_batches
from hakg_dgl.settings.run import GradientRunSettings
from hakg_dgl.settings.section import Range, Section
from hakg_dgl.settings.training import TrainingSettings

CFKGRanking: TypeAlias = Literal["logistic", "bpr", "softmax"]
PUBLISHED = {"dim": 100, "ranking_loss": "logistic", "weight_decay": 0.0, "negatives": 5}
"""What the released code has of the settings here. Its rate and batches are for plain gradient descent on reviews."""


@dataclass(frozen=True)
class CFKGSettings(Section):
    """Settings of CFKG.

    Attributes
    ----------
    dim
        Width d of the vectors.
    """

    dim: Annotated[int, Range(1, 4096)] = 128


@dataclass(frozen=True)
class CFKGLossSettings(RankingLossSettings):
    """Settings of CFKG's losses.

    Attributes
    ----------
    ranking_loss
        Of interactions: ``logistic`` as published, with negatives; ``softmax`` or ``bpr``.
    fact_weight
        Weight of the loss of facts.
    negatives
        False tails for each triple; of interactions, with the logistic loss.
    """

    ranking_loss: CFKGRanking = "softmax"  # type: ignore[assignment]
    weight_decay: Annotated[float, Range(0.0, 1e3)] = 0.1
    fact_weight: Annotated[float, Range(0.0, 1e6)] = 1.0
    negatives: Annotated[int, Range(1, 100_000)] = 5


@dataclass(frozen=True)
class CFKGTrainingSettings(TrainingSettings):
    """Training that does well on validation; docs/models.md says what was searched."""

    epochs: Annotated[int, Range(1, 10_000_000)] = 500
    eval_every: Annotated[int, Range(1, 10_000_000)] = 5
    patience: Annotated[int, Range(1, 10_000_000)] = 8


class CFKG(GradientRecommender):
    r"""Users, items and entities in one space, in which each relation, having bought among them, is a translation.

    .. math:: s(h, r, t) = \langle h + r, t \rangle, \qquad \mathrm{score}(u, i) = s(u, r_\mathrm{buy}, i)

    (Ai et al., eqs. 1-2). Items are entities. The published loss of a triple with k false tails t' is
    :math:`-\ln \sigma(s(h, r, t)) - \sum_{t'} \ln \sigma(-s(h, r, t'))` (eq. 4), for facts and interactions alike. Here
    false items are drawn uniformly from those that the user does not have, other false tails from the entities that
    are no tail of a true triple with that head and relation. A step takes a batch of interactions and as many facts,
    drawn with replacement, as make a fact take part once an epoch on average. The loss of interactions may also be
    that of :class:`~hakg_dgl.models.ranking_loss.RankingLoss`. Facts and links of users take no part.

    Parameters are those of :class:`~hakg_dgl.models.recommender.Recommender`.
    """

    name = "cfkg"
    citation = r"""
@article{ai2018cfkg,
  author = {Qingyao Ai and Vahid Azizi and Xu Chen and Yongfeng Zhang},
  title = {{Learning Heterogeneous Knowledge Base Embeddings for Explainable Recommendation}},
  journal = {Algorithms},
  year = {2018},
  volume = {11},
  number = {9},
  pages = {137},
  doi = {10.3390/a11090137},
  eprint = {1805.03352},
  archivePrefix = {arXiv}
}
"""
    sections = Sections(CFKGSettings, CFKGLossSettings, CFKGTrainingSettings, GradientRunSettings)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"published": PUBLISHED}
    space: ClassVar[Mapping[str, Any]] = {
        "lr": {"low": 3e-4, "high": 1e-2, "log": True},
        "weight_decay": {"low": 1e-4, "high": 1.0, "log": True},
        "fact_weight": {"low": 1e-2, "high": 10.0, "log": True},
    }
    abilities = Abilities(facts=True, vectors=True)
    streams = (NEGATIVES, "facts")

    @classmethod
    def idle_settings(cls, values: Mapping[str, Any]) -> Mapping[str, str]:
        """Settings of the other losses."""
        return idle_ranking_settings(values)

    def axes(self) -> Mapping[str, tuple[Axis, ...]]:
        """Rows of nodes and of relations."""
        relations = self.graph.relation_types[: self.graph.n_relations]
        return {**super().axes(), "relation": (relations,)}

    def build(self) -> None:
        """A vector for each user, entity and relation, and for having bought."""
        dim = self.settings.dim
        self.user: torch.nn.Parameter = self.parameter("user", self.graph.n_users, dim)
        self.entity: torch.nn.Parameter = self.parameter("entity", self.graph.n_entities, dim)
        self.relation: torch.nn.Parameter = self.parameter("relation", self.graph.n_relations, dim)
        self.buy: torch.nn.Parameter = self.parameter("buy", 1, dim)

    @torch.no_grad()
    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """Users who were moved along having bought, and items."""
        return self.user + self.buy, self.entity[: self.graph.n_items].clone()

    def passes(self, training: TrainingSettings, random: Mapping[str, torch.Generator]) -> Sequence[Pass]:
        """One pass over the interactions, each batch with facts drawn for it."""
        graph, generator = self.graph, random["facts"]
        settings: CFKGLossSettings = self.loss
        facts = knowledge_triples(graph)
        ranking = RankingLoss(graph, settings, random[NEGATIVES])
        batches = interaction_batches(graph, training, random)

        def loss(users: Tensor, items: Tensor) -> Tensor:
            total = self.loss_of_interactions(ranking, users, items)
            drawn = facts.draw(-(-len(users) * len(facts) // len(batches.pairs)), generator)
            if settings.fact_weight == 0.0 or not len(drawn):
                return total
            false = facts.false_tails(drawn, generator, settings.negatives)
            return total + settings.fact_weight * self.loss_of_facts(*facts.of(drawn), false)

        return [Pass("interactions", batches, loss)]

    def loss_of_interactions(self, ranking: RankingLoss, users: Tensor, items: Tensor) -> Tensor:
        """Loss of a batch of interactions, int64 ``[batch]`` each: a scalar."""
        user, item = self.user + self.buy, self.entity[: self.graph.n_items]
        if self.loss.ranking_loss != "logistic":
            return ranking(user, item, users, items, decayed=([self.user], [item]))
        false = ranking.sampler.sample(users, self.loss.negatives, ranking.generator)
        return self._logistic(batch_rows(ranking.backend, user, users), item, items, false)

    def loss_of_facts(self, head: Tensor, relation: Tensor, tail: Tensor, false: Tensor) -> Tensor:
        """Loss of a batch of facts, int64 ``[batch]`` each and false tails ``[batch, k]``: a scalar."""
        backend = choose_backend("auto", self.device)
        moved = batch_rows(backend, self.entity, head) + batch_rows(backend, self.relation, relation)
        return self._logistic(moved, self.entity, tail, false)

    def _logistic(self, moved: Tensor, table: Tensor, true: Tensor, false: Tensor) -> Tensor:
        """Mean over the batch of the published loss and the L2 term, from ``h + r``, ``[batch, d]``."""
        backend, k, weight = choose_backend("auto", self.device), false.shape[1], float(self.loss.weight_decay)
        tail = batch_rows(backend, table, true)
        others = batch_rows(backend, table, false.reshape(-1)).view(len(true), k, -1)
        positive = F.logsigmoid((moved * tail).sum(1))
        negative = F.logsigmoid(-(others @ moved.unsqueeze(2)).squeeze(2)).sum(1)
        squares = moved.square().sum() + tail.square().sum() + others.square().sum()
        return -(positive + negative).mean() + weight * squares / (2 * len(true))
