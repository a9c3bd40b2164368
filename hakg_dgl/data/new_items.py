"""Items that a data set does not have, from a table with a row an item, put behind its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.parquet import listed
from hakg_dgl.data.readers.items_table import ID_COLUMNS, id_column, name_column
from hakg_dgl.data.readers.source_table import SourceTable, read_table
from hakg_dgl.data.readers.sources import Files, first_path, frame_name, sources_of
from hakg_dgl.data.readers.table_form import TableForm
from hakg_dgl.data.values import ValuesOfColumn, facts_of_rows
from hakg_dgl.data.written import plainly
from hakg_dgl.errors import DataError


@dataclass(frozen=True, eq=False)
class NewItems:
    """A data set with further items that nobody has.

    Attributes
    ----------
    dataset
        The items of the other data set keep their numbers, the new ones follow; entities that are not items move up.
    numbers
        int64 ``[n]``: the numbers of the new items.
    report
        Remarks with counts.
    """

    dataset: Dataset
    numbers: NDArray[np.int64]
    report: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)


def read_new_items(
    paths: Files, dataset: Dataset, *, item_col: str = "item", form: TableForm | None = None
) -> NewItems:
    """Read tables of new items: CSV, TSV (also ``.gz``) or Parquet with a header, or in memory; a row is an item.

    Parameters
    ----------
    paths
        One file or table in memory, or several. The id of an item stands in ``item_col`` (or ``item``, ``item_id``,
        ``id``), its name in ``name`` or ``title``. Columns that are called as a relation of the data set are facts;
        others are left out.
    dataset
        The data set that the model was trained on.
    item_col
        The column of ids; in a table without a header, the first one unless it is named.
    form
        How text is written; by default as it looks.

    Returns
    -------
    NewItems
        Its report counts ``rows_without_id_dropped``, ``items_of_the_data_set_left_out``,
        ``columns_without_a_relation_left_out``, ``values_unknown_left_out`` (values that are no entity of the data set)
        and ``new_items_without_facts``.

    Raises
    ------
    DataError
        If a file cannot be read or has no column of ids, no column is a relation, or no item is new.
    """
    form = form or TableForm(table="new_items")
    sources = enumerate(sources_of(paths), start=1)
    tables = [read_table(each, {}, form, name=frame_name("new items", at)) for at, each in sources]
    rows = pd.concat([_rows(table, item_col) for table in tables], ignore_index=True)
    return new_items_of(rows, dataset, path=first_path(paths, "items"))


def new_items_of(rows: pd.DataFrame, dataset: Dataset, *, path: Path | None = None) -> NewItems:
    """New items from rows that are in memory.

    Parameters
    ----------
    rows
        Columns ``item`` and ``name``, and others as the files of :func:`read_new_items` have them; text or None.
    dataset
        The data set that the model was trained on.
    path
        The file that an error names.

    Returns
    -------
    NewItems
        As :func:`read_new_items`.

    Raises
    ------
    DataError
        If no column is a relation, or no item is new.
    """
    report: dict[str, int] = {}
    known = pd.Index(dataset.items["original_id"])
    report["rows_without_id_dropped"] = int(rows["item"].isna().sum())
    rows = rows.dropna(subset=["item"])
    new = rows[~rows["item"].isin(known)].reset_index(drop=True)
    report["items_of_the_data_set_left_out"] = int(rows["item"].isin(known).sum())
    if not len(new):
        problem = f"{len(rows):,} rows, and all of their items are in the data set" if len(rows) else "no row has an id"
        raise DataError(problem, path=path, remedy="Give items that the data set does not have.")
    ids = pd.Index(new["item"].drop_duplicates())
    columns = [name for name in new.columns if name not in ("item", "name")]
    relations = {name: found for name in columns if len(found := _relations(dataset, name))}
    report["columns_without_a_relation_left_out"] = len(columns) - len(relations)
    if not relations:
        raise DataError(
            f"none of the columns {listed(columns)} is a relation of the data set, so nothing is known of the items",
            path=path,
            remedy=f"Its relations are {listed(dataset.relations['name'].tolist())}.",
        )
    values = [(name, number, _values(dataset, name, number)) for name, found in relations.items() for number in found]
    facts = facts_of_rows(new.assign(owner=ids.get_indexer(new["item"])), "owner", values, report)
    report["new_items_without_facts"] = len(ids) - len(np.unique(facts[:, 0]))
    names = new.dropna(subset=["name"]).drop_duplicates("item").set_index("item")["name"].reindex(ids)
    names = names.where(names.notna(), pd.Series(ids, index=ids))
    table = pd.DataFrame({"original_id": ids.tolist(), "name": names.tolist()})
    grown = with_items(dataset, table, facts)
    return NewItems(grown, np.arange(dataset.n_items, grown.n_items), report)


def with_items(dataset: Dataset, items: pd.DataFrame, facts: NDArray[np.int64]) -> Dataset:
    """The data set with further items behind its own.

    Parameters
    ----------
    dataset
        The data set.
    items
        ``original_id`` and ``name`` of the m new items.
    facts
        int64 ``[n, 3]``: number 0..m-1 of the new item, relation, and entity as the data set numbers it. The item is
        the end of the triple that items are in most triples of the relation.
    """
    n_items, more = dataset.n_items, len(items)
    triples = dataset.triples[["head", "relation", "tail"]].to_numpy(copy=True)
    at_tail = _items_at_tail(triples, n_items, dataset.n_relations)
    for end in (0, 2):
        triples[:, end] += more * (triples[:, end] >= n_items)
    item, relation, entity = facts.T
    item, entity = item + n_items, entity + more * (entity >= n_items)
    turned = at_tail[relation]
    added = np.stack([np.where(turned, entity, item), relation, np.where(turned, item, entity)], axis=1)
    user_facts = dataset.user_facts.copy()
    user_facts["entity"] += more * (user_facts["entity"] >= n_items).astype(np.int64)
    entities = items.assign(original_id=_free_ids(items["original_id"], dataset.entities["original_id"]))
    return dataclasses.replace(
        dataset,
        triples=pd.DataFrame(np.concatenate([triples, added]), columns=["head", "relation", "tail"]),
        items=pd.concat([dataset.items, items], ignore_index=True),
        entities=pd.concat([dataset.entities[:n_items], entities, dataset.entities[n_items:]], ignore_index=True),
        user_facts=user_facts,
    )


def _items_at_tail(triples: NDArray[np.int64], n_items: int, n_relations: int) -> NDArray[np.bool_]:
    """Relations most of whose triples have the item at the tail, ``[n_relations]``."""
    head, relation, tail = triples.T
    at_head = np.bincount(relation[(head < n_items) & (tail >= n_items)], minlength=n_relations)
    at_tail = np.bincount(relation[(head >= n_items) & (tail < n_items)], minlength=n_relations)
    found: NDArray[np.bool_] = at_tail > at_head
    return found


def _free_ids(ids: pd.Series[str], taken: pd.Series[str]) -> list[str]:
    used, found = set(taken), []
    for text in ids.tolist():
        while text in used:
            text = f"item:{text}"
        used.add(text)
        found.append(text)
    return found


def _rows(table: SourceTable, item_col: str) -> pd.DataFrame:
    """``item``, ``name`` and the other columns, as text."""
    named = item_col if item_col != "item" and item_col in table.columns else None
    ids = id_column(table, named, item_col, ID_COLUMNS, "item", "--item-col")
    name = name_column(table, ids)
    frame = pd.DataFrame(
        {"item": table.ids({"item": ids}, {}, "")["item"], "name": None if name is None else table.texts(name)},
        dtype=object,
    )
    others = [column for column in table.columns if column not in (ids, name, "item", "name")]
    texts = {column: table.texts(column) for column in others if table.unread_kind(column) is None}
    plain = [
        plainly(text, table.form.decimal, table.form.date_order).texts.rename(column) for column, text in texts.items()
    ]
    return pd.concat([frame, *plain], axis=1)


def _relations(dataset: Dataset, name: str) -> list[int]:
    """Relations with this original id or, where none is that, this name."""
    for column in ("original_id", "name"):
        found = np.flatnonzero(dataset.relations[column].to_numpy() == name)
        if len(found):
            return [int(number) for number in found]
    return []


def _values(dataset: Dataset, column: str, relation: int) -> ValuesOfColumn:
    """Entities that items have by a relation, and those with an id of the column that none has as yet."""
    triples = dataset.triples[dataset.triples["relation"] == relation]
    head, tail = triples["head"].to_numpy(), triples["tail"].to_numpy()
    numbers = np.unique(np.concatenate([tail[head < dataset.n_items], head[tail < dataset.n_items]]))
    above = np.flatnonzero(dataset.entities["original_id"].str.startswith(f"{column}=").to_numpy())
    numbers = np.union1d(numbers, above[above >= dataset.n_items])
    return ValuesOfColumn(column, dataset.entities.iloc[numbers].set_index(pd.Index(numbers)))
