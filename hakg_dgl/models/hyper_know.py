"""Hyper-Know: users and items near each other in the Poincaré ball, items near the midpoint of their facts.

Ma, Ma, Zhang, Wu, Liu and Coates, "Knowledge-Enhanced Top-K Recommendation in Poincaré Ball", AAAI 2021 (arXiv
2101.04852).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from hakg_dgl.geometry.lorentz import distance as lorentz_distance
from hakg_dgl.geometry.lorentz import flip_time
from hakg_dgl.geometry.poincare import (
    distance,
    distance_by_products,
    einstein_midpoint,
    expmap0,
    hyperboloid,
    mobius_add,
    project,
)
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.kernels.edge_softmax import edge_softmax
from hakg_dgl.kernels.interface import SparseBackend
from hakg_dgl.kernels.products import edge_dot, rows_of, weighted_sum_over_columns
from hakg_dgl.layers.fact_pairs import FactPairs
from hakg_dgl.layers.losses import batch_rows
from hakg_dgl.layers.sampling import EpochBatches
from hakg_dgl.models.optimizer import adam
from hakg_dgl.models.ranking_loss import NEGATIVES, RankingLoss, RankingLossSettings, idle_ranking_settings
from hakg_dgl.models.recommender import Abilities, Axis, GradientRecommender, Pass, Sections, interaction_batches
from hakg_dgl.randomness import torch_generator
from hakg_dgl.settings.run import GradientRunSettings
from hakg_dgl.settings.section import Range, Section, TrainingOnly
from hakg_dgl.settings.training import TrainingSettings

HyperKnowRanking: TypeAlias = Literal["hinge", "bpr", "softmax"]
OUTER_EVERY = 4
"""Steps of the model for each step of the weights of items."""
PROBE = 0.01
"""Length of the step along the outer gradient by which slopes are measured (Liu et al. 2019, DARTS, section 2.3)."""
_COUNT = Range(1, 10_000_000)


@dataclass(frozen=True)
class HyperKnowSettings(Section):
    """Settings of Hyper-Know.

    Attributes
    ----------
    dim
        Width d of the vectors.
    init_scale
        Standard deviation of the first vectors.
    """

    dim: Annotated[int, Range(1, 4096)] = 64
    init_scale: Annotated[float, Range(1e-6, 10.0), TrainingOnly()] = 0.01


@dataclass(frozen=True)
class HyperKnowLossSettings(RankingLossSettings):
    """Settings of Hyper-Know's losses.

    Attributes
    ----------
    ranking_loss
        ``hinge`` on distances, as published; ``softmax`` or ``bpr`` on Lorentzian inner products.
    margin
        Of the hinge: how much nearer a positive shall be than a negative.
    fact_weight
        Weight of the distances of items to the midpoints of their facts.
    adaptive
        Whether items have weights of their own beside it, which are learned.
    """

    ranking_loss: HyperKnowRanking = "softmax"  # type: ignore[assignment]
    weight_decay: Annotated[float, Range(0.0, 1e3)] = 0.5
    margin: Annotated[float, Range(0.0, 1e3)] = 0.5
    fact_weight: Annotated[float, Range(0.0, 1e6)] = 5.0
    adaptive: bool = True


@dataclass(frozen=True)
class HyperKnowTrainingSettings(TrainingSettings):
    """Training that does well on validation; docs/models.md says what was searched."""

    batch_size: Annotated[int, _COUNT] = 4096
    epochs: Annotated[int, _COUNT] = 500
    eval_every: Annotated[int, _COUNT] = 5
    patience: Annotated[int, _COUNT] = 8


class HyperKnow(GradientRecommender):
    r"""Points of the Poincaré ball; an item is drawn to the midpoint of its facts, as much as it helps to rank.

    .. math:: m_{rt} = x_t \oplus x_r, \qquad
              \alpha(i, r, t) = \mathrm{softmax}_{(r, t) \in N_i}(-d(x_i, m_{rt})), \qquad
              n_i = \mathrm{mid}_{(r, t) \in N_i}(\alpha(i, r, t), m_{rt})

    with the distance d of the ball and the Einstein midpoint (:func:`~hakg_dgl.geometry.poincare.einstein_midpoint`).
    Items are ranked by :math:`-d(x_u, x_i)`. The loss is the mean of the hinge :math:`\max(0, m + d(x_u, x_i) -
    d(x_u, x_j))` with one uniform negative j, or another ranking loss on the Lorentzian inner product :math:`-\cosh
    d(x_u, x_i)`, which ranks alike; the L2 term over the tangent vectors of a batch; and ``fact_weight`` times the mean
    of :math:`\lambda_i d(x_i, n_i)^2` over the items with facts.

    The weights λ are learned in a problem of two levels: they shall be such that a step of the model against the whole
    loss lowers the ranking loss of other interactions. With :math:`\theta' = \theta - \eta \nabla_\theta L(\theta,
    \lambda)` the gradient of the outer loss is, up to a positive factor,
    :math:`-\langle \nabla L_\mathrm{rank}(\theta'), \nabla_\theta d(x_i, n_i)^2 \rangle`, whose slopes are measured for
    all items at once by central differences along the outer gradient. :math:`\lambda_i = 2 \sigma(a_i)` begins at 1.
    A pass over interactions of the model is followed by one of the weights, a step for every :data:`OUTER_EVERY` of
    the model; half of its batch is for the inner loss, half for the outer one.

    There is no released code. The publication optimises points of the ball by Riemannian Adam; here the parameters are
    tangent vectors at the origin, for Adam. The two levels, the midpoint and the attention are the paper's; that tails
    are moved by Möbius addition, the square, the form of λ and the use of training interactions for the outer loss
    are choices made here. Facts and links of users take no part.

    Parameters are those of :class:`~hakg_dgl.models.recommender.Recommender`.
    """

    name = "hyper-know"
    citation = r"""
