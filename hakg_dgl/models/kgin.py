"""KGIN: users receive their items through intents, entities their neighbours through relations.

Wang, Huang, Wang, Yuan, Liu, He and Chua, "Learning Intents behind Interactions with Knowledge Graph for
Recommendation", WWW 2021 (arXiv 2102.07057).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from hakg_dgl.geometry.guards import ROW_NORM_FLOOR
from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.graph.packed import Grouping, KnowledgePattern, SparsePattern
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.kernels.interface import FusedBackend, SparseBackend
from hakg_dgl.kernels.products import rows_of, sum_over_columns
from hakg_dgl.layers.dropout import draw_mask, drop_and_normalise
from hakg_dgl.models.explanation import Breakdown
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
from hakg_dgl.ranking.fold_in import AboutUsers, EmbeddingFoldIn, FoldedUsers, FoldIn, SumOfRows, own_rows
from hakg_dgl.settings.run import GradientRunSettings
from hakg_dgl.settings.section import Range, Section, TrainingOnly
from hakg_dgl.settings.training import TrainingSettings

Formulation: TypeAlias = Literal["released", "paper"]
DROPOUT = "dropout"
CORRELATION_FLOOR = 1e-8
"""Added to squared distance covariances, whose roots have no finite gradient at 0."""
PUBLISHED = {
    "layers": 3,
    "ranking_loss": "bpr",
    "weight_decay": 1e-5,
    "independence_weight": 1e-4,
    "lr": 1e-4,
    "batch_size": 1024,
    "select_by": "recall@20",
}
"""The publication's settings for Last-FM and Alibaba-iFashion; for Amazon-Book ``independence_weight`` is 1e-5."""
_RATE = Range(0.0, 1.0, open_high=True)


@dataclass(frozen=True)
class KGINSettings(Section):
    """Settings of KGIN.

    Attributes
    ----------
    formulation
        ``released`` (what the authors' code computes) or ``paper`` (the published equations).
    dim, layers
        Width d of the vectors and number L of propagation layers.
    intents
        Number of intents.
    kg_edge_dropout, interaction_dropout, message_dropout
        Rates: the share of KG edges, of interactions and of layer output coordinates dropped in a training step. The
        paper's formulation has no dropout of coordinates.
    """

    formulation: Formulation = "released"
    dim: Annotated[int, Range(1, 4096)] = 64
    layers: Annotated[int, Range(1, 16)] = 1
    intents: Annotated[int, Range(1, 1024)] = 4
    kg_edge_dropout: Annotated[float, _RATE, TrainingOnly()] = 0.5
    interaction_dropout: Annotated[float, _RATE, TrainingOnly()] = 0.5
    message_dropout: Annotated[float, _RATE, TrainingOnly()] = 0.1


@dataclass(frozen=True)
class KGINLossSettings(RankingLossSettings):
    """Settings of KGIN's losses.

    Attributes
    ----------
    independence_weight
        Weight of the distance correlations between intents.
    """

    independence_weight: Annotated[float, Range(0.0, 1e3)] = 1e-4


@dataclass(frozen=True)
class KGINTrainingSettings(TrainingSettings):
    """Training that does well on validation; docs/models.md says what was searched."""

    epochs: Annotated[int, Range(1, 10_000_000)] = 500
    eval_every: Annotated[int, Range(1, 10_000_000)] = 5
    patience: Annotated[int, Range(1, 10_000_000)] = 8
    batch_size: Annotated[int, Range(1, 10_000_000)] = 4096


