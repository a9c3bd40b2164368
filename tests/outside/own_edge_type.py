"""Edge types that the package does not know, as docs/extending.md describes them."""

from __future__ import annotations

from typing import ClassVar

import torch

import hakg_dgl
from hakg_dgl.graph.edge_types import EdgeType
from hakg_dgl.layers.updates import Copy, EdgeBatch, Reduce, Updates

FOLLOWS: EdgeType = ("user", "follows", "user")


class Faded(torch.nn.Module):
    """A message that fades with the age of its edge."""

    reduce: Reduce = "mean"

    def __init__(self, age: torch.Tensor) -> None:
        super().__init__()
        self.age = age
        self.rate = torch.nn.Parameter(torch.tensor(0.1))

    def forward(self, edges: EdgeBatch) -> torch.Tensor:
        return edges.src["x"] * torch.exp(-self.rate * self.age[edges.data["id"]]).unsqueeze(1)


class Social(hakg_dgl.HAKG):
    """HAKG on a graph whose users follow each other."""

    name = "social"
    edge_updates: ClassVar[Updates] = {FOLLOWS: Copy(reduce="mean")}


def followed(dataset: hakg_dgl.Dataset) -> hakg_dgl.HeteroGraph:
    """The graph of a data set, with three users who follow each other."""
    graph = hakg_dgl.build_graph(dataset)
    edges = {**graph.edges, FOLLOWS: (torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0]))}
    return hakg_dgl.HeteroGraph(graph.n_nodes, edges, graph.names)


def main() -> torch.Tensor:
    """The gradient that reaches the parameter of an update function."""
    graph = followed(hakg_dgl.preprocess(hakg_dgl.generate_demo()))
    faded = Faded(torch.tensor([1.0, 5.0, 30.0]))
    model = hakg_dgl.HAKG(graph, updates={FOLLOWS: faded})
    print(Social(graph).propagate().user.shape)
    (gradient,) = torch.autograd.grad(model.propagate().user.sum(), [faded.rate])
    return gradient


if __name__ == "__main__":
    main()
