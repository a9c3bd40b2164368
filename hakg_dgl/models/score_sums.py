"""Explanations of models whose score is a sum over past items, or an inner product of two sums over edges of the graph.

Nonlinear maps along the way, such as softmaxes, lengths and slopes, count as the factors that they are for this user
and this item: docs/explain.md says so for each model. A model gives its parts in float64; the rest is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.graph.packed import Grouping
from hakg_dgl.models.explanation import (
    ITEM_COLUMNS,
    PATH_COLUMNS,
    USER_COLUMNS,
    Component,
    Terms,
    frame_of,
    no_paths,
    strongest,
)
from hakg_dgl.ranking.fold_in import FoldedUsers

NONE = torch.empty(0, dtype=torch.int64)
"""No nodes."""


@dataclass(frozen=True)
class UserSum:
    """A user's vector as a sum, float64 on the CPU.

    Attributes
    ----------
    own
        What is there without the user's items, ``[d]``.
    by_item
        What carries the evidence of past items -> the part of each of the user's n items, ``[n, d]``; empty where the
        score does not read the user's items.
    """

    own: Tensor
    by_item: Mapping[str, Tensor]

    @property
    def of_items(self) -> Tensor:
        """All that comes from each item, ``[n, d]``; no rows for a user whose items are not read."""
        parts = list(self.by_item.values())
        return torch.stack(parts).sum(0) if parts else self.own.new_zeros(0, len(self.own))


@dataclass(frozen=True)
class ItemSum:
    """An item's vector as a sum, float64 on the CPU.

    Attributes
    ----------
    own
        What is there without the item's edges, ``[d]``.
    relation, entity, facts
        The item's m facts: numbers of relations (R and above: inverses) and of entities, int64 ``[m]``, and the part of
        each, ``[m, d]``.
    users, from_users
        The k users of the item, int64 ``[k]``, and the part of each, ``[k, d]``.
    others
        Name of another kind of term -> the items that it comes from, int64 ``[j]``, and the part of each, ``[j, d]``.
    """

    own: Tensor
    relation: Tensor = NONE
    entity: Tensor = NONE
    facts: Tensor | None = None
    users: Tensor = NONE
    from_users: Tensor | None = None
    others: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def vector(self) -> Tensor:
        """The item's vector, ``[d]``."""
        parts = [part for part in (self.facts, self.from_users) if part is not None]
        return self.own + sum((part.sum(0) for part in [*parts, *(x for _, x in self.others.values())]), start=0.0)


class Sums(Protocol):
    """What a model's vectors are the sums of."""

    def of_user(self, items: Tensor, number: int, added: bool) -> UserSum:
        """A user by items.

        Parameters
        ----------
        items
            int64 ``[n]``.
        number
            The user's in the graph; -1 for one whom the model was not trained on.
        added
            Whether the items were given with the user, and are not those of the graph.
        """

    def of_item(self, item: int, user: Tensor) -> ItemSum:
        """An item for a user with the vector ``[d]``, float64."""


class Ends(NamedTuple):
    """Edges from some receivers: the place of the receiver, the edge's number and the sender, int64 ``[n]`` each."""

    receiver: Tensor
    edge: Tensor
    sender: Tensor


def edges_of(grouping: Grouping, senders: Tensor, receivers: Tensor) -> Ends:
    """The edges of some groups, int64 ``[k]``; ``senders`` are those of all edges. All on the CPU."""
    starts, ends = grouping.indptr.cpu()[receivers], grouping.indptr.cpu()[receivers + 1]
    sizes = ends - starts
    receiver = torch.repeat_interleave(sizes)
    edge = torch.arange(len(receiver)) + (starts - sizes.cumsum(0) + sizes)[receiver]
    edge = edge if grouping.order is None else grouping.order.cpu()[edge]
    return Ends(receiver, edge, senders.cpu()[edge])


