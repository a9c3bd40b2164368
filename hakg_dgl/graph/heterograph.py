"""The package's own heterograph: node types ``user``, ``item``, ``entity``, one canonical edge type per relation.

Edges carry messages from their source to their destination, so a triple (head, relation, tail) is stored as the edge
tail -> head and the head receives. ``item`` nodes carry collaborative embeddings, ``entity`` nodes knowledge; entities
0..n_items-1 are the items. Nothing here needs DGL; :mod:`hakg_dgl.graph.dgl_graph` converts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.graph.edge_types import (
    INTERACTED_BY,
    INTERACTS,
    INVERSE_PREFIX,
    EdgeType,
    inverse_of,
    paired_with_inverses,
    relation_edge_types,
    unique_names,
)
from hakg_dgl.graph.packed import JoinedEdges, KnowledgePattern, PackedGraph, SparsePattern, join_edges

__all__ = [
    "INTERACTED_BY",
    "INTERACTS",
    "INVERSE_PREFIX",
    "EdgeType",
    "HeteroGraph",
    "as_heterograph",
    "build_graph",
    "graph_from_arrays",
    "pack",
    "relation_edge_types",
]

_NODE_TYPES = ("user", "item", "entity")


@dataclass(frozen=True, eq=False)
class HeteroGraph:
    """Users, items and entities, and the edges between them by canonical edge type.

    Attributes
    ----------
    n_nodes
        Node type -> number of nodes.
    edges
        Canonical edge type -> source and destination of its edges, int64 ``[n]`` each. The order of the types numbers
        the relations.
    names
        Every original id and every name of a relation of the KG -> its number; a name wins over an id. Empty where
        they are not known.
    """

    n_nodes: Mapping[str, int]
    edges: Mapping[EdgeType, tuple[Tensor, Tensor]]
    names: Mapping[str, int] = field(default_factory=dict)

    @property
    def n_users(self) -> int:
        """Number of users."""
        return self.n_nodes["user"]

    @property
    def n_items(self) -> int:
        """Number of items."""
        return self.n_nodes["item"]

    @property
    def n_entities(self) -> int:
        """Number of entities; the first of them are the items."""
        return self.n_nodes["entity"]

    @property
    def n_relations(self) -> int:
        """Number R of relations of the KG, without inverses."""
        return len(self.relation_types) // 2

    @property
    def device(self) -> torch.device:
        """Where the edges lie."""
        return self.edges[INTERACTS][0].device

    @property
    def canonical_etypes(self) -> list[EdgeType]:
        """All edge types, in the order that numbers relations."""
        return list(self.edges)

    @cached_property
    def relation_types(self) -> tuple[EdgeType, ...]:
        """Edge types of relations 0..R-1 of the KG, then of their inverses; those without an inverse are left out."""
        between = [etype for etype in self.edges if (etype[0], etype[2]) == ("entity", "entity")]
        return tuple(paired_with_inverses(between))

    @cached_property
    def user_types(self) -> tuple[EdgeType, ...]:
        """Edge types of the facts and links of users, then their inverses; those without an inverse are left out."""
        ends = {("user", "entity"), ("user", "user"), ("entity", "user")}
        return tuple(paired_with_inverses(etype for etype in self.edges if (etype[0], etype[2]) in ends))

    def num_nodes(self, node_type: str) -> int:
        """Number of nodes of a type."""
        return self.n_nodes[node_type]

    def num_edges(self, edge_type: EdgeType | None = None) -> int:
        """Number of edges of a type, or of all."""
        if edge_type is None:
            return sum(len(source) for source, _ in self.edges.values())
        return len(self.edges[edge_type][0])

    def pairs(self) -> Tensor:
        """The interactions in the order of the graph, int64 ``[n, 2]``: user, item."""
        return torch.stack(self.edges[INTERACTS], 1)

    def positives(self) -> tuple[Tensor, Tensor]:
        """``indptr`` int64 ``[n_users + 1]`` and ``items`` int64 ``[n]``: the items of each user, ascending."""
        pattern = self.packed.interactions
        return pattern.by_row.indptr, pattern.cols

    def triples(self) -> Tensor:
        """The facts of the KG without inverses, int64 ``[t, 3]``: head, relation, tail, by relation."""
        rows = [torch.empty(0, 3, dtype=torch.int64, device=self.device)]
        for number, etype in enumerate(self.relation_types[: self.n_relations]):
            tails, heads = self.edges[etype]
            rows.append(torch.stack([heads, torch.full_like(heads, number), tails], 1))
        return torch.cat(rows)

    def to(self, device: torch.device | str) -> HeteroGraph:
        """The same graph on another device; itself where it already lies there."""
        if torch.empty(0, device=device).device == self.device:
            return self
        moved = {etype: (ends[0].to(device), ends[1].to(device)) for etype, ends in self.edges.items()}
        return HeteroGraph(self.n_nodes, moved, self.names)

    def restrict(self, edge_types: Iterable[EdgeType]) -> HeteroGraph:
        """The graph with all nodes and the edges of the given types alone, in the order of this graph.

        Raises
        ------
        ConfigError
            For an edge type that the graph does not have.
        """
        chosen = set(edge_types)
        unknown = sorted(chosen - set(self.edges))
        if unknown:
            raise ConfigError(f"the graph has no edges of type {unknown[0]}; it has {', '.join(map(str, self.edges))}")
        kept = {etype: ends for etype, ends in self.edges.items() if etype in chosen}
        return HeteroGraph(self.n_nodes, kept, self.names)

    @cached_property
    def packed(self) -> PackedGraph:
        """Packed views of interactions and KG, made when they are first asked for."""
        return pack(self)

    def places(self, edge_types: tuple[EdgeType, ...]) -> Mapping[EdgeType, Tensor]:
        """For each edge of each of the types its place where they are joined: the order that masks are in."""
        one_table = self._joined.get((edge_types, True))  # the order is the same either way
        return (one_table or self.joined(edge_types)).places

    @cached_property
    def _joined(self) -> dict[tuple[tuple[EdgeType, ...], bool], JoinedEdges]:
        return {}

    def joined(self, edge_types: tuple[EdgeType, ...], *, one_table: bool = False) -> JoinedEdges:
        """Edges of several types in one pattern, made once; see :class:`~hakg_dgl.graph.packed.JoinedEdges`.

        Parameters
        ----------
        edge_types
            Which, in the order that numbers them.
        one_table
            Whether rows and columns are numbered alike, in one table of all node types at either end.
        """
        key = edge_types, one_table
        if key not in self._joined:
            chosen = {etype: self.edges[etype] for etype in edge_types}
            self._joined[key] = join_edges(chosen, self.n_nodes, one_table=one_table)
        return self._joined[key]


def graph_from_arrays(
    interactions: Tensor,
    triples: Tensor,
    relation_names: Sequence[str],
    *,
    n_users: int,
    n_items: int,
    n_entities: int,
    names: Mapping[str, int] | None = None,
) -> HeteroGraph:
    """Graph of interactions (int64 ``[n, 2]``) and triples (int64 ``[t, 3]``); see :func:`build_graph`."""
    user, item = interactions.contiguous().unbind(1)
    edges: dict[EdgeType, tuple[Tensor, Tensor]] = {INTERACTS: (user, item), INTERACTED_BY: (item, user)}
    types = relation_edge_types(relation_names)
    edges |= _edges_of_relations(types, triples)
    known = {name: number for number, name in enumerate(relation_names)} if names is None else names
    return HeteroGraph({"user": n_users, "item": n_items, "entity": n_entities}, edges, known)


def _edges_of_relations(types: Sequence[EdgeType], triples: Tensor) -> dict[EdgeType, tuple[Tensor, Tensor]]:
    """Edges of the types of relations 0..R-1 and their inverses from triples, the relation's number in the middle."""
    n_relations = len(types) // 2
    order = torch.argsort(triples[:, 1], stable=True)
    head, relation, tail = triples[order].unbind(1)
    sizes = torch.bincount(relation, minlength=n_relations).tolist()
    ends = list(zip(torch.split(head, sizes), torch.split(tail, sizes), strict=True))
    forward = {etype: (tails, heads) for etype, (heads, tails) in zip(types[:n_relations], ends, strict=True)}
    inverse = {etype: (heads, tails) for etype, (heads, tails) in zip(types[n_relations:], ends, strict=True)}
    return forward | inverse


