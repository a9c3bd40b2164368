"""Readers of the accepted layouts: raw files -> :class:`RawData`, with file and line in every error.

Three layouts are read: :func:`read_kgat` (``train.txt``, ``test.txt``, ``kg_final.txt``), :func:`read_recbole` (atomic
files) and :func:`read_tables` (CSV, TSV, Parquet). Nothing is mended silently: every repair is counted in
:attr:`RawData.report`.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import itertools
import os
import re
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, NoReturn, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from hakg_dgl.data.parquet import ParquetColumns, listed
from hakg_dgl.errors import DataError

Int64 = npt.NDArray[np.int64]

SPLITS = ("train", "valid", "test")

ID_LIMIT = 2**31
"""Ids of the KGAT layout lie below this: two of them fit one 64-bit key, and no sane index is larger."""

GAP_RATIO, GAP_FLOOR = 50, 1000
"""Ids that are row numbers may leave gaps, but not so many that embeddings would mostly hold unused rows."""

EXPANSION_RATIO, EXPANSION_FLOOR = 200, 64 * 2**20
"""An archive may expand to this many times its own size, or to 64 MiB: text compresses well below this."""

HEADER_LIMIT = 2**16
"""Bytes of a header line; a longer one is no header."""


@dataclass(frozen=True, eq=False)
class RawData:
    """What every reader returns: checked tables in the ids of the source, before numbering and splitting.

    Attributes
    ----------
    name
        Name of the data set.
    interactions
        Columns ``user``, ``item`` (all strings, or all integers); optional ``rating`` and ``timestamp`` (float64,
        finite) and ``split`` (``'train'``, ``'valid'`` or ``'test'``).
    triples
        Columns ``head``, ``relation``, ``tail``, in the ids of the source. No inverses.
    item_entity
        Columns ``item``, ``entity``: which entity of the triples an item is; each item and each entity at most once.
        Items that are absent become entities of their own. Empty where ``ids_are_indices``.
    users, items, entities, relations
        Optional name tables: ``id`` (as used in the tables above), ``name``, and ``original_id`` where the files hold
        renumbered ids (the KGAT layout). They need not cover every id.
    sources
        File name -> ``{"sha256": ..., "bytes": ...}``, of the files as they lie on disk.
    report
        Repairs and remarks, with counts.
    ids_are_indices
        True for the KGAT layout: ids are kept as row numbers, and item ``i`` is entity ``i``.
    counts
        Where ``ids_are_indices``: least sizes of ``users``, ``items``, ``entities``, ``relations``, for ids that
        occur in no interaction or triple (a user alone on its line, say).
    """

    name: str
    interactions: pd.DataFrame
    triples: pd.DataFrame
    item_entity: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"item": [], "entity": []}, dtype=object))
    users: pd.DataFrame | None = None
    items: pd.DataFrame | None = None
    entities: pd.DataFrame | None = None
    relations: pd.DataFrame | None = None
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    report: Mapping[str, int] = field(default_factory=dict)
    ids_are_indices: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)


def detect_format(folder: str | Path) -> str:
    """Tell the layout of a folder: ``'kgat'`` or ``'recbole'``.

    Raises
    ------
    DataError
        If the folder does not exist, or is neither or both.
    """
    folder = _existing_folder(folder)
    kgat = _locate(folder, "train.txt") is not None and _locate(folder, "kg_final.txt") is not None
    recbole = bool(_atomic_stems(folder))
    if kgat != recbole:
        return "kgat" if kgat else "recbole"
    found = sorted(entry.name for entry in folder.iterdir())[:12]
    if kgat:
        problem, remedy = "both the KGAT and the RecBole layout", "Say which to read (--format kgat or recbole)."
    else:
        problem = f"no known layout: the folder {'holds ' + ', '.join(map(repr, found)) if found else 'is empty'}"
        remedy = (
            "A KGAT folder holds train.txt, test.txt and kg_final.txt, a RecBole folder NAME.inter, NAME.kg and "
            "NAME.link.\nFor CSV, TSV or Parquet files use 'tables'."
        )
    raise DataError(problem, path=folder, remedy=remedy)


# --- the KGAT/KGIN layout ---------------------------------------------------------------------------------------------


def read_kgat(folder: str | Path, *, name: str | None = None) -> RawData:
    """Read the KGAT/KGIN layout; its ids are row numbers and stay as they are (item ``i`` is entity ``i``).

    ``train.txt`` and ``test.txt`` hold a user and its items a line (or the user alone), ``kg_final.txt`` head, relation
    and tail. Each may be compressed: ``.gz``, or ``.zip`` with one member. ``user_list.txt``, ``item_list.txt``,
    ``entity_list.txt`` and ``relation_list.txt`` are optional and give original ids and names.

    Repairs, counted in the report: repeated pairs and triples are dropped; a pair of both files stays in the training
    part and leaves the test part; a line of a list that cannot be read is skipped, and one whose third column is glued
    to the second (``abc 17abc``, as in public files) is taken apart.

    Parameters
    ----------
    folder
        Where the files lie.
    name
        Name of the data set; by default that of the folder.

    Raises
    ------
    DataError
        A file is missing, empty, damaged or not UTF-8; a token is no integer in 0..2**31-1; a triple has not three
        numbers; ids leave such gaps that embeddings would be mostly unused rows.
    """
    folder = _existing_folder(folder)
    files = _SourceFiles(folder)
    train, test = (_read_pairs(*files.read(f"{part}.txt")) for part in ("train", "test"))
    in_train = _sorted_isin(test.keys, train.keys)
    keys = np.concatenate([train.keys, test.keys[~in_train]])
    users, items = keys // ID_LIMIT, keys % ID_LIMIT
    codes = np.repeat(np.array([0, 2], dtype=np.int8), [len(train.keys), len(keys) - len(train.keys)])
    triples, repeated_triples = _read_kgat_triples(*files.read("kg_final.txt"))

    all_users = np.concatenate([train.users, test.users])
    _refuse_gaps("user", all_users, folder)
    _refuse_gaps("relation", triples[:, 1], folder)
    _refuse_gaps("entity", np.concatenate([items, triples[:, 0], triples[:, 2]]), folder)
    _refuse_gaps("item", items, folder)
    report = {
        "train_repeats_dropped": train.repeats,
        "test_repeats_dropped": test.repeats,
        "train_test_overlap_dropped_from_test": int(in_train.sum()),
        "train_lines_with_user_alone": train.lone,
        "test_lines_with_user_alone": test.lone,
        "test_users_without_training_items": _count_missing(test.keys // ID_LIMIT, train.keys // ID_LIMIT),
        "test_items_without_training_users": _count_missing(test.keys % ID_LIMIT, train.keys % ID_LIMIT),
        "triple_repeats_dropped": repeated_triples,
    }
    lists = {
        kind: _read_list(*files.read(f"{kind}_list.txt"), kind=kind, report=report)
        for kind in ("user", "item", "entity", "relation")
        if _locate(folder, f"{kind}_list.txt") is not None
    }
    return RawData(
        name=name or folder.resolve().name,
        interactions=pd.DataFrame(
            {"user": users, "item": items, "split": pd.Categorical.from_codes(codes, pd.Index(SPLITS))}
        ),
        triples=pd.DataFrame(triples, columns=["head", "relation", "tail"]),
        users=lists.get("user"),
        items=lists.get("item"),
        entities=_entity_names(lists.get("entity"), lists.get("item")),
        relations=lists.get("relation"),
        sources=files.digests,
        report=report,
        ids_are_indices=True,
        counts={"users": int(all_users.max()) + 1},
    )


@dataclass(frozen=True)
class _Pairs:
    keys: Int64  # user * ID_LIMIT + item, sorted, each once
    users: Int64  # of every line, those without items included
    repeats: int
    lone: int


def _read_pairs(path: Path, data: bytes) -> _Pairs:
    """The (user, item) pairs of ``train.txt`` or ``test.txt``."""
    values, first, counts = _integer_lines(path, data)
    users = values[first]
    is_item = np.ones(len(values), dtype=bool)
    is_item[first] = False
    keys = np.repeat(users, counts - 1) * ID_LIMIT + values[is_item]
    if not len(keys):
        raise DataError("every line holds a user alone, there is no item", path=path, remedy="A line is: user item ...")
    unique = _distinct(keys)
    return _Pairs(unique, users, len(keys) - len(unique), int((counts == 1).sum()))


def _read_kgat_triples(path: Path, data: bytes) -> tuple[Int64, int]:
    """The triples [n, 3] of ``kg_final.txt`` in the order of the file, each once, and how many repeats were dropped."""
    values, _, counts = _integer_lines(path, data)
    wrong = np.flatnonzero(counts != 3)
    if len(wrong):
        line, text = _line_with_text(_normalised(data), int(wrong[0]))
        raise DataError(
            f"{_counted(int(counts[wrong[0]]), 'number')} instead of three: {_shown(text)}",
            path=path,
            line=line,
            remedy="A line is: head relation tail, separated by spaces or tabs.",
        )
    triples = values.reshape(-1, 3)
    repeated = pd.DataFrame(triples).duplicated().to_numpy()
    return triples[~repeated], int(repeated.sum())


def _integer_lines(path: Path, data: bytes) -> tuple[Int64, Int64, Int64]:
    """Parse lines of non-negative integers without a loop over them.

    Returns
    -------
    values : int64 [n_tokens]
    first : int64 [n_lines]
        Index in ``values`` of the first token of every line that is not blank.
    counts : int64 [n_lines]
        Tokens of these lines.
    """
    data = _normalised(data)
    if data.translate(None, b"0123456789 \t\n"):
        _report_bad_token(path, data)
    buffer = np.frombuffer(data, dtype=np.uint8)
    edges = np.flatnonzero(np.diff((buffer >= ord("0")).view(np.int8), prepend=np.int8(0), append=np.int8(0)))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        raise _empty(path)
    too_long = np.flatnonzero(ends - starts > len(str(ID_LIMIT)))
    if not len(too_long):
        values = np.fromstring(data, dtype=np.int64, sep=" ")  # skips any white space; tokens are known to be digits
        too_long = np.flatnonzero(values >= ID_LIMIT)
    if len(too_long):
        token = data[starts[too_long[0]] : ends[too_long[0]]]
        line = data.count(b"\n", 0, int(starts[too_long[0]])) + 1
        raise DataError(
            f"id {_shown(token)} is not below 2**31", path=path, line=line, remedy="Number ids from 0 without gaps."
        )
    bounds = np.searchsorted(starts, np.flatnonzero(buffer == ord("\n")))
    bounds = np.concatenate([[0], bounds, [len(starts)]]).astype(np.int64)
    counts = np.diff(bounds)
    return values, bounds[:-1][counts > 0], counts[counts > 0]


def _normalised(data: bytes) -> bytes:
    """Without a byte order mark, and with ``\\n`` as the only line end (as Python reads text)."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data


