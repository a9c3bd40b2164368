"""The part of a model that one process owns, and the loss that all processes compute together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hakg_dgl.distributed.ownership import Ownership
from hakg_dgl.distributed.ranks import Ranks, sum_over_ranks
from hakg_dgl.errors import ConfigError
from hakg_dgl.graph.heterograph import INTERACTED_BY, INTERACTS
from hakg_dgl.models.recommender import NODE_TYPES, GradientRecommender
from hakg_dgl.randomness import CounterStream


class Shard(ABC):
    """A model cut down to the rows that a process owns.

    Parameters
    ----------
    model
        As it is before training, the same in all processes. Its parameters with a row a user, an item or an entity
        become those of own rows; it serves nothing else then.
    ranks, ownership
        The processes and what they own.
    random
        The generators of a step by name, in the same state in all processes.
    seed
        Of the draws that depend on edges and rows.

    Attributes
    ----------
    node_types
        Parameter -> the node type that its rows are of; others are replicated.
    step
        Number of the step that :meth:`loss` draws for; the trainer sets it.

    Raises
    ------
    ConfigError
        If the settings or the graph are not for several processes yet.
    """

    def __init__(
        self,
        model: GradientRecommender,
        ranks: Ranks,
        ownership: Ownership,
        random: Mapping[str, torch.Generator],
        seed: int,
    ) -> None:
        self.model, self.ranks, self.ownership, self.random = model, ranks, ownership, random
        self.dropout, self.step = CounterStream(seed, "dropout"), 0
        self.own = {name: ownership.rows(name, ranks.rank) for name in NODE_TYPES}
        self.node_types: dict[str, str] = {
            name: axes[0] for name, axes in model.axes().items() if isinstance(axes[0], str)
        }
        self.refuse()
        self.prepare()
        self.cut()

    def refuse(self) -> None:
        """Raise ConfigError for what does not run in several processes."""
        known = {INTERACTS, INTERACTED_BY, *self.model.graph.relation_types}
        other = [etype for etype in self.model.graph.edges if etype not in known]
        if other and self.model.abilities.facts:
            raise ConfigError(
                f"the data set has edges of type {other[0]}, and several processes train on interactions and facts of "
                "items alone; train in one process, without --processes"
            )

    @abstractmethod
    def prepare(self) -> None:
        """Make edges and halos."""

    @abstractmethod
    def loss(self, users: Tensor, positives: Tensor) -> Tensor:
        """Loss of a batch, int64 ``[batch]`` each, the same in all processes: a scalar to go backwards from."""

    def cut(self) -> None:
        """Keep own rows of the model's parameters."""
        for name, node_type in self.node_types.items():
            whole = self.model.get_parameter(name)
            setattr(self.model, name, nn.Parameter(whole.detach()[self.own[node_type]].clone()))

    def once(self, value: Tensor) -> Tensor:
        """A term that all processes compute alike, counted once."""
        return sum_over_ranks(self.ranks, value if self.ranks.rank == 0 else value * 0.0)

    def add_gradients(self) -> None:
        """After a backward pass: add up the gradients of what is replicated."""
        for name, parameter in self.model.named_parameters():
            if name not in self.node_types:
                found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.ranks.sum(found)
            elif parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def whole(self, name: str, part: Tensor) -> Tensor:
        """The rows of all processes for a parameter or what has its shape, in all of them; a step of all together."""
        if name not in self.node_types:
            return part.detach()
        node_type = self.node_types[name]
        rows = part.new_zeros(len(self.ownership.owners[node_type]), *part.shape[1:])
        return self.ranks.sum(rows.index_copy_(0, self.own[node_type], part.detach()))

    def part(self, name: str, whole: Tensor) -> Tensor:
        """Own rows of the whole."""
        return whole[self.own[self.node_types[name]]] if name in self.node_types else whole
