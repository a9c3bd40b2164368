"""One table from a text or Parquet file: columns as ids, numbers or splits, with the line of every error."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias

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
from hakg_dgl.data.written import DAY_MONTH_YEAR, plain_numbers
from hakg_dgl.errors import DataError

Source: TypeAlias = "str | Path | pd.DataFrame | pa.Table"
"""Where a table is: a file, or in memory."""

_JSON = (".json", ".jsonl", ".ndjson")


def read_table(
    source: Source, digests: dict[str, Mapping[str, Any]], form: TableForm | None = None, *, name: str = "table"
) -> SourceTable:
    """Read a table: text (CSV, TSV and the like), JSON lines, Parquet, or a frame in memory; notes its digest.

    Parameters
    ----------
    source
        A file, packed or not, a ``pandas.DataFrame`` (its index is not read) or a ``pyarrow.Table``.
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
    if ".parquet" in path.suffixes or ".pq" in path.suffixes:
        return SourceTable.from_parquet(path, data, form)
    if form.encoding is not None:
        data = recoded(path, data, form.encoding)
    if any(suffix in _JSON for suffix in path.suffixes):
        table, lines = json_table(path, data)
        return SourceTable(path, table, lines=lines, form=form)
    try:
        header = header_line(path, data)
    except DataError as error:
        if form.encoding is None and error.problem.endswith("UTF-8"):
            what = "utf-16" if "UTF-16" in error.problem else "latin-1"
            remedy = f"Give its encoding, for example --encoding {what}, or c{(error.remedy or 'Convert it.')[1:]}"
            raise DataError(error.problem, path=error.path, line=error.line, remedy=remedy) from error
        raise
    return _text_table(path, normalised(data), header, form)


