"""CKE: matrix factorisation whose items also have a vector that the facts train, the structural part of the model.

Zhang, Yuan, Lian, Xie and Ma, "Collaborative Knowledge Base Embedding for Recommender Systems", KDD 2016.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.layers.losses import batch_rows
from hakg_dgl.layers.transr import transr_loss
from hakg_dgl.layers.triples import knowledge_triples
from hakg_dgl.models.ranking_loss import NEGATIVES, RankingLoss, RankingLossSettings, idle_ranking_settings
from hakg_dgl.models.recommender import Abilities, Axis, GradientRecommender, Pass, Sections, interaction_batches
from hakg_dgl.randomness import torch_generator
from hakg_dgl.settings.run import GradientRunSettings
from hakg_dgl.settings.section import Range, Section
from hakg_dgl.settings.training import TrainingSettings

INITIAL_SCALE = 0.01
"""Standard deviation of the first vectors of users and entities."""
PUBLISHED = {"dim": 64, "relation_dim": 64, "ranking_loss": "bpr", "fact_weight": 1.0}
"""The settings by which other publications compare with it; its own learning rate and batches are not known to us."""


@dataclass(frozen=True)
class CKESettings(Section):
    """Settings of CKE.

    Attributes
    ----------
    dim
        Width d of the vectors of users, items and entities.
    relation_dim
        Width k of the spaces of relations.
    """

    dim: Annotated[int, Range(1, 4096)] = 128
    relation_dim: Annotated[int, Range(1, 4096)] = 64


@dataclass(frozen=True)
class CKELossSettings(RankingLossSettings):
    """Settings of CKE's losses.

    Attributes
    ----------
    fact_weight
        Weight λ of the loss of facts.
    fact_decay
        Weight of the L2 term of the entities and relations in a batch of facts.
    """

    weight_decay: Annotated[float, Range(0.0, 1e3)] = 0.2
    fact_weight: Annotated[float, Range(0.0, 1e6)] = 1.0
    fact_decay: Annotated[float, Range(0.0, 1e3)] = 1e-3


@dataclass(frozen=True)
class CKETrainingSettings(TrainingSettings):
    """Training that does well on validation; docs/models.md says what was searched."""

    epochs: Annotated[int, Range(1, 10_000_000)] = 500
    eval_every: Annotated[int, Range(1, 10_000_000)] = 5
    patience: Annotated[int, Range(1, 10_000_000)] = 8


class CKE(GradientRecommender):
    r"""Scores :math:`\langle u, \eta_i + v_i \rangle`: an item's own vector η and that of its entity v (eqs. 7-8).

    Entities, translations and matrices are trained by TransR, :math:`-\ln \sigma(f(h, r, t') - f(h, r, t))` (eq. 2),
    along with the ranking loss. The publication adds text and pictures of items, which data sets here do not have, and
    counts triples, quadruples and their L2 terms as one posterior. Here a step takes a batch of interactions and as
    many facts, drawn with replacement, as make a fact take part once an epoch on average; ``fact_weight`` weighs the
    two means. A false triple has another tail, uniform among the entities that are no tail of a true triple with that
    head and relation (the publication changes the head as often). Facts and links of users take no part.

    Parameters are those of :class:`~hakg_dgl.models.recommender.Recommender`.
    """

    name = "cke"
    citation = r"""
@inproceedings{zhang2016cke,
  author = {Fuzheng Zhang and Nicholas Jing Yuan and Defu Lian and Xing Xie and Wei-Ying Ma},
  title = {{Collaborative Knowledge Base Embedding for Recommender Systems}},
  booktitle = {Proceedings of the 22nd ACM SIGKDD Conference on Knowledge Discovery and Data Mining},
  year = {2016},
  pages = {353--362},
  doi = {10.1145/2939672.2939673}
}
"""
    sections = Sections(CKESettings, CKELossSettings, CKETrainingSettings, GradientRunSettings)
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
        """Settings of the other ranking loss."""
        return idle_ranking_settings(values)

    def axes(self) -> Mapping[str, tuple[Axis, ...]]:
        """Rows of nodes and of relations."""
        relations = self.graph.relation_types[: self.graph.n_relations]
        return {**super().axes(), "relation": (relations,), "matrices": (relations,)}

    def build(self) -> None:
        """Vectors of users, items and entities; a translation and a matrix for each relation."""
        graph, dim, width = self.graph, self.settings.dim, self.settings.relation_dim
        self.user: nn.Parameter = self._gaussian("user", graph.n_users)
        # An offset from its entity: the publication's prior of it has mean zero.
        self.item: nn.Parameter = nn.Parameter(torch.zeros(graph.n_items, dim, dtype=self.dtype, device=self.device))
        self.entity: nn.Parameter = self._gaussian("entity", graph.n_entities)
        self.relation: nn.Parameter = self.parameter("relation", graph.n_relations, width)
        drawn = [self.parameter(f"matrix:{number}", width, dim).detach() for number in range(graph.n_relations)]
        self.matrices: nn.Parameter = nn.Parameter(torch.stack(drawn) if drawn else self.user.new_zeros(0, width, dim))

    def _gaussian(self, name: str, rows: int) -> nn.Parameter:
        """Small normal values ``[rows, d]`` from a random stream of their own; the publication's priors are normal."""
        generator = torch_generator(self.run.seed, f"init:{name}")
        values = torch.randn(rows, self.settings.dim, dtype=self.dtype, generator=generator)
        return nn.Parameter((values * INITIAL_SCALE).to(self.device))

    def propagate(self) -> tuple[Tensor, Tensor]:
        """User ``[n_users, d]`` and item ``[n_items, d]`` vectors that are scored."""
        return self.user, self.item + self.entity[: self.graph.n_items]

    @torch.no_grad()
    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """The vectors of :meth:`propagate`, whose inner products rank."""
        return self.propagate()

    def passes(self, training: TrainingSettings, random: Mapping[str, torch.Generator]) -> Sequence[Pass]:
        """One pass over the interactions, each batch with facts drawn for it."""
        graph, generator, weight = self.graph, random["facts"], float(self.loss.fact_weight)
        facts = knowledge_triples(graph)
        ranking = RankingLoss(graph, self.loss, random[NEGATIVES])
        batches = interaction_batches(graph, training, random)

        def loss(users: Tensor, items: Tensor) -> Tensor:
            total = ranking(*self.propagate(), users, items, decayed=([self.user], [self.item, self.entity]))
            drawn = facts.draw(-(-len(users) * len(facts) // len(batches.pairs)), generator)
            if weight == 0.0 or not len(drawn):
                return total
            false = facts.false_tails(drawn, generator).squeeze(1)
            return total + weight * self.loss_of_facts(*facts.of(drawn), false)

        return [Pass("interactions", batches, loss)]

    def loss_of_facts(self, head: Tensor, relation: Tensor, tail: Tensor, false: Tensor) -> Tensor:
        """Loss of a batch of facts and false tails, int64 ``[batch]`` each: a scalar."""
        backend, weight = choose_backend("auto", self.device), float(self.loss.fact_decay)
        heads, tails, others = (batch_rows(backend, self.entity, nodes) for nodes in (head, tail, false))
        total = transr_loss(heads, relation, tails, others, self.relation, self.matrices)
        squares = heads.square().sum() + tails.square().sum() + others.square().sum()
        return total + weight * (squares / len(head) + self.matrices.square().sum()) / 2
