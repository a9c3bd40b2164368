"""The sparse products that everything fast is made of, and the one function that chooses who computes them.

Three products over a :class:`~hakg_dgl.graph.packed.SparsePattern`, none of which makes an ``[n_edges, d]``
temporary. Backends implement them without gradients; :mod:`hakg_dgl.kernels.products` adds those once for all.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from hakg_dgl.errors import ConfigError
from hakg_dgl.graph.packed import Grouping

BACKENDS = ("torch", "dgl")


class SparseBackend(Protocol):
    """Products over edges grouped by a row; float32 or float64, any device the backend supports."""

    name: str

    def dot(self, by_row: Grouping, cols: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """SDDMM: ``<x[row], y[col]>`` of each edge.

        Parameters
        ----------
        by_row
            Edges grouped by row, already in row order (``order`` is not read).
        cols
            Column of each edge, int64 ``[n_edges]``, in row order.
        x, y
            ``[n_rows, d]`` and ``[n_cols, d]``.

        Returns
        -------
        Tensor
            ``[n_edges]``, in row order.
        """
        ...

    def weighted_sum(self, by_row: Grouping, cols: Tensor, weights: Tensor | None, y: Tensor) -> Tensor:
        """SpMM: for each row the sum of ``weights * y[col]`` over its edges; zero rows where there are none.

        Arguments as in :meth:`dot`; ``weights`` is ``[n_edges]`` in row order, or None for ones. ``[n_rows, d]``.
        """
        ...


def choose_backend(name: str = "auto") -> SparseBackend:
    """The backend of this name; ``auto`` is PyTorch's own operators, the fastest on CPU wherever measured.

    Raises
    ------
    ConfigError
        For a name that is not a backend.
    MissingDependencyError
        If the backend's library cannot be imported.
    """
    if name in ("auto", "torch"):
        from hakg_dgl.kernels.torch_backend import TorchBackend

        return TorchBackend()
    if name == "dgl":
        from hakg_dgl.kernels.dgl_backend import DGLBackend

        return DGLBackend()
    raise ConfigError(f"there is no kernel backend {name!r}; the backends are auto, {', '.join(BACKENDS)}")
