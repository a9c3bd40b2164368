"""A model that several processes train: each holds, and steps on, its own rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.owners import Owners
from hakg_dgl.data.part_dataset import PartDataset, part_of
from hakg_dgl.distributed.batches import SharedBatches
from hakg_dgl.distributed.hakg import HAKGShard
from hakg_dgl.distributed.own_model import own_model
from hakg_dgl.distributed.ownership import Ownership
from hakg_dgl.distributed.ranks import Ranks
from hakg_dgl.distributed.saving import own_tensors, pieces_of
from hakg_dgl.distributed.shard import Shard
from hakg_dgl.distributed.shards import shard_class
from hakg_dgl.distributed.terms import SharedTerms
from hakg_dgl.models.recommender import GradientRecommender, Pass
from hakg_dgl.models.settings import Settings
from hakg_dgl.training.steps import PlainStep, Step
from hakg_dgl.training.trainee import BATCHES, Trainee, begin_with


class DistributedTrainee(Trainee):
    """See :class:`~hakg_dgl.training.trainee.Trainee`; ``model`` and ``optimizers`` are of own rows.

    Making one, and steps, are made by all processes together.

    Parameters
    ----------
    dataset
        The part of this process, or the whole, of which the part is taken.
    settings, device, splits
        As there.
    start
        As there, in the first process; the others pass None.
    ranks, owners
        The processes and what they own.

    Attributes
    ----------
    shard
        The own part, and the loss of all.
    terms
        What is solved for; None if nothing is.
    steps_done
        Steps so far; what dropout is drawn for.
    """

    shard: Shard

    def __init__(
        self,
        dataset: Dataset,
        settings: Settings,
        device: torch.device,
        splits: tuple[str, ...],
        start: Mapping[str, Tensor] | None,
        ranks: Ranks,
        owners: Owners,
    ) -> None:
        self.ranks: Ranks = ranks
        self.steps_done: int = 0
        self.ownership: Ownership = Ownership.of(owners, dataset.n_items, device)
        self.part: PartDataset = dataset if isinstance(dataset, PartDataset) else part_of(dataset, owners, ranks.rank)
        super().__init__(self.part, settings, device, splits)
        self.terms: SharedTerms | None = None
        s, shard = settings.model, self.shard
        if isinstance(shard, HAKGShard) and (s.has_linear_term or s.has_facts_term):
            self.terms = SharedTerms(shard, self.part, settings, splits)
            self.terms.fit()
        if ranks.told(start is not None):
            self._begin_with(start)

    def make_model(self, dataset: Dataset) -> GradientRecommender:
        """Own rows, and the edges of the part."""
        return own_model(self.part, self.settings, self.device, self.splits, self.ownership, self.ranks)

    def prepare(self) -> None:
        """What is solved for comes after the rest, since it takes all processes."""
        return

    def make_passes(self) -> tuple[Pass, ...]:
        """One pass over the interactions of all processes."""
        pairs, seed, training = self.model.graph.pairs(), self.settings.run.seed, self.settings.training
        batches = SharedBatches(
            self.ranks, self.ownership, pairs, training.batch_size, self.generators[BATCHES],
            training.positives_per_user,
        )  # fmt: skip
        make = shard_class(self.settings.kind)
        self.shard = make(self.model, self.ranks, self.ownership, self.generators, seed)
        return (Pass("interactions", batches, self.shard.loss),)

    def step(self, each: Pass) -> Step:
        """What makes a step on own rows."""
        if each.name not in self._steps:
            self._steps[each.name] = SharedStep(self, each, self.optimizers[each.optimizer])
        return self._steps[each.name]

    def finite(self) -> bool:
        """Whether the parameters of all processes are."""
        return not int(self.ranks.max(torch.tensor(int(not super().finite()))))

    def all_rows(self, node_type: str) -> Tensor:
        """The numbers of all nodes of a type, int64."""
        return torch.arange(len(self.ownership.owners[node_type]))

    def _begin_with(self, start: Mapping[str, Tensor] | None) -> None:
        pieces = None
        if start is not None:
            types = self.shard.row_types
            rows = ((name, (types[name], self.all_rows(types[name])) if name in types else None) for name in start)
            pieces = (piece for name, of in rows for piece in pieces_of(name, start[name], of))
        begin_with(self.model, own_tensors(self.ranks, self.ownership, pieces))


class SharedStep(PlainStep):
    """A step on own rows, to which all processes add their shares of the gradients of what is replicated.

    Parameters
    ----------
    trainee
        What is trained.
    each
        The pass, with the loss of all processes.
    optimizer
        Of own rows.
    """

    def __init__(self, trainee: DistributedTrainee, each: Pass, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(each.loss, optimizer)
        self.trainee = trainee

    def gradients(self, *batch: Tensor) -> Tensor:
        """See :meth:`~hakg_dgl.training.steps.Step.gradients`."""
        shard = self.trainee.shard
        shard.step = self.trainee.steps_done
        loss = super().gradients(*batch)
        shard.add_gradients()
        self.trainee.steps_done += 1
        return loss
