"""The layout of KGCN, RippleNet, MKR and CKAN: ``ratings_final`` with labels 0 and 1, ``kg_final``; text or NumPy."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from hakg_dgl.data.readers.archives import SourceFiles, existing_folder, locate, parts_of
from hakg_dgl.data.readers.kgat import ID_LIMIT, integer_lines, read_number_triples, refuse_gaps
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.data.readers.text import counted, refuse_empty
from hakg_dgl.errors import DataError

Int64 = npt.NDArray[np.int64]

_LINE = "A line is: user item label, the label 0 or 1."


def read_kgcn(folder: str | Path, *, name: str | None = None) -> RawData:
    """Read the KGCN layout; its ids are row numbers and stay as they are (item ``i`` is entity ``i``).

    ``ratings_final`` holds user, item and label a row, ``kg_final`` (or its parts, ``kg_final_1.txt`` and so on) head,
    relation and tail, each as ``.txt`` or ``.npy`` and perhaps packed. ``item_index2entity_id.txt`` gives original ids
    of items. Where a file is there as both, the text is read.

    Rows of label 0 are pairs that somebody drew as negatives. They are left out and counted
    (``rows_of_label_0_left_out``); the package draws its own.

    Raises
    ------
    DataError
        A file is missing, empty or damaged; a value is not an integer in 0..2**31-1; a label is neither 0 nor 1; ids
        leave such gaps that embeddings would be mostly unused rows.
    """
    folder = existing_folder(folder)
    files = SourceFiles(folder)
    ratings = _rows(files, "ratings_final", _LINE)
    wrong = np.flatnonzero(ratings[:, 2] > 1)
    if len(wrong):
        raise DataError(
            f"row {int(wrong[0])} (from 0): label {int(ratings[wrong[0], 2])} is neither 0 nor 1",
            path=folder / "ratings_final",
            remedy=f"{_LINE}\nFor ratings use 'tables' with --rating-col and --rating-threshold.",
        )
    positive = ratings[ratings[:, 2] == 1]
    if not len(positive):
        raise DataError("every label is 0", path=folder / "ratings_final", remedy=_LINE)
    triples = _rows(files, "kg_final", "A line is: head relation tail.")
    repeated = pd.DataFrame(triples).duplicated().to_numpy()
    for kind, ids in (
        ("user", ratings[:, 0]),
        ("item", ratings[:, 1]),
        ("relation", triples[:, 1]),
        ("entity", np.concatenate([ratings[:, 1], triples[:, 0], triples[:, 2]])),
    ):
        refuse_gaps(kind, ids, folder)
    report = {
        "rows_of_label_0_left_out": len(ratings) - len(positive),
        "triple_repeats_dropped": int(repeated.sum()),
    }
    items = _item_names(files)
    known = 0 if items is None else int(items["id"].max()) + 1
    return RawData(
        name=name or folder.resolve().name,
        interactions=pd.DataFrame({"user": positive[:, 0], "item": positive[:, 1]}),
        triples=pd.DataFrame(triples[~repeated], columns=["head", "relation", "tail"]),
        items=items,
        sources=files.digests,
        report=report,
        ids_are_indices=True,
        counts={"users": int(ratings[:, 0].max()) + 1, "items": max(known, int(ratings[:, 1].max()) + 1)},
    )


def _rows(files: SourceFiles, stem: str, remedy: str) -> Int64:
    """Three integers a row [n, 3], from text, an array, or their parts."""
    names = [f"{stem}{end}" for end in (".txt", ".npy") if locate(files.folder, f"{stem}{end}") is not None][:1]
    if not names:
        names = parts_of(files.folder, stem, ".txt") or parts_of(files.folder, stem, ".npy") or [f"{stem}.txt"]
    parts = []
    for name in names:
        path, data = files.read(name)
        parts.append(_array(path, data, remedy) if name.endswith(".npy") else read_number_triples(path, data))
    return np.concatenate(parts)


def _array(path: Path, data: bytes, remedy: str) -> Int64:
    """The rows of a NumPy file; nothing in it can run code, and its header is checked against its size first."""
    refuse_empty(path, data)
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(stream)
        if kind.hasobject:
            raise ValueError("it holds Python objects")
        if math.prod(shape) * kind.itemsize != len(data) - stream.tell():
            raise ValueError(f"it says {math.prod(shape):,} values, and holds {len(data) - stream.tell():,} bytes")
        stream.seek(0)
        values = np.lib.format.read_array(stream, allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError, TypeError, MemoryError, OverflowError) as error:
        problem = f"not a readable NumPy file: {str(error).partition(chr(10))[0][:160]}"
        raise DataError(problem, path=path, remedy="Write it again by numpy.save.") from error
    if values.ndim != 2 or values.shape[1] != 3 or not len(values):
        what = "x".join(map(str, values.shape)) or "one value"
        raise DataError(f"an array of {what}, not rows of three numbers", path=path, remedy=remedy)
    if values.dtype.kind not in "iuf" or (values.dtype.kind == "f" and not (values % 1 == 0).all()):
        raise DataError(f"holds {values.dtype}, not integers", path=path, remedy=remedy)
    wrong = np.flatnonzero(((values < 0) | (values >= ID_LIMIT)).any(axis=1))
    if len(wrong):
        row = ", ".join(map(str, values[wrong[0]].tolist()))
        problem = f"row {int(wrong[0])} (from 0): {row} are not all in 0..2**31-1"
        raise DataError(problem, path=path, remedy="Number ids from 0 without gaps.")
    integers: Int64 = values.astype(np.int64)
    return integers


def _item_names(files: SourceFiles) -> pd.DataFrame | None:
    """Original ids of items, if the file is there: an original id and an item's number a line."""
    if locate(files.folder, "item_index2entity_id.txt") is None:
        return None
    path, data = files.read("item_index2entity_id.txt")
    values, _, counts = integer_lines(path, data)
    wrong = np.flatnonzero(counts != 2)
    if len(wrong):
        problem = f"{counted(int(counts[wrong[0]]), 'number')} instead of two"
        raise DataError(problem, path=path, line=int(wrong[0]) + 1, remedy="A line is: original id, number.")
    refuse_gaps("item", values[1::2], path)
    original = pd.Series(values[::2]).astype(str)
    names = pd.DataFrame({"id": values[1::2], "original_id": original, "name": original})
    return names.drop_duplicates("id").reset_index(drop=True)
