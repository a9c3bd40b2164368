"""HTML from templates: Jinja escapes every value, and values are written in one way on all pages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


class NumberText(str):
    """A number that is text already, such as a share, ``12.5%``, or a dash; its column is aligned like numbers."""

    __slots__ = ()


@dataclass(frozen=True)
class Table:
    """A table with a header, for the macro ``table`` of ``parts.html.jinja``.

    Attributes
    ----------
    columns
        Names of the columns, from left to right.
    numeric
        Columns that hold only numbers; they are aligned to the right.
    rows
        Rows as column -> value; a column that a row lacks is shown as a dash.
    """

    columns: tuple[str, ...]
    numeric: frozenset[str]
    rows: tuple[Mapping[str, Any], ...]


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> Table:
    """A table of rows; its columns are those of the first row by default."""
    held = tuple(rows)
    names = tuple(columns or (held[0] if held else ()))
    numeric = frozenset(name for name in names if held and all(_is_number(row.get(name)) for row in held))
    return Table(names, numeric, held)


def page(template: str, **values: Any) -> str:
    """A page as text.

    Parameters
    ----------
    template
        The name of a file in this folder, such as ``report.html.jinja``.
    values
        Values that the template shows. Text is escaped; only ``markupsafe.Markup`` stays as it is.

    Raises
    ------
    jinja2.UndefinedError
        If the template asks for a value that is not given.
    """
    return _environment().get_template(template).render(**values)


def written(value: Any) -> Any:
    """A value as pages show it.

    Numbers have separators or four digits, a missing value is a dash, and control characters become question marks.
    Markup stays as it is. The result is not yet escaped.
    """
    if isinstance(value, Markup):
        return value
    if value is None or value != value:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4f}" if abs(value) < 10 else f"{value:,.1f}"
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in str(value))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hakg_dgl.figures", ""),
        autoescape=True,
        finalize=written,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # JSON.parse of a browser reads no NaN. All but ASCII is escaped, so that lone surrogates can be written.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def _is_number(value: Any) -> bool:
    if isinstance(value, NumberText):
        return re.fullmatch(r"[-−+]?[\d.,]+%?|–", value) is not None
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
