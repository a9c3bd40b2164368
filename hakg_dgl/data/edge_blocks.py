"""The edges of a saved data set, block by block: nothing of the size of the log is held in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from hakg_dgl.data.dataset import read_about
from hakg_dgl.data.parquet import ParquetColumns
from hakg_dgl.data.readers.archives import file_digest
from hakg_dgl.errors import IntegrityError

Int64 = npt.NDArray[np.int64]

BLOCK_ROWS = 2**20

_REMEDY = "Run 'hakg preprocess' again."


class EdgeTable(NamedTuple):
    """A table of edges, and what kind of node its ends are: ``user``, ``item`` or ``entity``."""

    columns: tuple[str, ...]
    first: tuple[str, str]
    second: tuple[str, str]


EDGE_TABLES = {
    "interactions": EdgeTable(("user", "item", "split"), ("user", "user"), ("item", "item")),
    "triples": EdgeTable(("head", "relation", "tail"), ("head", "entity"), ("tail", "entity")),
    "user_facts": EdgeTable(("user", "relation", "entity"), ("user", "user"), ("entity", "entity")),
    "user_links": EdgeTable(("user", "relation", "other"), ("user", "user"), ("other", "user")),
}
"""Table -> its columns, and the column and kind of either end. Messages pass along every edge in both directions."""


@dataclass(frozen=True)
class SavedEdges:
    """The tables of edges in the folder of a data set.

    Attributes
    ----------
    path
        The folder.
    rows
        Rows of a block.
    """

    path: Path
    rows: int = BLOCK_ROWS

    @cached_property
    def about(self) -> dict[str, Any]:
        """What ``dataset.json`` says."""
        return read_about(self.path)

    @property
    def n_users(self) -> int:
        """Number of users."""
        return int(self.about["counts"]["users"])

    @property
    def n_items(self) -> int:
        """Number of items, which are the first entities."""
        return int(self.about["counts"]["items"])

    @property
    def n_entities(self) -> int:
        """Number of entities."""
        return int(self.about["counts"]["entities"])

    @property
    def tables(self) -> list[str]:
        """The tables that are there."""
        return [table for table in EDGE_TABLES if f"{table}.parquet" in self.about["files"]]

    def verify(self) -> None:
        """Raise IntegrityError if a table of edges is not what was written."""
        for table in self.tables:
            file = self.path / f"{table}.parquet"
            if file_digest(file) != self.about["files"][file.name]:
                raise IntegrityError("the file was changed after preprocessing", path=file, remedy=_REMEDY)

    def frames(self, table: str) -> Iterator[pd.DataFrame]:
        """The rows of a table, a frame a block; ``split`` is text.

        Raises
        ------
        DataError
            If the file is damaged.
        """
        file = self.path / f"{table}.parquet"
        columns = list(EDGE_TABLES[table].columns)
        for block in ParquetColumns(file, file, remedy=_REMEDY).blocks(columns, self.rows):
            yield block.to_pandas()

    def ends(self) -> Iterator[tuple[str, Int64, Int64]]:
        """Table, first and second ends, of all edges that training passes messages along, block by block."""
        for table in self.tables:
            first, second = EDGE_TABLES[table].first[0], EDGE_TABLES[table].second[0]
            for frame in self.frames(table):
                kept = frame[frame["split"] == "train"] if table == "interactions" else frame
                yield table, kept[first].to_numpy(np.int64), kept[second].to_numpy(np.int64)

    def degrees(self) -> tuple[Int64, Int64]:
        """Edges that each user and each entity receives, int64 ``[n_users]`` and ``[n_entities]``.

        An item's are those of the item and of the entity that it is.
        """
        users, entities = np.zeros(self.n_users, np.int64), np.zeros(self.n_entities, np.int64)
        for table, first, second in self.ends():
            for ids, (_, kind) in ((first, EDGE_TABLES[table].first), (second, EDGE_TABLES[table].second)):
                counts = users if kind == "user" else entities
                counts += np.bincount(ids, minlength=len(counts))
        return users, entities
