"""LightGCN: matrix factorisation whose vectors are averaged over the neighbourhoods of the interaction graph.

He, Deng, Wang, Li, Zhang and Wang, "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation",
SIGIR 2020 (arXiv 2002.02126).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from hakg_dgl.graph.heterograph import INTERACTED_BY, INTERACTS
from hakg_dgl.graph.packed import SparsePattern
from hakg_dgl.layers.execution import Executor
from hakg_dgl.layers.executors import make_executor
from hakg_dgl.layers.updates import Copy, Updates
from hakg_dgl.models.bpr_mf import BPRMF, BPRMFSettings, PairwiseLossSettings, PairwiseTrainingSettings
from hakg_dgl.models.explanation import Breakdown
from hakg_dgl.models.recommender import Abilities, Sections
from hakg_dgl.models.score_sums import ItemSum, SummedBreakdown, UserSum, edges_of, wide
from hakg_dgl.ranking.fold_in import EmbeddingFoldIn, FoldedUsers, FoldIn, SumOfRows, WithOwnRows
from hakg_dgl.settings.run import GradientRunSettings, Kernels
from hakg_dgl.settings.section import Range, TrainingOnly

PUBLISHED = {
    "dim": 64,
    "layers": 3,
    "weight_decay": 1e-4,
    "lr": 1e-3,
    "batch_size": 2048,
    "select_by": "recall@20",
}
"""The settings of the authors' code, which were the same for all data sets."""


@dataclass(frozen=True)
class LightGCNSettings(BPRMFSettings):
    """Settings of LightGCN.

    Attributes
    ----------
    dim
        Width d of the vectors.
    layers
        Number L of propagation layers.
    kernels
        ``auto`` picks the fastest that works here; ``readable`` runs the update functions on batches of edges.
    """

    layers: Annotated[int, Range(1, 16)] = 3
    kernels: Annotated[Kernels, TrainingOnly()] = "auto"


@dataclass(frozen=True)
class LightGCNLossSettings(PairwiseLossSettings):
    """The pairwise loss with the weight that LightGCN wants."""

    weight_decay: Annotated[float, Range(0.0, 1e3)] = 2e-3


@dataclass(frozen=True)
class LightGCNTrainingSettings(PairwiseTrainingSettings):
    """Training with the learning rate that LightGCN wants."""

    lr: Annotated[float, Range(1e-8, 100.0)] = 5e-3