class RelationalMean:
    r"""What entities receive: :math:`\frac{1}{|N_h|} \sum_{(r, t) \in N_h} e_r \odot e_t` (KGIN eq. 9).

    The same relation to the same tail is one product for all heads, so the products are made once for each pair (r, t)
    and then added up by the kernels: nothing of size edges x d is made.

    Parameters
    ----------
    knowledge
        Facts with their inverses.
    backend
        Who adds up.
    """

    def __init__(self, knowledge: KnowledgePattern, backend: SparseBackend) -> None:
        edges, n_tails = knowledge.pairs, knowledge.pairs.n_cols
        pairs, column = torch.unique(knowledge.relation * n_tails + edges.cols, return_inverse=True)
        self.backend = backend
        self.pattern: SparsePattern = SparsePattern.from_pairs(edges.rows, column, edges.n_rows, len(pairs))
        self.relation, self.tail = pairs // n_tails, pairs % n_tails
        self._by_relation = Grouping.of(self.relation, knowledge.n_relations)
        self._by_tail = Grouping.of(self.tail, n_tails)

    def __call__(self, entity: Tensor, relation: Tensor, mask: Tensor | None = None) -> Tensor:
        """Means ``[n_entities, d]``, zero for entities without edges.

        Parameters
        ----------
        entity, relation
            ``[n_entities, d]`` and ``[2R, d]``.
        mask
            Which edges are kept, bool ``[n_edges]``; all if None. The mean is over those kept.
        """
        tails = rows_of(self.backend, self._by_tail, self.tail, entity)
        products = rows_of(self.backend, self._by_relation, self.relation, relation) * tails
        return mean_over_columns(self.backend, self.pattern, products, mask)


def mean_over_columns(backend: SparseBackend, pattern: SparsePattern, values: Tensor, mask: Tensor | None) -> Tensor:
    """For each row the mean of ``values[col]`` over its edges where ``mask``: ``[n_cols, d] -> [n_rows, d]``."""
    if mask is not None:
        pattern = pattern.keep(mask, padded=isinstance(backend, FusedBackend))
    total = sum_over_columns(backend, pattern, values)
    return total / pattern.row_degree.clamp_min(1).to(total.dtype).unsqueeze(1)


def distance_correlation(x: Tensor, y: Tensor) -> Tensor:
    r"""Distance correlation of two vectors, their coordinates being the sample (Székely et al. 2007).

    With the doubly centred distances :math:`A_{ij}` of the coordinates of x and :math:`B_{ij}` of those of y,
    :math:`\mathrm{dCov}^2(x, y) = \frac{1}{d^2} \sum_{ij} A_{ij} B_{ij}`, and
    :math:`\mathrm{dCor}(x, y) = \mathrm{dCov}(x, y) / \sqrt{\mathrm{dCov}(x, x) \mathrm{dCov}(y, y)}`.

    Parameters
    ----------
    x, y
        ``[d]`` each.

    Returns
    -------
    Tensor
        A scalar in [0, 1], up to the floor :data:`CORRELATION_FLOOR`.
    """
    a, b = (_centred_distances(values) for values in (x, y))
    covariance, of_x, of_y = (((p * q).mean() + CORRELATION_FLOOR).sqrt() for p, q in ((a, b), (a, a), (b, b)))
    return covariance / (of_x * of_y).sqrt()


def _centred_distances(values: Tensor) -> Tensor:
    distances = (values.unsqueeze(0) - values.unsqueeze(1)).abs()
    means = distances.mean(0)
    return distances - means.unsqueeze(0) - means.unsqueeze(1) + means.mean()