@inproceedings{ma2021hyperknow,
  author = {Chen Ma and Liheng Ma and Yingxue Zhang and Haolun Wu and Xue Liu and Mark Coates},
  title = {{Knowledge-Enhanced Top-K Recommendation in Poincar{\'e} Ball}},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  year = {2021},
  eprint = {2101.04852},
  archivePrefix = {arXiv}
}
"""
    sections = Sections(HyperKnowSettings, HyperKnowLossSettings, HyperKnowTrainingSettings, GradientRunSettings)
    space: ClassVar[Mapping[str, Any]] = {
        "lr": {"low": 3e-4, "high": 1e-2, "log": True},
        "weight_decay": {"low": 1e-4, "high": 1.0, "log": True},
        "fact_weight": {"low": 1e-3, "high": 10.0, "log": True},
    }
    abilities = Abilities(facts=True, vectors=True)
    streams = (NEGATIVES,)

    @classmethod
    def idle_settings(cls, values: Mapping[str, Any]) -> Mapping[str, str]:
        """Settings of the other losses, and the weights of items where facts have none."""
        idle = idle_ranking_settings(values)
        if values["ranking_loss"] != "hinge":
            idle["margin"] = "with ranking_loss = 'hinge'"
        if values["fact_weight"] == 0.0:
            idle["adaptive"] = "with a fact_weight above 0"
        return idle

    def build(self) -> None:
        """Tangent vectors of users, entities and relations, and what the weights of items are made of."""
        graph = self.graph
        self.user: nn.Parameter = self._gaussian("user", graph.n_users)
        self.entity: nn.Parameter = self._gaussian("entity", graph.n_entities)
        self.relation: nn.Parameter = self._gaussian("relation", 2 * graph.n_relations)
        if self.loss.adaptive:
            self.importance: nn.Parameter = nn.Parameter(
                torch.zeros(graph.n_items, dtype=self.dtype, device=self.device)
            )
        self.graph_moved()

    def _gaussian(self, name: str, rows: int) -> nn.Parameter:
        """Normally distributed ``[rows, d]`` from a random stream of its own."""
        generator = torch_generator(self.run.seed, f"init:{name}")
        values = torch.randn(rows, self.settings.dim, dtype=self.dtype, generator=generator)
        return nn.Parameter((values * self.settings.init_scale).to(self.device))

    def graph_moved(self) -> None:
        """The facts that items receive, and the kernels for the graph's device."""
        graph = self.graph
        self.backend: SparseBackend = choose_backend("auto", graph.device)
        self.facts: FactPairs = FactPairs(graph.packed.knowledge.keep(None, graph.n_items), self.backend)

    def midpoints(self, item: Tensor, entity: Tensor, relation: Tensor) -> Tensor:
        """The midpoints of the facts of items, ``[n_items, d]``; the origin for items without facts.

        Parameters
        ----------
        item
            Points of the items, ``[n_items, d]``.
        entity, relation
            Tangent vectors, ``[n_entities, d]`` and ``[2R, d]``.
        """
        backend, pattern = self.backend, self.facts.pattern
        moved = project(mobius_add(self.facts.tails(point(entity)), self.facts.relations(point(relation))))
        xx = rows_of(backend, pattern.by_row, pattern.rows, item.square().sum(1))
        yy = rows_of(backend, pattern.by_col, pattern.cols, moved.square().sum(1))
        apart = distance_by_products(xx, yy, edge_dot(backend, pattern, item, moved))
        shares = edge_softmax(backend, pattern, -apart)
        total = weighted_sum_over_columns(backend, pattern, shares, hyperboloid(moved))
        origin = hyperboloid(torch.zeros_like(item))
        return einstein_midpoint(torch.where((pattern.row_degree > 0).unsqueeze(1), total, origin))

    def unlike_facts(self, entity: Tensor, relation: Tensor) -> Tensor:
        """Squared distance of each item to the midpoint of its facts, ``[n_items]``, 0 for items without facts."""
        item = point(entity[: self.graph.n_items])
        apart = distance(item, self.midpoints(item, entity, relation)).square()
        return torch.where(self.facts.pattern.row_degree > 0, apart, 0.0)

    def weights(self) -> Tensor:
        """λ of each item, ``[n_items]``."""
        if self.loss.adaptive:
            return 2.0 * self.importance.sigmoid()
        return torch.ones(self.graph.n_items, dtype=self.dtype, device=self.device)

    @torch.no_grad()
    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """Points of the hyperboloid, those of users with their time negated: inner products are Lorentzian."""
        item = self.entity[: self.graph.n_items]
        return flip_time(hyperboloid(point(self.user))), hyperboloid(point(item))

    def optimizers(self, lr: float) -> dict[str, torch.optim.Optimizer]:
        """One for the model and, where they are learned, one for the weights of items."""
        found: dict[str, torch.optim.Optimizer] = {
            "model": adam(iter([self.user, self.entity, self.relation]), lr, self.device)
        }
        if self.loss.adaptive:
            found["weights"] = adam(iter([self.importance]), lr, self.device)
        return found

    def axes(self) -> Mapping[str, tuple[Axis, ...]]:
        """Rows of nodes and of relations, and a number an item."""
        relations = (*self.graph.relation_types, "none")[: len(self.relation)]
        found: dict[str, tuple[Axis, ...]] = {**super().axes(), "relation": (relations,)}
        return found | {"importance": ("item",)} if self.loss.adaptive else found

    def passes(self, training: TrainingSettings, random: Mapping[str, torch.Generator]) -> Sequence[Pass]:
        """A pass of the model over the interactions, then one of the weights over some of them."""
        ranking = RankingLoss(self.graph, self.loss, random[NEGATIVES])
        batches = interaction_batches(self.graph, training, random)

        def of_model(users: Tensor, items: Tensor) -> Tensor:
            return self.inner(ranking, (self.user, self.entity, self.relation), users, items)

        def of_weights(users: Tensor, items: Tensor) -> Tensor:
            return self.outer(ranking, training.lr, users, items)

        found = [Pass("interactions", batches, of_model, "model")]
        if self.loss.adaptive and self.loss.fact_weight > 0.0 and self.facts.pattern.n_edges:
            few = _SomeBatches(batches.pairs, training.batch_size, random["batches"], device=self.device)
            found.append(Pass("weights", few, of_weights, "weights"))
        return found

    def inner(self, ranking: RankingLoss, tables: Sequence[Tensor], users: Tensor, items: Tensor) -> Tensor:
        """The whole loss of a batch by tables of users, entities and relations, the weights of items being fixed."""
        user, entity, relation = tables
        total, weight = self.ranked(ranking, user, entity, users, items), float(self.loss.fact_weight)
        if weight == 0.0 or not self.facts.pattern.n_edges:
            return total
        n_known = (self.facts.pattern.row_degree > 0).sum().clamp_min(1)
        unlike = self.weights().detach() * self.unlike_facts(entity, relation)
        return total + weight * unlike.sum() / n_known

    def ranked(self, ranking: RankingLoss, user: Tensor, entity: Tensor, users: Tensor, positives: Tensor) -> Tensor:
        """The ranking loss of a batch, its L2 term among it, by tables of users and entities: a scalar."""
        of_item = entity[: self.graph.n_items]
        x, z = hyperboloid(point(user)), hyperboloid(point(of_item))
        own = [user], [of_item]
        if self.loss.ranking_loss != "hinge":
            return ranking(flip_time(x), z, users, positives, decayed=own)
        negatives = ranking.sampler.sample(users, 1, ranking.generator).squeeze(1)
        mine = batch_rows(self.backend, x, users)
        near, far = (lorentz_distance(mine, batch_rows(self.backend, z, ids)) for ids in (positives, negatives))
        excess = float(self.loss.margin) + near - far
        return excess.clamp_min(0.0).mean() + ranking.decay(own, users, [positives, negatives])

    def outer(self, ranking: RankingLoss, lr: float, users: Tensor, items: Tensor) -> Tensor:
        """The outer loss of a batch, a scalar whose gradient in the weights of items is that of two levels.

        Parameters
        ----------
        ranking
            The ranking loss.
        lr
            Length η of the step of the inner problem.
        users, items
            int64 ``[batch]``: the first half is for the inner loss, the second for the outer one.
        """
        half = len(users) // 2
        tables = [table.detach().requires_grad_() for table in (self.user, self.entity, self.relation)]
        if half:
            steps = torch.autograd.grad(self.inner(ranking, tables, users[:half], items[:half]), tables)
            tables = [(x - lr * step).detach().requires_grad_() for x, step in zip(tables, steps, strict=True)]
        value = self.ranked(ranking, tables[0], tables[1], users[half:], items[half:])
        (along,) = torch.autograd.grad(value, tables[1])
        slopes = self.slopes(along)
        weights = self.weights()
        # The value is that of the outer loss, the gradient that of the weights.
        return value.detach() - ((weights - weights.detach()) * slopes).sum()

    @torch.no_grad()
    def slopes(self, along: Tensor) -> Tensor:
        """How fast each item's squared distance to its midpoint grows along a direction of entities, ``[n_items]``."""
        step = PROBE / torch.linalg.vector_norm(along).clamp_min(torch.finfo(along.dtype).tiny)
        ahead, behind = (self.unlike_facts(self.entity + sign * step * along, self.relation) for sign in (1.0, -1.0))
        growth: Tensor = (ahead - behind) / (2.0 * step)
        return growth


def point(tangent: Tensor) -> Tensor:
    """Points of the ball, of curvature -1, of tangent vectors at the origin: ``[n, d] -> [n, d]``."""
    return project(expmap0(tangent))


class _SomeBatches(EpochBatches):
    """A part of the batches of an epoch: one for every :data:`OUTER_EVERY`, from an order of all interactions."""

    def __len__(self) -> int:
        return -(-super().__len__() // OUTER_EVERY)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return islice(super().__iter__(), len(self))
