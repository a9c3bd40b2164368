"""Which interactions are kept (rating threshold, k-core) and which are held out (test, validation).

All functions take a frame of interactions with columns ``user``, ``item`` and, where named, ``rating`` and
``timestamp``; its order of rows is the original order. None of them loops over rows or users.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hakg_dgl.errors import DataError

STRATEGIES = ("random", "temporal", "temporal-global", "leave-one-out", "cold-items", "given")

Mask = npt.NDArray[np.bool_]


def codes_of(values: pd.Series[Any]) -> tuple[npt.NDArray[Any], int]:
    """Numbers from 0 for the values of a column, and a bound above them; of text they are those of its categories."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values.cat.codes.to_numpy(), len(values.cat.categories)
    if pd.api.types.is_integer_dtype(values.dtype) and len(values):
        numbers = values.to_numpy()
        if numbers.min() >= 0 and numbers.max() < 2 * len(numbers):
            return numbers, int(numbers.max()) + 1
    codes, unique = pd.factorize(values)
    return codes, len(unique)


def repeated_pairs(interactions: pd.DataFrame) -> Mask:
    """Which rows have a pair that another row has first.

    The first of a pair is the one of the earliest split or, without splits, of the earliest time; then, the one that
    stands first.
    """
    (user, _), (item, n_items) = codes_of(interactions["user"]), codes_of(interactions["item"])
    pair = user.astype(np.int64)
    pair *= n_items
    pair += item
    if "split" in interactions:
        order = np.lexsort((interactions["split"].cat.codes.to_numpy(), pair))
    elif "timestamp" in interactions:
        order = np.lexsort((interactions["timestamp"].to_numpy(), pair))
    else:
        order = np.argsort(pair, kind="stable")
    pair = pair[order]
    mask = np.zeros(len(pair), dtype=bool)
    mask[order[1:][pair[1:] == pair[:-1]]] = True
    return mask


def k_core(interactions: pd.DataFrame, min_user: int, min_item: int) -> pd.DataFrame:
    """The largest part in which every user has ``min_user`` and every item ``min_item`` interactions.

    Dropping an item can take a user below its minimum, so both rules are applied until nothing changes. The result
    does not depend on the order of dropping; it may be empty.
    """
    (user, n_users), (item, n_items) = codes_of(interactions["user"]), codes_of(interactions["item"])
    kept = np.arange(len(interactions))
    while True:
        enough = np.bincount(user[kept], minlength=n_users)[user[kept]] >= min_user
        enough &= np.bincount(item[kept], minlength=n_items)[item[kept]] >= min_item
        if enough.all():
            return interactions.iloc[kept]
        kept = kept[enough]


def rating_threshold(interactions: pd.DataFrame, least: float) -> pd.DataFrame:
    """The interactions whose rating is ``least`` or more.

    Raises
    ------
    DataError
        If there are no ratings.
    """
    if "rating" not in interactions:
        raise DataError("there are no ratings to apply a threshold to", remedy="Name the rating column, or drop it.")
    return interactions[interactions["rating"] >= least]


