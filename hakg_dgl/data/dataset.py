"""The frozen :class:`Dataset`: numbered tables, their digest, and how they are saved and loaded."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.api.types import infer_dtype, is_float_dtype

from hakg_dgl.atomic_files import recover_folder, replace_folder
from hakg_dgl.data.hierarchy import Triples
from hakg_dgl.data.id_maps import IdMap
from hakg_dgl.data.parquet import ParquetColumns, listed
from hakg_dgl.data.readers.archives import file_digest
from hakg_dgl.data.readers.raw import SPLITS, empty_pairs, empty_user_facts, empty_user_links
from hakg_dgl.data.splits import STRATEGIES
from hakg_dgl.errors import DataError, FormatVersionError, IntegrityError

Int64 = npt.NDArray[np.int64]

FORMAT, FORMAT_VERSION = "hakg-dataset", 2
"""Version 2 has tables of users' facts and links, or of the overlap; without them version 1 is written."""

_TABLES = {
    "interactions": ("user", "item", "split"),
    "triples": ("head", "relation", "tail"),
    "users": ("original_id", "name"),
    "items": ("original_id", "name"),
    "entities": ("original_id", "name"),
    "relations": ("original_id", "name"),
}

_OPTIONAL_TABLES = {
    "user_facts": ("user", "relation", "entity"),
    "user_links": ("user", "relation", "other"),
    "user_relations": ("original_id", "name"),
    "test_overlap": ("user", "item"),
}
"""Tables that are saved, and enter the digest, only where they have rows."""


