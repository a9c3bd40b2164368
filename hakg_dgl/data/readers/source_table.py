"""One table from a text or Parquet file: columns as ids, numbers or splits, with the line of every error."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, TextIO

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from hakg_dgl.data.facts import LIST_MARK
from hakg_dgl.data.parquet import ParquetColumns, is_list, is_plain, listed
from hakg_dgl.data.readers.archives import read_file
from hakg_dgl.data.readers.memory import frame_digest, frame_table, json_table
from hakg_dgl.data.readers.raw import SPLITS
from hakg_dgl.data.readers.sources import Source
from hakg_dgl.data.readers.table_form import (
    PAIR,
    PAIR_MARK,
    SNIFFED_LINES,
    TableForm,
    alias,
    called,
    looks_like_data,
    separator_of,
    sniffed,
    with_pair_marks,
)
from hakg_dgl.data.readers.text import (
    HEADER_LIMIT,
    WHOLE,
    counted,
    header_line,
    normalised,
    recoded,
    refuse_empty,
    shown,
)
from hakg_dgl.data.written import plain_numbers
from hakg_dgl.data.written_dates import KNOWN, date_parts, iso_texts, orders_of, year_first_texts
from hakg_dgl.errors import DataError

_JSON = (".json", ".jsonl", ".ndjson")


def read_table(
    source: Source, digests: dict[str, Mapping[str, Any]], form: TableForm | None = None, *, name: str = "table"
) -> SourceTable:
    """Read a table: text (CSV, TSV and the like), JSON lines, Parquet, or a frame in memory; notes its digest.

    Parameters
    ----------
    source
        A file, packed or not, or a table in memory: a ``pandas.DataFrame`` (its index is not read), a
        ``pyarrow.Table``, or what speaks one of Arrow's protocols; see :mod:`hakg_dgl.data.readers.sources`.
    digests
        Gets the file's name, or ``name`` of a frame, and its digest.
    form
        How a text file is written; by default as it looks.
    name
        What a frame is called in messages.

    Raises
    ------
    DataError
        If the file cannot be read, or its header or rows are damaged.
    """
    form = form or TableForm()
    if not isinstance(source, (str, Path)):
        table = frame_table(source, name)
        digests[name] = frame_digest(table)
        return SourceTable(Path(name), table, form=form)
    path = Path(source)
    on_disk, data = read_file(path)
    digests[path.name] = on_disk
    if is_parquet(path):
        return SourceTable.from_parquet(path, data, form)
    if form.encoding is not None:
        data = recoded(path, data, form.encoding)
    if is_json(path):
        table, lines = json_table(path, data)
        return SourceTable(path, table, lines=lines, form=form)
    with hint_at_encoding(form):
        header = header_line(path, data)
    data = normalised(data)
    layout = text_layout(path, data, header, form)
    if layout.delimiter == PAIR_MARK:
        data = with_pair_marks(path, data)
    if form.headerless:
        data = layout.delimiter.join(layout.columns).encode() + b"\n" + data
    return SourceTable.from_text(
        path, data, delimiter=layout.delimiter, quoted=layout.quoted, columns=list(layout.columns), form=form
    )


def is_json(path: Path) -> bool:
    """Whether a file holds JSON, by its name."""
    return any(suffix in _JSON for suffix in path.suffixes)


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet, by its name."""
    return ".parquet" in path.suffixes or ".pq" in path.suffixes


@contextmanager
def hint_at_encoding(form: TableForm) -> Iterator[None]:
    """Name the option for text that is not UTF-8, where nobody has given an encoding."""
    try:
        yield
    except DataError as error:
        if form.encoding is None and error.problem.endswith("UTF-8"):
            what = "utf-16" if "UTF-16" in error.problem else "latin-1"
            remedy = f"Give its encoding, for example --encoding {what}, or c{(error.remedy or 'Convert it.')[1:]}"
            raise DataError(error.problem, path=error.path, line=error.line, remedy=remedy) from error
        raise


