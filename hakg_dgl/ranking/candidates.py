"""Which items may be recommended: lists of them, and facts that the knowledge graph has about them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hakg_dgl.errors import DataError

if TYPE_CHECKING:
    from hakg_dgl.data.dataset import Dataset

SHOWN = 5
"""Names that a message gives as examples."""


def items_where(dataset: Dataset, *conditions: str) -> NDArray[np.int64]:
    """The items of which the knowledge graph states all of the conditions, ascending.

    Parameters
    ----------
    dataset
        Whose triples are asked.
    conditions
        ``"relation=entity"``, each by original id or, where none is that, by name (all that have the name). A triple
        counts whichever end the item is, since public graphs hold both directions.

    Raises
    ------
    DataError
        If there is no such relation or entity, no item has the fact, or no item has all of them; the message names
        what was asked for and what there is.

    Examples
    --------
    >>> items_where(dataset, "genre=Comedy", "country=France")
    """
    found = np.arange(dataset.n_items)
    for condition in conditions:
        found = np.intersect1d(found, _items_with(dataset, condition), assume_unique=True)
    if not len(found):
        raise DataError(
            f"each of {', '.join(map(repr, conditions))} is true of some items, but all of them of none",
            remedy="Leave a condition out.",
        )
    return found


def _items_with(dataset: Dataset, condition: str) -> NDArray[np.int64]:
    """The items of one condition, ascending."""
    relations, entity = _relations(dataset, condition)
    triples = dataset.triples[dataset.triples["relation"].isin(relations)]
    ends = [triples[["head", "tail"]].to_numpy(), triples[["tail", "head"]].to_numpy()]
    facts = pd.DataFrame(np.concatenate(ends), columns=["item", "entity"])
    facts = facts[facts["item"] < dataset.n_items]
    wanted = _named(dataset.entities, entity)
    found = facts.loc[facts["entity"].isin(wanted), "item"].unique()
    if not len(found):
        name = dataset.relations["name"].iloc[relations[0]]
        problem = (
            f"no item has {entity!r} by the relation {name!r}" if len(wanted) else f"there is no entity {entity!r}"
        )
        raise DataError(f"{condition!r}: {problem}", remedy=_entities_hint(dataset, facts["entity"], entity, str(name)))
    return np.sort(found)


def _relations(dataset: Dataset, condition: str) -> tuple[NDArray[np.int64], str]:
    """The relations that a condition names, and its entity; both may hold ``=`` themselves."""
    parts = condition.split("=")
    for cut in range(1, len(parts)):
        found = _named(dataset.relations, "=".join(parts[:cut]).strip())
        if len(found):
            return found, "=".join(parts[cut:]).strip()
    names = dataset.relations["name"].tolist()
    if len(parts) == 1:
        raise DataError(f"{condition!r} is no condition", remedy=f"Write relation=entity, such as {names[0]}=...")
    near = get_close_matches(parts[0].strip(), names, n=SHOWN) or names[:SHOWN]
    raise DataError(
        f"{condition!r}: there is no relation {parts[0].strip()!r}",
        remedy=f"There are {len(names):,}, such as {', '.join(map(repr, near))}.",
    )


def _named(table: pd.DataFrame, text: str) -> NDArray[np.int64]:
    """Rows with this original id or, if there is none, with this name."""
    by_id = np.flatnonzero(table["original_id"].to_numpy() == text)
    return by_id if len(by_id) else np.flatnonzero(table["name"].to_numpy() == text)


def _entities_hint(dataset: Dataset, entities: pd.Series[int], wanted: str, relation: str) -> str:
    """Entities that items have by a relation: those whose names look like the one asked for, else the most frequent."""
    names = dataset.entities["name"].iloc[entities.value_counts().index].drop_duplicates()
    same = names[names.str.casefold() == wanted.casefold()].tolist()
    near = same or get_close_matches(wanted, names.head(10_000).tolist(), n=SHOWN) or names.head(SHOWN).tolist()
    return (
        f"By {relation!r} items have, for example, {', '.join(map(repr, near))}." if near else "No item has any by it."
    )


def known_items(dataset: Dataset, ids: Iterable[str]) -> NDArray[np.int64]:
    """Items by their original ids, ascending, each once.

    Raises
    ------
    DataError
        If an id is unknown (the message counts them and names the first ones), or there is none at all.
    """
    from hakg_dgl.data.id_maps import IdMap

    wanted = list(dict.fromkeys(ids))
    if not wanted:
        raise DataError("there is no item to choose from", remedy="Give at least one.")
    found = IdMap(pd.Index(dataset.items["original_id"]), dataset.items["name"]).indices(wanted)
    unknown = [id_ for id_, index in zip(wanted, found.tolist(), strict=True) if index < 0]
    if unknown:
        raise DataError(
            f"{len(unknown):,} of {len(wanted):,} items are not in the data set, such as "
            f"{', '.join(map(repr, unknown[:SHOWN]))}",
            remedy=f"Ids look like these: {', '.join(map(repr, dataset.items['original_id'].head(SHOWN)))}.",
        )
    return np.unique(found)
