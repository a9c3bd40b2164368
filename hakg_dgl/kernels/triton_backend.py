"""Triton's sparse products, and the stages of a training step that it computes in one pass each."""

from __future__ import annotations

import weakref

import torch
from packaging.version import Version
from torch import Tensor

from hakg_dgl.errors import ConfigError, MissingDependencyError
from hakg_dgl.geometry.message import MessageRule
from hakg_dgl.graph.packed import Grouping, KnowledgePattern
from hakg_dgl.kernels.propagation import Chance, Propagation, Start, Weights
from hakg_dgl.kernels.triton_version import INSTALL_TRITON, OLDEST_TRITON

try:
    import triton
except ImportError as error:
    raise MissingDependencyError(
        f"kernels = 'triton' needs Triton, which cannot be imported: {error}\n"
        f"Install it with: {INSTALL_TRITON}, or set kernels = auto."
    ) from error
if Version(triton.__version__) < Version(OLDEST_TRITON):
    raise MissingDependencyError(
        f"kernels = 'triton' needs Triton {OLDEST_TRITON} or newer, this is {triton.__version__}\n"
        f"Install it with: {INSTALL_TRITON}, or set kernels = auto."
    )

from hakg_dgl.kernels.triton_kernels import aggregation, gate, negatives, products, propagation
from hakg_dgl.kernels.triton_losses import TritonLosses

INTERPRETED = not isinstance(products.combine_kernel, triton.JITFunction)
"""Whether Triton's interpreter runs the kernels, as ``TRITON_INTERPRET=1`` makes it: on a CPU too, but slowly."""


class TritonBackend(TritonLosses):
    """See :class:`~hakg_dgl.kernels.interface.FusedBackend`, and its base for the losses.

    It runs on CUDA, and in Triton's interpreter on any device.

    Results are the same bits every time: no sum is made by atomic additions.

    Parameters
    ----------
    device
        Where it shall run.

    Raises
    ------
    ConfigError
        If Triton's kernels do not run there.
    """

    name = "triton"

    def __init__(self, device: torch.device | str = "cuda") -> None:
        if not INTERPRETED and torch.device(device).type != "cuda":
            raise ConfigError(
                f"kernels = 'triton' runs on a CUDA device, not on {torch.device(device).type!r}: "
                "use --device cuda, or kernels = auto. (TRITON_INTERPRET=1 runs it on a CPU: a test, and slow.)"
            )
        super().__init__()
        self._layouts: weakref.WeakKeyDictionary[Propagation, propagation.Layout] = weakref.WeakKeyDictionary()
        self._grouped: tuple[weakref.ref[Tensor], int, negatives.ByItem] | None = None

    def dot(self, by_row: Grouping, cols: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """SDDMM: a program for each 256 edges of a row."""
        return products.dot(by_row, cols, x, y)

    def weighted_sum(self, by_row: Grouping, cols: Tensor, weights: Tensor | None, y: Tensor) -> Tensor:
        """SpMM: a program for each 256 edges of a row; those of weight zero are not loaded."""
        return products.weighted_sum(by_row, cols, weights, y)

    def relation_transitive_mean(
        self, graph: KnowledgePattern, entity: Tensor, relation: Tensor, rule: MessageRule, *, bfloat16: bool = False
    ) -> Tensor:
        """Messages and their mean in one pass over the edges."""
        return aggregation.relation_transitive_mean(graph, entity, relation, rule, bfloat16=bfloat16)

    def hinge_over_negatives(self, x: Tensor, z: Tensor, drawn: Tensor, margin: float, count_floor: float) -> Tensor:
        """Cosines, hinge and the gradient of x in one pass over the negatives."""
        return negatives.hinge_over_negatives(x, z, drawn, self._by_item(drawn, len(z)), margin, count_floor)

    def gated_items(self, item: Tensor, entity: Tensor, gate_item: Tensor, gate_entity: Tensor) -> Tensor:
        """Both products, the sigmoid and the mixture in one kernel."""
        return gate.gated_items(item, entity, gate_item, gate_entity)

    def propagates(self, form: Propagation) -> bool:
        """Where there are edges of both kinds, fewer than 32 bits count."""
        return propagation.Layout.fits(form)

    def propagate(
        self,
        form: Propagation,
        start: Start,
        weights: Weights,
        *,
        n_layers: int,
        n_heads: int,
        factor: float = 1.0,
        chance: Chance | None = None,
    ) -> Start:
        """Five launches a layer, and seven on the way back."""
        if form not in self._layouts:
            self._layouts[form] = propagation.Layout(form, start.item is not None, start.user.detach())
        return propagation.propagate(self._layouts[form], start, weights, n_layers, n_heads, factor, chance)

    def _by_item(self, drawn: Tensor, n_items: int) -> negatives.ByItem:
        """The grouping of a batch's negatives, made once for both tables of items."""
        if self._grouped is not None:
            seen, version, grouped = self._grouped
            if seen() is drawn and version == drawn._version and len(grouped.indptr) == n_items + 1:
                return grouped
        grouped = negatives.group_by_item(drawn, n_items)
        self._grouped = weakref.ref(drawn), drawn._version, grouped
        return grouped
