"""Runs a layer by DGL's ``multi_update_all``: the definition that the other executors are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hakg_dgl.graph.dgl_gate import dgl
from hakg_dgl.graph.dgl_graph import to_dgl
from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.layers.batch_executor import attention_groups, logits_of
from hakg_dgl.layers.execution import Features, Masks, Tables, mask_of_type
from hakg_dgl.layers.updates import Silent, UpdateFunction, Updates, reduction, require_functions

fn = dgl.function


class DGLExecutor:
    """See :class:`~hakg_dgl.layers.execution.Executor`; on CUDA only where DGL was built with it.

    Parameters
    ----------
    graph
        What messages are passed on.
    masks
        Which edges are kept.
    whole
        The graph as DGL's, if it was converted before.
    """

    def __init__(self, graph: HeteroGraph, masks: Masks | None = None, *, whole: Any = None) -> None:
        self.graph = graph
        self._whole = to_dgl(graph) if whole is None else whole
        kept, self._ids = {}, {}
        for etype in graph.canonical_etypes:
            mask = mask_of_type(graph, masks or {}, etype)
            n = graph.num_edges(etype)
            kept[etype] = torch.ones(n, dtype=torch.bool, device=graph.device) if mask is None else mask
            self._ids[etype] = kept[etype].nonzero().squeeze(1)
        self._dgl_graph = dgl.edge_subgraph(self._whole, kept, relabel_nodes=False, store_ids=False)

    def drop(self, masks: Masks) -> DGLExecutor:
        """See :meth:`~hakg_dgl.layers.execution.Executor.drop`."""
        return DGLExecutor(self.graph, masks, whole=self._whole)

    def run(self, updates: Updates, features: Features, rows: Mapping[str, int] | None = None) -> dict[str, Tensor]:
        """See :meth:`~hakg_dgl.layers.execution.Executor.run`."""
        require_functions(self.graph, updates)
        tables, graph = Tables(features), self._dgl_graph
        heard = {etype: update for etype, update in updates.items() if not isinstance(update, Silent)}
        with graph.local_scope():
            self._show(tables, heard)
            _put_shares(graph, heard)
            found = {
                etype[2]: torch.zeros(graph.num_nodes(etype[2]), tables[etype[0]].shape[1]).to(tables[etype[0]])
                for etype in heard
            }
            for node_type, total in _received(graph, heard, "sum").items():
                found[node_type] = found[node_type] + total
            for node_type, total in _received(graph, heard, "mean").items():
                degree = _degree(graph, heard, node_type)
                found[node_type] = found[node_type] + total / degree.clamp_min(1).to(total.dtype).unsqueeze(1)
        return {node_type: values[: (rows or {}).get(node_type, len(values))] for node_type, values in found.items()}

    def _show(self, tables: Tables, updates: Updates) -> None:
        """Put values and numbers of nodes and edges where update functions read them."""
        graph = self._dgl_graph
        for node_type in graph.ntypes:
            graph.nodes[node_type].data["id"] = torch.arange(graph.num_nodes(node_type), device=graph.device)
            if node_type in tables:
                graph.nodes[node_type].data["x"] = tables[node_type]
        for etype in updates:
            graph.edges[etype].data["id"] = self._ids[etype]


def _received(graph: Any, updates: Updates, reduce: str) -> dict[str, Tensor]:
    """Node type -> sums of the messages of the edge types with this reduction that have edges."""
    chosen = {
        etype: (_as_dgl_wants(update), fn.sum("m", "total"))
        for etype, update in updates.items()
        if reduction(update) == reduce and graph.num_edges(etype)
    }
    if not chosen:
        return {}
    graph.multi_update_all(chosen, "sum")
    return {node_type: graph.nodes[node_type].data.pop("total") for node_type in {etype[2] for etype in chosen}}


def _as_dgl_wants(update: UpdateFunction) -> Any:
    """A message function: the same messages by name."""
    return lambda edges: {"m": update(edges)}


def _degree(graph: Any, updates: Updates, node_type: str) -> Tensor:
    """Edges that each node receives from the edge types whose reduction is the mean, int64 ``[n_nodes]``."""
    counted = [
        graph.in_degrees(etype=etype)
        for etype, update in updates.items()
        if etype[2] == node_type and reduction(update) == "mean"
    ]
    return torch.stack(counted).sum(0)


def _put_shares(graph: Any, updates: Updates) -> None:
    """Softmax of attention over all edge types of a group, left in the edges' ``share``."""
    for etypes in attention_groups(updates).values():
        present = [etype for etype in etypes if graph.num_edges(etype)]
        if not present:
            continue
        for etype in present:
            logits = logits_of(updates[etype])[graph.edges[etype].data["id"]]
            graph.edges[etype].data["logit"], graph.edges[etype].data["held"] = logits, logits.detach()
        graph.multi_update_all({etype: (fn.copy_e("held", "m"), fn.max("m", "top")) for etype in present}, "max")
        for etype in present:
            graph.apply_edges(_power, etype=etype)
        graph.multi_update_all({etype: (fn.copy_e("power", "m"), fn.sum("m", "bottom")) for etype in present}, "sum")
        for etype in present:
            graph.apply_edges(_share, etype=etype)


def _power(edges: Any) -> dict[str, Tensor]:
    return {"power": torch.exp(edges.data["logit"] - edges.dst["top"])}


def _share(edges: Any) -> dict[str, Tensor]:
    return {"share": edges.data["power"] / edges.dst["bottom"]}
