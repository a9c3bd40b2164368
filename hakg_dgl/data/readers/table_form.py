"""How a table is written as text: its separator, its encoding, whether a header names its columns, order of dates."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hakg_dgl.data.readers.text import counted, shown
from hakg_dgl.data.written import DECIMALS
from hakg_dgl.data.written_dates import DATE_ORDERS
from hakg_dgl.errors import ConfigError, DataError

PAIR = "::"
"""The one separator of two characters, that of the files of MovieLens."""

PAIR_MARK = "\x1f"
"""What stands for :data:`PAIR` after reading: parsers take separators of one character."""

SEPARATORS: Mapping[str, str] = {
    ",": "commas",
    "\t": "tabs",
    ";": "semicolons",
    "|": "'|'",
    PAIR_MARK: "'::'",
    " ": "spaces",
}
"""Separator -> what it is called in messages."""

NAMED: Mapping[str, str] = {
    "comma": ",", "tab": "\t", r"\t": "\t", "semicolon": ";", "pipe": "|", "space": " ", PAIR: PAIR_MARK,
}  # fmt: skip
"""Names that an option may give for a separator."""

SNIFFED = ("\t", PAIR_MARK, ",", ";", "|")
"""Separators that are recognised; where several fit the first one counts."""

SNIFFED_LINES = 50
"""Lines that are looked at to recognise the separator."""

ALL = "all"
"""Name of an option's value for all tables."""


FIRST_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "interactions": ("user", "item"),
    "triples": ("head", "relation", "tail"),
    "links": ("link-item", "link-entity"),
    "item_names": ("name-item", "name"),
    "items": ("items-id",),
    "users": ("users-id",),
    "user_facts": ("fact-user", "fact-relation", "fact-entity"),
    "user_links": ("link-user", "friend"),
    "new_items": ("item",),
    "new_users": ("user", "item"),
    "new_interactions": ("user", "item"),
    "pairs": ("user", "item"),
    "not_in": ("item",),
}
"""Table -> what the options call its first columns."""


@dataclass(frozen=True)
class TableForm:
    """How one table is written; None and False: as it looks.

    Attributes
    ----------
    delimiter
        One character, a name of :data:`NAMED`, or ``::``.
    encoding
        Python's name of an encoding, such as ``latin-1``; None is UTF-8.
    headerless
        The first line is a row; columns are called ``1``, ``2`` and so on.
    date_order
        ``day-first``, ``month-first`` or ``year-first``, for dates such as ``03/04/2024`` or ``03/04/24``.
    decimal
        ``comma`` or ``point``, for numbers such as ``1,299``.
    table
        What options call the table; None where no option is about its form.

    Raises
    ------
    ConfigError
        On creation, for a value that is not allowed.
    """

    delimiter: str | None = None
    encoding: str | None = None
    headerless: bool = False
    date_order: str | None = None
    decimal: str | None = None
    table: str | None = None

    def __post_init__(self) -> None:
        if self.delimiter is not None:
            separator_of(self.delimiter)
        if self.encoding is not None:
            _require_text_encoding(self.encoding)
        if self.date_order is not None and self.date_order not in DATE_ORDERS:
            raise ConfigError(f"date order {self.date_order!r} is not one of {', '.join(DATE_ORDERS)}")
        if self.decimal is not None and self.decimal not in DECIMALS:
            raise ConfigError(f"decimal {self.decimal!r} is not one of {', '.join(DECIMALS)}")

    def option_of(self, place: int | None) -> str | None:
        """The option that names the column at a place, from 1; None where there is none."""
        columns = FIRST_COLUMNS.get(self.table or "", ())
        return f"--{columns[place - 1]}-col" if place is not None and 0 < place <= len(columns) else None

    @property
    def headerless_remedy(self) -> str:
        """What to do about a table whose first line is a row."""
        if self.table is None:
            return "Give the file a header: a first line that names its columns."
        columns = FIRST_COLUMNS.get(self.table, ())
        named = "".join(f" --{column}-col {at}" for at, column in enumerate(columns, start=1))
        option = f"--no-header {self.table.replace('_', '-')}{named}"
        return f"If there is no header, say so: {option}; columns are then called 1, 2 and so on."