def _report_bad_token(path: Path, data: bytes) -> NoReturn:
    """Raise for the first byte that is neither digit nor blank."""
    _decoded(path, data)
    at = re.search(rb"[^0-9 \t\n]", data)
    assert at is not None
    line = data.count(b"\n", 0, at.start()) + 1
    begin = max(data.rfind(blank, 0, at.start()) for blank in (b" ", b"\t", b"\n")) + 1
    token = re.split(rb"[ \t\n]", data[begin : begin + 200], maxsplit=1)[0]
    if re.fullmatch(rb"-\d+", token):
        problem, remedy = f"negative id {_shown(token)}", "Number users, items, entities and relations from 0."
    elif re.fullmatch(rb"\d+([,;|:]\d*)+", token):
        problem, remedy = f"{_shown(token)} is not an integer", "Separate the numbers by spaces or tabs."
    else:
        problem, remedy = (
            f"{_shown(token)} is not an integer",
            "This layout holds numbers in the digits 0 to 9 only, and no header line.",
        )
    raise DataError(problem, path=path, line=line, remedy=remedy)


def _line_with_text(data: bytes, index: int) -> tuple[int, bytes]:
    """Number and text of the ``index``-th line that is not blank, from 0; a loop, for messages only."""
    lines = ((number, line) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip())
    return next(itertools.islice(lines, index, None))


