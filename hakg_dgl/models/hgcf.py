"""HGCF: users and items on the hyperboloid, propagated in its tangent space.

Sun, Cheng, Zuberi, Pérez and Volkovs, "HGCF: Hyperbolic Graph Convolution Networks for Collaborative Filtering", WWW
2021.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from hakg_dgl.geometry.lorentz import distance, expmap0, flip_time
from hakg_dgl.graph.heterograph import INTERACTED_BY, INTERACTS, HeteroGraph
from hakg_dgl.layers.execution import Executor
from hakg_dgl.layers.executors import make_executor
from hakg_dgl.layers.losses import batch_rows
from hakg_dgl.layers.updates import Copy, Updates
from hakg_dgl.models.ranking_loss import NEGATIVES, RankingLoss, RankingLossSettings, idle_ranking_settings
from hakg_dgl.models.recommender import (
    Abilities,
    GradientRecommender,
    Pass,
    Sections,
    copy_with_new_items,
    interaction_batches,
)
from hakg_dgl.randomness import torch_generator
from hakg_dgl.ranking.fold_in import AboutUsers, EmbeddingFoldIn, FoldIn, SumOfRows, own_rows
from hakg_dgl.settings.run import GradientRunSettings, Kernels
from hakg_dgl.settings.section import Range, Section, TrainingOnly
from hakg_dgl.settings.training import TrainingSettings

Formulation: TypeAlias = Literal["released", "paper"]
HGCFRanking: TypeAlias = Literal["hinge", "bpr", "softmax"]
PUBLISHED = {
    "dim": 50,
    "ranking_loss": "hinge",
    "margin": 0.1,
    "init_scale": 0.1,
    "lr": 1e-3,
    "weight_decay": 5e-3,
    "batch_size": 10_000,
}
"""The released code's settings for Amazon-CD; for Amazon-Book and Yelp ``weight_decay`` is 5e-4 and 1e-3."""


@dataclass(frozen=True)
class HGCFSettings(Section):
    """Settings of HGCF.

    Attributes
    ----------
    formulation
        ``released`` (what the authors' code computes) or ``paper`` (the published equations).
    dim
        Width d of the tangent vectors; a point of the hyperboloid has one coordinate more.
    layers
        Number L of propagation layers.
    init_scale
        Standard deviation of the first vectors.
    kernels
        ``auto`` picks the fastest that works here; ``readable`` runs the update functions on batches of edges.
    """

    formulation: Formulation = "released"
    dim: Annotated[int, Range(1, 4096)] = 64
    layers: Annotated[int, Range(1, 16)] = 3
    init_scale: Annotated[float, Range(1e-6, 10.0), TrainingOnly()] = 0.01
    kernels: Annotated[Kernels, TrainingOnly()] = "auto"


@dataclass(frozen=True)
class HGCFLossSettings(RankingLossSettings):
    """Settings of HGCF's loss.

    Attributes
    ----------
    ranking_loss
        ``hinge`` on squared distances, as published; ``softmax`` or ``bpr`` on Lorentzian inner products.
    margin
        Of the hinge: how much nearer, in squared distance, a positive shall be than a negative.
    """

    ranking_loss: HGCFRanking = "softmax"  # type: ignore[assignment]
    margin: Annotated[float, Range(0.0, 1e3)] = 0.1


@dataclass(frozen=True)
class HGCFTrainingSettings(TrainingSettings):
    """Training that does well on validation; docs/models.md says what was searched."""

    batch_size: Annotated[int, Range(1, 10_000_000)] = 4096
    epochs: Annotated[int, Range(1, 10_000_000)] = 500
    eval_every: Annotated[int, Range(1, 10_000_000)] = 5
    patience: Annotated[int, Range(1, 10_000_000)] = 8


