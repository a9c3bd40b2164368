"""Tables that are not columns of text: frames in memory, and JSON lines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.interchange

from hakg_dgl.data.readers.text import decoded, normalised, refuse_empty, shown
from hakg_dgl.errors import DataError

_HALF_LETTER = "holds text that is not Unicode: a surrogate without its other half"
_ONE_OBJECT = 'A line is one object, such as {"user": "ann", "item": "17"}.'


def frame_table(frame: Any, name: str) -> pa.Table:
    """A table in memory as an Arrow table with columns of one kind each; numbers among texts become text.

    Parameters
    ----------
    frame
        A ``pandas.DataFrame``, a ``pyarrow.Table``, or an object with ``__arrow_c_stream__``, ``__arrow_c_array__`` or
        ``__dataframe__``, such as a ``polars.DataFrame``, a table of DuckDB or a ``pyarrow.RecordBatch``.
    name
        What it is called in messages.

    Raises
    ------
    DataError
        If it is none of these, cannot be exchanged, has no row, or has two columns of one name.
    """
    if isinstance(frame, pd.DataFrame):
        names = [str(column) for column in frame.columns]
        try:
            columns = [_plain(_array(frame.iloc[:, at])) for at in range(len(names))]
        except UnicodeEncodeError as error:
            raise DataError(_HALF_LETTER, path=Path(name), remedy="Read the file in its own encoding.") from error
    else:
        table = _exchanged(frame, name)
        names, columns = list(table.column_names), [_plain(column) for column in table.columns]
    if not len(columns) or not len(columns[0]):
        raise DataError("the table has no row", path=Path(name), remedy="Check what made it.")
    twice = next((column for column in names if names.count(column) > 1), None)
    if twice is not None:
        raise DataError(f"several columns are called {shown(twice)}", path=Path(name), remedy="Rename them.")
    return pa.table(columns, names=names)


def _exchanged(frame: Any, name: str) -> pa.Table:
    """A table of pyarrow or of another library, which need not be imported here."""
    if isinstance(frame, pa.Table):
        return frame
    try:
        if hasattr(frame, "__arrow_c_stream__") or hasattr(frame, "__arrow_c_array__"):
            return pa.table(frame)
        if hasattr(frame, "__dataframe__"):
            return pa.interchange.from_dataframe(frame)
    except (pa.ArrowException, TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        problem = f"is a {type(frame).__name__}, and cannot be read as a table: {str(error).partition(chr(10))[0]}"
        raise DataError(problem, path=Path(name), remedy="Give a table whose columns have names.") from error
    problem = f"is a {type(frame).__name__}, not a file or a table of pandas, polars or Arrow"
    remedy = "Give one of these, or several in a list."
    if hasattr(frame, "collect"):
        remedy = "It is a query that has not run yet: give what its collect() returns."
    raise DataError(problem, path=Path(name), remedy=remedy)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column in the types that files have, where it is of another type for the same values."""
    wanted = _plain_type(column.type)
    if wanted == column.type:
        return column
    if pa.types.is_dictionary(column.type):  # in two steps, since Arrow does not take from a view of text
        chunks = [chunk.dictionary.cast(wanted).take(chunk.indices) for chunk in column.chunks]
        return pa.chunked_array(chunks, wanted)
    return column.cast(wanted)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """The type in files of what Arrow has several types for; lists of one length stay, which no reader takes."""
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if str(kind) == "string_view":
        return pa.large_string()
    if any(is_(kind) for is_ in _LISTS):
        return pa.large_list(_plain_type(kind.value_type))
    return kind


_LISTS = tuple(
    getattr(pa.types, name)
    for name in ("is_list", "is_large_list", "is_list_view", "is_large_list_view")
    if hasattr(pa.types, name)  # views came with pyarrow 16
)


def frame_digest(table: pa.Table) -> dict[str, Any]:
    """SHA-256 and size of a table's Arrow stream: what stands for the digest of a file."""
    sink = pa.BufferOutputStream()
    plain = table.replace_schema_metadata(None).combine_chunks()
    with pa.ipc.new_stream(sink, plain.schema) as writer:
        writer.write_table(plain)
    data = sink.getvalue()
    return {"sha256": hashlib.sha256(memoryview(data)).hexdigest(), "bytes": data.size}


