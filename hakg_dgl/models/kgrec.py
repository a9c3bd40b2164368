"""KGRec: facts weighed by how much they explain, some of them masked and rebuilt, and the weak ones left out.

Yang, Huang, Xia and Huang, "Knowledge Graph Self-Supervised Rationalization for Recommendation", KDD 2023 (arXiv
2307.02759).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hakg_dgl.geometry.guards import ROW_NORM_FLOOR
from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.graph.packed import Grouping, Kept, SparsePattern
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.kernels.edge_softmax import edge_softmax
from hakg_dgl.kernels.interface import SparseBackend
from hakg_dgl.kernels.products import edge_dot, sum_by_group, weighted_sum_over_columns
from hakg_dgl.layers.dropout import draw_mask, drop_and_normalise
from hakg_dgl.layers.fact_pairs import FactPairs
from hakg_dgl.layers.losses import batch_rows
from hakg_dgl.layers.views import info_nce, light_propagation
from hakg_dgl.models.explanation import Breakdown
from hakg_dgl.models.kgin import mean_over_columns
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
from hakg_dgl.ranking.fold_in import EmbeddingFoldIn, FoldedUsers, FoldIn, SumOfUnitMeans, WithOwnRows
from hakg_dgl.settings.run import GradientRunSettings
from hakg_dgl.settings.section import Range, Section, TrainingOnly
from hakg_dgl.settings.training import TrainingSettings

DROPOUT, MASKS = "dropout", "masks"
PUBLISHED = {
    "layers": 2,
    "ranking_loss": "bpr",
    "weight_decay": 1e-5,
    "masked_facts": 256,
    "rebuild_weight": 0.1,
    "contrast_weight": 0.01,
    "contrast_temperature": 1.0,
    "contrast_dropout": 0.5,
    "lr": 1e-4,
    "batch_size": 1024,
    "select_by": "recall@20",
}
"""The released code's settings for Last-FM. For Alibaba-iFashion the contrast has weight 0.001 and temperature 0.2."""
_RATE = Range(0.0, 1.0, open_high=True)
_COUNT = Range(1, 10_000_000)


@dataclass(frozen=True)
class KGRecSettings(Section):
    """Settings of KGRec.

    Attributes
    ----------
    dim, layers
        Width d of the vectors and number L of propagation layers.
    kg_edge_dropout, interaction_dropout, message_dropout
        Rates: the share of KG edges, of interactions and of layer output coordinates dropped in a training step.
    """

    dim: Annotated[int, Range(1, 4096)] = 64
    layers: Annotated[int, Range(1, 16)] = 1
    kg_edge_dropout: Annotated[float, _RATE, TrainingOnly()] = 0.5
    interaction_dropout: Annotated[float, _RATE, TrainingOnly()] = 0.5
    message_dropout: Annotated[float, _RATE, TrainingOnly()] = 0.1


@dataclass(frozen=True)
class KGRecLossSettings(RankingLossSettings):
    """Settings of KGRec's losses.

    Attributes
    ----------
    rebuild_weight
        Weight of the loss of masked edges.
    masked_facts
        KG edges masked in a training step; no more than half of those that dropout leaves.
    contrast_weight, contrast_temperature
        Weight of the contrast of facts with interactions, and what its cosines are divided by.
    contrast_dropout
        Share of KG edges and of interactions, the weak ones, left out of the contrast.
    """

    rebuild_weight: Annotated[float, Range(0.0, 1e3)] = 0.1
    masked_facts: Annotated[int, Range(1, 10_000_000)] = 256
    contrast_weight: Annotated[float, Range(0.0, 1e3)] = 0.01
    contrast_temperature: Annotated[float, Range(1e-3, 1e3)] = 1.0
    contrast_dropout: Annotated[float, _RATE] = 0.5


@dataclass(frozen=True)
class KGRecTrainingSettings(TrainingSettings):
    """Training that does well on validation; docs/models.md says what was searched."""

    batch_size: Annotated[int, _COUNT] = 4096
    epochs: Annotated[int, _COUNT] = 500
    eval_every: Annotated[int, _COUNT] = 5
    patience: Annotated[int, _COUNT] = 8


