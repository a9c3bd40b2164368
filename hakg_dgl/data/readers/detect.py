"""Which layout a folder has."""

from __future__ import annotations

from pathlib import Path

from hakg_dgl.data.readers.archives import existing_folder, locate
from hakg_dgl.data.readers.recbole import atomic_stems
from hakg_dgl.errors import DataError


def detect_format(folder: str | Path) -> str:
    """Tell the layout of a folder: ``'kgat'`` or ``'recbole'``.

    Raises
    ------
    DataError
        If the folder does not exist, or is neither or both.
    """
    folder = existing_folder(folder)
    kgat = locate(folder, "train.txt") is not None and locate(folder, "kg_final.txt") is not None
    recbole = bool(atomic_stems(folder))
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
