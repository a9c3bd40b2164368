"""The hierarchy as one HTML page that shows names, searches, and follows children; it fetches nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hakg_dgl.data.dataset import Dataset, Int64
from hakg_dgl.errors import ConfigError
from hakg_dgl.figures.branches import child_edges, largest_branches
from hakg_dgl.figures.disk_layout import Layout, disk_layout
from hakg_dgl.figures.markup import page
from hakg_dgl.figures.popularity import item_popularity
from hakg_dgl.figures.style import CYCLE
from hakg_dgl.models.positions import Positions

LIMIT = 50_000
"""Points that the page draws at most."""

_MOST_EDGES = 200_000


def interactive_page(where: Positions, dataset: Dataset, *, limit: int = LIMIT, title: str | None = None) -> str:
    """The page as text.

    It shows items and the entities above or below them. Of more than ``limit`` it keeps those with the most neighbours
    in the hierarchy, and popular items before others. The page says how many are left out.

    Parameters
    ----------
    where
        Positions of the entities.
    dataset
        The data set with the edges, names and popularity.
    limit
        The largest number of points.
    title
        The title of the page; by default the name of the data set.

    Raises
    ------
    ConfigError
        If ``limit`` is below 1.
    """
    if limit < 1:
        raise ConfigError(f"limit = {limit!r} is not allowed: a page needs at least one point")
    data = page_data(where, dataset, limit=limit) | {"title": title or f"{dataset.name}: the hierarchy as learned"}
    return page("interactive.html.jinja", data=data)


def page_data(where: Positions, dataset: Dataset, *, limit: int = LIMIT) -> dict[str, Any]:
    """The content of the page as JSON values; lists have an entry for each point, edges are pairs of places in them."""
    edges, layout = child_edges(dataset), disk_layout(where)
    branches = largest_branches(edges, dataset.n_entities, dataset.n_items, most=len(CYCLE))
    kept, omitted = _choose(edges, dataset, limit)
    place = np.full(dataset.n_entities, -1, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    ends = place[edges[["child", "parent"]].to_numpy(np.int64)]
    whole = np.flatnonzero((ends >= 0).all(axis=1))[:_MOST_EDGES]
    popularity = np.zeros(dataset.n_entities, dtype=np.int64)
    popularity[: dataset.n_items] = item_popularity(dataset)
    tables = [dataset.items, dataset.entities.iloc[dataset.n_items :]]
    label = pd.concat([table[["original_id", "name"]] for table in tables], ignore_index=True).iloc[kept]
    names, ids = label["name"].tolist(), label["original_id"].tolist()
    distinct, relation = np.unique(edges["relation"].to_numpy()[whole], return_inverse=True)
    return {
        "x": _rounded(layout.points[kept, 0]),
        "y": _rounded(layout.points[kept, 1]),
        "distance": _rounded(where.entity_distance[kept]),
        "items": int((kept < dataset.n_items).sum()),
        "popularity": popularity[kept[kept < dataset.n_items]].tolist(),
        "branch": branches.branch[kept].tolist(),
        "branches": [int(place[root]) for root in branches.roots],
        "name": names,
        "id": [None if name == original else original for name, original in zip(names, ids, strict=True)],
        "child": ends[whole, 0].tolist(),
        "parent": ends[whole, 1].tolist(),
        "relation": relation.tolist(),
        "relations": dataset.relations["name"].iloc[distinct].tolist(),
        "colours": list(CYCLE),
        "hyperbolic": layout.hyperbolic,
        "omitted": omitted,
        "omitted_edges": int((ends >= 0).all(axis=1).sum() - len(whole)),
        "caption": _caption(layout, where),
    }


def _choose(edges: pd.DataFrame, dataset: Dataset, limit: int) -> tuple[Int64, int]:
    """Entities to show, ascending, and how many that could be shown are left out."""
    degree = np.bincount(edges[["child", "parent"]].to_numpy(np.int64).ravel(), minlength=dataset.n_entities)
    possible = np.flatnonzero((degree > 0) | (np.arange(dataset.n_entities) < dataset.n_items))
    if len(possible) <= limit:
        return possible, 0
    weight = degree.astype(np.float64)
    weight[: dataset.n_items] += item_popularity(dataset)
    best = possible[np.argsort(-weight[possible], kind="stable")[:limit]]
    return np.sort(best), len(possible) - limit


def _caption(layout: Layout, where: Positions) -> str:
    kind = "the trained parameters" if where.values == "parameters" else "the propagated embeddings"
    place = "Poincaré disk" if layout.hyperbolic else "plane"
    return f"Knowledge embeddings in the {place}, {kind}. {layout.caption}"


def _rounded(values: NDArray[np.float64]) -> list[float]:
    shown: list[float] = np.round(values, 5).tolist()
    return shown
