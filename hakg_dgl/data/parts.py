"""A data set in parts on disk: each process reads its own, verified, and none the whole.

A folder of parts holds ``parts.json``, the owners of users and entities (``owners_users.npy`` and
``owners_entities.npy``), the names of relations, and a folder for each part, ``part-00000`` and so on, with Parquet
tables. Ids are those of the data set.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hakg_dgl.atomic_files import recover_folder
from hakg_dgl.data.edge_blocks import EDGE_TABLES
from hakg_dgl.data.owners import KINDS
from hakg_dgl.data.readers.archives import file_digest
from hakg_dgl.errors import DataError, FormatVersionError, IntegrityError

FORMAT, FORMAT_VERSION = "hakg-parts", 1
ABOUT = "parts.json"
OWNER_FILES = {"users": "owners_users.npy", "entities": "owners_entities.npy"}
RELATION_TABLES = ("relations", "user_relations")
"""Tables of names that all parts share; the second is there where the data set has facts or links of users."""
_AGAIN = "Run 'hakg partition' again."

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Part:
    """What one process owns, and what it needs of others; ids are those of the data set.

    Attributes
    ----------
    number
        Which part it is, from 0.
    users, entities
        Owned ids, int64, ascending. Entities below ``n_items`` are its items.
    halo
        ``user``, ``item`` or ``entity`` -> frame with ``id`` and ``owner`` (int64, int32), by owner, then id: the rows
        that edges received here start from and others own. ``item`` is what users receive, ``entity`` what facts give.
    edges
        ``interactions`` (``user``, ``item``, ``split``), ``triples``, and of users' facts and links where the data set
        has them: the rows with an end that is owned. Of the test split, the interactions of owned users alone.
    """

    number: int
    users: Int64
    entities: Int64
    halo: Mapping[str, pd.DataFrame]
    edges: Mapping[str, pd.DataFrame]


class Parts:
    """A folder that ``hakg partition`` wrote.

    Attributes
    ----------
    path
        The folder.
    about
        What ``parts.json`` says: ``data`` (name, digest, counts), ``method``, ``n_parts``, ``costs``, ``files``.

    Raises
    ------
    FormatVersionError
        If a newer version of this package wrote it.
    DataError
        If it is not such a folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path: Path = Path(path)
        recover_folder(self.path)
        self.about: dict[str, Any] = _read_about(self.path / ABOUT)

    @property
    def n_parts(self) -> int:
        """How many parts there are."""
        return int(self.about["n_parts"])

    @property
    def data_digest(self) -> str:
        """Digest of the data set."""
        return str(self.about["data"]["digest"])

    @property
    def counts(self) -> dict[str, int]:
        """Sizes of the data set, as in its ``dataset.json``."""
        return dict(self.about["data"]["counts"])

    def owners(self, of: str) -> npt.NDArray[np.int32]:
        """The owner of each of the ``users`` or ``entities``, mapped from the file and not read."""
        file = self._verified(OWNER_FILES[of])
        found: npt.NDArray[np.int32] = np.lib.format.open_memmap(file, mode="r")
        return found

    def relation_tables(self) -> dict[str, pd.DataFrame]:
        """``relations``, and ``user_relations`` where there are any: frames with ``original_id`` and ``name``."""
        names = [name for name in RELATION_TABLES if name == "relations" or f"{name}.parquet" in self.about["files"]]
        return {name: self._table(".", name) for name in names}

    def part(self, number: int) -> Part:
        """Read one part, and nothing of the others.

        Raises
        ------
        IntegrityError
            If a file is not what was written.
        DataError
            If there is no such part, or a file is missing.
        """
        if not 0 <= number < self.n_parts:
            raise DataError(
                f"there is no part {number}", path=self.path, remedy=f"Take one of 0 to {self.n_parts - 1}."
            )
        folder = part_name(number)
        tables = [table for table in EDGE_TABLES if f"{folder}/{table}.parquet" in self.about["files"]]
        halo = self._table(folder, "halo")
        return Part(
            number,
            self._table(folder, "users")["id"].to_numpy(np.int64),
            self._table(folder, "entities")["id"].to_numpy(np.int64),
            {kind: halo.loc[halo["kind"] == kind, ["id", "owner"]].reset_index(drop=True) for kind in KINDS},
            {table: self._table(folder, table) for table in tables},
        )

    def _table(self, folder: str, name: str) -> pd.DataFrame:
        file = self._verified((Path(folder) / f"{name}.parquet").as_posix())
        try:
            with file.open("rb") as handle:
                frame: pd.DataFrame = pq.read_table(handle).to_pandas()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"cannot be read: {error}", path=file, remedy=_AGAIN) from error
        return frame

    def _verified(self, name: str) -> Path:
        file = self.path / name
        if not file.is_file():
            raise DataError("the file is missing", path=file, remedy=_AGAIN)
        if file_digest(file) != self.about["files"].get(name):
            raise IntegrityError("the file was changed after it was written", path=file, remedy=_AGAIN)
        return file


def part_name(number: int) -> str:
    """Name of the folder of a part."""
    return f"part-{number:05d}"


def _read_about(file: Path) -> dict[str, Any]:
    if not file.is_file():
        problem = f"not a folder of parts: it holds no {ABOUT}"
        raise DataError(problem, path=file.parent, remedy="Make one with 'hakg partition DATA --out PARTS --parts N'.")
    try:
        about = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot be read: {error}", path=file, remedy=_AGAIN) from error
    version = about.get("format_version") if isinstance(about, dict) and about.get("format") == FORMAT else None
    if type(version) is not int or version < 1:
        raise DataError("does not describe parts of a data set", path=file, remedy=_AGAIN)
    if version > FORMAT_VERSION:
        problem = f"format version {version}, this package reads up to {FORMAT_VERSION}"
        raise FormatVersionError(problem, path=file, remedy="Install a newer hakg_dgl, or run 'hakg partition' again.")
    wanted = {"data": dict, "n_parts": int, "files": dict}
    if any(not isinstance(about.get(key), kind) for key, kind in wanted.items()):
        raise DataError(f"{', '.join(wanted)}: one is missing or of the wrong type", path=file, remedy=_AGAIN)
    return dict(about)