def held_out(interactions: pd.DataFrame, strategy: str, fraction: float, generator: np.random.Generator) -> Mask:
    """Choose the interactions to hold out.

    Every user keeps at least one, but for ``temporal-global`` and ``cold-items``.

    Parameters
    ----------
    interactions
        Columns ``user`` and, for ``temporal`` and ``temporal-global``, ``timestamp``.
    strategy
        - ``random``: ``fraction`` of each user's interactions, drawn without replacement;
        - ``temporal``: the latest ``fraction`` of each user's; equal timestamps count in their original order;
        - ``temporal-global``: the latest ``fraction`` of all interactions, by one cut in time: what is held out is
          later than all that is kept. Interactions of one moment stay together, so the fraction is met as nearly as
          the moments allow. A user whose interactions are all later keeps nothing;
        - ``leave-one-out``: one of each user with two or more: the last where there are timestamps, else a random one;
          ``fraction`` is not used;
        - ``cold-items``: all interactions of ``fraction`` of the items, drawn without replacement, so that what is held
          out is new. A user who has nothing else keeps nothing.

        A fraction of n interactions is ``floor(fraction n + 1/2)``, and at most n - 1.
    fraction
        In [0, 1).
    generator
        Source of the random draws.

    Returns
    -------
    bool [n_interactions]

    Raises
    ------
    DataError
        If ``temporal`` or ``temporal-global`` is asked for and there are no timestamps, or there is only one moment to
        cut at for the latter.
    ValueError
        For another strategy, or a fraction outside [0, 1).
    """
    if strategy not in STRATEGIES or strategy == "given" or not 0 <= fraction < 1:
        raise ValueError(f"cannot hold out {fraction!r} by {strategy!r}")
    if strategy == "cold-items":
        return _of_drawn_items(interactions, fraction, generator)
    timed = "timestamp" in interactions
    if strategy in ("temporal", "temporal-global") and not timed:
        raise DataError(
            "a temporal split needs timestamps, and there are none",
            remedy="Name the timestamp column, or split at random.",
        )
    if strategy == "temporal-global":
        return _after_a_cut(interactions["timestamp"].to_numpy(), fraction)
    user, n_users = codes_of(interactions["user"])
    counts = np.bincount(user, minlength=n_users)
    if strategy == "leave-one-out":
        quota = np.minimum(counts - 1, 1)
    else:
        quota = np.minimum(counts - 1, np.floor(counts * fraction + 0.5).astype(np.int64))
    if strategy == "random" or not timed:
        drawn = generator.permutation(len(user))
        drawn += user * np.int64(len(user))
        order = np.argsort(drawn)
        del drawn
    else:
        order = np.lexsort((interactions["timestamp"].to_numpy(), user))  # stable, so ties keep their order
    # `order` lists the users one after the other; the last `quota` places of each user's run are held out
    place = np.int32 if len(user) < 2**31 else np.int64
    first_held_out = np.repeat((np.cumsum(counts) - quota).astype(place), counts)
    mask = np.zeros(len(user), dtype=bool)
    mask[order] = np.arange(len(user), dtype=place) >= first_held_out
    return mask


def _after_a_cut(times: npt.NDArray[np.float64], fraction: float) -> Mask:
    """The latest fraction, cut between two moments: of the cuts before and after the moment there, the nearer one."""
    wanted = int(np.floor(len(times) * fraction + 0.5))
    if not wanted:
        return np.zeros(len(times), dtype=bool)
    cut = np.partition(times, -wanted)[-wanted]
    choices = [mask for mask in (times >= cut, times > cut) if 0 < mask.sum() < len(times)]
    if not choices:
        raise DataError(
            "all interactions have the same timestamp, so there is no moment to cut at",
            remedy="Name the column with their times, or choose another split.",
        )
    return min(choices, key=lambda mask: abs(int(mask.sum()) - wanted))


def _of_drawn_items(interactions: pd.DataFrame, fraction: float, generator: np.random.Generator) -> Mask:
    """The interactions of a fraction of the items; at least one item is left out of it."""
    item, items = pd.factorize(interactions["item"], sort=True)  # a draw does not depend on the order of rows
    n = min(len(items) - 1, int(np.floor(len(items) * fraction + 0.5))) if len(items) else 0
    drawn = np.zeros(len(items), dtype=bool)
    drawn[generator.permutation(len(items))[:n]] = True
    mask: Mask = drawn[item]
    return mask


def carve_validation(
    train: pd.DataFrame, fraction: float, generator: np.random.Generator, *, strategy: str = "random"
) -> Mask:
    """Choose the part of the training interactions that becomes the validation split.

    As the test split was made, so that validation resembles it: the latest interactions for ``temporal`` and
    ``temporal-global``, one of each user for ``leave-one-out``, all of a fraction of the items for ``cold-items``,
    otherwise (``given`` included) a random fraction of each user's. But for ``temporal-global`` and ``cold-items``,
    every user keeps at least one training interaction.

    Returns
    -------
    bool [n_train]
        True for validation. All False where ``fraction`` is 0.
    """
    if fraction == 0 or not len(train):
        return np.zeros(len(train), dtype=bool)
    return held_out(train, "random" if strategy == "given" else strategy, fraction, generator)
