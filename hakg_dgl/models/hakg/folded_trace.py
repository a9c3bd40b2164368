"""A propagation of HAKG with users beside those that it was trained on, for explanations of their scores."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hakg_dgl.models.hakg.folding import PropagatedUsers
from hakg_dgl.models.hakg.network import Network
from hakg_dgl.models.hakg.trace import Edges, Trace, wide
from hakg_dgl.ranking.fold_in import FoldedUsers


class FoldedTrace(Trace):
    """A trace to whose users some are added, numbered after the trained ones; nothing else changes by them.

    Parameters
    ----------
    network
        As trained; its parameters are read now.
    folded
        The users.
    """

    @torch.no_grad()
    def __init__(self, network: Network, folded: FoldedUsers) -> None:
        super().__init__(network)
        about, users = folded.about.to(network.device), PropagatedUsers(network)
        indptr, items = folded.indptr.to(network.device), folded.items.to(network.device)
        found = users.propagate(indptr, items, about)
        self._first, self._known = network.graph.n_users, about.known.cpu()
        self._lists = folded.indptr.cpu(), folded.items.cpu()
        self._edges = users.edges(about)
        n_items, n_messages = indptr.diff().clamp_min(1), torch.zeros_like(indptr.diff())
        for each in self._edges:
            n_messages += torch.bincount(each.receiver, minlength=len(n_messages))
        self.user = torch.cat([self.user, wide(found.total)])
        self.layers = [
            replace(
                layer,
                user=torch.cat([layer.user, entering.cpu()]),
                user_factor=torch.cat([layer.user_factor, _factors(norms, n_items)]),
                message_factor={
                    **layer.message_factor,
                    "user": torch.cat([layer.message_factor["user"], _factors(norms, n_messages.clamp_min(1))]),
                },
            )
            for layer, entering, norms in zip(self.layers, found.entering, found.norms, strict=True)
        ]

    def past_items(self, user: int) -> Tensor:
        """The user's items, int64 ``[n]``."""
        if user < self._first:
            return super().past_items(user)
        indptr, items = self._lists
        place = user - self._first
        return items[int(indptr[place]) : int(indptr[place + 1])]

    def trained_number(self, user: int) -> int:
        """The number of the user in the graph, -1 for one that it does not have."""
        return user if user < self._first else int(self._known[user - self._first])

    def received(self, node_type: str, nodes: Tensor, sender_type: str) -> Edges:
        """As of a trace; an added user is asked for alone."""
        if node_type != "user" or int(nodes[0]) < self._first:
            return super().received(node_type, nodes, sender_type)
        place = int(nodes[0]) - self._first
        senders, numbers = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
        for each in self._edges:
            if each.sender_type == sender_type:
                senders.append(each.sender[each.receiver == place].cpu())
                numbers.append(torch.full_like(senders[-1], each.number))
        sender = torch.cat(senders)
        return Edges(torch.zeros_like(sender), sender, torch.cat(numbers))


def _factors(norms: Tensor, counts: Tensor) -> Tensor:
    return (norms.double().squeeze(1) * counts).reciprocal().cpu()