def _no_user_relations() -> pd.DataFrame:
    return pd.DataFrame({"original_id": [], "name": []}, dtype=object)


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Interactions and a knowledge graph, numbered: entities ``0..n_items-1`` are the items.

    Rows are put in canonical order (interactions by user and item, triples by head, relation and tail) on creation.

    Attributes
    ----------
    name
        Name of the data set.
    interactions
        ``user``, ``item`` (int64), ``split`` (categorical: train, valid, test), optional ``timestamp`` (float64). A
        pair occurs once, so the splits are disjoint.
    triples
        ``head``, ``relation``, ``tail`` (int64), each triple once, no inverses.
    users, items, entities, relations
        ``original_id`` and ``name`` (text); row ``i`` is index ``i``.
    options
        What it was made with, as JSON values.
    sources
        File name -> SHA-256 and size of the files it was made from.
    report
        Counts of repairs and remarks.
    split_strategy
        ``random``, ``temporal``, ``temporal-global``, ``leave-one-out``, ``cold-items`` or ``given``.
    user_facts
        What is known of users: ``user``, ``relation``, ``entity`` (int64), each row once; often empty.
    user_links
        Which user is linked to which: ``user``, ``relation``, ``other`` (int64), each row once, no user with itself;
        often empty.
    user_relations
        ``original_id`` and ``name`` (text) of the relations of ``user_facts`` and ``user_links``, which both index into
        this table; a relation belongs to one of the two.
    test_overlap
        ``user``, ``item`` (int64), each pair once: what the source's test part shares with its training part, and the
        split ``test`` therefore lacks. Published evaluations count these pairs; see ``keep_overlap``.

    Raises
    ------
    DataError
        On creation: if columns are missing, an index is out of range, a row occurs twice, a user is linked to itself,
        or facts and links share a relation.
    """

    name: str
    interactions: pd.DataFrame
    triples: pd.DataFrame
    users: pd.DataFrame
    items: pd.DataFrame
    entities: pd.DataFrame
    relations: pd.DataFrame
    options: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    report: Mapping[str, int] = field(default_factory=dict)
    split_strategy: str = "given"
    user_facts: pd.DataFrame = field(default_factory=empty_user_facts)
    user_links: pd.DataFrame = field(default_factory=empty_user_links)
    user_relations: pd.DataFrame = field(default_factory=_no_user_relations)
    test_overlap: pd.DataFrame = field(default_factory=empty_pairs)

    def __post_init__(self) -> None:
        self._check_columns()
        kept = self.interactions.filter(["user", "item", "split", "timestamp"])
        interactions = _canonical(kept, "interactions", {"user": self.n_users, "item": self.n_items}).assign(
            split=lambda frame: pd.Categorical(frame["split"], categories=list(SPLITS))
        )
        limits = {
            "triples": {"head": self.n_entities, "relation": self.n_relations, "tail": self.n_entities},
            "user_facts": {"user": self.n_users, "relation": len(self.user_relations), "entity": self.n_entities},
            "user_links": {"user": self.n_users, "relation": len(self.user_relations), "other": self.n_users},
            "test_overlap": {"user": self.n_users, "item": self.n_items},
        }
        object.__setattr__(self, "interactions", interactions)
        for table, columns in limits.items():
            object.__setattr__(self, table, _canonical(getattr(self, table)[list(columns)], table, columns))
        self._check_user_relations()

    def __repr__(self) -> str:
        sizes = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in self.counts.items())
        return f"<Dataset {self.name!r}, split {self.split_strategy}: {sizes}>"

    def _check_columns(self) -> None:
        for table, columns in (_TABLES | _OPTIONAL_TABLES).items():
            missing = [column for column in columns if column not in getattr(self, table)]
            if missing:
                raise DataError(f"table {table} of data set {self.name!r} lacks the columns {missing}")
        if self.n_items > self.n_entities:
            raise DataError(f"{self.n_items} items but {self.n_entities} entities: every item is an entity")
        for table in ("users", "items", "entities", "relations", "user_relations"):
            for column in ("original_id", "name"):
                _require_text(getattr(self, table)[column], f"{table}.{column}")
        if not set(self.interactions["split"].unique()) <= set(SPLITS):
            found = sorted(map(str, set(self.interactions["split"])))
            raise DataError(f"interactions.split has {', '.join(found[:5])}; allowed are {', '.join(SPLITS)}")
        if "timestamp" in self.interactions and not is_float_dtype(self.interactions["timestamp"]):
            raise DataError(f"interactions.timestamp is {self.interactions['timestamp'].dtype}, not float64")

    def _check_user_relations(self) -> None:
        of_facts, of_links = (set(table["relation"]) for table in (self.user_facts, self.user_links))
        both = sorted(of_facts & of_links)
        if both:
            name = self.user_relations["name"][both[0]]
            raise DataError(f"user relation {both[0]} ({name!r}) occurs in user_facts and in user_links")
        oneself = self.user_links.loc[self.user_links["user"] == self.user_links["other"], "user"]
        if len(oneself):
            raise DataError(f"user_links links user {int(oneself.iloc[0])} to itself", remedy="Drop such rows.")

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.items)

    @property
    def n_entities(self) -> int:
        """Number of entities, the items included."""
        return len(self.entities)

    @property
    def n_relations(self) -> int:
        """Number of relations, without inverses."""
        return len(self.relations)

    @property
    def facts(self) -> Triples:
        """The triples and their sizes as arrays, for functions that work on a knowledge graph alone."""
        head, relation, tail = (self.triples[column].to_numpy() for column in _TABLES["triples"])
        return Triples(head, relation, tail, self.n_items, self.n_entities, self.n_relations)

    @property
    def counts(self) -> dict[str, int]:
        """Sizes by name, as in ``dataset.json``; of the optional tables only where there are any."""
        splits = self.interactions["split"].value_counts()
        counts = {
            "users": self.n_users,
            "items": self.n_items,
            "entities": self.n_entities,
            "relations": self.n_relations,
            "triples": len(self.triples),
            "interactions": len(self.interactions),
            **{split: int(splits.get(split, 0)) for split in SPLITS},
        }
        return counts | {table: len(getattr(self, table)) for table in self._optional_tables()}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what defines the data set: sizes, interactions with their split, triples, original ids.

        Facts, links and relations of users, and the overlap, enter where there are any.

        Taken over little-endian NumPy bytes and the ids' UTF-8, so it depends neither on the machine nor on how the
        tables were written. Names, timestamps, options and reports do not enter.
        """
        digest = hashlib.sha256(f"{FORMAT} {self.n_users} {self.n_items} {self.n_entities} {self.n_relations}".encode())
        split = self.interactions["split"].cat.codes
        columns = [self.interactions["user"], self.interactions["item"], split]
        for column in (*columns, *(self.triples[name] for name in _TABLES["triples"])):
            digest.update(np.ascontiguousarray(column.to_numpy(), dtype="<i8").data)
        for ids in (self.users, self.items, self.entities, self.relations):
            _add_ids(digest, ids)
        for name in self._optional_tables():
            rows = getattr(self, name)
            digest.update(f" {name} {len(rows)} ".encode())
            if name == "user_relations":
                _add_ids(digest, rows)
            else:
                for end in _OPTIONAL_TABLES[name]:
                    digest.update(np.ascontiguousarray(rows[end].to_numpy(), dtype="<i8").tobytes())
        return digest.hexdigest()

    def user_number(self, original_id: str) -> int:
        """The number of the user with an original id; DataError, which shows a few ids, if there is none."""
        return _number(self.users, original_id, "user")

    def item_number(self, original_id: str) -> int:
        """The number of the item with an original id; DataError, which shows a few ids, if there is none."""
        return _number(self.items, original_id, "item")

    def pairs(self, *splits: str) -> Int64:
        """(user, item) pairs of the named splits (of all, if none is named), int64 [n, 2], by user, then item.

        Raises
        ------
        ValueError
            For a name that is not a split.
        """
        return self.interactions.loc[self._rows(splits), ["user", "item"]].to_numpy(dtype=np.int64)

    def positives(self, *splits: str) -> tuple[Int64, Int64]:
        """The items of every user in the named splits (of all, if none is named), packed.

        Returns
        -------
        indptr : int64 [n_users + 1]
        items : int64 [n]
            Items of user ``u`` are ``items[indptr[u]:indptr[u + 1]]``, ascending.
        """
        pairs = self.pairs(*splits)
        counts = np.bincount(pairs[:, 0], minlength=self.n_users)
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), np.ascontiguousarray(pairs[:, 1])

    def save(self, path: str | Path) -> None:
        """Write the data set to the folder ``path``: Parquet tables and ``dataset.json``.

        The files are written to a folder beside it, which then takes its place (see
        :func:`~hakg_dgl.atomic_files.replace_folder`); so ``path`` holds a whole data set or none. An existing data set
        is replaced, any other folder is not.

        Raises
        ------
        DataError
            If ``path`` exists and is not a data set, or cannot be written (a full disk, say).
        """
        path = Path(path)
        recover_folder(path)
        refuse_foreign(path)
        try:
            replace_folder(path, self._write)
        except (OSError, pa.ArrowException) as error:
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
            remedy = "Nothing was changed there. Free some space, change the permissions, or choose another place."
            raise DataError(f"cannot be written: {why}", path=path, remedy=remedy) from error

    def _write(self, folder: Path) -> None:
        files = {}
        optional = self._optional_tables()
        for table in (*_TABLES, *optional):
            file = folder / f"{table}.parquet"
            with file.open("wb") as handle:  # Arrow itself opens no path that is not UTF-8
                pq.write_table(pa.Table.from_pandas(getattr(self, table), preserve_index=False), handle)
            files[file.name] = file_digest(file)
        about = {
            "format": FORMAT,
            "format_version": 2 if optional else 1,
            "name": self.name,
            "digest": self.digest,
            "counts": self.counts,
            "split_strategy": self.split_strategy,
            "options": dict(self.options),
            "sources": dict(self.sources),
            "report": dict(self.report),
            "files": files,
        }
        # ASCII, for names of folders and files that are not UTF-8
        (folder / "dataset.json").write_text(json.dumps(about, indent=1) + "\n", encoding="ascii")

    def _optional_tables(self) -> list[str]:
        """Which of the optional tables have rows."""
        return [table for table in _OPTIONAL_TABLES if len(getattr(self, table))]

    def _rows(self, splits: tuple[str, ...]) -> npt.NDArray[np.bool_]:
        unknown = [split for split in splits if split not in SPLITS]
        if unknown:
            raise ValueError(f"no split called {unknown[0]!r}; there are {SPLITS}")
        return self.interactions["split"].isin(splits or SPLITS).to_numpy()


