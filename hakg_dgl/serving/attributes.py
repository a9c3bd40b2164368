"""Attributes of new users in the words of a request, as entities of the data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.id_files import values_of_users
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
        self._graph_names = unique_names(list(dataset.user_relations["name"]))
        self._values = values_of_users(dataset)
        self._names = list(
            dict.fromkeys(dataset.user_relations["name"].iloc[number] for number, _ in self._values.values())
        )
        facts = dataset.user_facts[["relation", "entity"]].drop_duplicates()
        self._examples = {
            relation: dataset.entities["name"].iloc[rows["entity"].head(_SHOWN)].tolist()
            for relation, rows in facts.groupby("relation")
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
        if name in self._values:
            return self._values[name][0]
        names = self._names[:_SHOWN]
        there = f"There are {', '.join(map(repr, names))}." if names else "The data set has no facts about users."
        raise Refusal(400, f"there is no attribute {name[:80]!r} of users", there)

    def _found(self, relation: int, name: str, value: str) -> list[int]:
        found = self._values[name][1].find(value)
        known = [entity for entity in found if entity is not None]
        if len(known) < max(1, len(found)):
            shown = ", ".join(map(repr, self._examples[relation]))
            raise Refusal(400, f"no user has {name[:80]!r} {value[:80]!r}", f"There are, for example, {shown}.")
        return known


def _packed(lists: list[list[int]]) -> tuple[Tensor, Tensor]:
    sizes = torch.tensor([0, *map(len, lists)])
    return sizes.cumsum(0), torch.tensor([entity for entities in lists for entity in entities], dtype=torch.int64)
