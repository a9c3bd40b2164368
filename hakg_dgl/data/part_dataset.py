"""One part of a data set as a data set: what a process of a training holds of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.edge_blocks import EDGE_TABLES
from hakg_dgl.data.owners import Owners, owners_of_ends
from hakg_dgl.data.parts import Parts


@dataclass(frozen=True, eq=False)
class PartDataset(Dataset):
    """The edges with an end that a part owns, in the ids of the whole data set. It has no names of users and entities.

    Of the test split it has the interactions of its users, and of the overlap theirs, if it was taken from the whole.

    Attributes
    ----------
    whole
        Sizes of the whole data set, as in its ``dataset.json``.
    whole_digest
        Its digest.
    number
        Which part this is, from 0.
    """

    whole: Mapping[str, int] = field(default_factory=dict)
    whole_digest: str = ""
    number: int = 0

    @property
    def n_users(self) -> int:
        """Number of users of the whole data set."""
        return self.whole["users"]

    @property
    def n_items(self) -> int:
        """Number of its items."""
        return self.whole["items"]

    @property
    def n_entities(self) -> int:
        """Number of its entities."""
        return self.whole["entities"]

    @property
    def counts(self) -> dict[str, int]:
        """Sizes of the whole data set."""
        return dict(self.whole)

    @property
    def digest(self) -> str:
        """Digest of the whole data set."""
        return self.whole_digest


def part_of(dataset: Dataset, owners: Owners, number: int) -> PartDataset:
    """The part of a data set that one of the owners has."""
    tables: dict[str, pd.DataFrame] = {}
    for table in EDGE_TABLES:
        frame = getattr(dataset, table)
        one, other = owners_of_ends(frame, table, owners)
        tables[table] = frame[(one == number) | (other == number)].reset_index(drop=True)
    overlap = dataset.test_overlap
    tables["test_overlap"] = overlap[owners.users[overlap["user"].to_numpy()] == number].reset_index(drop=True)
    tables |= {"relations": dataset.relations, "user_relations": dataset.user_relations}
    return _part(dataset.name, tables, dataset.counts, dataset.digest, number)


def read_part(parts: Parts, number: int) -> PartDataset:
    """One part from its files, without reading the others; errors are those of :meth:`~Parts.part`."""
    tables = {**parts.part(number).edges, **parts.relation_tables()}
    return _part(str(parts.about["data"]["name"]), tables, parts.counts, parts.data_digest, number)


def _part(name: str, tables: Mapping[str, Any], counts: Mapping[str, int], digest: str, number: int) -> PartDataset:
    unnamed = pd.DataFrame({"original_id": [], "name": []}, dtype=object)
    return PartDataset(
        name=name, **tables, users=unnamed, items=unnamed, entities=unnamed,
        whole=dict(counts), whole_digest=digest, number=number,
    )  # fmt: skip
