"""Files in the original ids of a data set: interactions of users that it does not have, lists of its items."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.id_maps import IdMap
from hakg_dgl.data.parquet import listed
from hakg_dgl.data.readers.archives import read_file
from hakg_dgl.data.readers.source_table import SourceTable, read_table
from hakg_dgl.data.readers.sources import Files, Source, first_path, frame_name, sources_of
from hakg_dgl.data.readers.table_form import TableForm
from hakg_dgl.data.readers.text import decoded, recoded
from hakg_dgl.data.values import USER_MARK, ValuesOfColumn, facts_of_rows
from hakg_dgl.data.written import plainly
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
        int64 ``[n + 1]`` and ``[m]``: items of user u are ``items[indptr[u]:indptr[u + 1]]``, ascending. Those of a
        user whom the data set knows include what it has of the user, in whichever split.
    report
        Repairs and remarks, with counts.
    known
        int64 ``[n]``: the number of the user in the data set, -1 for those that it does not have.
    facts
        Relation of users -> the entities that they have by it, packed like ``items``: ``(indptr, entities)``.
    """

    ids: pd.Index[str]
    indptr: Int64
    items: Int64
    report: Mapping[str, int] = field(default_factory=dict)
    known: Int64 = field(default_factory=lambda: np.empty(0, np.int64))
    facts: Mapping[str, tuple[Int64, Int64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lists(self) -> tuple[Int64, Int64]:
        """``(indptr, items)``, as ``recommend`` takes them for ``seen``."""
        return self.indptr, self.items

    def only(self, user: int) -> NewUsers:
        """One of the users alone."""
        return NewUsers(
            self.ids[user : user + 1],
            *_row(self.indptr, self.items, user),
            self.report,
            self.known[user : user + 1],
            {name: _row(*lists, user) for name, lists in self.facts.items()},
        )


def read_new_users(
    path: Files,
    dataset: Dataset,
    *,
    user_col: str = "user",
    item_col: str = "item",
    unknown_items: UnknownItems = "refuse",
    forms: Sequence[TableForm] = (),
) -> NewUsers:
    """Read tables of interactions or attributes of users: CSV, TSV (also ``.gz``) or Parquet, or in memory.

    A file with the column of items has a row an interaction. Any file may have attributes: columns that are called as
    a relation of the data set's facts about users. A user whom the data set knows keeps the items that it has of the
    user, and those of the files come to them.

    Parameters
    ----------
    path
        The file or table in memory, or several.
    dataset
        The data set that the model was trained on.
    user_col, item_col
        Columns with the users' ids, which are free, and with the items' original ids.
    unknown_items
        ``refuse`` items that the data set does not have, or ``skip`` them.
    forms
        How the text of each file is written; by default as it looks. Columns of a table without a header are called
        ``1``, ``2`` and so on; the first holds the users, and the second the items, unless it is a relation.

    Returns
    -------
    NewUsers
        Its report counts ``rows_without_id_dropped``, ``repeats_dropped``, ``rows_of_unknown_items_skipped``,
        ``users_without_known_item_left_out``, ``users_known_by_the_data_set_whose_past_counts``,
        ``attributes_without_a_relation_left_out`` and ``values_unknown_left_out``.

    Raises
    ------
    DataError
        If a file cannot be read, lacks a column, or has unknown items that are refused or leave nothing.
    ConfigError
        If ``unknown_items`` is neither of the two.
    """
    if unknown_items not in get_args(UnknownItems):
        raise ConfigError(f"unknown_items = {unknown_items!r} is not allowed: it must be 'refuse' or 'skip'")
    report: dict[str, int] = {}
    attributes = values_of_users(dataset)
    pairs, about, found = [], [], []
    for at, source in enumerate(sources_of(path)):
        table = read_table(
            source, {}, forms[at] if forms else TableForm(table="new_users"), name=frame_name("users", at + 1)
        )
        who = table.find(user_col, default="user", place=1)
        what = _item_column(table, item_col, {who, *attributes})
        mine = [name for name in table.columns if name in attributes and name not in (who, what)]
        if what is None and not mine:
            raise _says_nothing_of_users(table, item_col, attributes)
        if what is not None:
            pairs.append(_pairs(table, who, what, unknown_items, dataset, report))
        else:
            others = [name for name in table.columns if name not in (who, *mine)]
            _count(report, "attributes_without_a_relation_left_out", len(others))
        if mine:
            about.append(pd.concat([table.ids({"user": who}, {}, ""), *_plain_texts(table, mine)], axis=1))
            found += mine
    rows = pd.concat(pairs, ignore_index=True) if pairs else pd.DataFrame({"user": [], "item": []}, dtype=object)
    described = pd.concat(about, ignore_index=True).dropna(subset=["user"]) if about else None
    everyone = [rows["user"], *([] if described is None else [described["user"]])]
    named = pd.concat(everyone).drop_duplicates()
    has_items = named.isin(rows.loc[rows["item"].notna(), "user"])
    has_attributes = named.isin(described["user"]) if described is not None else np.zeros(len(named), dtype=bool)
    known = IdMap(pd.Index(dataset.users["original_id"]), dataset.users["name"]).indices(named)
    kept = has_items.to_numpy() | np.asarray(has_attributes) | (known >= 0)
    if not kept.any():
        raise DataError(
            "no row has a user and an item of the data set",
            path=first_path(path, "users"),
            remedy=_ids_look_like(dataset),
        )
    if pairs:
        report["users_without_known_item_left_out"] = int((~kept).sum())
    ids, known = pd.Index(named[kept]), known[kept]
    report["users_known_by_the_data_set_whose_past_counts"] = int((known >= 0).sum())
    rows = rows.dropna(subset=["item"])
    user, item = ids.get_indexer(rows["user"]), rows["item"].to_numpy(np.int64)
    past_user, past_item = _past(dataset, known)
    indptr, items = _packed(np.concatenate([user, past_user]), np.concatenate([item, past_item]), len(ids))
    facts = {}
    if described is not None:
        columns = [(name, *attributes[name]) for name in dict.fromkeys(found)]
        triples = facts_of_rows(described.assign(owner=ids.get_indexer(described["user"])), "owner", columns, report)
        names = dataset.user_relations["name"].tolist()
        for relation in np.unique(triples[:, 1]).tolist():
            chosen = triples[triples[:, 1] == relation]
            facts[names[relation]] = _packed(chosen[:, 0], chosen[:, 2], len(ids))
    return NewUsers(ids, indptr, items, report, known, facts)


def _says_nothing_of_users(table: SourceTable, item_col: str, attributes: Mapping[str, object]) -> DataError:
    """The error of a table with neither items nor attributes of users."""
    if table.looks_headerless():
        problem = f"no column {item_col!r}, and the first line looks like a row: {listed(table.columns)}"
        return DataError(problem, path=table.path, line=1, remedy=table.form.headerless_remedy)
    relations = listed(list(attributes)) if attributes else "none"
    return DataError(
        f"no column {item_col!r} and no attribute; there are: {listed(table.columns)}",
        path=table.path,
        line=1 if table.is_text else None,
        remedy=f"Name the column of items (--item-col), or have a column of users' facts: {relations}.",
    )


def _item_column(table: SourceTable, item_col: str, others: set[str]) -> str | None:
    """The column of items, by name, another common name, or its place; None for a table of attributes alone."""
    if item_col == "item" and table.headerless and len(table.columns) > 1 and "2" in others:
        return None
    if item_col not in table.columns and not (item_col == "item" and (table.headerless or table.has("item"))):
        return None
    if table.headerless and len(table.columns) < 2:
        return None
    return table.find(item_col, default="item", place=2)


def _plain_texts(table: SourceTable, columns: Sequence[str]) -> list[pd.Series[Any]]:
    """Columns as text, numbers and dates put plainly."""
    form = table.form
    return [plainly(table.texts(name), form.decimal, form.date_order).texts.rename(name) for name in columns]


def _pairs(
    table: SourceTable,
    user_col: str,
    item_col: str,
    unknown_items: UnknownItems,
    dataset: Dataset,
    report: dict[str, int],
) -> pd.DataFrame:
    """``user`` (id) and ``item`` (number) of each interaction once; users of unknown items alone without an item."""
    rows = table.ids({"user": user_col, "item": item_col}, report, "rows_without_id_dropped").dropna()
    unique = rows.drop_duplicates()
    _count(report, "repeats_dropped", len(rows) - len(unique))
    item = IdMap(pd.Index(dataset.items["original_id"]), dataset.items["name"]).indices(unique["item"])
    unknown = item < 0
    if unknown.any() and unknown_items == "refuse":
        raise _unknown_items(table.path, unique.loc[unknown, "item"], dataset)
    _count(report, "rows_of_unknown_items_skipped", int(unknown.sum()))
    return unique.assign(item=pd.Series(item, index=unique.index).astype(object).where(~unknown, None))


def values_of_users(dataset: Dataset) -> dict[str, tuple[int, ValuesOfColumn]]:
    """Original id and name of each relation of users' facts -> its number, and the values that a new user may have.

    These are the values that users have, and of a table's column those that stand above them, such as years.
    """
    found = {}
    facts = dataset.user_facts
    for relation in np.unique(facts["relation"]).tolist():
        numbers = np.unique(facts.loc[facts["relation"] == relation, "entity"])
        for column in ("name", "original_id"):
            name = str(dataset.user_relations[column].iloc[relation])
            ids, column_of = dataset.entities["original_id"], f"{re.escape(name)}="
            of_users = f"{USER_MARK}+{column_of}"
            from_table = ids.iloc[numbers].str.match(of_users).any()
            above = np.flatnonzero(ids.str.match(of_users if from_table else column_of).to_numpy())
            every = np.union1d(numbers, above)
            table = dataset.entities.iloc[every].set_index(pd.Index(every))
            found[name] = (relation, ValuesOfColumn(name, table))
    return found


def _past(dataset: Dataset, known: Int64) -> tuple[Int64, Int64]:
    """Places of the users that the data set has, and the items that it has of them."""
    place = np.full(dataset.n_users, -1)
    place[known[known >= 0]] = np.flatnonzero(known >= 0)
    pairs = dataset.pairs()
    user = place[pairs[:, 0]]
    return user[user >= 0], pairs[user >= 0, 1]


def _packed(owners: Int64, values: Int64, n: int) -> tuple[Int64, Int64]:
    """The values of each of n owners, each once and ascending: ``indptr`` and values."""
    pairs = np.unique(np.stack([owners, values], axis=1).astype(np.int64), axis=0)
    counts = np.bincount(pairs[:, 0], minlength=n)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), np.ascontiguousarray(pairs[:, 1])


def _row(indptr: Int64, values: Int64, row: int) -> tuple[Int64, Int64]:
    found = values[indptr[row] : indptr[row + 1]]
    return np.array([0, len(found)], dtype=np.int64), found


def _count(report: dict[str, int], key: str, number: int) -> None:
    report[key] = report.get(key, 0) + number


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of users and items in numbers.

    Attributes
    ----------
    rows
        ``user`` and ``item``: original ids, in the order of the file.
    users, items
        int64 ``[n]``.
    report
        Remarks with counts.
    """

    rows: pd.DataFrame
    users: Int64
    items: Int64
    report: Mapping[str, int]


def read_pairs(
    path: Source,
    users: Sequence[str] | npt.NDArray[Any],
    dataset: Dataset,
    *,
    user_col: str = "user",
    item_col: str = "item",
    skip: bool = False,
    form: TableForm | None = None,
) -> Pairs:
    """Read a table of pairs: CSV, TSV (also ``.gz``) or Parquet, or in memory; a pair that comes twice stays twice.

    Parameters
    ----------
    path
        The file, or the table in memory.
    users
        Original ids of the users, in the order of their numbers.
    dataset
        Whose items.
    user_col, item_col
        Columns with the ids.
    skip
        Whether rows of unknown users and items are left out (``rows_of_unknown_users_or_items_skipped``).
    form
        How text is written; by default as it looks.

    Raises
    ------
    DataError
        If the file cannot be read, lacks a column, has unknown users or items that are not skipped, or no row is left.
    """
    report: dict[str, int] = {}
    table = read_table(path, {}, form or TableForm(table="pairs"), name="pairs")
    columns = {
        "user": table.find(user_col, default="user", place=1), "item": table.find(item_col, default="item", place=2)
    }  # fmt: skip
    rows = table.ids(columns, report, "rows_without_id_dropped").dropna()
    known = pd.Index(users)
    user = IdMap(known, pd.Series(known)).indices(rows["user"])
    item = IdMap(pd.Index(dataset.items["original_id"]), dataset.items["name"]).indices(rows["item"])
    if not skip and (user < 0).any():
        some = rows.loc[user < 0, "user"].drop_duplicates()
        raise DataError(
            f"{_rows_of(int((user < 0).sum()), len(some), 'user')} not known, such as "
            f"{', '.join(map(repr, some.head(5)))}",
            path=table.path,
            remedy="Take the rows out, skip them (--unknown-items skip), or say what they have (--new-users).",
        )
    if not skip and (item < 0).any():
        raise _unknown_items(table.path, rows.loc[item < 0, "item"], dataset)
    kept = (user >= 0) & (item >= 0)
    report["rows_of_unknown_users_or_items_skipped"] = int((~kept).sum())
    if not kept.any():
        raise DataError("no row has a user and an item that are known", path=table.path, remedy=_ids_look_like(dataset))
    return Pairs(rows[kept].reset_index(drop=True), user[kept], item[kept], report)


def read_item_ids(path: Source, *, item_col: str = "item", form: TableForm | None = None) -> list[str]:
    """Original ids of items from a file: the lines of a ``.txt`` (or ``.txt.gz``), else a column of a table.

    Parameters
    ----------
    path
        The file; tables are CSV, TSV (also ``.gz``) or Parquet with a header, or in memory.
    item_col
        The column; in a table without a header, the first one unless it is named.
    form
        How text is written; by default as it looks.

    Raises
    ------
    DataError
        If the file cannot be read, lacks the column, or holds no id.
    """
    where, form = first_path(path, "items"), form or TableForm(table="not_in")
    if isinstance(path, (str, Path)) and ".txt" in where.suffixes:
        data = read_file(where)[1]
        lines = decoded(where, data if form.encoding is None else recoded(where, data, form.encoding)).splitlines()
        ids = [line.strip() for line in lines if line.strip()]
    else:
        table = read_table(path, {}, form, name="items")
        ids = table.ids({"item": table.find(item_col, default="item", place=1)}, {}, "")["item"].dropna().tolist()
    if not ids:
        raise DataError("there is no id in it", path=where, remedy="Give the original ids of items, one a line.")
    return ids


def _unknown_items(path: str | Path, items: pd.Series[str], dataset: Dataset) -> DataError:
    some = items.drop_duplicates()
    return DataError(
        f"{_rows_of(len(items), len(some), 'item')} not in the data set, such as {', '.join(map(repr, some.head(5)))}",
        path=path,
        remedy=f"{_ids_look_like(dataset)} Take the rows out, or skip them (--unknown-items skip).",
    )


def _rows_of(rows: int, things: int, what: str) -> str:
    one = things == 1
    return (
        f"{rows:,} {'row is' if rows == 1 else 'rows are'} of {'an ' * one if what == 'item' else 'a ' * one}"
        f"{'' if one else f'{things:,} '}{what}{'' if one else 's'} that {'is' if one else 'are'}"
    )


def _ids_look_like(dataset: Dataset) -> str:
    return f"Items of the data set look like these: {', '.join(map(repr, dataset.items['original_id'].head(5)))}."
