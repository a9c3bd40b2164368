"""Tables with named columns: text, JSON lines, Parquet, frames in memory; facts also as N-Triples or Turtle."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from hakg_dgl.data.parquet import listed
from hakg_dgl.data.readers.items_table import Catalogue, read_items, with_catalogue
from hakg_dgl.data.readers.log_blocks import BLOCK_ROWS, coded_rows, joined_rows, open_log
from hakg_dgl.data.readers.raw import RawData, empty_user_facts, empty_user_links
from hakg_dgl.data.readers.rdf import Graph, is_rdf, joined, read_rdf, refuse_other_formats
from hakg_dgl.data.readers.repairs import one_to_one, require_rows, some_rows, without_repeats
from hakg_dgl.data.readers.source_table import SourceTable, read_table
from hakg_dgl.data.readers.sources import Files, Source, frame_name, sources_of
from hakg_dgl.data.readers.table_form import Reading, alias, called, forms_of, is_called_as_time
from hakg_dgl.data.readers.users_table import read_users, with_people
from hakg_dgl.errors import DataError

TABLES = ("interactions", "triples", "links", "item_names", "items", "users", "user_facts", "user_links")
"""Names of the tables, as options about their form have them."""

FEW_ROWS = 10
"""Rows of facts up to which a column of words may be their relation even if no word comes twice."""

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
    items_id_col: str | None = None,
    facts: Mapping[str, str] | None = None,
    users: Files | None = None,
    users_id_col: str | None = None,
    user_columns: Mapping[str, str] | None = None,
    name: str | None = None,
    delimiter: str | Mapping[str, str] | None = None,
    encoding: str | Mapping[str, str] | None = None,
    no_header: Sequence[str] = (),
    date_order: str | None = None,
    decimal: str | None = None,
    rows_at_once: int = BLOCK_ROWS,
) -> RawData:
    """Read tables: text such as CSV and TSV, JSON lines, Parquet, or tables in memory.

    A table in memory is a ``pandas.DataFrame``, a ``pyarrow.Table``, or anything that speaks Arrow's protocols, such as
    a ``polars.DataFrame``; it stands wherever a file may.

    Files may be packed (``.gz``, ``.bz2``, ``.xz``, ``.zst``, ``.zip``). Values of text are separated by tabs, commas,
    semicolons, ``|`` or ``::``, whichever fits the first lines; ``delimiter`` forces one. ``encoding`` is that of text
    files, by default UTF-8. Both may be mappings from tables (:data:`TABLES`, or ``all``) to values. Tables in
    ``no_header`` have no header: their columns are called ``1``, ``2`` and so on, and those that no argument names are
    taken by place (user, item; head, relation, tail). A column that is left to its default may have another common
    name (``userId``, ``user_id:token``); such choices are in ``notes``. ``triples`` may also be
    N-Triples (``.nt``) or Turtle (``.ttl``); see :mod:`hakg_dgl.data.readers.rdf`. A table of triples without
    relations has the one that its file is
    called by.

    Ids are text, whatever their type in the file. Timestamps are numbers, ISO 8601 dates, or dates such as
    ``31/12/2024`` if the column shows whether day or month comes first, or ``date_order`` says it (``day-first``,
    ``month-first``). Numbers may have decimal commas (``3,5``), where the column shows it, or ``decimal`` (``comma``,
    ``point``) says it. Without ``links`` the id of an item is the id of its entity. ``user_facts`` holds what is known
    of users, with entities as ``triples`` names them; ``user_links`` holds pairs of users. A link's relation stands in
    ``link_relation_col``, by default in a column ``relation`` if there is one; otherwise it is :data:`DEFAULT_LINK`.

    ``items`` is a table with a row an item: its id in ``items_id_col``, by default ``item_col`` (or ``item``,
    ``item_id`` or ``id``), its name in ``name`` or ``title``, and facts in the other columns, as
    :func:`~hakg_dgl.data.facts.facts_of_columns` has them; ``facts`` says how to read a column. Its items are items
    also where nobody has chosen them. Without ``items`` and ``triples`` nothing is known of the items, which is enough
    for models without facts. ``users`` is such a table with a row a user: its id in ``users_id_col``, by default
    ``user_col`` (or ``user``, ``user_id`` or ``id``); its columns become facts of users, and ``user_columns`` says how
    to read one. Each option takes several files.

    The text of the interactions may be larger than memory: text and Parquet files are read ``rows_at_once`` rows at a
    time, which changes nothing but the memory taken, and their ids are kept as categories. JSON, frames and ``.xz``
    files are read whole, as are all other tables.

    Repairs, counted in the report: rows without an id are dropped; of links between items and entities the first of an
    item and of an entity is kept. A rating or timestamp that is missing or is not a finite number is an error, since no
    repair of it would be neutral.

    Raises
    ------
    DataError
        A file is missing, empty or damaged; a column is missing (the message lists those there are); a value is wrong.
    ConfigError
        If an argument has a value that is not allowed.
    MissingDependencyError
        For N-Triples and Turtle, if their parser is not installed.
    """
    forms = forms_of(
        TABLES, delimiter=delimiter, encoding=encoding, headerless=tuple(no_header), date_order=date_order,
        decimal=decimal,
    )  # fmt: skip
    reading = Reading(forms)
    columns = {"user": user_col, "item": item_col}
    optional = {"rating": rating_col, "timestamp": timestamp_col, "split": split_col}
    frame = _interactions(interactions, columns, optional, reading, rows_at_once)
    of_triples = {"head": head_col, "relation": relation_col, "tail": tail_col}
    graph = Graph.empty() if triples is None else _triples(triples, of_triples, reading)
    catalogue = None if items is None else read_items(_listed(items), items_id_col, item_col, facts or {}, reading)
    of_links = {"item": link_item_col, "entity": link_entity_col}
    item_entity = _own_entities(frame["item"], catalogue) if links is None else _linked(links, of_links, reading)
    of_facts = {"user": fact_user_col, "relation": fact_relation_col, "entity": fact_entity_col}
    of_friends = {"user": link_user_col, "other": friend_col}
    raw = RawData(
        name=name or _name_of(_listed(interactions)),
        interactions=frame,
        triples=graph.triples,
        item_entity=item_entity,
        items=None if item_names is None else _named(item_names, name_item_col, name_col, reading),
        entities=graph.entities,
        relations=graph.relations,
        user_facts=_known(user_facts, lambda source: _user_facts(source, of_facts, reading), empty_user_facts),
        user_links=_known(
            user_links, lambda source: _user_links(source, of_friends, link_relation_col, reading), empty_user_links
        ),
        sources=reading.digests,
        report=reading.report,
    )
    raw = replace(raw, notes=tuple(reading.notes))
    if graph.entities is not None:
        raw = _with_labels(raw, graph.entities)
    if users is not None:
        raw = with_people(raw, read_users(_listed(users), users_id_col, user_col, user_columns or {}, reading))
    return raw if catalogue is None else with_catalogue(raw, catalogue)


def _name_of(sources: Sequence[Source]) -> str:
    """What to call the data set: as the file of the log, or the files together."""
    names = [Path(source).name.split(".")[0] for source in sources if isinstance(source, (str, Path))]
    if len(names) < 2:
        return names[0] if names else "tables"
    least, greatest = min(names), max(names)  # what they share, all begin with
    shared = next((at for at, pair in enumerate(zip(least, greatest, strict=False)) if len({*pair}) > 1), len(least))
    common = least[:shared].rstrip("-_ 0123456789")
    if len(common) > 2:
        return common
    return "+".join(names) if len(names) == 2 else f"{names[0]} and {len(names) - 1} more"


def _with_labels(raw: RawData, labels: pd.DataFrame) -> RawData:
    """Items without a name get the label of their entity."""
    found = raw.item_entity.merge(labels, left_on="entity", right_on="id")[["item", "name"]]
    found = found.set_axis(["id", "name"], axis=1)
    names = found if raw.items is None else pd.concat([raw.items, found]).drop_duplicates("id")
    return replace(raw, items=names.reset_index(drop=True) if len(names) else raw.items)


def _listed(files: Files) -> list[Source]:
    """The files and frames, in order; DataError if a file is given twice, or a name."""
    sources = sources_of(files)
    names = [Path(source).name for source in sources if isinstance(source, (str, Path))]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        problem = "another file of this name, or the same one, is given for the same table"
        path = [source for source in sources if isinstance(source, (str, Path)) and Path(source).name == twice][-1]
        raise DataError(problem, path=Path(path), remedy="Give each file once, and rename files of the same name.")
    return sources


def _each(files: Files, read: Callable[[Source], pd.DataFrame]) -> pd.DataFrame:
    """The rows of all files, one after the other."""
    return pd.concat([read(source) for source in _listed(files)], ignore_index=True)


def _linked(links: Files, columns: Mapping[str, str], reading: Reading) -> pd.DataFrame:
    """Items and their entities, each once."""
    return one_to_one(_each(links, lambda source: _links(source, columns, reading)), reading.report)


def _named(files: Files, item: str, name: str, reading: Reading) -> pd.DataFrame:
    """Items and their names, each item once."""
    names = _each(files, lambda source: _names(source, item, name, reading))
    return names.drop_duplicates("id").reset_index(drop=True)


def _known(
    files: Files | None, read: Callable[[Source], pd.DataFrame], none: Callable[[], pd.DataFrame]
) -> pd.DataFrame:
    """What is known of users; the empty table without files."""
    return none() if files is None else _each(files, read)


def _opened(source: Source, table: str, reading: Reading) -> SourceTable:
    """A table with its digest noted; frames are called by the table and, of several, their number."""
    opened = read_table(source, reading.digests, reading.form(table), name=_free_name(table, reading))
    _note_separator(opened, table, reading)
    return opened


def _free_name(table: str, reading: Reading) -> str:
    """What a frame is called in messages: by its table and, of several, its number."""
    return next(name for at in itertools.count(1) if (name := frame_name(table, at)) not in reading.digests)


def _note_separator(opened: SourceTable, table: str, reading: Reading) -> None:
    if opened.is_text and opened.delimiter not in ",\t" and reading.form(table).delimiter is None:
        reading.note(f"{opened.path.name}: values are separated by {called(opened.delimiter)}")


def _ids(
    table: SourceTable, columns: Mapping[str, str], defaults: Mapping[str, str], reading: Reading, key: str
) -> pd.DataFrame:
    """The named columns as text; where one is left to its default, another common name or its place will do."""
    frame = table.ids(_found(table, columns, defaults), reading.report if key else {}, key)
    reading.take_notes(table.notes)
    return frame


def _found(table: SourceTable, columns: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    """New name -> the column that is read."""
    places = {new: at for at, new in enumerate(columns, start=1)}
    return {
        new: table.find(column, default=defaults.get(new, new), place=places[new], name=defaults.get(new, new))
        for new, column in columns.items()
    }


def _interactions(
    files: Files,
    columns: Mapping[str, str],
    optional: Mapping[str, str | None],
    reading: Reading,
    rows: int,
) -> pd.DataFrame:
    """Who interacted with what; ``optional`` maps rating, timestamp and split to their columns, or to None."""
    others = {what: column for what, column in optional.items() if column is not None}

    def blocks() -> Iterator[pa.Table]:
        for source in _listed(files):
            name = _free_name("interactions", reading)
            log = open_log(source, reading.digests, reading.form("interactions"), name=name, rows=rows)
            _note_separator(log.head, "interactions", reading)
            ids = _found(log.head, columns, {})
            if "timestamp" not in others:
                _note_times(log.head, {*ids.values(), *others.values()}, reading)
            some = False
            for table in coded_rows(log, ids, others, reading.report, "interactions_without_id_dropped"):
                some = some or len(table) > 0
                yield table
            reading.take_notes(log.head.notes)
            require_rows(some, log.head.path)

    return joined_rows(list(blocks()))


def _note_times(table: SourceTable, taken: set[str], reading: Reading) -> None:
    """Remark on a column that is called as a time, and is not read."""
    found = next((name for name in table.columns if name not in taken and is_called_as_time(name)), None)
    if found is not None:
        reading.note(
            f"column {found!r} of the interactions is not read; if it is their time, say so: --timestamp-col "
            f"{shlex.quote(found)}, and --split temporal holds out the latest"
        )


def _triples(files: Files, columns: Mapping[str, str], reading: Reading) -> Graph:
    """The knowledge graph, each triple once."""
    graphs = [
        read_rdf(source, reading, number)
        if isinstance(source, (str, Path)) and is_rdf(Path(source))
        else Graph(_triples_of_table(source, columns, reading))
        for number, source in enumerate(_listed(files))
    ]
    graph = joined(graphs)
    return replace(graph, triples=without_repeats(graph.triples, reading.report, "triple_repeats_dropped"))


def _triples_of_table(source: Source, columns: Mapping[str, str], reading: Reading) -> pd.DataFrame:
    """Triples; where there is no column of relations, the file's name is the relation of all."""
    if isinstance(source, (str, Path)):
        refuse_other_formats(Path(source))
    table = _opened(source, "triples", reading)
    pairs = columns["relation"] == "relation" and (
        len(table.columns) == 2 if table.headerless else not table.has("relation") and table.has(columns["head"])
    )
    if not pairs or not isinstance(source, (str, Path)):
        _refuse_catalogue(table, columns)
        found = _ids(table, columns, {}, reading, "triples_without_id_dropped")
        return some_rows(found.dropna(), table.path)
    _refuse_catalogue(table, {end: columns[end] for end in ("head", "tail")})
    ends = {new: columns[new] for new in ("head", "tail")}
    found = _ids(table, ends, {}, reading, "triples_without_id_dropped")
    _refuse_nameless_relation(table, ends)
    relation = table.path.name.split(".")[0]
    reading.note(f"{table.path.name}: all its facts have the relation {relation!r}, since no column names one")
    return some_rows(found.assign(relation=relation)[["head", "relation", "tail"]].dropna(), table.path)