def forms_of(
    tables: tuple[str, ...],
    *,
    delimiter: str | Mapping[str, str] | None,
    encoding: str | Mapping[str, str] | None,
    headerless: tuple[str, ...],
    date_order: str | None,
    decimal: str | None = None,
) -> dict[str, TableForm]:
    """The form of each table, from options that are about all tables or, as a mapping, about those it names.

    Raises
    ------
    ConfigError
        If an option names a table that does not exist, or has a value that is not allowed.
    """

    def of(option: str | Mapping[str, str] | None, table: str) -> str | None:
        if option is None or isinstance(option, str):
            return option
        return option.get(table, option.get(ALL))

    for what, option in (("delimiter", delimiter), ("encoding", encoding), ("headerless", headerless)):
        named = () if option is None or isinstance(option, str) else tuple(option)
        unknown = [name for name in named if name not in (*tables, ALL)]
        if unknown:
            raise ConfigError(f"{what}: there is no table {unknown[0]!r}; choose from {', '.join((ALL, *tables))}")
    return {
        table: TableForm(
            of(delimiter, table),
            of(encoding, table),
            ALL in headerless or table in headerless,
            date_order,
            decimal,
            table,
        )
        for table in tables
    }


@dataclass
class Reading:
    """What the reading of a set of tables gathers: digests of the files, counts of repairs, notes for people."""

    forms: Mapping[str, TableForm] = field(default_factory=dict)
    digests: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    report: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def form(self, table: str) -> TableForm:
        """How this table is written."""
        return self.forms.get(table, TableForm())

    def take_notes(self, notes: list[str]) -> None:
        """Keep the remarks of a table."""
        for text in notes:
            self.note(text)

    def note(self, text: str) -> None:
        """Keep a remark, each once."""
        if text not in self.notes:
            self.notes.append(text)


def separator_of(delimiter: str) -> str:
    """The character that a delimiter stands for.

    Raises
    ------
    ConfigError
        If it cannot separate values.
    """
    mark = NAMED.get(delimiter, delimiter)
    if len(mark) != 1 or not mark.isascii() or mark.isalnum() or mark in '"\n\r\0.-_':
        allowed = ", ".join(name for name in NAMED if name != r"\t")
        raise ConfigError(
            f"delimiter {delimiter!r} is not allowed; give one punctuation character, or one of {allowed}"
        )
    return mark


def called(separator: str) -> str:
    """What a separator is called in messages."""
    return SEPARATORS.get(separator, repr(separator))


def sniffed(path: Path, head: str) -> str:
    """The separator of a table, from its first lines.

    A candidate must give all these lines the same number of values, at least two. Tabs and ``::`` hardly occur in
    values, so they count before commas and semicolons, and ``|``, which often separates values of a list, comes last.
    Where none fits, it is the one that the file's name asks for (tabs for ``.tsv``, commas for ``.csv``) or else the
    first that occurs in the first line, so that the message can name a wrong line.

    Raises
    ------
    DataError
        If commas and semicolons fit equally well.
    """
    lines = [line for line in head.split("\n") if line.strip()][:SNIFFED_LINES]
    fits = [mark for mark in SNIFFED if _values_a_line(lines, mark) >= 2]
    if {",", ";"} <= set(fits) and not {"\t", PAIR_MARK} & set(fits):
        problem = f"values may be separated by commas or by semicolons: {shown(lines[0])}"
        raise DataError(problem, path=path, line=1, remedy="Say which: --delimiter comma, or --delimiter semicolon.")
    if fits:
        return fits[0]
    asked = "\t" if ".tsv" in path.suffixes else "," if ".csv" in path.suffixes else None
    order = [asked, *SNIFFED] if asked else list(SNIFFED)
    first = lines[0] if lines else ""
    return next((mark for mark in order if (PAIR if mark == PAIR_MARK else mark) in first), asked or ",")


def _values_a_line(lines: list[str], mark: str) -> int:
    """Values of each line, where all have the same number; otherwise 0."""
    if mark == PAIR_MARK:
        counts = {line.count(PAIR) + 1 for line in lines}
        return counts.pop() if len(counts) == 1 else 0
    try:
        counts = {len(row) for row in csv.reader(lines, delimiter=mark) if row}
    except csv.Error:
        return 0
    return counts.pop() if len(counts) == 1 else 0


