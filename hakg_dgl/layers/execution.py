"""What all executors of a layer share: the contract, values of nodes, and how messages add up at a node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from hakg_dgl.errors import ConfigError
from hakg_dgl.graph.edge_types import MIRRORED, EdgeType
from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.layers.updates import Reduce, Updates

Features: TypeAlias = Mapping[str, Tensor | Callable[[], Tensor]]
"""Node type -> values ``[n_nodes, d]``, or what makes them when they are first read."""
Masks: TypeAlias = Mapping[tuple[EdgeType, ...], Tensor]
"""Edge types -> which of their edges are kept, bool ``[n_edges]``.

The order is that of ``graph.joined(edge_types)``. An edge type that mirrors another (``interacts`` mirrors
``interacted_by``) is dropped with it and not named.
"""


class Executor(Protocol):
    """Runs a layer on a graph. All executors give the same numbers, up to rounding."""

    graph: HeteroGraph

    def drop(self, masks: Masks) -> Executor:
        """The same over the edges where the masks are true; edge types without a mask keep all."""

    def run(self, updates: Updates, features: Features, rows: Mapping[str, int] | None = None) -> dict[str, Tensor]:
        """What nodes receive.

        Parameters
        ----------
        updates
            An update function for each edge type of the graph.
        features
            Values of the node types at either end.
        rows
            Node type -> how many of its first nodes are asked for; all where it is not named.

        Returns
        -------
        dict
            Node type -> ``[rows, d]``, for each type that an edge type with messages leads to; zero for nodes
            that receive nothing. Differentiable in values, and in what the functions hold.

        Raises
        ------
        ConfigError
            If an edge type has no function, or a function no edge type, or values are missing.
        """


class Tables:
    """Values of node types, each made once."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self._made: dict[str, Tensor] = {}

    def __contains__(self, node_type: str) -> bool:
        return node_type in self._features

    def __getitem__(self, node_type: str) -> Tensor:
        if node_type not in self._made:
            if node_type not in self._features:
                raise ConfigError(
                    f"a layer reads values of nodes of type {node_type!r}, but has those of {list(self._features)} only"
                )
            values = self._features[node_type]
            self._made[node_type] = values if isinstance(values, Tensor) else values()
        return self._made[node_type]

    def joined(self, node_types: tuple[str, ...]) -> Tensor:
        """The values of several types, one table after the other."""
        if len(node_types) == 1:
            return self[node_types[0]]
        return torch.cat([self[node_type] for node_type in node_types])


class Totals:
    """Adds up, node type by node type, what edge types contribute.

    Parameters
    ----------
    rows
        Node type -> how many of its first nodes are asked for; all where it is not named.
    """

    def __init__(self, rows: Mapping[str, int] | None = None) -> None:
        self._rows = dict(rows or {})
        self._sums: dict[str, Tensor] = {}
        self._means: dict[str, list[tuple[Tensor, Tensor, bool]]] = {}

    def add(self, node_type: str, total: Tensor, reduce: Reduce, degree: Tensor) -> None:
        """Add sums of messages ``[n, d]`` from ``degree`` edges, int64 ``[n]``, to be summed or averaged."""
        total, degree = self._asked_for(node_type, total), self._asked_for(node_type, degree)
        if reduce == "mean":
            self._means.setdefault(node_type, []).append((total, degree, False))
        else:
            known = self._sums.get(node_type)
            self._sums[node_type] = total if known is None else known + total

    def add_mean(self, node_type: str, mean: Tensor, degree: Tensor) -> None:
        """Add what is a mean over ``degree`` edges already."""
        mean, degree = self._asked_for(node_type, mean), self._asked_for(node_type, degree)
        self._means.setdefault(node_type, []).append((mean, degree, True))

    def _asked_for(self, node_type: str, values: Tensor) -> Tensor:
        n = self._rows.get(node_type, len(values))
        return values if n == len(values) else values[:n]

    def result(self) -> dict[str, Tensor]:
        """Node type -> sums plus means."""
        found = dict(self._sums)
        for node_type, parts in self._means.items():
            mean = _mean_of(parts)
            found[node_type] = mean if node_type not in found else found[node_type] + mean
        return found


def _mean_of(parts: list[tuple[Tensor, Tensor, bool]]) -> Tensor:
    """The mean over all edges, of sums and means with the numbers of their edges."""
    if len(parts) == 1 and parts[0][2]:
        return parts[0][0]
    total = sum(
        (values * degree.to(values.dtype).unsqueeze(1) if is_mean else values for values, degree, is_mean in parts),
        start=torch.zeros_like(parts[0][0]),
    )
    degree = torch.stack([degree for _, degree, _ in parts]).sum(0)
    return total / degree.clamp_min(1).to(total.dtype).unsqueeze(1)


def mask_of_type(graph: HeteroGraph, masks: Masks, etype: EdgeType) -> Tensor | None:
    """Which edges of a type are kept, bool ``[n_edges]`` in the order of the graph; None if all are."""
    named = MIRRORED.get(etype, etype)
    for edge_types, mask in masks.items():
        if named in edge_types:
            return mask.index_select(0, graph.places(edge_types)[named])
    return None