def _refuse_gaps(kind: str, ids: Int64, folder: Path) -> None:
    largest, distinct = int(ids.max()), len(_distinct(ids))
    if largest + 1 > max(GAP_FLOOR, GAP_RATIO * distinct):
        raise DataError(
            f"the largest {kind} id is {largest}, but only {distinct} distinct {kind} ids occur",
            path=folder,
            remedy="Every number up to the largest would get an embedding: number ids from 0 without gaps,\n"
            "or give the files as tables, whose ids are renumbered.",
        )


def _read_list(path: Path, data: bytes, *, kind: str, report: dict[str, int]) -> pd.DataFrame:
    """Read ``*_list.txt``: ``org_id remap_id [freebase_id]``, where the original id may hold spaces.

    Returns a table with ``id`` (int64), ``original_id``, ``name`` and the header's further columns.
    """
    _refuse_empty(path, data)
    header, _, body = _normalised(_decoded(path, data).encode()).decode().partition("\n")
    columns = header.split()
    if columns[:2] != ["org_id", "remap_id"] or len(columns) > 3:
        raise DataError(
            f"unknown header {_shown(header)}",
            path=path,
            line=1,
            remedy="The first line is 'org_id remap_id', with perhaps one more column such as freebase_id.",
        )
    # an original id ends before a blank, so that a long run of blanks is gone through once, not once a blank
    shapes = [r"(?P<o1>.*?[^ \t\n])[ \t]+(?P<i1>[0-9]{1,10})" + r"[ \t]+(?P<x>\S+)" * (len(columns) - 2)]
    if len(columns) == 3:
        shapes += [
            r"(?P<o2>.*[^ \t\n])[ \t]+(?P<i2>[0-9]{1,10})",
            r"(?P<o3>\S+)[ \t]+(?P<i3>[0-9]{1,10})(?P<y>(?P=o3))",
        ]
    found = re.findall(rf"^(?:{'|'.join(shapes)})[ \t]*$", body, flags=re.MULTILINE)
    lines = len(re.findall(r"^.*\S.*$", body, flags=re.MULTILINE))
    if len(found) * 2 < lines:
        raise DataError(
            f"{lines - len(found)} of {lines} lines below the header cannot be read",
            path=path,
            remedy=f"A line is: {header} (the second a number).",
        )
    parts = pd.DataFrame(found, columns=["o1", "i1", "x", "o2", "i2", "o3", "i3", "y"][: 2 if len(columns) == 2 else 8])
    table = pd.DataFrame({"id": parts["i1"], "original_id": parts["o1"]})
    if len(columns) == 3:
        for shape in ("2", "3"):
            table = table.mask(table["id"] == "", parts[["i" + shape, "o" + shape]].set_axis(table.columns, axis=1))
        table[columns[2]] = parts["x"].mask(parts["x"] == "", parts["y"])
        report[f"{kind}_list_glued_lines_mended"] = int((parts["i3"] != "").sum())
    table = table.assign(id=table["id"].astype("int64"), name=table["original_id"])
    repeated = table["id"].duplicated()
    report[f"{kind}_list_lines_skipped"] = lines - len(found)
    report[f"{kind}_list_repeats_dropped"] = int(repeated.sum())
    return table[~repeated].reset_index(drop=True)


