"""Parquet files that others wrote: columns one by one, after what the file says of its sizes was checked.

A few hundred bytes of Parquet can stand for any number of rows, and a short file can repeat one long text in all of
them. Both are refused before memory is taken for them, and columns that nobody asked for are not read at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hakg_dgl.errors import DataError

ROWS_FLOOR, ROWS_PER_BYTE = 2**22, 32
"""A file may hold this many rows, or as many for each of its bytes: runs of pairs and triples stay well below this."""

TEXT_FLOOR, TEXT_RATIO = 2**26, 200
"""The text of a column may take this many bytes, or as many for each byte of the file."""

_SHOWN = 20
"""Columns that a message lists."""


class ParquetColumns:
    """The columns of a Parquet file.

    Parameters
    ----------
    path
        The file, for messages.
    source
        Where to read: its bytes, or the path itself.
    remedy, other_column
        What to do about a damaged file, and about a column of a kind that is not read.

    Attributes
    ----------
    column_names
        Of the top level, in order.
    rows
        Number of rows.

    Raises
    ------
    DataError
        If it is not a Parquet file, or says that it holds more rows than its size allows.
    """

    def __init__(
        self,
        path: Path,
        source: bytes | Path,
        *,
        remedy: str,
        other_column: str = "Name another column, or write this one as text or numbers.",
    ) -> None:
        self.path: Path = path
        self.remedy: str = remedy
        self.other_column: str = other_column
        self._source = source
        self._size = len(source) if isinstance(source, bytes) else source.stat().st_size
        try:
            about = self._open().metadata
            self.rows: int = about.num_rows
            groups = [about.row_group(index).num_rows for index in range(about.num_row_groups)]
            self.column_names: list[str] = list(self._schema.names)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise self._unreadable(error) from error
        if min(groups, default=0) < 0 or sum(groups) != self.rows:
            raise self._damaged(f"it says {self.rows} rows, and its parts add up to {sum(groups)}")
        if self.rows > max(ROWS_FLOOR, ROWS_PER_BYTE * self._size):
            problem = f"says that it holds {self.rows:,} rows, in {self._size:,} bytes; no table is that dense"
            raise DataError(problem, path=path, remedy=remedy)

    def kind(self, name: str) -> Any:
        """Type of a column."""
        return self._schema.field(name).type

    def column(self, name: str, *, decode: bool = True) -> Any:
        """A column as a ``pyarrow.ChunkedArray``, validated; text is a dictionary unless ``decode``.

        Lists of text, numbers or dates are read too, where ``decode`` is asked for.

        Raises
        ------
        DataError
            If the column holds neither text nor numbers nor dates, is damaged, or decodes to far more than the file's
            size.
        """
        kind = self._schema.field(name).type
        if decode and is_list(kind):
            return self._lists(name)
        self._require_plain(name)
        try:
            values = self._open(read_dictionary=[name]).read(columns=[name]).column(name)
            values.validate(full=True)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise self._unreadable(error) from error
        if len(values) != self.rows:
            raise self._damaged(f"column {name!r} has {len(values)} of {self.rows} rows")
        if not pa.types.is_dictionary(values.type):
            return values
        self._refuse_long_text(name, _text_size(values.chunks))
        return pc.cast(values, values.type.value_type) if decode else values

    def blocks(self, names: Sequence[str], rows: int) -> Iterator[Any]:
        """The named columns block by block, each a ``pyarrow.Table`` of at most ``rows`` rows; text is decoded.

        Raises
        ------
        DataError
            As :meth:`column` does.
        """
        for name in names:
            self._require_plain(name)
        found, text = 0, dict.fromkeys(names, 0)
        try:
            batches = self._open(read_dictionary=list(names)).iter_batches(rows, columns=list(names), use_threads=False)
            for batch in batches:
                batch.validate(full=True)
                columns = {}
                for name in names:
                    values = batch.column(name)
                    if pa.types.is_dictionary(values.type):
                        text[name] += _text_size([values])
                        self._refuse_long_text(name, text[name])
                        values = pc.cast(values, values.type.value_type)
                    columns[name] = values
                found += len(batch)
                yield pa.table(columns)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            if isinstance(error, DataError):
                raise
            raise self._unreadable(error) from error
        if found != self.rows:
            raise self._damaged(f"its columns have {found} of {self.rows} rows")

    def _lists(self, name: str) -> Any:
        """A column of lists, after what it says of its sizes was checked."""
        try:
            about = self._open().metadata
            leaves = [
                (part.path_in_schema, part.num_values)
                for group in range(about.num_row_groups)
                for part in map(about.row_group(group).column, range(about.num_columns))
                if part.path_in_schema.split(".")[0] == name
            ]
            values = sum(count for _, count in leaves)
            if min((count for _, count in leaves), default=0) < 0 or values > max(
                ROWS_FLOOR, ROWS_PER_BYTE * self._size
            ):
                raise self._damaged(f"lists of column {name!r} hold {values:,} values, in {self._size:,} bytes")
            column = self._open(read_dictionary=[path for path, _ in leaves]).read(columns=[name]).column(name)
            column.validate(full=True)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            if isinstance(error, DataError):
                raise
            raise self._unreadable(error) from error
        if len(column) != self.rows:
            raise self._damaged(f"column {name!r} has {len(column)} of {self.rows} rows")
        flat = pc.list_flatten(column)
        if pa.types.is_dictionary(flat.type):
            self._refuse_long_text(name, _text_size(flat.chunks))
        return column

    @cached_property
    def _schema(self) -> Any:
        return self._open().schema_arrow

    def _open(self, **options: Any) -> Any:
        # Arrow itself opens no path that is not UTF-8
        source = pa.BufferReader(self._source) if isinstance(self._source, bytes) else self._source.open("rb")
        # No list or text of the footer is longer than the file, whatever it says of its length.
        limits = {f"thrift_{what}_size_limit": max(1, min(self._size, 2**20)) for what in ("string", "container")}
        return pq.ParquetFile(source, **limits, **options)

    def _require_plain(self, name: str) -> None:
        kind = self._schema.field(name).type
        if not is_plain(kind):
            raise DataError(
                f"column {name!r} holds {_cut(str(kind))}, not text, numbers or dates",
                path=self.path,
                remedy=self.other_column,
            )

    def _refuse_long_text(self, name: str, total: int) -> None:
        if total > max(TEXT_FLOOR, TEXT_RATIO * self._size):
            problem = f"column {name!r} decodes to {total:,} bytes of text, from a file of {self._size:,}"
            raise DataError(problem, path=self.path, remedy="Check what wrote it; ids are short texts.")

    def _unreadable(self, error: Exception) -> DataError:
        return self._damaged(str(error).partition("\n")[0])

    def _damaged(self, why: str) -> DataError:
        return DataError(f"not a readable Parquet file: {_cut(why)}", path=self.path, remedy=self.remedy)


def listed(columns: list[str]) -> str:
    """Names of columns for a message: quoted, each cut to a readable length, and not more than a few."""
    shown = [repr(name) if len(name) <= 60 else repr(name[:56] + "...") for name in columns[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else "")


def is_list(kind: Any) -> bool:
    """Lists of text, numbers or dates."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind)) and is_plain(kind.value_type)


def is_plain(kind: Any) -> bool:
    """Whether a type is one value a row, of a few bytes or text."""
    if pa.types.is_dictionary(kind):
        return is_plain(kind.value_type)
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return _is_text(kind) or pa.types.is_temporal(kind) or pa.types.is_null(kind) or any(is_(kind) for is_ in numbers)


def _text_size(chunks: Iterable[Any]) -> int:
    """Bytes that dictionaries of text take when they are decoded; 0 for other kinds."""
    lengths = (
        pc.take(pc.binary_length(chunk.dictionary), chunk.indices)
        for chunk in chunks
        if _is_text(chunk.type.value_type)
    )
    return sum(pc.sum(pc.cast(chunk, pa.int64())).as_py() or 0 for chunk in lengths)


def _is_text(kind: Any) -> bool:
    return str(kind) in ("string", "large_string", "string_view")


def _cut(text: str) -> str:
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= 200 else text[:197] + "..."
