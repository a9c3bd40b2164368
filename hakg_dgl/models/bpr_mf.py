"""Matrix factorisation by Bayesian personalised ranking.

Rendle, Freudenthaler, Gantner and Schmidt-Thieme, "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009
(arXiv 1205.2618).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.layers.losses import bpr_loss
from hakg_dgl.layers.sampling import NegativeSampler
from hakg_dgl.models.recommender import (
    Abilities,
    GradientRecommender,
    Pass,
    Sections,
    copy_with_new_items,
    interaction_batches,
)
from hakg_dgl.settings.run import GradientRunSettings
from hakg_dgl.settings.section import Range, Section
from hakg_dgl.settings.training import TrainingSettings


@dataclass(frozen=True)
class BPRMFSettings(Section):
    """Settings of matrix factorisation.

    Attributes
    ----------
    dim
        Width d of the vectors.
    """

    dim: Annotated[int, Range(1, 4096)] = 128


@dataclass(frozen=True)
class PairwiseLossSettings(Section):
    """Settings of the pairwise loss.

    Attributes
    ----------
    weight_decay
        Weight of the L2 term of the embeddings in a batch.
    """

    weight_decay: Annotated[float, Range(0.0, 1e3)] = 0.02


@dataclass(frozen=True)
class PairwiseTrainingSettings(TrainingSettings):
    """Training of a pairwise loss, which takes many short epochs; docs/baselines.md says what was searched."""

    batch_size: Annotated[int, Range(1, 10_000_000)] = 4096
    epochs: Annotated[int, Range(1, 10_000_000)] = 1000
    eval_every: Annotated[int, Range(1, 10_000_000)] = 5
    patience: Annotated[int, Range(1, 10_000_000)] = 40


class BPRMF(GradientRecommender):
    r"""A vector for each user and each item, Xavier-uniform; scores are inner products.

    The loss of a batch is :func:`~hakg_dgl.layers.losses.bpr_loss` with one uniform negative a pair, and the L2 term
    :math:`\frac{w}{2B} \sum (\|u\|^2 + \|i\|^2 + \|j\|^2)` over the parameters (not the propagated vectors) of the
    batch's B pairs and their negatives, as in He et al. 2020 and Rendle et al. 2009.

    Parameters are those of :class:`~hakg_dgl.models.recommender.Recommender`.
    """

    name = "bpr-mf"
    citation = r"""
@inproceedings{rendle2009bpr,
  author = {Steffen Rendle and Christoph Freudenthaler and Zeno Gantner and Lars Schmidt-Thieme},
  title = {{BPR: Bayesian Personalized Ranking from Implicit Feedback}},
  booktitle = {Proceedings of the 25th Conference on Uncertainty in Artificial Intelligence},
  year = {2009},
  pages = {452--461},
  eprint = {1205.2618},
  archivePrefix = {arXiv}
}
"""
    sections = Sections(BPRMFSettings, PairwiseLossSettings, PairwiseTrainingSettings, GradientRunSettings)
    space: ClassVar[Mapping[str, Any]] = {
        "lr": {"low": 3e-4, "high": 1e-2, "log": True},
        "weight_decay": {"low": 1e-6, "high": 1e-1, "log": True},
    }
    abilities = Abilities(vectors=True, distributed=True)
    streams = ("negatives",)

    def build(self) -> None:
        """A row of parameters a user and a row an item."""
        self.user: torch.nn.Parameter = self.parameter("user", self.graph.n_users, self.settings.dim)
        self.item: torch.nn.Parameter = self.parameter("item", self.graph.n_items, self.settings.dim)

    def propagate(self) -> tuple[Tensor, Tensor]:
        """User ``[n_users, d]`` and item ``[n_items, d]`` vectors that are scored: the parameters themselves."""
        return self.user, self.item

    @torch.no_grad()
    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """The vectors of :meth:`propagate`, whose inner products rank."""
        return self.propagate()

    def with_new_items(self, graph: HeteroGraph) -> BPRMF:
        """The model with further items of which it knows nothing, for models that add facts to it."""
        model = type(self)(graph, self.settings, self.loss, self.run)
        copy_with_new_items(self, model, items=("item",))
        return model.eval()

    def passes(self, training: TrainingSettings, random: Mapping[str, torch.Generator]) -> Sequence[Pass]:
        """One pass over the interactions, with one negative each."""
        sampler = NegativeSampler(*self.graph.positives(), self.graph.n_items, device=self.device)

        def loss(users: Tensor, positives: Tensor) -> Tensor:
            negatives = sampler.sample(users, 1, random["negatives"]).squeeze(1)
            return self.batch_loss(users, positives, negatives)

        return [Pass("interactions", interaction_batches(self.graph, training, random), loss)]

    def batch_loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Loss of a batch, int64 ``[batch]`` each: a scalar, differentiable in the parameters."""
        total = bpr_loss(*_rows(*self.propagate(), users, positives, negatives))
        if self.loss.weight_decay > 0.0:
            drawn = _rows(self.user, self.item, users, positives, negatives)
            squares = sum((rows.square().sum() for rows in drawn), start=total.new_zeros(()))
            total = total + self.loss.weight_decay * squares / (2 * len(users))
        return total


def _rows(user: Tensor, item: Tensor, users: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, ...]:
    """The rows of a batch, ``[batch, d]`` each; their gradients add up in the same order on any number of threads."""
    return user.index_select(0, users), item.index_select(0, positives), item.index_select(0, negatives)
