"""Where tables come from: files, or tables in memory of pandas, Arrow, and whatever else speaks Arrow's protocols."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import pandas as pd
import pyarrow as pa

from hakg_dgl.errors import DataError


@runtime_checkable
class ArrowStream(Protocol):
    """A table by the Arrow PyCapsule interface: polars, DuckDB, Ibis, ``pyarrow.RecordBatchReader`` and others."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """A capsule with the C stream of the table."""


@runtime_checkable
class InterchangeFrame(Protocol):
    """A table by the dataframe interchange protocol, which older libraries speak."""

    def __dataframe__(self, nan_as_null: bool = False, allow_copy: bool = True) -> Any:
        """The exchange object of the protocol."""


Frame: TypeAlias = "pd.DataFrame | pa.Table | ArrowStream | InterchangeFrame"
"""A table in memory."""

Source: TypeAlias = "str | Path | Frame"
"""Where a table is: a file, or in memory."""

Files: TypeAlias = "Source | Sequence[Source]"
"""A file or frame, or several whose rows are taken together."""


def is_file(source: object) -> bool:
    """Whether a source is a path rather than a table in memory."""
    return isinstance(source, (str, Path))


def sources_of(files: Files) -> list[Source]:
    """The files and frames, in order.

    Raises
    ------
    DataError
        If there is none.
    """
    single = is_file(files) or not isinstance(files, Sequence)
    sources: list[Source] = [cast(Source, files)] if single else list(cast("Sequence[Source]", files))
    if not sources:
        raise DataError("an empty list of files", remedy="Give at least one file or frame.")
    return sources


def frame_name(what: str, number: int) -> str:
    """What the frame at this place, from 1, is called in messages, where the argument is called ``what``."""
    return what if number == 1 else f"{what}-{number}"


def first_path(files: Files, what: str) -> Path:
    """The first of the files, for a message; a frame is called by its argument."""
    first = sources_of(files)[0]
    return Path(cast("str | Path", first)) if is_file(first) else Path(what)