class OneSum:
    """A score of one component; see :class:`~hakg_dgl.models.explanation.Breakdown`.

    Parameters
    ----------
    graph
        The graph that the model was trained on.
    folded
        Users to explain beside the trained ones, numbered after them.
    """

    components: Sequence[Component]

    def __init__(self, graph: HeteroGraph, folded: FoldedUsers | None = None) -> None:
        self.graph: HeteroGraph = graph.to("cpu")
        self._folded = folded

    def past_items(self, user: int) -> Tensor:
        """The user's items in the graph or, for a user who was added, those that were given; int64 ``[n]``."""
        place = user - self.graph.n_users
        if place < 0 or self._folded is None:
            pattern = self.graph.packed.interactions
            return edges_of(pattern.by_row, pattern.cols, torch.tensor([user])).sender
        indptr, items = self._folded.indptr, self._folded.items
        return items[int(indptr[place]) : int(indptr[place + 1])]

    def number(self, user: int) -> int:
        """The number of the user in the graph, -1 for one whom the model was not trained on."""
        place = user - self.graph.n_users
        return user if place < 0 or self._folded is None else int(self._folded.about.known[place])

    def mean_gate(self, items: Tensor) -> Tensor:
        """NaN: there is no gate."""
        return torch.full((len(items),), torch.nan, dtype=torch.float64)


class LinearBreakdown(OneSum):
    """The score as a sum of a weight for each past item.

    Parameters
    ----------
    graph, folded
        As of :class:`OneSum`.
    weights
        From past items, int64 ``[n]``, and the item to their weights, ``[n]``.
    """

    def __init__(
        self, graph: HeteroGraph, weights: Callable[[Tensor, int], Tensor], folded: FoldedUsers | None = None
    ) -> None:
        super().__init__(graph, folded)
        self.components: list[Component] = [_Weights(self, weights)]


class _Weights:
    """The whole score, which is linear in the user's items."""

    name = "weights between items"

    def __init__(self, breakdown: OneSum, weights: Callable[[Tensor, int], Tensor]) -> None:
        self.breakdown, self.weights = breakdown, weights

    @torch.no_grad()
    def terms(self, user: int, item: int) -> Terms:
        """One term for each past item, the same on either side."""
        items = self.breakdown.past_items(user)
        values = wide(self.weights(items, item))
        from_user = frame_of(USER_COLUMNS, "linear", items, values)
        from_item = frame_of(ITEM_COLUMNS, "linear", -1, items, values)
        return Terms(float(values.sum()), from_user, from_item, path_totals={"entity": (0, 0.0)})


class SummedBreakdown(OneSum):
    """The score as an inner product of two sums.

    Parameters
    ----------
    graph, folded
        As of :class:`OneSum`.
    sums
        What user and item are the sums of.
    """

    def __init__(self, graph: HeteroGraph, sums: Sums, folded: FoldedUsers | None = None) -> None:
        super().__init__(graph, folded)
        self.sums: Sums = sums
        self.components: list[Component] = [_InnerProduct(self)]


