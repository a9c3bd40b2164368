"""Facts to train on: true triples, and tails that make them false."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.layers.sampling import NegativeSampler


class Triples:
    """True triples by number, and false tails for each.

    A false tail is drawn uniformly from the nodes that are no tail of any true triple with the same head and relation.

    Parameters
    ----------
    head, relation, tail
        int64 ``[n]`` each.
    n_nodes
        Heads and tails are below this.
    n_relations
        Relations are below this.
    """

    def __init__(self, head: Tensor, relation: Tensor, tail: Tensor, n_nodes: int, n_relations: int) -> None:
        self.head: Tensor = head
        self.relation: Tensor = relation
        self.tail: Tensor = tail
        asked, self._asked = torch.unique(head * n_relations + relation, return_inverse=True)
        answers = torch.unique(self._asked * n_nodes + tail)
        count = torch.bincount(answers // n_nodes, minlength=len(asked))
        indptr = torch.cat([count.new_zeros(1), count.cumsum(0)])
        self._sampler = NegativeSampler(indptr, answers % n_nodes, n_nodes, device=head.device)

    def __len__(self) -> int:
        return len(self.head)

    def of(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Head, relation and tail, int64 ``[batch]`` each, of the triples with these numbers."""
        return self.head[numbers], self.relation[numbers], self.tail[numbers]

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Numbers of ``n`` triples, int64, drawn uniformly and with replacement; none where there are no triples."""
        if not len(self):
            return self.head.new_empty(0)
        return torch.randint(len(self), (n,), generator=generator, device=self.head.device)

    def false_tails(self, numbers: Tensor, generator: torch.Generator, k: int = 1) -> Tensor:
        """``k`` false tails for each of the triples with these numbers, int64 ``[batch, k]``."""
        return self._sampler.sample(self._asked[numbers], k, generator)


def knowledge_triples(graph: HeteroGraph) -> Triples:
    """The facts of a graph between entities, without inverses."""
    head, relation, tail = graph.triples().unbind(1)
    return Triples(head, relation, tail, graph.n_entities, max(1, graph.n_relations))


class TripleBatches:
    """Numbers of all triples in a new random order each epoch, cut into batches; the last one may be short.

    Parameters
    ----------
    n
        How many triples there are, at least 1.
    batch_size
        At least 1.
    generator
        Orders them; nothing else may draw from it while an epoch lasts.
    """

    def __init__(self, n: int, batch_size: int, generator: torch.Generator) -> None:
        if n < 1:
            raise DataError("there is no triple to train on", remedy="Train a model that needs no facts.")
        if batch_size < 1:
            raise ConfigError(f"the batch size is {batch_size}; it must be at least 1")
        self.n: int = n
        self.batch_size: int = batch_size
        self.generator: torch.Generator = generator

    @property
    def largest(self) -> int:
        """Triples of a full batch."""
        return min(self.batch_size, self.n)

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor]]:
        """Yield ``(numbers [B],)``, int64."""
        order = torch.randperm(self.n, generator=self.generator, device=self.generator.device)
        for start in range(0, self.n, self.batch_size):
            yield (order[start : start + self.batch_size],)
