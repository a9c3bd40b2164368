"""RecBole atomic files: ``NAME.inter``, ``NAME.kg``, ``NAME.link`` and, for titles, ``NAME.item``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from hakg_dgl.data.facts import LIST_MARK, facts_of_columns
from hakg_dgl.data.parquet import listed
from hakg_dgl.data.readers.archives import PACKED, SourceFiles, existing_folder, locate
from hakg_dgl.data.readers.items_table import catalogue_of, with_catalogue
from hakg_dgl.data.readers.raw import SPLITS, RawData
from hakg_dgl.data.readers.repairs import one_to_one, some_rows, without_repeats
from hakg_dgl.data.readers.source_table import SourceTable
from hakg_dgl.data.readers.table_form import Reading
from hakg_dgl.data.readers.text import header_line, shown
from hakg_dgl.errors import ConfigError, DataError

_ATOMIC_TYPES = ("token", "token_seq", "float", "float_seq")


def read_recbole(
    folder: str | Path,
    *,
    name: str | None = None,
    title_column: str | None = None,
    user_col: str = "user",
    item_col: str = "item",
    rating_col: str | None = None,
    timestamp_col: str | None = None,
    facts: Mapping[str, str] | None = None,
) -> RawData:
    """Read RecBole atomic files: ``NAME.inter``, ``NAME.kg``, ``NAME.link`` and, for titles, ``NAME.item``.

    Files are tab separated with typed headers (``user_id:token``) and are not quoted; they may be packed. Interactions
    may be split already (``NAME.train.inter``, ``NAME.valid.inter``, ``NAME.test.inter``), which is kept. The graph may
    be in parts (``NAME.PART.kg``); one without relations has the relation that it is called by. Where there is neither
    ``NAME.kg`` nor ``NAME.link``, the columns of ``NAME.item`` and ``NAME.user`` become facts as those of a table of
    items do; the values of a ``token_seq`` are separated by spaces.

    Repairs, counted in the report: rows without an id and repeated triples are dropped; an item linked twice keeps its
    first entity; of two items linked to one entity the first keeps it, and the second becomes an entity of its own.

    Parameters
    ----------
    folder
        Where the files lie.
    name
        ``NAME``, needed only where the folder holds several data sets.
    title_column
        Column of ``NAME.item`` with titles; by default its first column with ``title`` or ``name`` in its name.
    user_col, item_col
        Columns of ids; by default ``user_id`` and ``item_id``, or another common name.
    rating_col, timestamp_col
        By default ``rating``, or else ``label``, and ``timestamp``, where they are there.
    facts
        Column of ``NAME.item`` or ``NAME.user`` -> how to read it; see :data:`~hakg_dgl.data.facts.ColumnKind`.

    Raises
    ------
    DataError
        A file or column is missing, a header type is unknown, a rating or timestamp is not a finite number, and so on.
    ConfigError
        If ``facts`` names a column that does not exist, or where the graph is in files of its own.
    """
    folder = existing_folder(folder)
    name = name or _only_stem(folder)
    files = SourceFiles(folder)
    reading = Reading(digests=files.digests)
    asked = ("user_id" if user_col == "user" else user_col, "item_id" if item_col == "item" else item_col)
    columns = {"rating": rating_col, "timestamp": timestamp_col}
    interactions, ids = _interactions(files, name, asked, columns, reading)
    graph = _parts(folder, name, ".kg")
    if not graph and locate(folder, f"{name}.link") is None:
        return _from_attributes(files, name, ids, interactions, title_column, facts or {}, reading)
    if facts:
        raise ConfigError(f"columns to read as facts: {folder} has its facts in {name}.kg")
    known = [_triples(_atomic_table(*files.read(part)), part, name, reading) for part in graph or [f"{name}.kg"]]
    triples = without_repeats(pd.concat(known, ignore_index=True), reading.report, "triple_repeats_dropped")
    if locate(folder, f"{name}.link") is None:
        remedy = (
            f"Put {name}.link there. Items and entities of the same ids need no link: hakg preprocess tables "
            f"--interactions {shlex.quote(str(folder / name))}.inter --triples {shlex.quote(str(folder / name))}.kg"
        )
        raise DataError(f"there is no {name}.link, which says what entity an item is", path=folder, remedy=remedy)
    link = _atomic_table(*files.read(f"{name}.link"))
    item = link.find(ids[1], default=ids[1], name="item")
    links = link.ids({"item": item, "entity": "entity_id"}, reading.report, "links_without_id_dropped")

    items = None
    if locate(folder, f"{name}.item") is not None:
        items = _atomic_titles(_atomic_table(*files.read(f"{name}.item")), title_column, ids[1], reading.report)
    if locate(folder, f"{name}.user") is not None:
        reading.note(
            f"{name}.user is not read, since the facts are in {graph[0] if graph else f'{name}.kg'}; facts of users "
            f"come from it by: hakg preprocess tables --interactions {name}.inter --triples {name}.kg --links "
            f"{name}.link --users {name}.user"
        )
    return RawData(
        name=name,
        interactions=interactions,
        triples=triples,
        item_entity=one_to_one(links.dropna(), reading.report),
        items=items,
        sources=files.digests,
        report=reading.report,
        notes=tuple(reading.notes),
    )


def _parts(folder: Path, name: str, suffix: str) -> list[str]:
    """The file ``NAME.kg``, or its parts ``NAME.PART.kg``, in the order of their names."""
    if locate(folder, name + suffix) is not None:
        return [name + suffix]
    found = {_unpacked(entry.name) for entry in folder.iterdir()}
    return sorted(entry for entry in found if entry.startswith(f"{name}.") and entry.endswith(suffix))


def _interactions(
    files: SourceFiles, name: str, ids: tuple[str, str], columns: Mapping[str, str | None], reading: Reading
) -> tuple[pd.DataFrame, tuple[str, str]]:
    """Interactions, with their split where each is a file, and the names of the columns of ids."""
    parts = {split: f"{name}.{split}.inter" for split in SPLITS}
    here = {split: file for split, file in parts.items() if locate(files.folder, file) is not None}
    if here and "train" not in here:
        raise DataError(f"there is no {parts['train']}", path=files.folder, remedy="Add the training part.")
    if here and locate(files.folder, f"{name}.inter") is not None:
        reading.note(f"{name}.inter is not read, since {', '.join(here.values())} are there")
    frames = []
    found = ids
    for split, file in (here or {"": f"{name}.inter"}).items():
        table = _atomic_table(*files.read(file))
        found = (
            table.find(ids[0], default="user_id", name="user"),
            table.find(ids[1], default="item_id", name="item"),
        )
        frame = table.ids({"user": found[0], "item": found[1]}, reading.report, "interactions_without_id_dropped")
        for what, asked in columns.items():
            usual = ("rating", "label") if what == "rating" else (what,)
            column = asked or next((known for known in usual if known in table.columns), None)
            if column is not None:
                frame[what] = table.floats(column)
        if split:
            frame["split"] = pd.Categorical([split] * len(frame), categories=list(SPLITS))
        frames.append(some_rows(frame.dropna(subset=["user", "item"]), table.path))
        _keep_notes(table, found, reading)
    lacking = next((column for column in columns if 0 < sum(column in frame for frame in frames) < len(frames)), None)
    if lacking is not None:
        raise DataError(
            f"only some of the parts have the column {lacking!r}", path=files.folder, remedy="Add it to all."
        )
    return pd.concat(frames, ignore_index=True), found


def _keep_notes(table: SourceTable, found: tuple[str, str], reading: Reading) -> None:
    """Notes about columns of other names; those of RecBole's own names need none."""
    if found != ("user_id", "item_id"):
        for note in table.notes:
            reading.note(note)