def build_graph(dataset: Dataset, splits: Sequence[str] = ("train",)) -> HeteroGraph:
    """The heterograph of a data set.

    Parameters
    ----------
    dataset
        Its interactions of ``splits`` become edges, in the order of ``dataset.pairs``.
    splits
        Which interactions to include; the training ones unless said otherwise.

    Returns
    -------
    HeteroGraph
        Edge types ``('user', 'interacts', 'item')``, ``('item', 'interacted_by', 'user')`` and, per relation,
        ``('entity', name, 'entity')`` (tail to head) and ``('entity', 'inverse_' + name, 'entity')``, in the order of
        relation ids. Where the data set has facts and links of users, also per relation of theirs ``('user', name,
        'entity')`` or ``('user', name, 'user')`` and, with ``inverse_`` before the name, the way back.
    """
    relations = dataset.relations
    names: dict[str, int] = {}
    for column in ("original_id", "name"):  # names come last, so they win: they are what `hakg info` shows
        names.update({str(name): number for number, name in enumerate(relations[column])})
    graph = graph_from_arrays(
        torch.from_numpy(dataset.pairs(*splits)),
        torch.from_numpy(dataset.triples[["head", "relation", "tail"]].to_numpy()),
        list(relations["name"]),
        n_users=dataset.n_users,
        n_items=dataset.n_items,
        n_entities=dataset.n_entities,
        names=names,
    )
    return HeteroGraph(graph.n_nodes, {**graph.edges, **_edges_of_users(dataset)}, names)


