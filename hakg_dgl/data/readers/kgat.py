"""The KGAT/KGIN layout: ``train.txt``, ``test.txt``, ``kg_final.txt``, optional ``valid.txt`` and lists of ids."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pandas as pd

from hakg_dgl.data.readers.archives import SourceFiles, existing_folder, locate, parts_of
from hakg_dgl.data.readers.raw import SPLITS, RawData
from hakg_dgl.data.readers.text import counted, decoded, empty_file, normalised, refuse_empty, shown
from hakg_dgl.errors import DataError

Int64 = npt.NDArray[np.int64]

ID_LIMIT = 2**31
"""Ids of the KGAT layout lie below this: two of them fit one 64-bit key, and no sane index is larger."""

GAP_RATIO, GAP_FLOOR = 50, 1000
"""Ids that are row numbers may leave gaps, but not so many that embeddings would mostly hold unused rows."""


def read_kgat(folder: str | Path, *, name: str | None = None) -> RawData:
    """Read the KGAT/KGIN layout; its ids are row numbers and stay as they are (item ``i`` is entity ``i``).

    ``train.txt``, ``test.txt`` and, where it is there, ``valid.txt`` hold a user and its items a line (or the user
    alone), ``kg_final.txt`` head, relation and tail. Each may be compressed: ``.gz``, or ``.zip`` with one member.
    ``user_list.txt``, ``item_list.txt``, ``entity_list.txt`` and ``relation_list.txt`` are optional and give original
    ids and names.

    Repairs, counted in the report: repeated pairs and triples are dropped; a pair of several files stays in the first
    of training, validation and test part; a line of a list that cannot be read is skipped, and one whose third column
    is glued to the second (``abc 17abc``, as in public files) is taken apart.

    Parameters
    ----------
    folder
        Where the files lie.
    name
        Name of the data set; by default that of the folder.

    Raises
    ------
    DataError
        A file is missing, empty, damaged or not UTF-8; a token is not an integer in 0..2**31-1; a triple does not have
        three numbers; ids leave such gaps that embeddings would be mostly unused rows.
    """
    folder = existing_folder(folder)
    files = SourceFiles(folder)
    train, test = (_read_pairs(*files.read(f"{part}.txt")) for part in ("train", "test"))
    valid = None if locate(folder, "valid.txt") is None else _read_pairs(*files.read("valid.txt"))
    in_train = _sorted_isin(test.keys, train.keys)
    held = {"valid": np.empty(0, np.int64), "test": test.keys[~in_train]}
    if valid is not None:
        held["valid"] = valid.keys[~_sorted_isin(valid.keys, train.keys)]
        held["test"] = held["test"][~_sorted_isin(held["test"], held["valid"])]
    overlap = np.setdiff1d(test.keys, held["test"])
    keys = np.concatenate([train.keys, held["valid"], held["test"]])
    users, items = keys // ID_LIMIT, keys % ID_LIMIT
    codes = np.repeat(np.arange(3, dtype=np.int8), [len(train.keys), len(held["valid"]), len(held["test"])])
    triples, repeated_triples = read_triple_parts(files, "kg_final")

    all_users = np.concatenate([train.users, test.users, *([] if valid is None else [valid.users])])
    refuse_gaps("user", all_users, folder)
    refuse_gaps("relation", triples[:, 1], folder)
    refuse_gaps("entity", np.concatenate([items, triples[:, 0], triples[:, 2]]), folder)
    refuse_gaps("item", items, folder)
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
    if valid is not None:
        kept = len(test.keys) - int(in_train.sum())
        report |= {
            "valid_repeats_dropped": valid.repeats,
            "valid_lines_with_user_alone": valid.lone,
            "train_valid_overlap_dropped_from_valid": len(valid.keys) - len(held["valid"]),
            "valid_test_overlap_dropped_from_test": kept - len(held["test"]),
        }
    lists = {
        kind: _read_list(*files.read(f"{kind}_list.txt"), kind=kind, report=report)
        for kind in ("user", "item", "entity", "relation")
        if locate(folder, f"{kind}_list.txt") is not None
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
        test_overlap=pd.DataFrame({"user": overlap // ID_LIMIT, "item": overlap % ID_LIMIT}),
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
    """The (user, item) pairs of ``train.txt``, ``valid.txt`` or ``test.txt``."""
    values, first, counts = integer_lines(path, data)
    users = values[first]
    is_item = np.ones(len(values), dtype=bool)
    is_item[first] = False
    keys = np.repeat(users, counts - 1) * ID_LIMIT + values[is_item]
    if not len(keys):
        raise DataError("every line holds a user alone, there is no item", path=path, remedy="A line is: user item ...")
    unique = _distinct(keys)
    return _Pairs(unique, users, len(keys) - len(unique), int((counts == 1).sum()))


def read_triple_parts(files: SourceFiles, stem: str) -> tuple[Int64, int]:
    """The triples [n, 3] of ``STEM.txt``, or of its parts, each once, and how many repeats were dropped."""
    names = [f"{stem}.txt"]
    if locate(files.folder, names[0]) is None:
        names = parts_of(files.folder, stem, ".txt") or names
    triples = np.concatenate([read_number_triples(*files.read(name)) for name in names])
    repeated = pd.DataFrame(triples).duplicated().to_numpy()
    return triples[~repeated], int(repeated.sum())


def read_number_triples(path: Path, data: bytes) -> Int64:
    """Lines of three integers [n, 3], in the order of the file."""
    values, _, counts = integer_lines(path, data)
    wrong = np.flatnonzero(counts != 3)
    if len(wrong):
        line, text = _line_with_text(normalised(data), int(wrong[0]))
        raise DataError(
            f"{counted(int(counts[wrong[0]]), 'number')} instead of three: {shown(text)}",
            path=path,
            line=line,
            remedy="A line is: head relation tail, separated by spaces or tabs.",
        )
    return values.reshape(-1, 3)


def integer_lines(path: Path, data: bytes) -> tuple[Int64, Int64, Int64]:
    """Parse lines of non-negative integers without a loop over them.

    Returns
    -------
    values : int64 [n_tokens]
    first : int64 [n_lines]
        Index in ``values`` of the first token of every line that is not blank.
    counts : int64 [n_lines]
        Tokens of these lines.
    """
    data = normalised(data)
    if data.translate(None, b"0123456789 \t\n"):
        _report_bad_token(path, data)
    buffer = np.frombuffer(data, dtype=np.uint8)
    edges = np.flatnonzero(np.diff((buffer >= ord("0")).view(np.int8), prepend=np.int8(0), append=np.int8(0)))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        raise empty_file(path)
    too_long = np.flatnonzero(ends - starts > len(str(ID_LIMIT)))
    if not len(too_long):
        values = np.fromstring(data, dtype=np.int64, sep=" ")  # skips any white space; tokens are known to be digits
        too_long = np.flatnonzero(values >= ID_LIMIT)
    if len(too_long):
        token = data[starts[too_long[0]] : ends[too_long[0]]]
        line = data.count(b"\n", 0, int(starts[too_long[0]])) + 1
        raise DataError(
            f"id {shown(token)} is not below 2**31", path=path, line=line, remedy="Number ids from 0 without gaps."
        )
    bounds = np.searchsorted(starts, np.flatnonzero(buffer == ord("\n")))
    bounds = np.concatenate([[0], bounds, [len(starts)]]).astype(np.int64)
    counts = np.diff(bounds)
    return values, bounds[:-1][counts > 0], counts[counts > 0]


def _report_bad_token(path: Path, data: bytes) -> NoReturn:
    """Raise for the first byte that is neither digit nor blank."""
    decoded(path, data)
    at = re.search(rb"[^0-9 \t\n]", data)
    assert at is not None
    line = data.count(b"\n", 0, at.start()) + 1
    begin = max(data.rfind(blank, 0, at.start()) for blank in (b" ", b"\t", b"\n")) + 1
    token = re.split(rb"[ \t\n]", data[begin : begin + 200], maxsplit=1)[0]
    if re.fullmatch(rb"-\d+", token):
        problem, remedy = f"negative id {shown(token)}", "Number users, items, entities and relations from 0."
    elif re.fullmatch(rb"\d+([,;|:]\d*)+", token):
        problem, remedy = f"{shown(token)} is not an integer", "Separate the numbers by spaces or tabs."
    else:
        problem, remedy = (
            f"{shown(token)} is not an integer",
            "This layout holds numbers in the digits 0 to 9 only, and no header line.",
        )
    raise DataError(problem, path=path, line=line, remedy=remedy)


def _line_with_text(data: bytes, index: int) -> tuple[int, bytes]:
    """Number and text of the ``index``-th line that is not blank, from 0; a loop, for messages only."""
    lines = ((number, line) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip())
    return next(itertools.islice(lines, index, None))


def refuse_gaps(kind: str, ids: Int64, folder: Path) -> None:
    """Raise DataError if embeddings for all numbers up to the largest would mostly be unused rows."""
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
    refuse_empty(path, data)
    header, _, body = normalised(decoded(path, data).encode()).decode().partition("\n")
    columns = header.split()
    if columns[:2] != ["org_id", "remap_id"] or len(columns) > 3:
        raise DataError(
            f"unknown header {shown(header)}",
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
        report[f"{kind}_list_glued_lines_repaired"] = int((parts["i3"] != "").sum())
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
    if not len(among):
        return np.zeros(len(values), dtype=bool)
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
