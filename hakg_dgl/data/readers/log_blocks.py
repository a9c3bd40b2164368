"""A log of interactions in blocks of rows: what is held of it is a number for each id, not its text.

A log can be larger than memory. Its text is checked and parsed in pieces; ids become places in a list of distinct
ids, and a row takes 8 bytes, and 8 for each of rating and time. A log of one block takes the same way.
"""

from __future__ import annotations

import codecs
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from hakg_dgl.data.parquet import ParquetColumns, is_list
from hakg_dgl.data.readers.archives import PACKED, file_digest, pieces
from hakg_dgl.data.readers.source_table import (
    DATE_KEY,
    ISO,
    NUMBERS,
    PLAIN,
    SourceTable,
    TextLayout,
    csv_options,
    day_month_pairs,
    hint_at_encoding,
    is_json,
    is_parquet,
    read_table,
    refuse_repeats,
    text_layout,
)
from hakg_dgl.data.readers.sources import Source
from hakg_dgl.data.readers.table_form import PAIR_MARK, TableForm, marked_pieces
from hakg_dgl.data.readers.text import HEADER_LIMIT, WHOLE, cleaned_pieces, header_line, refuse_empty
from hakg_dgl.data.written import plain_numbers
from hakg_dgl.errors import DataError

BLOCK_ROWS = 2**21
"""Rows of a block, by default: about as many megabytes of text as a row has bytes, two."""

_ODD = "[,' \u00a0\u202f]|[.].*[.]"
"""What a number has in it that is not as programs write it."""

_PIECE = 2**20
"""Bytes of text that are read at once."""


@dataclass(frozen=True)
class Log:
    """A table in blocks.

    Attributes
    ----------
    head
        Its columns, without rows: names, notes and messages are the same for all blocks.
    blocks
        From names of columns to the blocks of these columns, from the first on at every call.
    """

    head: SourceTable
    blocks: Callable[[Sequence[str]], Iterator[SourceTable]]

    def time_form(self, column: str) -> str | None:
        """How the times of a text column are written, told from all of its rows; None for columns of other kinds.

        Raises
        ------
        DataError
            If the column's dates begin with day, month or a short year, and nothing shows with which.
        """
        pairs: list[pd.DataFrame] = []
        for block in self.blocks([column]):
            values = block.raw_column(column)
            if str(values.type) not in ("string", "large_string", "string_view"):
                return None
            plain = plain_numbers(values.to_pandas(), self.head.form.decimal).texts if not block.before else None
            if plain is not None and pd.to_numeric(plain, errors="coerce").notna().any():
                return NUMBERS
            if self.head.form.date_order is not None:
                return self.head.form.date_order
            pairs.append(day_month_pairs(values.to_pandas(), block.before))
        found = pd.concat(pairs, ignore_index=True).drop_duplicates(DATE_KEY) if pairs else pd.DataFrame()
        return self.head.order_of_dates(column, found) if len(found) else ISO

    def sign_of(self, column: str) -> str:
        """What stands before the decimals of a text column, told from all of its rows.

        Returns
        -------
        str
            One of :data:`~hakg_dgl.data.written.DECIMALS`, or ``plain`` for numbers as programs write them.

        Raises
        ------
        DataError
            If a comma may be either: the row that shows it.
        """
        if self.head.form.decimal is not None:
            return self.head.form.decimal
        odd: tuple[SourceTable, int] | None = None
        for block in self.blocks([column]):
            if block.written_plainly(column):
                return PLAIN
            row = pc.index(pc.match_substring_regex(block.raw_column(column), _ODD), True).as_py()
            if row >= 0:
                odd = block, row
                break
        if odd is None:
            return PLAIN
        distinct = [pd.Series(block.raw_column(column).unique().to_pandas()) for block in self.blocks([column])]
        found = plain_numbers(pd.concat(distinct, ignore_index=True).drop_duplicates())
        if found.unclear:
            odd[0].refuse_unclear(column, odd[1], str(found.note))
        return PLAIN if found.sign is None else found.sign


