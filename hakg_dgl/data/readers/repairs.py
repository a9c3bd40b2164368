"""Repairs that several readers share: each is counted in the report."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hakg_dgl.errors import DataError


def one_to_one(links: pd.DataFrame, report: dict[str, int]) -> pd.DataFrame:
    """Keep the first entity of an item and the first item of an entity."""
    links = links.drop_duplicates()
    first = ~links["item"].duplicated()
    report["links_of_an_item_linked_twice_dropped"] = int((~first).sum())
    links = links[first]
    own = ~links["entity"].duplicated()
    report["links_to_an_entity_already_taken_dropped"] = int((~own).sum())
    return links[own].reset_index(drop=True)


def without_repeats(triples: pd.DataFrame, report: dict[str, int], key: str) -> pd.DataFrame:
    """Drop incomplete rows, and rows that occurred before; the latter are counted in ``report[key]``."""
    triples = triples.dropna()
    unique = triples.drop_duplicates().reset_index(drop=True)
    report[key] = len(triples) - len(unique)
    return unique


def some_rows(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The frame with rows numbered from 0; DataError if it has none."""
    require_rows(len(frame) > 0, path)
    return frame.reset_index(drop=True)


def require_rows(some: bool, path: Path) -> None:
    """Raise DataError where there are no rows."""
    if not some:
        raise DataError(
            "no row has all its ids", path=path, remedy="Check that the right columns are read, and are not empty."
        )
