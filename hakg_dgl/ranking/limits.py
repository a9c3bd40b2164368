"""Lists with at most n items of one attribute value, such as two of a brand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import DataError
from hakg_dgl.ranking.candidates import facts_by, no_relation, relations_named
from hakg_dgl.ranking.topk import IdArray, Scorer, TopK, UserItems, iter_topk

WIDER = 4
"""How many times as many places are looked at where a list is not full."""

_MOST_DIGITS = 18
"""Of a limit; longer than any list is."""


@dataclass(frozen=True, eq=False)
class AtMost:
    """A limit on the items of a list that share a value.

    Attributes
    ----------
    values
        The values of each item, a tuple of numbers an item; an item without a value is never left out.
    limit
        How many items of a list may have the same value.
    """

    values: Sequence[tuple[int, ...]]
    limit: int


def at_most(dataset: Dataset, text: str) -> AtMost:
    """The limit that a text says: ``"brand=2"``, a relation by original id or name, and a number from 1.

    Raises
    ------
    DataError
        If the data set has no such relation, or the number is not one.
    """
    name, found, number = (part.strip() for part in text.rpartition("="))
    if not found or not (number.isascii() and number.isdecimal() and len(number) <= _MOST_DIGITS) or int(number) < 1:
        raise DataError(f"{text!r} is not a limit", remedy="Write a relation and a number from 1, such as brand=2.")
    relations = relations_named(dataset, name)
    if not len(relations):
        raise no_relation(dataset, text, name)
    facts = facts_by(dataset, relations).sort_values(["item", "entity"])
    values: list[tuple[int, ...]] = [()] * dataset.n_items
    for item, entity in zip(facts["item"].tolist(), facts["entity"].tolist(), strict=True):
        values[item] += (entity,)
    return AtMost(values, int(number))


def iter_limited(
    scorer: Scorer,
    users: IdArray,
    k: int,
    limits: Sequence[AtMost],
    seen: UserItems | None = None,
    candidates: IdArray | None = None,
    *,
    block: int | None = None,
) -> Iterator[TopK]:
    """The lists of :func:`~hakg_dgl.ranking.topk.iter_topk` within limits, block by block.

    Down each user's whole ranking, an item is taken unless the list has as many of one of its values as a limit allows.
    Parameters and errors are those of ``iter_topk``.
    """
    for first in iter_topk(scorer, users, min(scorer.n_items, WIDER * k), seen, candidates, block=block):
        width = first.items.shape[1]
        kept = [_taken(row, k, limits) for row in first.items.cpu().numpy()]
        rows = {u: (first.items[u, place], first.scores[u, place]) for u, place in enumerate(kept)}
        short = [u for u, place in enumerate(kept) if len(place) < min(k, scorer.n_items)]
        while width < scorer.n_items and short:
            short = [u for u in short if int(first.items[u, -1]) >= 0]
            width = min(scorer.n_items, WIDER * width)
            done = 0
            again = first.users[short]
            for more in iter_topk(scorer, again, width, seen, candidates, block=block):
                for row, (items, scores) in enumerate(zip(more.items, more.scores, strict=True)):
                    place = _taken(items.cpu().numpy(), k, limits)
                    rows[short[done + row]] = (items[place], scores[place])
                done += len(more.users)
            short = [u for u in short if len(rows[u][0]) < k]
        shape = (len(first.users), min(k, scorer.n_items))
        items = torch.full(shape, -1, device=first.items.device)
        scores = torch.full(shape, -torch.inf, dtype=first.scores.dtype, device=first.scores.device)
        for u, (own, values) in rows.items():
            items[u, : len(own)], scores[u, : len(own)] = own, values
        yield TopK(first.users, items, scores)


def _taken(ranking: NDArray[np.int64], k: int, limits: Sequence[AtMost]) -> NDArray[np.int64]:
    """Places in a ranking of items (-1: no more) of the first k that are within the limits."""
    counts: list[dict[int, int]] = [{} for _ in limits]
    places: list[int] = []
    for place, item in enumerate(ranking.tolist()):
        if item < 0 or len(places) == k:
            break
        own = [limit.values[item] for limit in limits]
        full = any(
            count.get(value, 0) >= limit.limit
            for limit, count, values in zip(limits, counts, own, strict=True)
            for value in values
        )
        if full:
            continue
        places.append(place)
        for count, values in zip(counts, own, strict=True):
            for value in values:
                count[value] = count.get(value, 0) + 1
    return np.array(places, dtype=np.int64)
