"""Runs a layer over packed views: fast forms go to the kernels, other functions run on batches of edges."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from hakg_dgl.geometry.message import MessageRule
from hakg_dgl.graph.edge_types import MIRRORED, EdgeType
from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.graph.packed import JoinedEdges, Kept, KnowledgePattern, SparsePattern
from hakg_dgl.kernels.aggregation import relation_transitive_mean
from hakg_dgl.kernels.edge_softmax import edge_softmax
from hakg_dgl.kernels.interface import FusedBackend, PropagatingBackend, SparseBackend
from hakg_dgl.kernels.precision import in_bfloat16, rounded
from hakg_dgl.kernels.products import sum_over_columns, sum_over_rows, weighted_sum_over_columns
from hakg_dgl.layers.batch_executor import BatchExecutor, logits_of
from hakg_dgl.layers.execution import Features, Masks, Tables, Totals, mask_of_type
from hakg_dgl.layers.updates import (
    Attention,
    Copy,
    RelationTransitive,
    Silent,
    Updates,
    WeightedSum,
    require_functions,
)

Types: TypeAlias = tuple[EdgeType, ...]


class PackedExecutor:
    """See :class:`~hakg_dgl.layers.execution.Executor`; edge types of one form are one call of a kernel.

    Parameters
    ----------
    graph
        What messages are passed on.
    backend
        Who computes the sparse products.
    bfloat16
        Whether the tables that are gathered are bfloat16; see :mod:`hakg_dgl.kernels.precision`.
    masks
        Which edges are kept.
    """

    def __init__(
        self, graph: HeteroGraph, backend: SparseBackend, *, bfloat16: bool = False, masks: Masks | None = None
    ) -> None:
        self.graph: HeteroGraph = graph
        self.bfloat16: bool = bfloat16
        self.masks: dict[tuple[EdgeType, ...], Tensor] = dict(masks or {})
        self.backend: SparseBackend = in_bfloat16(backend) if bfloat16 else backend
        self.plain_backend: SparseBackend = backend
        self._padded = isinstance(backend, FusedBackend)  # it need not know how many edges are kept
        self._relations: dict[tuple[Types, int], KnowledgePattern] = {}
        self._patterns: dict[Types, tuple[SparsePattern, Kept | None]] = {}

    def drop(self, masks: Masks) -> PackedExecutor:
        """See :meth:`~hakg_dgl.layers.execution.Executor.drop`: masks and prefix sums, nothing is sorted again."""
        return PackedExecutor(self.graph, self.plain_backend, bfloat16=self.bfloat16, masks=masks)

    def run(self, updates: Updates, features: Features, rows: Mapping[str, int] | None = None) -> dict[str, Tensor]:
        """See :meth:`~hakg_dgl.layers.execution.Executor.run`."""
        require_functions(self.graph, updates)
        tables, totals, rows = Tables(features), Totals(rows), rows or {}
        for etypes in _groups(updates).values():
            form = updates[etypes[0]]
            if isinstance(form, RelationTransitive):
                self._add_relations(totals, tables, updates, etypes, rows)
            elif isinstance(form, Attention):
                self._add_attention(totals, tables, updates, etypes)
            elif isinstance(form, Copy):
                self._add_copies(totals, tables, etypes[0], form)
            elif isinstance(form, WeightedSum):
                self._add_weighted(totals, tables, etypes[0], form)
            else:
                self._batches.add(totals, tables, etypes[0], form)
        return totals.result()

    @property
    def all_layers(self) -> PropagatingBackend | None:
        """Who can run all layers at once for this executor, None if nobody can."""
        if self.masks or self.bfloat16 or not isinstance(self.backend, PropagatingBackend):
            return None
        return self.backend

    @cached_property
    def _batches(self) -> BatchExecutor:
        return BatchExecutor(self.graph, self.backend, self.masks)

    # --- what the kernels are called with ----------------------------------------------------------------------------

    def relation_transitive(
        self, pattern: KnowledgePattern, values: Tensor, relations: Tensor, rule: MessageRule
    ) -> Tensor:
        """Mean of the relation-transitive messages of a pattern's rows, ``[n_rows, d]``."""
        if self.bfloat16:  # once for all, since the inner products of a message must be those of the same vectors
            values, relations = rounded(values), rounded(relations)
        return relation_transitive_mean(self.backend, pattern, values, relations, rule)

    def copied(self, etype: EdgeType, values: Tensor) -> Tensor:
        """Sum of ``values`` over what each destination receives from the edges of a type, ``[n_nodes, d]``."""
        if etype in MIRRORED:
            return sum_over_rows(self.backend, self._pattern((MIRRORED[etype],))[0], values)
        return sum_over_columns(self.backend, self._pattern((etype,))[0], values)

    # --- forms -------------------------------------------------------------------------------------------------------

    def _add_relations(
        self, totals: Totals, tables: Tables, updates: Updates, etypes: Types, rows: Mapping[str, int]
    ) -> None:
        forms = [form for form in map(updates.get, etypes) if isinstance(form, RelationTransitive)]
        relations, numbers = forms[0].relations, [form.number for form in forms]
        if numbers != list(range(len(relations))):
            relations = relations.index_select(0, torch.tensor(numbers, device=relations.device))
        joined = self.graph.joined(etypes, one_table=True)
        node_types = joined.receivers
        sizes = [self.graph.num_nodes(node_type) for node_type in node_types]
        if len(sizes) == 1:  # of several tables, the nodes that are asked for are not the first rows
            sizes = [rows.get(node_types[0], sizes[0])]
        pattern = self._heads(joined, sum(sizes))
        means = self.relation_transitive(pattern, tables.joined(node_types), relations, forms[0].rule)
        degree = pattern.pairs.row_degree
        if len(sizes) == 1:  # not split: the gradient would be put together again, which is a copy
            totals.add_mean(node_types[0], means, degree)
            return
        receivers = {etype[2] for etype in etypes}
        parts = torch.split(means, sizes), torch.split(degree, sizes)
        for node_type, mean, number in zip(node_types, *parts, strict=True):
            if node_type in receivers:
                totals.add_mean(node_type, mean, number)

    def _add_copies(self, totals: Totals, tables: Tables, etype: EdgeType, form: Copy) -> None:
        values = tables[etype[0]]
        if form.source_scale is not None:
            values = values * form.source_scale.unsqueeze(1)
        total = self.copied(etype, values)
        scale = form.destination_scale
        if scale is not None:
            total = total * (scale if form.factor == 1.0 else scale * form.factor).unsqueeze(1)
        elif form.factor != 1.0:
            total = total * form.factor
        totals.add(etype[2], total, form.reduce, self._degree(etype))

    def _add_weighted(self, totals: Totals, tables: Tables, etype: EdgeType, form: WeightedSum) -> None:
        pattern, kept = self._pattern((etype,))
        weights = form.weights.index_select(0, self.graph.joined((etype,)).order)
        weights = weights if kept is None else kept.of(weights)
        total = weighted_sum_over_columns(self.backend, pattern, weights, tables[etype[0]])
        totals.add(etype[2], total, form.reduce, pattern.row_degree)

    def _add_attention(self, totals: Totals, tables: Tables, updates: Updates, etypes: Types) -> None:
        joined = self.graph.joined(etypes)
        pattern, kept = self._pattern(etypes)
        logits = torch.cat([logits_of(updates[etype]) for etype in etypes]).index_select(0, joined.order)
        shares = edge_softmax(self.backend, pattern, logits if kept is None else kept.of(logits))
        total = weighted_sum_over_columns(self.backend, pattern, shares, tables.joined(joined.senders))
        totals.add(etypes[0][2], total, "sum", pattern.row_degree)

    # --- patterns of what is kept ------------------------------------------------------------------------------------

    def _heads(self, joined: JoinedEdges, n_heads: int) -> KnowledgePattern:
        """The kept edges of a joint pattern of relations, for its first ``n_heads`` rows."""
        mask = self._mask(joined.edge_types)
        if mask is None and n_heads == joined.pattern.pairs.n_rows:
            return joined.pattern
        key = joined.edge_types, n_heads
        if key not in self._relations:
            self._relations[key] = joined.pattern.keep(mask, n_heads, padded=self._padded)
        return self._relations[key]

    def _pattern(self, etypes: Types) -> tuple[SparsePattern, Kept | None]:
        """The pattern of the kept edges of some types, and which they are."""
        if etypes not in self._patterns:
            pattern, mask, kept = self.graph.joined(etypes).pattern.pairs, self._mask(etypes), None
            if mask is not None:
                kept = Kept(mask, padded=self._padded)
                pattern = pattern.keep_those(kept)
            self._patterns[etypes] = pattern, kept
        return self._patterns[etypes]

    def _degree(self, etype: EdgeType) -> Tensor:
        if etype in MIRRORED:
            return self._pattern((MIRRORED[etype],))[0].col_degree
        return self._pattern((etype,))[0].row_degree

    def _mask(self, etypes: Types) -> Tensor | None:
        """Which edges of the types are kept, in the order in which they are joined; None if all are."""
        if etypes in self.masks:
            return self.masks[etypes]
        found = [mask_of_type(self.graph, self.masks, etype) for etype in etypes]
        if all(mask is None for mask in found):
            return None
        graph = self.graph
        every = [
            torch.ones(graph.num_edges(etype), dtype=torch.bool, device=graph.device) if mask is None else mask
            for etype, mask in zip(etypes, found, strict=True)
        ]
        return torch.cat(every).index_select(0, graph.joined(etypes).order)


def _groups(updates: Updates) -> dict[Hashable, Types]:
    """Edge types that are one call of a kernel, in the order of their first."""
    groups: dict[Hashable, list[EdgeType]] = {}
    for etype, update in updates.items():
        key: Hashable = etype
        if isinstance(update, Silent):
            continue
        if isinstance(update, RelationTransitive):
            key = "relations", id(update.relations), update.rule
        elif isinstance(update, Attention):
            key = "attention", etype[2], update.group
        groups.setdefault(key, []).append(etype)
    return {key: tuple(etypes) for key, etypes in groups.items()}
