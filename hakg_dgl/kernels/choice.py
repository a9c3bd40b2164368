"""The one function that chooses who computes: a backend by name, or the fastest on a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from hakg_dgl.errors import ConfigError, MissingDependencyError
from hakg_dgl.kernels.interface import SparseBackend
from hakg_dgl.kernels.numba_version import INSTALL_NUMBA
from hakg_dgl.kernels.triton_version import INSTALL_TRITON

BACKENDS = ("torch", "dgl")
"""Those that run on a CPU too."""
NAMES = (*BACKENDS, "numba", "triton")
TRITON_CAPABILITY = (8, 0)
"""Compute capability from which Triton supports NVIDIA GPUs (Ampere)."""


NUMBA_FROM_EDGES = 20_000
"""Messages of a step from which ``auto`` is Numba's on a CPU: fewer would not repay compiling the kernels."""


@dataclass(frozen=True)
class BackendChoice:
    """Which backend ``kernels = auto`` runs on a device, and why.

    Attributes
    ----------
    name
        ``torch``, ``dgl``, ``numba`` or ``triton``.
    reason
        A sentence.
    faster
        What to install for a faster one, None where this is the fastest there is.
    """

    name: str
    reason: str
    faster: str | None = None


def explain_backend(device: torch.device | str = "cpu", n_messages: int = NUMBA_FROM_EDGES) -> BackendChoice:
    """The backend that ``auto`` is on this device.

    On CUDA Triton's, else DGL's, else PyTorch's; on a CPU Numba's for many hyperbolic messages, else PyTorch's.

    Parameters
    ----------
    device
        A CUDA device is asked for its capability, so it must be there.
    n_messages
        Edges of the graph that pass relation-transitive messages, which is what Numba's kernels are for.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return _on_cpu(n_messages) if device.type == "cpu" else BackendChoice("torch", "PyTorch supports this device")
    problem, faster = _triton_problem(device)
    if problem is None:
        return BackendChoice("triton", "Triton is installed: fused kernels")
    if _dgl_has_cuda():
        return BackendChoice("dgl", f"{problem}; DGL is built with CUDA", faster)
    return BackendChoice("torch", f"{problem}, and DGL is not built with CUDA", faster)


def _on_cpu(n_messages: int) -> BackendChoice:
    many = f"hyperbolic messages of at least {NUMBA_FROM_EDGES} edges"
    if n_messages < NUMBA_FROM_EDGES:
        return BackendChoice("torch", f"PyTorch's own operators; Numba's kernels are for {many}")
    try:
        import hakg_dgl.kernels.numba_backend  # noqa: F401
    except ImportError as error:
        return BackendChoice("torch", str(error).partition("\n")[0], INSTALL_NUMBA)
    return BackendChoice("numba", f"Numba is installed: kernels compiled for this processor, for {many}")


def explain_cuda_graphs(kernels: str = "auto", device: torch.device | str = "cpu") -> str | None:
    """Why a training step cannot be recorded as a CUDA graph with these kernels on this device; None where it can.

    A recording fixes all shapes, so only a :class:`FusedBackend` on CUDA will do.

    Parameters
    ----------
    kernels
        The setting: the name of a backend, ``auto`` or ``readable``.
    device
        As in :func:`explain_backend`.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return f"the device is {device.type!r}, and CUDA graphs need device = 'cuda'"
    name = explain_backend(device).name if kernels == "auto" else kernels
    if name != "triton":
        chosen = f"'auto', which is {name!r} here" if kernels == "auto" else repr(name)
        return f"kernels = {chosen}, and CUDA graphs need kernels = 'triton', whose shapes are known beforehand"
    return None


@dataclass(frozen=True)
class GraphChoice:
    """Whether the steps of a training are recorded as a CUDA graph, and why.

    Attributes
    ----------
    recorded
        Whether they are.
    required
        Whether it is an error if they turn out not to be recordable; else they are then made one by one.
    reason
        A sentence without its end.
    """

    recorded: bool
    required: bool
    reason: str


def choose_cuda_graphs(
    wanted: bool | Literal["auto"], kernels: str = "auto", device: torch.device | str = "cpu", *, own_code: bool = False
) -> GraphChoice:
    """Whether to record steps, for a value of the setting ``cuda_graphs``.

    Parameters
    ----------
    wanted
        The setting. With ``auto`` they are recorded where they can be.
    kernels, device
        As in :func:`explain_cuda_graphs`.
    own_code
        Whether functions that are not the package's take part in a step: nobody knows whether they ask the device for
        something, so ``auto`` leaves such a step as it is.

    Raises
    ------
    ConfigError
        If ``wanted`` is true where that cannot be.
    """
    if wanted is False:
        return GraphChoice(False, False, "cuda_graphs = false")
    problem = explain_cuda_graphs(kernels, device)
    if wanted is True:
        if problem is not None:
            raise ConfigError(f"cuda_graphs = true, but {problem}; set cuda_graphs = auto or false")
        return GraphChoice(True, True, "cuda_graphs = true")
    if problem is None and own_code:
        problem = "the model has update functions of its own; cuda_graphs = true tries it with them"
    return GraphChoice(problem is None, False, problem or "cuda_graphs = auto, and a step can be recorded here")


def _triton_problem(device: torch.device) -> tuple[str | None, str | None]:
    """Why Triton's kernels do not run on this CUDA device, and what to install; both None where they do."""
    capability = torch.cuda.get_device_capability(device)
    if torch.version.hip is None and capability < TRITON_CAPABILITY:
        return "Triton needs compute capability {}.{}, this GPU has {}.{}".format(*TRITON_CAPABILITY, *capability), None
    try:
        import hakg_dgl.kernels.triton_backend  # noqa: F401
    except ImportError as error:
        return str(error).partition("\n")[0], INSTALL_TRITON
    return None, None


def _dgl_has_cuda() -> bool:
    try:
        from hakg_dgl.graph.dgl_gate import dgl_has_cuda
    except (MissingDependencyError, ConfigError):
        return False
    return dgl_has_cuda()


def choose_backend(name: str = "auto", device: torch.device | str = "cpu", *, n_messages: int = 0) -> SparseBackend:
    """The backend of this name for a device; ``auto`` is that of :func:`explain_backend`.

    Sparse products alone, without ``n_messages``, are PyTorch's on a CPU: Numba's backend has no others.

    Raises
    ------
    ConfigError
        For a name that is not a backend, or one that does not run on the device.
    MissingDependencyError
        If the backend's library cannot be imported.
    """
    if name == "auto":
        name = explain_backend(device, n_messages).name
    if name == "torch":
        from hakg_dgl.kernels.torch_backend import TorchBackend

        return TorchBackend()
    if name == "dgl":
        from hakg_dgl.kernels.dgl_backend import DGLBackend

        return DGLBackend()
    if name == "numba":
        from hakg_dgl.kernels.numba_backend import NumbaBackend

        return NumbaBackend(device)
    if name == "triton":
        from hakg_dgl.kernels.triton_backend import TritonBackend

        return TritonBackend(device)
    raise ConfigError(f"there is no kernel backend {name!r}; the backends are auto, {', '.join(NAMES)}")