def open_log(
    source: Source,
    digests: dict[str, Mapping[str, Any]],
    form: TableForm,
    *,
    name: str,
    rows: int = BLOCK_ROWS,
) -> Log:
    """Open a table that may be larger than memory; the parameters are those of ``read_table``.

    Text and Parquet files are read in blocks of ``rows`` rows or some more. JSON and frames are read whole.

    Raises
    ------
    DataError
        If the file cannot be read, or its header is damaged. Rows are checked when they are read.
    """
    path = Path(source) if isinstance(source, (str, Path)) else None
    if path is None or is_json(path) or (is_parquet(path) and path.suffix in PACKED):
        whole = read_table(source, digests, form, name=name)
        return Log(whole, lambda columns: _slices(whole, columns, rows))
    digests[path.name] = file_digest(path)
    return _parquet_log(path, form, rows) if is_parquet(path) else _text_log(path, form, rows)


def coded_rows(
    log: Log, ids: Mapping[str, str], others: Mapping[str, str], report: dict[str, int], key: str
) -> Iterator[pa.Table]:
    """The rows of a log that have all their ids, block by block.

    Parameters
    ----------
    ids
        New name -> column of ids.
    others
        ``rating``, ``timestamp`` or ``split`` -> its column.
    report, key
        Counts the rows without an id.

    Yields
    ------
    pyarrow.Table
        Ids as dictionaries of text, ratings and timestamps as float64, splits as a dictionary.
    """
    for column in (*ids.values(), *others.values()):
        log.head.require(column)
    form = log.time_form(others["timestamp"]) if "timestamp" in others else None
    signs = {
        what: PLAIN if what == "timestamp" and form != NUMBERS else log.sign_of(column)
        for what, column in others.items()
        if what != "split"
    }
    report.setdefault(key, 0)
    for block in log.blocks(list(dict.fromkeys([*ids.values(), *others.values()]))):
        values = block.id_values(ids)
        whole = _in_one(pc.and_(*(pc.is_valid(column) for column in values.values())))
        # of one piece: a dictionary for each of many would have to be put together in the end
        table = {new: pc.dictionary_encode(_in_one(column)) for new, column in values.items()}
        for what, column in others.items():
            if what == "split":
                table[what] = pa.array(block.splits(column))
            else:
                timed = replace(block, sign=signs[what], moments=form if what == "timestamp" else None)
                table[what] = pa.array(timed.floats(column, dates=what == "timestamp").to_numpy(np.float64))
        kept = int(pc.sum(whole).as_py() or 0)
        report[key] += len(whole) - kept
        found = pa.table(table)
        yield found if kept == len(whole) else found.filter(whole)


def joined_rows(tables: list[pa.Table]) -> pd.DataFrame:
    """Blocks of :func:`coded_rows` one after the other, a frame whose ids are categories of text; empties the list."""
    columns = {name: [table.column(name).combine_chunks() for table in tables] for name in tables[0].column_names}
    tables.clear()
    return pd.DataFrame({name: _joined(columns.pop(name)) for name in list(columns)})


def _joined(parts: list[Any]) -> Any:
    """Arrays of numbers, or of codes with a dictionary each, as one."""
    if not pa.types.is_dictionary(parts[0].type):
        return np.concatenate([part.to_numpy(zero_copy_only=False) for part in parts])
    unified = pa.chunked_array(parts).unify_dictionaries()
    parts.clear()
    categories = pd.Index(unified.chunk(0).dictionary.to_pandas())
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in unified.chunks])
    return pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(categories), validate=False)


