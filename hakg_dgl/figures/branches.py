"""The edges of a data set's hierarchy, and its largest branches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from hakg_dgl.data.dataset import Dataset, Int64
from hakg_dgl.data.hierarchy import attribute_tree, relation_table


def child_edges(dataset: Dataset) -> pd.DataFrame:
    """Edges from children to parents, by the relations that seem hierarchical.

    These are the relations that ``hakg info`` marks (:func:`~hakg_dgl.data.hierarchy.relation_table`; the attribute is
    the parent, at either end of the triple), and the relations that order attributes
    (:func:`~hakg_dgl.data.hierarchy.attribute_tree`).

    Returns
    -------
    DataFrame
        Columns ``child``, ``parent`` (entities) and ``relation``, int64; all rows differ.
    """
    triples = dataset.triples
    head, relation, tail = (triples[column].to_numpy() for column in ("head", "relation", "tail"))
    mixed = (head < dataset.n_items) != (tail < dataset.n_items)
    kept = mixed & relation_table(dataset.facts, dataset.relations["name"])["hierarchical"].to_numpy()[relation]
    of_items = pd.DataFrame(
        {
            "child": np.minimum(head, tail)[kept],  # items have the lower numbers
            "parent": np.maximum(head, tail)[kept],
            "relation": relation[kept],
        }
    )
    edges = pd.concat([of_items, attribute_tree(dataset.facts)])
    distinct: pd.DataFrame = edges.drop_duplicates(["child", "parent"], ignore_index=True)
    return distinct


@dataclass(frozen=True, eq=False)
class Branches:
    """A few large branches of the hierarchy, to be told apart by colour.

    Attributes
    ----------
    roots
        The attributes at the top of the branches, int64 ``[k]``.
    branch
        The branch of every entity, int64 ``[n_entities]``: 0..k-1, or -1 if it is in no branch or in several.
    items
        The number of items below each root, int64 ``[k]``.
    apexes
        In each branch the attribute with most items directly below it, int64 ``[k]``. The angle loss compares such
        pairs.
    """

    roots: Int64
    branch: Int64
    items: Int64
    apexes: Int64


def largest_branches(edges: pd.DataFrame, n_entities: int, n_items: int, *, most: int = 5, levels: int = 8) -> Branches:
    """Choose attributes with many items below them, none of which lies below another.

    Attributes with more than half of all items below them are left out, because they tell nothing apart.

    Parameters
    ----------
    edges
        The columns ``child`` and ``parent`` of :func:`~hakg_dgl.figures.branches.child_edges`.
    n_entities, n_items
        The numbers of entities and items; the first entities are the items.
    most
        The largest number of branches.
    levels
        The largest number of edges to follow upwards.
    """
    below = _descendants(edges, n_entities, levels)  # [n_entities, n_entities], a row for each ancestor
    count = np.diff(below[:, :n_items].tocsr().indptr)
    order = np.argsort(-count, kind="stable")
    candidates = [int(node) for node in order if node >= n_items and 0 < count[node] <= n_items / 2]
    roots: list[int] = []
    related = below + below.T
    for node in candidates[: 50 * most]:
        if not any(related[node, root] for root in roots):
            roots.append(node)
        if len(roots) == most:
            break
    member = below[roots].toarray() > 0 if roots else np.zeros((0, n_entities), dtype=bool)
    member[np.arange(len(roots)), roots] = True
    branch = np.where(member.sum(0) == 1, member.argmax(0) if roots else -1, -1).astype(np.int64)
    direct = edges.loc[edges["child"] < n_items, "parent"]
    held = np.bincount(direct.to_numpy(np.int64), minlength=n_entities)
    apexes = [int(np.where(branch == number, held, -1).argmax()) for number in range(len(roots))]
    return Branches(*(np.array(nodes, dtype=np.int64) for nodes in (roots, branch, count[roots], apexes)))


def _descendants(edges: pd.DataFrame, n: int, levels: int) -> Any:
    """The descendants of each entity, as a sparse matrix with a one for each."""
    child, parent = edges["child"].to_numpy(np.int64), edges["parent"].to_numpy(np.int64)
    step = sparse.csr_matrix((np.ones(len(edges), dtype=np.int32), (parent, child)), shape=(n, n))
    reach = frontier = step
    for _ in range(levels - 1):
        frontier = (frontier @ step).sign()  # counts of paths would grow without bound
        if not frontier.nnz:
            break
        reach = (reach + frontier).sign()
    return reach
