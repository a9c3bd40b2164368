"""CSV, TSV and Parquet tables with named columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.data.readers.repairs import one_to_one, some_rows, without_repeats
from hakg_dgl.data.readers.source_table import read_table


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
    table = read_table(interactions, digests)
    frame = table.ids({"user": user_col, "item": item_col}, report, "interactions_without_id_dropped")
    for column, source in (("rating", rating_col), ("timestamp", timestamp_col)):
        if source is not None:
            frame[column] = table.floats(source, dates=column == "timestamp")
    if split_col is not None:
        frame["split"] = table.splits(split_col)
    frame = some_rows(frame.dropna(subset=["user", "item"]), table.path)

    kg = read_table(triples, digests)
    columns = {"head": head_col, "relation": relation_col, "tail": tail_col}
    facts = without_repeats(kg.ids(columns, report, "triples_without_id_dropped"), report, "triple_repeats_dropped")
    if links is None:
        items = frame["item"].drop_duplicates().reset_index(drop=True)
        item_entity = pd.DataFrame({"item": items, "entity": items})
    else:
        columns = {"item": link_item_col, "entity": link_entity_col}
        link_frame = read_table(links, digests).ids(columns, report, "links_without_id_dropped")
        item_entity = one_to_one(link_frame.dropna(), report)
    names = None
    if item_names is not None:
        names = read_table(item_names, digests).ids({"id": name_item_col, "name": name_col}, {}, "")
        names = names.dropna().drop_duplicates("id").reset_index(drop=True)
    return RawData(
        name=name or Path(interactions).name.split(".")[0],
        interactions=frame,
        triples=some_rows(facts, kg.path),
        item_entity=item_entity,
        items=names,
        sources=digests,
        report=report,
    )
