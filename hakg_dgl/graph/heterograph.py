"""Data set to DGL heterograph: node types ``user``, ``item``, ``entity``, one canonical edge type per relation.

DGL reduces at the destination, so a triple (head, relation, tail) is stored as the edge tail -> head and the head
receives. ``item`` nodes carry collaborative embeddings, ``entity`` nodes knowledge; entities 0..n_items-1 are the
items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import DataError
from hakg_dgl.graph.dgl_gate import dgl
from hakg_dgl.graph.packed import PackedGraph

EdgeType: TypeAlias = tuple[str, str, str]
INTERACTS: EdgeType = ("user", "interacts", "item")
INTERACTED_BY: EdgeType = ("item", "interacted_by", "user")
INVERSE_PREFIX = "inverse_"


def relation_edge_types(names: Sequence[str]) -> list[EdgeType]:
    """Canonical edge types of the relations, then of their inverses: 2R of them, in the order of relation ids.

    A name that is taken (by another relation, an inverse or the interactions) gets its relation's number appended.
    """
    taken = {INTERACTS[1], INTERACTED_BY[1]}
    unique: list[str] = []
    for number, name in enumerate(names):
        candidate = name
        while candidate in taken or INVERSE_PREFIX + candidate in taken:
            candidate = f"{candidate}#{number}"
        taken |= {candidate, INVERSE_PREFIX + candidate}
        unique.append(candidate)
    return [("entity", name, "entity") for name in (*unique, *(INVERSE_PREFIX + name for name in unique))]


def heterograph_from_arrays(
    interactions: Tensor,
    triples: Tensor,
    relation_names: Sequence[str],
    *,
    n_users: int,
    n_items: int,
    n_entities: int,
) -> Any:
    """Heterograph of interactions (int64 ``[n, 2]``) and triples (int64 ``[t, 3]``); see :func:`build_heterograph`."""
    user, item = interactions.unbind(1)
    edges: dict[EdgeType, tuple[Tensor, Tensor]] = {INTERACTS: (user, item), INTERACTED_BY: (item, user)}
    order = torch.argsort(triples[:, 1], stable=True)
    head, relation, tail = triples[order].unbind(1)
    sizes = torch.bincount(relation, minlength=len(relation_names)).tolist()
    types = relation_edge_types(relation_names)
    heads_by_relation, tails_by_relation = torch.split(head, sizes), torch.split(tail, sizes)
    for forward, inverse, heads, tails in zip(
        types[: len(sizes)], types[len(sizes) :], heads_by_relation, tails_by_relation, strict=True
    ):
        edges[forward] = (tails, heads)
        edges[inverse] = (heads, tails)
    graph = dgl.heterograph(edges, num_nodes_dict={"user": n_users, "item": n_items, "entity": n_entities})
    # DGL sorts edge types by name; relation ids are told from their order, so it is restored.
    return dgl.edge_type_subgraph(graph, [INTERACTS, INTERACTED_BY, *types]) if types else graph


def build_heterograph(dataset: Dataset, splits: Sequence[str] = ("train",)) -> Any:
    """The DGL heterograph of a data set.

    Parameters
    ----------
    dataset
        Its interactions of ``splits`` become edges, in the order of ``dataset.pairs``.
    splits
        Which interactions to include; the training ones unless said otherwise.

    Returns
    -------
    dgl.DGLHeteroGraph
        Edge types ``('user', 'interacts', 'item')``, ``('item', 'interacted_by', 'user')`` and, per relation,
        ``('entity', name, 'entity')`` (tail to head) and ``('entity', 'inverse_' + name, 'entity')``, in the order of
        relation ids. No features.
    """
    return heterograph_from_arrays(
        torch.from_numpy(dataset.pairs(*splits)),
        torch.from_numpy(dataset.triples[["head", "relation", "tail"]].to_numpy()),
        list(dataset.relations["name"]),
        n_users=dataset.n_users,
        n_items=dataset.n_items,
        n_entities=dataset.n_entities,
    )


def pack(graph: Any) -> PackedGraph:
    """Packed views of a heterograph made by :func:`build_heterograph`, on the graph's device.

    Relations are numbered in the order of the graph's edge types, which is that of the data set's relation ids.

    Raises
    ------
    DataError
        If an entity edge type lacks its inverse.
    """
    n_types = sum(source == "entity" for source, _, _ in graph.canonical_etypes)
    types = pack_relation_types(graph)
    if len(types) != n_types:
        raise DataError(
            f"{n_types} relation edge types, {len(types) // 2} of them with an inverse",
            remedy="build the graph with hakg_dgl.build_heterograph, which adds the inverses",
        )
    names = [name for _, name, _ in types[: len(types) // 2]]
    interactions = torch.stack(graph.edges(etype=INTERACTS), 1).long()
    triples = [interactions.new_empty(0, 3)]
    for number, name in enumerate(names):
        tails, heads = graph.edges(etype=name)
        triples.append(torch.stack([heads, torch.full_like(heads, number), tails], 1).long())
    return PackedGraph.from_arrays(
        interactions,
        torch.cat(triples),
        n_users=graph.num_nodes("user"),
        n_items=graph.num_nodes("item"),
        n_entities=graph.num_nodes("entity"),
        n_relations=len(names),
    )


def pack_relation_types(graph: Any) -> list[EdgeType]:
    """Canonical edge types of relations 0..R-1 and their inverses, numbered as :func:`pack` numbers them."""
    names = [name for source, name, _ in graph.canonical_etypes if source == "entity"]
    known, inverses = set(names), set[str]()
    for name in sorted(names, key=len):  # a relation comes before its inverse, whose name may itself have an inverse
        if name not in inverses and INVERSE_PREFIX + name in known:
            inverses.add(INVERSE_PREFIX + name)
    forward = [name for name in names if INVERSE_PREFIX + name in inverses]
    return [("entity", name, "entity") for name in (*forward, *(INVERSE_PREFIX + name for name in forward))]
