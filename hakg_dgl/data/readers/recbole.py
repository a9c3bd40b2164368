"""RecBole atomic files: ``NAME.inter``, ``NAME.kg``, ``NAME.link`` and, for titles, ``NAME.item``."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from hakg_dgl.data.readers.archives import SourceFiles, existing_folder, locate
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.data.readers.repairs import one_to_one, some_rows, without_repeats
from hakg_dgl.data.readers.source_table import SourceTable
from hakg_dgl.data.readers.text import header_line, shown
from hakg_dgl.errors import DataError

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
        A file or column is missing, a header type is unknown, a rating or timestamp is not a finite number, and so on.
    """
    folder = existing_folder(folder)
    name = name or _only_stem(folder)
    files = SourceFiles(folder)
    report: dict[str, int] = {}

    inter = _atomic_table(*files.read(f"{name}.inter"))
    interactions = inter.ids({"user": "user_id", "item": "item_id"}, report, "interactions_without_id_dropped")
    for column in ("rating", "timestamp"):
        if column in inter.columns:
            interactions[column] = inter.floats(column)
    kg = _atomic_table(*files.read(f"{name}.kg"))
    columns = {"head": "head_id", "relation": "relation_id", "tail": "tail_id"}
    triples = without_repeats(kg.ids(columns, report, "triples_without_id_dropped"), report, "triple_repeats_dropped")
    link = _atomic_table(*files.read(f"{name}.link"))
    links = link.ids({"item": "item_id", "entity": "entity_id"}, report, "links_without_id_dropped")

    items = None
    if locate(folder, f"{name}.item") is not None:
        items = _atomic_titles(_atomic_table(*files.read(f"{name}.item")), title_column, report)
    return RawData(
        name=name,
        interactions=some_rows(interactions.dropna(subset=["user", "item"]), inter.path),
        triples=some_rows(triples, kg.path),
        item_entity=one_to_one(links.dropna(), report),
        items=items,
        sources=files.digests,
        report=report,
    )


def atomic_stems(folder: Path) -> list[str]:
    """Names of the data sets in a folder of atomic files: each has a ``NAME.inter``."""
    found = {entry.name.removesuffix(".gz").removesuffix(".zip") for entry in folder.iterdir()}
    return sorted(entry.removesuffix(".inter") for entry in found if entry.endswith(".inter"))


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
    return SourceTable.from_text(path, data, delimiter="\t", quoted=False, columns=[column for column, _, _ in fields])


def _atomic_titles(table: SourceTable, title_column: str | None, report: dict[str, int]) -> pd.DataFrame | None:
    likely = [column for column in table.columns if re.search("title|name", column, flags=re.IGNORECASE)]
    column = title_column or next(iter(likely), None)
    if column is None:
        return None
    names = table.ids({"id": "item_id", "name": column}, {}, "")
    report["items_without_title"] = int(names["name"].isna().sum())
    return names.dropna().drop_duplicates("id").reset_index(drop=True)
