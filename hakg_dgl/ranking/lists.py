"""Recommendation lists as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from hakg_dgl.ranking.limits import AtMost, iter_limited
from hakg_dgl.ranking.topk import IdArray, Scorer, TopK, UserItems, iter_topk

if TYPE_CHECKING:
    from hakg_dgl.data.dataset import Dataset


def recommend(
    scorer: Scorer,
    users: IdArray,
    k: int = 20,
    seen: UserItems | None = None,
    candidates: IdArray | None = None,
    *,
    limits: Sequence[AtMost] = (),
    block: int | None = None,
) -> pd.DataFrame:
    """The ``k`` best items of each user as a table; the parameters and errors are those of ``masked_topk``.

    With ``limits`` (of :func:`~hakg_dgl.ranking.limits.at_most`) a list has no more items of a value than they
    allow; the next items of the ranking take the places.

    Returns
    -------
    pandas.DataFrame
        ``user`` int64, ``rank`` int64 from 1, ``item`` int64, ``score`` float, in the order of ``users``. A user with
        fewer than ``k`` candidates has as many rows.
    """
    tables = list(iter_recommendations(scorer, users, k, seen, candidates, limits=limits, block=block))
    return pd.concat(tables or [_table(_NOBODY)], ignore_index=True)


def iter_recommendations(
    scorer: Scorer,
    users: IdArray,
    k: int = 20,
    seen: UserItems | None = None,
    candidates: IdArray | None = None,
    *,
    limits: Sequence[AtMost] = (),
    block: int | None = None,
) -> Iterator[pd.DataFrame]:
    """Yield the table of :func:`recommend` block by block, for writing lists that do not fit in memory."""
    if limits:
        blocks = iter_limited(scorer, users, k, limits, seen, candidates, block=block)
    else:
        blocks = iter_topk(scorer, users, k, seen, candidates, block=block)
    yield from map(_table, blocks)


def with_names(table: pd.DataFrame, dataset: Dataset, *, user_ids: Sequence[str] | None = None) -> pd.DataFrame:
    """A table of numbers in original ids, with the names of what it lists: for people to read, and for files.

    Parameters
    ----------
    table
        What :func:`recommend`, ``similar_items``, ``similar_users`` or ``score_pairs`` gave.
    dataset
        The data set of the numbers.
    user_ids
        The ids of users that are numbered otherwise, such as those of
        :class:`~hakg_dgl.data.id_files.NewUsers`.

    Returns
    -------
    pandas.DataFrame
        The same rows. The columns ``user``, ``item`` and ``similar`` hold original ids (text), and ``name`` comes after
        the last of them: of the item, or of what is similar. Other columns are as they were.

    Examples
    --------
    >>> with_names(recommend(scorer, [0, 1], k=5, seen=dataset.positives()), dataset)
    """
    listed = [name for name in ("user", "item") if name in table]
    tables = {name: getattr(dataset, f"{name}s") for name in listed}
    if "similar" in table:
        tables["similar"] = tables[listed[0]]
    ids = {name: rows["original_id"].to_numpy() for name, rows in tables.items()}
    if user_ids is not None:
        ids["user"] = np.asarray(user_ids, dtype=object)
    last = list(tables)[-1]
    named = table.assign(**{name: ids[name][table[name].to_numpy()] for name in tables})
    place = [*table].index(last) + 1
    named.insert(place, "name", tables[last]["name"].to_numpy()[table[last].to_numpy()])
    return named


_NOBODY = TopK(torch.empty(0, dtype=torch.int64), torch.empty(0, 1, dtype=torch.int64), torch.empty(0, 1))


def _table(top: TopK) -> pd.DataFrame:
    items, scores, users = top.items.cpu().numpy(), top.scores.cpu().numpy(), top.users.cpu().numpy()
    row, place = np.nonzero(items >= 0)
    return pd.DataFrame({"user": users[row], "rank": place + 1, "item": items[row, place], "score": scores[row, place]})