def load_dataset(path: str | Path, *, verify: bool = True) -> Dataset:
    """Load a data set that :meth:`Dataset.save` wrote.

    Parameters
    ----------
    path
        Its folder.
    verify
        Compare files and contents with their digests. Ranges and disjoint splits are checked in any case.

    Raises
    ------
    FormatVersionError
        It was written by a newer version of this package.
    IntegrityError
        A file is not what was written.
    DataError
        There is no data set, or it is incomplete or damaged.
    """
    path = Path(path)
    recover_folder(path)
    about = read_about(path)
    tables: dict[str, Any] = {}
    written = {table: columns for table, columns in _OPTIONAL_TABLES.items() if f"{table}.parquet" in about["files"]}
    for table, columns in (_TABLES | written).items():
        file = path / f"{table}.parquet"
        if not file.is_file():
            raise DataError("the file is missing", path=file, remedy="Run 'hakg preprocess' again.")
        data = _read_bytes(file)
        if verify and _sha256(data) != _noted_digest(about, file):
            raise IntegrityError("the file was changed after preprocessing", path=file, remedy=_AGAIN)
        tables[table] = _read_parquet(file, data, columns)
    described: dict[str, Any] = {key: about[key] for key in ("name", "options", "sources", "report", "split_strategy")}
    try:
        dataset = Dataset(**described, **tables)
    except DataError as error:
        raise DataError(error.problem, path=path, remedy=_AGAIN) from error
    if verify and (dataset.digest != about["digest"] or dataset.counts != about["counts"]):
        raise IntegrityError(
            "digest or counts differ from those of the tables", path=path / "dataset.json", remedy=_AGAIN
        )
    return dataset


