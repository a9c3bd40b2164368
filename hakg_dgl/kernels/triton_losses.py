"""The losses of a training step that Triton computes in a few passes each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hakg_dgl.geometry.message import MessageRule
from hakg_dgl.graph.packed import SparsePattern
from hakg_dgl.kernels.interface import Taken
from hakg_dgl.kernels.triton_kernels import angle, candidates, contrastive, grouped_rows, searching

WIDEST = 256
"""Largest d: what has a row at a time holds all of it in registers."""


class TritonLosses:
    """See :class:`~hakg_dgl.kernels.interface.LossBackend`; the same bits every time."""

    def __init__(self) -> None:
        self._group = grouped_rows.Grouper()

    def computes_losses_of(self, table: Tensor) -> bool:
        """In float32, as in all the kernels that hold tiles; PyTorch's operators serve float64."""
        return table.dtype == torch.float32 and 0 < table.shape[1] <= WIDEST

    def mean_cone_excess(
        self, pairs: SparsePattern, entity: Tensor, drawn: Tensor | None, rule: MessageRule, *,
        both: bool, aperture: float, dropout: float,
    ) -> Tensor:  # fmt: skip
        """One pass over the pairs, and one over their ends."""
        return angle.mean_cone_excess(pairs, angle.Angle(rule, aperture, both, dropout), entity, drawn)

    def contrastive_loss(
        self, user: Tensor, tables: Sequence[Tensor], users: Tensor, positives: Tensor, negatives: Tensor,
        margin: float, count_floor: float,
    ) -> Tensor:  # fmt: skip
        """One pass over the batch, one over its places by item, and one over its users."""
        drawn = torch.cat([negatives, positives.unsqueeze(1)], 1)
        by_user, by_item = self._group(users, len(user)), self._group(drawn, len(tables[0]))
        batch = contrastive.Batch(users.contiguous(), drawn, by_user, by_item)
        return contrastive.contrastive_loss(batch, contrastive.Hinge(margin, count_floor), user, list(tables))

    def softmax_loss(
        self, user: Tensor, item: Tensor, users: Tensor, positives: Tensor, known: tuple[Tensor, Tensor],
        rivals: Tensor | None, temperature: float,
    ) -> Tensor:  # fmt: skip
        """Two passes over the scores, of which none is written."""
        n_candidates = len(item) if rivals is None else len(rivals)
        competition = candidates.Competition(
            users.contiguous(), positives.contiguous(), self._group(users, len(user)),
            self._group(positives, len(item)), *known, rivals, temperature, math.log(len(item) / n_candidates),
        )  # fmt: skip
        return candidates.softmax_loss(competition, user, item)

    def pick_negatives(self, taken: Taken, users: Tensor, drawn: Tensor, again: Tensor, wide: Tensor) -> Tensor:
        """All draws in one kernel."""
        return searching.pick_negatives(taken, users, drawn, again, wide)
