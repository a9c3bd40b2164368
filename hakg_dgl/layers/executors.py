"""Which executor runs the layers of a model."""

from __future__ import annotations

from hakg_dgl.errors import ConfigError, MissingDependencyError
from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.layers.batch_executor import BatchExecutor
from hakg_dgl.layers.execution import Executor
from hakg_dgl.layers.packed_executor import PackedExecutor


def make_executor(
    graph: HeteroGraph, kernels: str = "auto", *, bfloat16: bool = False, n_messages: int = 0
) -> Executor:
    """The executor of the setting ``kernels`` for a graph, on the graph's device.

    Parameters
    ----------
    graph
        What messages are passed on.
    kernels
        ``readable`` calls every update function on batches of edges: by DGL where it is there and runs on the device,
        else by the package itself. Other values choose the backend of the packed executor; see
        :func:`~hakg_dgl.kernels.choice.choose_backend`.
    bfloat16
        Whether the tables that are gathered are bfloat16; of no effect with ``readable``.
    n_messages
        Edges that pass relation-transitive messages; ``auto`` depends on it.

    Raises
    ------
    ConfigError
        If the kernels do not run on the graph's device.
    MissingDependencyError
        If the library of the kernels cannot be imported.
    """
    if kernels != "readable":
        return PackedExecutor(graph, choose_backend(kernels, graph.device, n_messages=n_messages), bfloat16=bfloat16)
    try:
        from hakg_dgl.graph.dgl_gate import dgl_has_cuda
    except (MissingDependencyError, ConfigError):
        return BatchExecutor(graph, choose_backend("auto", graph.device))
    if graph.device.type != "cpu" and not dgl_has_cuda():
        return BatchExecutor(graph, choose_backend("auto", graph.device))
    from hakg_dgl.layers.dgl_executor import DGLExecutor

    return DGLExecutor(graph)
