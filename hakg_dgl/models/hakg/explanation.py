r"""The ranking score of HAKG as a sum over edges of the graph.

Every layer's output is a sum over edges, divided by its norm; the vectors that rank are sums over layers. With the
norms and gates as they are, the score is therefore a sum of one term per edge that enters the user or the item, and of
what their own parameters add. docs/explain.md derives it. All terms are computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hakg_dgl.errors import ConfigError
from hakg_dgl.geometry.frame import Gram
from hakg_dgl.geometry.guards import ROW_NORM_FLOOR
from hakg_dgl.geometry.message import MessageRule
from hakg_dgl.graph.packed import Grouping, PackedGraph
from hakg_dgl.models.explanation import (
    ITEM_COLUMNS,
    KEPT_PATHS,
    PATH_COLUMNS,
    USER_COLUMNS,
    Component,
    Terms,
    frame_of,
)
from hakg_dgl.models.hakg.network import Network
from hakg_dgl.models.hakg.settings import HAKGSettings


class Edges(NamedTuple):
    """Edges into some nodes: the number of the receiver among those asked for, its partner, the relation (or None)."""

    receiver: Tensor
    partner: Tensor
    relation: Tensor


def _members(grouping: Grouping, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Of some groups: the number of the group among those given and the edge, for every edge in them."""
    starts, ends = grouping.indptr[groups], grouping.indptr[groups + 1]
    sizes = ends - starts
    receiver = torch.repeat_interleave(sizes)
    place = torch.arange(len(receiver)) + (starts - sizes.cumsum(0) + sizes)[receiver]
    return receiver, place if grouping.order is None else grouping.order[place]


@dataclass(frozen=True)
class _Layer:
    """Values that enter a layer, and what sums over edges are multiplied by to give its normalised outputs."""

    user: Tensor
    entity: Tensor
    item: Tensor | None
    user_factor: Tensor
    entity_factor: Tensor
    item_factor: Tensor | None
    gate_matrices: tuple[Tensor, Tensor] | None


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
        self.graph: PackedGraph = network.graph.to("cpu").packed
        self.relation = network.relation.detach().cpu()
        self.user_share, self.item_share = (
            degree.clamp_min(1).double().pow(-network.settings.degree_exponent)
            for degree in (self.graph.interactions.row_degree, self.graph.interactions.col_degree)
        )
        self.layers: list[_Layer] = []
        n_items, n_layers = network.graph.n_items, network.settings.layers
        degree = self.graph.knowledge.pairs.row_degree.clamp_min(1)
        user, entity = network.user.detach(), network.entity.detach()
        item = network.item.detach() if network.settings.dual_item_embeddings else None
        self.user, self.entity = _wide(user), _wide(entity[:n_items])
        self.item = None if item is None else _wide(item)
        for number in range(n_layers):
            n_heads = n_items if number == n_layers - 1 else network.graph.n_entities
            received = network.layer(number, network.executor, user, entity, item, n_heads)
            new_user, user_factor = _normalised(received[0])
            new_entity, entity_factor = _normalised(received[1])
            user_factor = user_factor * _wide(network.inverse_degree("row"))
            new_item, item_factor = None, None
            if received[2] is not None and self.item is not None:
                new_item, item_factor = _normalised(received[2])
                self.item += _wide(new_item)
                if self.settings.formulation == "paper":
                    item_factor = item_factor * _wide(network.inverse_degree("col"))
            self.layers.append(
                _Layer(
                    user.cpu(), entity.cpu(), None if item is None else item.cpu(),
                    user_factor, entity_factor / degree[:n_heads], item_factor, _gate_matrices(network, number),
                )
            )  # fmt: skip
            user, entity, item = new_user, new_entity, new_item
            self.user += _wide(user)
            self.entity += _wide(entity[:n_items])

    def past_items(self, user: int) -> Tensor:
        """The user's items in the graph, int64 ``[n]``."""
        pattern = self.graph.interactions
        return pattern.cols[_members(pattern.by_row, torch.tensor([user]))[1]]

    def users_of(self, items: Tensor) -> Edges:
        """The users of items in the graph; relations are -1."""
        pattern = self.graph.interactions
        receiver, edge = _members(pattern.by_col, items)
        return Edges(receiver, pattern.rows[edge], torch.full_like(edge, -1))

    def facts_of(self, items: Tensor) -> Edges:
        """The KG edges that items receive, inverses included."""
        knowledge = self.graph.knowledge
        receiver, edge = _members(knowledge.pairs.by_row, items)
        return Edges(receiver, knowledge.pairs.cols[edge], knowledge.relation[edge])

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

    def messages(self, layer: int, heads: Tensor, relations: Tensor, tails: Tensor) -> Tensor:
        """Parts ``a e_h``, ``b e_t``, ``c w_r`` of the messages of edges in a layer's output: ``[3, n, d]``.

        Each is weighted as in the normalised output, which is the sum over all edges of a head and the three parts.
        """
        values = self.layers[layer]
        h, t = values.entity[heads].double(), values.entity[tails].double()
        w = self.relation[relations].double()
        gram = Gram(*((x * y).sum(1) for x, y in ((h, h), (t, t), (w, w), (h, t), (h, w), (t, w))))
        scales = self.rule.scale(gram.hh), self.rule.scale(gram.tt), self.rule.scale(gram.ww)
        factor = values.entity_factor[heads]
        along = (factor * x for x in self.rule.coefficients(scales, gram))
        return torch.stack([x.unsqueeze(1) * y for x, y in zip(along, (h, t, w), strict=True)])


