"""A model that several processes train: each steps on its own rows, and the whole is put together to be measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.distributed.ownership import Ownership
from hakg_dgl.distributed.ranks import Ranks
from hakg_dgl.distributed.shard import Shard
from hakg_dgl.distributed.shards import shard_class
from hakg_dgl.models.recommender import GradientRecommender, Pass
from hakg_dgl.models.settings import Settings
from hakg_dgl.training.steps import PlainStep, Step, set_learning_rate
from hakg_dgl.training.trainee import Trainee, build_model


class DistributedTrainee(Trainee):
    """See :class:`~hakg_dgl.training.trainee.Trainee`.

    ``model`` and ``optimizers`` are the whole, as of the last :meth:`collect`; they are what is measured and saved.
    The own rows are cut out of them before the first step, which is a step of all processes together.

    Parameters
    ----------
    dataset, settings, device, splits, start
        As there.
    ranks
        The processes.

    Attributes
    ----------
    steps_done
        Steps so far; what dropout is drawn for.
    """

    def __init__(
        self,
        dataset: Dataset,
        settings: Settings,
        device: torch.device,
        splits: tuple[str, ...],
        start: Mapping[str, Tensor] | None,
        ranks: Ranks,
    ) -> None:
        self.ranks, self.dataset, self.steps_done = ranks, dataset, 0
        self.shard: Shard | None = None
        self.own_optimizers: dict[str, torch.optim.Optimizer] = {}
        super().__init__(dataset, settings, device, splits, start)

    def prepare(self) -> None:
        """The first process has the terms that are solved for, since it is the one that measures."""
        if self.ranks.rank == 0:
            super().prepare()

    def set_learning_rate(self, lr: float) -> None:
        """Change the learning rate of all optimizers, the own ones too."""
        super().set_learning_rate(lr)
        for optimizer in self.own_optimizers.values():
            set_learning_rate(optimizer, lr)

    def step(self, each: Pass) -> Step:
        """What makes a step on own rows."""
        if self.shard is None:
            self.ranks.from_first(b"prepared" if self.ranks.rank == 0 else None)
            self.shard = self._cut()
        if each.name not in self._steps:
            own = replace(each, loss=self.shard.loss)
            self._steps[each.name] = SharedStep(self, own, self.own_optimizers[each.optimizer])
        return self._steps[each.name]

    def parameters(self) -> Iterator[nn.Parameter]:
        """Own rows, and what is replicated."""
        return (self.model if self.shard is None else self.shard.model).parameters()

    @torch.no_grad()
    def _cut(self) -> Shard:
        cut = build_model(self.dataset, self.settings, self.device, self.splits)
        assert isinstance(cut, GradientRecommender)
        for name, parameter in cut.named_parameters():
            parameter.copy_(self.model.get_parameter(name))
        ownership = Ownership.ranges(cut.graph, self.ranks.size)
        make = shard_class(self.settings.kind)
        shard = make(cut, self.ranks, ownership, self.generators, self.settings.run.seed)
        names = [name for name, _ in cut.named_parameters()]
        self.own_optimizers = cut.optimizers(self.settings.training.lr)
        for key, optimizer in self.own_optimizers.items():
            saved = self.optimizers[key].state_dict()
            state = {
                index: {slot: shard.part(names[index], value) if value.ndim else value for slot, value in slots.items()}
                for index, slots in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})
        return shard

    @torch.no_grad()
    def collect(self) -> None:
        """Put the rows of all processes together; a step of all of them."""
        shard = self.shard
        if shard is None:
            return
        for name, parameter in shard.model.named_parameters():
            self.model.get_parameter(name).copy_(shard.whole(name, parameter))
        names = [name for name, _ in shard.model.named_parameters()]
        for key, optimizer in self.own_optimizers.items():
            own = optimizer.state_dict()
            # Sorted: a state that was read from a file has another order than one that was made, and processes reduce
            # one tensor after the other.
            state = {
                index: {
                    slot: shard.whole(names[index], value) if value.ndim else value.clone()
                    for slot, value in sorted(slots.items())
                }
                for index, slots in sorted(own["state"].items())
            }
            self.optimizers[key].load_state_dict({**own, "state": state})


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
        assert shard is not None
        shard.step = self.trainee.steps_done
        loss = super().gradients(*batch)
        shard.add_gradients()
        self.trainee.steps_done += 1
        return loss
