"""Which layout a folder has."""

from __future__ import annotations

from pathlib import Path

from hakg_dgl.data.readers.archives import existing_folder, locate, parts_of
from hakg_dgl.data.readers.recbole import atomic_stems
from hakg_dgl.errors import DataError


def detect_format(folder: str | Path) -> str:
    """Tell the layout of a folder: ``'kgat'``, ``'kgcn'`` or ``'recbole'``.

    Raises
    ------
    DataError
        If the folder does not exist, or has none of them, or several.
    """
    folder = existing_folder(folder)
    graph = locate(folder, "kg_final.txt") is not None or bool(parts_of(folder, "kg_final", ".txt"))
    layouts = {
        "kgat": locate(folder, "train.txt") is not None and graph,
        "kgcn": any(locate(folder, f"ratings_final{end}") is not None for end in (".txt", ".npy")),
        "recbole": bool(atomic_stems(folder)),
    }
    here = [layout for layout, is_here in layouts.items() if is_here]
    if len(here) == 1:
        return here[0]
    found = sorted(entry.name for entry in folder.iterdir())[:12]
    if here:
        called = {"kgat": "KGAT", "kgcn": "KGCN", "recbole": "RecBole"}
        problem = (
            ("both " if len(here) == 2 else "") + " and ".join(f"the {called[layout]}" for layout in here) + " layout"
        )
        remedy = f"Say which to read (--format {' or '.join(here)})."
    else:
        problem = f"no known layout: the folder {'holds ' + ', '.join(map(repr, found)) if found else 'is empty'}"
        remedy = (
            "A KGAT folder holds train.txt, test.txt and kg_final.txt, a RecBole folder NAME.inter, NAME.kg and "
            "NAME.link,\na KGCN folder ratings_final.txt and kg_final.txt.\nFor CSV, TSV or Parquet files use 'tables'."
        )
    raise DataError(problem, path=folder, remedy=remedy)
