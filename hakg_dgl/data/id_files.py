"""Files in the original ids of a data set: interactions of users that it does not have, lists of its items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.id_maps import IdMap
from hakg_dgl.data.readers.archives import read_file
from hakg_dgl.data.readers.source_table import read_table
from hakg_dgl.data.readers.text import decoded
from hakg_dgl.errors import ConfigError, DataError

Int64 = npt.NDArray[np.int64]
UnknownItems = Literal["refuse", "skip"]


@dataclass(frozen=True, eq=False)
class NewUsers:
    """Users and their items in the numbers of a data set.

    Attributes
    ----------
    ids
        Original ids, in the order in which they first occur; user u is ``ids[u]``.
    indptr, items
        int64 ``[n + 1]`` and ``[m]``: items of user u are ``items[indptr[u]:indptr[u + 1]]``, ascending.
    report
        Repairs and remarks, with counts.
    """

    ids: pd.Index[str]
    indptr: Int64
    items: Int64
    report: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lists(self) -> tuple[Int64, Int64]:
        """``(indptr, items)``, as ``recommend`` takes them for ``seen``."""
        return self.indptr, self.items


def read_new_users(
    path: str | Path,
    dataset: Dataset,
    *,
    user_col: str = "user",
    item_col: str = "item",
    unknown_items: UnknownItems = "refuse",
) -> NewUsers:
    """Read a table of interactions: CSV, TSV (also ``.gz``) or Parquet, with a header.

    Parameters
    ----------
    path
        The file.
    dataset
        The data set that the model was trained on.
    user_col, item_col
        Columns with the users' ids, which are free, and with the items' original ids.
    unknown_items
        ``refuse`` items that the data set does not have, or ``skip`` them.

    Returns
    -------
    NewUsers
        Its report counts ``rows_without_id_dropped``, ``repeats_dropped``, ``rows_of_unknown_items_skipped``,
        ``users_without_known_item_left_out``, and
        ``users_known_by_the_data_set_treated_as_new``.

    Raises
    ------
    DataError
        If the file cannot be read, lacks a column, or has unknown items that are refused or leave nothing.
    ConfigError
        If ``unknown_items`` is neither of the two.
    """
    if unknown_items not in get_args(UnknownItems):
        raise ConfigError(f"unknown_items = {unknown_items!r} is not allowed: it must be 'refuse' or 'skip'")
    report: dict[str, int] = {}
    digests: dict[str, Mapping[str, Any]] = {}
    table = read_table(path, digests)
    rows = table.ids({"user": user_col, "item": item_col}, report, "rows_without_id_dropped").dropna()
    unique = rows.drop_duplicates()
    report["repeats_dropped"] = len(rows) - len(unique)
    item = IdMap(pd.Index(dataset.items["original_id"]), dataset.items["name"]).indices(unique["item"])
    unknown = item < 0
    if unknown.any() and unknown_items == "refuse":
        raise _unknown_items(path, unique.loc[unknown, "item"], dataset)
    kept = unique[~unknown]
    if not len(kept):
        raise DataError("no row has a user and an item of the data set", path=path, remedy=_ids_look_like(dataset))
    user, ids = pd.factorize(kept["user"])
    report["rows_of_unknown_items_skipped"] = int(unknown.sum())
    report["users_without_known_item_left_out"] = unique["user"].nunique() - len(ids)
    report["users_known_by_the_data_set_treated_as_new"] = int(pd.Index(ids).isin(dataset.users["original_id"]).sum())
    items = item[~unknown]
    order = np.lexsort([items, user])
    indptr = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=len(ids)))]).astype(np.int64)
    return NewUsers(pd.Index(ids), indptr, items[order], report)


def read_item_ids(path: str | Path, *, item_col: str = "item") -> list[str]:
    """Original ids of items from a file: the lines of a ``.txt`` (or ``.txt.gz``), else a column of a table.

    Parameters
    ----------
    path
        The file; tables are CSV, TSV (also ``.gz``) or Parquet, with a header.
    item_col
        The column.

    Raises
    ------
    DataError
        If the file cannot be read, lacks the column, or holds no id.
    """
    path = Path(path)
    if ".txt" in path.suffixes:
        lines = decoded(path, read_file(path)[1]).splitlines()
        ids = [line.strip() for line in lines if line.strip()]
    else:
        ids = read_table(path, {}).ids({"item": item_col}, {}, "")["item"].dropna().tolist()
    if not ids:
        raise DataError("there is no id in it", path=path, remedy="Give the original ids of items, one a line.")
    return ids


def _unknown_items(path: str | Path, items: pd.Series[str], dataset: Dataset) -> DataError:
    some = items.drop_duplicates()
    return DataError(
        f"{len(items):,} rows are of {len(some):,} items that are not in the data set, such as "
        f"{', '.join(map(repr, some.head(5)))}",
        path=path,
        remedy=f"{_ids_look_like(dataset)} Take the rows out, or skip them (--unknown-items skip).",
    )


def _ids_look_like(dataset: Dataset) -> str:
    return f"Items of the data set look like these: {', '.join(map(repr, dataset.items['original_id'].head(5)))}."
