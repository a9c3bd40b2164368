"""Original ids <-> indices, with names: one :class:`IdMap` each for users, items, entities and relations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hakg_dgl.errors import DataError


@dataclass(frozen=True, eq=False)
class IdMap:
    """The one owner of a numbering: index ``i`` stands for ``original_ids[i]``.

    Attributes
    ----------
    original_ids
        Distinct ids as the source has them, text; their position is the index.
    names
        Readable names in the same order; where the source has none, the original id.
    """

    original_ids: pd.Index[str]
    names: pd.Series[str]

    def __post_init__(self) -> None:
        if len(self.original_ids) != len(self.names):
            raise DataError(f"{len(self.original_ids)} ids but {len(self.names)} names")

    def __len__(self) -> int:
        return len(self.original_ids)

    @classmethod
    def from_values(cls, values: Iterable[Any], names: pd.DataFrame | None = None) -> IdMap:
        """Number the distinct values, sorted: as numbers if all are integers, otherwise as text.

        Sorting makes the numbering independent of the order of rows in the source.
        """
        unique = (values if isinstance(values, pd.Series) else pd.Series(list(values), dtype=object)).drop_duplicates()
        ids = unique.astype(str).drop_duplicates()
        # leading zeros and signs would make two ids equal as numbers
        numeric = bool(ids.str.fullmatch(r"0|[1-9][0-9]{0,17}").all())
        return cls.from_ids(ids.iloc[np.argsort(ids.to_numpy(dtype=np.int64 if numeric else object))], names)

    @classmethod
    def from_ids(cls, original_ids: Iterable[str], names: pd.DataFrame | None = None) -> IdMap:
        """Number ids in the order given; ``names`` has columns ``id`` and ``name`` and need not cover all ids."""
        ids = pd.Series(list(original_ids), dtype=object).astype(str)
        if names is None:
            return cls(pd.Index(ids), ids)
        table = pd.Series(names["name"].to_numpy(), index=names["id"].astype(str))
        return cls(pd.Index(ids), _filled(table[~table.index.duplicated()].reindex(ids), ids))

    @classmethod
    def from_indices(cls, size: int, names: pd.DataFrame | None = None, *, unnamed: str = "") -> IdMap:
        """The numbering of files whose ids are row numbers already (the KGAT layout): nothing is renumbered.

        Parameters
        ----------
        size
            Number of indices.
        names
            Columns ``id`` (the row number), ``original_id`` (optional) and ``name``; rows beyond ``size`` are ignored.
        unnamed
            Put before the index to name what has no name (``relation_``).
        """
        numbers = pd.Series(np.arange(size)).astype(str)
        fallback = unnamed + numbers
        if names is None:
            return cls(pd.Index(numbers), fallback)
        table = names.drop_duplicates("id").set_index("id").reindex(range(size))
        original = _filled(table["original_id"], numbers) if "original_id" in table else numbers
        return cls(pd.Index(original), _filled(table["name"], fallback))

    def indices(self, values: Iterable[Any]) -> npt.NDArray[np.int64]:
        """Indices of original ids, int64 of the same length; -1 where an id is unknown."""
        wanted = values if isinstance(values, pd.Series) else pd.Series(list(values), dtype=object)
        if isinstance(wanted.dtype, pd.CategoricalDtype):
            codes, unique = wanted.cat.codes.to_numpy(), wanted.cat.categories
        else:
            codes, unique = pd.factorize(wanted)
        known = self._first.reindex(pd.Index(unique).astype(str), fill_value=-1).to_numpy(dtype=np.int64)
        return np.append(known, -1)[codes]  # code -1 marks a missing value

    def index(self, original_id: Any, what: str = "row") -> int:
        """Index of one original id; ``what`` it is an id of is for the message.

        Raises
        ------
        DataError
            If there is no such id; the message shows a few that exist.
        """
        found = int(self.indices([original_id])[0])
        if found < 0:
            raise DataError(
                f"there is no {what} with the id {str(original_id)!r}",
                remedy=f"Ids look like these: {', '.join(map(repr, self.original_ids[:5]))}.",
            )
        return found

    def frame(self) -> pd.DataFrame:
        """Columns ``original_id`` and ``name``; row ``i`` is index ``i``."""
        return pd.DataFrame({"original_id": self.original_ids.tolist(), "name": self.names.tolist()})

    @cached_property
    def _first(self) -> pd.Series[int]:
        positions = pd.Series(np.arange(len(self), dtype=np.int64), index=self.original_ids.astype(str))
        return positions[~positions.index.duplicated()]


def _filled(values: pd.Series[Any], fallback: pd.Series[str]) -> pd.Series[str]:
    """``values`` by position, with the fallback where one is missing or blank."""
    text = values.reset_index(drop=True).astype(object)
    known = text.notna() & (text.astype(str).str.strip() != "")
    return text.where(known, fallback.astype(object)).astype(str)
