r"""The ranking score of HAKG as a sum over edges of the graph.

Every layer's output is a sum over edges, divided by its norm; the vectors that rank are sums over layers. With the
norms and gates as they are, the score is therefore a sum of one term per edge that enters the user or the item, and of
what their own parameters add. Facts and links of users are such edges too. docs/explain.md derives it. All terms are
computed in float64.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hakg_dgl.geometry.guards import ROW_NORM_FLOOR
from hakg_dgl.graph.edge_types import INVERSE_PREFIX
from hakg_dgl.models.explanation import (
    FACT_OR_LINK,
    ITEM_COLUMNS,
    PATH_COLUMNS,
    USER_COLUMNS,
    USER_FACT_COLUMNS,
    Component,
    Terms,
    frame_of,
    strongest,
)
from hakg_dgl.models.hakg.folded_trace import FoldedTrace
from hakg_dgl.models.hakg.network import Network
from hakg_dgl.models.hakg.terms import POWER
from hakg_dgl.models.hakg.trace import Edges, Trace, wide
from hakg_dgl.ranking.fold_in import FoldedUsers


class UserSide:
    """The unit vector of a user, split by its items.

    Parameters
    ----------
    trace
        The propagation.
    user
        The number of the user.

    Attributes
    ----------
    items
        The user's past items, int64 ``[n]``.
    unit
        The unit vector, ``[d]``: the sum of ``own``, ``knowledge``, ``collaborative`` and ``facts`` over all rows.
    own
        The part of the user's parameters, ``[d]``.
    knowledge, collaborative, items_part
        The parts of the past items' two embeddings through the gate, ``[n, d]``, and their sum.
    knowledge_weights, collaborative_weights
        Factors ``[L, n, d]`` of the embeddings that enter each layer.
    facts
        Node type of the other end -> the user's facts (``entity``) or links (``user``), and their parts, ``[m, d]``.
    """

    def __init__(self, trace: Trace, user: int) -> None:
        items = trace.past_items(user)
        self.items: Tensor = items
        norm = torch.ones((), dtype=torch.float64)
        if trace.settings.score != "inner":
            norm = torch.linalg.vector_norm(trace.user[user]).clamp_min(ROW_NORM_FLOOR)
        self.unit: Tensor = trace.user[user] / norm
        self.own: Tensor = trace.layers[0].user[user].double() / norm
        gates = torch.stack([trace.gate(number, items) for number in range(len(trace.layers))])
        factors = torch.stack([layer.user_factor[user] for layer in trace.layers])[:, None, None] / norm
        factors = factors * trace.item_share[items].unsqueeze(1)
        self.collaborative_weights, self.knowledge_weights = gates * factors, (1.0 - gates) * factors
        entering = torch.stack([layer.entity[items].double() for layer in trace.layers])
        self.knowledge: Tensor = (self.knowledge_weights * entering).sum(0)
        self.collaborative: Tensor = torch.zeros_like(self.knowledge)
        if trace.item is not None:
            collaborative = [layer.item[items].double() for layer in trace.layers if layer.item is not None]
            self.collaborative = (self.collaborative_weights * torch.stack(collaborative)).sum(0)
        self.items_part: Tensor = self.knowledge + self.collaborative
        self.facts: dict[str, tuple[Edges, Tensor]] = {
            end: self._facts(trace, user, norm, end) for end in ("entity", "user")
        }
        self._names = [name for _, name, _ in trace.edge_types]

    def _facts(self, trace: Trace, user: int, norm: Tensor, end: str) -> tuple[Edges, Tensor]:
        edges = trace.received("user", torch.tensor([user]), end)
        heads = torch.full_like(edges.partner, user)
        parts = [
            trace.messages(number, heads, edges.relation, edges.partner, ends=("user", end)).sum(0)
            for number in range(len(trace.layers))
        ]
        return edges, torch.stack(parts).sum(0) / norm

    def terms(self, vector: Tensor) -> pd.DataFrame:
        """Contributions to the inner product with an item's vector ``[d]``, as :attr:`Terms.from_user`."""
        own = frame_of(USER_COLUMNS, "own", -1, (self.own @ vector).unsqueeze(0))
        parts = {"knowledge": self.knowledge, "collaborative": self.collaborative}
        frames = [own, *(frame_of(USER_COLUMNS, via, self.items, part @ vector) for via, part in parts.items())]
        for end, (edges, part) in self.facts.items():
            if len(edges.partner):
                names = [self._names[number] for number in edges.relation.tolist()]
                # The user receives a fact of its own along the inverse edge.
                backwards = [not name.startswith(INVERSE_PREFIX) for name in names]
                frames.append(
                    frame_of(USER_FACT_COLUMNS, FACT_OR_LINK[end], -1, edges.partner, part @ vector).assign(
                        relation=[name.removeprefix(INVERSE_PREFIX) for name in names], inverse=backwards
                    )
                )
        return pd.concat(frames, ignore_index=True)