class TextLayout(NamedTuple):
    """How a text is cut into values, and what its columns are called."""

    delimiter: str
    quoted: bool
    columns: tuple[str, ...]


def text_layout(path: Path, data: bytes, header: str, form: TableForm) -> TextLayout:
    """The layout of text in UTF-8, or of its beginning, whose first line is ``header``."""
    head = data[:HEADER_LIMIT].decode("utf-8", errors="ignore")
    head = head if len(data) <= HEADER_LIMIT else head.rpartition("\n")[0] or head
    delimiter = sniffed(path, head) if form.delimiter is None else separator_of(form.delimiter)
    if delimiter == PAIR_MARK:
        header = header.replace(PAIR, PAIR_MARK)
    quoted = delimiter != PAIR_MARK
    try:
        first = next(csv.reader([header], delimiter=delimiter, strict=True)) if quoted else header.split(delimiter)
    except csv.Error as error:
        raise DataError(
            f"the header has a quote that is not closed: {shown(header)}",
            path=path,
            line=1,
            remedy="Close it, or take the quotes away; names of columns stand in one line.",
        ) from error
    numbers = [str(at + 1) for at in range(len(first))]
    named = numbers if form.headerless else _with_names([column.strip() for column in first])
    return TextLayout(delimiter, quoted, tuple(named))


