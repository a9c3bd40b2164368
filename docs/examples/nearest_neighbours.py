"""Recommend from exported vectors with a nearest-neighbour index, without this package.

    hakg export runs/demo --out vectors/demo
    python nearest_neighbours.py vectors/demo user_7 10

Needs numpy, pandas, pyarrow and faiss (pip install faiss-cpu). The index is exact, so the lists are those of
`hakg recommend --include-seen`. For large catalogues take faiss.IndexHNSWFlat(d, 32, faiss.METRIC_INNER_PRODUCT), which
is faster and approximate.
"""

import sys
from pathlib import Path

import faiss
import numpy as np
import pandas as pd


def recommend(folder: Path, user: str, k: int) -> pd.DataFrame:
    """The k items with the largest inner product with the user's vector: original id, name, score."""
    users = pd.read_parquet(folder / "users.parquet", columns=["original_id"])["original_id"]
    items = pd.read_parquet(folder / "items.parquet", columns=["original_id", "name"])
    user_vectors = np.load(folder / "users.ranking.npy").astype(np.float32)
    item_vectors = np.load(folder / "items.ranking.npy").astype(np.float32)
    index = faiss.IndexFlatIP(item_vectors.shape[1])
    index.add(item_vectors)
    row = np.flatnonzero(users == user)
    if not len(row):
        raise SystemExit(f"there is no user {user!r}")
    scores, numbers = index.search(user_vectors[row], min(k, len(items)))
    return items.iloc[numbers[0]].assign(score=scores[0])


if __name__ == "__main__":
    print(recommend(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])).to_string(index=False))
