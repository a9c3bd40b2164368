"""Top-k of all items for many users: scored in blocks, seen items masked, ties broken by item id."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hakg_dgl.errors import ConfigError, DataError, NumericalError

IdArray: TypeAlias = "Tensor | NDArray[Any] | Sequence[int]"
UserItems: TypeAlias = "tuple[IdArray, IdArray]"
Watch: TypeAlias = "Callable[[Tensor, Tensor], None]"
"""Gets the users ``[B]`` and the scores ``[B, n_items]`` of a block, ``-inf`` where an item is no candidate."""

SCORES_PER_BLOCK = 1 << 22
"""Scores held at once: 16 MiB of float32, small enough for a CPU to allocate cheaply."""


class Scorer(Protocol):
    """Anything that scores every item for a block of users; a higher score ranks earlier."""

    @property
    def n_users(self) -> int:
        """Number of users; their ids are 0..n_users-1."""

    @property
    def n_items(self) -> int:
        """Number of items; their ids are 0..n_items-1."""

    def scores(self, users: Tensor) -> Tensor:
        """Scores ``[B, n_items]`` (floating point, any device) of the users ``[B]`` (int64, on the CPU or there).

        The caller owns the result and overwrites it: return a fresh tensor, never a view of a stored one.
        An item scored ``-inf`` is not a candidate for that user.
        """


class EmbeddingScorer:
    """Scores by inner product; for cosine scores, pass rows of unit length.

    Parameters
    ----------
    user_vectors
        ``[n_users, d]``, floating point.
    item_vectors
        ``[n_items, d]``, same dtype and device.

    Raises
    ------
    ConfigError
        If the two do not have the same width, dtype and device.
    """

    def __init__(self, user_vectors: Tensor, item_vectors: Tensor) -> None:
        users, items = user_vectors.detach(), item_vectors.detach()
        if users.ndim != 2 or items.ndim != 2 or users.shape[1] != items.shape[1]:
            raise ConfigError(
                f"user vectors {tuple(users.shape)} and item vectors {tuple(items.shape)} must be [n, d], with one d"
            )
        if users.dtype != items.dtype or users.device != items.device:
            raise ConfigError(
                f"user vectors are {users.dtype} on {users.device}, item vectors {items.dtype} on {items.device}; "
                "give both one dtype and device"
            )
        self.user_vectors: Tensor = users
        self.item_vectors: Tensor = items

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.user_vectors)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.item_vectors)

    def scores(self, users: Tensor) -> Tensor:
        """Inner products ``[B, n_items]`` of the users ``[B]`` with every item."""
        return self.vectors_of(users) @ self.item_vectors.T

    def vectors_of(self, users: Tensor) -> Tensor:
        """Vectors ``[B, d]`` of the users ``[B]``."""
        return self.user_vectors[users.to(self.user_vectors.device)]


class TopK(NamedTuple):
    """The best items of some users, best first."""

    users: Tensor
    """``[n]`` int64."""
    items: Tensor
    """``[n, min(k, n_items)]`` int64; -1 where fewer candidates remained."""
    scores: Tensor
    """The same shape; -inf where the item is -1."""


def masked_topk(
    scorer: Scorer,
    users: IdArray,
    k: int,
    seen: UserItems | None = None,
    candidates: IdArray | None = None,
    *,
    block: int | None = None,
    watch: Watch | None = None,
) -> tuple[Tensor, Tensor]:
    """The ``k`` best items of each user, best first; of equal scores, the lower item id comes first.

    Parameters
    ----------
    scorer
        Scores all items of a block of users.
    users
        User ids ``[n]``, int64, in any order, repeats allowed.
    k
        Length of the lists, at least 1; at most as many as there are items are returned.
    seen
        ``(indptr [n_users + 1], items)``, int64: the items of user ``u`` in ``items[indptr[u]:indptr[u + 1]]`` are
        never returned to ``u``.
    candidates
        Item ids ``[m]``; only these are returned. Default: all items.
    block
        Users scored at once. Default: as many as keep a block of scores within 16 MiB of float32.
    watch
        Called with each block's users and scores, for what needs more of them than the lists; it changes nothing.

    Returns
    -------
    items : Tensor
        ``[n, min(k, n_items)]`` int64 on the device of the scores; -1 where fewer candidates remained.
    scores : Tensor
        The same shape; ``-inf`` where the item is -1.

    Raises
    ------
    ConfigError
        If ``k`` or ``block`` is below 1.
    DataError
        If a user or candidate id is out of range, or the scores do not have ``n_items`` columns.
    NumericalError
        If a candidate's score is NaN.
    """
    parts = list(iter_topk(scorer, users, k, seen, candidates, block=block, watch=watch))
    if not parts:
        width = min(k, scorer.n_items)
        return torch.empty(0, width, dtype=torch.int64), torch.empty(0, width)
    return torch.cat([part.items for part in parts]), torch.cat([part.scores for part in parts])


@torch.no_grad()
def iter_topk(
    scorer: Scorer,
    users: IdArray,
    k: int,
    seen: UserItems | None = None,
    candidates: IdArray | None = None,
    *,
    block: int | None = None,
    watch: Watch | None = None,
) -> Iterator[TopK]:
    """Yield the blocks that :func:`masked_topk` joins, so that any number of users fits in memory."""
    n_items = scorer.n_items
    if k < 1 or (block is not None and block < 1):
        raise ConfigError(f"k is {k} and block is {block}; both must be at least 1")
    todo = checked_ids(users, scorer.n_users, "user")
    closed = None
    if candidates is not None:
        closed = torch.ones(n_items, dtype=torch.bool)
        closed[checked_ids(candidates, n_items, "candidate item")] = False
    indptr, items = (None, None) if seen is None else (id_tensor(seen[0]), id_tensor(seen[1]))
    if indptr is not None and len(indptr) != scorer.n_users + 1:
        raise DataError(f"seen items are given for {len(indptr) - 1} users, the scorer has {scorer.n_users}")
    block = block or max(1, SCORES_PER_BLOCK // max(1, n_items))
    for start in range(0, len(todo), block):
        part = todo[start : start + block]
        scores = scorer.scores(part)
        if scores.shape != (len(part), n_items):
            raise DataError(f"scores have shape {tuple(scores.shape)} instead of {(len(part), n_items)}")
        part = part.to(scores.device)
        if closed is not None:
            closed = closed.to(scores.device)
            scores.masked_fill_(closed, -torch.inf)
        if indptr is not None and items is not None:
            indptr, items = indptr.to(scores.device), items.to(scores.device)
            scores[_gather_rows(indptr, items, part)] = -torch.inf
        ranked = _rank(scores, part, k)
        if watch is not None:
            watch(part, scores)
        yield TopK(part, *ranked)


def id_tensor(ids: IdArray) -> Tensor:
    """Ids as an int64 tensor; NumPy arrays are copied, since those of a data set may be read-only."""
    return ids.long() if isinstance(ids, Tensor) else torch.from_numpy(np.array(ids, dtype=np.int64))


def checked_ids(ids: IdArray, n: int, what: str) -> Tensor:
    """Ids as a flat int64 tensor; :class:`DataError` if one is not in 0..n-1."""
    tensor = id_tensor(ids).flatten()
    wrong = tensor[(tensor < 0) | (tensor >= n)]
    if len(wrong):
        raise DataError(f"{what} {int(wrong[0])} does not exist; ids are 0 to {n - 1}")
    return tensor


def _gather_rows(indptr: Tensor, items: Tensor, users: Tensor) -> tuple[Tensor, Tensor]:
    """Row in ``users`` and item of every entry that those users have in the CSR lists."""
    starts = indptr[users]
    degrees = indptr[users + 1] - starts
    rows = torch.repeat_interleave(degrees)
    first = degrees.cumsum(0) - degrees
    return rows, items[torch.arange(len(rows), device=rows.device) + (starts - first)[rows]]


def _rank(scores: Tensor, users: Tensor, k: int) -> tuple[Tensor, Tensor]:
    n_items = scores.shape[1]
    width = min(k, n_items)
    # One place more than asked for shows whether the cut falls between equal scores.
    values, items = scores.topk(min(width + 1, n_items), dim=1)
    nan = values[:, :1].isnan().any(1)  # topk ranks NaN above everything, so the first column shows any.
    if nan.any():
        raise NumericalError(
            f"the scores of {int(nan.sum())} users are NaN (first: user {int(users[nan][0])}); "
            "the embeddings they come from are not finite, so use an earlier checkpoint or a lower learning rate"
        )
    tied = ((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf)).any(1).nonzero().flatten()
    values, items = values[:, :width].contiguous(), items[:, :width].contiguous()
    if len(tied):
        values[tied], items[tied] = _rank_tied(scores[tied], width, values[tied, -1:])
    items.masked_fill_(values == -torch.inf, -1)
    return items, values


def _rank_tied(scores: Tensor, width: int, kth: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with ties, ranked by score and then by id, in time linear in the number of items.

    ``kth`` ``[rows, 1]`` is the score at the cut: all items above it are in, and of those equal to it the lowest ids.
    """
    above, equal = scores > kth, scores == kth
    room = width - above.sum(1, keepdim=True)
    kept = above | (equal & (equal.cumsum(1, dtype=torch.int32) <= room))
    items = kept.nonzero()[:, 1].view(-1, width)  # exactly `width` a row, ids ascending, so a stable sort suffices
    values, order = scores.gather(1, items).sort(dim=1, descending=True, stable=True)
    return values, items.gather(1, order)
