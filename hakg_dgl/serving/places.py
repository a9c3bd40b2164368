"""Where an item lies in the hierarchy: its attributes, and what stands above each of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.figures.branches import child_edges
from hakg_dgl.models.recommender import Recommender

MOST_PATHS, MOST_LEVELS = 20, 12


class Places:
    """The ways from items up to the most general attributes.

    Parameters
    ----------
    model
        A trained model; where it gives entities positions, their distances from the origin are told.
    dataset
        The data set it was trained on.
    """

    @torch.no_grad()
    def __init__(self, model: Recommender, dataset: Dataset) -> None:
        self.dataset = dataset
        edges = child_edges(dataset).sort_values(["child", "parent"], kind="stable")
        self._parents = edges["parent"].to_numpy(np.int64)
        self._relations = edges["relation"].to_numpy(np.int64)
        counts = np.bincount(edges["child"].to_numpy(np.int64), minlength=dataset.n_entities)
        self._start = np.concatenate([[0], np.cumsum(counts)])
        self._distance = model.positions().entity_distance if model.abilities.positions else None

    def of(self, item: int) -> dict[str, Any]:
        """The paths from an item upwards, JSON values; the item itself is not part of a path.

        At most ``MOST_PATHS`` paths of at most ``MOST_LEVELS`` steps are listed; ``more`` says whether there are
        others. A path does not go through an entity twice.
        """
        paths: list[list[tuple[int, int]]] = []
        more = False
        waiting: list[list[tuple[int, int]]] = [[step] for step in reversed(self._above(item))]
        while waiting:
            path = waiting.pop()
            if len(paths) == MOST_PATHS:
                more = True
                break
            passed = {item, *(entity for _, entity in path)}
            further = [step for step in self._above(path[-1][1]) if step[1] not in passed]
            if len(path) == MOST_LEVELS or not further:
                more |= bool(further)
                paths.append(path)
            else:
                waiting += [[*path, step] for step in reversed(further)]
        return {
            "distance": self._far(item),
            "paths": [[self._step(*step) for step in path] for path in paths],
            "more": more,
        }

    def _above(self, entity: int) -> list[tuple[int, int]]:
        rows = slice(self._start[entity], self._start[entity + 1])
        return list(zip(self._relations[rows].tolist(), self._parents[rows].tolist(), strict=True))

    def _step(self, relation: int, entity: int) -> dict[str, Any]:
        row = self.dataset.entities.iloc[entity]
        return {
            "relation": self.dataset.relations["name"].iloc[relation],
            "id": row["original_id"],
            "name": row["name"],
            "distance": self._far(entity),
        }

    def _far(self, entity: int) -> float | None:
        return None if self._distance is None else float(self._distance[entity])
