"""A data set of three users and four items, written out."""

from __future__ import annotations

import pandas as pd

from hakg_dgl.data.dataset import Dataset


def named(*ids: str) -> pd.DataFrame:
    return pd.DataFrame({"original_id": ids, "name": [f"name {i}" for i in ids]})


INTERACTIONS = [(2, 0, "test"), (0, 1, "train"), (0, 0, "valid"), (0, 3, "train"), (1, 0, "train"), (1, 2, "test")]
TRIPLES = [(5, 1, 5), (0, 0, 4), (1, 0, 4), (2, 0, 4), (4, 1, 5)]


def toy(interactions=INTERACTIONS, triples=TRIPLES, **changed) -> Dataset:
    return Dataset(
        **{
            "name": "toy",
            "interactions": pd.DataFrame(interactions, columns=["user", "item", "split"]),
            "triples": pd.DataFrame(triples, columns=["head", "relation", "tail"]),
            "users": named("u0", "u1", "ü2"),
            "items": named("i0", "i1", "i2", "i3"),
            "entities": named("i0", "i1", "i2", "i3", "genre", "root"),
            "relations": named("has", "part"),
            "options": {"seed": 1},
            "sources": {"a.txt": {"sha256": "00", "bytes": 1}},
            "report": {"dropped": 3},
            "split_strategy": "random",
        }
        | changed
    )
