"""LKGR: users, items and entities on the hyperboloid, each receiving its neighbours in the tangent space at itself.

Chen, Yang, Zhang, Zhao, Meng, Hao and King, "Modeling Scale-free Graphs with Hyperbolic Geometry for Knowledge-aware
Recommendation", WSDM 2022 (arXiv 2108.06468).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from hakg_dgl.geometry.guards import cosh, norm, sinh
from hakg_dgl.geometry.lorentz import (
    add,
    expmap,
    expmap0,
    flip_time,
    inner,
    log_scale,
    logmap0,
    tangent_norm,
    transport0,
)
from hakg_dgl.graph.packed import Grouping, SparsePattern
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.kernels.edge_softmax import edge_softmax
from hakg_dgl.kernels.interface import SparseBackend
from hakg_dgl.kernels.products import edge_dot, sum_of_groups, weighted_sum_over_columns
from hakg_dgl.layers.losses import batch_rows
from hakg_dgl.layers.neighbours import sampled_edges, sampled_facts
from hakg_dgl.layers.transr import project_by_relation
from hakg_dgl.models.drawn_neighbours import DrawnNeighbours
from hakg_dgl.models.explanation import Breakdown
from hakg_dgl.models.ranking_loss import NEGATIVES, PointwiseRankingLossSettings, RankingLoss, idle_ranking_settings
from hakg_dgl.models.recommender import Abilities, Axis, Pass, Sections, interaction_batches
from hakg_dgl.models.score_sums import ItemSum, SummedBreakdown, UserSum, edges_of, wide
from hakg_dgl.randomness import numpy_generator
from hakg_dgl.ranking.fold_in import AboutUsers, EmbeddingFoldIn, FoldedUsers, FoldIn, own_rows
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


class LKGR(DrawnNeighbours):
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
    citation = r"""