def _entity_names(entities: pd.DataFrame | None, items: pd.DataFrame | None) -> pd.DataFrame | None:
    """The entity list, filled up with what the item list says of the items' entities (its third column)."""
    if items is None or "freebase_id" not in items:
        return entities
    known = items.loc[items["freebase_id"] != "", ["id", "freebase_id"]].rename(columns={"freebase_id": "original_id"})
    known = known.assign(name=known["original_id"])
    both = known if entities is None else pd.concat([entities[["id", "original_id", "name"]], known])
    return both.drop_duplicates("id").reset_index(drop=True)


def _sorted_isin(values: Int64, among: Int64) -> npt.NDArray[np.bool_]:
    """Which of ``values`` occur in ``among``, sorted."""
    at = np.minimum(np.searchsorted(among, values), len(among) - 1)
    return np.asarray(among[at] == values)


def _count_missing(values: Int64, among: Int64) -> int:
    """How many distinct values do not occur in ``among``."""
    return int((~_sorted_isin(_distinct(values), _distinct(among))).sum())


def _distinct(values: Int64) -> Int64:
    """Distinct values of non-negative integers, sorted; much faster on these than ``np.unique``."""
    if int(values.max(initial=0)) < 4 * len(values) + GAP_FLOOR:
        return np.flatnonzero(np.bincount(values))
    ordered = np.sort(values)
    return ordered[np.diff(ordered, prepend=-1) > 0]


# --- RecBole atomic files ---------------------------------------------------------------------------------------------

_ATOMIC_TYPES = ("token", "token_seq", "float", "float_seq")


def read_recbole(folder: str | Path, *, name: str | None = None, title_column: str | None = None) -> RawData:
    """Read RecBole atomic files: ``NAME.inter``, ``NAME.kg``, ``NAME.link`` and, for titles, ``NAME.item``.

    Files are tab separated with typed headers (``user_id:token``) and are not quoted; ``.gz`` is accepted.

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

    Raises
    ------
    DataError
        A file or column is missing, a header type is unknown, a rating or timestamp is no finite number, and so on.
    """
    folder = _existing_folder(folder)
    name = name or _only_stem(folder)
    files = _SourceFiles(folder)
    report: dict[str, int] = {}

    inter = _atomic_table(*files.read(f"{name}.inter"))
    interactions = inter.ids({"user": "user_id", "item": "item_id"}, report, "interactions_without_id_dropped")
    for column in ("rating", "timestamp"):
        if column in inter.columns:
            interactions[column] = inter.floats(column)
    kg = _atomic_table(*files.read(f"{name}.kg"))
    columns = {"head": "head_id", "relation": "relation_id", "tail": "tail_id"}
    triples = _without_repeats(kg.ids(columns, report, "triples_without_id_dropped"), report, "triple_repeats_dropped")
    link = _atomic_table(*files.read(f"{name}.link"))
    links = link.ids({"item": "item_id", "entity": "entity_id"}, report, "links_without_id_dropped")

    items = None
    if _locate(folder, f"{name}.item") is not None:
        items = _atomic_titles(_atomic_table(*files.read(f"{name}.item")), title_column, report)
    return RawData(
        name=name,
        interactions=_some_rows(interactions.dropna(subset=["user", "item"]), inter.path),
        triples=_some_rows(triples, kg.path),
        item_entity=_one_to_one(links.dropna(), report),
        items=items,
        sources=files.digests,
        report=report,
    )


def _atomic_stems(folder: Path) -> list[str]:
    found = {entry.name.removesuffix(".gz").removesuffix(".zip") for entry in folder.iterdir()}
    return sorted(entry.removesuffix(".inter") for entry in found if entry.endswith(".inter"))


def _only_stem(folder: Path) -> str:
    stems = _atomic_stems(folder)
    if len(stems) == 1:
        return stems[0]
    if stems:
        raise DataError(f"several data sets: {', '.join(stems)}", path=folder, remedy=f"Name one: --name {stems[0]}")
    raise DataError("there is no NAME.inter", path=folder, remedy="A data set is NAME.inter, NAME.kg and NAME.link.")


