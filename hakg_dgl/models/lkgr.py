"""LKGR: users, items and entities on the hyperboloid, each receiving its neighbours in the tangent space at itself.

Chen, Yang, Zhang, Zhao, Meng, Hao and King, "Modeling Scale-free Graphs with Hyperbolic Geometry for Knowledge-aware
Recommendation", WSDM 2022 (arXiv 2108.06468).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from hakg_dgl.geometry.lorentz import add, expmap, expmap0, flip_time, log_scale, logmap0
from hakg_dgl.graph.packed import Grouping, SparsePattern
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.kernels.edge_softmax import edge_softmax
from hakg_dgl.kernels.interface import SparseBackend
from hakg_dgl.kernels.products import edge_dot, sum_of_groups, weighted_sum_over_columns
from hakg_dgl.layers.losses import batch_rows
from hakg_dgl.layers.neighbours import sampled_edges
from hakg_dgl.layers.transr import project_by_relation
from hakg_dgl.models.ranking_loss import NEGATIVES, PointwiseRankingLossSettings, RankingLoss, idle_ranking_settings
from hakg_dgl.models.recommender import Abilities, Axis, GradientRecommender, Pass, Sections, interaction_batches
from hakg_dgl.randomness import numpy_generator
from hakg_dgl.settings.run import GradientRunSettings
from hakg_dgl.settings.section import Range, Section
from hakg_dgl.settings.training import TrainingSettings

PUBLISHED = {
    "dim": 32,
    "layers": 2,
    "sample_size": 8,
    "ranking_loss": "cross-entropy",
    "weight_decay": 1e-7,
    "lr": 2e-3,
    "batch_size": 4096,
    "epochs": 20,
    "select_by": "recall@20",
}
"""What the authors' code has for their data set of films."""
_COUNT = Range(1, 10_000_000)


@dataclass(frozen=True)
class LKGRSettings(Section):
    """Settings of LKGR.

    Attributes
    ----------
    dim, layers
        Width d of the tangent vectors and number L of layers of entities.
    sample_size
        The most neighbours that a node receives, drawn once: a user's items, an item's users, an entity's facts.
    curvature
        c, where the hyperboloid has curvature -c.
    """

    dim: Annotated[int, Range(1, 4096)] = 64
    layers: Annotated[int, Range(1, 16)] = 1
    sample_size: Annotated[int, Range(1, 1_000_000)] = 64
    curvature: Annotated[float, Range(1e-3, 1e3)] = 1.0


@dataclass(frozen=True)
class LKGRTrainingSettings(TrainingSettings):
    """Training that does well on validation; docs/models.md says what was searched."""

    lr: Annotated[float, Range(1e-8, 100.0)] = 5e-3
    batch_size: Annotated[int, _COUNT] = 4096
    epochs: Annotated[int, _COUNT] = 500
    eval_every: Annotated[int, _COUNT] = 5
    patience: Annotated[int, _COUNT] = 8