class HGCF(GradientRecommender):
    r"""Points of the hyperboloid of curvature -1, near to each other where users have items.

    .. math:: h_u^{(l+1)} = h_u^{(l)} + \frac{1}{|I_u|} \sum_{i \in I_u} h_i^{(l)}, \qquad
              x_u = \exp_o\Bigl(\sum_{l=1}^{L} h_u^{(l)}\Bigr)

    and likewise for items (Sun et al., section 3.2); that is the formulation ``paper``. The released code takes the
    mean over a node and its neighbours, :math:`h_u^{(l+1)} = (h_u^{(l)} + \sum_i h_i^{(l)}) / (|I_u| + 1)`, which
    smooths much more. The published loss is the hinge :math:`\max(0, m + d(x_u, x_i)^2 - d(x_u, x_j)^2)` with one
    uniform negative j. Items are ranked by distance, which is the order of the Lorentzian inner product
    :math:`\langle x_u, x_i \rangle_L = -\cosh d(x_u, x_i)`; the other losses are on that product.

    The released code begins with uniform values and adds up the hinges of a batch; here they are normal and averaged.
    The publication keeps points of the hyperboloid as parameters, for Riemannian gradient descent, and takes them to
    the tangent space at the origin before each propagation. Here the parameters are those tangent vectors themselves,
    for Adam: the exponential map at the origin is one-to-one, so that the models are the same.

    Parameters are those of :class:`~hakg_dgl.models.recommender.Recommender`.
    """

    name = "hgcf"
    citation = r"""
@inproceedings{sun2021hgcf,
  author = {Jianing Sun and Zhaoyue Cheng and Saba Zuberi and Felipe P{\'e}rez and Maksims Volkovs},
  title = {{HGCF: Hyperbolic Graph Convolution Networks for Collaborative Filtering}},
  booktitle = {Proceedings of the Web Conference 2021},
  year = {2021},
  pages = {593--601},
  doi = {10.1145/3442381.3450101}
}
"""
    sections = Sections(HGCFSettings, HGCFLossSettings, HGCFTrainingSettings, GradientRunSettings)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"published": PUBLISHED}
    space: ClassVar[Mapping[str, Any]] = {
        "lr": {"low": 3e-4, "high": 1e-2, "log": True},
        "weight_decay": {"low": 1e-4, "high": 1.0, "log": True},
        "layers": {"low": 1, "high": 4},
    }
    abilities = Abilities(vectors=True, folds_in_users=True)
    streams = (NEGATIVES,)

    @classmethod
    def idle_settings(cls, values: Mapping[str, Any]) -> Mapping[str, str]:
        """Settings of the other losses."""
        idle = idle_ranking_settings(values)
        if values["ranking_loss"] != "hinge":
            idle["margin"] = "with ranking_loss = 'hinge'"
        return idle

    def build(self) -> None:
        """Tangent vectors of users and items, and what runs the layers."""
        self.user: nn.Parameter = self._gaussian("user", self.graph.n_users)
        self.item: nn.Parameter = self._gaussian("item", self.graph.n_items)
        # The facts and links of a data set are not this model's: it runs on the interactions alone.
        self.graph = self.graph.restrict([INTERACTS, INTERACTED_BY])
        self.graph_moved()

    def _gaussian(self, name: str, rows: int) -> nn.Parameter:
        """Normally distributed ``[rows, d]`` from a random stream of its own."""
        generator = torch_generator(self.run.seed, f"init:{name}")
        values = torch.randn(rows, self.settings.dim, dtype=self.dtype, generator=generator)
        return nn.Parameter((values * self.settings.init_scale).to(self.device))

    def graph_moved(self) -> None:
        """Choose the kernels for the graph's device."""
        self.executor: Executor = make_executor(self.graph, self.settings.kernels)

    def shares(self, degree: Tensor) -> tuple[Tensor, Tensor]:
        """What nodes of this degree, int64 ``[n]``, keep of their own, and what they take from each neighbour."""
        if self.settings.formulation == "released":
            share = 1.0 / (degree + 1).to(self.dtype)
            return share, share
        return torch.ones_like(degree, dtype=self.dtype), 1.0 / degree.clamp_min(1).to(self.dtype)

    def updates(self) -> Updates:
        """The layer: along either edge type copies, scaled at the node that receives them."""
        pattern = self.graph.packed.interactions
        _, to_user = self.shares(pattern.row_degree)
        _, to_item = self.shares(pattern.col_degree)
        return {INTERACTS: Copy(destination_scale=to_item), INTERACTED_BY: Copy(destination_scale=to_user)}

    def layers(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Tangent vectors of users ``[n_users, d]`` and items ``[n_items, d]`` of layers 0..L."""
        user: Tensor = self.user
        item: Tensor = self.item
        updates, pattern = self.updates(), self.graph.packed.interactions
        of_user, of_item = (self.shares(d)[0].unsqueeze(1) for d in (pattern.row_degree, pattern.col_degree))
        yield user, item
        for _ in range(self.settings.layers):
            received = self.executor.run(updates, {"user": user, "item": item})
            user, item = of_user * user + received["user"], of_item * item + received["item"]
            yield user, item

    def propagate(self) -> tuple[Tensor, Tensor]:
        """Points of users ``[n_users, d + 1]`` and items ``[n_items, d + 1]``."""
        _, *layers = self.layers()
        users, items = zip(*layers, strict=True)
        return expmap0(torch.stack(users).sum(0)), expmap0(torch.stack(items).sum(0))

    @torch.no_grad()
    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """Points of users with their time negated, and points of items: their inner products are Lorentzian."""
        user, item = self.propagate()
        return flip_time(user), item

    @torch.no_grad()
    def likeness_vectors(self) -> tuple[Tensor, Tensor]:
        """Tangent vectors at the origin, since inner products of points tell distances and their cosines nothing."""
        _, *layers = self.layers()
        users, items = zip(*layers, strict=True)
        return torch.stack(users).sum(0), torch.stack(items).sum(0)

    def with_new_items(self, graph: HeteroGraph) -> HGCF:
        """The model with further items of which it knows nothing, for models that add facts to it."""
        model = type(self)(graph, self.settings, self.loss, self.run)
        copy_with_new_items(self, model, items=("item",))
        return model.eval()

    def passes(self, training: TrainingSettings, random: Mapping[str, torch.Generator]) -> Sequence[Pass]:
        """One pass over the interactions."""
        ranking = RankingLoss(self.graph, self.loss, random[NEGATIVES])
        own = [self.user], [self.item]

        def loss(users: Tensor, items: Tensor) -> Tensor:
            user, item = self.propagate()
            if self.loss.ranking_loss == "hinge":
                return self._hinge(ranking, user, item, users, items)
            return ranking(flip_time(user), item, users, items, decayed=own)

        return [Pass("interactions", interaction_batches(self.graph, training, random), loss)]

    def _hinge(self, ranking: RankingLoss, user: Tensor, item: Tensor, users: Tensor, positives: Tensor) -> Tensor:
        """Mean of the published loss of a batch, and the L2 term of its tangent vectors."""
        negatives = ranking.sampler.sample(users, 1, ranking.generator).squeeze(1)
        own = batch_rows(ranking.backend, user, users)
        near, far = (distance(own, batch_rows(ranking.backend, item, ids)).square() for ids in (positives, negatives))
        excess = float(self.loss.margin) + near - far
        return excess.clamp_min(0.0).mean() + ranking.decay(([self.user], [self.item]), users, [positives, negatives])

    @torch.no_grad()
    def fold_in(self) -> FoldIn:
        """New users, zero parameters of theirs being propagated through their items as the trained graph has them."""
        sent = [item for _, item in self.layers()][:-1]
        return EmbeddingFoldIn([_PropagatedUsers(self, sent)], self.ranking_vectors()[1])


@dataclass(frozen=True)
class _PropagatedUsers:
    """Points, with their time negated, of users whose parameters are zero, by the items that enter each layer."""

    model: HGCF
    layers: Sequence[Tensor]

    @property
    def width(self) -> int:
        return self.layers[0].shape[1] + 1

    def __call__(self, indptr: Tensor, items: Tensor) -> Tensor:
        return self._from(self.layers[0].new_zeros(len(indptr) - 1, self.width - 1), indptr, items)

    def informed(self, indptr: Tensor, items: Tensor, about: AboutUsers) -> Tensor:
        return self._from(own_rows(self.model.user, about.known), indptr, items)

    def _from(self, user: Tensor, indptr: Tensor, items: Tensor) -> Tensor:
        own, share = (part.unsqueeze(1) for part in self.model.shares(indptr.diff()))
        total = torch.zeros_like(user)
        for layer in self.layers:
            user = own * user + share * SumOfRows(layer)(indptr, items)
            total = total + user
        return flip_time(expmap0(total))
