"""The readable layer: a mapping from canonical edge type to update function, run by DGL's ``multi_update_all``.

This is the definition of the model. :class:`ReadableAggregator` computes with it what
:class:`~hakg_dgl.layers.aggregators.PackedAggregator` computes fast, on the same interface.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from hakg_dgl.geometry.message import MessageRule
from hakg_dgl.graph.dgl_gate import dgl
from hakg_dgl.graph.edge_types import INTERACTED_BY, INTERACTS, EdgeType
from hakg_dgl.graph.packed import PackedGraph

fn = dgl.function
Message: TypeAlias = Callable[[Any], dict[str, Tensor]]


class UpdateFunction(Protocol):
    """What one edge type contributes: a message function over a batch of edges, summed at the destination."""

    def __call__(self, edges: Any) -> dict[str, Tensor]:
        """Messages ``{"m": [n_edges, d]}`` from ``edges.src``, ``edges.dst`` and ``edges.data``."""
        ...


@dataclass(frozen=True)
class RelationTransitiveUpdate:
    """Message of one relation: the tail moved along the relation, seen from the head (HAKG eq. 4).

    Attributes
    ----------
    relation
        Tangent vector ``[d]`` of the relation.
    rule
        Formulation, geometry, curvature.
    """

    relation: Tensor
    rule: MessageRule

    def __call__(self, edges: Any) -> dict[str, Tensor]:
        """``{"m": [n_edges, d]}``: tangent vectors at the head (or translations, in Euclidean geometry)."""
        message = self.rule.message(edges.dst["e"], edges.src["e"], self.relation.expand_as(edges.src["e"]))
        return {"m": message}


def collaborative_update(edges: Any) -> dict[str, Tensor]:
    """Message of an interaction: the sender's features as they are, ``{"m": [n_edges, d]}``."""
    return {"m": edges.src["x"]}


def update_all(graph: Any, updates: Mapping[EdgeType, UpdateFunction]) -> None:
    """Run the update functions of the given edge types and leave the sum of messages in ``dst["total"]``."""
    graph.multi_update_all(
        {etype: (update, fn.sum("m", "total")) for etype, update in updates.items()}, "sum"
    )  # fmt: skip


class ReadableAggregator:
    """Aggregation by one update function an edge type; see :class:`~hakg_dgl.layers.aggregators.Aggregator`.

    Parameters
    ----------
    graph
        Heterograph from :func:`~hakg_dgl.build_heterograph`.
    packed
        Its packed views, whose edge order the dropout masks follow.
    relation_types
        Canonical edge types of relations 0..2R-1.
    rule
        Formulation, geometry, curvature.
    """

    def __init__(self, graph: Any, packed: PackedGraph, relation_types: list[EdgeType], rule: MessageRule) -> None:
        self.graph, self.packed, self.relation_types, self.rule = graph, packed, relation_types, rule
        self._positions = _packed_positions(graph, packed, relation_types)
        self._scale = 1.0

    def drop(self, kg_mask: Tensor | None, interaction_mask: Tensor | None, scale: float) -> ReadableAggregator:
        """The same aggregator over the edges where the masks are true; kept interactions are worth ``scale``."""
        dropped = copy.copy(self)
        masks = dict.fromkeys(self.relation_types, kg_mask)
        masks |= {INTERACTS: interaction_mask, INTERACTED_BY: interaction_mask}
        dropped.graph, dropped._positions = self._subgraph(
            {
                etype: None if mask is None else mask.index_select(0, self._positions[etype])
                for etype, mask in masks.items()
            }
        )
        dropped._scale = scale
        return dropped

    def _subgraph(self, masks: Mapping[EdgeType, Tensor | None]) -> tuple[Any, dict[EdgeType, Tensor]]:
        """The graph of the edges where the masks are true, all nodes kept, and the packed positions of its edges."""
        every = {etype: torch.ones(len(p), dtype=torch.bool, device=p.device) for etype, p in self._positions.items()}
        chosen = every | {etype: mask for etype, mask in masks.items() if mask is not None}
        graph = dgl.edge_subgraph(self.graph, chosen, relabel_nodes=False, store_ids=False)
        return graph, {etype: position[chosen[etype]] for etype, position in self._positions.items()}

    def entities(self, entity: Tensor, relation: Tensor, n_heads: int) -> Tensor:
        """Mean of the relation-transitive messages of heads 0..n_heads-1: ``[n_heads, d]``."""
        graph = self.graph
        if n_heads < len(entity):
            graph, _ = self._subgraph({etype: graph.edges(etype=etype)[1] < n_heads for etype in self.relation_types})
        present = [
            (etype, w) for etype, w in zip(self.relation_types, relation, strict=False) if graph.num_edges(etype)
        ]
        if not present:
            return torch.zeros_like(entity[:n_heads])
        with graph.local_scope():
            graph.nodes["entity"].data["e"] = entity
            update_all(graph, {etype: RelationTransitiveUpdate(w, self.rule) for etype, w in present})
            total: Tensor = graph.nodes["entity"].data["total"]
        degree = torch.stack([graph.in_degrees(etype=etype) for etype, _ in present]).sum(0)
        return (total / degree.clamp_min(1).to(total.dtype).unsqueeze(1))[:n_heads]

    def item_sum(self, user: Tensor) -> Tensor:
        """Sum over each item's users of ``user`` ``[n_users, d]``: ``[n_items, d]``."""
        return self._interactions(INTERACTS, user)

    def user_sum(self, item: Tensor) -> Tensor:
        """Sum over each user's items of ``item`` ``[n_items, d]``: ``[n_users, d]``."""
        return self._interactions(INTERACTED_BY, item)

    def _interactions(self, etype: EdgeType, features: Tensor) -> Tensor:
        source, _, destination = etype
        if not self.graph.num_edges(etype):
            return features.new_zeros(self.graph.num_nodes(destination), features.shape[1])
        with self.graph.local_scope():
            self.graph.nodes[source].data["x"] = features
            update_all(self.graph, {etype: collaborative_update})
            total: Tensor = self.graph.nodes[destination].data["total"]
        return self._scale * total


def _packed_positions(graph: Any, packed: PackedGraph, relation_types: list[EdgeType]) -> dict[EdgeType, Tensor]:
    """For each edge of each type its position in the packed order."""
    knowledge, interactions = packed.knowledge, packed.interactions
    n, r = packed.n_entities, knowledge.n_relations
    keys = []
    for number, etype in enumerate(relation_types):
        tails, heads = graph.edges(etype=etype)
        keys.append((heads.long() * r + number) * n + tails)
    packed_keys = (knowledge.pairs.rows * r + knowledge.relation) * n + knowledge.pairs.cols
    places = _places(torch.cat([packed_keys[:0], *keys]), packed_keys)
    positions = dict(zip(relation_types, torch.split(places, [len(key) for key in keys]), strict=True))
    user, item = graph.edges(etype=INTERACTS)
    places = _places(user.long() * packed.n_items + item, interactions.rows * packed.n_items + interactions.cols)
    positions[INTERACTS] = positions[INTERACTED_BY] = places
    return positions


def _places(keys: Tensor, reordered: Tensor) -> Tensor:
    """Where each key is found in ``reordered``, which holds the same keys; equal ones are paired one to one."""
    places = torch.empty_like(keys)
    places[torch.argsort(keys, stable=True)] = torch.argsort(reordered, stable=True)
    return places