@inproceedings{chen2022lkgr,
  author = {Yankai Chen and Menglin Yang and Yingxue Zhang and Mengchen Zhao and Ziqiao Meng and Jianye Hao and Irwin
    King},
  title = {{Modeling Scale-free Graphs with Hyperbolic Geometry for Knowledge-aware Recommendation}},
  booktitle = {Proceedings of the 15th ACM International Conference on Web Search and Data Mining},
  year = {2022},
  pages = {94--102},
  eprint = {2108.06468},
  archivePrefix = {arXiv}
}
"""
    sections = Sections(LKGRSettings, PointwiseRankingLossSettings, LKGRTrainingSettings, GradientRunSettings)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"published": PUBLISHED}
    space: ClassVar[Mapping[str, Any]] = {
        "lr": {"low": 3e-4, "high": 1e-2, "log": True},
        "weight_decay": {"low": 1e-4, "high": 1.0, "log": True},
        "layers": {"low": 1, "high": 2},
        "sample_size": {"low": 8, "high": 64, "log": True},
    }
    abilities = Abilities(facts=True, vectors=True, folds_in_users=True, new_items=True, explains=True)
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
        knowledge = self.known_facts()
        mask = sampled_facts(knowledge, size, numpy_generator(seed, "neighbours:entity"), self.new_items)
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
        none, origin = (pattern.row_degree == 0).unsqueeze(1), expmap0(torch.zeros_like(x[:1, 1:]), c=c)
        return torch.where(none, origin, expmap(x, tangent, c=c))

    def propagate(self) -> tuple[Tensor, Tensor]:
        """Tangent vectors of users ``[n_users, d]`` and items ``[n_items, d]`` that are scored."""
        c = float(self.settings.curvature)
        users, points = expmap0(self.user, c=c), expmap0(self.entity, c=c)
        scored = self.users_from(self.user, users, self.items_of_users, points[: self.graph.n_items])
        return scored, self.entity_layers(users, points)[-1]

    def users_from(self, user: Tensor, users: Tensor, pattern: SparsePattern, items: Tensor) -> Tensor:
        """Tangent vectors ``[n, d]`` of users that are scored.

        Parameters
        ----------
        user, users
            Tangent vectors ``[n, d]`` and points ``[n, d + 1]`` of users without their items.
        pattern
            Which items they receive.
        items
            Points of the items, ``[n_items, d + 1]``.
        """
        c, own = float(self.settings.curvature), self.entity[: self.graph.n_items]
        logits = edge_dot(self.backend, pattern, user @ self.interaction.T, own)
        of_items = self.received(pattern, logits, users, items)
        return torch.tanh(self.of_user(logmap0(add(users, of_items, c=c), c=c)))

    def entity_layers(self, users: Tensor, points: Tensor) -> list[Tensor]:
        """Tangent vectors of entities as they enter each layer, and of items as they leave the last.

        ``users`` and ``points`` are the points of users and entities without their edges.
        """
        c, n_items = float(self.settings.curvature), self.graph.n_items
        own = self.entity[:n_items]
        logits = edge_dot(self.backend, self.users_of_items, own @ self.interaction.T, self.user)
        of_users = self.received(self.users_of_items, logits, points[:n_items], users)
        found: list[Tensor] = [self.entity]
        for number, (facts, linear) in enumerate(zip(self.facts, self.of_entity, strict=True), 1):
            entity = found[-1]
            points = points if number == 1 else expmap0(entity, c=c)
            heads = points[: facts.pattern.n_rows]
            total = add(heads, self.received(facts.pattern, self.logits_of(facts, entity), heads, points), c=c)
            if number < len(self.facts):
                found.append(torch.relu(linear(logmap0(total, c=c))))
            else:
                found.append(torch.tanh(linear(logmap0(add(total, of_users, c=c), c=c))))
        return found

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

    @torch.no_grad()
    def fold_in(self) -> FoldIn:
        """New users at the origin, who receive all their items alike; known ones begin at their own point."""
        items = expmap0(self.entity[: self.graph.n_items], c=float(self.settings.curvature))
        return EmbeddingFoldIn([_UsersOnHyperboloid(self, items)], self.ranking_vectors()[1])

    def breakdown(self, folded: FoldedUsers | None = None) -> Breakdown:
        """The score by past items, and by facts and users of the item that were drawn, with all factors as they are."""
        return SummedBreakdown(self.graph, _Sums(self), folded)


@dataclass(frozen=True)
class _UsersOnHyperboloid:
    """Vectors of users by their items, all of which they receive."""

    model: LKGR
    items: Tensor

    @property
    def width(self) -> int:
        return int(self.model.settings.dim)

    def __call__(self, indptr: Tensor, items: Tensor) -> Tensor:
        return self._from(self.items.new_zeros(len(indptr) - 1, self.width), indptr, items)

    def informed(self, indptr: Tensor, items: Tensor, about: AboutUsers) -> Tensor:
        return self._from(own_rows(self.model.user, about.known), indptr, items)

    def _from(self, own: Tensor, indptr: Tensor, items: Tensor) -> Tensor:
        rows = torch.repeat_interleave(indptr.diff())
        pattern = SparsePattern(len(own), len(self.items), Grouping(indptr, None), rows, items)
        points = expmap0(own, c=float(self.model.settings.curvature))
        return self.model.users_from(own, points, pattern, self.items)


class _Sums:
    """User and item as sums (:class:`~hakg_dgl.models.score_sums.Sums`).

    Every point lies in the span of a node and its neighbours, so that but for the coordinate of time it is a sum of
    theirs.
    """

    @torch.no_grad()
    def __init__(self, model: LKGR) -> None:
        self.model: LKGR = model
        self.c: float = float(model.settings.curvature)
        layers = model.entity_layers(*(expmap0(table, c=self.c) for table in (model.user, model.entity)))
        self.layers: list[Tensor] = [layer.detach().cpu() for layer in layers]
        self.user, self.interaction, self.matrices = (
            x.detach().cpu() for x in (model.user, model.interaction, model.matrices)
        )

    def of_user(self, items: Tensor, number: int, added: bool) -> UserSum:
        """By past items, for trained users by those drawn."""
        own = wide(self.user[number]) if number >= 0 else torch.zeros(self.user.shape[1], dtype=torch.float64)
        drawn = torch.ones(len(items), dtype=torch.bool)
        if not added:
            pattern = self.model.items_of_users
            drawn = torch.isin(items, edges_of(pattern.by_row, pattern.cols, torch.tensor([number])).sender)
        tails = wide(self.layers[0][items[drawn]])
        along, parts = self._received(own, tails, tails @ (wide(self.interaction) @ own))
        found = torch.zeros(len(items), len(own), dtype=torch.float64)
        x = _space(own, self.c)
        by_node, by_received = self._added(x, along * x + parts.sum(0))
        found[drawn] = by_received * parts
        own, found = self._mapped(self.model.of_user, (by_node + by_received * along) * x, found, last=True)
        return UserSum(own, {"interactions": found})

    def of_item(self, item: int, user: Tensor) -> ItemSum:
        """By facts and users that were drawn."""
        facts, users = self.model.facts[-1], self.model.users_of_items
        _, edge, tail = edges_of(facts.pattern.by_row, facts.pattern.cols, torch.tensor([item]))
        relation = facts.relation.cpu()[facts.by_edge.rows.cpu()[edge]]
        own, of_facts = wide(self.layers[0][item]), torch.zeros(len(tail), len(user), dtype=torch.float64)
        senders = edges_of(users.by_row, users.cols, torch.tensor([item])).sender
        sent, first = wide(self.user[senders]), _space(own, self.c)
        along_users, of_users = self._received(own, sent, sent @ (wide(self.interaction) @ own))
        matrices = wide(self.matrices[relation])
        for number, linear in enumerate(self.model.of_entity):
            node, tails, last = own + of_facts.sum(0), wide(self.layers[number][tail]), number == len(self.layers) - 2
            scale, received = _scale(node, self.c), of_users[:0]
            along, parts = self._received(node, tails, (tails * (matrices @ node)).sum(1))
            by_node, by_received = self._added(scale * node, along * scale * node + parts.sum(0))
            by_node = (by_node + by_received * along) * scale
            own, of_facts = by_node * own, by_node * of_facts + by_received * parts
            if last:
                by_node, by_received = self._added(own + of_facts.sum(0), along_users * first + of_users.sum(0))
                own = by_node * own + by_received * along_users * first
                of_facts, received = by_node * of_facts, by_received * of_users
            own, rows = self._mapped(linear, own, torch.cat([of_facts, received]), last=last)
            of_facts, received = rows[: len(tail)], rows[len(tail) :]
        return ItemSum(own, relation, tail, of_facts, senders, received)

    def _received(self, node: Tensor, tails: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """What a node receives, but for the time: how much of its own point, and the part of each tail, ``[n, d]``.

        ``node`` ``[d]`` and ``tails`` ``[n, d]`` are tangent vectors at the origin.
        """
        x, y = expmap0(node, c=self.c), expmap0(tails, c=self.c)
        if not len(y):
            return node.new_zeros(()), tails
        product = inner(x, y)
        scale = logits.softmax(0) * log_scale(product, c=self.c)
        along = (self.c * scale * product).sum()
        length = math.sqrt(self.c) * tangent_norm(x, scale @ y + along * x, c=self.c)[0]
        ratio = sinh(length) / length
        return cosh(length) + ratio * along, ratio * scale.unsqueeze(1) * y[:, 1:]

    def _added(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of x and y in the sum of two points, of which the coordinates of space are given."""
        first, second = (torch.cat([(1.0 / self.c + z.square().sum(0, keepdim=True)).sqrt(), z]) for z in (x, y))
        at_origin = logmap0(second, c=self.c)
        moved = transport0(at_origin, first, c=self.c)
        length = math.sqrt(self.c) * tangent_norm(first, moved, c=self.c)[0]
        ratio = sinh(length) / length
        share = self.c * (x @ at_origin) / (1.0 + math.sqrt(self.c) * first[0])
        return cosh(length) + ratio * share, ratio * _log_scale(y, self.c)

    def _mapped(self, linear: nn.Module, own: Tensor, parts: Tensor, *, last: bool) -> tuple[Tensor, Tensor]:
        """A layer of a point of which the coordinates of space are the sum of ``own`` and ``parts``, ``[n, d]``."""
        weight, bias = wide(linear.weight), wide(linear.bias)  # type: ignore[arg-type]
        scale = _log_scale(own + parts.sum(0), self.c)
        before = weight @ (scale * (own + parts.sum(0))) + bias
        after = torch.tanh(before) if last else torch.relu(before)
        factor = torch.where(before == 0.0, 1.0, after / before)
        return factor * (scale * (weight @ own) + bias), factor * scale * (parts @ weight.T)


def _scale(tangent: Tensor, c: float) -> Tensor:
    """What the exponential map at the origin multiplies a vector ``[d]`` by."""
    length = math.sqrt(c) * norm(tangent)[0]
    return sinh(length) / length


def _space(tangent: Tensor, c: float) -> Tensor:
    """The coordinates of space of the point of a vector ``[d]``."""
    return _scale(tangent, c) * tangent


def _log_scale(space: Tensor, c: float) -> Tensor:
    """What the logarithmic map at the origin multiplies coordinates of space ``[d]`` by."""
    length = math.sqrt(c) * norm(space)[0]
    return torch.asinh(length) / length
