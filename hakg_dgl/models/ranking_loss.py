"""The loss that ranks, for models whose scores are inner products: pairwise, or a softmax over all items.

One negative a pair and hundreds of them make models that are hard to compare, so every model that takes this loss
takes both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import torch
from torch import Tensor

from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.kernels.interface import SparseBackend
from hakg_dgl.layers.losses import batch_rows, bpr_loss, cross_entropy_loss, softmax_loss
from hakg_dgl.layers.sampling import NegativeSampler
from hakg_dgl.settings.section import Range, Section

Ranking: TypeAlias = Literal["bpr", "softmax"]
PointwiseRanking: TypeAlias = Literal["cross-entropy", "bpr", "softmax"]
NEGATIVES = "negatives"
"""The random stream of the items that positives compete with."""


@dataclass(frozen=True)
class RankingLossSettings(Section):
    """Settings of the ranking loss.

    Attributes
    ----------
    ranking_loss
        ``softmax``: cross-entropy of each positive among the candidates; ``bpr``: pairwise, against one negative.
    temperature, candidates
        Of the softmax: what scores are divided by, and the items a batch's positives compete with, drawn anew each
        step; all items where the catalogue has no more.
    weight_decay
        Weight of the L2 term of the embeddings in a batch.
    """

    ranking_loss: Ranking = "softmax"
    temperature: Annotated[float, Range(1e-3, 1e3)] = 1.0
    candidates: Annotated[int, Range(1, 10_000_000)] = 16384
    weight_decay: Annotated[float, Range(0.0, 1e3)] = 0.02


@dataclass(frozen=True)
class PointwiseRankingLossSettings(RankingLossSettings):
    """Settings of the ranking loss of a model that was published with a loss on single scores.

    Attributes
    ----------
    ranking_loss
        ``cross-entropy``: as published, of positives and as many negatives; ``bpr`` and ``softmax`` as for the others.
    """

    ranking_loss: PointwiseRanking = "softmax"  # type: ignore[assignment]


def idle_ranking_settings(values: Mapping[str, Any]) -> dict[str, str]:
    """Settings of the ranking loss that another one switches off, for :meth:`Recommender.idle_settings`."""
    if values["ranking_loss"] == "softmax":
        return {}
    return dict.fromkeys(("temperature", "candidates"), "with ranking_loss = 'softmax'")


class RankingLoss:
    r"""The ranking loss of batches of interactions.

    With inner products s it is the mean over the pairs (u, i) of a batch of :math:`-\ln \sigma(s_{ui} - s_{uj})` with
    one uniform negative j (:func:`~hakg_dgl.layers.losses.bpr_loss`), or of the cross-entropy of i among candidates
    (:func:`~hakg_dgl.layers.losses.softmax_loss`), or ``cross-entropy`` with one uniform negative
    (:func:`~hakg_dgl.layers.losses.cross_entropy_loss`); and the L2 term :math:`\frac{w}{2B} \sum \|x\|^2` over the
    batch's B users, positives and, where one is drawn for each, negatives.

    Parameters
    ----------
    graph
        Its interactions are the positives.
    settings
        Which loss.
    generator
        Draws negatives or candidates; on the graph's device.
    """

    def __init__(self, graph: HeteroGraph, settings: RankingLossSettings, generator: torch.Generator) -> None:
        self.settings: RankingLossSettings = settings
        self.generator: torch.Generator = generator
        self.backend: SparseBackend = choose_backend("auto", graph.device)
        indptr, items = graph.positives()
        self.known: tuple[Tensor, Tensor] = (indptr, items)
        self.longest: int = int(indptr.diff().max())
        self.sampler: NegativeSampler = NegativeSampler(
            indptr, items, graph.n_items, device=graph.device, backend=self.backend
        )

    def __call__(
        self,
        user: Tensor,
        item: Tensor,
        users: Tensor,
        positives: Tensor,
        decayed: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
    ) -> Tensor:
        """Loss of a batch.

        Parameters
        ----------
        user, item
            Vectors that are scored, ``[n_users, d]`` and ``[n_items, d]``.
        users, positives
            int64 ``[batch]``.
        decayed
            Tables of users, and tables of items, whose rows the L2 term takes; the vectors that are scored if None.

        Returns
        -------
        Tensor
            A scalar, differentiable in all tables.
        """
        drawn = [positives]
        kind: str = self.settings.ranking_loss
        if kind in ("bpr", "cross-entropy"):
            negatives = self.sampler.sample(users, 1, self.generator).squeeze(1)
            drawn.append(negatives)
            rows = ((user, users), (item, positives), (item, negatives))
            vectors = [batch_rows(self.backend, table, ids) for table, ids in rows]
            total = bpr_loss(*vectors) if kind == "bpr" else cross_entropy_loss(*vectors)
        else:
            total = self._softmax(user, item, users, positives)
        return total + self.decay(decayed or ([user], [item]), users, drawn)

    def _softmax(self, user: Tensor, item: Tensor, users: Tensor, positives: Tensor) -> Tensor:
        candidates = None
        if self.settings.candidates < len(item):
            order = torch.randperm(len(item), generator=self.generator, device=item.device)
            candidates = order[: self.settings.candidates].sort().values
        return softmax_loss(
            user, item, users, positives, self.known, longest=self.longest, candidates=candidates,
            temperature=self.settings.temperature, backend=self.backend,
        )  # fmt: skip

    def decay(
        self, decayed: tuple[Sequence[Tensor], Sequence[Tensor]], users: Tensor, items: Sequence[Tensor]
    ) -> Tensor:
        """The L2 term of a batch, a scalar: of the rows of its users, and of those of all of its items."""
        if self.settings.weight_decay == 0.0:
            return users.new_zeros((), dtype=decayed[0][0].dtype)
        rows = [batch_rows(self.backend, table, users) for table in decayed[0]]
        rows += [batch_rows(self.backend, table, drawn) for table in decayed[1] for drawn in items]
        squares = torch.stack([each.square().sum() for each in rows]).sum()
        return self.settings.weight_decay * squares / (2 * len(users))
