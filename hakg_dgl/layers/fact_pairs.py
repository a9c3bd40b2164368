"""Facts as edges from pairs of a relation and a tail, so that what a pair is worth is computed once for all heads."""

from __future__ import annotations

import torch
from torch import Tensor

from hakg_dgl.graph.packed import Grouping, KnowledgePattern, SparsePattern
from hakg_dgl.kernels.interface import SparseBackend
from hakg_dgl.kernels.products import rows_of


class FactPairs:
    r"""Edges of the KG whose other end is a pair of a relation and a tail, each distinct pair once.

    What depends on relation and tail alone is computed once a pair, however many heads receive it, and nothing of size
    edges x d is made.

    Attributes
    ----------
    pattern
        Heads (rows) receive from pairs (columns).
    relation, tail
        int64 ``[n_pairs]``.

    Parameters
    ----------
    knowledge
        Facts with their inverses.
    backend
        Who computes the sparse products.
    """

    def __init__(self, knowledge: KnowledgePattern, backend: SparseBackend) -> None:
        edges, n_tails = knowledge.pairs, knowledge.pairs.n_cols
        pairs, column = torch.unique(knowledge.relation * n_tails + edges.cols, return_inverse=True)
        self.backend = backend
        self.pattern: SparsePattern = SparsePattern.from_pairs(edges.rows, column, edges.n_rows, len(pairs))
        self.relation, self.tail = pairs // n_tails, pairs % n_tails
        self._by_relation = Grouping.of(self.relation, knowledge.n_relations)
        self._by_tail = Grouping.of(self.tail, n_tails)

    def relations(self, table: Tensor) -> Tensor:
        """The row of each pair's relation, ``[n_pairs, d]``, from ``[2R, d]``."""
        return rows_of(self.backend, self._by_relation, self.relation, table)

    def tails(self, table: Tensor) -> Tensor:
        """The row of each pair's tail, ``[n_pairs, d]``, from ``[n_entities, d]``."""
        return rows_of(self.backend, self._by_tail, self.tail, table)

    def products(self, relation: Tensor, entity: Tensor) -> Tensor:
        """Products of relation and tail, ``[n_pairs, d]``, from ``[2R, d]`` and ``[n_entities, d]``."""
        return self.relations(relation) * self.tails(entity)
