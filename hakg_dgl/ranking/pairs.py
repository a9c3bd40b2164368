"""Scores of given pairs of users and items."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from hakg_dgl.data.readers.text import counted
from hakg_dgl.errors import DataError
from hakg_dgl.ranking.topk import SCORES_PER_BLOCK, IdArray, Scorer, checked_ids


@torch.no_grad()
def score_pairs(scorer: Scorer, users: IdArray, items: IdArray) -> NDArray[np.float64]:
    """The score of each pair, float64 ``[n]`` in the order of the pairs; items that a user has are scored too.

    Parameters
    ----------
    scorer
        Scores all items of a block of users.
    users, items
        int64 ``[n]`` each, repeats allowed.

    Raises
    ------
    DataError
        If a user or an item does not exist, or there are not as many of both.
    """
    user, item = checked_ids(users, scorer.n_users, "user").cpu(), checked_ids(items, scorer.n_items, "item").cpu()
    if len(user) != len(item):
        raise DataError(
            f"there are {counted(len(user), 'user')} and {counted(len(item), 'item')}",
            remedy="Give a user and an item a pair.",
        )
    distinct, place = torch.unique(user, return_inverse=True)
    order = torch.argsort(place, stable=True)
    bounds = torch.bincount(place, minlength=len(distinct)).cumsum(0).tolist()
    found = torch.empty(len(user), dtype=torch.float64)
    block, start = max(1, SCORES_PER_BLOCK // max(1, scorer.n_items)), 0
    for first in range(0, len(distinct), block):
        chosen = distinct[first : first + block]
        pairs = order[start : bounds[first + len(chosen) - 1]]
        start = bounds[first + len(chosen) - 1]
        scores = scorer.scores(chosen)
        row, column = (ids.to(scores.device) for ids in (place[pairs] - first, item[pairs]))
        found[pairs] = scores[row, column].double().cpu()
    return found.numpy()
