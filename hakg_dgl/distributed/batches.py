"""Batches and negatives where each process knows the interactions of its own users alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hakg_dgl.distributed.ownership import Ownership
from hakg_dgl.distributed.ranks import Ranks
from hakg_dgl.errors import DataError
from hakg_dgl.layers.sampling import NegativeSampler, epoch_order


class SharedBatches:
    """The batches of :class:`~hakg_dgl.layers.sampling.EpochBatches` over all pairs, the same in all processes.

    Pairs are numbered by user, then item. All processes draw one order of the numbers; who owns the user of a pair
    says which item it is. Making it, and each batch, is a step of all processes together.

    Parameters
    ----------
    ranks, ownership
        The processes and what they own.
    pairs
        int64 ``[n, 2]``, user and item, sorted: all pairs of own users, and maybe others.
    batch_size
        At least 1.
    generator
        Orders the pairs; in the same state in all processes.
    positives_per_user
        Pairs of a user that stand side by side.

    Raises
    ------
    DataError
        If no process has a pair.
    """

    def __init__(
        self,
        ranks: Ranks,
        ownership: Ownership,
        pairs: Tensor,
        batch_size: int,
        generator: torch.Generator,
        positives_per_user: int = 1,
    ) -> None:
        self.ranks: Ranks = ranks
        self.positives_per_user: int = positives_per_user
        self.owner: Tensor = ownership.owners["user"]
        self.batch_size: int = batch_size
        self.generator: torch.Generator = generator
        mine = own_pairs(ranks, ownership, pairs)
        self.items: Tensor = mine[:, 1].contiguous()
        degree = mine[:, 0].bincount(minlength=len(self.owner))
        self.own_first: Tensor = degree.cumsum(0) - degree
        self.end: Tensor = ranks.sum(degree).cumsum(0)
        self.n_pairs: int = int(self.end[-1]) if len(self.end) else 0
        if not self.n_pairs:
            raise DataError("there is no interaction to train on")

    @property
    def largest(self) -> int:
        """Pairs of a full batch."""
        return min(self.batch_size, self.n_pairs)

    def __len__(self) -> int:
        return -(-self.n_pairs // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(users [B], items [B])``, int64."""
        order = epoch_order(self._users(), self.generator, self.positives_per_user)
        for start in range(0, self.n_pairs, self.batch_size):
            yield self.pairs(order[start : start + self.batch_size])

    def _users(self) -> Tensor:
        """The user of each pair, int64 ``[n_pairs]``, on the device of the generator; zeros where nobody asks."""
        end = self.end.to(self.generator.device)
        if self.positives_per_user == 1:
            return end.new_zeros(1).expand(self.n_pairs)
        return torch.arange(len(end), device=end.device).repeat_interleave(end.diff(prepend=end.new_zeros(1)))

    def users_of(self, numbers: Tensor) -> Tensor:
        """The user of each of the pairs with these numbers, int64 ``[B]``."""
        return torch.searchsorted(self.end, numbers, right=True)

    def pairs(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Users and items of the pairs with these numbers, int64 ``[B]`` each."""
        users = self.users_of(numbers)
        first = torch.where(users > 0, self.end[users - 1], 0)
        at = (self.owner[users] == self.ranks.rank).nonzero().flatten()
        items = torch.zeros_like(numbers)
        items[at] = self.items[self.own_first[users[at]] + (numbers - first)[at]]
        return users, self.ranks.sum(items)


def own_pairs(ranks: Ranks, ownership: Ownership, pairs: Tensor) -> Tensor:
    """The pairs (int64 ``[n, 2]``, user and item) of own users."""
    return pairs[ownership.owners["user"][pairs[:, 0]] == ranks.rank]


class SharedSampler(NegativeSampler):
    """Draws what :class:`~hakg_dgl.layers.sampling.NegativeSampler` draws for all users, the same in all processes.

    What a user has is known to the owner of the user alone, who tells the others which draws to make again.

    Parameters
    ----------
    ranks, ownership
        The processes and what they own.
    pairs
        int64 ``[n, 2]``, user and item, sorted: all pairs of own users, and maybe others.
    """

    def __init__(self, ranks: Ranks, ownership: Ownership, pairs: Tensor) -> None:
        mine = own_pairs(ranks, ownership, pairs)
        self.ranks: Ranks = ranks
        self.owner: Tensor = ownership.owners["user"]
        degree = mine[:, 0].bincount(minlength=len(self.owner))
        indptr = torch.cat([degree.new_zeros(1), degree.cumsum(0)])
        super().__init__(indptr, mine[:, 1], len(ownership.owners["item"]), device=pairs.device)

    def _taken(self, users: Tensor, drawn: Tensor) -> Tensor:
        flags = torch.zeros(drawn.numel(), dtype=torch.uint8, device=drawn.device)
        flags[super()._taken(users, drawn)] = 1
        return self.ranks.max(flags).nonzero().flatten()

    def _is_taken(self, users: Tensor, drawn: Tensor) -> Tensor:
        return self.ranks.max(super()._is_taken(users, drawn).to(torch.uint8)).bool()

    def _by_rank(self, users: Tensor, wide: Tensor) -> Tensor:
        found = super()._by_rank(users, wide)
        return self.ranks.sum(found.masked_fill_(self.owner[users] != self.ranks.rank, 0))