def _refuse_other_edges(network: Network) -> None:
    """Raise ConfigError where users or entities receive more than interactions and facts of the KG."""
    others = [*network.graph.user_types, *network.own_updates]
    if others:
        raise ConfigError(
            "explanations add up over interactions and the knowledge graph; this model also has edges of type "
            f"{', '.join(map(str, dict.fromkeys(others)))}, whose part cannot be told apart: train without them to "
            "explain scores"
        )


def _wide(x: Tensor) -> Tensor:
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
    return _wide(network.gate_item[layer]), _wide(network.gate_entity[layer])


class UserSide:
    """The unit vector of a user, split by its items.

    Parameters
    ----------
    trace
        The propagation.
    user
        Whose.

    Attributes
    ----------
    items
        Its past items, int64 ``[n]``.
    unit
        ``[d]``; the sum of ``own``, ``knowledge`` and ``collaborative`` over all rows.
    own
        ``[d]``, what its parameters add.
    knowledge, collaborative, items_part
        ``[n, d]``, what the past items' two embeddings add through the gate, and their sum.
    knowledge_weights, collaborative_weights
        ``[L, n, d]``: what the embeddings that enter each layer are multiplied by.
    """

    def __init__(self, trace: Trace, user: int) -> None:
        self.items = items = trace.past_items(user)
        norm = torch.ones((), dtype=torch.float64)
        if trace.settings.score != "inner":
            norm = torch.linalg.vector_norm(trace.user[user]).clamp_min(ROW_NORM_FLOOR)
        self.unit = trace.user[user] / norm
        self.own = trace.layers[0].user[user].double() / norm
        gates = torch.stack([trace.gate(number, items) for number in range(len(trace.layers))])
        factors = torch.stack([layer.user_factor[user] for layer in trace.layers])[:, None, None] / norm
        factors = factors * trace.item_share[items].unsqueeze(1)
        self.collaborative_weights, self.knowledge_weights = gates * factors, (1.0 - gates) * factors
        entering = torch.stack([layer.entity[items].double() for layer in trace.layers])
        self.knowledge = (self.knowledge_weights * entering).sum(0)
        self.collaborative = torch.zeros_like(self.knowledge)
        if trace.item is not None:
            collaborative = [layer.item[items].double() for layer in trace.layers if layer.item is not None]
            self.collaborative = (self.collaborative_weights * torch.stack(collaborative)).sum(0)
        self.items_part = self.knowledge + self.collaborative

    def terms(self, vector: Tensor) -> pd.DataFrame:
        """Contributions to the inner product with an item's vector ``[d]``, as :attr:`Terms.from_user`."""
        own = frame_of(USER_COLUMNS, "own", -1, (self.own @ vector).unsqueeze(0))
        parts = {"knowledge": self.knowledge, "collaborative": self.collaborative}
        return pd.concat(
            [own, *(frame_of(USER_COLUMNS, via, self.items, part @ vector) for via, part in parts.items())],
            ignore_index=True,
        )