def _triples(table: SourceTable, file: str, name: str, reading: Reading) -> pd.DataFrame:
    """Triples of a file; where it has no relations, its name says the relation of all."""
    columns = {"head": "head_id", "relation": "relation_id", "tail": "tail_id"}
    part = file.removesuffix(".kg").removeprefix(name).strip(".")
    if not part or "relation_id" in table.columns:
        found = table.ids(columns, reading.report, "triples_without_id_dropped")
        return some_rows(found.dropna(), table.path)
    found = table.ids({"head": "head_id", "tail": "tail_id"}, reading.report, "triples_without_id_dropped").dropna()
    reading.note(f"{table.path.name}: all its facts have the relation {part!r}, since no column names one")
    return some_rows(found.assign(relation=part)[["head", "relation", "tail"]], table.path)


def _from_attributes(
    files: SourceFiles,
    name: str,
    ids: tuple[str, str],
    interactions: pd.DataFrame,
    title_column: str | None,
    kinds: Mapping[str, str],
    reading: Reading,
) -> RawData:
    """A data set whose facts are columns of ``NAME.item`` and ``NAME.user``, where they are there."""
    tables = {
        end: _atomic_table(*files.read(f"{name}{end}")) if locate(files.folder, f"{name}{end}") is not None else None
        for end in (".item", ".user")
    }
    attributes = {end: [] if table is None else _attributes(table) for end, table in tables.items()}
    known = [column for columns in attributes.values() for column, _ in columns]
    unknown = next((column for column in kinds if column not in known), None)
    if unknown is not None:
        raise ConfigError(f"{files.folder} has no column {unknown!r} for facts; there are: {listed(known)}")
    raw = RawData(
        name=name,
        interactions=interactions,
        triples=pd.DataFrame({"head": [], "relation": [], "tail": []}, dtype=object),
        item_entity=_own(interactions["item"]),
        sources=files.digests,
        report=reading.report,
    )
    if (items := tables[".item"]) is not None:
        id_column = items.find(ids[1], default=ids[1], name="item")
        title = _title_column(items, title_column)
        frame = _attribute_frame(items, [pair for pair in attributes[".item"] if pair[0] not in (id_column, title)])
        frame.insert(0, "item", items.ids({"item": id_column}, reading.report, "items_rows_without_id_dropped")["item"])
        frame.insert(1, "name", None if title is None else items.ids({"name": title}, {}, "")["name"])
        raw = with_catalogue(raw, catalogue_of(frame, _of(kinds, frame), reading, items.path))
    if (users := tables[".user"]) is not None:
        id_column = users.find(ids[0], default=ids[0], name="user")
        frame = _attribute_frame(users, [pair for pair in attributes[".user"] if pair[0] != id_column])
        found = users.ids({"user": id_column}, reading.report, "users_rows_without_id_dropped")["user"]
        raw = _with_users(raw, found, frame, _of(kinds, frame))
    reading.note(
        f"there is no {name}.kg; the facts are columns of "
        + " and ".join(f"{name}{end}" for end, table in tables.items() if table is not None)
        if any(table is not None for table in tables.values())
        else f"there is no {name}.kg, {name}.item or {name}.user"
    )
    return replace(raw, notes=tuple(reading.notes), report=reading.report)


