"""The part of a model that one process owns, and the loss that all processes compute together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from hakg_dgl.distributed.ownership import Ownership
from hakg_dgl.distributed.ranks import Ranks, sum_over_ranks
from hakg_dgl.graph.heterograph import INTERACTED_BY, INTERACTS, HeteroGraph
from hakg_dgl.models.recommender import NODE_TYPES, GradientRecommender
from hakg_dgl.models.settings import Settings
from hakg_dgl.randomness import CounterStream


class Shard(ABC):
    """A model cut down to the rows that a process owns.

    Making one is a step of all processes together.

    Parameters
    ----------
    model
        On a graph of all nodes with the edges that have an own end (and maybe others), with own rows
        (:func:`~hakg_dgl.distributed.own_model.own_model`) or with all, of which own ones are kept. The graph is let
        go; it serves nothing else then.
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
        self.model: GradientRecommender = model
        self.ranks: Ranks = ranks
        self.ownership: Ownership = ownership
        self.random: Mapping[str, torch.Generator] = random
        self.dropout: CounterStream = CounterStream(seed, "dropout", model.device)
        self.step: int = 0
        self.own: dict[str, Tensor] = {name: ownership.rows(name, ranks.rank) for name in NODE_TYPES}
        self.node_types: dict[str, str] = {
            name: axes[0] for name, axes in model.axes().items() if isinstance(axes[0], str)
        }
        self.prepare()
        self.cut()
        self.let_go()

    @classmethod
    def refuse(cls, settings: Settings) -> None:
        """Raise ConfigError for settings that do not run in several processes."""
        return

    @property
    def row_types(self) -> Mapping[str, str]:
        """Tensor of the model's state -> the node type that its rows are of; others are the same in all processes."""
        return self.node_types

    @property
    def learned_width(self) -> int | None:
        """Columns of :meth:`ranking_vectors` that are learned; None where all are."""
        return None

    def warnings(self) -> list[str]:
        """Settings that turn out to do nothing, a sentence each."""
        return []

    @abstractmethod
    def prepare(self) -> None:
        """Make edges and halos."""

    @abstractmethod
    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """Vectors of own users and own items, ``[n_own, d]`` each, whose inner products rank; a step of all together.

        See :meth:`~hakg_dgl.models.recommender.Recommender.ranking_vectors`.
        """

    @abstractmethod
    def loss(self, users: Tensor, positives: Tensor) -> Tensor:
        """Loss of a batch, int64 ``[batch]`` each, the same in all processes: a scalar to go backwards from."""

    def cut(self) -> None:
        """Keep own rows of the model's parameters, where it was made with all."""
        for name, node_type in self.node_types.items():
            table, own = self.model.get_parameter(name), self.own[node_type]
            if len(table) != len(own):
                setattr(self.model, name, nn.Parameter(table.detach()[own].clone()))

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

    def let_go(self) -> None:
        """Forget the edges of the model's graph, of which own ones are kept in another form."""
        graph, none = self.model.graph, torch.empty(0, dtype=torch.int64, device=self.model.device)
        self.model.graph = HeteroGraph(graph.n_nodes, {INTERACTS: (none, none), INTERACTED_BY: (none, none)})
        if hasattr(self.model, "executor"):
            del self.model.executor

    def whole(self, name: str, part: Tensor) -> Tensor:
        """The rows of all processes for a parameter or what has its shape, in all of them; a step of all together."""
        if name not in self.node_types:
            return part.detach()
        node_type = self.node_types[name]
        rows = part.new_zeros(len(self.ownership.owners[node_type]), *part.shape[1:])
        return self.ranks.sum(rows.index_copy_(0, self.own[node_type], part.detach()))

    def gathered(self, name: str, part: Tensor) -> Tensor | None:
        """The rows of all processes for a parameter or what has its shape, in the first; a step of all together."""
        if name not in self.node_types:
            return part.detach()
        node_type = self.node_types[name]
        rows = self.ranks.to_first(part.detach(), self.ownership.counts(node_type))
        return None if rows is None else torch.empty_like(rows).index_copy_(0, self._order[node_type], rows)

    @cached_property
    def _order(self) -> dict[str, Tensor]:
        """Node type -> its nodes, those of one process after the other."""
        return {name: owner.argsort(stable=True) for name, owner in self.ownership.owners.items()}
