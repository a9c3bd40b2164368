"""One table from a text or Parquet file: columns as ids, numbers or splits, with the line of every error."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from hakg_dgl.data.parquet import ParquetColumns, listed
from hakg_dgl.data.readers.archives import read_file
from hakg_dgl.data.readers.raw import SPLITS
from hakg_dgl.data.readers.text import WHOLE, counted, header_line, normalised, refuse_empty, shown
from hakg_dgl.errors import DataError


def read_table(path: str | Path, digests: dict[str, Mapping[str, Any]]) -> SourceTable:
    """Read a CSV, TSV or Parquet file with a header, and note its digest in ``digests``.

    Raises
    ------
    DataError
        If the file cannot be read, or its header or rows are damaged.
    """
    path = Path(path)
    on_disk, data = read_file(path)
    digests[path.name] = on_disk
    if ".parquet" in path.suffixes or ".pq" in path.suffixes:
        return SourceTable.from_parquet(path, data)
    header = header_line(path, data)
    preferred = "\t" if ".tsv" in path.suffixes else ","
    other = "," if preferred == "\t" else "\t"
    delimiter = other if preferred not in header and other in header else preferred
    try:
        columns = next(csv.reader([header], delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise DataError(
            f"the header has a quote that is not closed: {shown(header)}",
            path=path,
            line=1,
            remedy="Close it, or take the quotes away.",
        ) from error
    return SourceTable.from_text(
        path, data, delimiter=delimiter, quoted=True, columns=[column.strip() for column in columns]
    )


@dataclass(frozen=True)
class SourceTable:
    """Columns of a file, and where each row stands in it."""

    path: Path
    table: pa.Table | ParquetColumns
    text: bytes | None = None  # of text files, to find the line of a row
    delimiter: str = ","
    quoted: bool = True

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        return list(self.table.column_names)

    @classmethod
    def from_text(cls, path: Path, data: bytes, *, delimiter: str, quoted: bool, columns: list[str]) -> SourceTable:
        """Parse text with a header line, every value as a string; an empty value is missing."""
        data = normalised(data)
        body = data.partition(b"\n")[2]
        if not body.strip():
            raise DataError("there is no row below the header", path=path, remedy=WHOLE)
        empty = cls(path, pa.table({}), data, delimiter, quoted)
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
        return cls(path, table, data, delimiter, quoted)

    @classmethod
    def from_parquet(cls, path: Path, data: bytes) -> SourceTable:
        """Open a Parquet file; its columns are read when they are asked for."""
        refuse_empty(path, data)
        table = ParquetColumns(path, data, remedy="Write or download it again.")
        _refuse_repeats(path, table.column_names)
        return cls(path, table)

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
            numbers = pd.to_numeric(values.to_pandas(), errors="coerce").astype("float64")
            dates = dates and bool(numbers.isna().all())
            if dates:
                moments = pd.to_datetime(values.to_pandas(), errors="coerce", utc=True, format="ISO8601")
                numbers = (moments - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
        wrong = np.flatnonzero(~np.isfinite(numbers.to_numpy(dtype=np.float64)))
        if len(wrong):
            value, wanted = (
                values[wrong[0]].as_py(),
                "neither a number nor an ISO 8601 date" if dates else "not a finite number",
            )
            what = "is missing" if value is None else f"is {shown(str(value))}, {wanted}"
            self._fail(int(wrong[0]), f"{column} {what}")
        return numbers

    def texts(self, column: str) -> pd.Series[Any]:
        """A column as text, None where a value is missing: numbers as they are written, moments as ISO 8601 dates."""
        values = self._column(column)
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
            return pd.Series([None if pd.isna(x) else f"{x:g}" for x in found], dtype=object)
        values = pc.utf8_trim_whitespace(pc.cast(values, pa.string()))
        return pd.Series(
            pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values).to_pandas(), dtype=object
        )

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
            raise DataError(
                f"no column {column!r}; there are: {listed(self.columns)}",
                path=self.path,
                line=None if self.text is None else 1,
                remedy="Name the column to read, or rename it."
                if self.text is None
                else f"Name the column to read, or rename it; values are separated by {_SEPARATORS[self.delimiter]}.",
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

    def _fail(self, row: int, problem: str) -> NoReturn:
        if self.text is None:
            raise DataError(f"row {row} (from 0): {problem}", path=self.path, remedy="Correct or drop this row.")
        line = next((line for at, (line, _, _) in enumerate(self._records()) if at == row), None)
        raise DataError(problem, path=self.path, line=line, remedy="Correct or drop this line.")

    def _ragged(self, columns: list[str], error: Exception) -> DataError:
        """The error for text that does not split into the header's columns: the first line that is wrong."""
        separated = f"Values are separated by {_SEPARATORS[self.delimiter]}."
        quote = "Is a quote opened there that is not closed?" if self.quoted else separated
        for line, last, record in self._records():
            if record is None:
                return DataError("a value is too long", path=self.path, line=line, remedy=quote)
            if len(record) != len(columns):
                problem = f"{counted(len(record), 'value')}, but the header has {counted(len(columns), 'column')}"
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
        last = 1
        try:
            for record in reader:
                first, last = last + 1, reader.line_num + 1
                if record:
                    yield first, last, record
        except csv.Error:
            yield last + 1, last + 1, None


_SEPARATORS = {",": "commas", "\t": "tabs"}
_BINARY_DIGITS = {16: 11, 32: 24, 64: 53}
"""Bits of a float -> binary digits of the integers that it holds exactly."""

_OTHER = "Name another column, or convert this one."


def _refuse_repeats(path: Path, columns: Sequence[str], *, line: int | None = None) -> None:
    name, count = next(iter(Counter(columns).most_common(1)), ("", 0))
    if count > 1:
        problem = f"{count} columns are called {shown(name)}" if name else f"{count} columns have no name"
        raise DataError(problem, path=path, line=line, remedy="Rename them.")


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
