"""A model's ranking as one file for another program: an index of FAISS or hnswlib, or an ONNX graph; ids beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hakg_dgl.atomic_files import replace_file, write_json
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError, DataError, MissingDependencyError
from hakg_dgl.insight.export import ranking_vectors_of
from hakg_dgl.insight.onnx_graph import IR_VERSION, OPSET, ranking_graph
from hakg_dgl.models.recommender import Recommender
from hakg_dgl.randomness import numpy_generator
from hakg_dgl.ranking.index import LEAST_RECALL, SAMPLED
from hakg_dgl.ranking.topk import EmbeddingScorer

FORMAT, FORMAT_VERSION = "hakg-program-file", 1
_CUT = 100
"""Length of the lists by which recall is measured."""
_LINKS, _BREADTH = 16, 200
"""Of hnswlib's graph: links of an item, and candidates while it is built."""

Float32 = npt.NDArray[np.float32]


def export_to(
    program: str, model: Recommender | EmbeddingScorer, dataset: Dataset, out: str | Path,
    *, about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the ranking of a model that has vectors as a file of another program.

    Beside ``out`` lie ``out`` + ``.items.parquet`` and ``.users.parquet``, whose row i has the ``original_id`` and
    ``name`` of number i, and ``out`` + ``.json``, which says what the file is. For an index, the table of users has
    their vectors too, in a column ``ranking``. The scores are inner products. docs/export.md shows how to read each.

    Parameters
    ----------
    program
        ``faiss``: an exact index (``IndexFlatIP``). ``hnswlib``: a graph that is searched approximately, in the space
        ``ip``, with the breadth of search (``ef``) that finds 95% of the exact hundred best on a sample of users.
        ``onnx``: a graph of :func:`~hakg_dgl.insight.onnx_graph.ranking_graph`.
    model
        A trained model with vectors, or an :class:`~hakg_dgl.ranking.topk.EmbeddingScorer`.
    dataset
        The data set it was trained on.
    out
        The file; one that is there is replaced. The description is written last.
    about
        Further JSON values for the description.

    Returns
    -------
    dict
        The description.

    Raises
    ------
    ConfigError
        If there is no such program, or the model ranks without vectors.
    DataError
        If ``out`` is a folder, or the vectors are not of this data set.
    MissingDependencyError
        If the program's package is not installed.
    OSError
        If the files cannot be written.
    """
    if program not in _WRITERS:
        raise ConfigError(f"there is no program {program!r} to export to; choose one of {', '.join(_WRITERS)}")
    out = Path(out)
    if out.is_dir():
        raise DataError("is a folder", path=out, remedy="Name a file.")
    users, items = ranking_vectors_of(model, dataset)
    write, told = _WRITERS[program](users, items)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, write)
    files = [out]
    for table, vectors in (("items", None), ("users", None if program == "onnx" else users)):
        files.append(out.with_name(f"{out.name}.{table}.parquet"))
        replace_file(files[-1], _table_writer(dataset, table, vectors))
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "program": program,
        **told,
        "dim": int(items.shape[1]),
        "counts": {"users": len(users), "items": len(items)},
        "data": {"name": dataset.name, "digest": dataset.digest},
        "files": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
        **(about or {}),
    }
    write_json(out.with_name(f"{out.name}.json"), description)
    return description


Written = tuple[Callable[[Path], None], dict[str, Any]]
"""What writes the file, and what is told of it."""


def _faiss_index(users: Float32, items: Float32) -> Written:
    try:
        import faiss
    except ImportError as error:
        raise MissingDependencyError(f"this file needs FAISS ({error}): pip install 'hakg_dgl[index]'") from error
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items)
    told = {"index": "IndexFlatIP", "metric": "inner product", "exact": True}
    return lambda path: faiss.write_index(index, str(path)), told


def _hnswlib_index(users: Float32, items: Float32) -> Written:
    try:
        import hnswlib
    except ImportError as error:
        raise MissingDependencyError(
            f"this file needs hnswlib ({error}): pip install 'hakg_dgl[hnswlib]', which needs a compiler of C++"
        ) from error
    index = hnswlib.Index(space="ip", dim=items.shape[1])
    index.init_index(max_elements=len(items), ef_construction=_BREADTH, M=_LINKS, random_seed=1)
    index.add_items(items, np.arange(len(items)), num_threads=1)  # by one thread, so that the graph is always the same
    sample = users[numpy_generator(0, "hnswlib sample").permutation(len(users))[:SAMPLED]]
    setting, judging = (sample[::2], sample[1::2]) if len(sample) > 1 else (sample, sample)
    cut = min(_CUT, len(items))
    breadth = cut
    while True:
        index.set_ef(breadth)
        if breadth >= len(items) or _recall(index, setting, items, cut) >= LEAST_RECALL:
            break
        breadth = min(len(items), 2 * breadth)
    told = {
        "space": "ip",
        "distance": "1 - inner product",
        "exact": False,
        "ef": breadth,
        "M": _LINKS,
        "ef_construction": _BREADTH,
        "recall": {"value": _recall(index, judging, items, cut), "cut": cut, "users": len(judging)},
    }
    return lambda path: index.save_index(str(path)), told


def _onnx_graph(users: Float32, items: Float32) -> Written:
    from importlib.metadata import version

    model = ranking_graph(users, items, version("hakg_dgl"))

    def write(path: Path) -> None:
        path.write_bytes(model.SerializeToString())

    return write, {"opset": OPSET, "ir_version": IR_VERSION}


_WRITERS: Mapping[str, Callable[[Float32, Float32], Written]] = {
    "faiss": _faiss_index,
    "hnswlib": _hnswlib_index,
    "onnx": _onnx_graph,
}
PROGRAMS = tuple(_WRITERS)
"""Programs that there are files for."""


def _recall(index: Any, users: Float32, items: Float32, cut: int) -> float:
    """Mean share of the exact ``cut`` best items that the index finds."""
    found = index.knn_query(users, k=cut, num_threads=1)[0]
    exact = np.argpartition(-(users @ items.T), cut - 1, axis=1)[:, :cut]
    return float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, exact, strict=True)])) / cut


def _table_writer(dataset: Dataset, table: str, vectors: Float32 | None) -> Callable[[Path], None]:
    rows = pa.Table.from_pandas(getattr(dataset, table)[["original_id", "name"]], preserve_index=False)
    if vectors is not None:
        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        rows = rows.append_column("ranking", lists)

    def write(path: Path) -> None:
        with path.open("wb") as handle:  # Arrow itself opens no path that is not UTF-8
            pq.write_table(rows, handle)

    return write