def _refuse_nameless_relation(table: SourceTable, ends: Mapping[str, str]) -> None:
    """DataError if a column beside the ends of facts may be their relation: it holds words, some of them repeatedly."""
    known = {table.find(column, default=end) for end, column in ends.items()} if not table.headerless else set()
    for column in table.columns if known else ():
        values = None if column in known or table.unread_kind(column) else table.texts(column).dropna()
        if values is None or pd.to_numeric(values, errors="coerce").notna().all():
            continue
        if values.nunique() < len(values) or len(values) < FEW_ROWS:
            raise DataError(
                f"no column 'relation', and column {column!r} may be it; there are: {listed(table.columns)}",
                path=table.path,
                line=1 if table.is_text else None,
                remedy=f"Say that it is (--relation-col {shlex.quote(column)}). If all facts have one relation, which "
                "the file is called by, take the column out.",
            )


def _refuse_catalogue(table: SourceTable, columns: Mapping[str, str]) -> None:
    """DataError that says where a table of items belongs: it has a header, and lacks both ends of a triple, or one."""
    if len(table.columns) < 2 or table.headerless or table.looks_headerless():
        return
    missing = [end for end in ("head", "tail") if columns[end] not in table.columns and not _may_be(table, end)]
    if not missing:
        return
    raise DataError(
        f"no column {columns[missing[0]]!r}; there are: {listed(table.columns)}",
        path=table.path,
        line=1 if table.is_text else None,
        remedy="A table with a row an item and a column an attribute is read by --items. Of a table of triples, name "
        "the columns (--head-col, --relation-col, --tail-col), or rename them.",
    )