def _noted_digest(about: Mapping[str, Any], file: Path) -> Any:
    noted = about["files"].get(file.name)
    return noted.get("sha256") if isinstance(noted, dict) else None


_AGAIN = "Run 'hakg preprocess' again; runs trained on the earlier data do not belong to the changed one."


def read_about(path: Path) -> dict[str, Any]:
    """The checked contents of ``dataset.json``."""
    file = path / "dataset.json"
    if not file.is_file():
        problem = "not a data set: it holds no dataset.json" if path.is_dir() else "no such folder"
        if path.is_file():
            problem = "a file, not the folder of a data set"
        raise DataError(problem, path=path, remedy="Make a data set with 'hakg preprocess SOURCE --out DATA'.")
    try:
        about = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot be read: {error}", path=file, remedy=_AGAIN) from error
    if (
        not isinstance(about, dict)
        or about.get("format") != FORMAT
        or type(about.get("format_version")) is not int
        or about["format_version"] < 1
    ):
        raise DataError("does not describe a data set of this package", path=file, remedy=_AGAIN)
    if about["format_version"] > FORMAT_VERSION:
        raise FormatVersionError(
            f"format version {about['format_version']}, this package reads up to {FORMAT_VERSION}",
            path=file,
            remedy="Install a newer hakg_dgl, or run 'hakg preprocess' again.",
        )
    kinds: dict[str, type] = dict.fromkeys(("name", "digest", "split_strategy"), str)
    kinds |= dict.fromkeys(("counts", "options", "sources", "report", "files"), dict)
    wrong = [key for key, kind in kinds.items() if not isinstance(about.get(key), kind)]
    if "split_strategy" not in wrong and about["split_strategy"] not in STRATEGIES:
        wrong.append("split_strategy")
    if "report" not in wrong and not all(type(count) is int for count in about["report"].values()):
        wrong.append("report")
    if wrong:
        raise DataError(f"{', '.join(wrong)} missing or of the wrong type", path=file, remedy=_AGAIN)
    return about


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        remedy = "Check its permissions, or run 'hakg preprocess' again."
        raise DataError(f"cannot be read: {error.strerror or error}", path=file, remedy=remedy) from error


def _read_parquet(file: Path, data: bytes, columns: tuple[str, ...]) -> pd.DataFrame:
    table = ParquetColumns(file, data, remedy=_AGAIN, other_column=_AGAIN)
    names = [*columns, *(["timestamp"] if "split" in columns and "timestamp" in table.column_names else [])]
    if any(table.column_names.count(column) != 1 for column in names):
        problem = f"has the columns {listed(table.column_names)}, where {', '.join(names)} are needed once"
        raise DataError(problem, path=file, remedy=_AGAIN)
    # the split stays categorical
    return pd.DataFrame({name: table.column(name, decode=name != "split").to_pandas() for name in names})


def _number(table: pd.DataFrame, original_id: str, what: str) -> int:
    return IdMap(pd.Index(table["original_id"]), table["name"]).index(original_id, what)


