"""Which items may be recommended: lists of them, and facts that the knowledge graph has about them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hakg_dgl.data.readers.text import counted
from hakg_dgl.data.shared_items import SharedItems, unnamed_entities
from hakg_dgl.data.values import Span, date, number
from hakg_dgl.data.written import plainly
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
        counts whichever end the item is, since public graphs hold both directions. Items with an entity that is part
        of the one that is named count too (see :func:`entities_below`). Or ``"relation<value"``, also with ``<=``,
        ``>`` and ``>=``, for numbers and for dates as ISO 8601 has them: an item counts if what it has is certainly
        below or above; :func:`undecided` counts items of a bin that lies on both sides.

    Raises
    ------
    DataError
        If there is no such relation or entity, no item has the fact, or no item has all of them; the message names
        what was asked for and what there is.

    Examples
    --------
    >>> items_where(dataset, "genre=Comedy", "country=France", "price<20")
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


def undecided(dataset: Dataset, *conditions: str) -> list[str]:
    """A sentence for each condition on numbers or dates that the data set cannot decide for some items."""
    notes = []
    for condition in conditions:
        comparison = _comparison(dataset, condition)
        if comparison is not None:
            _, unsure, shown = comparison.items(dataset, condition)
            if len(unsure):
                left_out = f"{counted(len(unsure), 'item')} {'is' if len(unsure) == 1 else 'are'} left out"
                notes.append(
                    f"{condition!r}: {left_out} whose {shown} may be on either side, since the data set keeps a range "
                    "for them"
                )
    return notes


def facts_by(dataset: Dataset, relations: NDArray[np.int64]) -> pd.DataFrame:
    """Every fact of an item by one of the relations: ``item`` and ``entity``, whichever end the item is, each once."""
    triples = dataset.triples[dataset.triples["relation"].isin(relations)]
    ends = [triples[["head", "tail"]].to_numpy(), triples[["tail", "head"]].to_numpy()]
    facts = pd.DataFrame(np.concatenate(ends), columns=["item", "entity"])
    return facts[facts["item"] < dataset.n_items].drop_duplicates()


def entities_below(dataset: Dataset, entities: NDArray[np.int64]) -> NDArray[np.int64]:
    """The entities and all that are part of them, however far below, ascending.

    A triple between two entities that are not items says so if its relation is called ``part_of`` or the like
    (``subcategory_of``, ``subclass_of``, ``child_of``, ``is_a``, ``broader``): its head is below its tail. Of relations
    that are called ``has_part``, ``parent_of`` or ``narrower`` the tail is below.
    """
    below, above = _steps(dataset)
    return _reached(above, below, entities)


def _steps(dataset: Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The lower and the upper entity of every triple that says that one is a part of the other."""
    triples = dataset.triples
    between = triples[(triples["head"] >= dataset.n_items) & (triples["tail"] >= dataset.n_items)]
    names = dataset.relations["name"].str.casefold().str.replace(r"[\s_\-]+", "_", regex=True)
    up, down = (between[between["relation"].map(names.str.contains(pattern))] for pattern in (_UP, _DOWN))
    below = np.concatenate([up["head"], down["tail"]]).astype(np.int64)
    above = np.concatenate([up["tail"], down["head"]]).astype(np.int64)
    return below, above