class _LearnedPart:
    """What the two components of HAKG's learned score share: the trace and the user's side."""

    def __init__(self, trace: Trace, sides: UserSides) -> None:
        self.trace, self.sides = trace, sides

    def _divisor(self, item: int, own: Tensor) -> Tensor:
        """What the item's embedding is divided by in the score."""
        trace = self.trace
        if trace.settings.score == "inner":
            return torch.tensor(1.0 if trace.item is None else 2.0, dtype=torch.float64)
        whole = own[item]
        if trace.item is not None and trace.settings.score == "fused":
            whole = trace.entity[item] + trace.item[item]
        norm: Tensor = torch.linalg.vector_norm(whole).clamp_min(ROW_NORM_FLOOR)
        return norm


class UserSides:
    """The last user's :class:`UserSide`, made once for all components."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._last: tuple[int, UserSide] | None = None

    def of(self, user: int) -> UserSide:
        """The side of this user."""
        if self._last is None or self._last[0] != user:
            self._last = user, UserSide(self._trace, user)
        return self._last[1]


class KnowledgePart(_LearnedPart):
    """The part of the item's knowledge embedding: ``cos(u, e_i)``, ``<u, e_i> / (|u| |e_i + v_i|)`` or
    ``<u, e_i> / 2``, as the score is separate, fused or inner."""

    name = "item's knowledge embedding"

    @torch.no_grad()
    def terms(self, user: int, item: int) -> Terms:
        """The item's side is its facts; paths are the entities that it shares with past items."""
        trace, side = self.trace, self.sides.of(user)
        divisor = self._divisor(item, trace.entity)
        own = trace.layers[0].entity[item].double() / divisor
        facts = trace.facts_of(torch.tensor([item]))
        heads = torch.full_like(facts.partner, item)
        per_layer = [
            trace.messages(number, heads, facts.relation, facts.partner) for number in range(len(trace.layers))
        ]
        parts = torch.stack(per_layer).sum(0) / divisor
        from_head, from_tail, from_relation = parts @ side.unit
        from_item = pd.concat([
            frame_of(ITEM_COLUMNS, "own", -1, -1, (own @ side.unit).unsqueeze(0)),
            frame_of(ITEM_COLUMNS, "fact", facts.relation, facts.partner, from_head + from_tail + from_relation).assign(
                from_entity=from_tail.numpy(), from_relation=from_relation.numpy(), from_item=from_head.numpy()
            ),
        ], ignore_index=True)  # fmt: skip
        vector = trace.entity[item] / divisor
        paths, total = self._paths(side, item, facts, parts.sum(0))
        return Terms(float(side.unit @ vector), side.terms(vector), from_item, paths, {"entity": total})

    def _paths(
        self, side: UserSide, item: int, facts: Edges, messages: Tensor
    ) -> tuple[pd.DataFrame, tuple[int, float]]:
        """Pairs of an edge of a past item and an edge of the item with the same entity, with their joint terms."""
        trace = self.trace
        edges = trace.facts_of(side.items)
        shared = torch.isin(edges.partner, facts.partner) & (side.items[edges.receiver] != item)
        row, tail, relation = (x[shared] for x in edges)
        # A past item's facts enter the user one layer after they entered the item, so one layer less of them.
        vectors = torch.zeros(len(row), messages.shape[1], dtype=torch.float64)
        for number in range(1, len(trace.layers)):
            sent = trace.messages(number - 1, side.items[row], relation, tail).sum(0)
            vectors += side.knowledge_weights[number, row] * sent
        # Edges between the same two nodes share their joint term.
        _, pair, parallel = torch.unique(torch.stack([row, tail]), dim=1, return_inverse=True, return_counts=True)
        ours = pd.DataFrame({"node": tail, "mine": np.arange(len(tail))})
        theirs = pd.DataFrame({"node": facts.partner, "its": np.arange(len(facts.partner))})
        joined = ours.merge(theirs, on="node")
        mine, its = (torch.from_numpy(joined[name].to_numpy(dtype=np.int64).copy()) for name in ("mine", "its"))
        values = (side.items_part @ messages.T)[row[mine], its] / parallel[pair[mine]]
        kept = _strongest(values)
        mine, its = mine[kept], its[kept]
        paths = frame_of(
            PATH_COLUMNS, "entity", side.items[row[mine]], relation[mine], tail[mine], facts.relation[its],
            (vectors[mine] * messages[its]).sum(1), values[kept],
        )  # fmt: skip
        return paths, (len(values), float(values.sum()))


