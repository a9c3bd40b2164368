"""Writing raw data in the KGAT/KGIN layout, which :func:`~hakg_dgl.data.readers.kgat.read_kgat` reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.errors import DataError

Int64 = npt.NDArray[np.int64]


def write_kgat(raw: RawData, folder: str | Path) -> Path:
    """Write raw data in the KGAT layout: ``train.txt``, ``test.txt``, ``kg_final.txt``, and ``*_list.txt`` for names.

    Every user has a line in ``train.txt``, those without training items alone on it. The layout knows no validation
    split: its interactions go to ``train.txt``. Each file is written under a temporary name, then renamed.

    Parameters
    ----------
    raw
        With ``ids_are_indices`` and a split.
    folder
        Made if missing; files in it of the same names are replaced.

    Returns
    -------
    Path
        ``folder``.

    Raises
    ------
    DataError
        If the ids are not row numbers, there is no split, or the folder cannot be written.
    """
    folder = Path(folder)
    if not raw.ids_are_indices:
        raise DataError(f"{raw.name}: ids are not row numbers", remedy="This layout needs item i to be entity i.")
    if "split" not in raw.interactions:
        raise DataError(f"{raw.name}: there is no split", remedy="Add a column 'split' with train and test.")
    in_test = (raw.interactions["split"] == "test").to_numpy()
    pairs = raw.interactions[["user", "item"]].to_numpy(dtype=np.int64)
    n_users = max(raw.counts.get("users", 0), int(pairs[:, 0].max(initial=-1)) + 1)
    lists = {"user": raw.users, "item": raw.items, "entity": raw.entities, "relation": raw.relations}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_lines(folder / "train.txt", _user_lines(pairs[~in_test], n_users, keep_lone=True))
        _write_lines(folder / "test.txt", _user_lines(pairs[in_test], n_users, keep_lone=False))
        _write_triples(folder / "kg_final.txt", raw.triples)
        for kind, names in lists.items():
            if names is not None:
                _write_lines(folder / f"{kind}_list.txt", _list_lines(raw.name, kind, names))
    except OSError as error:
        raise DataError(
            f"cannot be written: {error}", path=folder, remedy="Free some space, or choose another folder."
        ) from error
    return folder


def _user_lines(pairs: Int64, n_users: int, *, keep_lone: bool) -> list[str]:
    """A user and its items a line."""
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    counts = np.bincount(pairs[:, 0], minlength=n_users)
    users = np.arange(n_users) if keep_lone else np.flatnonzero(counts)
    # the user stands before its items as if it were one of them
    starts = np.concatenate([[0], np.cumsum(counts)])[users]
    tokens = np.insert(pairs[:, 1], starts, users)
    offsets = np.concatenate([[0], np.cumsum(counts[users] + 1)]).astype(np.int64)
    words = pa.LargeListArray.from_arrays(pa.array(offsets), pc.cast(pa.array(tokens), pa.string()))
    lines: list[str] = pc.binary_join(words, " ").to_pylist()
    return lines


def _list_lines(name: str, kind: str, names: pd.DataFrame) -> list[str]:
    """Original id and row number a line, below a header."""
    ids = names["original_id" if "original_id" in names else "name"].astype(str)
    broken = ids[ids.str.contains(r"[\r\n]")]
    if len(broken):
        raise DataError(f"{name}: the {kind} id {broken.iloc[0]!r} holds a line break", remedy="Rename it.")
    return ["org_id remap_id", *(ids + " " + names["id"].astype(str)).tolist()]


def _write_lines(path: Path, lines: list[str]) -> None:
    with _renamed(path) as handle:
        handle.write("".join(line + "\n" for line in lines).encode())


def _write_triples(path: Path, triples: pd.DataFrame) -> None:
    table = pa.table({end: pa.array(triples[end].to_numpy()) for end in ("head", "relation", "tail")})
    with _renamed(path) as handle:
        pa_csv.write_csv(table, handle, pa_csv.WriteOptions(include_header=False, delimiter=" "))


@contextmanager
def _renamed(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the name ``path`` when it is whole."""
    partial = path.with_name(f"{path.name}.part")
    try:
        with partial.open("wb") as handle:
            yield handle
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
