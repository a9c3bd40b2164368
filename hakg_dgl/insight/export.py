"""Embeddings and id maps for other programs: Parquet, ``.npy``, and a manifest that describes the files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hakg_dgl.atomic_files import recover_folder, replace_folder
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.models.recommender import Recommender
from hakg_dgl.models.registry import models_that
from hakg_dgl.ranking.topk import EmbeddingScorer

FORMAT, FORMAT_VERSION = "hakg-export", 1
MANIFEST = "manifest.json"

Array = npt.NDArray[Any]

_MEANING = {
    "ranking": "inner products of user and item rows rank as the model does",
    "parameters": "trained parameters, tangent vectors at the origin",
    "propagated": "sums over layers after propagation, tangent vectors at the origin",
    "collaborative_parameters": "trained parameters of the items' collaborative embeddings",
    "collaborative_propagated": "sums over layers of the items' collaborative embeddings",
}


def export(
    model: Recommender | EmbeddingScorer, dataset: Dataset, out: str | Path, *, about: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write a model's vectors and the data set's ids to a folder.

    Each table (``users``, ``items``, ``entities``, ``relations``) is a Parquet file with ``original_id``, ``name`` and
    a column of fixed-size lists for each kind of vector. Row i has number i. Each such column is also a ``.npy`` file,
    such as ``users.ranking.npy`` for ``ranking`` of ``users``. docs/export.md lists the files.

    Parameters
    ----------
    model
        A trained model with vectors, or an :class:`~hakg_dgl.ranking.topk.EmbeddingScorer`; of the latter only the
        ranking vectors are written.
    dataset
        The data set it was trained on.
    out
        The folder. An earlier export is replaced, anything else is refused. The files are written to another folder,
        which is then renamed, so the export is whole or absent.
    about
        Further JSON values for the manifest.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    ConfigError
        If the model has no such vectors.
    DataError
        If ``out`` holds anything but an export, or the vectors are not of this data set.
    OSError
        If the folder cannot be written.
    """
    out = Path(out)
    recover_folder(out)
    refuse_foreign(out)
    vectors = _vectors(model)
    tables = {table: getattr(dataset, table) for table in ("users", "items", "entities", "relations")}
    tables["relations"] = _with_inverses(dataset.relations)
    _check_lengths(tables, vectors)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "data": {"name": dataset.name, "digest": dataset.digest},
        "counts": {table: len(rows) for table, rows in tables.items()},
        "meaning": {name: text for name, text in _MEANING.items() if any(name in of for of in vectors.values())},
    }

    def write(folder: Path) -> None:
        manifest.update(files=_write_tables(folder, tables, vectors), **(about or {}))
        text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")

    try:
        replace_folder(out, write)
    except OSError as error:
        error.filename = str(out)
        raise
    return manifest


def refuse_foreign(out: Path) -> None:
    """Raise DataError unless ``out`` is free, an empty folder or an earlier export with nothing else in it."""
    if not out.exists() and not out.is_symlink():
        return
    remedy = "Choose another place, or empty it yourself."
    if not out.is_dir() or out.is_symlink():
        problem = "is a link, which is not replaced" if out.is_symlink() else "exists and is not a folder"
        raise DataError(problem, path=out, remedy=remedy)
    entries = {entry.name for entry in out.iterdir()}
    if not entries:
        return
    try:
        manifest = json.loads((out / MANIFEST).read_bytes())
        ours = {MANIFEST, *manifest["files"]} if manifest["format"] == FORMAT else set()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # the last: JSON that is nested too deeply
        ours = set()
    if foreign := sorted(entries - ours):
        raise DataError(f"holds something else than an export, such as {foreign[0]!r}", path=out, remedy=remedy)


def ranking_vectors_of(model: Recommender | EmbeddingScorer, dataset: Dataset) -> tuple[Array, Array]:
    """The vectors of users ``[n_users, d]`` and of items ``[n_items, d]`` whose inner products rank, float32.

    Raises
    ------
    ConfigError
        If the model ranks without vectors.
    DataError
        If they are not of this data set.
    """
    vectors = {
        table: {"ranking": columns["ranking"]} for table, columns in _vectors(model).items() if "ranking" in columns
    }
    _check_lengths({table: getattr(dataset, table) for table in vectors}, vectors)
    users, items = (np.ascontiguousarray(vectors[table]["ranking"], dtype=np.float32) for table in ("users", "items"))
    return users, items


def _vectors(model: Recommender | EmbeddingScorer) -> dict[str, dict[str, Array]]:
    """Table -> name of the vectors -> array ``[rows, d]``."""
    if isinstance(model, EmbeddingScorer):
        tables = {"users": {"ranking": model.user_vectors}, "items": {"ranking": model.item_vectors}}
    elif isinstance(model, Recommender) and model.abilities.vectors:
        tables = model.vector_tables()
    else:
        raise ConfigError(
            f"{_named(model)} ranks without vectors of users and items, so there are none to export; "
            f"models that have vectors: {', '.join(models_that('vectors'))}"
        )
    return {
        table: {name: np.ascontiguousarray(values.detach().cpu().numpy()) for name, values in columns.items()}
        for table, columns in tables.items()
    }


def _check_lengths(tables: Mapping[str, pd.DataFrame], vectors: Mapping[str, Mapping[str, Array]]) -> None:
    """Raise DataError unless each kind of vector has a row for each row of its table."""
    for table, columns in vectors.items():
        for name, values in columns.items():
            if len(values) != len(tables[table]):
                raise DataError(
                    f"{name} vectors of {len(values)} {table}, but the data set has {len(tables[table])}",
                    remedy="Give the data set that the model was trained on.",
                )


def _named(model: object) -> str:
    return f"model {model.name!r}" if isinstance(model, Recommender) else f"a {type(model).__name__}"


def _with_inverses(relations: pd.DataFrame) -> pd.DataFrame:
    """Relations 0..R-1 and their inverses R..2R-1, as the model numbers them."""
    twice = pd.concat([relations, relations], ignore_index=True)
    return twice.assign(inverse=np.arange(len(twice)) >= len(relations))


def _write_tables(
    folder: Path, tables: Mapping[str, pd.DataFrame], vectors: Mapping[str, Mapping[str, Array]]
) -> dict[str, Any]:
    """Write all files; returns what the manifest says of each."""
    files: dict[str, Any] = {}
    for table, rows in tables.items():
        columns = vectors.get(table, {})
        whole = pa.Table.from_pandas(rows, preserve_index=False)
        for name, values in columns.items():
            file = f"{table}.{name}.npy"
            _save_array(folder / file, values)
            files[file] = {"shape": list(values.shape), "dtype": str(values.dtype)}
            lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
            whole = whole.append_column(name, lists)
        pq.write_table(whole, folder / f"{table}.parquet")
        files[f"{table}.parquet"] = {"rows": len(rows), "columns": whole.column_names}
    return files


def _save_array(file: Path, values: Array) -> None:
    """Write an array in C order as ``.npy``; ``numpy.save`` does the same, but its errors do not tell a full disk."""
    with file.open("wb") as handle:
        np.lib.format.write_array_header_1_0(handle, np.lib.format.header_data_from_array_1_0(values))
        handle.write(values.data)
