"""Top-k of more items than are held at once: block after block of items, each merged into the lists so far."""

from __future__ import annotations

import torch
from torch import Tensor

from hakg_dgl.ranking.topk import EmbeddingScorer, masked_topk


class ListsSoFar:
    """The best items of some users among the blocks that were seen; of equal scores, the lower item id comes first.

    Parameters
    ----------
    vectors
        Of the users, ``[n, d]``.
    k
        Length of the lists, at least 1.
    known
        Row of a user (ascending) and item, int64 ``[m]`` each: what is never listed.

    Attributes
    ----------
    items, scores
        ``[n, at most k]``, best first; -1 and ``-inf`` where fewer candidates remained.
    """

    def __init__(self, vectors: Tensor, k: int, known: tuple[Tensor, Tensor] | None = None) -> None:
        self.vectors: Tensor = vectors
        self.k: int = k
        self._known = known
        self.items: Tensor = torch.empty(len(vectors), 0, dtype=torch.int64, device=vectors.device)
        self.scores: Tensor = vectors.new_empty(len(vectors), 0)

    @torch.no_grad()
    def add(self, first: int, block: Tensor) -> None:
        """Take the items ``first``, ``first + 1`` and so on, with vectors ``[m, d]``; blocks come in ascending order.

        Raises
        ------
        NumericalError
            If a score is NaN.
        """
        seen = None if self._known is None else self._within(first, len(block))
        scorer = EmbeddingScorer(self.vectors, block)
        items, scores = masked_topk(scorer, torch.arange(len(self.vectors)), min(self.k, len(block)), seen)
        items = torch.where(items < 0, items, items + first)
        scores = torch.cat([self.scores, scores.to(self.scores)], 1)
        # Stable, and earlier blocks first: so lower ids come first among equal scores.
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, : self.k]
        self.items = torch.cat([self.items, items.to(self.items)], 1).gather(1, order)
        self.scores = scores.gather(1, order)

    def _within(self, first: int, size: int) -> tuple[Tensor, Tensor]:
        """What is known of a block's items, numbered from 0, packed by row."""
        assert self._known is not None
        rows, items = self._known
        inside = (items >= first) & (items < first + size)
        counts = rows[inside].bincount(minlength=len(self.vectors))
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), items[inside] - first
