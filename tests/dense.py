"""Small graphs with every oddity, and the dense evaluations that sparse and fast code is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hakg_dgl.geometry.guards import ball_margin
from hakg_dgl.geometry.message import MessageRule
from hakg_dgl.graph.heterograph import HeteroGraph, graph_from_arrays
from hakg_dgl.graph.packed import PackedGraph

DTYPES = (torch.float32, torch.float64)
# Curvature means nothing in flat space, so one value will do there.
RULES = [
    (formulation, geometry, curvature)
    for formulation in ("released", "paper")
    for geometry, curvature in (("poincare", 0.5), ("poincare", 1.0), ("poincare", 2.0), ("euclidean", 1.0))
]


def on_one_thread() -> Iterator[None]:
    """Body of a fixture: on tensors this small, threads cost more than they bring, on a busy machine many times."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_rule(formulation: str, geometry: str, curvature: float, dtype: torch.dtype) -> MessageRule:
    return MessageRule(formulation, geometry, curvature, ball_margin(dtype))  # type: ignore[arg-type]


class Graph(NamedTuple):
    """Interactions (user, item) and triples (head, relation, tail), int64."""

    interactions: Tensor
    triples: Tensor
    n_users: int
    n_items: int
    n_entities: int
    n_relations: int

    @property
    def sizes(self) -> dict[str, int]:
        return {"n_users": self.n_users, "n_items": self.n_items, "n_entities": self.n_entities}

    def packed(self, device: str = "cpu") -> PackedGraph:
        return self.heterograph().to(device).packed

    def heterograph(self) -> HeteroGraph:
        # From ten on, names sort differently from numbers.
        return graph_from_arrays(
            self.interactions, self.triples, [f"r{i}" for i in range(self.n_relations)], **self.sizes
        )

    def edges(self) -> Tensor:
        """Triples and their inverses, ``[2t, 3]``."""
        head, relation, tail = self.triples.unbind(1)
        inverse = torch.stack([tail, relation + self.n_relations, head], 1)
        return torch.cat([self.triples, inverse])


def odd_graph(seed: int = 0, *, n_triples: int = 40, n_relations: int = 11) -> Graph:
    """User 0 and item 1 without interactions, entity 9 and relation 1 without edges, self loops, parallel relations.

    Entity 0 has an edge to every other entity but 9.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int, *forbidden: int) -> Tensor:
        allowed = torch.tensor([i for i in range(n) if i not in forbidden])
        return allowed[torch.randint(len(allowed), (n_triples,), generator=generator)]

    interactions = torch.stack([draw(8, 0), draw(6, 1)], 1).unique(dim=0)
    drawn = torch.stack([draw(14, 9), draw(n_relations, 1), draw(14, 9)], 1)
    others = torch.tensor([i for i in range(14) if i != 9])
    hub = torch.stack([torch.zeros_like(others), torch.full_like(others, 2), others], 1)
    planned = torch.tensor([[3, 0, 3], [8, 0, 8], [4, 0, 7], [4, 2, 7], [7, 0, 4]])
    triples = torch.cat([drawn, hub, planned]).unique(dim=0)
    shuffled = torch.randperm(len(triples), generator=generator)
    interactions = interactions[torch.randperm(len(interactions), generator=generator)]
    return Graph(interactions, triples[shuffled], n_users=8, n_items=6, n_entities=14, n_relations=n_relations)


def empty_graph(n_relations: int = 0) -> Graph:
    return Graph(torch.empty(0, 2).long(), torch.empty(0, 3).long(), 3, 2, 4, n_relations)


def random_table(
    rows: int, dim: int, dtype: torch.dtype, seed: int, *, reach: float = 1.0, zero: bool = True
) -> Tensor:
    """Rows of L2 norm up to ``reach``, row 2 zero (where there is one)."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    lengths = reach * torch.rand(rows, 1, generator=generator, dtype=torch.float64)
    table = table / table.norm(dim=1, keepdim=True) * lengths
    if zero:
        table[2:3] = 0.0
    return table.to(dtype)


def incidence(group: Tensor, n_groups: int, dtype: torch.dtype) -> Tensor:
    """``[n_groups, n_edges]``: one where the edge belongs to the group."""
    return (torch.arange(n_groups, device=group.device)[:, None] == group[None, :]).to(dtype)


def dense_mean(edges: Tensor, entity: Tensor, relation: Tensor, rule: MessageRule, n_heads: int) -> Tensor:
    """Mean of the messages of ``edges`` (head, relation, tail) at heads 0..n_heads-1, by vectors."""
    heads, relations, tails = edges.unbind(1)
    messages = rule.message(entity[heads], entity[tails], relation[relations])
    received = incidence(heads, n_heads, entity.dtype)
    return received @ messages / received.sum(1, keepdim=True).clamp_min(1.0)


def adjacency(pairs: Tensor, n_rows: int, n_cols: int, dtype: torch.dtype) -> Tensor:
    """``[n_rows, n_cols]``: how often each pair occurs."""
    ones = torch.ones(len(pairs), dtype=dtype, device=pairs.device)
    return torch.zeros(n_rows, n_cols, dtype=dtype, device=pairs.device).index_put(
        tuple(pairs.unbind(1)), ones, accumulate=True
    )


def gradients(output: Tensor, *inputs: Tensor, seed: int = 5) -> list[Tensor]:
    """Gradients of a random linear function of ``output``; zeros where an input takes no part."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    if not output.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    weighted = (output * weights).sum()
    return list(torch.autograd.grad(weighted, inputs, retain_graph=True, allow_unused=True, materialize_grads=True))


def error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest entry (absolute where all entries are zero)."""
    assert actual.shape == expected.shape
    if expected.numel() == 0:
        return 0.0
    actual, expected = actual.detach().double(), expected.detach().double()
    largest = float(expected.abs().max())
    return float((actual - expected).abs().max()) / (largest or 1.0)
