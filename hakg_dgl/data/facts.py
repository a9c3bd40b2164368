"""Facts from the columns of a table of items or users: what each column holds, and the triples that follow.

A row is an item (or a user), and a column a relation to the entity that its value is. Columns are read by what they
hold: see :class:`ColumnKind`. docs/your-own-data.md has the rules with an example.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hakg_dgl.errors import ConfigError

ColumnKind: TypeAlias = Literal["values", "list", "path", "bins", "dates", "out"]
"""How a column is read.

``values``: each value is an entity. ``list``: several values, separated by ``|``, ``;`` or ``,``. ``path``: levels
separated by ``>``, the last one being the item's; each level is ``part_of`` the one before. ``bins``: numbers in bins
with about as many items each; a bin ``follows`` the one below, and its name has its ends exactly. ``dates``: a month,
which is ``part_of`` its year. ``out``: none.
"""
KINDS: tuple[str, ...] = get_args(ColumnKind)
LIST_MARK = "\x1f"
"""What separates the values of a list that a file or frame holds as a list."""
PART_OF, FOLLOWS = "part_of", "follows"
BINS = 8
ASKED = "asked for"
"""Why a column was read as it was, where a caller said how."""
TELLS_APART = ("nearly every item has another value", "nearly every user has another value")
"""Why a column of a table of items, or of users, was left out: it says nothing that two of them share."""
_FEWEST_DIGITS, _MOST_DIGITS = 6, 17
"""Digits of the ends of bins: as few as tell them apart."""
FEW_VALUES = 20
"""Distinct numbers up to which each is a value of its own."""
NEARLY_ALL = 0.9
"""Share of distinct values from which on a column tells items apart instead of joining them."""
_MOST_WORDS = 5
"""Words of the values of a list, on average; longer ones are sentences."""
_PATH, _DATE = r"\S\s*>\s*\S", r"\d{4}-\d{2}(?:-\d{2})?(?:[T ].*)?"


@dataclass(frozen=True)
class ColumnRead:
    """What was made of a column.

    Attributes
    ----------
    column, kind
        Which column, and how it was read.
    facts, entities
        Facts of items, and entities that they lead to.
    why
        What decided it, for people.
    """

    column: str
    kind: str
    facts: int
    entities: int
    why: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class ItemFacts:
    """What a table says of items.

    Attributes
    ----------
    triples
        ``head``, ``relation``, ``tail``: text; heads are ids of items, or entities for the order of values.
    entities
        ``id`` and ``name`` of the entities that values are. The id holds the column, so that equal values of two
        columns are two entities.
    columns
        What was made of each column, in their order.
    """

    triples: pd.DataFrame
    entities: pd.DataFrame
    columns: tuple[ColumnRead, ...]


def facts_of_columns(
    items: pd.Series[Any], table: pd.DataFrame, kinds: Mapping[str, str] | None = None, *, of: str = "items",
    separator: str | None = None,
) -> ItemFacts:  # fmt: skip
    """Facts from the columns of a table.

    Parameters
    ----------
    items
        Ids of the items, text, one a row.
    table
        A column of text an attribute, as many rows; missing values are None or NaN.
    kinds
        Column -> :data:`ColumnKind`, for those that are not to be read by what they hold.
    of
        What a row is, for messages: ``items`` or ``users``.
    separator
        What stands between column and value in ids of entities; by default :func:`separator_of` the table.

    Raises
    ------
    ConfigError
        If a column or a kind does not exist, or a column cannot be read in the kind asked for.
    """
    kinds = dict(kinds or {})
    _refuse_unknown(kinds, list(table.columns), of)
    parts, reads = [], []
    separator = separator or separator_of(items, table.columns)
    for column in table.columns:
        values = _present(items, table[column])
        kind, why = (kinds[column], ASKED) if column in kinds else _kind_of(values["value"], len(items), of)
        found = _READERS[kind](column, values)
        reads.append(ColumnRead(column, kind, len(found.facts), found.facts["value"].nunique(), why))
        parts.append(_numbered(column, separator, found, last_level=kind == "path"))
    triples = pd.concat([triples for triples, _ in parts]) if parts else _no_triples()
    entities = pd.concat([names for _, names in parts]) if parts else pd.DataFrame({"id": [], "name": []}, dtype=object)
    return ItemFacts(
        triples.drop_duplicates().reset_index(drop=True),
        entities.drop_duplicates("id").reset_index(drop=True),
        tuple(reads),
    )


@dataclass(frozen=True, eq=False)
class _Found:
    """Facts of a column: ``item``, ``value``; and ``below``, ``relation``, ``above`` between values."""

    facts: pd.DataFrame
    order: pd.DataFrame


def _no_triples() -> pd.DataFrame:
    return pd.DataFrame({"head": [], "relation": [], "tail": []}, dtype=object)


def _no_order() -> pd.DataFrame:
    return pd.DataFrame({"below": [], "relation": [], "above": []}, dtype=object)


def _present(items: pd.Series[Any], column: pd.Series[Any]) -> pd.DataFrame:
    """``item`` and ``value`` where there is a value."""
    frame = pd.DataFrame({"item": items.to_numpy(dtype=object), "value": column.to_numpy(dtype=object)})
    return frame.dropna().reset_index(drop=True)


def separator_of(items: pd.Series[Any], columns: Iterable[str]) -> str:
    """What stands between column and value in an entity's id, such that no item has an id of that form."""
    separator = "="
    while items.astype(str).str.startswith(tuple(f"{column}{separator}" for column in columns)).any():
        separator += "="
    return separator


