"""The closed-form terms of HAKG's score where processes own the rows of items: solved for by the first process.

Solving takes all interactions and facts, which are gathered for it and let go; the rows of the factors go to the owners
of the items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain

import torch
from torch import Tensor

from hakg_dgl.data.part_dataset import PartDataset
from hakg_dgl.distributed.gathering import gathered_dataset
from hakg_dgl.distributed.hakg import HAKGShard
from hakg_dgl.distributed.saving import own_tensors, pieces_of
from hakg_dgl.graph.heterograph import HeteroGraph, build_graph
from hakg_dgl.kernels.products import sum_over_columns
from hakg_dgl.models.hakg.choice import Chooser
from hakg_dgl.models.hakg.terms import CHOSEN, PROVISIONAL, ClosedTerms
from hakg_dgl.models.recommender import Judge
from hakg_dgl.models.settings import Settings

Solve = Callable[[ClosedTerms, HeteroGraph], None]


class SharedTerms:
    """What :class:`~hakg_dgl.models.hakg.model.HAKG` computes beside training; every method is a step of all processes.

    Parameters
    ----------
    shard
        Whose terms.
    part
        Of this process.
    settings
        Of the training.
    splits
        Splits whose interactions are trained on.
    """

    def __init__(self, shard: HAKGShard, part: PartDataset, settings: Settings, splits: tuple[str, ...]) -> None:
        self.shard: HAKGShard = shard
        self.part: PartDataset = part
        self.settings: Settings = settings
        self.splits: tuple[str, ...] = splits

    def fit(self) -> None:
        """See :meth:`~hakg_dgl.models.hakg.network.Network.fit_terms`."""

        def solve(terms: ClosedTerms, graph: HeteroGraph) -> None:
            terms.solve(graph, terms.first_choice())
            terms.stage.fill_(PROVISIONAL)

        self._solved(solve, gathered_dataset(self.shard.ranks, self.shard.ownership, self.part, self.splits))

    def take(self, chosen: Mapping[str, float]) -> None:
        """See :meth:`~hakg_dgl.models.hakg.network.Network.set_terms`."""

        def solve(terms: ClosedTerms, graph: HeteroGraph) -> None:
            terms.solve(graph, chosen)
            terms.stage.fill_(CHOSEN)

        self._solved(solve, gathered_dataset(self.shard.ranks, self.shard.ownership, self.part, self.splits))
        self.shard.weigh(chosen)

    def choose(self, judge: Callable[[PartDataset], Judge]) -> dict[str, float]:
        """See :meth:`~hakg_dgl.models.hakg.network.Network.choose_terms`; the choice, in the first process.

        ``judge`` makes what to choose by from the interactions of all splits. For the choice the first process has the
        vectors of all users and items for a while.
        """
        shard = self.shard
        vectors = [shard.gathered(name, rows) for name, rows in zip(("user", "item"), shard.learned(), strict=True)]
        dataset = gathered_dataset(shard.ranks, shard.ownership, self.part)
        chosen: dict[str, float] = {}

        def solve(terms: ClosedTerms, graph: HeteroGraph) -> None:
            user, item = vectors
            assert user is not None
            assert item is not None
            assert dataset is not None
            chosen.update(Chooser(terms, graph, (user, item), lambda t, p: self._past(graph, t, p), judge(dataset))())

        self._solved(solve, dataset)
        return chosen

    def _past(self, graph: HeteroGraph, table: Tensor, power: float) -> Tensor:
        """See :meth:`~hakg_dgl.models.hakg.network.Network.past_sums`."""
        pattern = graph.packed.interactions
        sums = sum_over_columns(self.shard.backend, pattern, table)
        return sums if power == 0.0 else sums * pattern.row_degree.clamp_min(1).to(table.dtype).pow(-power).unsqueeze(1)

    @torch.no_grad()
    def _solved(self, solve: Solve, dataset: PartDataset | None) -> None:
        """Have the first process solve, and each take its rows."""
        shard, network = self.shard, self.shard.network
        pieces = None
        if dataset is not None:
            graph = build_graph(dataset, self.splits).to(network.device)
            terms = ClosedTerms.of(network.settings, graph, network.dtype)
            solve(terms, graph)
            rows = "item", torch.arange(graph.n_items)
            found = ((name, value.cpu()) for name, value in terms.state_dict().items())
            pieces = chain.from_iterable(
                pieces_of(name, value, rows if f"terms.{name}" in shard.row_types else None) for name, value in found
            )
        shard.install(own_tensors(shard.ranks, shard.ownership, pieces))
