"""Checks facts against the log: what is likely a mistake is counted, and what cannot be right is an error."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pandas as pd

from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.errors import DataError

GAPS = ("nan", "NaN", "None", "NULL", "null", "N/A", "<NA>", "NaT")
"""Texts that missing values become on their way through other programs."""

REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        "rows_with_ids_that_read_like_gaps": "missing values written as text? Leave them empty",
        "ratings_of_0_counted_as_positives": "set --rating-threshold if they are negatives",
        "items_that_are_attributes_of_items_too": "--links or --items keeps items and attributes apart",
        "user_ids_in_triples": "facts of users belong into --users or --user-facts",
    }
)
"""Key of the report -> what to do about it."""


def check_graph(raw: RawData, interactions: pd.DataFrame, *, threshold: float | None) -> dict[str, int]:
    """Counts of what is likely a mistake, for the report; keys are those of :data:`REMEDIES`.

    Parameters
    ----------
    raw
        What was read; its ids are text, or row numbers, which are not checked.
    interactions
        Those that are left after all filters.
    threshold
        The least rating of a positive, None for none.

    Raises
    ------
    DataError
        If there are facts, and none is about an item of the interactions; or there is a table of users, and none of
        them has an interaction.
    """
    found = {"ratings_of_0_counted_as_positives": _zeros(interactions, threshold)}
    if not raw.ids_are_indices:
        _require_linked(raw, interactions)
        _require_known_users(raw, interactions)
        found |= {
            "rows_with_ids_that_read_like_gaps": _gaps(interactions, "user", "item")
            + _gaps(raw.triples, "head", "relation", "tail"),
            "items_that_are_attributes_of_items_too": _items_as_attributes(raw),
            "user_ids_in_triples": _users_as_heads(raw, interactions),
        }
    return {key: count for key, count in found.items() if count}


def _zeros(interactions: pd.DataFrame, threshold: float | None) -> int:
    """Ratings of 0 beside others, where all count."""
    if threshold is not None or "rating" not in interactions:
        return 0
    zero = interactions["rating"] == 0
    return 0 if zero.all() else int(zero.sum())


def _gaps(table: pd.DataFrame, *columns: str) -> int:
    return int(table[list(columns)].isin(GAPS).any(axis=1).sum()) if len(table) else 0


def _items_as_attributes(raw: RawData) -> int:
    """Items that are tails of facts about items, in relations that also lead to what is no item, or to few items."""
    if not len(raw.triples):
        return 0
    items = set(raw.item_entity["entity"].astype(str))
    item_tails = [tail for tail in raw.triples["tail"].unique() if str(tail) in items]
    tails = raw.triples[raw.triples["tail"].isin(item_tails)]
    tails = tails[tails["head"].astype(str).isin(items)]
    shared = tails.groupby("relation")["tail"].agg(["nunique", "size"])
    gathered = shared.index[shared["size"] >= 2 * shared["nunique"]]  # as attributes do, and sequels do not
    return int(tails.loc[tails["relation"].isin(gathered), "tail"].nunique())


def _users_as_heads(raw: RawData, interactions: pd.DataFrame) -> int:
    """Users who are heads of triples, where these are not ids of items or tails too."""
    if not len(raw.triples):
        return 0
    heads = pd.Series(raw.triples["head"].unique(), dtype=object)
    others = {*raw.item_entity["entity"].unique(), *raw.triples["tail"].unique()}
    return int((heads.isin(interactions["user"].unique()) & ~heads.isin(others)).sum())


def _require_known_users(raw: RawData, interactions: pd.DataFrame) -> None:
    """Raise DataError if there is a table of users, and none of them has an interaction."""
    users = interactions["user"].drop_duplicates()
    if len(raw.people) and not raw.people.isin(users).any():
        theirs, ours = (", ".join(map(repr, sorted(ids.head(3)))) for ids in (raw.people, users))
        raise DataError(
            f"none of the {len(raw.people):,} users of the table of users has an interaction: users are called "
            f"{theirs} there, and {ours} in the interactions",
            remedy="Write the ids alike in both (0007 is not 7), and check which column of the table is read.",
        )


def _require_linked(raw: RawData, interactions: pd.DataFrame) -> None:
    """Raise DataError if no item that is chosen occurs in a triple."""
    if not len(raw.triples):
        return
    named = {*raw.triples["head"].unique().astype(str), *raw.triples["tail"].unique().astype(str)}
    entity = pd.Series(raw.item_entity["entity"].to_numpy(), index=raw.item_entity["item"].astype(str), dtype=object)
    chosen = pd.Series(interactions["item"].unique()).astype(str).unique()
    own = entity.reindex(chosen)
    if own.isin(named).any():
        return
    heads = ", ".join(repr(str(head)) for head in sorted(raw.triples["head"].astype(str).unique())[:3])
    raise DataError(
        f"none of the {len(chosen):,} items of the interactions occurs in the facts: items are called "
        f"{', '.join(repr(str(item)) for item in sorted(chosen)[:3])}, heads of facts {heads}",
        remedy="Write the ids alike in both (0007 is not 7, and 12.0 is not 12), or give the table that links them "
        "(--links).",
    )
