"""Yardsticks that need no model: the most popular items, and chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hakg_dgl.errors import ConfigError
from hakg_dgl.randomness import mixed

if TYPE_CHECKING:
    from hakg_dgl.data.dataset import Dataset


class SameForAllScorer:
    """Ranks items the same for every user.

    Parameters
    ----------
    n_users
        Number of users.
    row
        Scores of the items, ``[n_items]``, on the CPU.
    """

    def __init__(self, n_users: int, row: Tensor) -> None:
        self.n_users: int = n_users
        self.n_items: int = len(row)
        self.row: Tensor = row

    def scores(self, users: Tensor) -> Tensor:
        """The same row for each of the users ``[B]``: ``[B, n_items]``."""
        return self.row.repeat(len(users), 1)


def popularity(items: Tensor, n_items: int) -> Tensor:
    """Scores that rank items by how often they occur, float64 ``[n_items]``; equal counts go by a hash of the id.

    The integer part is the count, and a fraction orders equal ones. Where a catalogue is numbered by how much its items
    sell, an order by id would tell of items without interaction what nobody can know of them.

    Parameters
    ----------
    items
        Items of interactions, int64 ``[n]``.
    n_items
        Size of the catalogue.
    """
    counts = torch.bincount(items, minlength=n_items).double()
    fractions = (mixed(torch.arange(n_items)) & 0xFFFFFFFF).double() / 2**32
    return counts + fractions


class PopularityScorer(SameForAllScorer):
    """Ranks items by their number of interactions; see :func:`popularity`.

    Parameters
    ----------
    dataset
        Where the interactions are counted.
    splits
        The splits counted; those an evaluation masks are those a deployed recommender would know.
    """

    def __init__(self, dataset: Dataset, splits: tuple[str, ...] = ("train",)) -> None:
        _, items = dataset.positives(*splits)
        row = popularity(torch.tensor(items, dtype=torch.int64), dataset.n_items)
        super().__init__(dataset.n_users, row)


class RandomScorer:
    """Scores that are uniform on [0, 1) and depend on seed, user and item alone, not on blocks or order.

    Parameters
    ----------
    n_users, n_items
        Size of the data set.
    seed
        0 to 2^63 - 1; each gives rankings of its own.
    """

    def __init__(self, n_users: int, n_items: int, seed: int) -> None:
        if not 0 <= seed < 1 << 63:
            raise ConfigError(f"seed is {seed}; it must be 0 to 2^63 - 1")
        self.n_users: int = n_users
        self.n_items: int = n_items
        self.seed: int = seed
        draw = torch.Generator().manual_seed(seed)
        self._user_keys, self._item_keys = (
            torch.randint(-(1 << 31), 1 << 31, (n,), generator=draw).int() for n in (n_users, n_items)
        )

    def scores(self, users: Tensor) -> Tensor:
        """Float32 scores ``[B, n_items]`` of the users ``[B]``."""
        keys = self._user_keys[users.cpu(), None] ^ self._item_keys
        # The finaliser of MurmurHash3 (32 bits): every bit of the key reaches every bit of the result.
        for shift, factor in ((16, -0x7A143595), (13, -0x3D4D51CB), (16, 1)):
            keys ^= (keys >> shift) & ((1 << (32 - shift)) - 1)  # >> is arithmetic on signed integers
            keys *= factor
        return ((keys >> 8) & 0xFFFFFF) / float(1 << 24)
