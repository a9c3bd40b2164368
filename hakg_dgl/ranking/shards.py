"""Tables of many users as Parquet files of a folder, each written whole, so that a stopped run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hakg_dgl.atomic_files import replace_file, write_json
from hakg_dgl.errors import ConfigError, DataError

ABOUT = "_lists.json"
"""What the shards are of; readers of Parquet folders pass over names with an underscore."""


class Written(NamedTuple):
    """What :func:`write_shards` did: shards in all, those that were there already, rows and users of the others."""

    shards: int
    kept: int
    rows: int
    users: int


def write_shards(
    folder: str | Path,
    users: NDArray[np.int64],
    n_shards: int,
    lists_of: Callable[[NDArray[np.int64]], Iterable[pd.DataFrame]],
    about: Mapping[str, Any],
    schema: pa.Schema | None = None,
) -> Written:
    """Write tables of users to ``part-00000-of-00008.parquet`` and so on; shards that are there already are kept.

    Parameters
    ----------
    folder
        Made if it does not exist.
    users
        int64 ``[n]``; each shard has about as many of them, in their order.
    n_shards
        How many files.
    lists_of
        From some users to their table, block by block, at least one block; a block is all that is held in memory.
    about
        JSON values that say what the tables are; shards of anything else are not gone on with.

    schema
        Columns and types, the same in all files, those without a row too; by default as pandas has them.

    Raises
    ------
    ConfigError
        If ``n_shards`` is below 1.
    DataError
        If the folder holds shards of something else, or other files.
    """
    if n_shards < 1:
        raise ConfigError(f"shards = {n_shards} is not allowed: it must be at least 1")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, json.loads(json.dumps({"shards": n_shards, "users": len(users), **about})))
    kept = rows = done = 0
    for number, part in enumerate(np.array_split(users, n_shards)):
        path = folder / f"part-{number:05d}-of-{n_shards:05d}.parquet"
        if path.exists():
            kept += 1
            continue
        rows += _write(path, lists_of(part), schema)
        done += len(part)
    return Written(n_shards, kept, rows, done)


def _claim(folder: Path, about: dict[str, Any]) -> None:
    """Note what the folder is of, or check that it is of this."""
    file = folder / ABOUT
    if not file.exists():
        others = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        if others:
            raise DataError(f"holds other files, such as {others[0]!r}", path=folder, remedy="Name a new folder.")
        write_json(file, about)
        return
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        found = {}
    different = sorted(
        key for key in about.keys() | found.keys() if not isinstance(found, dict) or found.get(key) != about.get(key)
    )
    if different:
        raise DataError(
            f"its lists were made otherwise: {', '.join(different)}",
            path=folder,
            remedy="Give the options that it was begun with, name a new folder, or remove this one.",
        )


def _write(path: Path, blocks: Iterable[pd.DataFrame], schema: pa.Schema | None) -> int:
    rows = 0

    def write(temporary: Path) -> None:
        nonlocal rows
        writer: Any = None
        try:
            for block in blocks:
                table = pa.Table.from_pandas(block, schema, preserve_index=False)
                writer = writer or pq.ParquetWriter(temporary, table.schema)
                writer.write_table(table)
                rows += len(block)
        finally:
            if writer is not None:
                writer.close()

    replace_file(path, write)
    return rows