def _atomic_table(path: Path, data: bytes) -> _Table:
    fields = [column.rpartition(":") for column in _header(path, data).split("\t")]
    for column, _, kind in fields:
        if not column or kind not in _ATOMIC_TYPES or re.search(r"[\s:]", column):
            raise DataError(
                f"header column {_shown(column + ':' + kind if column else kind)} is not NAME:TYPE",
                path=path,
                line=1,
                remedy=f"Columns are separated by tabs; a type is one of {', '.join(_ATOMIC_TYPES)}.",
            )
    return _Table.from_text(path, data, delimiter="\t", quoted=False, columns=[column for column, _, _ in fields])


def _atomic_titles(table: _Table, title_column: str | None, report: dict[str, int]) -> pd.DataFrame | None:
    likely = [column for column in table.columns if re.search("title|name", column, flags=re.IGNORECASE)]
    column = title_column or next(iter(likely), None)
    if column is None:
        return None
    names = table.ids({"id": "item_id", "name": column}, {}, "")
    report["items_without_title"] = int(names["name"].isna().sum())
    return names.dropna().drop_duplicates("id").reset_index(drop=True)


def _one_to_one(links: pd.DataFrame, report: dict[str, int]) -> pd.DataFrame:
    """Keep the first entity of an item and the first item of an entity."""
    links = links.drop_duplicates()
    first = ~links["item"].duplicated()
    report["links_of_an_item_linked_twice_dropped"] = int((~first).sum())
    links = links[first]
    own = ~links["entity"].duplicated()
    report["links_to_an_entity_already_taken_dropped"] = int((~own).sum())
    return links[own].reset_index(drop=True)


# --- CSV, TSV and Parquet tables --------------------------------------------------------------------------------------


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
    name: str | None = None,
) -> RawData:
    """Read CSV, TSV or Parquet tables; text files may be ``.gz``.

    The delimiter of a text file is a tab for ``.tsv``, a comma for ``.csv``, otherwise (or where the header has none of
    these) whichever of the two the header has. Ids are text, whatever their type in the file. Timestamps are numbers
    or ISO 8601 dates. Without ``links`` the id of an item is the id of its entity.

    Repairs, counted in the report: rows without an id are dropped; links as for :func:`read_recbole`. A rating or
    timestamp that is missing, no number or not finite is an error, since no repair of it would be neutral.

    Raises
    ------
    DataError
        A file is missing, empty or damaged; a column is missing (the message lists those there are); a value is wrong.
    """
    report: dict[str, int] = {}
    digests: dict[str, Mapping[str, Any]] = {}
    table = _read_table(interactions, digests)
    frame = table.ids({"user": user_col, "item": item_col}, report, "interactions_without_id_dropped")
    for column, source in (("rating", rating_col), ("timestamp", timestamp_col)):
        if source is not None:
            frame[column] = table.floats(source, dates=column == "timestamp")
    if split_col is not None:
        frame["split"] = table.splits(split_col)
    frame = _some_rows(frame.dropna(subset=["user", "item"]), table.path)

    kg = _read_table(triples, digests)
    columns = {"head": head_col, "relation": relation_col, "tail": tail_col}
    facts = _without_repeats(kg.ids(columns, report, "triples_without_id_dropped"), report, "triple_repeats_dropped")
    if links is None:
        items = frame["item"].drop_duplicates().reset_index(drop=True)
        item_entity = pd.DataFrame({"item": items, "entity": items})
    else:
        columns = {"item": link_item_col, "entity": link_entity_col}
        link_frame = _read_table(links, digests).ids(columns, report, "links_without_id_dropped")
        item_entity = _one_to_one(link_frame.dropna(), report)
    names = None
    if item_names is not None:
        names = _read_table(item_names, digests).ids({"id": name_item_col, "name": name_col}, {}, "")
        names = names.dropna().drop_duplicates("id").reset_index(drop=True)
    return RawData(
        name=name or Path(interactions).name.split(".")[0],
        interactions=frame,
        triples=_some_rows(facts, kg.path),
        item_entity=item_entity,
        items=names,
        sources=digests,
        report=report,
    )


def _without_repeats(triples: pd.DataFrame, report: dict[str, int], key: str) -> pd.DataFrame:
    triples = triples.dropna()
    unique = triples.drop_duplicates().reset_index(drop=True)
    report[key] = len(triples) - len(unique)
    return unique


