"""A model that several processes train: each holds and steps on its own rows; the first one has the whole as well."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors import torch as safetensors_of_torch
from torch import Tensor, nn

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.owners import Owners
from hakg_dgl.data.part_dataset import PartDataset, part_of
from hakg_dgl.distributed.batches import SharedBatches
from hakg_dgl.distributed.ownership import Ownership
from hakg_dgl.distributed.ranks import Ranks
from hakg_dgl.distributed.shard import Shard
from hakg_dgl.distributed.shards import shard_class
from hakg_dgl.models.recommender import GradientRecommender, Pass
from hakg_dgl.models.settings import Settings
from hakg_dgl.training.steps import PlainStep, Step, set_learning_rate
from hakg_dgl.training.trainee import BATCHES, Trainee, build_model


class DistributedTrainee(Trainee):
    """See :class:`~hakg_dgl.training.trainee.Trainee`.

    In the first process ``model`` and ``optimizers`` are the whole, as of the last :meth:`collect`: what is measured
    and saved. In the others they are the own part, from the first step on. :meth:`meet`, :meth:`collect` and steps are
    made by all processes together.

    Parameters
    ----------
    dataset
        The whole in the first process; in the others their part, or the whole, of which the part is taken.
    settings, device, splits, start
        As there.
    ranks, owners
        The processes and what they own.

    Attributes
    ----------
    steps_done
        Steps so far; what dropout is drawn for.
    shard
        The own part, after :meth:`meet`.
    """

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
        self.shard: Shard | None = None
        self.own_optimizers: dict[str, torch.optim.Optimizer] = {}
        super().__init__(dataset if ranks.rank == 0 else self.part, settings, device, splits, start)

    def prepare(self) -> None:
        """The first process has the terms that are solved for, since it is the one that measures."""
        if self.ranks.rank == 0:
            super().prepare()

    def make_passes(self) -> tuple[Pass, ...]:
        """None before :meth:`meet`, since these batches are made by all processes together."""
        return ()

    def set_learning_rate(self, lr: float) -> None:
        """Change the learning rate of all optimizers, the own ones too."""
        super().set_learning_rate(lr)
        for optimizer in self.own_optimizers.values():
            set_learning_rate(optimizer, lr)

    def step(self, each: Pass) -> Step:
        """What makes a step on own rows."""
        if each.name not in self._steps:
            self._steps[each.name] = SharedStep(self, each, self.own_optimizers[each.optimizer])
        return self._steps[each.name]

    def parameters(self) -> Iterator[nn.Parameter]:
        """Own rows, and what is replicated."""
        return (self.model if self.shard is None else self.shard.model).parameters()

    def finite(self) -> bool:
        """Whether the parameters of all processes are."""
        return not int(self.ranks.max(torch.tensor(int(not super().finite()))))

    @torch.no_grad()
    def meet(self) -> None:
        """Be dealt own rows and their part of the optimizers' state by the first process, and make the batches."""
        if self.shard is not None:
            return
        common = safetensors_of_torch.load(self.ranks.from_first(self._common() if self.ranks.rank == 0 else None))
        cut = self.model
        if self.ranks.rank == 0:
            made = build_model(self.part, self.settings, self.device, self.splits)
            assert isinstance(made, GradientRecommender)
            cut = made
        pairs = cut.graph.pairs()
        seed = self.settings.run.seed
        shard = shard_class(self.settings.kind)(cut, self.ranks, self.ownership, self.generators, seed, common)
        names = [name for name, _ in cut.named_parameters()]
        whole = dict(self.model.named_parameters()) if self.ranks.rank == 0 else {}
        for name, parameter in cut.named_parameters():
            parameter.copy_(shard.dealt(name, whole.get(name), parameter))
        self.own_optimizers = cut.optimizers(self.settings.training.lr)
        for key, optimizer in self.own_optimizers.items():
            self._deal(shard, names, key, optimizer)
        if self.ranks.rank:
            self.optimizers: dict[str, torch.optim.Optimizer] = self.own_optimizers
        training = self.settings.training
        batches = SharedBatches(
            self.ranks, self.ownership, pairs, training.batch_size, self.generators[BATCHES],
            training.positives_per_user,
        )  # fmt: skip
        self.passes: tuple[Pass, ...] = (Pass("interactions", batches, shard.loss),)
        self.shard = shard

    def _common(self) -> bytes:
        """Of the whole model, as a safetensors file."""
        found = shard_class(self.settings.kind).common(self.model)
        return safetensors_of_torch.save({"": torch.zeros(0), **found})

    def _deal(self, shard: Shard, names: list[str], key: str, optimizer: torch.optim.Optimizer) -> None:
        """Give an optimizer its part of the state of the first process's."""
        saved = self.optimizers[key].state_dict()["state"] if self.ranks.rank == 0 else {}
        slots = {index: sorted(values) for index, values in sorted(saved.items())}
        told: dict[str, list[str]] = json.loads(
            self.ranks.from_first(json.dumps(slots).encode() if self.ranks.rank == 0 else None)
        )
        if not told:
            return
        parameters = dict(shard.model.named_parameters())
        state: dict[int, dict[str, Tensor]] = {}
        for number, of in told.items():
            name = names[int(number)]
            for slot in of:
                value = saved[int(number)][slot] if saved else None
                scalar = slot == "step"
                like = torch.zeros((), device=self.device) if scalar else torch.empty_like(parameters[name])
                dealt = shard.dealt("", value, like) if scalar else shard.dealt(name, value, like)
                state.setdefault(int(number), {})[slot] = dealt
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})

    @torch.no_grad()
    def collect(self, *, optimizers: bool = False) -> None:
        """Put the rows of all processes together in the first one, with the optimizers' state if that is asked for."""
        shard = self.shard
        if shard is None:
            return
        names = [name for name, _ in shard.model.named_parameters()]
        for name, parameter in shard.model.named_parameters():
            rows = shard.gathered(name, parameter)
            if rows is not None and self.ranks.rank == 0:
                self.model.get_parameter(name).copy_(rows)
        for key, optimizer in self.own_optimizers.items() if optimizers else ():
            own, state = optimizer.state_dict(), dict[int, dict[str, Any]]()
            # Sorted: a state that was read from a file has another order than one that was made.
            for index, slots in sorted(own["state"].items()):
                state[index] = {
                    slot: shard.gathered(names[index], value) if value.ndim else value.clone()
                    for slot, value in sorted(slots.items())
                }
            if self.ranks.rank == 0:
                self.optimizers[key].load_state_dict({**own, "state": state})

    def drop_optimizers(self) -> None:
        """Forget the whole of the optimizers' state, which :meth:`collect` puts together again."""
        if self.shard is not None and self.ranks.rank == 0:
            for optimizer in self.optimizers.values():
                optimizer.state.clear()


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
