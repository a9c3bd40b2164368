"""Attributes of new users in the words of a request, as entities of the data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.values import ValuesOfColumn
from hakg_dgl.graph.edge_types import unique_names
from hakg_dgl.serving.refusals import Refusal

_SHOWN = 5


class UserAttributes:
    """Relations of users and the entities that users have by them.

    Parameters
    ----------
    dataset
        Whose facts about users say what a new user may have.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._relations = dataset.user_relations
        self._graph_names = unique_names(list(dataset.user_relations["name"]))
        facts = dataset.user_facts[["relation", "entity"]].drop_duplicates()
        self._entities: dict[int, pd.DataFrame] = {
            relation: dataset.entities.iloc[rows].set_axis(rows)
            for relation in sorted(facts["relation"].unique().tolist())
            for rows in [facts.loc[facts["relation"] == relation, "entity"].to_numpy()]
        }
        self._values = {
            relation: ValuesOfColumn(str(dataset.user_relations["name"].iloc[relation]), entities)
            for relation, entities in self._entities.items()
        }

    def packed(self, users: Sequence[Mapping[str, tuple[str, ...]]]) -> dict[str, tuple[Tensor, Tensor]]:
        """The facts of some users, as :class:`~hakg_dgl.ranking.fold_in.AboutUsers` takes them.

        Raises
        ------
        Refusal
            400: if there is no such relation of users, or no user has such a value by it.
        """
        found: dict[str, list[list[int]]] = {}
        for place, attributes in enumerate(users):
            for name, values in attributes.items():
                relation = self._relation(name)
                lists = found.setdefault(self._graph_names[relation], [[] for _ in users])
                lists[place] += [entity for value in values for entity in self._found(relation, name, value)]
        return {name: _packed([sorted(set(entities)) for entities in lists]) for name, lists in found.items()}

    def _relation(self, name: str) -> int:
        for column in ("original_id", "name"):
            rows = [number for number in self._values if self._relations[column].iloc[number] == name]
            if rows:
                return rows[0]
        names = [str(self._relations["name"].iloc[number]) for number in self._values][:_SHOWN]
        there = f"There are {', '.join(map(repr, names))}." if names else "The data set has no facts about users."
        raise Refusal(400, f"there is no attribute {name[:80]!r} of users", there)

    def _found(self, relation: int, name: str, value: str) -> list[int]:
        entities = self._entities[relation]
        found = self._values[relation].find(value)
        if not found:
            shown = ", ".join(map(repr, entities["name"].head(_SHOWN)))
            raise Refusal(400, f"no user has {name[:80]!r} {value[:80]!r}", f"There are, for example, {shown}.")
        return found


def _packed(lists: list[list[int]]) -> tuple[Tensor, Tensor]:
    sizes = torch.tensor([0, *map(len, lists)])
    return sizes.cumsum(0), torch.tensor([entity for entities in lists for entity in entities], dtype=torch.int64)
