"""CSV, TSV and Parquet tables with named columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from hakg_dgl.data.readers.items_table import Catalogue, read_items, with_catalogue
from hakg_dgl.data.readers.raw import RawData, empty_user_facts, empty_user_links
from hakg_dgl.data.readers.repairs import one_to_one, some_rows, without_repeats
from hakg_dgl.data.readers.source_table import read_table
from hakg_dgl.data.readers.users_table import read_users, with_people
from hakg_dgl.errors import DataError

Digests: TypeAlias = dict[str, Mapping[str, Any]]
Files: TypeAlias = "str | Path | Sequence[str | Path]"
"""A file, or several whose rows are taken together."""

DEFAULT_LINK = "linked_to"
"""Relation of the links between users, where the file names none."""


def read_tables(
    interactions: Files,
    triples: Files | None = None,
    links: Files | None = None,
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
    item_names: Files | None = None,
    name_item_col: str = "item",
    name_col: str = "name",
    user_facts: Files | None = None,
    fact_user_col: str = "user",
    fact_relation_col: str = "relation",
    fact_entity_col: str = "entity",
    user_links: Files | None = None,
    link_user_col: str = "user",
    friend_col: str = "friend",
    link_relation_col: str | None = None,
    items: Files | None = None,
    facts: Mapping[str, str] | None = None,
    users: Files | None = None,
    user_columns: Mapping[str, str] | None = None,
    name: str | None = None,
) -> RawData:
    """Read CSV, TSV or Parquet tables; text files may be ``.gz``.

    The delimiter of a text file is a tab for ``.tsv``, a comma for ``.csv``, otherwise (or where the header has none of
    these) whichever of the two the header has. Ids are text, whatever their type in the file. Timestamps are numbers
    or ISO 8601 dates. Without ``links`` the id of an item is the id of its entity. ``user_facts`` holds what is known
    of users, with entities as ``triples`` names them; ``user_links`` holds pairs of users. A link's relation stands in
    ``link_relation_col``, by default in a column ``relation`` if there is one; otherwise it is :data:`DEFAULT_LINK`.

    ``items`` is a table with a row an item: its id in the column ``item_col`` (or ``item``, ``item_id`` or ``id``), its
    name in ``name`` or ``title``, and facts in the other columns, as :func:`~hakg_dgl.data.facts.facts_of_columns` has
    them; ``facts`` says how to read a column. Its items are items also where nobody has chosen them. Without ``items``
    and ``triples`` nothing is known of the items, which is enough for models without facts. ``users`` is such a table
    with a row a user: its id in the column ``user_col`` (or ``user``, ``user_id`` or ``id``); its columns become facts
    of users, and ``user_columns`` says how to read one. Each option takes several files.

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
    frame = _each(interactions, lambda path: _interactions(path, columns, optional, report, digests))
    of_triples = {"head": head_col, "relation": relation_col, "tail": tail_col}
    known = _no_triples() if triples is None else _triples(triples, of_triples, report, digests)
    catalogue = None if items is None else read_items(_listed(items), item_col, facts or {}, report, digests)
    of_links = {"item": link_item_col, "entity": link_entity_col}
    if links is not None:
        item_entity = one_to_one(_each(links, lambda path: _links(path, of_links, report, digests)), report)
    else:
        item_entity = _own_entities(frame["item"], catalogue)
    of_facts = {"user": fact_user_col, "relation": fact_relation_col, "entity": fact_entity_col}
    of_friends = {"user": link_user_col, "other": friend_col}
    names = None
    if item_names is not None:
        names = _each(item_names, lambda path: _names(path, name_item_col, name_col, digests))
        names = names.drop_duplicates("id").reset_index(drop=True)
    raw = RawData(
        name=name or Path(_listed(interactions)[0]).name.split(".")[0],
        interactions=frame,
        triples=known,
        item_entity=item_entity,
        items=names,
        sources=digests,
        report=report,
        user_facts=empty_user_facts()
        if user_facts is None
        else _each(user_facts, lambda path: _user_facts(path, of_facts, report, digests)),
        user_links=empty_user_links()
        if user_links is None
        else _each(user_links, lambda path: _user_links(path, of_friends, link_relation_col, report, digests)),
    )
    if users is not None:
        raw = with_people(raw, read_users(_listed(users), user_col, user_columns or {}, report, digests))
    return raw if catalogue is None else with_catalogue(raw, catalogue)


def _listed(files: Files) -> list[str | Path]:
    """The files, in order; DataError if one is given twice."""
    paths = [files] if isinstance(files, (str, Path)) else list(files)
    seen = {Path(path).name: path for path in paths}
    if len(seen) < len(paths):
        twice = next(path for path in paths if seen[Path(path).name] != path or paths.count(path) > 1)
        problem = "another file of this name, or the same one, is given for the same table"
        raise DataError(problem, path=Path(twice), remedy="Give each file once, and rename files of the same name.")
    return paths


def _each(files: Files, read: Callable[[str | Path], pd.DataFrame]) -> pd.DataFrame:
    """The rows of all files, one after the other."""
    return pd.concat([read(path) for path in _listed(files)], ignore_index=True)


def _no_triples() -> pd.DataFrame:
    return pd.DataFrame({"head": [], "relation": [], "tail": []}, dtype=object)


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


def _triples(files: Files, columns: Mapping[str, str], report: dict[str, int], digests: Digests) -> pd.DataFrame:
    """The knowledge graph, each triple once."""

    def read(path: str | Path) -> pd.DataFrame:
        return some_rows(
            read_table(path, digests).ids(columns, report, "triples_without_id_dropped").dropna(), Path(path)
        )

    return without_repeats(_each(files, read), report, "triple_repeats_dropped")


def _own_entities(items: pd.Series[Any], catalogue: Catalogue | None) -> pd.DataFrame:
    """Which entity an item is, where both have the same id."""
    known = items if catalogue is None else pd.concat([items, catalogue.items])
    own = known.drop_duplicates().reset_index(drop=True)
    return pd.DataFrame({"item": own, "entity": own})


def _links(path: str | Path, columns: Mapping[str, str], report: dict[str, int], digests: Digests) -> pd.DataFrame:
    """Which entity an item is, from a file."""
    return read_table(path, digests).ids(columns, report, "links_without_id_dropped").dropna()


def _user_facts(path: str | Path, columns: Mapping[str, str], report: dict[str, int], digests: Digests) -> pd.DataFrame:
    """What is known of users."""
    table = read_table(path, digests)
    return some_rows(table.ids(columns, report, "user_facts_without_id_dropped").dropna(), table.path)


def _user_links(
    path: str | Path,
    columns: dict[str, str],
    relation_col: str | None,
    report: dict[str, int],
    digests: Digests,
) -> pd.DataFrame:
    """Pairs of users with their relation."""
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
