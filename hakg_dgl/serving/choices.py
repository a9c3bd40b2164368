"""Which items a list may hold, and how the best of them are found: exactly, or by an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.ranking.candidates import items_where, undecided
from hakg_dgl.ranking.index import ItemIndex, VectorScorer, indexed_topk
from hakg_dgl.ranking.limits import AtMost, at_most, iter_limited
from hakg_dgl.ranking.topk import Scorer, UserItems, masked_topk

_CONDITIONS_KEPT, _LIMITS_KEPT = 32, 8
"""Sets of conditions, and limits, whose items are remembered."""


@dataclass(frozen=True, eq=False)
class Choice:
    """The items that may be listed, numbers ``[m]`` or None for all, and how many of a value a list may have.

    ``notes`` says of each condition for which items it cannot be decided; those may not be listed.
    """

    candidates: NDArray[np.int64] | None = None
    limits: Sequence[AtMost] = ()
    notes: Sequence[str] = ()

    @property
    def free(self) -> bool:
        """Whether any list may hold any items."""
        return self.candidates is None and not self.limits


ANY = Choice()


class Choices:
    """What conditions and limits of a data set mean; the latest ones are remembered.

    Parameters
    ----------
    dataset
        Whose facts are asked.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._where = lru_cache(_CONDITIONS_KEPT)(
            lambda conditions: (items_where(dataset, *conditions), undecided(dataset, *conditions))
        )
        self._at_most = lru_cache(_LIMITS_KEPT)(lambda text: at_most(dataset, text))

    def of(self, where: tuple[str, ...], limits: tuple[str, ...]) -> Choice:
        """The choice by conditions and limits; DataError if the data set has no such relation, entity or item."""
        if not where and not limits:
            return ANY
        candidates, notes = self._where(where) if where else (None, [])
        return Choice(candidates, [self._at_most(text) for text in limits], notes)


def best(
    scorer: Scorer, users: Sequence[int], k: int, seen: UserItems | None, choice: Choice, index: ItemIndex | None
) -> tuple[Tensor, Tensor]:
    """The best items of users and their scores, as :func:`~hakg_dgl.ranking.topk.masked_topk` has them.

    An index is used where all items may be listed; conditions and limits are ranked exactly.
    """
    asked = torch.tensor(users)
    if choice.limits:
        parts = list(iter_limited(scorer, asked, k, choice.limits, seen, choice.candidates))
        return torch.cat([part.items for part in parts]), torch.cat([part.scores for part in parts])
    if index is not None and choice.free and isinstance(scorer, VectorScorer):
        return indexed_topk(index, scorer, asked, k, seen)
    return masked_topk(scorer, asked, k, seen, choice.candidates)
