"""Conversion between the package's own heterograph and DGL's; only what is here takes or returns a DGL graph.

DGL is imported when one of these functions is called, so the module itself can be imported where there is no DGL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.graph.heterograph import HeteroGraph, as_heterograph, build_graph


def to_dgl(graph: HeteroGraph) -> Any:
    """The same graph as a ``dgl.DGLHeteroGraph``, without features, on the same device.

    Raises
    ------
    MissingDependencyError
        Where DGL cannot be imported; the message says why.
    """
    from hakg_dgl.graph.dgl_gate import dgl

    converted = dgl.heterograph(dict(graph.edges), num_nodes_dict=dict(graph.n_nodes))
    if not graph.relation_types:
        return converted  # a subgraph would lose the entities, which no edge type names
    # DGL sorts edge types by name; relation ids are told from their order, so it is restored.
    return dgl.edge_type_subgraph(converted, graph.canonical_etypes)


def from_dgl(graph: Any) -> HeteroGraph:
    """The package's own graph from a ``dgl.DGLHeteroGraph``; see :func:`~hakg_dgl.graph.heterograph.as_heterograph`."""
    return as_heterograph(graph)


def build_heterograph(dataset: Dataset, splits: Sequence[str] = ("train",)) -> Any:
    """The DGL heterograph of a data set.

    Parameters
    ----------
    dataset, splits
        As for :func:`~hakg_dgl.graph.heterograph.build_graph`, which describes the edge types too.

    Returns
    -------
    dgl.DGLHeteroGraph
        Without features.

    Raises
    ------
    MissingDependencyError
        Where DGL cannot be imported; the message says why. Models take the graph of
        :func:`~hakg_dgl.graph.heterograph.build_graph` as well, which needs no DGL.
    """
    return to_dgl(build_graph(dataset, splits))