def _some_rows(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    if not len(frame):
        raise DataError(
            "no row has all its ids", path=path, remedy="Check that the right columns are read, and are not empty."
        )
    return frame.reset_index(drop=True)


def _read_table(path: str | Path, digests: dict[str, Mapping[str, Any]]) -> _Table:
    path = Path(path)
    on_disk, data = _read_file(path)
    digests[path.name] = on_disk
    if ".parquet" in path.suffixes or ".pq" in path.suffixes:
        return _Table.from_parquet(path, data)
    header = _header(path, data)
    preferred = "\t" if ".tsv" in path.suffixes else ","
    other = "," if preferred == "\t" else "\t"
    delimiter = other if preferred not in header and other in header else preferred
    try:
        columns = next(csv.reader([header], delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise DataError(
            f"the header has a quote that is not closed: {_shown(header)}",
            path=path,
            line=1,
            remedy="Close it, or take the quotes away.",
        ) from error
    return _Table.from_text(
        path, data, delimiter=delimiter, quoted=True, columns=[column.strip() for column in columns]
    )


# --- one table, from text or Parquet ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """Columns of a file, and where each row stands in it."""

    path: Path
    table: pa.Table | ParquetColumns
    text: bytes | None = None  # of text files, to find the line of a row
    delimiter: str = ","
    quoted: bool = True

    @property
    def columns(self) -> list[str]:
        return list(self.table.column_names)

    @classmethod
    def from_text(cls, path: Path, data: bytes, *, delimiter: str, quoted: bool, columns: list[str]) -> _Table:
        """Parse text with a header line, every value as a string; an empty value is missing."""
        data = _normalised(data)
        body = data.partition(b"\n")[2]
        if not body.strip():
            raise DataError("there is no row below the header", path=path, remedy=_WHOLE)
        empty = cls(path, pa.table({}), data, delimiter, quoted)
        _refuse_repeats(path, columns, line=1)
        try:
            table = pa_csv.read_csv(
                pa.BufferReader(body),
                read_options=pa_csv.ReadOptions(column_names=columns, use_threads=False),
                parse_options=pa_csv.ParseOptions(
                    delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=quoted
                ),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(columns, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=True,
                ),
            )
        except pa.ArrowException as error:
            raise empty._ragged(columns, error) from error
        return cls(path, table, data, delimiter, quoted)

    @classmethod
    def from_parquet(cls, path: Path, data: bytes) -> _Table:
        _refuse_empty(path, data)
        table = ParquetColumns(path, data, remedy="Write or download it again.")
        _refuse_repeats(path, table.column_names)
        return cls(path, table)

    def ids(self, columns: Mapping[str, str], report: dict[str, int], key: str) -> pd.DataFrame:
        """The named columns as text under new names, rows in place; counts in ``report[key]`` the incomplete ones."""
        values = {new: self._strings(column) for new, column in columns.items()}
        for new, column in columns.items():
            row = pc.index(pc.match_substring(values[new], "\n"), True).as_py()
            if row >= 0 and new != "name":
                value = _shown(values[new][row].as_py())
                self._fail(row, f"{column} is {value}, over several lines; is a quote not closed?")
        frame = pd.DataFrame({new: column.to_pandas() for new, column in values.items()})
        report[key] = int(frame.isna().any(axis=1).sum())
        return frame

    def floats(self, column: str, *, dates: bool = False) -> pd.Series[float]:
        """A column of finite numbers; with ``dates`` also dates, as seconds since 1970."""
        values = self._column(column)
        if not (dates and _is_moment(values.type)) and not _is_number(values.type) and not _is_text(values.type):
            wanted = "numbers or dates" if dates else "numbers"
            raise DataError(f"column {column!r} holds {values.type}, not {wanted}", path=self.path, remedy=_OTHER)
        if _is_moment(values.type):
            values = pc.cast(values, pa.timestamp("us"))
            numbers = pd.Series(pc.cast(values, pa.int64()).to_pandas(), dtype="float64") / 1e6
        else:
            numbers = pd.to_numeric(values.to_pandas(), errors="coerce").astype("float64")
            dates = dates and bool(numbers.isna().all())
            if dates:
                moments = pd.to_datetime(values.to_pandas(), errors="coerce", utc=True, format="ISO8601")
                numbers = (moments - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
        wrong = np.flatnonzero(~np.isfinite(numbers.to_numpy(dtype=np.float64)))
        if len(wrong):
            value, wanted = (
                values[wrong[0]].as_py(),
                "neither a number nor an ISO 8601 date" if dates else "not a finite number",
            )
            what = "is missing" if value is None else f"is {_shown(str(value))}, {wanted}"
            self._fail(int(wrong[0]), f"{column} {what}")
        return numbers

    def splits(self, column: str) -> pd.Categorical:
        """A column that says which split a row belongs to."""
        values = self._strings(column).to_pandas()
        wrong = np.flatnonzero(~values.isin(SPLITS).to_numpy())
        if len(wrong):
            value = values.iloc[wrong[0]]
            what = "is missing" if pd.isna(value) else f"is {_shown(value)}"
            self._fail(int(wrong[0]), f"{column} {what}, allowed are {', '.join(SPLITS)}")
        return pd.Categorical(values.tolist(), categories=list(SPLITS))

    def _column(self, column: str) -> Any:
        if column not in self.columns:
            raise DataError(
                f"no column {column!r}; there are: {listed(self.columns)}",
                path=self.path,
                line=None if self.text is None else 1,
                remedy="Name the column to read, or rename it."
                if self.text is None
                else f"Name the column to read, or rename it; values are separated by {_SEPARATORS[self.delimiter]}.",
            )
        return self.table.column(column)

    def _strings(self, column: str) -> Any:
        values = self._column(column)
        if pa.types.is_dictionary(values.type):
            values = pc.cast(values, values.type.value_type)
        if pa.types.is_floating(values.type):  # what integers with gaps become on their way through pandas
            try:
                values = pc.cast(pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values), pa.int64())
            except pa.ArrowInvalid as error:
                problem = f"ids of column {column!r} are not whole numbers"
                raise DataError(problem, path=self.path, remedy=_OTHER) from error
        if not (pa.types.is_integer(values.type) or _is_text(values.type)):
            problem = f"column {column!r} holds {values.type}, not ids (text or integers)"
            raise DataError(problem, path=self.path, remedy=_OTHER)
        values = pc.utf8_trim_whitespace(pc.cast(values, pa.string()))
        return pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)

    def _fail(self, row: int, problem: str) -> NoReturn:
        if self.text is None:
            raise DataError(f"row {row} (from 0): {problem}", path=self.path, remedy="Mend or drop this row.")
        line = next((line for at, (line, _, _) in enumerate(self._records()) if at == row), None)
        raise DataError(problem, path=self.path, line=line, remedy="Mend or drop this line.")

    def _ragged(self, columns: list[str], error: Exception) -> DataError:
        """The error for text that does not split into the header's columns: the first line that is wrong."""
        separated = f"Values are separated by {_SEPARATORS[self.delimiter]}."
        quote = "Is a quote opened there that is not closed?" if self.quoted else separated
        for line, last, record in self._records():
            if record is None:
                return DataError("a value is too long", path=self.path, line=line, remedy=quote)
            if len(record) != len(columns):
                problem = f"{_counted(len(record), 'value')}, but the header has {_counted(len(columns), 'column')}"
                return DataError(problem, path=self.path, line=line, remedy=quote if last > line else separated)
        return DataError(f"cannot be read: {str(error).partition(chr(10))[0]}", path=self.path, remedy=separated)

    def _records(self) -> Iterator[tuple[int, int, list[str] | None]]:
        """First line, last line and fields of each record below the header; a loop, for messages only.

        The fields are None, and the last of all, where a value is longer than any sane one.
        """
        assert self.text is not None
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        body = io.StringIO(self.text.partition(b"\n")[2].decode("utf-8"))
        reader = csv.reader(body, delimiter=self.delimiter, quoting=quoting)
        last = 1
        try:
            for record in reader:
                first, last = last + 1, reader.line_num + 1
                if record:
                    yield first, last, record
        except csv.Error:
            yield last + 1, last + 1, None


_SEPARATORS = {",": "commas", "\t": "tabs"}
_OTHER = "Name another column, or convert this one."


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _refuse_repeats(path: Path, columns: Sequence[str], *, line: int | None = None) -> None:
    name, count = next(iter(Counter(columns).most_common(1)), ("", 0))
    if count > 1:
        problem = f"{count} columns are called {_shown(name)}" if name else f"{count} columns have no name"
        raise DataError(problem, path=path, line=line, remedy="Rename them.")


def _is_text(kind: Any) -> bool:
    return str(kind) in ("string", "large_string", "string_view")


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_moment(kind: Any) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


# --- files ------------------------------------------------------------------------------------------------------------


class _SourceFiles:
    """Reads files of one folder, compressed or not, and keeps their digests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digests: dict[str, Mapping[str, Any]] = {}

    def read(self, name: str) -> tuple[Path, bytes]:
        path = _locate(self.folder, name)
        if path is None:
            raise DataError(
                f"there is no {name}", path=self.folder, remedy=f"Put {name} there (or {name}.gz, or {name}.zip)."
            )
        self.digests[path.name], data = _read_file(path)
        return path, data


def _existing_folder(folder: str | Path) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        problem, remedy = ("not a folder", "Name the folder") if folder.exists() else ("no such folder", "Name one")
        raise DataError(problem, path=folder, remedy=f"{remedy} that holds the files.")
    return folder


def _locate(folder: Path, name: str) -> Path | None:
    """The file of this name, or its compressed form."""
    for path in (folder / f"{name}{end}" for end in ("", ".gz", ".zip")):
        if os.path.lexists(path):
            _refuse_no_file(path)
            return path
    return None


def _refuse_no_file(path: Path) -> None:
    """Pipes and devices may have no end."""
    if os.path.lexists(path) and not path.is_file():
        what = "a folder" if path.is_dir() else "no plain file" if path.exists() else "a link that leads nowhere"
        raise DataError(f"is {what}; a file is expected", path=path, remedy="Put the file there, or remove it.")


def _read_file(path: Path) -> tuple[dict[str, Any], bytes]:
    """Digest and size on disk, and the contents, decompressed in memory within bounds."""
    try:
        _refuse_no_file(path)
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror or error}", path=path, remedy="Check the path and its permissions."
        ) from error
    except MemoryError as error:
        problem = f"its {path.stat().st_size:,} bytes do not fit into memory"
        raise DataError(problem, path=path, remedy="Give a part of the data, or a machine with more memory.") from error
    on_disk = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    if path.suffix not in (".gz", ".zip"):
        return on_disk, raw
    limit = max(EXPANSION_FLOOR, EXPANSION_RATIO * len(raw))
    try:
        stream, size = _open_archive(path, io.BytesIO(raw))
        with stream:
            data = stream.read(limit + 1)
        if len(data) <= limit and size not in (None, len(data)):
            raise zipfile.BadZipFile(f"it says {size:,} bytes, and holds {len(data):,}")
    except DataError:
        raise
    # what the libraries raise of damaged archives, ValueError for offsets that lie before the file
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, struct.error) as error:
        raise DataError(
            f"damaged, truncated or unsupported archive: {error}", path=path, remedy="Download it again, or unpack it."
        ) from error
    if len(data) > limit:
        raise DataError(
            f"expands to more than {limit:,} bytes", path=path, remedy="Unpack it yourself, if you trust it."
        )
    return on_disk, data


_NO_FILE = {
    stat.S_IFLNK: "a link",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def _open_archive(path: Path, raw: io.BytesIO) -> tuple[BinaryIO, int | None]:
    """The one file in an archive, and its size if the archive says one."""
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw)), None
    archive = zipfile.ZipFile(raw)
    members = [m for m in archive.infolist() if not m.filename.endswith("/") and not m.filename.startswith("__MACOSX/")]
    names = [member.filename for member in members]
    if len(members) != 1:
        listed = f": {', '.join(map(_shown, names[:4]))}{', ...' * (len(names) > 4)}" if names else ""
        raise DataError(
            f"holds {_counted(len(members), 'file')}{listed}",
            path=path,
            remedy="An archive must hold exactly one file.",
        )
    place, kind = PurePosixPath(names[0].replace("\\", "/")), stat.S_IFMT(members[0].external_attr >> 16)
    what = _NO_FILE.get(kind)
    if place.is_absolute() or ".." in place.parts or re.match("[A-Za-z]:", names[0]):
        what = "a place outside the archive"
    if not names[0]:
        what = "a file without a name"
    if what is not None:
        raise DataError(
            f"its member {_shown(names[0])} is {what}", path=path, remedy="An archive must hold exactly one plain file."
        )
    if members[0].flag_bits & 1:
        raise DataError("is encrypted", path=path, remedy="Unpack it yourself.")
    if members[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # LZMA may ask for 4 GiB of memory
        problem = f"is packed by method {members[0].compress_type}; stored and deflated members are read"
        raise DataError(problem, path=path, remedy="Unpack it yourself, or pack it as others do.")
    if members[0].compress_size > raw.getbuffer().nbytes:
        raise zipfile.BadZipFile(f"it says that {members[0].compress_size:,} bytes are packed in it")
    return cast(BinaryIO, archive.open(members[0])), members[0].file_size


_WHOLE = "Check that it was downloaded or written completely."


def _empty(path: Path) -> DataError:
    return DataError("the file is empty", path=path, remedy=_WHOLE)


def _refuse_empty(path: Path, data: bytes) -> None:
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        raise _empty(path)


def _header(path: Path, data: bytes) -> str:
    """The first line of a text file that names its columns."""
    _refuse_empty(path, data)
    _decoded(path, data)
    header = _normalised(data[: HEADER_LIMIT + 1]).partition(b"\n")[0]
    remedy = "The first line names the columns."
    if len(header) > HEADER_LIMIT - len(codecs.BOM_UTF8):
        raise DataError(f"a header of more than {HEADER_LIMIT:,} bytes", path=path, line=1, remedy=remedy)
    if not header.strip():
        raise DataError("the header is blank", path=path, line=1, remedy=remedy)
    return header.decode("utf-8")


def _decoded(path: Path, data: bytes) -> str:
    """Text of a file; UTF-16 and binary files are named as such."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError("UTF-16 text, not UTF-8", path=path, remedy="Convert it: iconv -f utf-16 -t utf-8 OLD > NEW")
    try:
        text = data.decode("utf-8-sig")
        at, problem, remedy = (
            data.find(b"\0"),
            "a NUL byte",
            "Save it as UTF-8 text: this is UTF-16, binary or damaged.",
        )
    except UnicodeDecodeError as error:
        at, problem = error.start, f"byte {data[error.start : error.start + 1]!r} is not UTF-8"
        remedy = "Convert it, for example from Latin-1: iconv -f latin1 -t utf-8 OLD > NEW"
        text = ""
    if at >= 0:
        line = _normalised(data[:at]).count(b"\n") + 1
        raise DataError(problem, path=path, line=line, remedy=remedy)
    return text


def _shown(value: bytes | str) -> str:
    """A value for a message: quoted, and cut to a readable length."""
    text = value[:200].decode("utf-8", errors="replace") if isinstance(value, bytes) else value[:200]
    shown = repr(text)
    return shown if len(shown) <= 60 else shown[:56] + "...'"
