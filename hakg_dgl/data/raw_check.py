"""Checks :class:`~hakg_dgl.data.readers.raw.RawData` that somebody made without a reader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.errors import DataError

_COLUMNS = {
    "interactions": ("user", "item"),
    "triples": ("head", "relation", "tail"),
    "item_entity": ("item", "entity"),
    "user_facts": ("user", "relation", "entity"),
    "user_links": ("user", "relation", "other"),
}


def checked(raw: RawData) -> RawData:
    """The raw data; without links between items and entities, each item is the entity of its own id.

    Raises
    ------
    DataError
        If a column or an id is missing, or a rating or timestamp is not a finite number.
    """
    for name, columns in _COLUMNS.items():
        table: Any = getattr(raw, name)
        if not isinstance(table, pd.DataFrame):
            problem = f"{name} is a {type(table).__name__}, not a DataFrame"
            raise DataError(problem, remedy="read_tables takes files and frames.")
        for column in columns:
            if column not in table:
                found = ", ".join(repr(str(known)) for known in table.columns)
                raise DataError(f"{name} has no column {column!r}; there are: {found}", remedy="Name it so.")
            _refuse_gaps(table[column], name)
    for column in ("rating", "timestamp"):
        if column in raw.interactions:
            _require_numbers(raw.interactions[column])
    if raw.ids_are_indices or len(raw.item_entity):
        return raw
    chosen = raw.interactions["item"].drop_duplicates().astype(object)
    own = pd.concat([chosen, raw.catalogue]).drop_duplicates().reset_index(drop=True)
    return replace(raw, item_entity=pd.DataFrame({"item": own, "entity": own}))


def _refuse_gaps(column: pd.Series[Any], table: str) -> None:
    missing = column.isna().to_numpy()
    if missing.any():
        problem = f"row {int(missing.argmax())} (from 0): {column.name} is missing, as in {int(missing.sum()):,} rows"
        raise DataError(problem, path=Path(table), remedy="Drop these rows; read_tables drops and counts them.")


def _require_numbers(column: pd.Series[Any]) -> None:
    if pd.api.types.is_datetime64_any_dtype(column):
        problem = f"{column.name} holds dates ({column.dtype}), not numbers"
        remedy = "Give seconds since 1970, or the frame to read_tables, which takes dates."
        raise DataError(problem, path=Path("interactions"), remedy=remedy)
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = ~(numbers.abs() < float("inf")).to_numpy(dtype=bool, na_value=False)
    if wrong.any():
        at = int(wrong.argmax())
        problem = f"row {at} (from 0): {column.name} is {column.iloc[at]!r}, not a finite number"
        raise DataError(problem, path=Path("interactions"), remedy="Correct or drop this row.")