def _own(items: pd.Series[Any]) -> pd.DataFrame:
    own = items.drop_duplicates().reset_index(drop=True)
    return pd.DataFrame({"item": own, "entity": own})


def _of(kinds: Mapping[str, str], frame: pd.DataFrame) -> dict[str, str]:
    return {column: kind for column, kind in kinds.items() if column in frame}


def _attributes(table: SourceTable) -> list[tuple[str, str]]:
    """Columns with their types in the header."""
    return [(column, table.types.get(column, "token")) for column in table.columns]


def _attribute_frame(table: SourceTable, columns: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Columns as text; values of sequences are joined as those of lists are, and sequences of numbers left away."""
    frame = pd.DataFrame(index=range(table.rows))
    for column, kind in columns:
        if kind == "float_seq":
            continue
        values = table.texts(column)
        frame[column] = values.str.split().str.join(LIST_MARK).astype(object) if kind == "token_seq" else values
    return frame.where(frame.notna(), None).astype(object)


def _with_users(raw: RawData, users: pd.Series[Any], frame: pd.DataFrame, kinds: Mapping[str, str]) -> RawData:
    """Facts of users from columns; the order between their values, of bins for instance, is facts like any other."""
    present = users.notna().to_numpy()
    prefixed = frame[present].rename(columns="user {}".format).reset_index(drop=True)
    who = users[present].reset_index(drop=True)
    found = facts_of_columns(who, prefixed, {f"user {column}": kind for column, kind in kinds.items()})
    triples = found.triples
    own = triples["head"].isin(set(who)) & triples["relation"].isin(prefixed.columns)
    facts = triples[own].set_axis(["user", "relation", "entity"], axis=1)
    names = raw.entities
    return replace(
        raw,
        user_facts=facts.reset_index(drop=True) if len(facts) else raw.user_facts,
        triples=pd.concat([raw.triples, triples[~own]], ignore_index=True),
        entities=found.entities if names is None else pd.concat([names, found.entities], ignore_index=True),
        columns=(*raw.columns, *(column.to_dict() for column in found.columns)),
    )


def _unpacked(name: str) -> str:
    return next((name.removesuffix(end) for end in PACKED if name.endswith(end)), name)


def atomic_stems(folder: Path) -> list[str]:
    """Names of the data sets in a folder of atomic files: each has a ``NAME.inter``."""
    found = {_unpacked(entry.name) for entry in folder.iterdir()}
    stems = {entry.removesuffix(".inter") for entry in found if entry.endswith(".inter")}
    wholes = {stem.removesuffix(".train") for stem in stems if stem.endswith(".train")}
    parts = {f"{whole}.{split}" for whole in wholes for split in SPLITS}
    return sorted((stems - parts) | wholes)


def _only_stem(folder: Path) -> str:
    stems = atomic_stems(folder)
    if len(stems) == 1:
        return stems[0]
    if stems:
        raise DataError(f"several data sets: {', '.join(stems)}", path=folder, remedy=f"Name one: --name {stems[0]}")
    raise DataError("there is no NAME.inter", path=folder, remedy="A data set is NAME.inter, NAME.kg and NAME.link.")


def _atomic_table(path: Path, data: bytes) -> SourceTable:
    fields = [column.rpartition(":") for column in header_line(path, data).split("\t")]
    for column, _, kind in fields:
        if not column or kind not in _ATOMIC_TYPES or re.search(r"[\s:]", column):
            raise DataError(
                f"header column {shown(column + ':' + kind if column else kind)} is not NAME:TYPE",
                path=path,
                line=1,
                remedy=f"Columns are separated by tabs; a type is one of {', '.join(_ATOMIC_TYPES)}.",
            )
    table = SourceTable.from_text(path, data, delimiter="\t", quoted=False, columns=[column for column, _, _ in fields])
    return replace(table, types={column: kind for column, _, kind in fields})


def _title_column(table: SourceTable, title_column: str | None) -> str | None:
    likely = [column for column in table.columns if re.search("title|name", column, flags=re.IGNORECASE)]
    return title_column or next(iter(likely), None)


def _atomic_titles(
    table: SourceTable, title_column: str | None, item_col: str, report: dict[str, int]
) -> pd.DataFrame | None:
    column = _title_column(table, title_column)
    if column is None:
        return None
    names = table.ids({"id": table.find(item_col, default=item_col, name="item"), "name": column}, {}, "")
    report["items_without_title"] = int(names["name"].isna().sum())
    return names.dropna().drop_duplicates("id").reset_index(drop=True)