def _in_one(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _slices(whole: SourceTable, columns: Sequence[str], rows: int) -> Iterator[SourceTable]:
    """A table that is in memory, a block at a time."""
    table = pa.table([whole.raw_column(column) for column in columns], names=list(columns))
    for start in range(0, max(table.num_rows, 1), rows):
        yield replace(whole, table=table.slice(start, rows), before=start)


def _parquet_log(path: Path, form: TableForm, rows: int) -> Log:
    if path.stat().st_size < HEADER_LIMIT:
        refuse_empty(path, path.read_bytes())
    columns = ParquetColumns(path, path, remedy="Write or download it again.")
    refuse_repeats(path, columns.column_names)
    head = SourceTable(path, columns, form=form)

    def blocks(names: Sequence[str]) -> Iterator[SourceTable]:
        before = 0
        kinds = {name: columns.kind(name) for name in names}
        if any(map(is_list, kinds.values())):  # a block without rows, whose kinds are refused
            yield replace(head, table=pa.table({name: pa.array([], kind) for name, kind in kinds.items()}))
        for table in columns.blocks(names, rows):
            yield replace(head, table=table, before=before)
            before += table.num_rows

    return Log(head, blocks)


def _text_log(path: Path, form: TableForm, rows: int) -> Log:
    with hint_at_encoding(form):
        start, is_whole = _beginning(path, form)
        # of blanks alone, the beginning of a longer file is not an empty file
        header = header_line(path, start if is_whole or start.strip() else start + b".")
    layout = text_layout(path, start, header, form)
    refuse_repeats(path, list(layout.columns), line=1)
    if is_whole and not (start if form.headerless else start.partition(b"\n")[2]).strip():
        raise DataError("there is no row below the header", path=path, remedy=WHOLE)

    text = _checked_text(path, form, layout)

    def lines() -> TextIO:
        handle = Path(text.name).open(encoding="utf-8", newline="\n")  # noqa: SIM115 - the caller reads it
        if not form.headerless:
            handle.readline()
        return handle

    head = SourceTable(
        path, pa.table({column: pa.array([], pa.string()) for column in layout.columns}), None, layout.delimiter,
        layout.quoted, form=form, body=lines,
    )  # fmt: skip

    def blocks(names: Sequence[str]) -> Iterator[SourceTable]:
        options = csv_options(layout.columns, layout.delimiter, layout.quoted)
        options["convert_options"].include_columns = list(names)
        options["read_options"].skip_rows = 0 if form.headerless else 1
        before = 0
        for table in _gathered(_parsed(head, text.name, options), rows):
            yield replace(head, table=table, before=before)
            before += table.num_rows

    return Log(head, blocks)


def _beginning(path: Path, form: TableForm) -> tuple[bytes, bool]:
    """The first bytes of a text as UTF-8, enough for its header, and whether that is all of it."""
    start, more = b"", False
    for piece in cleaned_pieces(path, pieces(path, HEADER_LIMIT + 2), form.encoding):
        more = len(start) > HEADER_LIMIT
        if more:
            break
        start += piece
    return start, not more


def _checked_text(path: Path, form: TableForm, layout: TextLayout) -> Any:
    """A file, with its path as ``name``, of the whole text in UTF-8, checked, with one kind of line end.

    That is the file itself where it is so; otherwise a temporary one, which is removed when nobody refers to it.
    pyarrow reads ahead in threads of its own, and those must not need Python, which may be ending: so it gets a file.
    """
    text: Iterable[bytes] = cleaned_pieces(path, pieces(path, _PIECE), form.encoding)
    if layout.delimiter == PAIR_MARK:
        text = marked_pieces(path, text)
    with hint_at_encoding(form):
        if layout.delimiter != PAIR_MARK and form.encoding is None and _is_plain(path):
            for _ in text:
                continue
            return _Named(os.fspath(path))
        spool = tempfile.NamedTemporaryFile(prefix="hakg-log-", suffix=".txt")  # noqa: SIM115 - it stays as long as the log
        for piece in text:
            spool.write(piece)
        spool.flush()
    return spool


class _Named(NamedTuple):
    """A file that is there already."""

    name: str


def _is_plain(path: Path) -> bool:
    """Whether pyarrow can read a file as it is: not packed, no line ends but ``\\n``, no mark before the text."""
    if path.suffix in PACKED or not _is_utf8(os.fspath(path)):
        return False
    found = list(itertools.islice(pieces(path, _PIECE), 1))
    return not found[0].startswith(codecs.BOM_UTF8) and not any(b"\r" in piece for piece in pieces(path, _PIECE))


def _is_utf8(path: str) -> bool:
    """Whether Arrow can open a path."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _parsed(head: SourceTable, path: str, options: Mapping[str, Any]) -> Iterator[pa.RecordBatch]:
    """Rows of a text, as pyarrow reads them piece by piece."""
    with _explained(head):
        reader = pa_csv.open_csv(pa.OSFile(path), **options)
    while True:
        with _explained(head):
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                return
        yield batch


@contextmanager
def _explained(head: SourceTable) -> Iterator[None]:
    """Name the line that is wrong, where rows have not the columns of the header."""
    try:
        yield
    except pa.ArrowException as error:
        raise head.ragged(head.columns, error) from error


def _gathered(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Batches put together, or cut, to tables of about so many rows."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(len(each) for each in waiting) >= rows:
            table = pa.Table.from_batches(waiting)
            yield from (table.slice(start, rows) for start in range(0, len(table), rows))
            waiting = []
    if waiting and any(len(each) for each in waiting):
        yield pa.Table.from_batches(waiting)