def _text_table(path: Path, data: bytes, header: str, form: TableForm) -> SourceTable:
    """A table from text in UTF-8, whose first line is ``header``."""
    head = data[:HEADER_LIMIT].decode("utf-8", errors="ignore")
    head = head if len(data) <= HEADER_LIMIT else head.rpartition("\n")[0] or head
    delimiter = sniffed(path, head) if form.delimiter is None else separator_of(form.delimiter)
    if delimiter == PAIR_MARK:
        data, header = with_pair_marks(path, data), header.replace(PAIR, PAIR_MARK)
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
    if form.headerless:
        columns = [str(at + 1) for at in range(len(first))]
        data = delimiter.join(columns).encode() + b"\n" + data
    else:
        columns = _with_names([column.strip() for column in first])
    return SourceTable.from_text(path, data, delimiter=delimiter, quoted=quoted, columns=columns, form=form)


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
    types: Mapping[str, str] = field(default_factory=dict)  # of typed headers
    notes: list[str] = field(default_factory=list)  # what was decided while columns were read

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        return list(self.table.column_names)

    @property
    def headerless(self) -> bool:
        """Whether the first line is a row."""
        return self.text is not None and self.form.headerless

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
        form = form or TableForm()
        empty = cls(path, pa.table({}), data, delimiter, quoted, form)
        _refuse_repeats(path, columns, line=1)
        try:
            table = pa_csv.read_csv(
                pa.BufferReader(body),
                read_options=pa_csv.ReadOptions(column_names=columns, use_threads=False),
                parse_options=pa_csv.ParseOptions(
                    delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=quoted
                ),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(columns, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=True,
                ),
            )
        except pa.ArrowException as error:
            raise empty._ragged(columns, error) from error
        return cls(path, table, data, delimiter, quoted, form)

    @classmethod
    def from_parquet(cls, path: Path, data: bytes, form: TableForm | None = None) -> SourceTable:
        """Open a Parquet file; its columns are read when they are asked for."""
        refuse_empty(path, data)
        table = ParquetColumns(path, data, remedy="Write or download it again.")
        _refuse_repeats(path, table.column_names)
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
            found = alias(name or default, self.columns, self.path)
            if found is not None:
                self.notes.append(f"{self.path.name}: column {found!r} is read as the {name or default}")
                return found
        self._column(wanted)
        return wanted

    def has(self, wanted: str) -> bool:
        """Whether there is such a column, perhaps by another common name."""
        return wanted in self.columns or alias(wanted, self.columns, self.path) is not None

    def _names_data(self, wanted: str) -> bool:
        """Raise DataError if a column is named by a value of a first line that is a row."""
        if self.text is None or self.headerless or not re.fullmatch(r"-?\d+(\.\d+)?", wanted):
            return False
        if all(re.fullmatch(r"-?\d+(\.\d+)?", column) for column in self.columns) and self._first_is_data():
            problem = f"column {wanted!r} is named by a value: the first line looks like a row, not like a header"
            raise DataError(problem, path=self.path, line=1, remedy=self.form.headerless_remedy)
        return False

    def looks_headerless(self) -> bool:
        """Whether the first line of a text is a row rather than a header, though nobody said so."""
        return self.text is not None and not self.headerless and self._first_is_data()

    def _first_is_data(self) -> bool:
        rows = [record for _, _, record in itertools.islice(self._records(), SNIFFED_LINES) if record]
        return looks_like_data(self.columns, rows)

    def ids(self, columns: Mapping[str, str], report: dict[str, int], key: str) -> pd.DataFrame:
        """The named columns as text under new names, rows in place; counts in ``report[key]`` the incomplete ones."""
        values = {new: self._strings(column) for new, column in columns.items()}
        for new, column in columns.items():
            row = pc.index(pc.match_substring(values[new], "\n"), True).as_py()
            if row >= 0 and new != "name":
                value = shown(values[new][row].as_py())
                self._fail(row, f"{column} is {value}, over several lines; is a quote not closed?")
        frame = pd.DataFrame({new: column.to_pandas() for new, column in values.items()})
        report[key] = report.get(key, 0) + int(frame.isna().any(axis=1).sum())
        return frame

    def floats(self, column: str, *, dates: bool = False) -> pd.Series[float]:
        """A column of finite numbers; with ``dates`` also dates, as seconds since 1970."""
        values = self._column(column)
        if not (dates and _is_moment(values.type)) and not _is_number(values.type) and not _is_text(values.type):
            wanted = "numbers or dates" if dates else "numbers"
            raise DataError(f"column {column!r} holds {values.type}, not {wanted}", path=self.path, remedy=_OTHER)
        if _is_moment(values.type):
            numbers = _seconds(values)
        else:
            written = values.to_pandas()
            numbers = pd.to_numeric(self._plain(column, written), errors="coerce").astype("float64")
            dates = dates and bool(numbers.isna().all())
            if dates:
                numbers = self._moments(column, written)
        wrong = np.flatnonzero(~np.isfinite(numbers.to_numpy(dtype=np.float64)))
        if len(wrong):
            value, wanted = (
                values[wrong[0]].as_py(),
                "neither a number nor an ISO 8601 date" if dates else "not a finite number",
            )
            what = "is missing" if value is None else f"is {shown(str(value))}, {wanted}"
            comma = value is not None and self.delimiter == "," and re.fullmatch(r"\s*-?\d*,\d+\s*", str(value))
            remedy = "Correct or drop this line. If it has a decimal comma, say so: --decimal comma."
            self._fail(int(wrong[0]), f"{column} {what}", remedy=remedy if comma and self.form.table else None)
        return numbers

    def _plain(self, column: str, written: pd.Series[Any]) -> pd.Series[Any]:
        """Numbers with a point before their decimals; a column in which a comma may be either is an error."""
        if self.types or not _is_text(self._column(column).type):
            return written  # a typed header promises numbers as programs write them
        if self.text is not None and self.delimiter == "," and self.form.decimal is None:
            return written  # between commas, one within a number may be a slip
        found = plain_numbers(written, self.form.decimal)
        if found.unclear:
            row = int(np.flatnonzero(pd.to_numeric(written, errors="coerce").isna() & written.notna())[0])
            remedy = "Say which: --decimal comma, or --decimal point."
            if self.form.table is None:
                remedy = "Write it with a point before the decimals, and nothing between thousands."
            self._fail(row, f"{column}: {found.note}", remedy=remedy)
        if found.note is not None:
            self.notes.append(f"{self.path.name}: {column!r} holds {found.note}")
        return found.texts

    def _moments(self, column: str, written: pd.Series[Any]) -> pd.Series[float]:
        """Dates as seconds since 1970: ISO 8601, or day, month and year where their order is known; NaN otherwise."""
        if self.form.date_order is None and not written.astype("str").str.fullmatch(r"\s*\d{1,2}[./-]\d.*").any():
            moments = pd.to_datetime(written, errors="coerce", utc=True, format="ISO8601")
            return (moments - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
        parts = written.astype("str").str.extract(DAY_MONTH_YEAR)
        first, second = (pd.to_numeric(parts[at], errors="coerce") for at in (0, 1))
        order = self.form.date_order
        if order is None:
            may_be = [name for name, month in (("day-first", second), ("month-first", first)) if not (month > 12).any()]
            if len(may_be) == 2 and not (first == second)[first.notna()].all():
                row = int(np.flatnonzero((first != second) & first.notna())[0])
                what = f"{column} is {shown(str(written.iloc[row]))}, and no date of the column shows which is the day"
                self._fail(row, what, remedy="Say the order: --date-order day-first, or --date-order month-first.")
            if not may_be:
                row = int(np.flatnonzero((second if (first > 12).argmax() < (second > 12).argmax() else first) > 12)[0])
                what = f"{column} is {shown(str(written.iloc[row]))}, and other dates have day and month the other way"
                self._fail(row, what)
            order = may_be[0]
            self.notes.append(f"{self.path.name}: dates of {column!r} are read {order}")
        day, month = (first, second) if order == "day-first" else (second, first)
        time = parts[3].fillna("00:00:00")
        text = parts[2] + "-" + _two_digits(month) + "-" + _two_digits(day) + "T" + time
        moments = pd.to_datetime(text, errors="coerce", utc=True, format="ISO8601")
        if self.form.date_order is not None:  # the order is asked for; ISO 8601 dates need none
            whole = pd.to_datetime(written, errors="coerce", utc=True, format="ISO8601")
            moments = moments.where(parts[0].notna(), whole)
        return (moments - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)

    def texts(self, column: str) -> pd.Series[Any]:
        """A column as text, None where a value is missing: numbers as they are written, moments as ISO 8601 dates.

        The values of a list are joined by :data:`~hakg_dgl.data.facts.LIST_MARK`.
        """
        values = self._column(column)
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

    def _column(self, column: str) -> Any:
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
                line=None if self.text is None else 1,
                remedy="Name the column to read, or rename it."
                if self.text is None
                else f"Name the column to read, or rename it; values are separated by {called(self.delimiter)}.",
            )
        return self.table.column(column)

    def _strings(self, column: str) -> Any:
        values = self._column(column)
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
        if self.text is None and self.lines is None:
            problem = f"row {row} (from 0): {problem}"
            raise DataError(problem, path=self.path, remedy=remedy or "Correct or drop this row.")
        if self.lines is not None:
            line: int | None = int(self.lines[row])
        else:
            line = next((line for at, (line, _, _) in enumerate(self._records()) if at == row), None)
        raise DataError(problem, path=self.path, line=line, remedy=remedy or "Correct or drop this line.")

    def _ragged(self, columns: list[str], error: Exception) -> DataError:
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
        assert self.text is not None
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        body = io.StringIO(self.text.partition(b"\n")[2].decode("utf-8"))
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

_BINARY_DIGITS = {16: 11, 32: 24, 64: 53}
"""Bits of a float -> binary digits of the integers that it holds exactly."""

_OTHER = "Name another column, or convert this one."


def _with_names(columns: list[str]) -> list[str]:
    """Columns without a name, as spreadsheets and the index of a frame leave them, called by their place."""
    if not any(columns):
        return columns
    return [column or f"{NAMELESS}{at}" for at, column in enumerate(columns, start=1)]


def _refuse_repeats(path: Path, columns: Sequence[str], *, line: int | None = None) -> None:
    name, count = next(iter(Counter(columns).most_common(1)), ("", 0))
    if count > 1:
        problem = f"{count} columns are called {shown(name)}" if name else f"{count} columns have no name"
        raise DataError(problem, path=path, line=line, remedy="Rename them.")


def _two_digits(number: pd.Series[Any]) -> pd.Series[Any]:
    return number.astype("Int64").astype("string").str.zfill(2)


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
