"""Evaluation by several processes: each ranks all items for its own users, and the sums of metrics are added up.

The vectors of items come block by block to all processes, so none holds those of all items, nor the scores of more
users and items than :mod:`~hakg_dgl.ranking.topk` holds at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.distributed.ownership import Ownership
from hakg_dgl.distributed.ranks import Ranks
from hakg_dgl.errors import DataError, NumericalError
from hakg_dgl.ranking.evaluation import Evaluator
from hakg_dgl.ranking.in_blocks import ListsSoFar
from hakg_dgl.ranking.metrics import HIT_METRICS, METRICS

NUMBERS_PER_BLOCK = 1 << 24
"""Numbers in a block of items' vectors: 64 MiB of float32."""
_BITS = 30


class SharedEvaluator:
    """Evaluates vectors whose rows processes own, on one split; making it and every call are steps of all together.

    Parameters
    ----------
    ranks, ownership
        The processes and what they own.
    dataset
        With the interactions of own users.
    split, ks, also, keep_overlap
        As for :class:`~hakg_dgl.ranking.evaluation.Evaluator`; of further metrics those that the hits alone give.
    numbers_per_block
        Numbers in a block of items' vectors.

    Raises
    ------
    DataError
        If no user has an item in the split.
    """

    def __init__(
        self,
        ranks: Ranks,
        ownership: Ownership,
        dataset: Dataset,
        split: str,
        ks: Sequence[int],
        *,
        also: Sequence[str] = (),
        keep_overlap: bool = False,
        numbers_per_block: int = NUMBERS_PER_BLOCK,
    ) -> None:
        self.ranks: Ranks = ranks
        self.ownership: Ownership = ownership
        self.numbers_per_block: int = numbers_per_block
        self.names: list[str] = [
            f"{name}@{k}" for k in ks for name in HIT_METRICS if name in METRICS or name in set(also)
        ]
        foreign = (ownership.owners["user"] != ranks.rank).cpu()
        users = torch.from_numpy(dataset.pairs(split)[:, 0].copy())
        if keep_overlap:
            users = torch.cat([users, torch.tensor(dataset.test_overlap["user"].to_numpy())])
        self.evaluator: Evaluator | None = None
        if bool((~foreign[users]).any()):
            others = foreign.nonzero().flatten()
            self.evaluator = Evaluator(
                dataset, split, ks, also=also, exclude_users=others, per_user=True, keep_overlap=keep_overlap
            )
        n = 0 if self.evaluator is None else len(self.evaluator.users)
        self.n_users: int = int(ranks.sum(torch.tensor(n)))
        if not self.n_users:
            raise DataError(
                f"no user has an item in the {split!r} split, so there is nothing to evaluate",
                remedy="preprocess again with a share for this split (--valid, --test)",
            )

    def __call__(self, user: Tensor, item: Tensor) -> dict[str, float]:
        """Means over all users of what inner products rank; vectors ``[n_own, d]`` of own users and own items.

        The sums are of whole numbers, so they do not depend on how users are spread over processes.

        Raises
        ------
        NumericalError
            In all processes, if vectors or scores of one of them are not finite, or may overflow.
        """
        self._require_finite(user, item)
        evaluator, lists, problem = self.evaluator, None, 0
        if evaluator is not None:
            lists = self._lists_of(evaluator, user)
        for first, block in item_blocks(self.ranks, self.ownership, item, self.numbers_per_block):
            if lists is None or problem:
                continue
            try:
                lists.add(first, block)
            except NumericalError:  # the others are in the next block: all end after the last one
                problem = 1
        if int(self.ranks.max(torch.tensor(problem))):
            raise NumericalError("the scores of some users are NaN")
        values = torch.zeros(0, len(self.names), dtype=torch.float64)
        if evaluator is not None and lists is not None:
            table = evaluator.of_lists(lists.items.cpu()).per_user
            assert table is not None
            values = torch.from_numpy(table[self.names].to_numpy(copy=True))
        sums = exact_sums(self.ranks, values)
        return {name: total / self.n_users for name, total in zip(self.names, sums, strict=True)}

    def _lists_of(self, evaluator: Evaluator, user: Tensor) -> ListsSoFar:
        users = torch.from_numpy(evaluator.users).to(user.device)
        known = None
        if evaluator.seen is not None:
            indptr, items = (part.to(user.device) for part in evaluator.seen)
            counts = indptr[users + 1] - indptr[users]
            rows = torch.repeat_interleave(counts)
            before = counts.cumsum(0) - counts
            places = torch.arange(len(rows), device=user.device) + (indptr[users] - before)[rows]
            known = rows, items[places]
        places = self.ownership.places["user"][users]
        return ListsSoFar(user.detach().index_select(0, places), evaluator.longest, known)

    def _require_finite(self, user: Tensor, item: Tensor) -> None:
        """Raise NumericalError if inner products may overflow, which ranks without a NaN to be seen."""
        own = torch.tensor([_longest(vectors) for vectors in (user, item)], dtype=torch.float64)
        longest = self.ranks.max(own.nan_to_num(nan=torch.inf, posinf=torch.inf)).tolist()
        if not longest[0] * longest[1] <= torch.finfo(user.dtype).max:
            raise NumericalError(f"the longest vectors have norms {longest[0]:.3g} and {longest[1]:.3g}")


def item_blocks(
    ranks: Ranks, ownership: Ownership, item: Tensor, numbers_per_block: int = NUMBERS_PER_BLOCK
) -> Iterator[tuple[int, Tensor]]:
    """First item and vectors of consecutive items, in all processes, from own rows ``[n_own, d]``."""
    owner, places = ownership.owners["item"], ownership.places["item"]
    size = max(1, numbers_per_block // max(1, item.shape[1]))
    for first in range(0, len(owner), size):
        stop = min(first + size, len(owner))
        at = (owner[first:stop] == ranks.rank).nonzero().flatten()
        own = item.detach().index_select(0, places[first:stop][at])
        yield first, ranks.sum(item.new_zeros(stop - first, item.shape[1]).index_copy_(0, at, own))


def exact_sums(ranks: Ranks, values: Tensor) -> list[float]:
    """Sums over processes and rows of float64 ``[n, m]`` from 0 to 1: the same in whatever order they are added.

    Each value becomes a whole number of :math:`2^{-60}`, in two halves, and whole numbers are added without rounding.
    """
    scaled = values * 2.0**_BITS
    high = scaled.floor()
    low = ((scaled - high) * 2.0**_BITS).round()
    total = ranks.sum(torch.stack([high.long().sum(0), low.long().sum(0)]))
    return [((h << _BITS) + rest) / 2 ** (2 * _BITS) for h, rest in zip(*total.tolist(), strict=True)]


def _longest(vectors: Tensor) -> float:
    return float(vectors.detach().norm(dim=1).amax()) if len(vectors) else 0.0
