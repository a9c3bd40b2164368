"""One propagation of HAKG with all edges and factors that its explanations need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hakg_dgl.errors import ConfigError
from hakg_dgl.geometry.frame import Gram
from hakg_dgl.geometry.guards import ROW_NORM_FLOOR
from hakg_dgl.geometry.message import MessageRule
from hakg_dgl.graph.edge_types import EdgeType
from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.graph.packed import Grouping, PackedGraph
from hakg_dgl.models.hakg.network import Network
from hakg_dgl.models.hakg.settings import HAKGSettings

_ENTITIES = ("entity", "entity")


class Edges(NamedTuple):
    """Edges into some nodes.

    ``receiver`` is the number of the receiver among those asked for, ``partner`` the sender and ``relation`` the number
    of the edge type, -1 for interactions.
    """

    receiver: Tensor
    partner: Tensor
    relation: Tensor

    def among(self, chosen: Tensor) -> Edges:
        """The edges for which a mask is true."""
        return Edges(*(part[chosen] for part in self))


def _members(grouping: Grouping, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Of some groups: the number of the group among those given and the edge, for every edge in them."""
    starts, ends = grouping.indptr[groups], grouping.indptr[groups + 1]
    sizes = ends - starts
    receiver = torch.repeat_interleave(sizes)
    place = torch.arange(len(receiver)) + (starts - sizes.cumsum(0) + sizes)[receiver]
    return receiver, place if grouping.order is None else grouping.order[place]


@dataclass(frozen=True)
class _Layer:
    """Values that enter a layer, and what sums over edges are multiplied by to give its normalised outputs.

    Sums over interactions have the factors ``user_factor`` and ``item_factor``. Sums over relation-transitive messages,
    which ``entity`` and ``user`` nodes receive, have ``message_factor`` by node type.
    """

    user: Tensor
    entity: Tensor
    item: Tensor | None
    user_factor: Tensor
    item_factor: Tensor | None
    message_factor: dict[str, Tensor]
    gate_matrices: tuple[Tensor, Tensor] | None

    def of(self, node_type: str) -> Tensor:
        """Values of the entities or of the users."""
        return self.entity if node_type == "entity" else self.user


