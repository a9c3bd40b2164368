"""A table of items, a row an item: what a shop calls its catalogue."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hakg_dgl.data.facts import LIST_MARK, ColumnRead, ItemFacts, facts_of_columns
from hakg_dgl.data.parquet import listed
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.data.readers.source_table import NAMELESS, SourceTable, read_table
from hakg_dgl.data.readers.sources import Source, first_path, frame_name
from hakg_dgl.data.readers.table_form import Reading, alias
from hakg_dgl.data.written import plainly
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
    rows
        Ids and the other columns, text.
    """

    items: pd.Series[Any]
    names: pd.DataFrame
    facts: ItemFacts
    rows: pd.DataFrame


def read_items(
    sources: Sequence[Source],
    id_col: str | None,
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
    frames = []
    for at, source in enumerate(sources, start=1):
        table = read_table(source, reading.digests, reading.form("items"), name=frame_name("items", at))
        frames.append(_frame(table, id_col, item_col, unread))
        reading.take_notes(table.notes)
    rows = put_plainly(pd.concat(frames, ignore_index=True), kinds, "items", reading)
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
    return Catalogue(items, names.reset_index(drop=True), facts, rows.drop(columns="name"))


def id_column(
    table: SourceTable, asked: str | None, usual: str, others: Sequence[str], what: str, option: str | None = None
) -> str:
    """The column of ids in a table with a row an item or a user; the first one of a table without a header.

    Parameters
    ----------
    asked
        What the caller named, None for nothing.
    usual
        What the column of the log is called; ``others`` will do too.
    what
        ``item`` or ``user``.
    option
        What names the column, for messages; by default ``--items-id-col`` or ``--users-id-col``.

    Raises
    ------
    DataError
        If there is none; the message lists the columns and names the option.
    """
    if asked is None and table.headerless:  # a number that the log's column has for a name says nothing here
        return "1"
    known = (asked,) if asked is not None else dict.fromkeys((usual, *others))
    found = next((name for name in known if name in table.columns), None)
    if found is None and asked is None:
        found = alias(what, table.columns, table.path, option or f"--{what}s-id-col")
        if found is not None:
            table.notes.append(f"{table.path.name}: column {found!r} is read as the id of {what}s")
    if found is not None:
        return found
    if table.looks_headerless():
        problem, remedy = "the first line looks like a row, not like a header", table.form.headerless_remedy
    else:
        problem = f"there are: {listed(table.columns)}"
        flag = option or f"--{what}s-id-col"
        remedy = f"Name it: {flag} COLUMN. Without, it is {', '.join(dict.fromkeys((usual, *others)))}."
    raise DataError(
        f"no column {asked or usual!r} with the ids of {what}s; {problem}",
        path=table.path,
        line=1 if table.is_text else None,
        remedy=remedy,
    )


def _frame(table: SourceTable, id_col: str | None, item_col: str, unread: dict[str, str]) -> pd.DataFrame:
    """``item``, ``name`` and the other columns, as text; notes in ``unread`` the columns of other kinds."""
    ids = id_column(table, id_col, item_col, ID_COLUMNS, "item")
    name = name_column(table, ids)
    found = table.ids({"item": ids}, {}, "")
    frame = pd.DataFrame({"item": found["item"], "name": None if name is None else table.texts(name)}, dtype=object)
    return pd.concat([frame, *attribute_columns(table, (ids, name), "item", unread)], axis=1)


def name_column(table: SourceTable, ids: str) -> str | None:
    """The column of names: ``name``, ``title``, or one that another common name tells apart; None if there is none."""
    others = [column for column in table.columns if column != ids]
    found = next((name for name in NAME_COLUMNS if name in others), None)
    if found is not None:
        return found
    try:
        found = alias("name", others, table.path)
    except DataError:  # several could be meant, and none needs to be
        return None
    if found is not None:
        table.notes.append(f"{table.path.name}: column {found!r} is read as the name")
    return found


def attribute_columns(
    table: SourceTable, taken: Sequence[str | None], what: str, unread: dict[str, str]
) -> list[pd.Series[Any]]:
    """The columns other than id and name, as text; notes in ``unread`` those whose kind is not read.

    Raises
    ------
    DataError
        If one is called as the id or the name.
    """
    others = [column for column in table.columns if column not in taken]
    clash = next((column for column in others if column in (what, "name")), None)
    if clash is not None:
        problem = f"column {clash!r} is neither the id nor the name of {what}s"
        raise DataError(problem, path=table.path, remedy="Rename it.")
    kinds = {column: table.unread_kind(column) or _row_numbers(table, column) for column in others}
    unread |= {column: kind for column, kind in kinds.items() if kind is not None}
    typed = all(_TYPED.fullmatch(column) for column in table.columns)  # as RecBole writes its headers
    read = [column for column in others if kinds[column] is None]
    return [_typed(table, column) if typed else table.texts(column).rename(column) for column in read]


_TYPED = re.compile(r"(.+):(token|token_seq|float|float_seq)")


def _typed(table: SourceTable, column: str) -> pd.Series[Any]:
    """A column with a type in its header, without it; values of a sequence are joined as those of a list."""
    name, _, kind = column.rpartition(":")
    values = table.texts(column).rename(name)
    return values.str.split().str.join(LIST_MARK).astype(object) if kind.endswith("_seq") else values


def _row_numbers(table: SourceTable, column: str) -> str | None:
    """``row numbers`` for a column without a name that holds nothing else: the index of a frame."""
    if not re.fullmatch(rf"({NAMELESS}|Unnamed: )\d+|index|__index_level_0__", column):
        return None
    values = pd.to_numeric(table.texts(column), errors="coerce").to_numpy()
    first = values[0] if len(values) else np.nan
    return "row numbers" if len(values) > 1 and np.array_equal(values, first + np.arange(len(values))) else None


def put_plainly(rows: pd.DataFrame, kinds: Mapping[str, str], what: str, reading: Reading) -> pd.DataFrame:
    """Columns of numbers with decimal commas or currencies, and of dates, as :mod:`hakg_dgl.data.written` has them.

    Columns that are to be read as values, lists or paths, and the first two, id and name, stay as they are. What was
    done becomes a note.
    """
    changed = {}
    for column in rows.columns[2:]:
        if kinds.get(column) in ("values", "list", "path", "out"):
            continue
        found = plainly(rows[column], reading.form(what).decimal, reading.form(what).date_order)
        if found.note is not None:
            option = "--decimal" if "comma" in found.note else "--date-order"
            reading.note(f"column {column!r} of {what}: {found.note}" + (f"; {option} says it" * found.unclear))
            changed[column] = found.texts
    return rows.assign(**changed) if changed else rows


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
        item_rows=catalogue.rows,
    )


def _free(item: str, taken: set[Any]) -> str:
    """An entity id for an item without a link: its own, unless something else has it."""
    while item in taken:
        item = f"item:{item}"
    taken.add(item)
    return item
