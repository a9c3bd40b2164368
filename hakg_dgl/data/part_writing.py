"""Writes a data set in parts, in a stream: a block of edges is all that is held of them."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hakg_dgl.atomic_files import recover_folder, replace_folder, write_json
from hakg_dgl.data.edge_blocks import EDGE_TABLES, SavedEdges
from hakg_dgl.data.owners import KINDS, Owners, cut_costs, halos, owners_of_ends
from hakg_dgl.data.parts import ABOUT, FORMAT, FORMAT_VERSION, OWNER_FILES, RELATION_TABLES, Parts, part_name
from hakg_dgl.data.readers.archives import file_digest
from hakg_dgl.errors import DataError

_OPEN_AT_ONCE = 256
"""Files that are written at once; with more parts than this the edges are passed over again."""


def write_parts(
    edges: SavedEdges, owners: Owners, out: str | Path, *, method: str, d: int = 64, layers: int = 3
) -> dict[str, Any]:
    """Write the parts to the folder ``out``, which takes its place when all of it is written; returns its costs.

    Parameters
    ----------
    edges, owners
        The data set, and who owns what.
    method
        How the owners were found, to be noted.
    d, layers
        For the costs; see :func:`~hakg_dgl.data.owners.cut_costs`.

    Raises
    ------
    DataError
        If ``out`` holds something else than parts, or cannot be written.
    """
    out = Path(out)
    recover_folder(out)
    refuse_others(out)
    costs: dict[str, Any] = {}

    def write(folder: Path) -> None:
        costs.update(_write(folder, edges, owners, method, d, layers))

    try:
        replace_folder(out, write)
    except (OSError, pa.ArrowException) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise DataError(f"cannot be written: {why}", path=out, remedy="Nothing was changed there.") from error
    return costs


def refuse_others(path: Path) -> None:
    """Raise DataError unless ``path`` is free, an empty folder, or parts of an earlier call."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    try:
        known = {name.split("/")[0] for name in Parts(path).about["files"]} | {ABOUT}
    except DataError:
        problem, remedy = "exists and holds no parts of a data set", "Choose another place, or empty it yourself."
        raise DataError(problem, path=path, remedy=remedy) from None
    others = sorted({entry.name for entry in path.iterdir()} - known)
    if others:
        problem = f"holds other files, such as {others[0]!r}"
        raise DataError(problem, path=path, remedy="Choose another place, or empty it yourself.")


def _write(folder: Path, edges: SavedEdges, owners: Owners, method: str, d: int, layers: int) -> dict[str, Any]:
    for number in range(owners.n_parts):
        (folder / part_name(number)).mkdir()
    np.save(folder / OWNER_FILES["users"], owners.users, allow_pickle=False)
    np.save(folder / OWNER_FILES["entities"], owners.entities, allow_pickle=False)
    for name in RELATION_TABLES:
        if f"{name}.parquet" in edges.about["files"]:
            shutil.copyfile(edges.path / f"{name}.parquet", folder / f"{name}.parquet")
    rows = dict.fromkeys(edges.tables, 0)
    for start in range(0, owners.n_parts, _OPEN_AT_ONCE):
        numbers = range(start, min(start + _OPEN_AT_ONCE, owners.n_parts))
        for table in edges.tables:
            rows[table] = _write_edges(folder, edges, owners, table, numbers)
    sizes = []
    for number, halo in enumerate(halos(edges, owners)):
        for name, of in (("users", owners.users), ("entities", owners.entities)):
            ids = np.flatnonzero(of == number)
            _write_table(folder / part_name(number) / f"{name}.parquet", pd.DataFrame({"id": ids}))
        _write_table(folder / part_name(number) / "halo.parquet", _halo_frame(halo, owners))
        sizes.append({kind: len(ids) for kind, ids in halo.items()})
    costs = cut_costs(edges, owners, d=d, layers=layers, halo_sizes=sizes)
    files = {str(file.relative_to(folder).as_posix()): file_digest(file) for file in sorted(folder.rglob("*.*"))}
    about = edges.about
    described = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "data": {key: about[key] for key in ("name", "digest", "counts")},
        "method": method,
        "n_parts": owners.n_parts,
        "costs": {"d": d, "layers": layers, **costs},
        "halo": sizes,
        "files": files,
    }
    write_json(folder / ABOUT, described)
    return costs


def _halo_frame(halo: dict[str, Any], owners: Owners) -> pd.DataFrame:
    """The halo of a part by kind, owner and id."""
    frames = []
    for kind, ids in halo.items():
        owner = owners.of(kind)[ids]
        order = np.lexsort((ids, owner))
        frames.append(pd.DataFrame({"kind": kind, "id": ids[order], "owner": owner[order].astype(np.int32)}))
    return pd.concat(frames, ignore_index=True).assign(kind=lambda frame: pd.Categorical(frame["kind"], list(KINDS)))


def _write_edges(folder: Path, edges: SavedEdges, owners: Owners, table: str, numbers: range) -> int:
    """Write the rows of a table that these parts need, in the order of the data set; returns the rows of all."""
    kinds = {column: pa.string() if column == "split" else pa.int64() for column in EDGE_TABLES[table].columns}
    schema, found = pa.schema(kinds), 0
    with ExitStack() as stack:
        writers = [
            stack.enter_context(pq.ParquetWriter(_opened(folder / part_name(n) / f"{table}.parquet", stack), schema))
            for n in numbers
        ]
        for frame in edges.frames(table):
            one, other = owners_of_ends(frame, table, owners)
            found += len(frame)
            for number, writer in zip(numbers, writers, strict=True):
                kept = frame[(one == number) | (other == number)]
                if len(kept):
                    writer.write_table(pa.Table.from_pandas(kept, schema, preserve_index=False))
    return found


def _opened(path: Path, stack: ExitStack) -> Any:
    """A file to write; Arrow itself opens no path that is not UTF-8."""
    return stack.enter_context(path.open("wb"))


def _write_table(path: Path, frame: pd.DataFrame) -> None:
    with path.open("wb") as handle:
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), handle)
