"""Tables of many users as Parquet files of a folder, each written whole, so that a stopped run goes on."""

from __future__ import annotations

import hashlib
import json
import time
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
from hakg_dgl.locks import HeldError, sole_holder

_CLAIM = ".lists.lock"

ABOUT = "_lists.json"
"""What the shards are of; readers of Parquet folders pass over names with an underscore."""


WAIT = 0.2
"""Seconds until shards that other processes work on are looked at again."""


class Written(NamedTuple):
    """What :func:`write_shards` did: shards in all, those that were whole already, rows and users of the others."""

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
    *,
    go_on: Callable[[], bool] = lambda: True,
) -> Written:
    """Write tables of users to ``part-00000-of-00008.parquet`` and so on, each with its digest beside it.

    Shards that are there already, with the digest that was noted, are kept; others are made anew. Several processes may
    call this for the same folder: each takes the next shard that nobody works on, and all return when the last one is
    whole. The shard of a process that was killed is made by another one.

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
    go_on
        Asked before each shard; once it says no, the rest is left to others.

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
    described = json.loads(json.dumps({"shards": n_shards, "users": len(users), **about}))
    while not _claimed_in_turn(folder, described):
        time.sleep(WAIT)
    parts = np.array_split(users, n_shards)
    files = [folder / f"part-{number:05d}-of-{n_shards:05d}.parquet" for number in range(n_shards)]
    missing = [number for number, file in enumerate(files) if not _is_whole(file)]
    waiting = missing
    while waiting and go_on():
        left = []
        for number in waiting:
            if not go_on() or not _made(files[number], parts[number], lists_of, schema):
                left.append(number)
        if len(left) == len(waiting) and go_on():
            time.sleep(WAIT)
        waiting = left
    done = [number for number in missing if number not in set(waiting)]
    rows = sum(int(_noted(files[number])["rows"]) for number in done)
    return Written(n_shards, n_shards - len(missing), rows, sum(len(parts[number]) for number in done))


def _claimed_in_turn(folder: Path, about: dict[str, Any]) -> bool:
    """Claim the folder; False while another process does."""
    try:
        with sole_holder(folder / _CLAIM):
            _claim(folder, about)
    except HeldError:
        return False
    return True


def _made(
    file: Path,
    users: NDArray[np.int64],
    lists_of: Callable[[NDArray[np.int64]], Iterable[pd.DataFrame]],
    schema: pa.Schema | None,
) -> bool:
    """Make a shard, unless it is whole; False if another process is at work on it."""
    try:
        with sole_holder(file.with_name(f".{file.name}.lock")):
            if not _is_whole(file):  # another process may just have ended it
                for left in file.parent.glob(f".{file.name}.*.tmp"):  # of a process that was killed
                    left.unlink(missing_ok=True)
                rows = _write(file, lists_of(users), schema)
                write_json(_note_of(file), {**_digest(file), "rows": rows})
    except HeldError:
        return False
    return True


def _note_of(file: Path) -> Path:
    """Where the digest of a shard is."""
    return file.with_name(f"_{file.stem}.json")


def _noted(file: Path) -> dict[str, Any]:
    """What is noted of a shard; nothing where there is no note."""
    try:
        found = json.loads(_note_of(file).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_whole(file: Path) -> bool:
    """Whether a shard is there, as it was noted."""
    noted = _noted(file)
    if not {"sha256", "bytes", "rows"} <= noted.keys() or not file.is_file():
        return False
    return _digest(file) == {key: noted[key] for key in ("sha256", "bytes")}


def _digest(file: Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as handle:
        while piece := handle.read(2**20):
            digest.update(piece)
            size += len(piece)
    return {"sha256": digest.hexdigest(), "bytes": size}


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
