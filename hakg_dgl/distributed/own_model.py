"""Models of which a process makes the rows that it owns, and never the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hakg_dgl.data.part_dataset import PartDataset
from hakg_dgl.distributed.ownership import Ownership
from hakg_dgl.distributed.ranks import Ranks
from hakg_dgl.graph.edge_types import INTERACTS, inverse_of, unique_names
from hakg_dgl.graph.heterograph import HeteroGraph, build_graph
from hakg_dgl.models.recommender import NODE_TYPES, GradientRecommender, Recommender
from hakg_dgl.models.settings import Settings
from hakg_dgl.randomness import torch_generator

NUMBERS_AT_ONCE = 1 << 24
"""Numbers of a table that are drawn at once."""


class OwnRows(Recommender):
    """Has a model's tables of users, items and entities made with own rows alone."""

    ownership: Ownership
    rank: int

    def parameter(self, name: str, rows: int, width: int) -> nn.Parameter:
        """See the base class; the values are those that the rows have in the whole table."""
        if name not in NODE_TYPES:
            return super().parameter(name, rows, width)
        generator = torch_generator(self.run.seed, f"init:{name}")
        own = drawn_rows(generator, rows, width, self.ownership.rows(name, self.rank).cpu(), self.dtype)
        return nn.Parameter(own.to(self.device))


def own_model(
    part: PartDataset,
    settings: Settings,
    device: torch.device,
    splits: tuple[str, ...],
    ownership: Ownership,
    ranks: Ranks,
) -> GradientRecommender:
    """A model as it is before training, with the rows and the edges of a part; a step of all processes together.

    Terms that are solved for have no columns yet; :mod:`~hakg_dgl.distributed.terms` adds them.
    """
    made = settings.model_class
    kind = type(f"Own{made.__name__}", (OwnRows, made), {"ownership": ownership, "rank": part.number})
    graph = _with_types_of_all(build_graph(part, splits), part, ranks).to(device)
    without: dict[str, Any] = {key: (0.0,) for key in ("linear_weight", "facts_weight") if key in settings.by_section()}
    model = kind(graph, settings.replace(without).model, settings.loss, settings.run)
    assert isinstance(model, GradientRecommender)
    model.settings = settings.model
    return model


def _with_types_of_all(graph: HeteroGraph, part: PartDataset, ranks: Ranks) -> HeteroGraph:
    """The graph with the edge types of facts and links of users that any part has, in the order of the whole graph."""
    names = unique_names(list(part.user_relations["name"]))
    types = [("user", name, end) for name in names for end in ("entity", "user")]
    if not types:
        return graph
    found = ranks.max(torch.tensor([int(etype in graph.edges) for etype in types])).tolist()
    none = graph.edges[INTERACTS][0][:0]
    there = {etype: graph.edges.get(etype, (none, none)) for etype, has in zip(types, found, strict=True) if has}
    back = {inverse_of(etype): ends[::-1] for etype, ends in there.items()}
    others = {etype: ends for etype, ends in graph.edges.items() if etype not in graph.user_types}
    return HeteroGraph(graph.n_nodes, {**others, **there, **back}, graph.names)


def drawn_rows(generator: torch.Generator, n_rows: int, width: int, own: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows ``own`` (int64, ascending) of a Xavier-uniform table ``[n_rows, width]``, which is drawn block by block."""
    found = torch.empty(len(own), width, dtype=dtype)
    bound = (3.0**0.5) * (2.0 / float(n_rows + width)) ** 0.5  # as torch.nn.init.xavier_uniform_ computes it
    size = max(1, NUMBERS_AT_ONCE // max(1, width))
    for first in range(0, n_rows, size):
        block = torch.empty(min(size, n_rows - first), width, dtype=dtype).uniform_(-bound, bound, generator=generator)
        here = slice(int(torch.searchsorted(own, first)), int(torch.searchsorted(own, first + len(block))))
        found[here] = block[own[here] - first]
    return found
