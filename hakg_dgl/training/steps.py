"""A training step as the loop makes it: operator by operator, or recorded once as a CUDA graph and played again.

A step launches several hundred kernels, most of them short, and the processor needs longer to launch them than the GPU
to run them. A CUDA graph launches them all at once, on the memory they had when they were recorded: parameters and the
optimizer's state stay where they are, batches are copied into buffers of fixed size, and gradients live in
the graph's own memory. Nothing in a step may depend on what it computes, which the kernels for fixed shapes see to.

The numbers are those of the steps one by one. Nothing is computed for practice: the steps before the recording, during
which kernels are compiled and tables made, are steps of the training, and the recording itself computes nothing.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from hakg_dgl.errors import ConfigError
from hakg_dgl.kernels.choice import GraphChoice

WARM_UP_STEPS = 3
"""Steps made one by one before one is recorded, as PyTorch's notes on CUDA graphs advise."""
LOSSES_KEPT = 32
"""Steps after which a GPU's losses are read."""


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Change the learning rate; where it is a tensor, in place."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


class Step(Protocol):
    """A training step in two halves, so that a loss can be looked at before it changes the parameters."""

    def gradients(self, *batch: Tensor) -> Tensor:
        """Compute the gradients of a batch of tensors; its loss, detached, valid until the next call."""
        ...

    def update(self) -> None:
        """Change the parameters, if :meth:`gradients` has not done so already."""
        ...


