"""Which process owns which users, items and entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from hakg_dgl.data.owners import Owners
from hakg_dgl.errors import ConfigError


class Ownership:
    """The owner of every node.

    Parameters
    ----------
    owners
        Node type (``user``, ``item``, ``entity``) -> the process that owns each node, int64 ``[n_nodes]``.
    size
        Number of processes.

    Raises
    ------
    ConfigError
        If an owner is no process, or an item and the entity that it is have two owners.
    """

    def __init__(self, owners: Mapping[str, Tensor], size: int) -> None:
        self.owners: dict[str, Tensor] = {name: owner.long() for name, owner in owners.items()}
        self.size: int = size
        for name, owner in self.owners.items():
            wrong = ((owner < 0) | (owner >= size)).nonzero().flatten()
            if len(wrong):
                raise ConfigError(
                    f"{name} {int(wrong[0])} belongs to process {int(owner[wrong[0]])}, but there are {size}, counted "
                    f"from 0; make a partition for {size} processes"
                )
        item, entity = self.owners["item"], self.owners["entity"]
        apart = (item != entity[: len(item)]).nonzero().flatten()
        if len(apart):
            raise ConfigError(
                f"item {int(apart[0])} belongs to process {int(item[apart[0]])}, but the entity that it is to process "
                f"{int(entity[apart[0]])}; give both one owner"
            )

    @classmethod
    def of(cls, owners: Owners, n_items: int, device: torch.device | str = "cpu") -> Ownership:
        """The owners of a partition, of which the first entities are the items, on a device."""
        arrays = owners.users, owners.entities
        user, entity = (torch.from_numpy(each.astype("int64")).to(device) for each in arrays)
        return cls({"user": user, "item": entity[:n_items], "entity": entity}, owners.n_parts)

    @cached_property
    def places(self) -> dict[str, Tensor]:
        """Node type -> the place of each node among those of its owner, in the order of ids; int64 ``[n_nodes]``."""
        return {name: self._places(owner) for name, owner in self.owners.items()}

    def _places(self, owner: Tensor) -> Tensor:
        order = owner.argsort(stable=True)
        counts = owner.bincount(minlength=self.size)
        first = counts.cumsum(0) - counts
        places = torch.empty_like(owner)
        places[order] = torch.arange(len(owner), device=owner.device) - first.index_select(0, owner[order])
        return places

    def join(self, node_types: Sequence[str]) -> str:
        """The name of a node type that has the nodes of several, those of one after those of the other."""
        name = "+".join(node_types)
        if name not in self.owners:
            self.owners[name] = torch.cat([self.owners[each] for each in node_types])
            self.places[name] = self._places(self.owners[name])
        return name

    def rows(self, node_type: str, rank: int) -> Tensor:
        """The nodes of a process, ascending, int64."""
        return (self.owners[node_type] == rank).nonzero().flatten()

    def counts(self, node_type: str) -> list[int]:
        """How many nodes each process owns."""
        found: list[int] = self.owners[node_type].bincount(minlength=self.size).tolist()
        return found