class _LearnedPart:
    """What the two components of HAKG's learned score share: the trace and the user's side."""

    def __init__(self, trace: Trace, sides: UserSides) -> None:
        self.trace: Trace = trace
        self.sides: UserSides = sides

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
        """The item's side is its facts, those of users about it too; paths are entities shared with past items."""
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
            self._from_users(side, item, divisor),
        ], ignore_index=True)  # fmt: skip
        vector = trace.entity[item] / divisor
        paths, total = self._paths(side, item, facts, parts.sum(0))
        return Terms(float(side.unit @ vector), side.terms(vector), from_item, paths, {"entity": total})

    def _from_users(self, side: UserSide, item: int, divisor: Tensor) -> pd.DataFrame:
        """Terms of the facts that users have about the item."""
        trace = self.trace
        facts = trace.received("entity", torch.tensor([item]), "user")
        heads = torch.full_like(facts.partner, item)
        parts = [
            trace.messages(number, heads, facts.relation, facts.partner, ends=("entity", "user")).sum(0)
            for number in range(len(trace.layers))
        ]
        return frame_of(
            ITEM_COLUMNS, "user fact", facts.relation, facts.partner, torch.stack(parts).sum(0) @ side.unit / divisor
        )

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
        kept = strongest(values)
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
        counts = trace.collaborative_counts(item)
        users = trace.users_of(torch.tensor([item])).partner
        sent = torch.zeros(len(users), trace.user.shape[1], dtype=torch.float64)
        for layer in trace.layers:
            assert layer.item_factor is not None
            sent += layer.user[users].double() * layer.item_factor[item]
        sent *= trace.user_share[users].unsqueeze(1) / divisor
        assert trace.layers[0].item is not None
        own = trace.layers[0].item[item].double() * counts / divisor
        from_item = pd.concat([
            frame_of(ITEM_COLUMNS, "own", -1, -1, (own @ side.unit).unsqueeze(0)),
            frame_of(ITEM_COLUMNS, "user", -1, users, sent @ side.unit),
        ], ignore_index=True)  # fmt: skip
        vector = trace.item[item] * counts / divisor
        paths, total = self._paths(user, side, item, users, sent)
        return Terms(float(side.unit @ vector), side.terms(vector), from_item, paths, {"user": total})

    def _paths(
        self, user: int, side: UserSide, item: int, users: Tensor, sent: Tensor
    ) -> tuple[pd.DataFrame, tuple[int, float]]:
        """Other users who have a past item and the item, with their joint terms."""
        trace = self.trace
        place = torch.full((trace.graph.n_users,), -1)
        place[users] = torch.arange(len(users))
        oneself = trace.trained_number(user)
        if oneself >= 0:
            place[oneself] = -1
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
        kept = strongest(values)
        row, other = row[kept], other[kept]
        paths = frame_of(PATH_COLUMNS, "user", side.items[row], -1, other, -1, table[row, place[other]], values[kept])
        return paths, (len(values), float(values.sum()))


class LinearPart:
    """The linear item-item term: a weight for each past item, the same from either side."""

    name = "linear item-item term"

    def __init__(self, trace: Trace, network: Network) -> None:
        self.trace, terms = trace, network.terms
        self.left: Tensor = wide(terms.linear_left) * wide(terms.weights)[0]
        self.right: Tensor = wide(terms.linear_right)

    @torch.no_grad()
    def terms(self, user: int, item: int) -> Terms:
        """One term a past item."""
        items = self.trace.past_items(user)
        return _by_past_item("linear", items, self.left[items] @ self.right[item])


class FactsPart:
    """The term over facts: how like each past item is by its facts; and the bias of a new item."""

    name = "likeness by facts"

    def __init__(self, trace: Trace, network: Network) -> None:
        self.trace, terms = trace, network.terms
        weights, new = wide(terms.weights), (network.packed.interactions.col_degree == 0).cpu()
        self.facts: Tensor = wide(terms.facts)
        self.scaled: Tensor = wide(terms.scaled_facts(new.to(terms.facts.device)))
        self.weights: Tensor = torch.where(new, weights[2], weights[1])
        self.biases: Tensor = weights[3] * new

    @torch.no_grad()
    def terms(self, user: int, item: int) -> Terms:
        """One term a past item; the bias is the item's own."""
        items = self.trace.past_items(user)
        values = self.facts[items] @ self.scaled[item] * self.weights[item] / max(1, len(items)) ** POWER
        found, bias = _by_past_item("facts", items, values), self.biases[item].unsqueeze(0)
        return Terms(
            found.value + float(bias),
            pd.concat([found.from_user, frame_of(USER_COLUMNS, "own", -1, bias)], ignore_index=True),
            pd.concat([found.from_item, frame_of(ITEM_COLUMNS, "own", -1, -1, bias)], ignore_index=True),
        )


def _by_past_item(way: str, items: Tensor, values: Tensor) -> Terms:
    """A term that each past item has a share of."""
    return Terms(
        float(values.sum()),
        frame_of(USER_COLUMNS, way, items, values),
        frame_of(ITEM_COLUMNS, way, -1, items, values),
    )


class HAKGBreakdown:
    """The score of HAKG as a sum of components; see :class:`~hakg_dgl.models.explanation.Breakdown`.

    One component for each embedding that items have, and the linear term if there is one.

    Parameters
    ----------
    network
        As trained; its parameters are read now.
    folded
        Users to explain beside the trained ones, numbered after them.
    """

    def __init__(self, network: Network, folded: FoldedUsers | None = None) -> None:
        network.settle()
        self.trace: Trace | FoldedTrace = Trace(network) if folded is None else FoldedTrace(network, folded)
        sides = UserSides(self.trace)
        self.components: list[Component] = [KnowledgePart(self.trace, sides)]
        if self.trace.item is not None:
            self.components.append(CollaborativePart(self.trace, sides))
        if network.terms.linear_left.shape[1]:
            self.components.append(LinearPart(self.trace, network))
        if network.terms.facts.shape[1]:
            self.components.append(FactsPart(self.trace, network))

    def past_items(self, user: int) -> Tensor:
        """The user's items in the graph, int64 ``[n]``."""
        return self.trace.past_items(user)

    def mean_gate(self, items: Tensor) -> Tensor:
        """Mean weight of the collaborative embedding, over layers and coordinates, ``[n]``."""
        return self.trace.mean_gate(items)