def _kind_of(values: pd.Series[Any], n_items: int, of: str) -> tuple[str, str]:
    """How a column is read by what it holds, and why."""
    n, distinct = len(values), values.nunique()
    if not n:
        return "out", "has no values"
    if values.str.contains(LIST_MARK, regex=False).any():
        return "list", "lists"
    if values.str.contains(">", regex=False).mean() >= 0.5 and values.str.contains(_PATH).mean() >= 0.5:
        return "path", "levels separated by >"
    if values.str.contains("|", regex=False).any() and not _is_prose(values, "|"):
        return "list", "values separated by |"
    if values.str.contains(";", regex=False).mean() >= 0.1 and not _is_prose(values, ";"):
        return "list", "values separated by ;"
    if _are_comma_lists(values):
        return "list", "values separated by ,"
    if distinct == 1 and n == n_items:
        return "out", f"is the same for all {of}"
    if distinct > 1 and values.head(9).str.fullmatch(_DATE).all() and values.str.fullmatch(_DATE).all():
        return "dates", "dates"
    if _numbers(values).notna().all() and distinct > FEW_VALUES:
        return "bins", f"{distinct:,} different numbers"
    if n >= 10 and distinct > NEARLY_ALL * n:
        return "out", TELLS_APART[of == "users"]
    return "values", f"{distinct:,} different values"


def read_as(kind: str, values: pd.Series[Any]) -> pd.Series[bool]:
    """Which values (text or None) there are that can be read in a kind; of bins, numbers, of dates, dates."""
    present = values.notna()
    text = values.where(present, "").astype(str)
    if kind == "bins":
        return present & _numbers(text).notna()
    return present & text.str.fullmatch(_DATE) if kind == "dates" else present


def _pieces(values: pd.Series[Any], mark: str) -> pd.Series[Any]:
    """The parts of all values, without blanks around them and without empty ones."""
    parts = values.str.split(mark, regex=False).explode().str.strip()
    return parts[parts != ""]


def _is_prose(values: pd.Series[Any], mark: str) -> bool:
    """Whether what a mark separates are sentences rather than values of a list."""
    words = _pieces(values, mark).str.count(r"\S+")
    return bool(len(words) and words.mean() > _MOST_WORDS)


def _are_comma_lists(values: pd.Series[Any]) -> bool:
    """Whether commas separate values that come again and again, such as tags, and not parts of one value.

    Lists are of different lengths, and of few parts that make many different values. Places (``Paris, France``) and
    names (``Christie, Agatha``) have two parts each, and there are about as many parts as values.
    """
    marked = values.str.contains(",", regex=False)
    if marked.mean() < 0.1 or _is_prose(values, ","):
        return False
    parts, different = _pieces(values, ","), values[marked].nunique()
    varied = values.str.count(",").nunique() > 1
    return bool(varied and parts.nunique() * 2 <= different and _numbers(parts).isna().all())


def _numbers(values: pd.Series[Any]) -> pd.Series[float]:
    """As numbers; NaN where they are none, or not finite."""
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    return numbers.where(np.isfinite(numbers))


def _as_values(column: str, values: pd.DataFrame) -> _Found:
    return _Found(values, _no_order())


def _as_nothing(column: str, values: pd.DataFrame) -> _Found:
    return _Found(values.head(0), _no_order())


def _as_list(column: str, values: pd.DataFrame) -> _Found:
    marks = (LIST_MARK, "|", ";", ",")
    separator = next((mark for mark in marks if values["value"].str.contains(mark, regex=False).any()), ";")
    taken = values.assign(value=values["value"].str.split(separator, regex=False)).explode("value")
    taken["value"] = taken["value"].str.strip()
    return _Found(taken[taken["value"] != ""].drop_duplicates().reset_index(drop=True), _no_order())


