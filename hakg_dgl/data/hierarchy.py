"""Which relations order things from the special to the general, told from the arrays of a knowledge graph alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse
from scipy.sparse import csgraph

Int64 = npt.NDArray[np.int64]

HIERARCHY_SCORE, ITEMS_PER_ATTRIBUTE = 0.9, 2.0
"""Thresholds of :func:`hierarchical_relations`."""

_HIERARCHY_SOURCES = 64
"""Nodes from which reachability is followed where a relation chains (see :func:`hierarchy_score`)."""


@dataclass(frozen=True, eq=False)
class Triples:
    """A knowledge graph as arrays, with the items as its first entities.

    Attributes
    ----------
    head, relation, tail
        int64 ``[n_triples]``.
    n_items, n_entities, n_relations
        Sizes; entities ``0..n_items-1`` are the items, and relations have no inverses.
    """

    head: Int64
    relation: Int64
    tail: Int64
    n_items: int
    n_entities: int
    n_relations: int

    @property
    def item_attribute(self) -> npt.NDArray[np.bool_]:
        """Which triples join an item and an entity that is not an item, bool ``[n_triples]``."""
        return np.not_equal(self.head < self.n_items, self.tail < self.n_items)


def relation_table(triples: Triples, names: Iterable[str]) -> pd.DataFrame:
    """One row a relation, in index order.

    Columns: ``relation`` (index), ``name``, ``triples``, ``heads`` and ``tails`` (distinct), ``fan_in`` (triples a
    distinct tail), ``fan_out`` (triples a distinct head), ``item_attribute`` (triples with exactly one end an item),
    ``items_per_attribute`` and ``attributes_per_item`` (of those; 0 if there are none), ``hierarchy`` (see
    :func:`hierarchy_score`), ``hierarchical`` (see :func:`hierarchical_relations`) and ``orders_attributes`` (see
    :func:`attribute_tree`).

    Parameters
    ----------
    triples
        The knowledge graph.
    names
        Names of its relations, ``n_relations`` of them.
    """
    table = _measures(triples)
    table.insert(1, "name", list(names))
    return table.assign(
        hierarchical=_looks_hierarchical(table),
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
    return np.flatnonzero(_looks_hierarchical(_measures(triples)).to_numpy()).tolist()


def _looks_hierarchical(table: pd.DataFrame) -> pd.Series[bool]:
    shared = table["items_per_attribute"]
    narrow = (shared >= ITEMS_PER_ATTRIBUTE) & (shared > table["attributes_per_item"])
    return (table["hierarchy"] >= HIERARCHY_SCORE) & narrow


def _measures(triples: Triples) -> pd.DataFrame:
    """The columns of :func:`relation_table` that are counted, or computed from counts."""
    head, relation, tail, n = triples.head, triples.relation, triples.tail, triples.n_relations
    mixed = triples.item_attribute
    item, attribute = np.minimum(head, tail), np.maximum(head, tail)  # items have the lower numbers
    count, links = np.bincount(relation, minlength=n), np.bincount(relation[mixed], minlength=n)
    heads, tails = _distinct_ends(relation, head, n), _distinct_ends(relation, tail, n)
    attributes = _distinct_ends(relation[mixed], attribute[mixed], n)
    items = _distinct_ends(relation[mixed], item[mixed], n)
    return pd.DataFrame(
        {
            "relation": np.arange(n),
            "triples": count,
            "heads": heads,
            "tails": tails,
            "fan_in": count / np.maximum(tails, 1),
            "fan_out": count / np.maximum(heads, 1),
            "item_attribute": links,
            "items_per_attribute": links / np.maximum(attributes, 1),
            "attributes_per_item": links / np.maximum(items, 1),
            "hierarchy": _scores(triples, count),
        }
    )


def _distinct_ends(relation: Int64, end: Int64, n_relations: int) -> Int64:
    """How many different ``end`` each relation has, int64 ``[n_relations]``."""
    distinct = pd.DataFrame({"relation": relation, "end": end}).drop_duplicates()
    return np.bincount(distinct["relation"].to_numpy(), minlength=n_relations)


def _scores(triples: Triples, count: Int64) -> npt.NDArray[np.float64]:
    """:func:`hierarchy_score` of each relation, float64 ``[n_relations]``."""
    order = np.argsort(triples.relation, kind="stable")
    scores = np.zeros(len(count))
    start = 0
    for relation, size in enumerate(count.tolist()):
        rows = order[start : start + size]
        scores[relation] = hierarchy_score(triples.head[rows], triples.tail[rows])
        start += size
    return scores


def attribute_tree(triples: Triples, relations: Iterable[int] | None = None) -> pd.DataFrame:
    """Triples between two attributes (entities that are not items) that order them, as a tree of genres does.

    Parameters
    ----------
    triples
        The knowledge graph.
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
        edges = edges[edges["relation"].isin(_ordering(edges, fan_in, fan_out))]
    up = (fan_in >= fan_out).reindex(edges["relation"]).to_numpy(dtype=bool)
    return pd.DataFrame(
        {
            "child": np.where(up, edges["head"], edges["tail"]),
            "parent": np.where(up, edges["tail"], edges["head"]),
            "relation": edges["relation"].to_numpy(),
        }
    ).drop_duplicates(["child", "parent"], ignore_index=True)


def _ordering(edges: pd.DataFrame, fan_in: pd.Series[float], fan_out: pd.Series[float]) -> list[int]:
    """Relations of ``edges`` that gather at one end and are nearly free of cycles."""
    fans = pd.concat([fan_in, fan_out], axis=1)
    most, least = fans.max(axis=1), fans.min(axis=1)
    found = []
    for relation in most.index[(most >= ITEMS_PER_ATTRIBUTE) & (most > least)]:
        pairs = edges.loc[edges["relation"] == relation, ["head", "tail"]].to_numpy()
        if hierarchy_score(pairs[:, 0], pairs[:, 1]) >= HIERARCHY_SCORE:
            found.append(int(relation))
    return found


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