class KGRec(GradientRecommender):
    r"""Entities gather their facts by how much these explain; users gather their items.

    .. math:: f(h, r, t) = \frac{(W_Q e_h)^\top (W_K e_t \odot e_r)}{\sqrt d}, \qquad
              \omega(h, r, t) = \mathrm{softmax}_{(r, t) \in N_h} f(h, r, t)

    .. math:: e_h^{(l)} = \sum_{(r, t) \in N_h} \omega(h, r, t)\, e_r \odot e_t^{(l-1)}, \qquad
              e_u^{(l)} = \frac{1}{|I_u|} \sum_{i \in I_u} e_i^{(l-1)}

    each divided by its length, and added up over the layers; the score is the inner product of the sums of user and
    item. In a step, a random share of edges is left out. Of those left,
    :math:`\gamma(h, r, t) = |N_h|\, \omega(h, r, t)` of layer 0 is the rational score, which can be compared among
    heads and lets no gradient through:

    - The ``masked_facts`` edges with the highest score plus Gumbel noise are masked. The ranking loss propagates over
      the others, and what it makes of the entities is to rebuild those masked: the mean of
      :math:`-\ln \sigma(e_h^\top (e_r \odot e_t))`, times ``rebuild_weight``.
    - ``contrast_dropout`` of the edges, those with the lowest score plus noise, are left out, and as large a share of
      the interactions, which are drawn with probabilities in proportion to :math:`e^{\phi_i}`, the mean score
      :math:`\phi_i` of the edges at the item i, without replacement. The items of both graphs, mapped by a
      network each, are contrasted (:func:`~hakg_dgl.layers.views.info_nce`) for the items of the batch, times
      ``contrast_weight``: those of the interactions by light propagation, those of the facts by the mean of
      :math:`e_r \odot e_t`.

    The formulas are those of the paper. The released code has one matrix for query and key, and two heads; it masks as
    many edges at random as by score; it adds the noise to the probabilities of interactions as well, and contrasts
    all items with two others each, one of either view, drawn at random. Division by the length, the mean in the view
    of the facts and the numbers are as released. Facts and links of users take no part.

    Parameters are those of :class:`~hakg_dgl.models.recommender.Recommender`.
    """

    name = "kgrec"
    citation = r"""
@inproceedings{yang2023kgrec,
  author = {Yuhao Yang and Chao Huang and Lianghao Xia and Chunzhen Huang},
  title = {{Knowledge Graph Self-Supervised Rationalization for Recommendation}},
  booktitle = {Proceedings of the 29th ACM SIGKDD Conference on Knowledge Discovery and Data Mining},
  year = {2023},
  pages = {3046--3056},
  doi = {10.1145/3580305.3599400},
  eprint = {2307.02759},
  archivePrefix = {arXiv}
}
"""
    sections = Sections(KGRecSettings, KGRecLossSettings, KGRecTrainingSettings, GradientRunSettings)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"published": PUBLISHED}
    space: ClassVar[Mapping[str, Any]] = {
        "lr": {"low": 3e-4, "high": 1e-2, "log": True},
        "weight_decay": {"low": 1e-4, "high": 1.0, "log": True},
        "layers": {"low": 1, "high": 3},
        "rebuild_weight": {"low": 1e-3, "high": 1.0, "log": True},
        "contrast_weight": {"low": 1e-3, "high": 1.0, "log": True},
        "contrast_temperature": {"low": 0.1, "high": 1.0, "log": True},
    }
    abilities = Abilities(facts=True, vectors=True, folds_in_users=True, new_items=True, explains=True)
    streams = (NEGATIVES, DROPOUT, MASKS)

    @classmethod
    def idle_settings(cls, values: Mapping[str, Any]) -> Mapping[str, str]:
        """Settings of the other ranking loss, and those of terms that have no weight."""
        idle = idle_ranking_settings(values)
        if values["rebuild_weight"] == 0.0:
            idle["masked_facts"] = "with a rebuild_weight above 0"
        if values["contrast_weight"] == 0.0:
            idle |= dict.fromkeys(("contrast_temperature", "contrast_dropout"), "with a contrast_weight above 0")
        return idle

    def build(self) -> None:
        """Vectors of users, entities and relations, the matrices of the scores, and the networks of the contrast."""
        graph, dim = self.graph, self.settings.dim
        self.user: nn.Parameter = self.parameter("user", graph.n_users, dim)
        self.entity: nn.Parameter = self.parameter("entity", graph.n_entities, dim)
        self.relation: nn.Parameter = self.parameter("relation", 2 * graph.n_relations, dim)
        self.query: nn.Parameter = self.parameter("query", dim, dim)
        self.key: nn.Parameter = self.parameter("key", dim, dim)
        self.networks: nn.ModuleDict = nn.ModuleDict({view: self._network(view) for view in ("interactions", "facts")})
        self.graph_moved()

    def _network(self, view: str) -> nn.Sequential:
        """Two linear maps with ReLU between, Xavier-uniform from streams of their own, and zero biases."""
        dim, maps = self.settings.dim, []
        for number in range(2):
            linear = nn.Linear(dim, dim, dtype=self.dtype, device=self.device)
            linear.weight = self.parameter(f"network:{view}:{number}", dim, dim)
            nn.init.zeros_(linear.bias)
            maps.append(linear)
        return nn.Sequential(maps[0], nn.ReLU(), maps[1])

    def graph_moved(self) -> None:
        """Choose the kernels for the graph's device, and find the pairs of relation and tail."""
        self.backend: SparseBackend = choose_backend("auto", self.graph.device)
        self.edges: FactPairs = FactPairs(self.graph.packed.knowledge, self.backend)

    def scores(self, pattern: SparsePattern, entity: Tensor) -> Tensor:
        """f of each edge of a pattern of heads and pairs, ``[n_edges]``."""
        keys = self.edges.products(self.relation, entity @ self.key.T)
        queries = entity[: pattern.n_rows] @ self.query.T
        return edge_dot(self.backend, pattern, queries, keys) / math.sqrt(self.settings.dim)

    @torch.no_grad()
    def rational_scores(self, pattern: SparsePattern, scores: Tensor | None = None) -> Tensor:
        """γ of each edge, ``[n_edges]``, from f by the vectors of layer 0, which is computed if it is not given."""
        scores = self.scores(pattern, self.entity) if scores is None else scores.detach()
        shares = edge_softmax(self.backend, pattern, scores)
        return shares * pattern.row_degree.index_select(0, pattern.rows).to(shares.dtype)

    def gather(self, pattern: SparsePattern, entity: Tensor, known: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """What heads receive in a layer, ``[n_heads, d]``; ``known`` are f of the edges and the products of pairs."""
        if known is None:
            known = self.scores(pattern, entity), self.edges.products(self.relation, entity)
        return weighted_sum_over_columns(self.backend, pattern, edge_softmax(self.backend, pattern, known[0]), known[1])

    def propagate(
        self,
        facts: SparsePattern | None = None,
        interactions: SparsePattern | None = None,
        dropout: torch.Generator | None = None,
        known: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """User ``[n_users, d]`` and entity ``[n_entities, d]`` vectors, items first, that are scored.

        Parameters
        ----------
        facts, interactions
            Edges to propagate over; all if None.
        dropout
            Switches dropout of coordinates on.
        known
            Of layer 0, f of the edges of ``facts`` and the products of pairs; computed if None.
        """
        n_items = self.graph.n_items
        facts = self.edges.pattern if facts is None else facts
        interactions = self.graph.packed.interactions if interactions is None else interactions
        entity: Tensor = self.entity
        users: Tensor = self.user
        entities = entity
        for _ in range(self.settings.layers):
            mean = mean_over_columns(self.backend, interactions, entity[:n_items], None)
            entity, known = self._after_layer(self.gather(facts, entity, known), dropout), None
            users, entities = users + self._after_layer(mean, dropout), entities + entity
        return users, entities

    def _after_layer(self, received: Tensor, dropout: torch.Generator | None) -> Tensor:
        return drop_and_normalise(received, self.settings.message_dropout, dropout)

    @torch.no_grad()
    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """The vectors of :meth:`propagate`, whose inner products rank."""
        users, entities = self.propagate()
        return users, entities[: self.graph.n_items].clone()

    def axes(self) -> Mapping[str, tuple[Axis, ...]]:
        """Rows of nodes and of relations."""
        relations = (*self.graph.relation_types, "none")[: len(self.relation)]
        return {**super().axes(), "relation": (relations,)}

    def passes(self, training: TrainingSettings, random: Mapping[str, torch.Generator]) -> Sequence[Pass]:
        """One pass over the interactions."""
        settings: KGRecLossSettings = self.loss
        ranking = RankingLoss(self.graph, settings, random[NEGATIVES])
        own = [self.user], [self.entity]

        def loss(users: Tensor, items: Tensor) -> Tensor:
            facts, interactions = self.sampled(random[DROPOUT])
            scores, products = self.scores(facts, self.entity), self.edges.products(self.relation, self.entity)
            score = self.rational_scores(facts, scores)
            noisy = score + gumbel(score, random[MASKS])
            masked = torch.zeros_like(noisy, dtype=torch.bool)
            if settings.rebuild_weight > 0.0:
                masked[noisy.topk(min(settings.masked_facts, len(noisy) // 2)).indices] = True
            kept = Kept(~masked)
            known = kept.of(scores), products
            user, entity = self.propagate(facts.keep_those(kept), interactions, random[DROPOUT], known)
            total = ranking(user, entity[: self.graph.n_items], users, items, decayed=own)
            if bool(masked.any()):
                total = total + settings.rebuild_weight * self.rebuild(entity, facts, masked)
            if settings.contrast_weight > 0.0:
                views = self.views(facts, interactions, score, noisy, random[MASKS], products)
                total = total + settings.contrast_weight * self.contrast(views, items, random[MASKS])
            return total

        return [Pass("interactions", interaction_batches(self.graph, training, random), loss)]

    def sampled(self, generator: torch.Generator) -> tuple[SparsePattern, SparsePattern]:
        """The KG edges and the interactions of a training step."""
        settings, found = self.settings, []
        rates = settings.kg_edge_dropout, settings.interaction_dropout
        for pattern, rate in zip((self.edges.pattern, self.graph.packed.interactions), rates, strict=True):
            mask = draw_mask(pattern.n_edges, rate, generator)
            found.append(pattern if mask is None else pattern.keep(mask))
        return found[0], found[1]

    def rebuild(self, entity: Tensor, facts: SparsePattern, masked: Tensor) -> Tensor:
        r"""Mean of :math:`-\ln \sigma(e_h^\top (e_r \odot e_t))` over masked edges, by the vectors of entities."""
        heads, pairs = facts.rows[masked], facts.cols[masked]
        relation, tail = self.edges.relation[pairs], self.edges.tail[pairs]
        ends = batch_rows(self.backend, entity, heads) * batch_rows(self.backend, entity, tail)
        return -F.logsigmoid((ends * batch_rows(self.backend, self.relation, relation)).sum(1)).mean()

    def item_scores(self, facts: SparsePattern, score: Tensor) -> Tensor:
        """φ, the mean of the rational scores of the edges that begin or end at an item, ``[n_items]``, 1 if none."""
        n, tails = self.graph.n_items, self.edges.tail[facts.cols]
        ends = torch.cat([facts.rows, tails])
        grouping = Grouping.of(ends, max(facts.n_rows, self.graph.n_entities))
        total = sum_by_group(self.backend, grouping, torch.cat([score, score]).unsqueeze(1)).squeeze(1)[:n]
        count = grouping.indptr.diff()[:n]
        return torch.where(count > 0, total / count.clamp_min(1), 1.0)

    def views(
        self,
        facts: SparsePattern,
        interactions: SparsePattern,
        score: Tensor,
        noisy: Tensor,
        generator: torch.Generator,
        products: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Items ``[n_items, d]`` of the interactions and of the facts, each without the weak ones."""
        share, n_items = 1.0 - self.loss.contrast_dropout, self.graph.n_items
        kept = _best(noisy, share)
        weight = self.item_scores(facts, score).index_select(0, interactions.cols)
        drawn = _best(weight + gumbel(weight, generator), share)
        of_interactions = light_propagation(
            self.backend, interactions.keep(drawn), self.user, self.entity[:n_items], self.settings.layers
        )[1]
        pattern = facts.keep_those(Kept(kept))
        entity: Tensor = self.entity
        total = entity
        for number in range(self.settings.layers):
            products = self.edges.products(self.relation, entity) if number else products
            entity = self._after_layer(mean_over_columns(self.backend, pattern, products, None), None)
            total = total + entity
        return of_interactions, total[:n_items]

    def contrast(self, views: tuple[Tensor, Tensor], items: Tensor, generator: torch.Generator) -> Tensor:
        """The contrast of a batch's items, each taken once, between the two views: a scalar."""
        of_interactions, of_facts = (
            self.networks[name](view) for name, view in zip(("interactions", "facts"), views, strict=True)
        )
        return info_nce(
            self.backend, of_interactions, of_facts, torch.unique(items), temperature=self.loss.contrast_temperature,
            generator=generator,
        )  # fmt: skip

    @torch.no_grad()
    def entity_layers(self) -> list[Tensor]:
        """Entities as they enter each layer and as they leave the last, ``[n_entities, d]`` each; without dropout."""
        found: list[Tensor] = [self.entity.detach()]
        for _ in range(self.settings.layers):
            found.append(self._after_layer(self.gather(self.edges.pattern, found[-1]), None))
        return found

    def with_new_items(self, graph: HeteroGraph) -> KGRec:
        """The model with further items, whose facts weigh alike in the first layer."""
        return model_with_new_items(self, graph, entities=("entity",))

    def fold_in(self) -> FoldIn:
        """New users: what propagation gathers from their items, as the trained graph has these."""
        layers = [entity[: self.graph.n_items] for entity in self.entity_layers()[:-1]]
        found = SumOfUnitMeans(layers, unit=False)
        return EmbeddingFoldIn([WithOwnRows(found, self.user.detach())], self.ranking_vectors()[1])

    def breakdown(self, folded: FoldedUsers | None = None) -> Breakdown:
        """The score by past items, and by facts of the item, with attention and lengths as they are."""
        return SummedBreakdown(self.graph, _Sums(self), folded)


class _Sums:
    """User and item as sums (:class:`~hakg_dgl.models.score_sums.Sums`)."""

    @torch.no_grad()
    def __init__(self, model: KGRec) -> None:
        self.edges, layers = model.edges, model.entity_layers()
        self.shares: list[Tensor] = [
            edge_softmax(model.backend, self.edges.pattern, model.scores(self.edges.pattern, entity)).cpu()
            for entity in layers[:-1]
        ]
        self.layers: list[Tensor] = [layer.cpu() for layer in layers]
        self.user, self.relation = wide(model.user), wide(model.relation)

    def of_user(self, items: Tensor, number: int, added: bool) -> UserSum:
        """By past items."""
        own = self.user[number] if number >= 0 else torch.zeros_like(self.user[0])
        part = torch.zeros(len(items), len(own), dtype=torch.float64)
        for layer in self.layers[:-1]:
            part = part + _divided(wide(layer[items]))
        return UserSum(own, {"knowledge": part})

    def of_item(self, item: int, user: Tensor) -> ItemSum:
        """By facts."""
        pattern = self.edges.pattern
        _, edge, pair = edges_of(pattern.by_row, pattern.cols, torch.tensor([item]))
        relation, tail = self.edges.relation.cpu()[pair], self.edges.tail.cpu()[pair]
        facts = torch.zeros(len(pair), len(user), dtype=torch.float64)
        for layer, shares in zip(self.layers, self.shares, strict=False):
            facts = facts + _divided(wide(shares[edge, None]) * self.relation[relation] * wide(layer[tail]))
        return ItemSum(wide(self.layers[0][item]), relation, tail, facts)


def _divided(parts: Tensor) -> Tensor:
    """Parts ``[n, d]`` divided by the length of their sum."""
    length: Tensor = torch.linalg.vector_norm(parts.sum(0)).clamp_min(ROW_NORM_FLOOR)
    return parts / length


def gumbel(like: Tensor, generator: torch.Generator) -> Tensor:
    r"""Gumbel noise :math:`-\ln(-\ln U)` of the shape of a tensor; the k highest of noisy logits are a sample of k."""
    uniform = torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    tiny = torch.finfo(like.dtype).tiny
    return -(-uniform.clamp_min(tiny).log()).clamp_min(tiny).log()


def _best(values: Tensor, share: float) -> Tensor:
    """Where the highest share of values is, at least one of them: bool, of their shape."""
    kept = torch.zeros_like(values, dtype=torch.bool)
    if len(values):
        kept[values.topk(max(1, round(share * len(values)))).indices] = True
    return kept
