"""Rows of other processes that the edges of this one need: fetched before a layer, their gradients sent back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hakg_dgl.distributed.ownership import Ownership
from hakg_dgl.distributed.ranks import Ranks


class _Exchanged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, halo: Halo, own: Tensor) -> Tensor:
        ctx.halo, ctx.shape = halo, own.shape
        return halo.ranks.exchange(own.index_select(0, halo.sent_rows), halo.sent, halo.received)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        halo = ctx.halo
        back = halo.ranks.exchange(grad, halo.received, halo.sent)
        return None, back.new_zeros(ctx.shape).index_add_(0, halo.sent_rows, back)


class Halo:
    """The rows of one node type that a process reads: its own, then those of others.

    Making one is a step of all processes together.

    Parameters
    ----------
    ranks, ownership
        The processes and what they own.
    node_type
        Whose rows.
    wanted
        Ids of nodes at the far ends of edges, int64 in any order, repeated or not; own ones too.

    Attributes
    ----------
    ids
        Nodes of other processes, by owner, then id.
    sent_rows
        Own rows that others want, one process after the other.
    sent, received
        Rows to and from each process.
    """

    def __init__(self, ranks: Ranks, ownership: Ownership, node_type: str, wanted: Tensor) -> None:
        self.ranks = ranks
        owner, places = ownership.owners[node_type], ownership.places[node_type]
        self._owner, self._places = owner, places
        self.n_own: int = int((owner == ranks.rank).sum())
        foreign = torch.unique(wanted)
        foreign = foreign[owner[foreign] != ranks.rank]
        self.ids: Tensor = foreign[owner[foreign].argsort(stable=True)]
        asked = owner[self.ids].bincount(minlength=ranks.size)
        one_each = [1] * ranks.size
        self.received: list[int] = asked.tolist()
        self.sent: list[int] = ranks.exchange(asked, one_each, one_each).tolist() if ranks.size > 1 else [0]
        self.sent_rows: Tensor = ranks.exchange(places[self.ids], self.received, self.sent)

    def __len__(self) -> int:
        return self.n_own + len(self.ids)

    def columns(self, ids: Tensor) -> Tensor:
        """Places of wanted nodes in the table, int64."""
        found = torch.where(self._owner == self.ranks.rank, self._places, -1)
        found[self.ids] = self.n_own + torch.arange(len(self.ids), device=ids.device)
        return found[ids]

    def table(self, own: Tensor) -> Tensor:
        """Own rows ``[n_own, d]`` with those of others after them, ``[len(self), d]``; differentiable."""
        if self.ranks.size == 1:
            return own
        rows: Tensor = _Exchanged.apply(self, own)  # type: ignore[no-untyped-call]
        return torch.cat([own, rows])