class CollaborativePart(_LearnedPart):
    """The part of the item's collaborative embedding: ``cos(u, v_i)``, ``<u, v_i> / (|u| |e_i + v_i|)``
    or ``<u, v_i> / 2``, as the score is separate, fused or inner."""

    name = "item's collaborative embedding"

    @torch.no_grad()
    def terms(self, user: int, item: int) -> Terms:
        """The item's side is its users; paths are the users that it shares with past items."""
        trace, side = self.trace, self.sides.of(user)
        assert trace.item is not None
        divisor = self._divisor(item, trace.item)
        users = trace.users_of(torch.tensor([item])).partner
        sent = torch.zeros(len(users), trace.user.shape[1], dtype=torch.float64)
        for layer in trace.layers:
            assert layer.item_factor is not None
            sent += layer.user[users].double() * layer.item_factor[item]
        sent *= trace.user_share[users].unsqueeze(1) / divisor
        assert trace.layers[0].item is not None
        own = trace.layers[0].item[item].double() / divisor
        from_item = pd.concat([
            frame_of(ITEM_COLUMNS, "own", -1, -1, (own @ side.unit).unsqueeze(0)),
            frame_of(ITEM_COLUMNS, "user", -1, users, sent @ side.unit),
        ], ignore_index=True)  # fmt: skip
        vector = trace.item[item] / divisor
        paths, total = self._paths(user, side, item, users, sent)
        return Terms(float(side.unit @ vector), side.terms(vector), from_item, paths, {"user": total})

    def _paths(
        self, user: int, side: UserSide, item: int, users: Tensor, sent: Tensor
    ) -> tuple[pd.DataFrame, tuple[int, float]]:
        """Other users who have a past item and the item, with their joint terms."""
        trace = self.trace
        place = torch.full((trace.graph.n_users,), -1)
        place[users] = torch.arange(len(users))
        place[user] = -1
        edges = trace.users_of(side.items)
        shared = (place[edges.partner] >= 0) & (side.items[edges.receiver] != item)
        row, other = edges.receiver[shared], edges.partner[shared]
        table = torch.zeros(len(side.items), len(users), dtype=torch.float64)
        for number, (layer, before) in enumerate(zip(trace.layers[1:], trace.layers, strict=False), 1):
            assert before.item_factor is not None
            assert layer.item is not None
            weights = side.collaborative_weights[number] * before.item_factor[side.items].unsqueeze(1)
            table += weights @ (before.user[users].double() * trace.user_share[users].unsqueeze(1) * sent).T
        values = (side.items_part @ sent.T)[row, place[other]]
        kept = _strongest(values)
        row, other = row[kept], other[kept]
        paths = frame_of(PATH_COLUMNS, "user", side.items[row], -1, other, -1, table[row, place[other]], values[kept])
        return paths, (len(values), float(values.sum()))


class LinearPart:
    """The linear item-item term: a weight for each past item, the same from either side."""

    name = "linear item-item term"

    def __init__(self, trace: Trace, network: Network) -> None:
        self.trace, self.weight = trace, network.settings.linear_weight
        self.left, self.right = (
            network.linear_left.detach().cpu().double(),
            network.linear_right.detach().cpu().double(),
        )

    @torch.no_grad()
    def terms(self, user: int, item: int) -> Terms:
        """One term a past item."""
        items = self.trace.past_items(user)
        values = self.weight * (self.left[items] @ self.right[item])
        return Terms(
            float(values.sum()),
            frame_of(USER_COLUMNS, "linear", items, values),
            frame_of(ITEM_COLUMNS, "linear", -1, items, values),
        )


class HAKGBreakdown:
    """The score of HAKG as a sum of components; see :class:`~hakg_dgl.models.explanation.Breakdown`.

    One component for each embedding that items have, and the linear term if there is one.

    Parameters
    ----------
    network
        As trained; its parameters are read now.
    """

    def __init__(self, network: Network) -> None:
        self.trace = Trace(network)
        sides = UserSides(self.trace)
        self.components: list[Component] = [KnowledgePart(self.trace, sides)]
        if self.trace.item is not None:
            self.components.append(CollaborativePart(self.trace, sides))
        if network.settings.linear_weight > 0.0:
            self.components.append(LinearPart(self.trace, network))

    def past_items(self, user: int) -> Tensor:
        """The user's items in the graph, int64 ``[n]``."""
        return self.trace.past_items(user)

    def mean_gate(self, items: Tensor) -> Tensor:
        """Mean weight of the collaborative embedding, over layers and coordinates, ``[n]``."""
        return self.trace.mean_gate(items)


def _strongest(values: Tensor) -> Tensor:
    return values.abs().topk(min(KEPT_PATHS, len(values))).indices