class PlainStep:
    """One operator after the other; see :class:`Step`.

    Parameters
    ----------
    objective
        From the tensors of a batch to the loss.
    optimizer
        Of its parameters.
    """

    def __init__(self, objective: Callable[..., Tensor], optimizer: torch.optim.Optimizer) -> None:
        self.objective, self.optimizer = objective, optimizer

    def gradients(self, *batch: Tensor) -> Tensor:
        """See :meth:`Step.gradients`."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.objective(*batch)
        loss.backward()  # type: ignore[no-untyped-call]
        # Detached: what holds on to the last step's graph would tie its gradients to the stream it ran on.
        return loss.detach()

    def update(self) -> None:
        """See :meth:`Step.update`."""
        self.optimizer.step()


class UnrecordableError(RuntimeError):
    """A step holds something that cannot be recorded, or there is no memory for a recording."""


class Recorder(Protocol):
    """How a step without arguments is recorded."""

    def warm_up(self, step: Callable[[], Tensor]) -> Tensor:
        """Run the step in the surroundings in which it will be recorded; what it returns."""
        ...

    def record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """What runs the step again, each time it is called; recording it runs nothing.

        Raises
        ------
        UnrecordableError
            If it cannot be recorded; nothing has changed then.
        """
        ...


class CapturedStep:
    """Whole steps, with the change of the parameters, played from a recording; see :class:`Step`.

    Batches of another size than the recorded one, as the last of an epoch often is, are made by the plain step.

    Parameters
    ----------
    plain
        Makes the steps that are recorded.
    size
        Of the batches to record.
    recorder
        How.
    required
        Whether a step that cannot be recorded is an error; else it is made as before, with a warning.
    """

    def __init__(self, plain: PlainStep, size: int, recorder: Recorder, *, required: bool = True) -> None:
        self.plain: PlainStep = plain
        self.size: int = size
        self.recorder: Recorder = recorder
        self.required: bool = required
        self._batch: tuple[Tensor, ...] | None = None
        self._replay: Callable[[], Tensor] | None = None
        self._warm, self._updated = 0, True

    def gradients(self, *batch: Tensor) -> Tensor:
        """See :meth:`Step.gradients`; the parameters are changed too, unless the batch has another size.

        Raises
        ------
        ConfigError
            If the step cannot be recorded, and that is required.
        """
        self._updated = len(batch[0]) == self.size
        if not self._updated:
            return self.plain.gradients(*batch)
        if self._batch is None:
            self._batch = tuple(torch.empty_like(part) for part in batch)
        for buffer, part in zip(self._batch, batch, strict=True):
            buffer.copy_(part)
        if self._warm < WARM_UP_STEPS:
            self._warm += 1
            return self.recorder.warm_up(self._whole)
        if self._replay is None:
            self._replay = self._recorded()
        return self._replay()

    def _recorded(self) -> Callable[[], Tensor]:
        """What makes further steps: a recording, or where there can be none, the step itself."""
        self.plain.optimizer.zero_grad(set_to_none=True)  # gradients are made in the recording's own memory
        try:
            return self.recorder.record(self._whole)
        except UnrecordableError as error:
            if self.required:
                raise ConfigError(
                    f"cuda_graphs = true, but this step cannot be recorded as a CUDA graph: {error}\n"
                    "Set cuda_graphs = auto or false."
                ) from error
            warnings.warn(
                f"this step cannot be recorded as a CUDA graph: {error}\nTraining goes on without; "
                "cuda_graphs = false says so from the start.", RuntimeWarning, stacklevel=2,
            )  # fmt: skip
            return partial(self.recorder.warm_up, self._whole)

    def update(self) -> None:
        """See :meth:`Step.update`."""
        if not self._updated:
            self.plain.update()
            self._updated = True

    def _whole(self) -> Tensor:
        assert self._batch is not None
        loss = self.plain.gradients(*self._batch)
        self.plain.update()
        return loss


class CUDARecorder:
    """Records steps as a CUDA graph; see :class:`Recorder`.

    Parameters
    ----------
    optimizer
        Of the steps.
    generators
        All that the steps draw from; they go on from one replay to the next as from one step to the next.
    device
        A CUDA device.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, generators: Mapping[str, torch.Generator], device: torch.device
    ) -> None:
        self.optimizer = optimizer
        self.generators: Mapping[str, torch.Generator] = generators
        self.device: torch.device = device
        # One stream for the steps before the recording and the recording: libraries keep a workspace for each stream.
        self.stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def warm_up(self, step: Callable[[], Tensor]) -> Tensor:
        """See :meth:`Recorder.warm_up`: on the stream of the recording."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = step()
        current.wait_stream(self.stream)
        return result

    def record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See :meth:`Recorder.record`."""
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device)
        before = {name: generator.clone_state() for name, generator in self.generators.items()}
        for generator in self.generators.values():
            graph.register_generator_state(generator)
        gc.collect()  # another graph, or memory, given back while one is recorded would spoil it
        try:
            with self._capturable(), torch.cuda.graph(graph, stream=self.stream):
                result = step()
        except RuntimeError as error:
            # A spoiled recording leaves its stream, and its generators within the recording.
            torch.cuda.set_stream(current)
            for name, generator in self.generators.items():
                generator.graphsafe_set_state(before[name])
            self.optimizer.zero_grad(set_to_none=True)
            first = error.__context__ or error  # what ends a spoiled recording only says that it is spoiled
            raise UnrecordableError(str(first)) from error

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

    @contextmanager
    def _capturable(self) -> Iterator[None]:
        """The optimizer with the flag that it wants for a recording, and warns of in any other step."""
        for group in self.optimizer.param_groups:
            group["capturable"] = True
        try:
            yield
        finally:
            for group in self.optimizer.param_groups:
                group["capturable"] = False


class LossRing:
    """The losses of the last steps, on their device, read together: to read one is to wait for a GPU."""

    def __init__(self, size: int = LOSSES_KEPT) -> None:
        self.size: int = size
        self._count = 0
        self._values: Tensor | None = None

    def __len__(self) -> int:
        return self._count

    def append(self, loss: Tensor) -> None:
        """Copy a loss, a scalar, which may be overwritten afterwards."""
        if self._values is None:
            self._values = loss.new_empty(self.size)
        self._values[self._count].copy_(loss)
        self._count += 1

    def take(self) -> list[float]:
        """The losses since the last call, oldest first."""
        count, self._count = self._count, 0
        values: list[float] = [] if self._values is None else self._values[:count].tolist()
        return values


def make_step(
    objective: Callable[..., Tensor], optimizer: torch.optim.Optimizer, size: int,
    generators: Mapping[str, torch.Generator], device: torch.device, *, graphs: GraphChoice,
) -> Step:  # fmt: skip
    """A plain step, or one recorded as a CUDA graph at batches of ``size``; parameters as in the classes."""
    plain = PlainStep(objective, optimizer)
    if not graphs.recorded:
        return plain
    return CapturedStep(plain, size, CUDARecorder(optimizer, generators, device), required=graphs.required)