@dataclass(frozen=True)
class SourceTable:
    """Columns of a file, and where each row stands in it."""

    path: Path
    table: pa.Table | ParquetColumns
    text: bytes | None = None  # of text files, to find the line of a row
    delimiter: str = ","
    quoted: bool = True
    form: TableForm = field(default_factory=TableForm)
    lines: npt.NDArray[np.int64] | None = None  # of JSON lines, the line of each row
    body: Callable[[], TextIO] | None = None  # of a text that is read in blocks, opens it below its header
    before: int = 0  # rows of the file before this block
    moments: str | None = None  # how times of the whole column are written, where this is a block: see `time_form`
    sign: str | None = None  # what stands before decimals in the whole column, where this is a block: see `sign_of`
    types: Mapping[str, str] = field(default_factory=dict)  # of typed headers
    notes: list[str] = field(default_factory=list)  # what was decided while columns were read

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        return list(self.table.column_names)

    @property
    def headerless(self) -> bool:
        """Whether the first line is a row."""
        return self.is_text and self.form.headerless

    @property
    def is_text(self) -> bool:
        """Whether it is a text file, whose first line may be a header."""
        return self.text is not None or self.body is not None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.table.rows if isinstance(self.table, ParquetColumns) else self.table.num_rows)

    @classmethod
    def from_text(
        cls,
        path: Path,
        data: bytes,
        *,
        delimiter: str,
        quoted: bool,
        columns: list[str],
        form: TableForm | None = None,
    ) -> SourceTable:
        """Parse text with a header line, every value as a string; an empty value is missing."""
        data = normalised(data)
        body = data.partition(b"\n")[2]
        if not body.strip():
            raise DataError("there is no row below the header", path=path, remedy=WHOLE)
        empty = cls(path, pa.table({}), data, delimiter, quoted, form or TableForm())
        refuse_repeats(path, columns, line=1)
        try:
            table = pa_csv.read_csv(pa.BufferReader(body), **csv_options(columns, delimiter, quoted))
        except pa.ArrowException as error:
            raise empty.ragged(columns, error) from error
        return cls(path, table, data, delimiter, quoted, form or TableForm())

    @classmethod
    def from_parquet(cls, path: Path, data: bytes, form: TableForm | None = None) -> SourceTable:
        """Open a Parquet file; its columns are read when they are asked for."""
        refuse_empty(path, data)
        table = ParquetColumns(path, data, remedy="Write or download it again.")
        refuse_repeats(path, table.column_names)
        return cls(path, table, form=form or TableForm())

    def find(self, wanted: str, *, default: str, place: int | None = None, name: str | None = None) -> str:
        """The column to read where ``wanted`` is asked for.

        Parameters
        ----------
        wanted
            Name of the column.
        default
            What is asked for unless somebody says otherwise; then another common name will do, and in a table without
            a header the column at ``place``, from 1.
        name
            What :data:`~hakg_dgl.data.readers.table_form.ALIASES` calls such columns; by default ``default``.

        Raises
        ------
        DataError
            If there is no such column (the message lists those there are), or several could be meant.
        """
        if wanted in self.columns and not self._names_data(wanted):
            return wanted
        if wanted == default:
            if self.headerless and place is not None and place <= len(self.columns):
                return str(place)
            found = alias(name or default, self.columns, self.path, self.form.option_of(place))
            if found is not None:
                self.notes.append(f"{self.path.name}: column {found!r} is read as the {name or default}")
                return found
        self.require(wanted, option=self.form.option_of(place))
        return wanted

    def has(self, wanted: str) -> bool:
        """Whether there is such a column, perhaps by another common name."""
        return wanted in self.columns or alias(wanted, self.columns, self.path) is not None

    def _names_data(self, wanted: str) -> bool:
        """Raise DataError if a column is named by a value of a first line that is a row."""
        if not self.is_text or self.headerless or not re.fullmatch(r"-?\d+(\.\d+)?", wanted):
            return False
        if all(re.fullmatch(r"-?\d+(\.\d+)?", column) for column in self.columns) and self._first_is_data():
            problem = f"column {wanted!r} is named by a value: the first line looks like a row, not like a header"
            raise DataError(problem, path=self.path, line=1, remedy=self.form.headerless_remedy)
        return False

    def looks_headerless(self) -> bool:
        """Whether the first line of a text is a row rather than a header, though nobody said so."""
        return self.is_text and not self.headerless and self._first_is_data()

    def _first_is_data(self) -> bool:
        rows = [record for _, _, record in itertools.islice(self._records(), SNIFFED_LINES) if record]
        return looks_like_data(self.columns, rows)

    def ids(self, columns: Mapping[str, str], report: dict[str, int], key: str) -> pd.DataFrame:
        """The named columns as text under new names, rows in place; counts in ``report[key]`` the incomplete ones."""
        values = self.id_values(columns)
        frame = pd.DataFrame({new: column.to_pandas() for new, column in values.items()})
        report[key] = report.get(key, 0) + int(frame.isna().any(axis=1).sum())
        return frame

    def id_values(self, columns: Mapping[str, str]) -> dict[str, Any]:
        """The named columns as Arrow text under new names, rows in place; a missing id is null."""
        values = {new: self._strings(column) for new, column in columns.items()}
        for new, column in columns.items():
            row = pc.index(pc.match_substring(values[new], "\n"), True).as_py()
            if row >= 0 and new != "name":
                value = shown(values[new][row].as_py())
                self._fail(row, f"{column} is {value}, over several lines; is a quote not closed?")
        return values

    def floats(self, column: str, *, dates: bool = False) -> pd.Series[float]:
        """A column of finite numbers; with ``dates`` also dates, as seconds since 1970."""
        values = self.raw_column(column)
        if not (dates and _is_moment(values.type)) and not _is_number(values.type) and not _is_text(values.type):
            wanted = "numbers or dates" if dates else "numbers"
            raise DataError(f"column {column!r} holds {values.type}, not {wanted}", path=self.path, remedy=_OTHER)
        if _is_moment(values.type):
            numbers = _seconds(values)
        else:
            written = values.to_pandas()
            plain = self._plain(column, written)
            numbers = as_numbers(values if plain is written else pa.array(plain, pa.string()))
            dates = dates and (bool(numbers.isna().all()) if self.moments is None else self.moments != NUMBERS)
            if dates:
                numbers = self._moments(column, written)
        wrong = np.flatnonzero(~np.isfinite(numbers.to_numpy(dtype=np.float64)))
        if len(wrong):
            value, wanted = (
                values[wrong[0]].as_py(),
                "neither a number nor a date that is known" if dates else "not a finite number",
            )
            what = "is missing" if value is None else f"is {shown(str(value))}, {wanted}"
            comma = value is not None and self.delimiter == "," and re.fullmatch(r"\s*-?\d*,\d+\s*", str(value))
            remedy = f"Correct or drop this line. {KNOWN}" if dates else None
            if comma and self.form.table:
                remedy = "Correct or drop this line. If it has a decimal comma, say so: --decimal comma."
            self._fail(int(wrong[0]), f"{column} {what}", remedy=remedy)
        return numbers

    def _plain(self, column: str, written: pd.Series[Any]) -> pd.Series[Any]:
        """Numbers with a point before their decimals; a column in which a comma may be either is an error."""
        sign = self.form.decimal if self.sign is None else self.sign
        if sign == PLAIN or self.written_plainly(column):
            return written
        found = plain_numbers(written, sign)
        if found.unclear:
            row = int(np.flatnonzero(pd.to_numeric(written, errors="coerce").isna() & written.notna())[0])
            self.refuse_unclear(column, row, str(found.note))
        said = f"{self.path.name}: {column!r} holds "
        if found.note is not None and not any(note.startswith(said) for note in self.notes):
            self.notes.append(said + found.note)
        return found.texts

    def written_plainly(self, column: str) -> bool:
        """Whether the numbers of a column are as programs write them, whatever is found there."""
        if self.types or not _is_text(self.raw_column(column).type):
            return True  # a typed header promises it
        # Between commas, one within a number may be a slip.
        return self.is_text and self.delimiter == "," and self.form.decimal is None

    def refuse_unclear(self, column: str, row: int, problem: str) -> NoReturn:
        """Raise DataError for numbers in which a comma may stand before decimals or between thousands."""
        remedy = "Say which: --decimal comma, or --decimal point."
        if self.form.table is None:
            remedy = "Write it with a point before the decimals, and nothing between thousands."
        self._fail(row, f"{column}: {problem}", remedy=remedy)

    def _moments(self, column: str, written: pd.Series[Any]) -> pd.Series[float]:
        """Dates as seconds since 1970: ISO 8601, or day, month and year where their order is known; NaN otherwise."""
        order = self.moments or self.order_of_dates(column, day_month_pairs(written))
        whole = pd.to_datetime(written, errors="coerce", utc=True, format="ISO8601")
        if order == ISO or self.form.date_order is not None:  # where an order is asked for, ISO 8601 dates need none
            rest = whole.isna() & written.notna()
            if rest.any():
                again = year_first_texts(written[rest])
                whole[rest] = pd.to_datetime(again, errors="coerce", utc=True, format="ISO8601")
        if order == ISO:
            return (whole - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
        parts = date_parts(written)
        moments = pd.to_datetime(iso_texts(parts, order), errors="coerce", utc=True, format="ISO8601")
        if self.form.date_order is not None:
            moments = moments.where(parts["first"].notna(), whole)
        return (moments - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)

    def order_of_dates(self, column: str, pairs: pd.DataFrame) -> str:
        """:data:`ISO`, or one of :data:`~hakg_dgl.data.written_dates.DATE_ORDERS`.

        Parameters
        ----------
        column
            The name of the column, for messages.
        pairs
            What :func:`day_month_pairs` found in the whole column.

        Raises
        ------
        DataError
            If there are dates that begin with a day, a month or a year of two digits, and nothing shows which, or they
            contradict.
        """
        if self.form.date_order is not None:
            return self.form.date_order
        if not len(pairs):
            return ISO
        first, second, text = pairs["first"], pairs["second"], pairs["text"]
        may_be = orders_of(pairs)
        if len(may_be) > 1:
            row = int(((first != second) & first.notna()).to_numpy().argmax())
            what = f"{column} is {shown(text.iloc[row])}, and no date of the column shows which part is the day"
            remedy = f"Say the order: {', or '.join(f'--date-order {order}' for order in may_be)}."
            self._fail(int(pairs["row"].iloc[row]), what, remedy=remedy)
        if not may_be:
            row = int(np.flatnonzero((second if (first > 12).argmax() < (second > 12).argmax() else first) > 12)[0])
            what = f"{column} is {shown(text.iloc[row])}, and other dates have day and month the other way"
            self._fail(int(pairs["row"].iloc[row]), what)
        note = f"{self.path.name}: dates of {column!r} are read {may_be[0]}"
        if note not in self.notes:
            self.notes.append(note)
        return may_be[0]

    def texts(self, column: str) -> pd.Series[Any]:
        """A column as text, None where a value is missing: numbers as they are written, moments as ISO 8601 dates.

        The values of a list are joined by :data:`~hakg_dgl.data.facts.LIST_MARK`.
        """
        values = self.raw_column(column)
        if is_list(values.type):
            return pd.Series([_joined(value) for value in values.to_pylist()], dtype=object)
        if pa.types.is_dictionary(values.type):
            values = pc.cast(values, values.type.value_type)
        if _is_moment(values.type):
            text = pd.Series(pd.to_datetime(_seconds(values), unit="s", utc=True)).dt.strftime("%Y-%m-%dT%H:%M:%S")
            return text.astype(object).where(text.notna(), None)
        if not (_is_number(values.type) or _is_text(values.type) or pa.types.is_boolean(values.type)):
            problem = f"column {column!r} holds {values.type}, not text, numbers or dates"
            raise DataError(problem, path=self.path, remedy=_OTHER)
        if pa.types.is_floating(values.type):
            found = values.to_pandas()
            whole = found.notna() & (found % 1 == 0) & (found.abs() < 2.0**53)
            text = found.map("{:.15g}".format, na_action="ignore").astype(object)
            text[whole] = found[whole].astype("int64").astype(str)
            present: pd.Series[Any] = text.where(found.notna(), None)
            return present
        values = pc.utf8_trim_whitespace(pc.cast(values, pa.string()))
        return pd.Series(
            pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values).to_pandas(), dtype=object
        )

    def unread_kind(self, column: str) -> str | None:
        """What a column holds, if that is not text, numbers, dates or lists of these; None if it is."""
        kind = self.table.kind(column) if isinstance(self.table, ParquetColumns) else self.table.column(column).type
        if is_list(kind) or is_plain(kind):
            return None
        return "objects" if pa.types.is_struct(kind) else str(kind)[:60]

    def splits(self, column: str) -> pd.Categorical:
        """A column that says which split a row belongs to."""
        values = self._strings(column).to_pandas()
        wrong = np.flatnonzero(~values.isin(SPLITS).to_numpy())
        if len(wrong):
            value = values.iloc[wrong[0]]
            what = "is missing" if pd.isna(value) else f"is {shown(value)}"
            self._fail(int(wrong[0]), f"{column} {what}, allowed are {', '.join(SPLITS)}")
        return pd.Categorical(values.tolist(), categories=list(SPLITS))

    def raw_column(self, column: str) -> Any:
        """A column as it is stored, an Arrow array, and text if it holds nothing; DataError if there is none."""
        self.require(column)
        values = self.table.column(column)
        return pc.cast(values, pa.string()) if pa.types.is_null(values.type) else values

    def require(self, column: str, *, option: str | None = None) -> None:
        """Raise DataError if there is no such column; the message lists those there are, and names the option."""
        if column not in self.columns:
            if self.looks_headerless():
                shown_columns = listed(self.columns)
                problem = (
                    f"no column {column!r}, and the first line looks like a row, not like a header: {shown_columns}"
                )
                raise DataError(problem, path=self.path, line=1, remedy=self.form.headerless_remedy)
            raise DataError(
                f"no column {column!r}; there are: {listed(self.columns)}",
                path=self.path,
                line=1 if self.is_text else None,
                remedy=f"Name the column to read{f' ({option} COLUMN)' if option else ''}, or rename it"
                + (f"; values are separated by {called(self.delimiter)}." if self.is_text else "."),
            )

    def _strings(self, column: str) -> Any:
        values = self.raw_column(column)
        if pa.types.is_dictionary(values.type):
            values = pc.cast(values, values.type.value_type)
        if pa.types.is_floating(values.type):  # what integers with gaps become on their way through pandas
            self._refuse_inexact(column, values)
            try:
                values = pc.cast(pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values), pa.int64())
            except pa.ArrowInvalid as error:
                problem = f"ids of column {column!r} are not whole numbers"
                raise DataError(problem, path=self.path, remedy=_OTHER) from error
        if not (pa.types.is_integer(values.type) or _is_text(values.type)):
            problem = f"column {column!r} holds {values.type}, not ids (text or integers)"
            raise DataError(problem, path=self.path, remedy=_OTHER)
        values = pc.utf8_trim_whitespace(pc.cast(values, pa.string()))
        return pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)

    def _refuse_inexact(self, column: str, values: Any) -> None:
        """Raise DataError for floats so large that neighbouring integers give the same one."""
        digits = _BINARY_DIGITS[values.type.bit_width]
        largest = np.nanmax(np.abs(values.to_numpy().astype(np.float64)), initial=0.0)
        if largest >= 2.0**digits and np.isfinite(largest):
            problem = f"ids of column {column!r} are floats beyond 2**{digits}, whose neighbours cannot be told apart"
            raise DataError(problem, path=self.path, remedy="Write the ids as integers or as text.")

    def _fail(self, row: int, problem: str, *, remedy: str | None = None) -> NoReturn:
        if not self.is_text and self.lines is None:
            problem = f"row {self.before + row} (from 0): {problem}"
            raise DataError(problem, path=self.path, remedy=remedy or "Correct or drop this row.")
        if self.lines is not None:
            line: int | None = int(self.lines[row])
        else:
            wanted = self.before + row
            line = next((line for at, (line, _, _) in enumerate(self._records()) if at == wanted), None)
        raise DataError(problem, path=self.path, line=line, remedy=remedy or "Correct or drop this line.")

    def ragged(self, columns: list[str], error: Exception) -> DataError:
        """The error for text that does not split into the header's columns: the first line that is wrong."""
        separated = f"Values are separated by {called(self.delimiter)}."
        quote = "Is a quote opened there that is not closed?" if self.quoted else separated
        for line, last, record in self._records():
            if record is None:
                return DataError("a value is too long", path=self.path, line=line, remedy=quote)
            if len(record) != len(columns):
                whole = "the first line" if self.headerless else "the header"
                problem = f"{counted(len(record), 'value')}, but {whole} has {counted(len(columns), 'column')}"
                return DataError(problem, path=self.path, line=line, remedy=quote if last > line else separated)
        return DataError(f"cannot be read: {str(error).partition(chr(10))[0]}", path=self.path, remedy=separated)

    def _records(self) -> Iterator[tuple[int, int, list[str] | None]]:
        """First line, last line and fields of each record below the header; a loop, for messages only.

        The fields are None, and the last of all, where a value is longer than any sane one.
        """
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        whole = self.text or b""
        body = io.StringIO(whole.partition(b"\n")[2].decode("utf-8")) if self.body is None else self.body()
        reader = csv.reader(body, delimiter=self.delimiter, quoting=quoting)
        last = 0 if self.headerless else 1
        try:
            for record in reader:
                first, last = last + 1, reader.line_num + (0 if self.headerless else 1)
                if record:
                    yield first, last, record
        except csv.Error:
            yield last + 1, last + 1, None


