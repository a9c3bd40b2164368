"""A table of items, a row an item: what a shop calls its catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from hakg_dgl.data.facts import ColumnRead, ItemFacts, facts_of_columns
from hakg_dgl.data.parquet import listed
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.data.readers.source_table import Source, SourceTable, read_table
from hakg_dgl.data.readers.table_form import Reading, alias
from hakg_dgl.errors import ConfigError, DataError

ID_COLUMNS, NAME_COLUMNS = ("item", "item_id", "id"), ("name", "title")


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Items and what is known of them.

    Attributes
    ----------
    items
        Ids, text, each once.
    names
        ``id`` and ``name`` of the items that have one.
    facts
        From the other columns.
    """

    items: pd.Series[Any]
    names: pd.DataFrame
    facts: ItemFacts


def read_items(
    sources: Sequence[Source],
    item_col: str,
    kinds: Mapping[str, str],
    reading: Reading,
) -> Catalogue:
    """Read tables of items; files may have different columns, and rows of one item are taken together.

    Repairs, counted in the report: rows without an id are dropped; of several names of an item the first is kept.

    Raises
    ------
    DataError
        If a file has no column of ids (the message lists those there are), or no row with an id.
    ConfigError
        If ``kinds`` names a column or a kind that does not exist.
    """
    unread: dict[str, str] = {}
    frames = [
        _frame(read_table(source, reading.digests, reading.form("items"), name=f"items-{at}"), item_col, unread)
        for at, source in enumerate(sources, start=1)
    ]
    rows = pd.concat(frames, ignore_index=True)
    asked = next((column for column in unread if column in kinds and column not in rows), None)
    if asked is not None:
        raise ConfigError(f"column {asked!r} holds {unread[asked]}, which no kind reads")
    catalogue = catalogue_of(rows, kinds, reading, first_path(sources, "items"))
    left_out = [ColumnRead(name, "out", 0, 0, f"holds {kind}") for name, kind in unread.items() if name not in rows]
    facts = replace(catalogue.facts, columns=(*catalogue.facts.columns, *left_out))
    return replace(catalogue, facts=facts)


def catalogue_of(rows: pd.DataFrame, kinds: Mapping[str, str], reading: Reading, path: Path) -> Catalogue:
    """A catalogue from ``item``, ``name`` and columns of facts, all text; counts what :func:`read_items` says."""
    report = reading.report
    missing = rows["item"].isna()
    report["items_rows_without_id_dropped"] = int(missing.sum())
    rows = rows[~missing].reset_index(drop=True)
    if not len(rows):
        raise DataError("no row has an id", path=path, remedy="Check that the right column is read.")
    items = rows["item"].drop_duplicates().reset_index(drop=True)
    report["items_rows_of_an_item_seen_before"] = len(rows) - len(items)
    names = rows[["item", "name"]].set_axis(["id", "name"], axis=1).dropna().drop_duplicates("id")
    facts = facts_of_columns(rows["item"], rows.drop(columns=["item", "name"]), kinds)
    return Catalogue(items, names.reset_index(drop=True), facts)


def first_path(sources: Sequence[Source], what: str) -> Path:
    """The first of the files, for a message; a frame is called by what it is."""
    return Path(sources[0]) if isinstance(sources[0], (str, Path)) else Path(what)


def _frame(table: SourceTable, item_col: str, unread: dict[str, str]) -> pd.DataFrame:
    """``item``, ``name`` and the other columns, as text; notes in ``unread`` the columns of other kinds."""
    ids = next((name for name in dict.fromkeys((item_col, *ID_COLUMNS)) if name in table.columns), None)
    if ids is None and table.headerless and item_col == ID_COLUMNS[0]:
        ids = "1"
    if ids is None and item_col == ID_COLUMNS[0]:
        ids = alias("item", table.columns, table.path)
    if ids is None:
        raise DataError(
            f"no column {item_col!r} with the ids of items; there are: {listed(table.columns)}",
            path=table.path,
            line=None if table.text is None else 1,
            remedy="Name it as the column of items in the interactions, or item, item_id or id.",
        )
    name = next((name for name in NAME_COLUMNS if name in table.columns), None)
    found = table.ids({"item": ids}, {}, "")
    frame = pd.DataFrame({"item": found["item"], "name": None if name is None else table.texts(name)}, dtype=object)
    others = [column for column in table.columns if column not in (ids, name)]
    clash = next((column for column in others if column in ("item", "name")), None)
    if clash is not None:
        problem = f"column {clash!r} is neither the id nor the name of items"
        raise DataError(problem, path=table.path, remedy="Rename it.")
    kinds = {column: table.unread_kind(column) for column in others}
    unread |= {column: kind for column, kind in kinds.items() if kind is not None}
    read = [column for column in others if kinds[column] is None]
    return pd.concat([frame, *(table.texts(column).rename(column) for column in read)], axis=1)


def with_catalogue(raw: RawData, catalogue: Catalogue) -> RawData:
    """Raw data with the items of a catalogue, their names and facts; names that are known already are kept."""
    entity = pd.Series(raw.item_entity["entity"].to_numpy(), index=raw.item_entity["item"], dtype=object)
    unlinked = catalogue.items[~catalogue.items.isin(entity.index)]
    taken = {*entity, *raw.triples["head"].unique(), *raw.triples["tail"].unique()}
    own = [_free(item, taken) for item in unlinked]
    added = pd.DataFrame({"item": unlinked.to_numpy(), "entity": own}, dtype=object)
    item_entity = pd.concat([raw.item_entity, added], ignore_index=True)
    entity = pd.Series(item_entity["entity"].to_numpy(), index=item_entity["item"], dtype=object)
    triples = catalogue.facts.triples
    heads = triples["head"].map(entity)
    triples = triples.assign(head=heads.where(heads.notna(), triples["head"]))
    names = catalogue.names if raw.items is None else pd.concat([raw.items, catalogue.names]).drop_duplicates("id")
    entities = catalogue.facts.entities
    return replace(
        raw,
        triples=pd.concat([raw.triples, triples], ignore_index=True),
        item_entity=item_entity,
        items=names.reset_index(drop=True),
        entities=entities if raw.entities is None else pd.concat([raw.entities, entities], ignore_index=True),
        catalogue=catalogue.items,
        columns=tuple(column.to_dict() for column in catalogue.facts.columns),
    )


def _free(item: str, taken: set[Any]) -> str:
    """An entity id for an item without a link: its own, unless something else has it."""
    while item in taken:
        item = f"item:{item}"
    taken.add(item)
    return item
