"""Runs a layer on batches of edges: gather the ends, call the function, add up at the destination."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hakg_dgl.graph.edge_types import EdgeType
from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.graph.packed import Grouping, join_edges
from hakg_dgl.kernels.edge_softmax import edge_softmax
from hakg_dgl.kernels.interface import SparseBackend
from hakg_dgl.kernels.products import rows_of, sum_of_groups
from hakg_dgl.layers.execution import Features, Masks, Tables, Totals, mask_of_type
from hakg_dgl.layers.updates import Attention, Silent, UpdateFunction, Updates, reduction, require_functions


@dataclass(frozen=True, eq=False)
class KeptEdges:
    """The edges of one type that are kept.

    Attributes
    ----------
    etype
        Canonical edge type.
    ids
        int64 ``[n]``, numbers in the order of the graph.
    source, destination
        int64 ``[n]``.
    by_source, by_destination
        The edges grouped by either end.
    """

    etype: EdgeType
    ids: Tensor
    source: Tensor
    destination: Tensor
    by_source: Grouping
    by_destination: Grouping

    @classmethod
    def of(cls, graph: HeteroGraph, etype: EdgeType, mask: Tensor | None) -> KeptEdges:
        """The edges of a type where ``mask`` is true; all for None."""
        source, destination = graph.edges[etype]
        ids = torch.arange(len(source), device=source.device) if mask is None else mask.nonzero().squeeze(1)
        source, destination = source.index_select(0, ids), destination.index_select(0, ids)
        by_source = Grouping.of(source, graph.num_nodes(etype[0]))
        by_destination = Grouping.of(destination, graph.num_nodes(etype[2]))
        return cls(etype, ids, source, destination, by_source, by_destination)

    @property
    def degree(self) -> Tensor:
        """Edges that each destination receives, int64 ``[n_nodes]``."""
        return self.by_destination.indptr.diff()


@dataclass(frozen=True, eq=False)
class Batch:
    """An :class:`~hakg_dgl.layers.updates.EdgeBatch`."""

    src: Mapping[str, Tensor]
    dst: Mapping[str, Tensor]
    data: Mapping[str, Tensor]


class BatchExecutor:
    """See :class:`~hakg_dgl.layers.execution.Executor`; any function, any device.

    Parameters
    ----------
    graph
        What messages are passed on.
    backend
        Who adds up, always in the same order.
    masks
        Which edges are kept.
    """

    def __init__(self, graph: HeteroGraph, backend: SparseBackend, masks: Masks | None = None) -> None:
        self.graph: HeteroGraph = graph
        self.backend: SparseBackend = backend
        self.masks: dict[tuple[EdgeType, ...], Tensor] = dict(masks or {})
        self._kept: dict[EdgeType, KeptEdges] = {}

    def drop(self, masks: Masks) -> BatchExecutor:
        """See :meth:`~hakg_dgl.layers.execution.Executor.drop`."""
        return BatchExecutor(self.graph, self.backend, masks)

    def run(self, updates: Updates, features: Features, rows: Mapping[str, int] | None = None) -> dict[str, Tensor]:
        """See :meth:`~hakg_dgl.layers.execution.Executor.run`."""
        require_functions(self.graph, updates)
        tables, totals = Tables(features), Totals(rows)
        shares = self._shares(updates)
        for etype, update in updates.items():
            if not isinstance(update, Silent):
                self.add(totals, tables, etype, update, shares.get(etype))
        return totals.result()

    def kept(self, etype: EdgeType) -> KeptEdges:
        """The edges of a type that are kept, grouped once."""
        if etype not in self._kept:
            self._kept[etype] = KeptEdges.of(self.graph, etype, mask_of_type(self.graph, self.masks, etype))
        return self._kept[etype]

    def add(
        self, totals: Totals, tables: Tables, etype: EdgeType, update: UpdateFunction, share: Tensor | None = None
    ) -> None:
        """Add what the edges of one type contribute; ``share`` as in :class:`~hakg_dgl.layers.updates.EdgeBatch`."""
        edges, (source, _, destination) = self.kept(etype), etype
        src = {"id": edges.source, "x": rows_of(self.backend, edges.by_source, edges.source, tables[source])}
        dst = {"id": edges.destination}
        if destination in tables:
            values = tables[destination]
            dst["x"] = rows_of(self.backend, edges.by_destination, edges.destination, values)
        data = {"id": edges.ids} if share is None else {"id": edges.ids, "share": share}
        messages = update(Batch(src, dst, data))
        total = sum_of_groups(self.backend, edges.by_destination, edges.destination, messages)
        totals.add(destination, total, reduction(update), edges.degree)

    def _shares(self, updates: Updates) -> dict[EdgeType, Tensor]:
        """For edge types with attention the share of each kept edge."""
        shares: dict[EdgeType, Tensor] = {}
        for etypes in attention_groups(updates).values():
            kept = [self.kept(etype) for etype in etypes]
            edges = {etype: (part.source, part.destination) for etype, part in zip(etypes, kept, strict=True)}
            joined = join_edges(edges, self.graph.n_nodes)
            logits = torch.cat([logits_of(updates[part.etype]).index_select(0, part.ids) for part in kept])
            found = edge_softmax(self.backend, joined.pattern.pairs, logits.index_select(0, joined.order))
            shares |= {etype: found.index_select(0, joined.places[etype]) for etype in etypes}
        return shares


def attention_groups(updates: Updates) -> dict[tuple[str, str], tuple[EdgeType, ...]]:
    """(Node type, group) -> the edge types that share a softmax there."""
    groups: dict[tuple[str, str], tuple[EdgeType, ...]] = {}
    for etype, update in updates.items():
        if isinstance(update, Attention):
            key = etype[2], update.group
            groups[key] = (*groups.get(key, ()), etype)
    return groups


def logits_of(update: UpdateFunction) -> Tensor:
    """The logits of an attention."""
    assert isinstance(update, Attention)
    return update.logits
