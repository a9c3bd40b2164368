"""The frozen :class:`Dataset`: numbered tables, saved and loaded with digests, and what ``hakg info`` says of it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
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

from hakg_dgl.data.hierarchy import Triples, relation_statistics
from hakg_dgl.data.parquet import ParquetColumns, listed
from hakg_dgl.data.readers import SPLITS
from hakg_dgl.data.splits import STRATEGIES
from hakg_dgl.errors import DataError, FormatVersionError, IntegrityError

Int64 = npt.NDArray[np.int64]

FORMAT, FORMAT_VERSION = "hakg-dataset", 1

_TABLES = {
    "interactions": ("user", "item", "split"),
    "triples": ("head", "relation", "tail"),
    "users": ("original_id", "name"),
    "items": ("original_id", "name"),
    "entities": ("original_id", "name"),
    "relations": ("original_id", "name"),
}


@dataclass(frozen=True, eq=False)
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
        ``random``, ``temporal``, ``leave-one-out`` or ``given``.

    Raises
    ------
    DataError
        On creation: if columns are missing, an index is out of range, or a row occurs twice.
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

    def __post_init__(self) -> None:
        for table, columns in _TABLES.items():
            missing = [column for column in columns if column not in getattr(self, table)]
            if missing:
                raise DataError(f"table {table} of data set {self.name!r} lacks the columns {missing}")
        if self.n_items > self.n_entities:
            raise DataError(f"{self.n_items} items but {self.n_entities} entities: every item is an entity")
        for table in ("users", "items", "entities", "relations"):
            for column in _TABLES[table]:
                _require_text(getattr(self, table)[column], f"{table}.{column}")
        if not set(self.interactions["split"].unique()) <= set(SPLITS):
            found = sorted(map(str, set(self.interactions["split"])))
            raise DataError(f"interactions.split has {', '.join(found[:5])}; allowed are {', '.join(SPLITS)}")
        if "timestamp" in self.interactions and not is_float_dtype(self.interactions["timestamp"]):
            raise DataError(f"interactions.timestamp is {self.interactions['timestamp'].dtype}, not float64")
        kept = self.interactions.filter(["user", "item", "split", "timestamp"])
        interactions = _canonical(kept, "interactions", {"user": self.n_users, "item": self.n_items}).assign(
            split=lambda frame: pd.Categorical(frame["split"], categories=list(SPLITS))
        )
        limits = {"head": self.n_entities, "relation": self.n_relations, "tail": self.n_entities}
        object.__setattr__(self, "interactions", interactions)
        object.__setattr__(self, "triples", _canonical(self.triples[list(limits)], "triples", limits))

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

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what defines the data set: sizes, interactions with their split, triples, original ids.

        Taken over little-endian NumPy bytes and the ids' UTF-8, so it depends neither on the machine nor on how the
        tables were written. Names, timestamps, options and reports do not enter.
        """
        digest = hashlib.sha256(f"{FORMAT} {self.n_users} {self.n_items} {self.n_entities} {self.n_relations}".encode())
        split = self.interactions["split"].cat.codes
        columns = [self.interactions["user"], self.interactions["item"], split]
        for column in (*columns, *(self.triples[name] for name in _TABLES["triples"])):
            digest.update(np.ascontiguousarray(column.to_numpy(), dtype="<i8").tobytes())
        for table in (self.users, self.items, self.entities, self.relations):
            ids = table["original_id"].tolist()
            digest.update(np.array([len(text) for text in ids], dtype="<i8").tobytes())
            digest.update("".join(ids).encode())
        return digest.hexdigest()

    def pairs(self, *splits: str) -> Int64:
        """(user, item) pairs of the named splits (of all, if none is named), int64 [n, 2], by user, then item.

        Raises
        ------
        ValueError
            For a name that is no split.
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

        The files are written to a folder beside it, which then takes its place; so ``path`` holds a whole data set or
        none. An existing data set is replaced, any other folder is not.

        Raises
        ------
        DataError
            If ``path`` exists and is not a data set, or cannot be written (a full disk, say).
        """
        path = Path(path)
        refuse_foreign(path)
        fresh = path.parent / f".{path.name}.{secrets.token_hex(6)}.new"
        try:
            fresh.mkdir(parents=True)
            self._write(fresh)
            _take_place(fresh, path)
        except (OSError, pa.ArrowException) as error:
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
            remedy = "Nothing was changed there. Free some space, mend the permissions, or choose another place."
            raise DataError(f"cannot be written: {why}", path=path, remedy=remedy) from error
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _write(self, folder: Path) -> None:
        files = {}
        for table in _TABLES:
            file = folder / f"{table}.parquet"
            with file.open("wb") as handle:  # Arrow itself opens no path that is not UTF-8
                pq.write_table(pa.Table.from_pandas(getattr(self, table), preserve_index=False), handle)
            files[file.name] = {"sha256": _sha256(file.read_bytes()), "bytes": file.stat().st_size}
        about = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "digest": self.digest,
            "counts": _counts(self),
            "split_strategy": self.split_strategy,
            "options": dict(self.options),
            "sources": dict(self.sources),
            "report": dict(self.report),
            "files": files,
        }
        # ASCII, for names of folders and files that are not UTF-8
        (folder / "dataset.json").write_text(json.dumps(about, indent=1) + "\n", encoding="ascii")

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
    about = _read_about(path)
    tables: dict[str, Any] = {}
    for table, columns in _TABLES.items():
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
    if verify and (dataset.digest != about["digest"] or _counts(dataset) != about["counts"]):
        raise IntegrityError(
            "digest or counts differ from those of the tables", path=path / "dataset.json", remedy=_AGAIN
        )
    return dataset


