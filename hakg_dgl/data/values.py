"""Values of attributes as text, and the entities of a data set that they are; values as numbers and dates."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?(?:[T ].*)?")
USER_MARK = "user:"
"""Stands before the column in the id that a table of users gives a value, more often where an id begins so anyway."""
_BIN = re.compile(r"(\S+) to (\S+)")
Place = TypeVar("Place")


class Span(NamedTuple):
    """A range of numbers, or of days: from ``low`` to ``high``; ``high`` itself is outside if ``open_end``."""

    low: float
    high: float
    open_end: bool = False


def number(text: str) -> Span | None:
    """A number, or a bin of numbers such as ``5 to 10``; None for other text."""
    bounds = _BIN.fullmatch(text.strip())
    ends = [_finite(part) for part in (bounds.groups() if bounds else (text, text))]
    if ends[0] is None or ends[1] is None:
        return None
    return Span(ends[0], ends[1], open_end=bounds is not None and ends[0] < ends[1])


def date(text: str) -> Span | None:
    """The days of a year, a month or a day as ISO 8601 has it, counted from a fixed one; None for other text."""
    parts = _DATE.fullmatch(text.strip())
    if parts is None:
        return None
    start = "-".join(part for part in parts.groups() if part)
    try:
        first: Any = np.datetime64(start)  # in years, months or days, as the text has them
    except ValueError:
        return None
    days = [float(moment.astype("datetime64[D]").astype(int)) for moment in (first, first + 1)]
    return Span(days[0], days[1], open_end=True)


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


class ValuesOfColumn:
    """The entities that the values of one column are.

    A value is an entity by its original id, by the id that a table's column gives it (``column=value``, for users
    ``user:column=value``), by a name that it alone has, or as a number or a date that lies in the bin or the month that
    an entity is.

    Parameters
    ----------
    column
        Name of the column.
    entities
        ``original_id`` and ``name`` of the entities that occur as its values; the index has their numbers.
    """

    def __init__(self, column: str, entities: pd.DataFrame) -> None:
        self._numbers = entities.index.to_numpy(np.int64)
        prefix = re.compile(f"(?:{USER_MARK}+)?{re.escape(column)}=+")
        ids = entities["original_id"].astype(str)
        bare = ids.map(lambda text: prefix.sub("", text, count=1) if prefix.match(text) else text)
        self._known: dict[str, int] = {}
        names = entities["name"].astype(str)
        alone = ~names.duplicated(keep=False).to_numpy()  # a name that several have says none of them
        for texts, known in ((ids, None), (bare, None), (names, alone)):
            for place, text in enumerate(texts):
                if known is None or known[place]:
                    self._known.setdefault(text, int(self._numbers[place]))
        spans = [(number(text), place) for text, place in zip(bare, self._numbers.tolist(), strict=True)]
        self._bins = [(span, place) for span, place in spans if span is not None and span.low < span.high]

    def find(self, value: str) -> list[int | None]:
        """The entity of a value, or those of a list with ``|``, ``;`` or ``,``; None for each that there is not.

        A comma may also stand in text, so a value of which no part is known is one value.
        """
        whole = self._one(value)
        marks = next((marks for marks in ("[|;]", ",") if re.search(marks, value)), None)
        if whole is not None or marks is None:
            return [whole]
        parts = [self._one(part) for part in re.split(marks, value) if part.strip()]
        return [None] if marks == "," and parts.count(None) == len(parts) else parts

    def _one(self, value: str) -> int | None:
        value = " > ".join(level.strip() for level in value.split(">")) if ">" in value else value.strip()
        if value in self._known:
            return self._known[value]
        asked = _finite(value)
        if asked is not None:
            by_number = self._known.get(f"{asked:.15g}")
            return self._bin_of(asked) if by_number is None else by_number
        if date(value) is not None:
            return next((self._known[value[:n]] for n in (10, 7, 4) if value[:n] in self._known), None)
        return None

    def _bin_of(self, asked: float) -> int | None:
        return bin_of(self._bins, asked) if self._bins else None


def bin_of(bins: Sequence[tuple[Span, Place]], asked: float) -> Place:
    """The bin that a number lies in; a number between two that do not touch, or beyond all, takes the nearest one.

    Parameters
    ----------
    bins
        Their ranges, in any order, each with what stands for it; at least one. A range begins with its ``low`` and
        ends before its ``high``, but for the highest.
    asked
        The number.
    """
    ordered = sorted(bins, key=lambda each: each[0])
    below = [each for each in ordered if each[0].low <= asked]
    if not below:
        return ordered[0][1]
    span, place = below[-1]
    above = ordered[len(below)] if len(below) < len(ordered) else None
    nearer_above = above is not None and asked > span.high and above[0].low - asked < asked - span.high
    return above[1] if above is not None and nearer_above else place


def facts_of_rows(
    rows: pd.DataFrame, owner: str, columns: Iterable[tuple[str, int, ValuesOfColumn]], report: dict[str, int]
) -> NDArray[np.int64]:
    """Facts from a table with a row an owner, int64 ``[n, 3]``: owner, relation, entity, each once.

    Parameters
    ----------
    rows
        The numbers of owners in the column ``owner``, and text or None in the others.
    columns
        Column, number of its relation, and its values.
    report
        Counts in ``values_unknown_left_out`` the values that are no entity of the data set.
    """
    found: dict[tuple[int, int, int], None] = {}
    unknown = 0
    for column, relation, values in columns:
        present = rows[[owner, column]].dropna()
        places = {text: values.find(text) for text in present[column].unique()}
        for who, text in zip(present[owner].tolist(), present[column].tolist(), strict=True):
            unknown += places[text].count(None)
            found |= dict.fromkeys((int(who), relation, entity) for entity in places[text] if entity is not None)
    report["values_unknown_left_out"] = report.get("values_unknown_left_out", 0) + unknown
    return np.array(list(found), dtype=np.int64).reshape(-1, 3)
