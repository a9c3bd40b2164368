"""Ranking among sampled items, for comparison with published tables that do so."""

from __future__ import annotations

import torch
from torch import Tensor

from hakg_dgl.randomness import stream_seed
from hakg_dgl.ranking.topk import IdArray, Scorer, id_tensor
from hakg_dgl.ranking.yardsticks import RandomScorer


class AmongSampled:
    """A scorer for which a user's candidates are the relevant items and some others, drawn uniformly.

    The draw depends on seed, user and item alone, so every scorer is measured among the same items.

    Parameters
    ----------
    scorer
        Whose scores are taken.
    keep
        Items that are always candidates, packed: those of user ``u`` are ``items[indptr[u]:indptr[u + 1]]``.
    never
        Items that are not drawn, packed in the same way; None for none.
    n
        Items drawn for each user, without replacement; all others where there are fewer.
    seed
        Of the draw.
    among
        Item ids ``[m]`` to draw from; None for all.
    """

    def __init__(
        self,
        scorer: Scorer,
        keep: tuple[IdArray, IdArray],
        never: tuple[IdArray, IdArray] | None,
        n: int,
        seed: int,
        among: Tensor | None = None,
    ) -> None:
        self.scorer: Scorer = scorer
        self.n: int = n
        self.n_users: int = scorer.n_users
        self.n_items: int = scorer.n_items
        self._keep, self._never, self._among = keep, never, among
        # A stream of its own: by the seed itself the yardstick by chance would rank what is drawn first.
        self._draw = RandomScorer(scorer.n_users, scorer.n_items, stream_seed(seed, "sampled candidates"))

    def scores(self, users: Tensor) -> Tensor:
        """The scores ``[B, n_items]`` of the users ``[B]``, ``-inf`` where an item is no candidate."""
        scores = self.scorer.scores(users)
        users = users.cpu()
        keys = self._draw.scores(users)
        if self._among is not None:
            among = torch.zeros(self.n_items, dtype=torch.bool).index_fill_(0, self._among.cpu(), True)
            keys.masked_fill_(~among, -1.0)
        always = _entries(self._keep, users)
        for entries in (always, *([] if self._never is None else [_entries(self._never, users)])):
            keys[entries] = -1.0
        drawn = keys.topk(min(self.n, self.n_items), dim=1)
        candidates = torch.zeros(keys.shape, dtype=torch.bool).scatter_(1, drawn.indices, drawn.values >= 0.0)
        candidates[always] = True
        return scores.masked_fill_(~candidates.to(scores.device), -torch.inf)


def _entries(packed: tuple[IdArray, IdArray], users: Tensor) -> tuple[Tensor, Tensor]:
    """Row among the users, and item, of all that is packed for them."""
    indptr, items = (id_tensor(part).cpu() for part in packed)
    counts = indptr[users + 1] - indptr[users]
    rows = torch.arange(len(users)).repeat_interleave(counts)
    first = counts.cumsum(0) - counts
    return rows, items[torch.arange(len(rows)) + (indptr[users] - first)[rows]]
