"""The interactions of a heterograph as a SciPy matrix, for models that are solved for."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from hakg_dgl.graph.heterograph import HeteroGraph


def interaction_matrix(graph: HeteroGraph) -> sparse.csr_matrix:
    """Ones where a user has an item, float64 ``[n_users, n_items]``, columns ascending in each row."""
    indptr, items = (part.cpu().numpy() for part in graph.positives())
    return sparse.csr_matrix((np.ones(len(items)), items, indptr), shape=(graph.n_users, graph.n_items))