def json_table(path: Path, data: bytes) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    """Objects, one a line or in one array, as a table; and the line of each row (of an array its first line, 1).

    Columns are the keys in the order in which they appear; a key that an object lacks is a missing value.

    Raises
    ------
    DataError
        If a line is not an object, or there is none.
    """
    refuse_empty(path, data)
    text = normalised(decoded(path, data).encode("utf-8")).decode("utf-8")
    if text.lstrip().startswith("["):
        rows = _parsed(path, text, 1)
        numbers = [1] * len(rows)
    else:
        numbered = [(at, line) for at, line in enumerate(text.split("\n"), start=1) if line.strip()]
        rows = [_parsed(path, line, at) for at, line in numbered]
        numbers = [at for at, _ in numbered]
    for at, row in zip(numbers, rows, strict=True):
        if not isinstance(row, dict):
            raise DataError(f"{shown(json.dumps(row))} is not an object", path=path, line=at, remedy=_ONE_OBJECT)
    _refuse_wrapped(path, rows)
    names = list(dict.fromkeys(key for row in rows for key in row))
    if not names:
        raise DataError("there is no value", path=path, remedy=_ONE_OBJECT)
    columns = [_array(pd.Series([row.get(name) for row in rows], dtype=object)) for name in names]
    return pa.table(columns, names=names), np.array(numbers, dtype=np.int64)


def _refuse_wrapped(path: Path, rows: list[dict[str, Any]]) -> None:
    """Raise DataError for one object whose values hold the rows."""
    inside = rows[0] if len(rows) == 1 else {}
    key = next(
        (key for key, value in inside.items() if isinstance(value, list) and value and _all_objects(value)), None
    )
    if key is not None and len(inside[key]) > 1:
        problem = f"is one object, and its {shown(key)} has {len(inside[key]):,} others, which may be the rows"
        raise DataError(problem, path=path, line=1, remedy="Write these alone, as an array or one a line.")
    if len(inside) > 1 and _all_objects(inside.values()):
        problem = f"is one object of {len(inside):,} others, which may be the rows"
        raise DataError(problem, path=path, line=1, remedy="Write them as an array or one a line, each with its id.")


def _all_objects(values: Iterable[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)


def _parsed(path: Path, text: str, line: int) -> Any:
    def refuse(what: str) -> NoReturn:
        raise ValueError(f"{what} is not a number of JSON")

    try:
        value = json.loads(text, parse_constant=refuse)
        if r"\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError as error:
        raise DataError(_HALF_LETTER, path=path, line=line, remedy="Correct what wrote it.") from error
    except (ValueError, RecursionError) as error:
        at = line + error.lineno - 1 if isinstance(error, json.JSONDecodeError) else line
        what = "too deep" if isinstance(error, RecursionError) else str(error).partition(": line")[0]
        raise DataError(f"not JSON: {what}", path=path, line=at, remedy=_ONE_OBJECT) from error


def _array(column: pd.Series[Any]) -> Any:
    """A column as an Arrow array of one kind.

    Where kinds are mixed, all but lists become text; objects stay out: they are :func:`pyarrow.struct`, which no
    reader takes for ids.
    """
    try:
        return pa.chunked_array([pa.array(column, from_pandas=True)])
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        values = [None if _is_gap(value) else value for value in column]
        if any(isinstance(value, dict) for value in values):
            return pa.chunked_array([pa.array([None if value is None else {} for value in values], pa.struct([]))])
        if any(isinstance(value, (list, tuple)) for value in values):
            lists = [
                None
                if value is None
                else [str(part) for part in (value if isinstance(value, (list, tuple)) else [value])]
                for value in values
            ]
            return pa.chunked_array([pa.array(lists, pa.list_(pa.string()))])
        return pa.chunked_array([pa.array([None if value is None else str(value) for value in values], pa.string())])


def _is_gap(value: Any) -> bool:
    return value is None or (not isinstance(value, (list, tuple, dict, np.ndarray)) and bool(pd.isna(value)))