def marked_pieces(path: Path, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Pieces of a text as :func:`with_pair_marks` has it whole."""
    lines, held = 0, b""
    for piece in pieces:
        data = held + piece
        cut = len(data) - (len(data) - len(data.rstrip(b":"))) % 2  # half a separator waits for its other half
        data, held = data[:cut], data[cut:]
        yield with_pair_marks(path, data, lines)
        lines += data.count(b"\n")
    yield held


def with_pair_marks(path: Path, data: bytes, lines: int = 0) -> bytes:
    """Text whose values are separated by ``::``, with :data:`PAIR_MARK` in its place; ``lines`` stand before it.

    Raises
    ------
    DataError
        If the text holds that character already.
    """
    mark = PAIR_MARK.encode()
    if mark in data:
        line = lines + data[: data.index(mark)].count(b"\n") + 1
        remedy = "Remove this character, which separates values here."
        raise DataError("holds the control character 0x1f", path=path, line=line, remedy=remedy)
    return data.replace(PAIR.encode(), mark)


_SQUEEZE = re.compile(r"[^a-z0-9]")

ALIASES: Mapping[str, tuple[str, ...]] = {
    "user": (
        "user", "userid", "uid", "customer", "customerid", "visitorid", "reviewerid", "memberid", "clientid",
        "accountid", "buyerid", "sessionid", "customerno", "customernumber", "customercode", "kundennummer",
        "kundennr", "kundenid", "shopperid",
    ),
    "item": (
        "item", "itemid", "iid", "product", "productid", "movie", "movieid", "bookid", "isbn", "asin", "parentasin",
        "sku", "artistid", "trackid", "songid", "businessid", "articleid", "newsid", "gameid", "videoid", "poiid",
        "venueid", "recipeid", "productno", "productnumber", "productcode", "stockcode", "itemno", "itemnumber",
        "itemcode", "articleno", "articlenumber", "artikelnummer", "artikelnr", "artikelid", "produktid",
        "produktnummer",
    ),
    "head": ("head", "headid", "h", "subject", "subj", "s"),
    "relation": ("relation", "relationid", "rel", "r", "predicate", "property", "p"),
    "tail": ("tail", "tailid", "t", "object", "obj", "o"),
    "entity": ("entity", "entityid", "freebaseid", "mid"),
    "name": (
        "name", "title", "movietitle", "itemname", "productname", "producttitle", "bezeichnung", "artikelbezeichnung",
        "produktname",
    ),
    "friend": ("friend", "friendid", "otheruser"),
}  # fmt: skip
"""Column that is asked for by default -> names that other programs give it, in lower case without punctuation."""


def alias(wanted: str, columns: list[str], path: Path, option: str | None = None) -> str | None:
    """The column that has another common name of ``wanted``; None if there is none.

    A type in the name, as in ``user_id:token``, does not count, nor do case and punctuation. ``option`` is what names
    the column, for the message.

    Raises
    ------
    DataError
        If several columns could be meant.
    """
    known = ALIASES.get(wanted, ())
    found = [column for column in columns if _SQUEEZE.sub("", column.partition(":")[0].lower()) in known]
    if len(found) > 1:
        problem = f"no column {wanted!r}, and {counted(len(found), 'column')} could be meant: {', '.join(found)}"
        raise DataError(problem, path=path, remedy=f"Name the column to read{f' ({option} COLUMN)' if option else ''}.")
    return found[0] if found else None


_TIMES = {
    "timestamp", "time", "date", "datetime", "datum", "ts", "unixreviewtime", "reviewtime",
    *(what + when for what in ("order", "ordered", "purchase", "purchased", "invoice", "created", "bought",
                                        "rated", "event", "transaction", "bestell")
      for when in ("date", "time", "timestamp", "at", "on", "datum")),
}  # fmt: skip
"""Names of columns that hold the time of an interaction, in lower case without punctuation."""


def is_called_as_time(column: str) -> bool:
    """Whether a column is called as the time of an interaction is, by common names."""
    return _SQUEEZE.sub("", column.partition(":")[0].lower()) in _TIMES


def looks_like_data(first: list[str], rows: list[list[str]]) -> bool:
    """Whether a first line is a row and not a header: it holds numbers, or values that stand below them too."""
    numbered = first in ([str(at) for at in range(len(first))], [str(at + 1) for at in range(len(first))])
    if numbered or not rows:
        return False
    if any(re.fullmatch(r"-?\d+(\.\d+)?", value.strip()) for value in first):
        return True
    return any(value and value in (row[at] for row in rows if at < len(row)) for at, value in enumerate(first))


def _require_text_encoding(encoding: str) -> None:
    try:
        found = codecs.lookup(encoding)
        b"a".decode(encoding)
    except UnicodeError:
        return  # an encoding of two bytes a letter
    except (LookupError, ValueError) as error:
        problem = f"encoding {encoding!r} is not known; common ones are utf-8, latin-1, cp1252, utf-16, gb18030, cp932"
        raise ConfigError(problem) from error
    if found.name in ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"):
        raise ConfigError(f"encoding {encoding!r} is not one of text files; common ones are utf-8, latin-1, cp1252")