class LightGCN(BPRMF):
    r"""Vectors :math:`E = \frac{1}{L+1} \sum_{l=0}^{L} \hat A^l E^{(0)}` of users and items (He et al., eqs. 3-8).

    :math:`\hat A = D^{-1/2} A D^{-1/2}` with A the adjacency of the bipartite interaction graph and D its degrees;
    nodes without an interaction get zero from their neighbours. :math:`E^{(0)}` are the parameters. The loss is that of
    :class:`~hakg_dgl.models.bpr_mf.BPRMF`.

    Parameters are those of :class:`~hakg_dgl.models.recommender.Recommender`.
    """

    name = "lightgcn"
    citation = r"""
@inproceedings{he2020lightgcn,
  author = {Xiangnan He and Kuan Deng and Xiang Wang and Yan Li and Yongdong Zhang and Meng Wang},
  title = {{LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation}},
  booktitle = {Proceedings of the 43rd International ACM SIGIR Conference on Research and Development in Information
    Retrieval},
  year = {2020},
  pages = {639--648},
  doi = {10.1145/3397271.3401063},
  eprint = {2002.02126},
  archivePrefix = {arXiv}
}
"""
    sections = Sections(LightGCNSettings, LightGCNLossSettings, LightGCNTrainingSettings, GradientRunSettings)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"published": PUBLISHED}
    space: ClassVar[Mapping[str, Any]] = {**BPRMF.space, "layers": {"low": 1, "high": 4}}
    abilities = Abilities(vectors=True, folds_in_users=True, distributed=True, explains=True)

    def build(self) -> None:
        """The parameters of matrix factorisation, and what runs the layers."""
        super().build()
        # The facts and links of a data set are not this model's: it runs on the interactions alone.
        self.graph = self.graph.restrict([INTERACTS, INTERACTED_BY])
        self.graph_moved()

    def graph_moved(self) -> None:
        """Choose the kernels for the graph's device."""
        self.executor: Executor = make_executor(self.graph, self.settings.kernels)

    def updates(self) -> Updates:
        r"""The layer: along either edge type a copy, scaled by :math:`D^{-1/2}` at both ends."""
        pattern = self.graph.packed.interactions
        user, item = (d.clamp_min(1).to(self.dtype).rsqrt() for d in (pattern.row_degree, pattern.col_degree))
        return {INTERACTS: Copy(user, item), INTERACTED_BY: Copy(item, user)}

    def layers(self) -> Iterator[tuple[Tensor, Tensor]]:
        """User ``[n_users, d]`` and item ``[n_items, d]`` vectors of layers 0..L."""
        user, item = super().propagate()
        updates = self.updates()
        yield user, item
        for _ in range(self.settings.layers):
            received = self.executor.run(updates, {"user": user, "item": item})
            user, item = received["user"], received["item"]
            yield user, item

    def propagate(self) -> tuple[Tensor, Tensor]:
        """User ``[n_users, d]`` and item ``[n_items, d]`` vectors: the means over all layers."""
        layers = self.layers()
        users, items = next(layers)
        for user, item in layers:
            users, items = users + user, items + item
        return users / (self.settings.layers + 1), items / (self.settings.layers + 1)

    @torch.no_grad()
    def fold_in(self) -> FoldIn:
        r"""New users, zero parameters of theirs being propagated.

        .. math:: u = \frac{1}{L+1} \frac{1}{\sqrt{|I_u|}} \sum_{i \in I_u} t_i,
                  \qquad t_i = \frac{1}{\sqrt{|U_i|}} \sum_{l=0}^{L-1} i^{(l)}
        """
        sent = torch.stack([item for _, item in self.layers()][:-1]).sum(0)
        degree = self.graph.packed.interactions.col_degree.clamp_min(1).to(self.dtype)
        table = sent * degree.rsqrt().unsqueeze(1) / (self.settings.layers + 1)
        own = self.user.detach() / (self.settings.layers + 1)
        return EmbeddingFoldIn([WithOwnRows(SumOfRows(table, 0.5), own)], self.ranking_vectors()[1])

    def breakdown(self, folded: FoldedUsers | None = None) -> Breakdown:
        """The score by past items, and by users of the item."""
        return SummedBreakdown(self.graph, _Sums(self), folded)


class _Sums:
    """User and item as sums (:class:`~hakg_dgl.models.score_sums.Sums`)."""

    @torch.no_grad()
    def __init__(self, model: LightGCN) -> None:
        self.interactions: SparsePattern = model.graph.packed.interactions
        users, items = zip(*model.layers(), strict=True)
        self.own: tuple[Tensor, Tensor] = users[0].cpu(), items[0].cpu()
        # What all layers send, without the last, which sends nothing.
        self.sent: tuple[Tensor, Tensor] = torch.stack(users[:-1]).sum(0).cpu(), torch.stack(items[:-1]).sum(0).cpu()
        degrees = self.interactions.row_degree, self.interactions.col_degree
        self.users, self.items = (degree.clamp_min(1).cpu().double().rsqrt().unsqueeze(1) for degree in degrees)
        self.layers: int = model.settings.layers + 1

    def of_user(self, items: Tensor, number: int, added: bool) -> UserSum:
        """By past items."""
        own = wide(self.own[0][number]) if number >= 0 else torch.zeros(self.own[0].shape[1], dtype=torch.float64)
        part = self.items[items] * wide(self.sent[1][items]) / max(1, len(items)) ** 0.5
        return UserSum(own / self.layers, {"collaborative": part / self.layers})

    def of_item(self, item: int, user: Tensor) -> ItemSum:
        """By users."""
        users = edges_of(self.interactions.by_col, self.interactions.rows, torch.tensor([item])).sender
        part = self.items[item] * self.users[users] * wide(self.sent[0][users]) / self.layers
        return ItemSum(wide(self.own[1][item]) / self.layers, users=users, from_users=part)