NAMELESS = "column "
"""What columns without a name are called, with their place behind it."""


def csv_options(columns: Sequence[str], delimiter: str, quoted: bool) -> dict[str, Any]:
    """How pyarrow reads text below its header: every value as a string, an empty one as missing."""
    return {
        "read_options": pa_csv.ReadOptions(column_names=list(columns), use_threads=False),
        "parse_options": pa_csv.ParseOptions(
            delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=quoted
        ),
        "convert_options": pa_csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        ),
    }


def as_numbers(values: Any) -> pd.Series[float]:
    """An Arrow array of numbers or text as float64, NaN for what is missing or no number."""
    try:
        return pd.Series(pc.cast(values, pa.float64()).to_numpy().astype(np.float64, copy=False))
    except pa.ArrowException:  # not numbers alone
        found: pd.Series[float] = pd.to_numeric(values.to_pandas(), errors="coerce").astype("float64")
        return found


def day_month_pairs(written: pd.Series[Any], before: int = 0) -> pd.DataFrame:
    """The dates that begin with a day, a month or a year of two digits, the first of those with the same parts.

    Columns: those of :func:`~hakg_dgl.data.written_dates.date_parts` (NaN where the rest is no date), ``text``, and
    ``row`` counted from ``before``. Empty if the column has none.
    """
    text = written.astype("str")
    begins = text.str.fullmatch(r"\s*\d{1,2}[./-]\d.*").to_numpy(dtype=bool, na_value=False)
    found = date_parts(text[begins])
    found["text"], found["row"] = text[begins].astype(object), np.flatnonzero(begins) + before
    return found.drop_duplicates(DATE_KEY).reset_index(drop=True)


