"""Users whom HAKG propagates to without having been trained on them, or on all of their items.

What a user receives from items, from facts and from links is computed as in the model's own layers, from the values
that the trained graph's nodes have there. A trained user's own parameters are where the propagation starts; a new user
starts at zero.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hakg_dgl.errors import ConfigError
from hakg_dgl.geometry.guards import ROW_NORM_FLOOR
from hakg_dgl.graph.edge_types import INVERSE_PREFIX, EdgeType
from hakg_dgl.models.hakg.network import LayerInputs, Network
from hakg_dgl.ranking.fold_in import AboutUsers, SumOfUnitMeans, lists_of, own_rows


class UserEdges(NamedTuple):
    """Edges that users receive along one edge type: places of the users, nodes that send, the relation's number."""

    receiver: Tensor
    sender: Tensor
    number: int
    sender_type: str


class Folded(NamedTuple):
    """What one propagation to users gives.

    Attributes
    ----------
    total
        The sum over layers and the users' own parameters, ``[n, d]``.
    entering
        The users' values that enter each layer.
    norms
        Norms of what they receive in each layer, ``[n, 1]``.
    """

    total: Tensor
    entering: list[Tensor]
    norms: list[Tensor]


class PropagatedUsers:
    """The learned part of a user's vector: an :class:`~hakg_dgl.ranking.fold_in.InformedPart`.

    Parameters
    ----------
    network
        As trained; its parameters are read now.
    """

    reads_facts = True

    def __init__(self, network: Network) -> None:
        self.network = network
        self.layers: list[LayerInputs] = network.layer_inputs()
        self.unit: bool = network.settings.score != "inner"
        self._of_items = SumOfUnitMeans([layer.sent for layer in self.layers], self.unit, ROW_NORM_FLOOR)
        self._numbers = {etype: n for n, etype in enumerate((*network.graph.relation_types, *network.graph.user_types))}
        self._trained = {etype: self._packed(etype) for etype in network.graph.user_types if etype[2] == "user"}

    @property
    def width(self) -> int:
        """The dimension d."""
        return self._of_items.width

    def __call__(self, indptr: Tensor, items: Tensor) -> Tensor:
        """Vectors ``[n, d]`` of new users of whom the items alone are known."""
        return self._of_items(indptr, items)

    def informed(self, indptr: Tensor, items: Tensor, about: AboutUsers) -> Tensor:
        """Vectors ``[n, d]`` of users, with their own parameters, facts and links as far as there are any."""
        total = self.propagate(indptr, items, about).total
        return F.normalize(total, dim=1, eps=ROW_NORM_FLOOR) if self.unit else total

    @torch.no_grad()
    def propagate(self, indptr: Tensor, items: Tensor, about: AboutUsers) -> Folded:
        """All layers of the propagation to the users.

        Raises
        ------
        ConfigError
            If the users have facts by a relation that no user of the data set has facts by.
        """
        network = self.network
        edges = self.edges(about)
        degree = sum(
            (torch.bincount(each.receiver, minlength=len(indptr) - 1) for each in edges),
            start=torch.zeros(len(indptr) - 1, dtype=torch.int64, device=indptr.device),
        ).clamp_min(1)
        user = own_rows(network.user, about.known)
        total, entering, norms = user, [], []
        for layer in self.layers:
            entering.append(user)
            received = _means(layer.sent, indptr, items)
            messages = torch.zeros_like(received)
            for each in edges:
                sender = (layer.entity if each.sender_type == "entity" else layer.user)[each.sender]
                relation = network.relation[each.number].expand_as(sender)
                message = network.rule.message(user[each.receiver], sender, relation)
                messages = messages.index_add(0, each.receiver, message)
            received = received + messages / degree.to(received.dtype).unsqueeze(1)
            norms.append(torch.linalg.vector_norm(received, dim=1, keepdim=True).clamp_min(ROW_NORM_FLOOR))
            user = received / norms[-1]
            total = total + user
        return Folded(total, entering, norms)

    def edges(self, about: AboutUsers) -> list[UserEdges]:
        """Facts and links of the trained users among them, then the facts that are given."""
        own = [etype for etype in self.network.own_updates if etype[2] == "user"]
        if own:
            raise ConfigError(f"users receive from {own[0]} by an update function of its own, which is not folded in")
        found = []
        trained = (about.known >= 0).nonzero().flatten()
        for etype, (indptr, senders) in self._trained.items():
            bounds, sent_by = _lists(indptr, senders, about.known[trained])
            receiver = torch.repeat_interleave(trained, bounds.diff())
            found.append(UserEdges(receiver, sent_by, self._numbers[etype], etype[0]))
        for name, (indptr, entities) in about.facts.items():
            etype = ("entity", INVERSE_PREFIX + name, "user")
            if etype not in self._numbers:
                known = [name for _, name, end in self._trained if end == "user"]
                names = ", ".join(repr(name.removeprefix(INVERSE_PREFIX)) for name in known) or "none"
                raise ConfigError(f"the model was trained without facts of users by {name!r}; it has these: {names}")
            receiver = torch.repeat_interleave(indptr.diff())
            found.append(UserEdges(receiver, entities, self._numbers[etype], "entity"))
        return [each for each in found if len(each.receiver)]

    def _packed(self, etype: EdgeType) -> tuple[Tensor, Tensor]:
        """What each trained user receives along an edge type: bounds ``[n_users + 1]`` and the nodes that send."""
        sender, receiver = self.network.graph.edges[etype]
        order = torch.argsort(receiver, stable=True)
        counts = torch.bincount(receiver, minlength=self.network.graph.n_users)
        return F.pad(counts.cumsum(0), (1, 0)), sender[order]


def _lists(indptr: Tensor, rows: Tensor, users: Tensor) -> tuple[Tensor, Tensor]:
    bounds, found = lists_of(indptr.cpu(), rows.cpu(), users.cpu())
    return bounds.to(users.device), found.to(users.device)


def _means(table: Tensor, indptr: Tensor, items: Tensor) -> Tensor:
    if not len(items):  # which embedding_bag refuses
        return table.new_zeros(len(indptr) - 1, table.shape[1])
    return F.embedding_bag(items, table, indptr, mode="mean", include_last_offset=True)