def _may_be(table: SourceTable, end: str) -> bool:
    """Whether a column has another common name of ``end``; several are an error of their own, told later."""
    try:
        return alias(end, table.columns, table.path) is not None
    except DataError:
        return True


def _own_entities(items: pd.Series[Any], catalogue: Catalogue | None) -> pd.DataFrame:
    """Which entity an item is, where both have the same id."""
    items = items.drop_duplicates().astype("str")
    known = items if catalogue is None else pd.concat([items, catalogue.items])
    own = known.drop_duplicates().reset_index(drop=True)
    return pd.DataFrame({"item": own, "entity": own})


def _links(source: Source, columns: Mapping[str, str], reading: Reading) -> pd.DataFrame:
    """Which entity an item is, from a file."""
    return _ids(_opened(source, "links", reading), columns, {}, reading, "links_without_id_dropped").dropna()


def _user_facts(source: Source, columns: Mapping[str, str], reading: Reading) -> pd.DataFrame:
    """What is known of users."""
    table = _opened(source, "user_facts", reading)
    return some_rows(_ids(table, columns, {}, reading, "user_facts_without_id_dropped").dropna(), table.path)


def _user_links(source: Source, columns: dict[str, str], relation_col: str | None, reading: Reading) -> pd.DataFrame:
    """Pairs of users with their relation."""
    table = _opened(source, "user_links", reading)
    if relation_col is None and "relation" in table.columns and "relation" not in columns.values():
        relation_col = "relation"
    named = columns if relation_col is None else columns | {"relation": relation_col}
    links = _ids(table, named, {"other": "friend"}, reading, "user_links_without_id_dropped").dropna()
    if relation_col is None:
        links["relation"] = DEFAULT_LINK
    return some_rows(links[["user", "relation", "other"]], table.path)


def _names(source: Source, item_col: str, name_col: str, reading: Reading) -> pd.DataFrame:
    """Names of items: ``id``, ``name``, the first name of an item."""
    table = _opened(source, "item_names", reading)
    names = _ids(table, {"id": item_col, "name": name_col}, {"id": "item"}, reading, "")
    return names.dropna().drop_duplicates("id").reset_index(drop=True)
