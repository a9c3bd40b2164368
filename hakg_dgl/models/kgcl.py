"""KGCL: LightGCN whose items attend to their facts, with views of facts and interactions that are contrasted.

Yang, Huang, Xia and Li, "Knowledge Graph Contrastive Learning for Recommendation", SIGIR 2022 (arXiv 2205.00976).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hakg_dgl.geometry.guards import ROW_NORM_FLOOR
from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.graph.packed import Kept, KnowledgePattern, SparsePattern
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.kernels.edge_softmax import edge_softmax
from hakg_dgl.kernels.interface import SparseBackend
from hakg_dgl.kernels.products import edge_dot, weighted_sum_over_columns
from hakg_dgl.layers.dropout import draw_mask
from hakg_dgl.layers.losses import batch_rows
from hakg_dgl.layers.transr import transr_loss
from hakg_dgl.layers.triples import TripleBatches, Triples
from hakg_dgl.layers.views import info_nce, light_layers, light_propagation, light_scales
from hakg_dgl.models.explanation import Breakdown
from hakg_dgl.models.optimizer import adam
from hakg_dgl.models.ranking_loss import NEGATIVES, RankingLoss, RankingLossSettings, idle_ranking_settings
from hakg_dgl.models.recommender import (
    Abilities,
    Axis,
    GradientRecommender,
    Pass,
    Sections,
    interaction_batches,
    model_with_new_items,
)
from hakg_dgl.models.score_sums import ItemSum, SummedBreakdown, UserSum, edges_of, wide
from hakg_dgl.randomness import torch_generator
from hakg_dgl.ranking.fold_in import EmbeddingFoldIn, FoldedUsers, FoldIn, SumOfRows, WithOwnRows
from hakg_dgl.settings.run import GradientRunSettings
from hakg_dgl.settings.section import Range, Section, TrainingOnly
from hakg_dgl.settings.training import TrainingSettings

VIEWS = "views"
INITIAL_SCALE = 0.1
"""Standard deviation of the first vectors of users and entities."""
LEAK = 0.2
"""Slope of LeakyReLU below 0, the released code's; the paper gives none."""
LEAST_AGREEMENT, MOST_KEPT = 0.3, 0.95
"""Least weight of an item among those that say which interactions are kept, and the largest share kept of an item."""
PUBLISHED = {
    "ranking_loss": "bpr",
    "weight_decay": 1e-4,
    "contrast_weight": 0.1,
    "contrast_temperature": 0.2,
    "kg_edge_dropout": 0.5,
    "interaction_dropout": 0.1,
    "lr": 1e-3,
    "batch_size": 2048,
    "select_by": "recall@20",
}
"""The released code's settings for Yelp2018. For Amazon-Book ``interaction_dropout`` is 0.05."""
_RATE = Range(0.0, 1.0, open_high=True)
_COUNT = Range(1, 10_000_000)


@dataclass(frozen=True)
class KGCLSettings(Section):
    """Settings of KGCL.

    Attributes
    ----------
    dim, layers
        Width d of the vectors and number L of propagation layers over the interactions.
    kg_edge_dropout, interaction_dropout
        Share of KG edges and of interactions that a view leaves out in a training step.
    """

    dim: Annotated[int, Range(1, 4096)] = 64
    layers: Annotated[int, Range(1, 16)] = 3
    kg_edge_dropout: Annotated[float, _RATE, TrainingOnly()] = 0.5
    interaction_dropout: Annotated[float, _RATE, TrainingOnly()] = 0.4


@dataclass(frozen=True)
class KGCLLossSettings(RankingLossSettings):
    """Settings of KGCL's losses.

    Attributes
    ----------
    contrast_weight, contrast_temperature
        Weight of the contrast of views, and what its cosines are divided by.
    fact_batch_size
        Triples a step of the pass over facts.
    fact_decay
        Weight of the L2 term of the entities in a batch of facts.
    """

    contrast_weight: Annotated[float, Range(0.0, 1e3)] = 0.1
    contrast_temperature: Annotated[float, Range(1e-3, 1e3)] = 0.2
    fact_batch_size: Annotated[int, _COUNT] = 4096
    fact_decay: Annotated[float, Range(0.0, 1e3)] = 1e-3