def _edges_of_users(dataset: Dataset) -> dict[EdgeType, tuple[Tensor, Tensor]]:
    """Edges of the facts and links of users, each with its way back; empty for a data set without any."""
    tables = [
        _columns(dataset.user_facts, "entity"),
        _columns(dataset.user_links, "other"),
    ]
    if not any(len(table) for table in tables):
        return {}
    forward: dict[EdgeType, tuple[Tensor, Tensor]] = {}
    for number, name in enumerate(unique_names(list(dataset.user_relations["name"]))):
        for table, end in zip(tables, ("entity", "user"), strict=True):
            rows = table[table[:, 1] == number]
            if len(rows):
                forward["user", name, end] = (rows[:, 0].contiguous(), rows[:, 2].contiguous())
    return forward | {inverse_of(etype): (there, here) for etype, (here, there) in forward.items()}


def _columns(table: pd.DataFrame, end: str) -> Tensor:
    """``[n, 3]`` of a table of users: user, relation, other end."""
    return torch.from_numpy(table[["user", "relation", end]].to_numpy(dtype=np.int64, copy=True))


def as_heterograph(graph: Any) -> HeteroGraph:
    """The package's own graph from either kind of graph.

    Parameters
    ----------
    graph
        A :class:`HeteroGraph`, which is returned as it is, or a ``dgl.DGLHeteroGraph``. Names of its relations are
        those of its edge types; its features are not read.

    Raises
    ------
    DataError
        If node types or the interactions are missing, there are fewer entities than items, an edge type between
        entities lacks its inverse, or an edge type and its inverse differ in their number of edges.
    ConfigError
        If it is not a heterograph.
    """
    if isinstance(graph, HeteroGraph):
        return graph
    if not hasattr(graph, "canonical_etypes"):
        raise ConfigError(f"a heterograph is wanted (hakg_dgl.build_graph makes one), not {type(graph).__name__}")
    _check(graph)
    edges: dict[EdgeType, tuple[Tensor, Tensor]] = {}
    for etype in (INTERACTS, INTERACTED_BY, *graph.canonical_etypes):
        source, destination = graph.edges(etype=etype)
        edges[etype] = (source.long(), destination.long())
    n_nodes = {ntype: graph.num_nodes(ntype) for ntype in graph.ntypes}
    plain = HeteroGraph(n_nodes, edges)
    types = plain.relation_types
    forward = types[: len(types) // 2]
    # Edges and their inverses in the same order, whatever the order was.
    reversed_edges = {inverse_of(etype): edges[etype][::-1] for etype in forward}
    ordered = {INTERACTS: edges[INTERACTS], INTERACTED_BY: edges[INTERACTS][::-1]}
    ordered |= {etype: edges[etype] for etype in forward}
    ordered |= reversed_edges
    ordered |= {etype: ends for etype, ends in edges.items() if etype not in ordered}
    return HeteroGraph(n_nodes, ordered, {name: number for number, (_, name, _) in enumerate(forward)})


def _check(graph: Any) -> None:
    """Raise DataError unless a DGL graph has what every model reads."""
    remedy = "build the graph with hakg_dgl.build_heterograph, which makes all of it"
    missing = [f"nodes of type {ntype!r}" for ntype in _NODE_TYPES if ntype not in graph.ntypes]
    missing += [f"edges of type {etype}" for etype in (INTERACTS, INTERACTED_BY) if etype not in graph.canonical_etypes]
    if missing:
        raise DataError(f"the graph has no {', no '.join(missing)}", remedy=remedy)
    if graph.num_nodes("entity") < graph.num_nodes("item"):
        raise DataError(
            f"the graph has {graph.num_nodes('entity')} entities and {graph.num_nodes('item')} items, but every item "
            "is an entity",
            remedy=remedy,
        )
    relations = [etype for etype in graph.canonical_etypes if (etype[0], etype[2]) == ("entity", "entity")]
    types = paired_with_inverses(relations)
    if len(types) != len(relations):
        raise DataError(
            f"{len(relations)} relation edge types, {len(types) // 2} of them with an inverse",
            remedy="build the graph with hakg_dgl.build_heterograph, which adds the inverses",
        )
    half = len(types) // 2
    for there, back in ((INTERACTS, INTERACTED_BY), *zip(types[:half], types[half:], strict=True)):
        counts = graph.num_edges(there), graph.num_edges(back)
        if counts[0] != counts[1]:
            raise DataError(f"{counts[0]} edges of type {there}, but {counts[1]} of its inverse {back}", remedy=remedy)


def pack(graph: HeteroGraph) -> PackedGraph:
    """Packed views of interactions and KG, on the graph's device; :attr:`HeteroGraph.packed` keeps them.

    Relations are numbered in the order of the graph's edge types, which is that of the data set's relation ids.
    """
    interactions = graph.joined((INTERACTED_BY,)).pattern.pairs
    nothing = graph.edges[INTERACTS][0][:0]
    if graph.relation_types:
        knowledge = graph.joined(graph.relation_types, one_table=True).pattern
    else:
        pairs = SparsePattern.from_pairs(nothing, nothing, graph.n_entities, graph.n_entities)
        knowledge = KnowledgePattern(pairs, nothing, 0)
    return PackedGraph(graph.n_users, graph.n_items, graph.n_entities, graph.n_relations, interactions, knowledge)
