"""The interactions of a heterograph as a SciPy matrix, for models that are solved for."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from hakg_dgl.graph.heterograph import HeteroGraph

SHARED_BY = 2
"""Items that a fact must hold for to say something about likeness."""


def interaction_matrix(graph: HeteroGraph) -> sparse.csr_matrix:
    """Ones where a user has an item, float64 ``[n_users, n_items]``, columns ascending in each row."""
    indptr, items = (part.cpu().numpy() for part in graph.positives())
    return sparse.csr_matrix((np.ones(len(items)), items, indptr), shape=(graph.n_users, graph.n_items))


def fact_matrix(graph: HeteroGraph) -> sparse.csr_matrix:
    r"""What is known of each item, float64 ``[n_items, n_facts]`` with rows of unit length (or zero).

    The facts of an item are the pairs of a relation and its other end in the triples that the item is an end of, one
    hop, apart by direction. Facts of a single item are left out, since they make it like no other. A fact of :math:`m`
    of the n items weighs :math:`\ln(n / m)`, as the inverse document frequency of a word (Sparck Jones 1972), so one
    that holds for all items weighs nothing; then each row is divided by its L2 norm.
    """
    n_items, n_entities, n_relations = graph.n_items, graph.n_entities, graph.n_relations
    head, relation, tail = graph.triples().cpu().numpy().T
    of_head, of_tail = head < n_items, tail < n_items
    items = np.concatenate([head[of_head], tail[of_tail]])
    names = np.concatenate(
        [(relation * n_entities + tail)[of_head], ((relation + n_relations) * n_entities + head)[of_tail]]
    )
    facts, columns = np.unique(names, return_inverse=True)
    matrix = sparse.csr_matrix((np.ones(len(items)), (items, columns)), shape=(n_items, len(facts)))
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    holders = np.bincount(matrix.indices, minlength=len(facts))
    weights = np.log(n_items / np.maximum(holders, 1)) * (holders >= SHARED_BY)
    matrix = (matrix @ sparse.diags(weights)).tocsc()[:, weights > 0.0].tocsr()
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1)).ravel())
    unit: sparse.csr_matrix = (sparse.diags(1.0 / np.where(lengths > 0.0, lengths, 1.0)) @ matrix).tocsr()
    return unit
