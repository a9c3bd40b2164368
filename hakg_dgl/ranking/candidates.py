"""Which items may be recommended: lists of them, and facts that the knowledge graph has about them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hakg_dgl.data.shared_items import SharedItems, unnamed_entities
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
    if not names:
        raise DataError(f"{condition!r}: the data set has no relations", remedy="Leave the condition out.")
    if len(parts) == 1:
        raise DataError(f"{condition!r} is not a condition", remedy=f"Write relation=entity, such as {names[0]}=...")
    wanted = parts[0].strip()
    within = [name for name in names if wanted and wanted.casefold() in name.casefold()]  # genre: film.film.genre
    near = (within or get_close_matches(wanted, names, n=SHOWN) or names)[:SHOWN]
    raise DataError(
        f"{condition!r}: there is no relation {parts[0].strip()!r}",
        remedy=f"There are {len(names):,}, such as {', '.join(map(repr, near))}.",
    )


def _named(table: pd.DataFrame, text: str) -> NDArray[np.int64]:
    """Rows with this original id or, if there is none, with this name."""
    by_id = np.flatnonzero(table["original_id"].to_numpy() == text)
    return by_id if len(by_id) else np.flatnonzero(table["name"].to_numpy() == text)


def _entities_hint(dataset: Dataset, entities: pd.Series[int], wanted: str, relation: str) -> str:
    """Entities that items have by a relation: those whose names look like the one asked for, else the most frequent.

    Those that are known by their id alone are told by items that have them.
    """
    numbers = entities.value_counts().index
    names = pd.Series(dataset.entities["name"].to_numpy()[numbers], index=numbers).drop_duplicates()
    same = names[names.str.casefold() == wanted.casefold()].tolist()
    near = same or get_close_matches(wanted, names.head(10_000).tolist(), n=SHOWN) or names.head(SHOWN).tolist()
    if not near:
        return "No item has any by it."
    shown, none = _told(dataset, names.index[names.isin(near)].tolist(), near)
    without = " The data set has no names for them, only ids: give one of these." if none else ""
    return f"By {relation!r} items have, for example, {', '.join(shown)}.{without}"


def _told(dataset: Dataset, entities: list[int], names: list[str]) -> tuple[list[str], bool]:
    """Names in quotes, those that are mere ids with items that have them; whether all are mere ids."""
    bare = unnamed_entities(dataset)
    if not bare[entities].any():
        return [repr(name) for name in names], False
    shared, number = SharedItems(dataset), dict(zip(dataset.entities["name"].iloc[entities], entities, strict=True))
    hints = [shared.described(number[name]) if bare[number[name]] else "" for name in names]
    shown = [f"{name!r} ({hint})" if hint else repr(name) for name, hint in zip(names, hints, strict=True)]
    return shown, bool(bare[entities].all())


def known_items(dataset: Dataset, wanted: Iterable[str]) -> NDArray[np.int64]:
    """Items by their original ids or, where none is that, by a name that one item alone has; ascending, each once.

    Raises
    ------
    DataError
        If there is no such item (the message counts them and names the first ones), several have the name, or none is
        asked for.
    """
    from hakg_dgl.data.id_maps import IdMap

    texts = list(dict.fromkeys(wanted))
    if not texts:
        raise DataError("there are no items to choose from", remedy="Give at least one.")
    found = IdMap(pd.Index(dataset.items["original_id"]), dataset.items["name"]).indices(texts)
    if (found < 0).any():
        found = np.where(found < 0, _by_name(dataset, texts, found < 0), found)
    unknown = [text for text, index in zip(texts, found.tolist(), strict=True) if index < 0]
    if unknown:
        problem = f"{len(unknown):,} of {len(texts):,} items are not in the data set, such as"
        problem = f"{problem} {', '.join(map(repr, unknown[:SHOWN]))}" if len(texts) > 1 else ""
        raise DataError(
            problem or f"there is no item with the id {texts[0]!r}", remedy=_items_hint(dataset, unknown[0])
        )
    return np.unique(found)


def _by_name(dataset: Dataset, texts: list[str], wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The items with these names, -1 where no item has the name; DataError if several items have one."""
    names = pd.Index(dataset.items["name"])
    several = names[names.duplicated()].unique().intersection(list(compress(texts, wanted)), sort=False)
    if len(several):
        called = np.flatnonzero(names == several[0])
        ids = ", ".join(map(repr, dataset.items["original_id"].iloc[called[:SHOWN]]))
        raise DataError(f"{len(called):,} items have the name {several[0]!r}", remedy=f"Give an id: {ids}.")
    first = pd.Series(np.arange(len(names)), index=names)[~names.duplicated()]
    found: NDArray[np.int64] = first.reindex(texts, fill_value=-1).to_numpy(np.int64)
    return found


def _items_hint(dataset: Dataset, wanted: str) -> str:
    """Items whose names look like the one asked for, and how ids look."""
    items = dataset.items[dataset.items["name"] != dataset.items["original_id"]]
    letters = wanted.casefold().strip()
    near = items[items["name"].str.casefold().str.contains(letters, regex=False)] if len(letters) > 2 else items.head(0)
    if near.empty:
        near = items[items["name"].isin(get_close_matches(wanted, items["name"].head(10_000).tolist(), n=SHOWN))]
    names = [f"{name!r} ({id_})" for name, id_ in zip(near["name"], near["original_id"], strict=True)][:SHOWN]
    ids = f"Ids look like these: {', '.join(map(repr, dataset.items['original_id'].head(SHOWN)))}."
    return f"There are {', '.join(names)}. {ids}" if names else ids