def _as_path(column: str, values: pd.DataFrame) -> _Found:
    """The item has the last level; each level, known by the way to it, is part of the one before."""
    order: dict[tuple[str, str], None] = {}
    leaves: dict[str, str] = {}
    for path in values["value"].unique():
        levels = [level.strip() for level in re.split(f"[>{LIST_MARK}]", path) if level.strip()]
        ways = [" > ".join(levels[: depth + 1]) for depth in range(len(levels))]
        leaves[path] = ways[-1] if ways else ""
        order |= dict.fromkeys(zip(ways[1:], ways[:-1], strict=True))
    facts = values.assign(value=values["value"].map(leaves))
    pairs = [(below, PART_OF, above) for below, above in order]
    return _Found(facts[facts["value"] != ""], pd.DataFrame(pairs, columns=_no_order().columns, dtype=object))


def _as_bins(column: str, values: pd.DataFrame) -> _Found:
    numbers = _numbers(values["value"])
    if numbers.isna().any():
        wrong = values["value"][numbers.isna()].iloc[0]
        raise ConfigError(f"column {column!r} holds {wrong!r}, which is not a number; read it as values or out")
    edges, texts = _written(np.unique(np.quantile(numbers, np.linspace(0, 1, BINS + 1))))
    place = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, max(0, len(edges) - 2))
    names = [f"{low} to {high}" for low, high in itertools.pairwise(texts)] or texts
    used = np.unique(place)
    pairs = [(names[above], FOLLOWS, names[below]) for below, above in itertools.pairwise(used)]
    facts = values.assign(value=np.array(names, dtype=object)[place])
    return _Found(facts, pd.DataFrame(pairs, columns=_no_order().columns, dtype=object))


def _written(edges: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[str]]:
    """Ends of bins as short texts say them exactly, and these texts; the outer two still hold all numbers between.

    So the name of a bin is all that is needed to know which numbers are in it.
    """
    last = len(edges) - 1
    sides = [ROUND_FLOOR if not n else ROUND_CEILING if n == last else ROUND_HALF_EVEN for n in range(last + 1)]
    for digits in range(_FEWEST_DIGITS, _MOST_DIGITS + 1):
        rounded = [
            float(Context(prec=digits, rounding=side).create_decimal(edge))
            for edge, side in zip(edges.tolist(), sides, strict=True)
        ]
        if len({*rounded}) == len(edges) and (last or rounded[0] == edges[0]):
            return np.array(rounded), [f"{edge:.{digits}g}" for edge in rounded]
    return edges, [f"{edge!r}" for edge in edges.tolist()]


def _as_dates(column: str, values: pd.DataFrame) -> _Found:
    wrong = values["value"][~values["value"].str.fullmatch(_DATE)]
    if len(wrong):
        raise ConfigError(f"column {column!r} holds {wrong.iloc[0]!r}, which is not a date as 2026-01-31")
    months = values["value"].str.slice(0, 7)
    pairs = [(month, PART_OF, month[:4]) for month in sorted(months.unique())]
    return _Found(values.assign(value=months), pd.DataFrame(pairs, columns=_no_order().columns, dtype=object))


_READERS: Mapping[str, Callable[[str, pd.DataFrame], _Found]] = {
    "values": _as_values, "list": _as_list, "path": _as_path, "bins": _as_bins, "dates": _as_dates, "out": _as_nothing,
}  # fmt: skip


def _numbered(column: str, separator: str, found: _Found, *, last_level: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Triples with ids of entities, and the entities' names, of a path its last level."""
    prefix = column + separator
    triples = pd.DataFrame(
        {
            "head": _joined(found.facts["item"], prefix + found.order["below"]),
            "relation": [column] * len(found.facts) + found.order["relation"].tolist(),
            "tail": _joined(prefix + found.facts["value"], prefix + found.order["above"]),
        },
        dtype=object,
    )
    values = pd.unique(pd.concat([found.facts["value"], found.order["below"], found.order["above"]]))
    whole = pd.Series(values, dtype=object)
    names = whole.str.rsplit(" > ", n=1).str[-1] if last_level and len(whole) else whole
    return triples, pd.DataFrame({"id": prefix + whole, "name": names}, dtype=object)


def _joined(first: pd.Series[Any], second: pd.Series[Any]) -> Any:
    return np.concatenate([first.to_numpy(dtype=object), second.to_numpy(dtype=object)])


def _refuse_unknown(kinds: Mapping[str, str], columns: list[str], of: str) -> None:
    for column, kind in kinds.items():
        if column not in columns:
            near = difflib.get_close_matches(column, columns, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(map(repr, columns))}"
            raise ConfigError(f"the table of {of} has no column {column!r} for facts{hint}")
        if kind not in KINDS:
            raise ConfigError(f"column {column!r} cannot be read as {kind!r}: choose from {', '.join(KINDS)}")
