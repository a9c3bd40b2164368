"""Losses of a batch whose users and items are spread over processes; see :mod:`hakg_dgl.layers.losses`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hakg_dgl.distributed.ownership import Ownership
from hakg_dgl.distributed.ranks import Ranks, rows_everywhere, sum_over_ranks
from hakg_dgl.graph.packed import SparsePattern
from hakg_dgl.kernels.interface import SparseBackend
from hakg_dgl.kernels.products import edge_dot
from hakg_dgl.layers.losses import COUNT_FLOOR, LOGSUM_FLOOR, SCORES_PER_BLOCK, Rivals


class _LogSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ranks: Ranks, x: Tensor, z: Tensor, users: Tensor, rivals: Rivals) -> Tensor:
        ctx.users, ctx.rivals = users, rivals
        own = torch.cat([block.logsumexp(1) for _, _, block in _logits(x, z, users, rivals)])
        top = ranks.max(own).clamp_min_(LOGSUM_FLOOR)
        total = (top + ranks.sum((own - top).exp_()).log_()).clamp_min_(LOGSUM_FLOOR)
        ctx.save_for_backward(x, z, total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, None, None]:
        x, z, total = ctx.saved_tensors
        grad_x, grad_z = torch.empty_like(x), torch.zeros_like(z)
        for start, stop, block in _logits(x, z, ctx.users, ctx.rivals):
            weights = block.sub_(total[start:stop].unsqueeze(1)).exp_().mul_(grad[start:stop].unsqueeze(1))
            grad_x[start:stop] = weights @ z
            grad_z.addmm_(weights.T, x[start:stop])
        return None, grad_x, grad_z, None, None


def _logits(x: Tensor, z: Tensor, users: Tensor, rivals: Rivals) -> Iterator[tuple[int, int, Tensor]]:
    """First row, end and logits of each block of users, those of known items at minus infinity."""
    size = max(1, SCORES_PER_BLOCK // max(1, len(z)))
    for start in range(0, len(x), size):
        stop = min(start + size, len(x))
        mask = rivals.known_within(users[start:stop], False)
        yield start, stop, (x[start:stop] @ z.T).masked_fill_(mask, -torch.inf)


class BatchScores:
    """Scores of the pairs of a batch, computed where the items lie; the batch is the same in all processes.

    Parameters
    ----------
    ranks, ownership
        The processes and what they own.
    backend
        Who computes the sparse products.
    user
        Own users, ``[n_own, d]``.
    users
        Of the batch's pairs, int64 ``[batch]``.
    """

    def __init__(self, ranks: Ranks, ownership: Ownership, backend: SparseBackend, user: Tensor, users: Tensor) -> None:
        self.ranks: Ranks = ranks
        self.ownership: Ownership = ownership
        self.backend: SparseBackend = backend
        self.rows: Tensor
        self.row: Tensor
        self.rows, self.row = torch.unique(users, return_inverse=True)
        slots = (ownership.owners["user"][self.rows] == ranks.rank).nonzero().flatten()
        places = ownership.places["user"][self.rows[slots]]
        self.vectors: Tensor = rows_everywhere(ranks, user, places, slots, len(self.rows))

    def own(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the items (int64 ``[n]``) are own ones, and their places."""
        at = (self.ownership.owners["item"][items] == self.ranks.rank).nonzero().flatten()
        return at, self.ownership.places["item"][items[at]]

    def of(self, item: Tensor, items: Tensor) -> Tensor:
        """Inner products of the batch's users with an item each, int64 ``[batch]``: ``[batch]`` in all processes."""
        at, places = self.own(items)
        products = (self.vectors.index_select(0, self.row[at]) * item.index_select(0, places)).sum(1)
        return sum_over_ranks(self.ranks, products.new_zeros(len(items)).index_add(0, at, products))

    def excess(self, item: Tensor, negatives: Tensor, margin: float) -> Tensor:
        """:func:`~hakg_dgl.layers.losses.hinge_over_negatives` for negatives int64 ``[batch, k]``: ``[batch]``."""
        at, places = self.own(negatives.reshape(-1))
        pair = at // negatives.shape[1]
        pattern = SparsePattern.from_pairs(pair, places, len(negatives), len(item))
        cosine = edge_dot(self.backend, pattern, self.vectors.index_select(0, self.row), item)
        sums = cosine.new_zeros(len(negatives)).index_add(0, pair, (cosine - margin).clamp_min(0.0))
        active = torch.zeros_like(sums).index_add_(0, pair, (cosine.detach() > margin).to(sums.dtype))
        return sum_over_ranks(self.ranks, sums) / (COUNT_FLOOR + self.ranks.sum(active))

    def softmax(
        self, item: Tensor, positives: Tensor, known: tuple[Tensor, Tensor], candidates: Tensor | None,
        temperature: float,
    ) -> Tensor:  # fmt: skip
        """:func:`~hakg_dgl.layers.losses.softmax_loss`: the sum over candidates is one over processes."""
        n_items = len(self.ownership.owners["item"])
        pool = torch.arange(n_items, device=self.rows.device) if candidates is None else candidates
        at, places = self.own(pool)
        rivals = Rivals(pool[at], *known, 0, n_items)
        x = self.vectors / temperature
        total: Tensor = _LogSum.apply(  # type: ignore[no-untyped-call]
            self.ranks, x, item.index_select(0, places), self.rows, rivals
        )
        log_scale = math.log(n_items / len(pool))
        gap = total.index_select(0, self.row) + log_scale - self.of(item, positives) / temperature
        return F.softplus(gap).mean()