class KGIN(GradientRecommender):
    r"""Sums over layers of what users receive through intents, and entities through relations.

    .. math:: e_p = \sum_r \mathrm{softmax}_r(w_p)\, e_r, \qquad
              e_h^{(l)} = \frac{1}{|N_h|} \sum_{(r, t) \in N_h} e_r \odot e_t^{(l-1)}

    .. math:: e_u^{(l)} = \frac{1}{|I_u|} \sum_{i \in I_u} \sum_p \beta(u, p)\, e_p \odot e_i^{(l-1)}
              = m_u^{(l)} \odot \sum_p \beta(u, p)\, e_p, \qquad
              m_u^{(l)} = \frac{1}{|I_u|} \sum_{i \in I_u} e_i^{(l-1)}

    The score is the inner product of :math:`\sum_{l=0}^{L} e_u^{(l)}` and :math:`\sum_{l=0}^{L} e_i^{(l)}`, where items
    are entities. The loss is the ranking loss, its L2 term over the parameters of a batch, and
    ``independence_weight`` times the sum of the distance correlations between intents.

    The formulations differ in three points. As published, :math:`\beta(u, p) = \mathrm{softmax}_p \langle e_u^{(0)},
    e_p \rangle`, and layers are as above. The released code takes :math:`\mathrm{softmax}_p \langle e_u^{(l-1)}, k_p
    \rangle` with vectors k of its own; a user receives :math:`m_u^{(l)}` once more beside the product; and what a layer
    receives is divided by its length, after dropout. Without that, products of small vectors fade from layer to layer.
    The released code correlates the logits w of the intents; here, in both formulations, the intents are correlated,
    as published. Edges that are dropped are left out of the means; the released code scales up those of users instead.
    Facts and links of users take no part.

    Parameters are those of :class:`~hakg_dgl.models.recommender.Recommender`.
    """

    name = "kgin"
    citation = r"""
@inproceedings{wang2021kgin,
  author = {Xiang Wang and Tinglin Huang and Dingxian Wang and Yancheng Yuan and Zhenguang Liu and Xiangnan He and
    Tat-Seng Chua},
  title = {{Learning Intents behind Interactions with Knowledge Graph for Recommendation}},
  booktitle = {Proceedings of the Web Conference 2021},
  year = {2021},
  pages = {878--887},
  doi = {10.1145/3442381.3450133},
  eprint = {2102.07057},
  archivePrefix = {arXiv}
}
"""
    sections = Sections(KGINSettings, KGINLossSettings, KGINTrainingSettings, GradientRunSettings)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"published": PUBLISHED}
    space: ClassVar[Mapping[str, Any]] = {
        "lr": {"low": 3e-4, "high": 1e-2, "log": True},
        "weight_decay": {"low": 1e-4, "high": 1.0, "log": True},
        "layers": {"low": 1, "high": 3},
        "intents": [1, 2, 4, 8],
        "kg_edge_dropout": {"low": 0.0, "high": 0.8},
        "interaction_dropout": {"low": 0.0, "high": 0.8},
    }
    abilities = Abilities(facts=True, vectors=True, folds_in_users=True, new_items=True, explains=True)
    streams = (NEGATIVES, DROPOUT)

    @classmethod
    def idle_settings(cls, values: Mapping[str, Any]) -> Mapping[str, str]:
        """Settings of the other ranking loss, and dropout that the paper's formulation does not have."""
        idle = idle_ranking_settings(values)
        if values["formulation"] == "paper":
            idle["message_dropout"] = "with formulation = 'released'"
        return idle

    def build(self) -> None:
        """Vectors of users, entities and relations, and what intents are made of."""
        graph, settings = self.graph, self.settings
        n_relations = 2 * graph.n_relations
        self.user: torch.nn.Parameter = self.parameter("user", graph.n_users, settings.dim)
        self.entity: torch.nn.Parameter = self.parameter("entity", graph.n_entities, settings.dim)
        self.relation: torch.nn.Parameter = self.parameter("relation", n_relations, settings.dim)
        self.mixture: torch.nn.Parameter = self.parameter("mixture", settings.intents, n_relations)
        if settings.formulation == "released":
            self.key: torch.nn.Parameter = self.parameter("key", settings.intents, settings.dim)
        self.graph_moved()

    def axes(self) -> Mapping[str, tuple[Axis, ...]]:
        """Rows of users, entities and relations; intents mix relations."""
        relations = self.graph.relation_types
        return {**super().axes(), "relation": (relations,), "mixture": (None, relations)}

    def graph_moved(self) -> None:
        """Choose the kernels for the graph's device."""
        self.backend: SparseBackend = choose_backend("auto", self.graph.device)
        self.relational_mean: RelationalMean = RelationalMean(self.graph.packed.knowledge, self.backend)

    def intents(self) -> Tensor:
        """The vectors of the intents, ``[n_intents, d]``."""
        return self.mixture.softmax(1) @ self.relation

    def through_intents(self, user: Tensor, mean: Tensor) -> Tensor:
        """What users receive, ``[n, d]``, from the vectors that choose among intents and the means of their items."""
        released, intents = self.settings.formulation == "released", self.intents()
        shares = (user @ (self.key if released else intents).T).softmax(1)
        received = mean * (shares @ intents)
        return received + mean if released else received

    def propagate(self, dropout: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """User ``[n_users, d]`` and item ``[n_items, d]`` vectors that are scored; a generator switches dropout on."""
        settings, graph = self.settings, self.graph
        interactions = graph.packed.interactions
        kept_facts = kept_interactions = None
        if dropout is not None:
            kept_facts = draw_mask(self.relational_mean.pattern.n_edges, settings.kg_edge_dropout, dropout)
            kept_interactions = draw_mask(interactions.n_edges, settings.interaction_dropout, dropout)
        user: Tensor = self.user
        entity: Tensor = self.entity
        users, items = user, entity[: graph.n_items]
        for _ in range(settings.layers):
            mean = mean_over_columns(self.backend, interactions, entity[: graph.n_items], kept_interactions)
            chooser = user if settings.formulation == "released" else self.user
            user = self._after_layer(self.through_intents(chooser, mean), dropout)
            entity = self._after_layer(self.relational_mean(entity, self.relation, kept_facts), dropout)
            users, items = users + user, items + entity[: graph.n_items]
        return users, items

    def _after_layer(self, received: Tensor, dropout: torch.Generator | None) -> Tensor:
        """Unit rows, with dropout of coordinates before, in the released formulation."""
        if self.settings.formulation == "paper":
            return received
        return drop_and_normalise(received, self.settings.message_dropout, dropout)

    @torch.no_grad()
    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """The vectors of :meth:`propagate`, whose inner products rank."""
        return self.propagate()

    def passes(self, training: TrainingSettings, random: Mapping[str, torch.Generator]) -> Sequence[Pass]:
        """One pass over the interactions."""
        settings: KGINLossSettings = self.loss
        ranking = RankingLoss(self.graph, settings, random[NEGATIVES])
        own = [self.user], [self.entity]

        def loss(users: Tensor, items: Tensor) -> Tensor:
            total = ranking(*self.propagate(random[DROPOUT]), users, items, decayed=own)
            return total + settings.independence_weight * self.dependence()

        return [Pass("interactions", interaction_batches(self.graph, training, random), loss)]

    def dependence(self) -> Tensor:
        """The sum of the distance correlations of all pairs of intents, a scalar."""
        pairs = combinations(self.intents().unbind(), 2)
        return sum((distance_correlation(*pair) for pair in pairs), start=self.relation.new_zeros(()))

    def with_new_items(self, graph: HeteroGraph) -> KGIN:
        """The model with further items, which have what propagation brings from their facts."""
        return model_with_new_items(self, graph, entities=("entity",))

    @torch.no_grad()
    def entity_layers(self) -> list[Tensor]:
        """Entities as they enter each layer and as they leave the last, ``[n_entities, d]`` each; without dropout."""
        found: list[Tensor] = [self.entity.detach()]
        for _ in range(self.settings.layers):
            found.append(self._after_layer(self.relational_mean(found[-1], self.relation), None))
        return found

    def fold_in(self) -> FoldIn:
        """New users, zero parameters of theirs being propagated through their items as the trained graph has them."""
        item_layers = [entity[: self.graph.n_items] for entity in self.entity_layers()[:-1]]
        return EmbeddingFoldIn([_UsersThroughIntents(self, item_layers)], self.ranking_vectors()[1])

    def breakdown(self, folded: FoldedUsers | None = None) -> Breakdown:
        """The score by past items and intents, and by facts of the item, with shares and lengths as they are."""
        return SummedBreakdown(self.graph, _Sums(self), folded)


@dataclass(frozen=True)
class _UsersThroughIntents:
    """What propagation gathers for users whose parameters are zero, by the items that enter each layer."""

    model: KGIN
    layers: Sequence[Tensor]

    @property
    def width(self) -> int:
        return self.layers[0].shape[1]

    def __call__(self, indptr: Tensor, items: Tensor) -> Tensor:
        return self._from(self.layers[0].new_zeros(len(indptr) - 1, self.width), indptr, items)

    def informed(self, indptr: Tensor, items: Tensor, about: AboutUsers) -> Tensor:
        return self._from(own_rows(self.model.user, about.known), indptr, items)

    def _from(self, own: Tensor, indptr: Tensor, items: Tensor) -> Tensor:
        model = self.model
        user = total = own
        for layer in self.layers:
            chooser = user if model.settings.formulation == "released" else own
            received = model.through_intents(chooser, SumOfRows(layer, 1.0)(indptr, items))
            user = model._after_layer(received, None)
            total = total + user
        return total


class _Sums:
    """User and item as sums (:class:`~hakg_dgl.models.score_sums.Sums`)."""

    @torch.no_grad()
    def __init__(self, model: KGIN) -> None:
        self.layers: list[Tensor] = [layer.cpu() for layer in model.entity_layers()]
        self.user, self.relation, self.intents = wide(model.user), wide(model.relation), wide(model.intents())
        self.released: bool = model.settings.formulation == "released"
        self.key: Tensor = wide(model.key) if self.released else self.intents
        self.pairs: RelationalMean = model.relational_mean

    def _factor(self, received: Tensor) -> Tensor:
        """What a layer multiplies what is received by."""
        norm = torch.linalg.vector_norm(received).clamp_min(ROW_NORM_FLOOR)
        return norm.reciprocal() if self.released else torch.ones_like(norm)

    def of_user(self, items: Tensor, number: int, added: bool) -> UserSum:
        """By past items, and what carries them: each of the intents, and as released the interaction itself."""
        own = self.user[number] if number >= 0 else torch.zeros_like(self.user[0])
        through = torch.zeros(len(self.intents), len(items), len(own), dtype=torch.float64)
        plain, chooser = torch.zeros_like(through[0]), own
        for layer in self.layers[:-1]:
            shares = (self.key @ (chooser if self.released else own)).softmax(0)
            sent = wide(layer[items]) / max(1, len(items))
            parts = shares[:, None, None] * self.intents[:, None] * sent
            received = parts.sum((0, 1)) + (sent.sum(0) if self.released else 0.0)
            factor = self._factor(received)
            through, plain, chooser = through + factor * parts, plain + factor * sent, factor * received
        ways = {f"intent {place}": part for place, part in enumerate(through, 1)}
        return UserSum(own, {"interactions": plain, **ways} if self.released else ways)

    def of_item(self, item: int, user: Tensor) -> ItemSum:
        """By facts."""
        pattern = self.pairs.pattern
        pair = edges_of(pattern.by_row, pattern.cols, torch.tensor([item])).sender
        relation, tail = self.pairs.relation.cpu()[pair], self.pairs.tail.cpu()[pair]
        facts = torch.zeros(len(pair), len(user), dtype=torch.float64)
        for layer in self.layers[:-1]:
            sent = self.relation[relation] * wide(layer[tail]) / max(1, len(pair))
            facts = facts + self._factor(sent.sum(0)) * sent
        return ItemSum(wide(self.layers[0][item]), relation, tail, facts)