@dataclass(frozen=True)
class _Facts:
    """Sampled facts of a layer: pattern head x tail, and the products of heads and relations that its edges share."""

    pattern: SparsePattern
    head: Tensor
    relation: Tensor
    by_edge: SparsePattern

    @classmethod
    def of(cls, pattern: SparsePattern, relation: Tensor, n_relations: int) -> _Facts:
        """From each edge's relation, int64 ``[n_edges]``."""
        width = max(1, n_relations)
        pairs, number = torch.unique(pattern.rows * width + relation, return_inverse=True)
        # Edges are sorted by head, then by relation, so that their pairs are sorted too.
        by_edge = SparsePattern.from_pairs(number, pattern.cols, len(pairs), pattern.n_cols)
        return cls(pattern, pairs // width, pairs % width, by_edge)


class LKGR(GradientRecommender):
    r"""Scores inner products of tangent vectors at the origin, after layers on the hyperboloid.

    A node x receives its neighbours y by attention in the tangent space at itself,

    .. math:: a_x = \exp_x\Bigl(\sum_y \mathrm{softmax}_y(\langle W_r x^o, y^o \rangle) \log_x(y)\Bigr)

    with tangent vectors :math:`x^o = \log_o(x)` at the origin and a matrix W for each relation and one for
    interactions. A layer is :math:`\sigma(W \log_o(x \oplus a_x) + b)`, taken back to the hyperboloid; σ is tanh in the
    last layer and ReLU before. Users receive their items once; entities receive the facts in each of L layers, and
    items in the last layer their users too, :math:`x \oplus a^{facts}_x \oplus a^{users}_x` with their vectors from
    before the first.

    Values and distances are those of the released code with its ``sum`` of a node and its neighbours. It draws each
    node's neighbours once, with replacement; here each neighbour is taken once, from the seed alone, so that nothing of
    them is saved. It learns the curvature, has one matrix W for all layers of entities, and adds biases as points; here
    the curvature is a setting, each layer has its matrix, and biases are added in the tangent space. Its products of a
    vector with :math:`W_r` are kept, and those with the matrix of interactions, which it computes as a product with
    the sums of the rows of W, are products with W as published. Everything of an edge is a scalar: the logarithm of y
    at x lies in the plane of both, so no vector is made for an edge. Facts and links of users take no part.

    Parameters are those of :class:`~hakg_dgl.models.recommender.Recommender`.
    """

    name = "lkgr"
    sections = Sections(LKGRSettings, PointwiseRankingLossSettings, LKGRTrainingSettings, GradientRunSettings)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"published": PUBLISHED}
    space: ClassVar[Mapping[str, Any]] = {
        "lr": {"low": 3e-4, "high": 1e-2, "log": True},
        "weight_decay": {"low": 1e-4, "high": 1.0, "log": True},
        "layers": {"low": 1, "high": 2},
        "sample_size": {"low": 8, "high": 64, "log": True},
    }
    abilities = Abilities(facts=True, vectors=True)
    streams = (NEGATIVES,)

    @classmethod
    def idle_settings(cls, values: Mapping[str, Any]) -> Mapping[str, str]:
        """Settings of the softmax beside another loss."""
        return idle_ranking_settings(values)

    def build(self) -> None:
        """Tangent vectors of users and entities, matrices of relations and of layers."""
        graph, dim, layers = self.graph, self.settings.dim, self.settings.layers
        self.user: nn.Parameter = self.parameter("user", graph.n_users, dim)
        self.entity: nn.Parameter = self.parameter("entity", graph.n_entities, dim)
        drawn = [self.parameter(f"matrix:{r}", dim, dim).detach() for r in range(max(1, 2 * graph.n_relations))]
        self.matrices: nn.Parameter = nn.Parameter(torch.stack(drawn))
        self.interaction: nn.Parameter = self.parameter("matrix:interaction", dim, dim)
        self.of_user: nn.Linear = self._linear("user layer")
        self.of_entity: nn.ModuleList = nn.ModuleList(
            [self._linear(f"entity layer:{number}") for number in range(layers)]
        )
        self.graph_moved()

    def _linear(self, name: str) -> nn.Linear:
        """A linear map with a Xavier-uniform matrix from a stream of its own, and zero bias."""
        linear = nn.Linear(self.settings.dim, self.settings.dim, dtype=self.dtype, device=self.device)
        linear.weight = self.parameter(name, self.settings.dim, self.settings.dim)
        nn.init.zeros_(linear.bias)
        return linear

    def graph_moved(self) -> None:
        """Draw neighbours for the graph's device, where they are the same as on any other."""
        graph, size, seed = self.graph, self.settings.sample_size, self.run.seed
        self.backend: SparseBackend = choose_backend("auto", graph.device)
        both = graph.packed.interactions
        by_item = both.by_col
        users = SparsePattern(both.n_cols, both.n_rows, Grouping(by_item.indptr, None), by_item.permute(both.cols),
                              by_item.permute(both.rows))  # fmt: skip
        self.items_of_users: SparsePattern = both.keep(
            sampled_edges(both, size, numpy_generator(seed, "neighbours:user"))
        )
        self.users_of_items: SparsePattern = users.keep(
            sampled_edges(users, size, numpy_generator(seed, "neighbours:item"))
        )
        knowledge = graph.packed.knowledge
        mask = sampled_edges(knowledge.pairs, size, numpy_generator(seed, "neighbours:entity"))
        self.facts: list[_Facts] = []
        needed = torch.arange(graph.n_entities, device=graph.device) < graph.n_items
        for number in range(self.settings.layers):  # from the last layer, which is read for items alone
            kept = mask & needed.index_select(0, knowledge.pairs.rows)
            of_layer = knowledge.keep(kept, graph.n_entities if number else graph.n_items)
            self.facts.insert(0, _Facts.of(of_layer.pairs, of_layer.relation, of_layer.n_relations))
            needed = needed.index_fill(0, of_layer.pairs.cols, True)

    def received(self, pattern: SparsePattern, logits: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Points ``[n_rows, d + 1]`` that rows receive; the origin where a row has no edges.

        Parameters
        ----------
        pattern
            Who receives from whom.
        logits
            Of the attention, ``[n_edges]``.
        x, y
            Points of the rows ``[n_rows, d + 1]`` and of the columns ``[n_cols, d + 1]``.
        """
        c = float(self.settings.curvature)
        product = edge_dot(self.backend, pattern, flip_time(x), y)
        scale = edge_softmax(self.backend, pattern, logits) * log_scale(product, c=c)
        along = sum_of_groups(self.backend, pattern.by_row, pattern.rows, (c * scale * product).unsqueeze(1))
        tangent = weighted_sum_over_columns(self.backend, pattern, scale, y) + along * x
        none = (pattern.row_degree == 0).unsqueeze(1)
        return torch.where(none, expmap0(torch.zeros_like(x[:, 1:]), c=c), expmap(x, tangent, c=c))

    def propagate(self) -> tuple[Tensor, Tensor]:
        """Tangent vectors of users ``[n_users, d]`` and items ``[n_items, d]`` that are scored."""
        c, n_items = float(self.settings.curvature), self.graph.n_items
        user: Tensor = self.user
        entity: Tensor = self.entity
        users, points = expmap0(user, c=c), expmap0(entity, c=c)
        own = entity[:n_items]
        logits = edge_dot(self.backend, self.items_of_users, user @ self.interaction.T, own)
        of_items = self.received(self.items_of_users, logits, users, points[:n_items])
        scored = torch.tanh(self.of_user(logmap0(add(users, of_items, c=c), c=c)))
        logits = edge_dot(self.backend, self.users_of_items, own @ self.interaction.T, user)
        of_users = self.received(self.users_of_items, logits, points[:n_items], users)
        for number, (facts, linear) in enumerate(zip(self.facts, self.of_entity, strict=True), 1):
            points = expmap0(entity, c=c)
            heads = points[: facts.pattern.n_rows]
            total = add(heads, self.received(facts.pattern, self.logits_of(facts, entity), heads, points), c=c)
            if number < len(self.facts):
                entity = torch.relu(linear(logmap0(total, c=c)))
            else:
                entity = torch.tanh(linear(logmap0(add(total, of_users, c=c), c=c)))
        return scored, entity

    def logits_of(self, facts: _Facts, entity: Tensor) -> Tensor:
        """Of the attention on the facts, ``[n_edges]``, from tangent vectors ``[n_entities, d]``."""
        heads = batch_rows(self.backend, entity, facts.head)
        moved = project_by_relation(heads, facts.relation, self.matrices)
        return edge_dot(self.backend, facts.by_edge, moved, entity)

    @torch.no_grad()
    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """The vectors of :meth:`propagate`, whose inner products rank."""
        return self.propagate()

    def axes(self) -> Mapping[str, tuple[Axis, ...]]:
        """Rows of nodes, and a matrix a relation."""
        relations = (*self.graph.relation_types, "none")[: len(self.matrices)]
        return {**super().axes(), "matrices": (relations,)}

    def passes(self, training: TrainingSettings, random: Mapping[str, torch.Generator]) -> Sequence[Pass]:
        """One pass over the interactions."""
        ranking = RankingLoss(self.graph, self.loss, random[NEGATIVES])

        def loss(users: Tensor, items: Tensor) -> Tensor:
            return ranking(*self.propagate(), users, items, decayed=([self.user], [self.entity]))

        return [Pass("interactions", interaction_batches(self.graph, training, random), loss)]
