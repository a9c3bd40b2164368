"""A model being trained: the model, what it goes over, its optimizers and its random streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import CheckpointError
from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.kernels.choice import GraphChoice, choose_cuda_graphs
from hakg_dgl.models.recommender import GradientRecommender, Pass, Recommender, require_tensors
from hakg_dgl.models.settings import Settings
from hakg_dgl.randomness import torch_generator
from hakg_dgl.settings.training import TrainingSettings
from hakg_dgl.training.steps import Step, make_step, set_learning_rate

BATCHES = "batches"
"""The random stream that orders batches."""


def build_model(dataset: Dataset, settings: Settings, device: torch.device, splits: tuple[str, ...]) -> Recommender:
    """A model as it is before training, on the graph of the interactions of ``splits``."""
    graph = build_graph(dataset, splits).to(device)
    return settings.model_class(graph, settings.model, settings.loss, settings.run)


class Trainee:
    """Everything that training changes, as it is before the first epoch on some splits.

    Parameters
    ----------
    dataset, settings, device, splits
        What to train on, how, and where.
    start
        Values of parameters to begin with, by name, in place of those that are drawn.

    Attributes
    ----------
    model
        The model.
    passes
        What it goes over in an epoch.
    optimizers, generators
        By name.
    """

    def __init__(
        self,
        dataset: Dataset,
        settings: Settings,
        device: torch.device,
        splits: tuple[str, ...],
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.settings: Settings = settings
        self.device: torch.device = device
        self.splits: tuple[str, ...] = splits
        self.model: GradientRecommender = self.make_model(dataset)
        if start is not None:
            begin_with(self.model, start)
        self.prepare()
        streams = (BATCHES, *self.model.streams)
        self.generators: dict[str, torch.Generator] = {
            name: torch_generator(settings.run.seed, name, device) for name in streams
        }
        self.passes: tuple[Pass, ...] = self.make_passes()
        self.optimizers: dict[str, torch.optim.Optimizer] = self.model.optimizers(settings.training.lr)
        self._steps: dict[str, Step] = {}

    def make_model(self, dataset: Dataset) -> GradientRecommender:
        """The model as it is before training."""
        model = build_model(dataset, self.settings, self.device, self.splits)
        assert isinstance(model, GradientRecommender)
        return model

    def prepare(self) -> None:
        """Have the model compute what is not learned."""
        self.model.prepare()

    def make_passes(self) -> tuple[Pass, ...]:
        """What an epoch goes over."""
        training: TrainingSettings = self.settings.training
        return tuple(self.model.passes(training, self.generators))

    def __len__(self) -> int:
        """Steps an epoch."""
        return sum(len(each.batches) for each in self.passes)

    def set_learning_rate(self, lr: float) -> None:
        """Change the learning rate of all optimizers."""
        for optimizer in self.optimizers.values():
            set_learning_rate(optimizer, lr)

    def step(self, each: Pass) -> Step:
        """What makes a step of a pass; the same for all epochs, since a CUDA graph is recorded once."""
        if each.name not in self._steps:
            self._steps[each.name] = make_step(
                each.loss, self.optimizers[each.optimizer], each.batches.largest, self.generators, self.device,
                graphs=graph_choice(self.settings, self.device, own_code=bool(self.model.own_updates)),
            )  # fmt: skip
        return self._steps[each.name]

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the model."""
        return self.model.parameters()

    def finite(self) -> bool:
        """Whether no parameter is NaN or infinite."""
        return all(bool(parameter.isfinite().all()) for parameter in self.parameters())


@torch.no_grad()
def begin_with(model: GradientRecommender, start: Mapping[str, Tensor]) -> None:
    """Give parameters the values of ``start``.

    Raises
    ------
    CheckpointError
        If they are not those of such a model on this graph.
    """
    parameters = dict(model.named_parameters())
    try:
        require_tensors(start, {name: (value.shape, value.dtype) for name, value in parameters.items()})
    except ValueError as error:
        raise CheckpointError(f"what training begins with does not fit the model: {error}; update again") from error
    for name, value in start.items():
        parameters[name].copy_(value)


def graph_choice(settings: Settings, device: torch.device, *, own_code: bool = False) -> GraphChoice:
    """Whether steps of these settings are recorded as CUDA graphs; those of models without the setting are not.

    Raises
    ------
    ConfigError
        If they are to be where they cannot be.
    """
    values = settings.values()
    wanted = values.get("cuda_graphs", False)
    return choose_cuda_graphs(wanted, values.get("kernels", "auto"), device, own_code=own_code)