DATE_KEY = ["first", "second", "third", "digits"]
"""What tells dates of :func:`day_month_pairs` apart."""

NUMBERS, ISO = "numbers", "iso"
"""Ways in which a column of times is written, beside the orders of day and month."""

PLAIN = "plain"
"""Numbers are as programs write them; beside :data:`~hakg_dgl.data.written.DECIMALS`."""


_BINARY_DIGITS = {16: 11, 32: 24, 64: 53}
"""Bits of a float -> binary digits of the integers that it holds exactly."""

_OTHER = "Name another column, or convert this one."


def _with_names(columns: list[str]) -> list[str]:
    """Columns without a name, as spreadsheets and the index of a frame leave them, called by their place."""
    if not any(columns):
        return columns
    return [column or f"{NAMELESS}{at}" for at, column in enumerate(columns, start=1)]


def refuse_repeats(path: Path, columns: Sequence[str], *, line: int | None = None) -> None:
    """Raise DataError if two columns have one name."""
    name, count = next(iter(Counter(columns).most_common(1)), ("", 0))
    if count > 1:
        problem = f"{count} columns are called {shown(name)}" if name else f"{count} columns have no name"
        raise DataError(problem, path=path, line=line, remedy="Rename them.")


def _joined(values: list[Any] | None) -> str | None:
    """Values of a list in one text; None for none."""
    texts = [str(value).strip() for value in values or () if value is not None]
    return LIST_MARK.join(text for text in texts if text) or None


def _is_text(kind: Any) -> bool:
    return str(kind) in ("string", "large_string", "string_view")


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _seconds(moments: Any) -> pd.Series[float]:
    """Timestamps or dates as seconds since 1970, float64; digits below a microsecond are dropped, NaN is missing."""
    kind = moments.type
    ticks = pc.fill_null(pc.cast(moments, pa.int32() if pa.types.is_date32(kind) else pa.int64()), 0)
    counts = ticks.to_numpy().astype(np.int64)
    if pa.types.is_date32(kind):
        seconds = counts * 86400.0
    elif pa.types.is_date64(kind):
        seconds = counts / 1e3
    elif kind.unit == "ns":
        seconds = (counts // 1000) / 1e6
    else:
        seconds = counts / {"s": 1.0, "ms": 1e3, "us": 1e6}[kind.unit]
    return pd.Series(np.where(moments.is_null().to_numpy(), np.nan, seconds))


def _is_moment(kind: Any) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))
