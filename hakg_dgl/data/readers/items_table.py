"""A table of items, a row an item: what a shop calls its catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from hakg_dgl.data.facts import ItemFacts, facts_of_columns
from hakg_dgl.data.parquet import listed
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.data.readers.source_table import SourceTable, read_table
from hakg_dgl.errors import DataError

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
    paths: Sequence[str | Path],
    item_col: str,
    kinds: Mapping[str, str],
    report: dict[str, int],
    digests: dict[str, Mapping[str, Any]],
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
    rows = attribute_rows(paths, "item", (item_col, *ID_COLUMNS), report, digests)
    items = rows["item"].drop_duplicates().reset_index(drop=True)
    names = rows[["item", "name"]].set_axis(["id", "name"], axis=1).dropna().drop_duplicates("id")
    facts = facts_of_columns(rows["item"], rows.drop(columns=["item", "name"]), kinds)
    return Catalogue(items, names.reset_index(drop=True), facts)


def attribute_rows(
    paths: Sequence[str | Path],
    kind: str,
    id_columns: Sequence[str],
    report: dict[str, int],
    digests: dict[str, Mapping[str, Any]],
) -> pd.DataFrame:
    """Rows of tables with an item or a user a row: ``kind`` (its id), ``name`` and the other columns, as text.

    Parameters
    ----------
    paths
        The files; a column that one of them lacks is None there.
    kind
        ``item`` or ``user``.
    id_columns
        Columns that may hold the ids, the first that there is does.
    report, digests
        Where rows without an id, which are dropped, and rows of ids seen before are counted, and files noted.

    Raises
    ------
    DataError
        If a file has no column of ids, or there is no row with an id.
    """
    rows = pd.concat([_frame(read_table(path, digests), kind, id_columns) for path in paths], ignore_index=True)
    missing = rows[kind].isna()
    report[f"{kind}s_rows_without_id_dropped"] = int(missing.sum())
    rows = rows[~missing].reset_index(drop=True)
    if not len(rows):
        raise DataError("no row has an id", path=Path(paths[0]), remedy="Check that the right column is read.")
    seen = len(rows) - rows[kind].nunique()
    report[f"{kind}s_rows_of_{'an' if kind == 'item' else 'a'}_{kind}_seen_before"] = seen
    return rows


def _frame(table: SourceTable, kind: str, id_columns: Sequence[str]) -> pd.DataFrame:
    """``kind`` (the id), ``name`` and the other columns, as text."""
    ids = next((name for name in id_columns if name in table.columns), None)
    if ids is None:
        raise DataError(
            f"no column {id_columns[0]!r} with the ids of {kind}s; there are: {listed(table.columns)}",
            path=table.path,
            line=None if table.text is None else 1,
            remedy=f"Name it as the column of {kind}s in the interactions, or {kind}, {kind}_id or id.",
        )
    name = next((name for name in NAME_COLUMNS if name in table.columns), None)
    found = table.ids({kind: ids}, {}, "")
    frame = pd.DataFrame({kind: found[kind], "name": None if name is None else table.texts(name)}, dtype=object)
    others = [column for column in table.columns if column not in (ids, name)]
    clash = next((column for column in others if column in (kind, "name")), None)
    if clash is not None:
        problem = f"column {clash!r} is neither the id nor the name of {kind}s"
        raise DataError(problem, path=table.path, remedy="Rename it.")
    return pd.concat([frame, *(table.texts(column).rename(column) for column in others)], axis=1)


def with_catalogue(raw: RawData, catalogue: Catalogue) -> RawData:
    """Raw data with the items of a catalogue, their names and facts; names that are known already are kept."""
    entity = pd.Series(raw.item_entity["entity"].to_numpy(), index=raw.item_entity["item"], dtype=object)
    unlinked = catalogue.items[~catalogue.items.isin(entity.index)]
    taken = {*entity, *raw.triples["head"], *raw.triples["tail"]}
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
