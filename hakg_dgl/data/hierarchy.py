"""Which relations of a knowledge graph order items below attributes, and attributes below attributes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse
from scipy.sparse import csgraph

Int64: TypeAlias = npt.NDArray[np.int64]

_HIERARCHY_SOURCES = 64
"""Nodes from which reachability is followed where a relation chains (see :func:`hierarchy_score`)."""

HIERARCHY_SCORE, ITEMS_PER_ATTRIBUTE = 0.9, 2.0
"""Thresholds of :func:`hierarchical_relations`."""


class Triples(NamedTuple):
    """The facts of a knowledge graph whose first entities are the items.

    Attributes
    ----------
    head, relation, tail
        int64 ``[t]`` each, without inverses.
    n_items, n_entities, n_relations
        Sizes.
    """

    head: Int64
    relation: Int64
    tail: Int64
    n_items: int
    n_entities: int
    n_relations: int


def relation_statistics(triples: Triples) -> pd.DataFrame:
    """One row a relation, in index order.

    Columns: ``relation`` (index), ``triples``, ``heads`` and ``tails`` (distinct), ``fan_in`` (triples a
    distinct tail), ``fan_out`` (triples a distinct head), ``item_attribute`` (triples with exactly one end an item),
    ``items_per_attribute`` and ``attributes_per_item`` (of those; 0 if there are none), ``hierarchy`` (see
    :func:`hierarchy_score`), ``hierarchical`` (see :func:`hierarchical_relations`) and ``orders_attributes`` (see
    :func:`attribute_tree`).
    """
    n, n_entities = triples.n_relations, max(triples.n_entities, 1)
    head, relation, tail = triples.head, triples.relation, triples.tail
    mixed = (head < triples.n_items) != (tail < triples.n_items)
    item, attribute = np.minimum(head, tail), np.maximum(head, tail)  # items have the lower numbers

    def distinct(ends: Int64, rows: Any = slice(None)) -> Int64:
        keys = pd.unique(relation[rows] * n_entities + ends[rows])
        return np.bincount(keys // n_entities, minlength=n)

    count, links = np.bincount(relation, minlength=n), np.bincount(relation[mixed], minlength=n)
    heads, tails = distinct(head), distinct(tail)
    order = np.argsort(relation, kind="stable")
    bounds = np.concatenate([[0], np.cumsum(count)])
    scores = []
    for number in range(n):
        rows = order[bounds[number] : bounds[number + 1]]
        scores.append(hierarchy_score(head[rows], tail[rows]))
    table = pd.DataFrame(
        {
            "relation": np.arange(n),
            "triples": count,
            "heads": heads,
            "tails": tails,
            "fan_in": count / np.maximum(tails, 1),
            "fan_out": count / np.maximum(heads, 1),
            "item_attribute": links,
            "items_per_attribute": links / np.maximum(distinct(attribute, mixed), 1),
            "attributes_per_item": links / np.maximum(distinct(item, mixed), 1),
            "hierarchy": np.array(scores, dtype=np.float64),
        }
    )
    shared = table["items_per_attribute"]
    narrow = (shared >= ITEMS_PER_ATTRIBUTE) & (shared > table["attributes_per_item"])
    return table.assign(
        hierarchical=(table["hierarchy"] >= HIERARCHY_SCORE) & narrow,
        orders_attributes=table["relation"].isin(attribute_tree(triples)["relation"]),
    )


def hierarchical_relations(triples: Triples) -> list[int]:
    """Relations that seem to order items below attributes: the estimate behind ``auto``.

    A relation is taken as hierarchical if it is nearly free of cycles (:func:`hierarchy_score` at least
    ``HIERARCHY_SCORE``) and its attributes gather items: an attribute has ``ITEMS_PER_ATTRIBUTE`` items or more on
    average, and more than an item has attributes. Genre, country or brand pass; a cast list, with many actors for one
    film, does not, nor does a relation between items alone. Which end of a triple is the item does not matter, since
    public graphs hold both directions.
    """
    table = relation_statistics(triples)
    return [int(relation) for relation in table.loc[table["hierarchical"], "relation"]]


def attribute_tree(triples: Triples, relations: Iterable[int] | None = None) -> pd.DataFrame:
    """Triples between two attributes (entities that are not items) that order them, as a tree of genres does.

    Parameters
    ----------
    triples
        Of which data set or graph.
    relations
        Relations that order; None takes those between attributes alone that are nearly free of cycles
        (:func:`hierarchy_score` at least ``HIERARCHY_SCORE``) and gather ``ITEMS_PER_ATTRIBUTE`` or more at one end on
        average, and more than at the other.

    Returns
    -------
    DataFrame
        ``child``, ``parent`` (entities), ``relation`` (int64), each row once. The parent is the end at which the
        relation gathers more, whichever end of its triples that is; the tail where both gather the same.
    """
    n = triples.n_relations
    head, relation, tail = triples.head, triples.relation, triples.tail
    with_item = np.bincount(relation[np.minimum(head, tail) < triples.n_items], minlength=n)
    chosen = with_item == 0 if relations is None else np.isin(np.arange(n), list(relations))
    kept = chosen[relation] & (np.minimum(head, tail) >= triples.n_items) & (head != tail)
    edges = pd.DataFrame({"head": head[kept], "relation": relation[kept], "tail": tail[kept]})
    groups = edges.groupby("relation")
    fan_in, fan_out = (groups.size() / groups[end].nunique() for end in ("tail", "head"))
    if relations is None:
        fans = pd.concat([fan_in, fan_out], axis=1)
        most, least = fans.max(axis=1), fans.min(axis=1)
        gathers = most.index[(most >= ITEMS_PER_ATTRIBUTE) & (most > least)]
        ends = {r: groups.get_group(r)[["head", "tail"]].to_numpy() for r in gathers}
        ordering = [r for r, pairs in ends.items() if hierarchy_score(*pairs.T) >= HIERARCHY_SCORE]
        edges = edges[edges["relation"].isin(ordering)]
    up = (fan_in >= fan_out).reindex(edges["relation"]).to_numpy(dtype=bool)
    return pd.DataFrame(
        {
            "child": np.where(up, edges["head"], edges["tail"]),
            "parent": np.where(up, edges["tail"], edges["head"]),
            "relation": edges["relation"].to_numpy(),
        }
    ).drop_duplicates(["child", "parent"], ignore_index=True)


def hierarchy_score(head: Int64, tail: Int64, *, sources: int = _HIERARCHY_SOURCES) -> float:
    """Krackhardt hierarchy score of a directed graph: the share of connected ordered pairs that are one-way.

    With R(i, j) = 1 where a path leads from i to j != i, the score is #{R(i,j)=1, R(j,i)=0} / #{R(i,j)=1}: 1 for a
    graph without cycles, 0 for one in which every path returns. No pairs give 0.

    R is never formed. Pairs that are mutual lie within strongly connected components, and counting them is linear. Of
    the condensed graph, one whose paths all have length 1 (the usual case: attributes point at nothing) is counted
    exactly too. Otherwise reachable nodes are counted from ``sources`` components spread evenly over those with
    successors (all of them, if there are no more) and scaled up: an estimate, the same at each call.

    Parameters
    ----------
    head, tail
        int64 [n], the edges head -> tail.

    References
    ----------
    Krackhardt, "Graph theoretical dimensions of informal organizations", 1994; Balazevic et al., "Multi-relational
    Poincaré graph embeddings", 2019.
    """
    if not len(head):
        return 0.0
    nodes, ends = np.unique(np.concatenate([head, tail]), return_inverse=True)
    source, target = ends[: len(head)], ends[len(head) :]
    graph = sparse.csr_matrix((np.ones(len(head), dtype=np.int8), (source, target)), shape=(len(nodes), len(nodes)))
    _, component = csgraph.connected_components(graph, connection="strong")
    size = np.bincount(component).astype(np.float64)
    mutual = float((size * (size - 1)).sum())
    edges = np.unique(np.stack([component[source], component[target]], axis=1), axis=0)
    edges = edges[edges[:, 0] != edges[:, 1]]
    one_way = _one_way_pairs(edges, size, sources)
    return one_way / (one_way + mutual) if one_way + mutual else 0.0


def _one_way_pairs(edges: npt.NDArray[Any], size: npt.NDArray[np.float64], sources: int) -> float:
    """Ordered pairs of nodes connected across components, given the edges [n, 2] of the condensed graph."""
    if not len(edges):
        return 0.0
    starts = np.unique(edges[:, 0])
    if not np.isin(edges[:, 1], starts).any():
        return float((size[edges[:, 0]] * size[edges[:, 1]]).sum())
    graph = sparse.csr_matrix((np.ones(len(edges), dtype=np.int8), (edges[:, 0], edges[:, 1])), shape=(len(size),) * 2)
    chosen = starts[np.unique(np.linspace(0, len(starts) - 1, min(sources, len(starts))).astype(np.int64))]
    reach = [size[csgraph.breadth_first_order(graph, c, return_predecessors=False)[1:]].sum() for c in chosen]
    return float((np.array(reach) * size[chosen]).sum() * size[starts].sum() / size[chosen].sum())