class _InnerProduct:
    """The whole score, which is one inner product."""

    name = "inner product"

    def __init__(self, breakdown: SummedBreakdown) -> None:
        self.breakdown = breakdown

    @torch.no_grad()
    def terms(self, user: int, item: int) -> Terms:
        """One term for each past item, each fact and each user of the item."""
        breakdown = self.breakdown
        items = breakdown.past_items(user)
        side = breakdown.sums.of_user(items, breakdown.number(user), user >= breakdown.graph.n_users)
        whole = side.own + side.of_items.sum(0)
        it = breakdown.sums.of_item(item, whole)
        vector = it.vector
        from_user = [frame_of(USER_COLUMNS, "own", -1, (side.own @ vector).unsqueeze(0))]
        from_user += [frame_of(USER_COLUMNS, way, items, part @ vector) for way, part in side.by_item.items()]
        from_item = [frame_of(ITEM_COLUMNS, "own", -1, -1, (it.own @ whole).unsqueeze(0))]
        if it.facts is not None:
            from_item.append(frame_of(ITEM_COLUMNS, "fact", it.relation, it.entity, it.facts @ whole))
        if it.from_users is not None:
            from_item.append(frame_of(ITEM_COLUMNS, "user", -1, it.users, it.from_users @ whole))
        for via, (nodes, part) in it.others.items():
            from_item.append(frame_of(ITEM_COLUMNS, via, -1, nodes, part @ whole))
        paths, totals = self._paths(user, item, items, side, it)
        return Terms(
            float(whole @ vector),
            pd.concat(from_user, ignore_index=True),
            pd.concat(from_item, ignore_index=True),
            paths,
            totals,
        )

    def _paths(
        self, user: int, item: int, items: Tensor, side: UserSum, it: ItemSum
    ) -> tuple[pd.DataFrame, dict[str, tuple[int, float]]]:
        """Paths of all kinds that the model has, and their numbers and sums."""
        found, totals = [no_paths()], {"entity": (0, 0.0)}
        if side.by_item and it.facts is not None:
            paths, totals["entity"] = self._over_entities(items, item, it, side.of_items @ it.facts.T)
            found.append(paths)
        if side.by_item and it.from_users is not None:
            joint, oneself = side.of_items @ it.from_users.T, self.breakdown.number(user)
            paths, totals["user"] = self._over_users(items, item, it.users, joint, oneself)
            found.append(paths)
        return pd.concat(found, ignore_index=True), totals

    def _over_entities(
        self, items: Tensor, item: int, it: ItemSum, joint: Tensor
    ) -> tuple[pd.DataFrame, tuple[int, float]]:
        """Entities that past items and the item have facts with; edges between the same two nodes share their term."""
        knowledge = self.breakdown.graph.packed.knowledge
        edges = edges_of(knowledge.pairs.by_row, knowledge.pairs.cols, items)
        shared = torch.isin(edges.sender, it.entity) & (items[edges.receiver] != item)
        row, edge, node = (x[shared] for x in edges)
        _, pair, parallel = torch.unique(torch.stack([row, node]), dim=1, return_inverse=True, return_counts=True)
        mine, its = joined(node, it.entity)
        values = joint[row[mine], its] / parallel[pair[mine]]
        kept = strongest(values)
        mine, its = mine[kept], its[kept]
        relation = knowledge.relation[edge[mine]]
        return paths_of("entity", items[row[mine]], relation, node[mine], it.relation[its], values, kept)

    def _over_users(
        self, items: Tensor, item: int, users: Tensor, joint: Tensor, oneself: int
    ) -> tuple[pd.DataFrame, tuple[int, float]]:
        """Other users who have a past item and the item."""
        interactions = self.breakdown.graph.packed.interactions
        place = torch.full((self.breakdown.graph.n_users,), -1)
        place[users] = torch.arange(len(users))
        if oneself >= 0:
            place[oneself] = -1
        row, _, other = edges_of(interactions.by_col, interactions.rows, items)
        shared = (place[other] >= 0) & (items[row] != item)
        row, other = row[shared], other[shared]
        values = joint[row, place[other]]
        kept = strongest(values)
        return paths_of("user", items[row[kept]], -1, other[kept], -1, values, kept)


def joined(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Places in either tensor of all pairs of equal numbers."""
    ours = pd.DataFrame({"node": left, "mine": np.arange(len(left))})
    theirs = pd.DataFrame({"node": right, "its": np.arange(len(right))})
    both = ours.merge(theirs, on="node")
    mine, its = (torch.from_numpy(both[name].to_numpy(dtype=np.int64).copy()) for name in ("mine", "its"))
    return mine, its


def paths_of(
    via: str, past: Tensor, relation: Tensor | int, node: Tensor, back: Tensor | int, values: Tensor, kept: Tensor
) -> tuple[pd.DataFrame, tuple[int, float]]:
    """The paths that are kept, and the number and the sum of all; what passes the node twice is not told apart."""
    through = torch.full((len(kept),), torch.nan, dtype=torch.float64)
    frame = frame_of(PATH_COLUMNS, via, past, relation, node, back, through, values[kept])
    return frame, (len(values), float(values.sum()))


def wide(values: Tensor) -> Tensor:
    """A copy in float64 on the CPU."""
    return values.detach().to("cpu", torch.float64, copy=True)
