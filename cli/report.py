"""Text for people: tables, and counts in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WIDEST = 100
"""Letters of a cell of a table."""


def table(rows: Iterable[Mapping[Any, Any]], columns: Sequence[str] | None = None) -> str:
    """Rows under a header, text on the left and numbers on the right; columns are by default those of the first row."""
    rows = list(rows)
    columns = list(columns or (rows[0] if rows else ()))
    cells = [[_cut(cell) for cell in columns], *([_cut(shown(row.get(column))) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [all(_is_number(row.get(column)) for row in rows) for column in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    )


def _cut(text: str) -> str:
    """A cell of a table, which one long name must not make wider than any screen."""
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."


def shown(value: Any) -> str:
    """A value as a person reads it: 1,234 or 0.1234, a dash for nothing, no control characters."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


def counted(report: Mapping[str, int]) -> list[str]:
    """A line for each repair or remark while reading, such as ``192,701 test repeats dropped``."""
    from hakg_dgl.data.graph_check import REMEDIES

    lines = {
        what: number_of(count, _AS_TOLD.get(what, what).replace("_", " "))
        for what, count in report.items()
        if count and what != _SEED
    }
    return [line + (f": {REMEDIES[what]}" if what in REMEDIES else "") for what, line in lines.items()]


def sizes(counts: Mapping[str, int]) -> str:
    """Counts in a row: ``24 users, 1 relation``."""
    return ", ".join(number_of(count, what.replace("_", " ")) for what, count in counts.items())


def number_of(count: int, what: str) -> str:
    """A number and what it counts, words of which the first in the plural is put in the singular for one."""
    if count == 1:
        what = _PLURAL.sub(lambda found: _singular(found[0]), what, count=1)
        what = re.sub(
            r"\bthat (are|were)\b", lambda found: f"that {'is' if found[1] == 'are' else 'was'}", what, count=1
        )
    return f"{count:,} {what}"


_PLURAL = re.compile(
    r"\b(attribute|column|entitie|fact|file|hub|interaction|item|line|link|list|number|pair|rating|relation|repeat|row|"
    r"triple|user|id|value)s\b"
)


def _singular(plural: str) -> str:
    return plural[:-3] + "y" if plural.endswith("ies") else plural[:-1]


_AS_TOLD = {
    "their_interactions_after_the_cut_left_out": "interactions of theirs after the cut left out",
    "items_rows_without_id_dropped": "rows of items without id dropped",
    "users_rows_without_id_dropped": "rows of users without id dropped",
    "items_rows_of_an_item_seen_before": "rows of an item that had one before",
    "users_rows_of_a_user_seen_before": "rows of a user who had one before",
}
"""Key of a report -> what it is called, where the key itself does not read well behind a number."""

_SEED = "generated_with_seed"  # stands in a report, but counts nothing


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