def _noted_digest(about: Mapping[str, Any], file: Path) -> Any:
    noted = about["files"].get(file.name)
    return noted.get("sha256") if isinstance(noted, dict) else None


_AGAIN = "Run 'hakg preprocess' again; runs trained on the earlier data do not belong to the changed one."


def _read_about(path: Path) -> dict[str, Any]:
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
    frame = frame.astype(dict.fromkeys(limits, np.int64))
    keys = [frame[column].to_numpy() for column in limits]
    if math.prod(limits.values()) < 2**63:  # one key a row sorts several times faster than columns one by one
        packed = keys[0]
        for key, limit in zip(keys[1:], list(limits.values())[1:], strict=True):
            packed = packed * limit + key
        keys = [packed]
    if len(keys) == 1 and (np.diff(keys[0]) > 0).all():
        return frame.reset_index(drop=True)
    order = np.argsort(keys[0]) if len(keys) == 1 else np.lexsort(keys[::-1])
    repeated = np.logical_and.reduce([np.diff(key[order]) == 0 for key in keys])
    if repeated.any():
        twice = frame.iloc[order[np.argmax(repeated) :][:2]]
        row = tuple(int(value) for value in twice[list(limits)].iloc[0])
        where = " and ".join(map(repr, sorted(set(twice["split"])))) if table == "interactions" else ""
        problem = f"{table}: {tuple(limits)} = {row} occurs twice" + (f", in {where}" if where else "")
        raise DataError(problem, remedy="Drop repeats; splits are disjoint.")
    return frame.iloc[order].reset_index(drop=True)


def _counts(dataset: Dataset) -> dict[str, int]:
    splits = dataset.interactions["split"].value_counts()
    return {
        "users": dataset.n_users,
        "items": dataset.n_items,
        "entities": dataset.n_entities,
        "relations": dataset.n_relations,
        "triples": len(dataset.triples),
        "interactions": len(dataset.interactions),
        **{split: int(splits.get(split, 0)) for split in SPLITS},
    }


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
    foreign = entries - {"dataset.json", *(f"{table}.parquet" for table in _TABLES)}
    if foreign:
        raise DataError(f"holds other files, such as {sorted(foreign)[0]!r}", path=path, remedy=remedy)
    if entries:
        try:
            ours = json.loads((path / "dataset.json").read_bytes()).get("format") == FORMAT
        except (OSError, ValueError, AttributeError, RecursionError):
            ours = False
        if not ours:
            raise DataError("exists and is not a data set", path=path, remedy=remedy)