def _reached(sources: NDArray[np.int64], ends: NDArray[np.int64], start: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where steps from a source to its end lead from some entities, these included, ascending."""
    found = reached = np.unique(start)
    while len(reached):
        reached = np.setdiff1d(ends[np.isin(sources, reached)], found)
        found = np.union1d(found, reached)
    return found


_UP = r"(?:^|[^a-z])(?:part_of|sub[a-z]*_of|child_of|is_a|broader|belongs_under|has_parent|parent_category)$"
_DOWN = r"(?:^|[^a-z])(?:has_part|has_child|parent_of|narrower)$"


def _items_with(dataset: Dataset, condition: str) -> NDArray[np.int64]:
    """The items of one condition, ascending."""
    comparison = _comparison(dataset, condition)
    if comparison is not None:
        return comparison.require_items(dataset, condition)
    relations, entity = _relations(dataset, condition)
    facts = facts_by(dataset, relations)
    wanted = _named(dataset.entities, entity)
    if not len(wanted):  # a way of several levels has its last one as its name
        way = " > ".join(level.strip() for level in entity.split(">"))
        wanted = _named(dataset.entities, f"{dataset.relations['name'].iloc[relations[0]]}={way}")
    found = facts.loc[facts["entity"].isin(entities_below(dataset, wanted)), "item"].unique()
    if not len(found):
        name = dataset.relations["name"].iloc[relations[0]]
        problem = (
            f"no item has {entity!r} by the relation {name!r}" if len(wanted) else f"there is no entity {entity!r}"
        )
        raise DataError(f"{condition!r}: {problem}", remedy=_entities_hint(dataset, facts["entity"], entity, str(name)))
    return np.sort(found)


@dataclass(frozen=True)
class _Comparison:
    """A relation, what is asked of its values, and the value that they are compared with."""

    relations: NDArray[np.int64]
    sign: str
    value: str

    def items(self, dataset: Dataset, condition: str) -> tuple[NDArray[np.int64], NDArray[np.int64], str]:
        """Items of which it is true, those of which it may be, and what the values are: numbers or dates."""
        facts = facts_by(dataset, self.relations)
        entities = facts["entity"].unique()
        names, value = _bare_values(dataset, entities, self.relations), _plain_value(condition, self.value)
        readings: list[tuple[str, Callable[[str], Span | None]]] = [("number", number), ("date", date)]
        for kind, read in readings:
            asked, spans = read(value), [read(name) for name in names]
            readable = sum(span is not None for span in spans)
            if asked is not None and readable and not (kind == "number" and 2 * readable < len(spans)):
                sure = {e for e, span in zip(entities, spans, strict=True) if span and _holds(span, self.sign, asked)}
                maybe = {e for e, span in zip(entities, spans, strict=True) if span and _may(span, self.sign, asked)}
                true = facts.loc[facts["entity"].isin(sure), "item"].unique()
                unsure = np.setdiff1d(facts.loc[facts["entity"].isin(maybe), "item"], true)
                return np.sort(true), unsure, f"{dataset.relations['name'].iloc[self.relations[0]]} ({kind})"
        some = ", ".join(map(repr, names[:SHOWN]))
        raise DataError(
            f"{condition!r} compares {self.value!r} with what are not numbers or dates of the same kind",
            remedy=f"Items have, for example, {some}." if some else "No item has any by this relation.",
        )

    def require_items(self, dataset: Dataset, condition: str) -> NDArray[np.int64]:
        """The items of which it is true; DataError if there are none."""
        found, unsure, shown = self.items(dataset, condition)
        if not len(found):
            having = f"{counted(len(unsure), 'item')} {'has' if len(unsure) == 1 else 'have'}"
            why = f", but {having} a range that lies on both sides, such as those in a bin" if len(unsure) else ""
            raise DataError(f"{condition!r} is true of no item{why}", remedy=f"Compare {shown} with another value.")
        return found


def _plain_value(condition: str, value: str) -> str:
    """A value to compare with, as a table's column would be read: ``10,5`` is 10.5, and ``1.299,00 €`` is 1299.00.

    DataError where it may be two numbers, such as ``1,299``.
    """
    if number(value) is not None or date(value) is not None:
        return value
    found = plainly(pd.Series([value], dtype=object))
    if found.unclear:
        remedy = "Write a point before decimals and nothing between thousands (10.5, 1299), and dates as 2001-03-31."
        raise DataError(f"{condition!r}: {found.note}", remedy=remedy)
    return str(found.texts.iloc[0] or value)


def _comparison(dataset: Dataset, condition: str) -> _Comparison | None:
    """The comparison that a condition is; None for ``relation=entity``, which comes first."""
    if _cut(dataset.relations, condition) is not None:
        return None
    known = _calls(dataset.relations)
    for found in re.finditer(r"<=|>=|<|>", condition):
        name = condition[: found.start()].strip()
        if name in known:
            return _Comparison(_named(dataset.relations, name), found.group(), condition[found.end() :].strip())
    return None


def _calls(relations: pd.DataFrame) -> set[str]:
    """Original ids and names."""
    return {*relations["original_id"], *relations["name"]}


def _cut(relations: pd.DataFrame, condition: str) -> int | None:
    """Where the ``=`` stands that ends the name of a relation, None if none does."""
    known = _calls(relations)
    return next((cut.start() for cut in re.finditer("=", condition) if condition[: cut.start()].strip() in known), None)


def _bare_values(dataset: Dataset, entities: NDArray[np.int64], relations: NDArray[np.int64]) -> list[str]:
    """What the entities are called, without the column that an id of a table's value begins with."""
    table = dataset.entities.iloc[entities]
    own = (table["name"] == table["original_id"]).to_numpy()
    prefix = f"{dataset.relations['original_id'].iloc[relations[0]]}="
    return [
        name.removeprefix(prefix).lstrip("=") if is_id else name for name, is_id in zip(table["name"], own, strict=True)
    ]


def _holds(span: Span, sign: str, asked: Span) -> bool:
    """Whether all of a span lies where it is asked to."""
    if sign == "<":
        return span.high < asked.low or (span.high == asked.low and span.open_end)
    if sign == "<=":
        return span.high <= asked.high
    if sign == ">":
        return span.low >= asked.high if asked.open_end else span.low > asked.high
    return span.low >= asked.low


def _may(span: Span, sign: str, asked: Span) -> bool:
    """Whether a part of a span lies where it is asked to."""
    if sign in ("<", "<="):
        return span.low < asked.low or (sign == "<=" and span.low <= asked.high)
    return span.high > asked.high or (sign == ">=" and span.high >= asked.low and not span.open_end)


def _relations(dataset: Dataset, condition: str) -> tuple[NDArray[np.int64], str]:
    """The relations that a condition names, and its entity; both may hold ``=`` themselves."""
    cut = _cut(dataset.relations, condition)
    if cut is not None:
        return _named(dataset.relations, condition[:cut].strip()), condition[cut + 1 :].strip()
    if not len(dataset.relations):
        raise DataError(f"{condition!r}: the data set has no relations", remedy="Leave the condition out.")
    names = dataset.relations["name"].tolist()
    left = re.split("<=|>=|<|>|=", condition)
    if len(left) == 1:
        raise DataError(f"{condition!r} is not a condition", remedy=f"Write relation=entity, such as {names[0]}=...")
    raise no_relation(dataset, condition, left[0].strip())


def no_relation(dataset: Dataset, condition: str, wanted: str) -> DataError:
    """The error for a relation that does not exist, with those that look like it."""
    names = dataset.relations["name"].tolist()
    within = [name for name in names if wanted and wanted.casefold() in name.casefold()]  # genre: film.film.genre
    near = (within or get_close_matches(wanted, names, n=SHOWN) or names)[:SHOWN]
    return DataError(
        f"{condition!r}: there is no relation {wanted!r}",
        remedy=f"There are {len(names):,}, such as {', '.join(map(repr, near))}.",
    )


def relations_named(dataset: Dataset, text: str) -> NDArray[np.int64]:
    """Numbers of the relations with this original id or, if there is none, with this name."""
    return _named(dataset.relations, text)


def _named(table: pd.DataFrame, text: str) -> NDArray[np.int64]:
    """Rows with this original id or, if there is none, with this name."""
    by_id = np.flatnonzero(table["original_id"].to_numpy() == text)
    return by_id if len(by_id) else np.flatnonzero(table["name"].to_numpy() == text)


def _entities_hint(dataset: Dataset, entities: pd.Series[int], wanted: str, relation: str) -> str:
    """Entities that items have by a relation, and those above them: the ones whose names look like the one asked for.

    Where none does, the most frequent that items have.

    Those that are known by their id alone are told by items that have them.
    """
    numbers = entities.value_counts().index
    names = pd.Series(dataset.entities["name"].to_numpy()[numbers], index=numbers).drop_duplicates()
    below, above = _steps(dataset)
    higher = np.setdiff1d(_reached(below, above, numbers.to_numpy()), numbers)
    every = pd.concat([names, pd.Series(dataset.entities["name"].to_numpy()[higher], index=higher)]).drop_duplicates()
    same = every[every.str.casefold() == wanted.casefold()].tolist()
    near = same or get_close_matches(wanted, every.head(10_000).tolist(), n=SHOWN) or names.head(SHOWN).tolist()
    if not near:
        return "No item has any by it."
    shown, none = _told(dataset, every.index[every.isin(near)].tolist(), near)
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


def known_items(dataset: Dataset, wanted: Iterable[str], *, skipped: list[str] | None = None) -> NDArray[np.int64]:
    """Items by their original ids or, where none is that, by a name that one item alone has; ascending, each once.

    Parameters
    ----------
    dataset
        Whose items.
    wanted
        Ids or names.
    skipped
        Takes those that are no item of the data set, which are an error without it.

    Raises
    ------
    DataError
        If there is no such item (the message counts them and names the first ones), several have the name, none is
        asked for, or none is left.
    """
    from hakg_dgl.data.id_maps import IdMap

    texts = list(dict.fromkeys(wanted))
    if not texts:
        raise DataError("there are no items to choose from", remedy="Give at least one.")
    found = IdMap(pd.Index(dataset.items["original_id"]), dataset.items["name"]).indices(texts)
    if (found < 0).any():
        found = np.where(found < 0, _by_name(dataset, texts, found < 0), found)
    unknown = [text for text, index in zip(texts, found.tolist(), strict=True) if index < 0]
    if skipped is not None and len(unknown) < len(texts):
        skipped += unknown
    elif unknown:
        problem = f"{len(unknown):,} of {len(texts):,} items are not in the data set, such as"
        problem = f"{problem} {', '.join(map(repr, unknown[:SHOWN]))}" if len(texts) > 1 else ""
        raise DataError(
            problem or f"there is no item with the id {texts[0]!r}", remedy=_items_hint(dataset, unknown[0])
        )
    return np.unique(found[found >= 0])


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
