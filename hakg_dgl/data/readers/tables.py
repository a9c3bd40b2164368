"""CSV, TSV and Parquet tables with named columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from hakg_dgl.data.readers.raw import RawData, empty_user_facts, empty_user_links
from hakg_dgl.data.readers.repairs import one_to_one, some_rows, without_repeats
from hakg_dgl.data.readers.source_table import read_table

Digests: TypeAlias = dict[str, Mapping[str, Any]]

DEFAULT_LINK = "linked_to"
"""Relation of the links between users, where the file names none."""


def read_tables(
    interactions: str | Path,
    triples: str | Path,
    links: str | Path | None = None,
    *,
    user_col: str = "user",
    item_col: str = "item",
    rating_col: str | None = None,
    timestamp_col: str | None = None,
    split_col: str | None = None,
    head_col: str = "head",
    relation_col: str = "relation",
    tail_col: str = "tail",
    link_item_col: str = "item",
    link_entity_col: str = "entity",
    item_names: str | Path | None = None,
    name_item_col: str = "item",
    name_col: str = "name",
    user_facts: str | Path | None = None,
    fact_user_col: str = "user",
    fact_relation_col: str = "relation",
    fact_entity_col: str = "entity",
    user_links: str | Path | None = None,
    link_user_col: str = "user",
    friend_col: str = "friend",
    link_relation_col: str | None = None,
    name: str | None = None,
) -> RawData:
    """Read CSV, TSV or Parquet tables; text files may be ``.gz``.

    The delimiter of a text file is a tab for ``.tsv``, a comma for ``.csv``, otherwise (or where the header has none of
    these) whichever of the two the header has. Ids are text, whatever their type in the file. Timestamps are numbers
    or ISO 8601 dates. Without ``links`` the id of an item is the id of its entity. ``user_facts`` holds what is known
    of users, with entities as ``triples`` names them; ``user_links`` holds pairs of users. A link's relation stands in
    ``link_relation_col``, by default in a column ``relation`` if there is one; otherwise it is :data:`DEFAULT_LINK`.

    Repairs, counted in the report: rows without an id are dropped; of links between items and entities the first of an
    item and of an entity is kept. A rating or timestamp that is missing or is not a finite number is an error, since no
    repair of it would be neutral.

    Raises
    ------
    DataError
        A file is missing, empty or damaged; a column is missing (the message lists those there are); a value is wrong.
    """
    report: dict[str, int] = {}
    digests: Digests = {}
    columns = {"user": user_col, "item": item_col}
    optional = {"rating": rating_col, "timestamp": timestamp_col, "split": split_col}
    frame = _interactions(interactions, columns, optional, report, digests)
    columns = {"head": head_col, "relation": relation_col, "tail": tail_col}
    facts = _triples(triples, columns, report, digests)
    columns = {"item": link_item_col, "entity": link_entity_col}
    item_entity = _own_entities(frame) if links is None else _item_entity(links, columns, report, digests)
    columns = {"user": fact_user_col, "relation": fact_relation_col, "entity": fact_entity_col}
    of_users = _user_facts(user_facts, columns, report, digests)
    columns = {"user": link_user_col, "other": friend_col}
    between_users = _user_links(user_links, columns, link_relation_col, report, digests)
    return RawData(
        name=name or Path(interactions).name.split(".")[0],
        interactions=frame,
        triples=facts,
        item_entity=item_entity,
        items=None if item_names is None else _names(item_names, name_item_col, name_col, digests),
        sources=digests,
        report=report,
        user_facts=of_users,
        user_links=between_users,
    )


def _interactions(
    path: str | Path,
    columns: Mapping[str, str],
    optional: Mapping[str, str | None],
    report: dict[str, int],
    digests: Digests,
) -> pd.DataFrame:
    """Who interacted with what; ``optional`` maps rating, timestamp and split to their columns, or to None."""
    table = read_table(path, digests)
    frame = table.ids(columns, report, "interactions_without_id_dropped")
    for what, column in optional.items():
        if column is not None and what == "split":
            frame[what] = table.splits(column)
        elif column is not None:
            frame[what] = table.floats(column, dates=what == "timestamp")
    return some_rows(frame.dropna(subset=["user", "item"]), table.path)


def _triples(path: str | Path, columns: Mapping[str, str], report: dict[str, int], digests: Digests) -> pd.DataFrame:
    """The knowledge graph, each triple once."""
    table = read_table(path, digests)
    rows = table.ids(columns, report, "triples_without_id_dropped")
    return some_rows(without_repeats(rows, report, "triple_repeats_dropped"), table.path)


def _own_entities(interactions: pd.DataFrame) -> pd.DataFrame:
    """Which entity an item is, where both have the same id."""
    items = interactions["item"].drop_duplicates().reset_index(drop=True)
    return pd.DataFrame({"item": items, "entity": items})


def _item_entity(
    path: str | Path, columns: Mapping[str, str], report: dict[str, int], digests: Digests
) -> pd.DataFrame:
    """Which entity an item is, from a file."""
    links = read_table(path, digests).ids(columns, report, "links_without_id_dropped")
    return one_to_one(links.dropna(), report)


def _user_facts(
    path: str | Path | None, columns: Mapping[str, str], report: dict[str, int], digests: Digests
) -> pd.DataFrame:
    """What is known of users; no rows without a file."""
    if path is None:
        return empty_user_facts()
    table = read_table(path, digests)
    return some_rows(table.ids(columns, report, "user_facts_without_id_dropped").dropna(), table.path)


def _user_links(
    path: str | Path | None,
    columns: dict[str, str],
    relation_col: str | None,
    report: dict[str, int],
    digests: Digests,
) -> pd.DataFrame:
    """Pairs of users with their relation; no rows without a file."""
    if path is None:
        return empty_user_links()
    table = read_table(path, digests)
    if relation_col is None and "relation" in table.columns and "relation" not in columns.values():
        relation_col = "relation"
    named = columns if relation_col is None else columns | {"relation": relation_col}
    links = table.ids(named, report, "user_links_without_id_dropped").dropna()
    if relation_col is None:
        links["relation"] = DEFAULT_LINK
    return some_rows(links[["user", "relation", "other"]], table.path)


def _names(path: str | Path, item_col: str, name_col: str, digests: Digests) -> pd.DataFrame:
    """Names of items: ``id``, ``name``, the first name of an item."""
    names = read_table(path, digests).ids({"id": item_col, "name": name_col}, {}, "")
    return names.dropna().drop_duplicates("id").reset_index(drop=True)
