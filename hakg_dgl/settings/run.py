"""Where and how a run is computed: seed, device, numeric type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from hakg_dgl.settings.section import Range, Section, TrainingOnly

Device: TypeAlias = Literal["auto", "cpu", "cuda"]
Dtype: TypeAlias = Literal["float32", "float64"]
CudaGraphs: TypeAlias = Literal["auto", True, False]
Kernels: TypeAlias = Literal["auto", "readable", "torch", "dgl", "numba", "triton"]


@dataclass(frozen=True)
class RunSettings(Section):
    """What every run has.

    Attributes
    ----------
    seed
        The one seed from which all random numbers follow; a model that draws none records it all the same.
    device
        ``auto`` is a GPU if there is one.
    """

    seed: Annotated[int, Range(0, 2**63 - 1), TrainingOnly()] = 2020
    device: Annotated[Device, TrainingOnly()] = "auto"


@dataclass(frozen=True)
class NumericSettings(RunSettings):
    """A run whose model has a numeric type.

    Attributes
    ----------
    dtype
        ``float32`` or ``float64``: of parameters and scores.
    """

    dtype: Dtype = "float32"


@dataclass(frozen=True)
class GradientRunSettings(NumericSettings):
    """A run that is trained by gradients.

    Attributes
    ----------
    tensorboard
        Also write event files to the run folder.
    """

    tensorboard: Annotated[bool, TrainingOnly()] = False


@dataclass(frozen=True)
class RecordedRunSettings(GradientRunSettings):
    """A run whose steps can be recorded.

    Attributes
    ----------
    cuda_graphs
        Record a training step once as a CUDA graph and play it again for each batch, which needs ``kernels = triton``
        on CUDA: ``auto`` where that can be, true or an error, or not at all. No number depends on it.
    """

    cuda_graphs: Annotated[CudaGraphs, TrainingOnly()] = "auto"