def _require_text(values: pd.Series[Any], name: str) -> None:
    if values.isna().any() or (len(values) and infer_dtype(values) != "string"):
        raise DataError(f"{name} is not all text")


def _canonical(frame: pd.DataFrame, table: str, limits: Mapping[str, int]) -> pd.DataFrame:
    """Rows sorted by the columns of ``limits``, which are int64, in range, and distinct as a row."""
    for column, limit in limits.items():
        values = frame[column].to_numpy()
        if not np.issubdtype(values.dtype, np.integer):
            raise DataError(f"{table}.{column} is {values.dtype}, not integer")
        if len(values) and not 0 <= values.min() <= values.max() < limit:
            raise DataError(
                f"{table}.{column} has values {values.min()} to {values.max()}, allowed are 0 to {limit - 1}"
            )
    if math.prod(limits.values()) >= 2**63:
        return _sorted_by_columns(frame.astype(dict.fromkeys(limits, np.int64)), table, list(limits))
    # one key a row sorts several times faster than columns one by one
    key = np.zeros(len(frame), dtype=np.int64)
    for column, limit in limits.items():
        key *= limit
        key += frame[column].to_numpy()
    if (key[1:] > key[:-1]).all():
        return frame.astype(dict.fromkeys(limits, np.int64)).reset_index(drop=True)
    order = np.argsort(key)
    key = key[order]
    _refuse_repeats(frame, table, list(limits), order, key[1:] == key[:-1])
    columns = {name: frame[name].array.take(order) for name in frame.columns if name not in limits}
    for column, limit in list(limits.items())[::-1]:
        columns[column] = key % limit
        key //= limit
    return pd.DataFrame({name: columns.pop(name) for name in frame.columns}, copy=False)


def _sorted_by_columns(frame: pd.DataFrame, table: str, columns: list[str]) -> pd.DataFrame:
    """Rows sorted by columns whose numbers together are too large for one key."""
    keys = [frame[column].to_numpy() for column in columns]
    order = np.lexsort(keys[::-1])
    _refuse_repeats(frame, table, columns, order, np.logical_and.reduce([np.diff(key[order]) == 0 for key in keys]))
    return frame.iloc[order].reset_index(drop=True)


def _refuse_repeats(
    frame: pd.DataFrame, table: str, columns: list[str], order: Int64, repeated: npt.NDArray[np.bool_]
) -> None:
    """Raise DataError if a row, in the sorted order, equals the one before."""
    if not repeated.any():
        return
    twice = frame.iloc[order[np.argmax(repeated) :][:2]]
    row = tuple(int(value) for value in twice[columns].iloc[0])
    where = " and ".join(map(repr, sorted(set(twice["split"])))) if table == "interactions" else ""
    problem = f"{table}: {tuple(columns)} = {row} occurs twice" + (f", in {where}" if where else "")
    raise DataError(problem, remedy="Drop repeats; splits are disjoint.")


def _add_ids(digest: Any, table: pd.DataFrame) -> None:
    ids = table["original_id"].tolist()
    digest.update(np.array([len(text) for text in ids], dtype="<i8").tobytes())
    digest.update("".join(ids).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def refuse_foreign(path: Path) -> None:
    """Raise DataError unless ``path`` is free, an empty folder, or a data set of ours with nothing else in it."""
    if not path.exists() and not path.is_symlink():
        return
    remedy = "Choose another place, or empty it yourself."
    if not path.is_dir() or path.is_symlink():
        problem = "is a link, which is not replaced" if path.is_symlink() else "exists and is not a folder"
        raise DataError(problem, path=path, remedy=remedy)
    entries = {entry.name for entry in path.iterdir()}
    foreign = entries - {"dataset.json", *(f"{table}.parquet" for table in _TABLES | _OPTIONAL_TABLES)}
    if foreign:
        raise DataError(f"holds other files, such as {sorted(foreign)[0]!r}", path=path, remedy=remedy)
    if entries:
        try:
            ours = json.loads((path / "dataset.json").read_bytes()).get("format") == FORMAT
        except (OSError, ValueError, AttributeError, RecursionError):
            ours = False
        if not ours:
            raise DataError("exists and is not a data set", path=path, remedy=remedy)
