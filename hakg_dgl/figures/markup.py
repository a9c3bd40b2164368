"""HTML from values; whatever comes from data is escaped here."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class Markup(str):
    """Text that is HTML already, and is not escaped again."""

    __slots__ = ()


def escaped(value: Any) -> Markup:
    """A value as HTML: numbers with separators or four digits, a dash for nothing, text without control characters."""
    if isinstance(value, Markup):
        return value
    if value is None or value != value:
        return Markup("–")
    if isinstance(value, bool):
        return Markup("yes" if value else "no")
    if isinstance(value, int):
        return Markup(f"{value:,}")
    if isinstance(value, float):
        return Markup(f"{value:,.4f}" if abs(value) < 10 else f"{value:,.1f}")
    text = "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in str(value))
    return Markup(html.escape(text))


def element(tag: str, *content: Any, **attributes: str) -> Markup:
    """An element with escaped content and attributes (``class_`` for ``class``)."""
    written = "".join(f' {name.rstrip("_")}="{html.escape(value)}"' for name, value in attributes.items())
    return Markup(f"<{tag}{written}>{''.join(map(escaped, content))}</{tag}>")


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> Markup:
    """A table with a header; numbers stand to the right. Columns are those of the first row by default."""
    rows = list(rows)
    columns = list(columns or (rows[0] if rows else ()))
    numeric = {c for c in columns if rows and all(_is_number(row.get(c)) for row in rows)}

    def cells(tag: str, values: Mapping[str, Any]) -> Markup:
        return element(
            "tr", *(element(tag, values.get(c), **({"class_": "n"} if c in numeric else {})) for c in columns)
        )

    head = element("thead", cells("th", {c: c for c in columns}))
    return element("div", element("table", head, element("tbody", *(cells("td", row) for row in rows))), class_="wide")


def pairs(values: Mapping[str, Any]) -> Markup:
    """A table of names and values without a header."""
    rows = (element("tr", element("th", name), element("td", value)) for name, value in values.items())
    return element("div", element("table", element("tbody", *rows), class_="pairs"), class_="wide")


def listed(items: Iterable[Any]) -> Markup:
    """An unordered list."""
    return element("ul", *(element("li", item) for item in items))


def _is_number(value: Any) -> bool:
    """Also what is written as one already: a share, ``12.5%``, and the dash that stands for none."""
    if isinstance(value, Markup):
        return re.fullmatch(r"[-−]?[\d.,]+%?|–", value) is not None
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