class Trace:
    """One propagation with all that its terms are computed from, on the CPU.

    Parameters
    ----------
    network
        As trained; its parameters are read now.

    Attributes
    ----------
    user, entity, item
        The sums over layers, ``[n_users, d]`` and twice ``[n_items, d]`` (item None without dual item embeddings).
    user_share, item_share
        What users and items divide by, by their degrees, before they send: factors ``[n_users]`` and ``[n_items]``.
    """

    user: Tensor
    entity: Tensor
    item: Tensor | None

    @torch.no_grad()
    def __init__(self, network: Network) -> None:
        _refuse_other_edges(network)
        self.settings: HAKGSettings = network.settings
        self.rule: MessageRule = network.rule
        graph = network.graph.to("cpu")
        self.graph: PackedGraph = graph.packed
        self.edge_types: tuple[EdgeType, ...] = network.relation_types
        # Messages between entities and users; rows and columns are one table of these node types.
        self._messages = graph.joined(self.edge_types, one_table=True) if self.edge_types else None
        self.relation: Tensor = network.relation.detach().cpu()
        self.user_share, self.item_share = (
            degree.clamp_min(1).double().pow(-network.settings.degree_exponent)
            for degree in (self.graph.interactions.row_degree, self.graph.interactions.col_degree)
        )
        known = None if network.settings.score != "inner" else network.known_items
        self._known_items = None if known is None else wide(known.flatten())
        self.layers: list[_Layer] = []
        n_items, n_layers = network.graph.n_items, network.settings.layers
        degree = {node_type: self._degree(node_type, graph) for node_type in ("entity", "user")}
        user, entity = network.user.detach(), network.entity.detach()
        item = network.item.detach() if network.settings.dual_item_embeddings else None
        self.user, self.entity = wide(user), wide(entity[:n_items])
        self.item = None if item is None else wide(item)
        for number in range(n_layers):
            n_heads = n_items if number == n_layers - 1 else network.graph.n_entities
            received = network.layer(number, network.executor, user, entity, item, n_heads)
            new_user, user_factor = _normalised(received[0])
            new_entity, entity_factor = _normalised(received[1])
            message_factor = {
                "entity": entity_factor / degree["entity"][:n_heads],
                "user": user_factor / degree["user"],
            }
            user_factor = user_factor * wide(network.inverse_degree("row"))
            new_item, item_factor = None, None
            if received[2] is not None and self.item is not None:
                new_item, item_factor = _normalised(received[2])
                self.item += wide(new_item)
                if self.settings.formulation == "paper":
                    item_factor = item_factor * wide(network.inverse_degree("col"))
            self.layers.append(
                _Layer(
                    user.cpu(), entity.cpu(), None if item is None else item.cpu(),
                    user_factor, item_factor, message_factor, _gate_matrices(network, number),
                )
            )  # fmt: skip
            user, entity, item = new_user, new_entity, new_item
            self.user += wide(user)
            self.entity += wide(entity[:n_items])

    def collaborative_counts(self, item: int) -> float:
        """1 where the item's collaborative embedding is part of its score, else 0."""
        return 1.0 if self._known_items is None else float(self._known_items[item])

    def past_items(self, user: int) -> Tensor:
        """The user's items in the graph, int64 ``[n]``."""
        pattern = self.graph.interactions
        return pattern.cols[_members(pattern.by_row, torch.tensor([user]))[1]]

    def trained_number(self, user: int) -> int:
        """The number of the user in the graph, -1 for one that it does not have."""
        return user

    def users_of(self, items: Tensor) -> Edges:
        """The users of items in the graph; relations are -1."""
        pattern = self.graph.interactions
        receiver, edge = _members(pattern.by_col, items)
        return Edges(receiver, pattern.rows[edge], torch.full_like(edge, -1))

    def received(self, node_type: str, nodes: Tensor, sender_type: str) -> Edges:
        """The relation-transitive edges that entities or users receive from nodes of a type, inverses included."""
        starts = self._starts()
        if self._messages is None or node_type not in starts:
            return Edges(*[torch.empty(0, dtype=torch.int64)] * 3)
        edges = self._messages.pattern
        receiver, edge = _members(edges.pairs.by_row, nodes + starts[node_type])
        sent_by = torch.tensor([etype[0] == sender_type for etype in self.edge_types])
        found = Edges(receiver, edges.pairs.cols[edge], edges.relation[edge])
        found = found.among(sent_by[found.relation])
        return found._replace(partner=found.partner - starts.get(sender_type, 0))

    def facts_of(self, items: Tensor) -> Edges:
        """The KG edges that items receive, inverses included."""
        return self.received("entity", items, "entity")

    def _starts(self) -> dict[str, int]:
        """Where each node type starts in the table of senders and receivers of messages."""
        starts, total = {}, 0
        for node_type in () if self._messages is None else self._messages.receivers:
            starts[node_type] = total
            total += self.graph.n_users if node_type == "user" else self.graph.n_entities
        return starts

    def _degree(self, node_type: str, graph: HeteroGraph) -> Tensor:
        """Numbers of messages that nodes receive, at least 1, ``[n]``."""
        size, start = graph.num_nodes(node_type), self._starts().get(node_type)
        if self._messages is None or start is None:
            return torch.ones(size)
        return self._messages.pattern.pairs.row_degree[start : start + size].clamp_min(1)

    def gate(self, layer: int, items: Tensor) -> Tensor:
        """Weight of the collaborative embedding in what items show their users, ``[n, d]`` (HAKG eq. 8)."""
        values = self.layers[layer]
        if values.item is None:
            return torch.zeros(len(items), self.relation.shape[1], dtype=torch.float64)
        if values.gate_matrices is None:
            return torch.full((len(items), self.relation.shape[1]), 0.5, dtype=torch.float64)
        of_item, of_entity = values.gate_matrices
        return torch.sigmoid(values.item[items].double() @ of_item.T + values.entity[items].double() @ of_entity.T)

    def mean_gate(self, items: Tensor) -> Tensor:
        """Mean of :meth:`gate` over layers and coordinates, ``[n]``."""
        return torch.stack([self.gate(number, items) for number in range(len(self.layers))]).mean((0, 2))

    def messages(
        self, layer: int, heads: Tensor, relations: Tensor, tails: Tensor, *, ends: tuple[str, str] = _ENTITIES
    ) -> Tensor:
        """Parts ``a e_h``, ``b e_t``, ``c w_r`` of the messages of edges in a layer's output: ``[3, n, d]``.

        Each is weighted as in the normalised output, which is the sum over all edges of a head and the three parts.
        ``ends`` are the node types of heads and tails.
        """
        values = self.layers[layer]
        h, t = values.of(ends[0])[heads].double(), values.of(ends[1])[tails].double()
        w = self.relation[relations].double()
        gram = Gram(*((x * y).sum(1) for x, y in ((h, h), (t, t), (w, w), (h, t), (h, w), (t, w))))
        scales = self.rule.scale(gram.hh), self.rule.scale(gram.tt), self.rule.scale(gram.ww)
        factor = values.message_factor[ends[0]][heads]
        along = (factor * x for x in self.rule.coefficients(scales, gram))
        return torch.stack([x.unsqueeze(1) * y for x, y in zip(along, (h, t, w), strict=True)])


def _refuse_other_edges(network: Network) -> None:
    """Raise ConfigError if edge types have update functions of the caller's own, whose sums may have any form."""
    if network.own_updates:
        raise ConfigError(
            "explanations add up over interactions, the knowledge graph, and facts and links of users; this model also "
            f"has update functions of its own for {', '.join(map(str, network.own_updates))}, whose part cannot be "
            "told apart: train without them to explain scores"
        )


def wide(x: Tensor) -> Tensor:
    """A copy in float64 on the CPU."""
    return x.detach().to("cpu", torch.float64, copy=True)


def _normalised(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows divided by their L2 norm, and in float64 on the CPU what they were multiplied by."""
    factor = torch.linalg.vector_norm(x.double(), dim=1).clamp_min(ROW_NORM_FLOOR).reciprocal()
    return x * factor.to(x.dtype).unsqueeze(1), factor.cpu()


def _gate_matrices(network: Network, layer: int) -> tuple[Tensor, Tensor] | None:
    """``A_l``, ``B_l`` in float64; None without a gate."""
    if not (network.settings.gate and network.settings.dual_item_embeddings):
        return None
    return wide(network.gate_item[layer]), wide(network.gate_entity[layer])