@dataclass(frozen=True)
class KGCLTrainingSettings(TrainingSettings):
    """Training that does well on validation; docs/models.md says what was searched."""

    lr: Annotated[float, Range(1e-8, 100.0)] = 5e-3
    batch_size: Annotated[int, _COUNT] = 4096
    epochs: Annotated[int, _COUNT] = 500
    eval_every: Annotated[int, _COUNT] = 5
    patience: Annotated[int, _COUNT] = 8


class KGCL(GradientRecommender):
    r"""LightGCN on users and on items that have gathered their facts by attention.

    .. math:: \tilde e_i = e_i + \sum_{(r, t) \in N_i} \mathrm{softmax}_{(r, t)}\bigl(\mathrm{LeakyReLU}(
              e_r^\top W [e_t \| e_i])\bigr)\, e_t

    The score is the inner product of what LightGCN makes of :math:`e_u` and :math:`\tilde e_i`. A step draws two views
    of the facts, each without a random share of the edges. How much an item's two vectors agree,
    :math:`c_i = \cos(\tilde e_i^1, \tilde e_i^2)`, says how much its facts are to be relied on: with
    :math:`w_i = e^{c_i}`, scaled to lie between 0 and 1 and at least :data:`LEAST_AGREEMENT`, an interaction with i
    is kept with the probability :math:`(1 - \rho)\, w_i / \bar w`, at most :data:`MOST_KEPT`, :math:`\bar w` being
    the mean over items and ρ ``interaction_dropout``. Two such draws, each with a view of the facts, go through
    LightGCN; the loss has the ranking loss of the whole graph, its L2 term over the parameters of a batch, and
    ``contrast_weight`` times the contrast (:func:`~hakg_dgl.layers.views.info_nce`) of the batch's users and of its
    items between the two. Another pass trains the facts by TransR, :math:`-\ln \sigma(g(i, r, t') - g(i, r, t))`, with
    an optimizer of its own.

    As released: the facts are trained in a pass of their own, by TransR. The released code keeps up to ten facts of an
    item, drawn once; here all take part. It drops all interactions of an item or none, draws views once an epoch, and
    has dropout in the attention; here they are drawn one by one, once a step, without dropout. It has an item's vector
    beside that of its entity; here there is the entity's alone. Facts and links of users take no part.

    Parameters are those of :class:`~hakg_dgl.models.recommender.Recommender`.
    """

    name = "kgcl"
    citation = r"""
@inproceedings{yang2022kgcl,
  author = {Yuhao Yang and Chao Huang and Lianghao Xia and Chenliang Li},
  title = {{Knowledge Graph Contrastive Learning for Recommendation}},
  booktitle = {Proceedings of the 45th International ACM SIGIR Conference on Research and Development in Information
    Retrieval},
  year = {2022},
  pages = {1434--1443},
  doi = {10.1145/3477495.3532009},
  eprint = {2205.00976},
  archivePrefix = {arXiv}
}
"""
    sections = Sections(KGCLSettings, KGCLLossSettings, KGCLTrainingSettings, GradientRunSettings)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"published": PUBLISHED}
    space: ClassVar[Mapping[str, Any]] = {
        "lr": {"low": 3e-4, "high": 1e-2, "log": True},
        "weight_decay": {"low": 1e-4, "high": 1.0, "log": True},
        "layers": {"low": 1, "high": 3},
        "contrast_weight": {"low": 1e-3, "high": 1.0, "log": True},
        "contrast_temperature": {"low": 0.1, "high": 1.0, "log": True},
    }
    abilities = Abilities(facts=True, vectors=True, folds_in_users=True, new_items=True, explains=True)
    streams = (NEGATIVES, VIEWS, "facts")

    @classmethod
    def idle_settings(cls, values: Mapping[str, Any]) -> Mapping[str, str]:
        """Settings of the other ranking loss, and those of the contrast where it has no weight."""
        idle = idle_ranking_settings(values)
        if values["contrast_weight"] == 0.0:
            names = ("contrast_temperature", "kg_edge_dropout", "interaction_dropout")
            idle |= dict.fromkeys(names, "with a contrast_weight above 0")
        return idle

    def build(self) -> None:
        """Vectors of users, entities and relations, the matrices of attention, and those of TransR."""
        graph, dim = self.graph, self.settings.dim
        self.graph_moved()
        self.user: nn.Parameter = self._gaussian("user", graph.n_users)
        self.entity: nn.Parameter = self._gaussian("entity", graph.n_entities)
        n_relations = self.facts.n_relations
        self.relation: nn.Parameter = self.parameter("relation", n_relations, dim)
        self.of_tail: nn.Parameter = self.parameter("of tail", dim, dim)
        self.of_item: nn.Parameter = self.parameter("of item", dim, dim)
        drawn = [self.parameter(f"matrix:{r}", dim, dim).detach() for r in range(n_relations)]
        self.matrices: nn.Parameter = nn.Parameter(torch.stack(drawn) if drawn else self.user.new_zeros(0, dim, dim))

    def _gaussian(self, name: str, rows: int) -> nn.Parameter:
        """Normal values ``[rows, d]`` from a random stream of their own, as in the released code.

        Xavier's are so small for many entities that the contrast, which does not depend on lengths, outweighs the rest.
        """
        generator = torch_generator(self.run.seed, f"init:{name}")
        values = torch.randn(rows, self.settings.dim, dtype=self.dtype, generator=generator)
        return nn.Parameter((values * INITIAL_SCALE).to(self.device))

    def graph_moved(self) -> None:
        """The facts that items receive, and the kernels for the graph's device."""
        graph = self.graph
        self.facts: KnowledgePattern = graph.packed.knowledge.keep(None, graph.n_items)
        pairs, n_relations = self.facts.pairs, self.facts.n_relations
        self.item_relation: SparsePattern = SparsePattern(
            graph.n_items, n_relations, pairs.by_row, pairs.rows, self.facts.relation
        )  # fmt: skip
        tails = pairs.by_col.permute(pairs.cols)
        self.tail_relation: SparsePattern = SparsePattern.from_pairs(
            tails, self.facts.tail_relation, pairs.n_cols, n_relations
        )
        self.backend: SparseBackend = choose_backend("auto", graph.device)

    def logits(self) -> Tensor:
        """What attention makes of each fact before the softmax, ``[n_edges]``."""
        item = self.entity[: self.graph.n_items]
        of_tail = edge_dot(self.backend, self.tail_relation, self.entity @ self.of_tail.T, self.relation)
        of_item = edge_dot(self.backend, self.item_relation, item @ self.of_item.T, self.relation)
        return F.leaky_relu(self.facts.pairs.by_col.restore(of_tail) + of_item, LEAK)

    def attentive(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Items with what they gather from their facts, ``[n_items, d]``, or from those where ``mask``."""
        pattern = self.facts.pairs
        if mask is not None:
            kept = Kept(mask)
            pattern, logits = pattern.keep_those(kept), kept.of(logits)
        shares = edge_softmax(self.backend, pattern, logits)
        gathered = weighted_sum_over_columns(self.backend, pattern, shares, self.entity)
        own: Tensor = self.entity[: self.graph.n_items]
        return own + gathered

    def propagate(self) -> tuple[Tensor, Tensor]:
        """User ``[n_users, d]`` and item ``[n_items, d]`` vectors that are scored."""
        return self._light(self.attentive(self.logits()))

    def _light(self, item: Tensor, pattern: SparsePattern | None = None) -> tuple[Tensor, Tensor]:
        pattern = self.graph.packed.interactions if pattern is None else pattern
        return light_propagation(self.backend, pattern, self.user, item, self.settings.layers)

    @torch.no_grad()
    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """The vectors of :meth:`propagate`, whose inner products rank."""
        return self.propagate()

    def shares_kept(self, first: Tensor, second: Tensor) -> Tensor:
        """The probability with which a view keeps an interaction with each item, by the agreement of its vectors.

        Parameters
        ----------
        first, second
            Items in the two views of the facts, ``[n_items, d]`` each; no gradient goes through them.

        Returns
        -------
        Tensor
            ``[n_items]``.
        """
        weight = F.cosine_similarity(first.detach(), second.detach(), dim=1, eps=ROW_NORM_FLOOR).exp()
        low, high = weight.min(), weight.max()
        # Where all items agree alike, none is to be preferred.
        weight = torch.where(high > low, (weight - low) / (high - low).clamp_min(1e-12), 1.0)
        weight = weight.clamp_min(LEAST_AGREEMENT)
        share = 1.0 - float(self.settings.interaction_dropout)
        return (share * weight / weight.mean()).clamp_max(MOST_KEPT)

    def views(self, logits: Tensor, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
        """Two views: user ``[n_users, d]`` and item ``[n_items, d]`` vectors each."""
        interactions = self.graph.packed.interactions
        drawn = (draw_mask(self.facts.n_edges, self.settings.kg_edge_dropout, generator) for _ in range(2))
        items = [self.attentive(logits, mask) for mask in drawn]
        kept = self.shares_kept(*items).index_select(0, interactions.cols)
        found = []
        for item in items:
            random = torch.rand(len(kept), generator=generator, device=kept.device, dtype=kept.dtype)
            found.append(self._light(item, interactions.keep(random < kept)))
        return found

    def contrast(
        self, views: list[tuple[Tensor, Tensor]], users: Tensor, items: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The contrast of a batch's users and items, each taken once, between two views: a scalar."""
        settings, total = self.loss, self.user.new_zeros(())
        for first, second, nodes in zip(*views, (torch.unique(users), torch.unique(items)), strict=True):
            total = total + info_nce(
                self.backend, first, second, nodes, temperature=settings.contrast_temperature, generator=generator
            )
        return total

    def optimizers(self, lr: float) -> dict[str, torch.optim.Optimizer]:
        """One for each pass, as the gradients of the two differ in size."""
        return {name: adam(self.parameters(), lr, self.device) for name in ("interactions", "facts")}

    def axes(self) -> Mapping[str, tuple[Axis, ...]]:
        """Rows of nodes and of relations, and a matrix a relation."""
        relations = (*self.graph.relation_types, "none")[: len(self.relation)]
        return {**super().axes(), "relation": (relations,), "matrices": (relations,)}

    def passes(self, training: TrainingSettings, random: Mapping[str, torch.Generator]) -> Sequence[Pass]:
        """A pass over the interactions, then one over the facts of items, where there are any."""
        settings: KGCLLossSettings = self.loss
        ranking = RankingLoss(self.graph, settings, random[NEGATIVES])
        own = [self.user], [self.entity]

        def of_interactions(users: Tensor, items: Tensor) -> Tensor:
            logits = self.logits()
            total = ranking(*self._light(self.attentive(logits)), users, items, decayed=own)
            if settings.contrast_weight == 0.0:
                return total
            views = self.views(logits, random[VIEWS])
            return total + settings.contrast_weight * self.contrast(views, users, items, random[VIEWS])

        passes = [Pass("interactions", interaction_batches(self.graph, training, random), of_interactions,
                       "interactions")]  # fmt: skip
        if not self.facts.n_edges:
            return passes
        pairs, relation = self.facts.pairs, self.facts.relation
        triples = Triples(pairs.rows, relation, pairs.cols, pairs.n_cols, self.facts.n_relations)

        def of_facts(numbers: Tensor) -> Tensor:
            false = triples.false_tails(numbers, random["facts"]).squeeze(1)
            return self.loss_of_facts(*triples.of(numbers), false)

        batches = TripleBatches(len(triples), settings.fact_batch_size, random["batches"])
        return [*passes, Pass("facts", batches, of_facts, "facts")]

    def loss_of_facts(self, head: Tensor, relation: Tensor, tail: Tensor, false: Tensor) -> Tensor:
        """Loss of a batch of facts of items and of false tails, int64 ``[batch]`` each: a scalar."""
        weight = float(self.loss.fact_decay)
        heads, tails, others = (batch_rows(self.backend, self.entity, nodes) for nodes in (head, tail, false))
        total = transr_loss(heads, relation, tails, others, self.relation, self.matrices)
        squares = heads.square().sum() + tails.square().sum() + others.square().sum()
        return total + weight * squares / (2 * len(head))

    def with_new_items(self, graph: HeteroGraph) -> KGCL:
        """The model with further items, which attend to their facts by relation and tail."""
        return model_with_new_items(self, graph, entities=("entity",))

    @torch.no_grad()
    def fold_in(self) -> FoldIn:
        """New users, zero parameters of theirs being propagated through their items, as LightGCN does it."""
        interactions, layers = self.graph.packed.interactions, self.settings.layers
        item = self.attentive(self.logits())
        sent = [item for _, item in light_layers(self.backend, interactions, self.user, item, layers)][:-1]
        table = light_scales(interactions, self.dtype)[1] * torch.stack(sent).sum(0) / (layers + 1)
        own = self.user.detach() / (layers + 1)
        return EmbeddingFoldIn([WithOwnRows(SumOfRows(table, 0.5), own)], self.ranking_vectors()[1])

    def breakdown(self, folded: FoldedUsers | None = None) -> Breakdown:
        """The score by past items, and by facts and users of the item, with attention as it is."""
        return SummedBreakdown(self.graph, _Sums(self), folded)


class _Sums:
    """User and item as sums (:class:`~hakg_dgl.models.score_sums.Sums`)."""

    @torch.no_grad()
    def __init__(self, model: KGCL) -> None:
        logits, layers, interactions = model.logits(), model.settings.layers, model.graph.packed.interactions
        self.facts: KnowledgePattern = model.facts
        self.shares: Tensor = edge_softmax(model.backend, self.facts.pairs, logits).cpu()
        self.interactions: SparsePattern = interactions
        self.layers: int = layers
        self.of_users, self.of_items = (wide(scale) for scale in light_scales(interactions, model.dtype))
        found = list(light_layers(model.backend, interactions, model.user, model.attentive(logits), layers))
        self.user, self.entity = model.user.detach().cpu(), model.entity.detach().cpu()
        # What layer 0 sends, and what all layers send, both without the last, which sends nothing.
        self.first, self.sent = wide(found[0][1]), wide(torch.stack([item for _, item in found[:-1]]).sum(0))
        self.sent_by_users: Tensor = wide(torch.stack([user for user, _ in found[:-1]]).sum(0))

    def of_user(self, items: Tensor, number: int, added: bool) -> UserSum:
        """By past items: what they are by themselves and their facts, and what their users make of them."""
        own = wide(self.user[number]) if number >= 0 else torch.zeros_like(self.first[0])
        scale = self.of_items[items] / (max(1, len(items)) ** 0.5 * (self.layers + 1))
        knowledge, all_of_it = scale * self.first[items], scale * self.sent[items]
        return UserSum(own / (self.layers + 1), {"knowledge": knowledge, "collaborative": all_of_it - knowledge})

    def of_item(self, item: int, user: Tensor) -> ItemSum:
        """By facts, which layer 0 has, and by users."""
        node, interactions = torch.tensor([item]), self.interactions
        _, edge, tail = edges_of(self.facts.pairs.by_row, self.facts.pairs.cols, node)
        facts = wide(self.shares[edge, None]) * wide(self.entity[tail]) / (self.layers + 1)
        users = edges_of(interactions.by_col, interactions.rows, node).sender
        from_users = self.of_items[item] * self.of_users[users] * self.sent_by_users[users] / (self.layers + 1)
        own, relation = wide(self.entity[item]) / (self.layers + 1), self.facts.relation.cpu()[edge]
        return ItemSum(own, relation, tail, facts, users, from_users)