def _take_place(fresh: Path, path: Path) -> None:
    """Rename ``fresh`` to ``path``; what stood there returns if that fails."""
    if not path.exists():
        fresh.rename(path)
        return
    old = fresh.with_suffix(".old")
    path.rename(old)
    try:
        fresh.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


# --- what `hakg info` shows -------------------------------------------------------------------------------------------


def summary(dataset: Dataset) -> dict[str, Any]:
    """Sizes, degrees, coverage and relations of a data set, as JSON values.

    Returns
    -------
    dict
        - ``name``, ``digest``, ``split_strategy``, ``counts``, ``report``;
        - ``density``: interactions / (users x items);
        - ``user_degree``, ``item_degree``: mean and quantiles of training interactions;
        - ``linked_items``: items with at least one triple;
        - ``cold_items``: items of the test split without training interaction; ``items_without_training``: all such;
        - ``users_without_training``;
        - ``self_loops``: triples from an entity to itself;
        - ``isolated_entities``: entities that are no item and have no triple;
        - ``relations``: see :func:`relation_table`, one dict each.
    """
    users, items = dataset.pairs("train").T
    user_degree = np.bincount(users, minlength=dataset.n_users)
    item_degree = np.bincount(items, minlength=dataset.n_items)
    head, tail = (dataset.triples[end].to_numpy() for end in ("head", "tail"))
    has_triple = np.zeros(dataset.n_entities, dtype=bool)
    has_triple[head] = has_triple[tail] = True
    test_items = np.unique(dataset.pairs("test")[:, 1])
    cells = dataset.n_users * dataset.n_items
    return {
        "name": dataset.name,
        "digest": dataset.digest,
        "split_strategy": dataset.split_strategy,
        "counts": _counts(dataset),
        "density": len(dataset.interactions) / cells if cells else 0.0,
        "user_degree": _distribution(user_degree),
        "item_degree": _distribution(item_degree),
        "linked_items": int(has_triple[: dataset.n_items].sum()),
        "cold_items": int((item_degree[test_items] == 0).sum()),
        "items_without_training": int((item_degree == 0).sum()),
        "users_without_training": int((user_degree == 0).sum()),
        "self_loops": int((head == tail).sum()),
        "isolated_entities": int((~has_triple[dataset.n_items :]).sum()),
        "relations": relation_table(dataset).to_dict("records"),
        "report": dict(dataset.report),
    }


def facts_of(dataset: Dataset) -> Triples:
    """The triples of a data set as :mod:`~hakg_dgl.data.hierarchy` takes them."""
    head, relation, tail = (dataset.triples[column].to_numpy() for column in _TABLES["triples"])
    return Triples(head, relation, tail, dataset.n_items, dataset.n_entities, dataset.n_relations)


def relation_table(dataset: Dataset) -> pd.DataFrame:
    """One row a relation, in index order: :func:`~hakg_dgl.data.hierarchy.relation_statistics` with ``name``."""
    table = relation_statistics(facts_of(dataset))
    table.insert(1, "name", dataset.relations["name"].tolist())
    return table


def _distribution(degree: npt.NDArray[Any]) -> dict[str, float]:
    if not len(degree):
        return {}
    marks = {"min": 0.0, "p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99, "max": 1.0}
    values = np.quantile(degree, list(marks.values()))
    return {"mean": float(degree.mean()), **{mark: float(value) for mark, value in zip(marks, values, strict=True)}}
