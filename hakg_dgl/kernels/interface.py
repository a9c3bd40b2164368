"""The sparse products that everything fast is made of, as interfaces.

Three products over a :class:`~hakg_dgl.graph.packed.SparsePattern`, none of which makes an ``[n_edges, d]``
temporary. Backends implement them without gradients; :mod:`hakg_dgl.kernels.products` adds those once for all, and
:mod:`hakg_dgl.kernels.choice` chooses the backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from hakg_dgl.geometry.message import MessageRule
from hakg_dgl.graph.packed import Grouping, KnowledgePattern, SparsePattern
from hakg_dgl.kernels.propagation import Chance, Propagation, Start, Weights


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


@runtime_checkable
class CompiledBackend(SparseBackend, Protocol):
    """A backend that also computes some stages of a training step in passes of its own, differentiably."""

    def mean_on_unit_ball(self, graph: KnowledgePattern, entity: Tensor, relation: Tensor, rule: MessageRule) -> Tensor:
        """See :func:`hakg_dgl.kernels.aggregation.relation_transitive_mean`, for the ball of curvature -1."""
        ...

    def normalised(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Rows of x, ``[n, d]``, zero where ``mask`` (bool, or None) is false, over their norms floored at 1e-12."""
        ...

    def mean_cone_excess(
        self, pairs: SparsePattern, entity: Tensor, kept: Tensor | None, rule: MessageRule, *,
        both: bool, aperture: float,
    ) -> Tensor:  # fmt: skip
        """See :class:`~hakg_dgl.layers.losses.AngleLoss`; of the coordinates that are kept, bool ``[d]`` or None."""
        ...


@runtime_checkable
class FusedBackend(SparseBackend, Protocol):
    """A backend that also computes whole stages of a training step, differentiably and without asking the device.

    It reads a :class:`~hakg_dgl.graph.packed.Grouping` by its bounds alone, so patterns may be padded
    (:class:`~hakg_dgl.graph.packed.Kept`).
    """

    def relation_transitive_mean(
        self, graph: KnowledgePattern, entity: Tensor, relation: Tensor, rule: MessageRule, *, bfloat16: bool = False
    ) -> Tensor:
        """See :func:`hakg_dgl.kernels.aggregation.relation_transitive_mean`; ``bfloat16``: from tables of that type."""
        ...

    def hinge_over_negatives(self, x: Tensor, z: Tensor, drawn: Tensor, margin: float, count_floor: float) -> Tensor:
        """``[batch]``: for each row of x the sum of ``<x, z_j> - margin`` where positive, over count + ``count_floor``.

        ``x`` is ``[batch, d]``, ``z`` ``[n_items, d]``, ``drawn`` int64 ``[batch, n_negatives]``.
        """
        ...

    def gated_items(self, item: Tensor, entity: Tensor, gate_item: Tensor, gate_entity: Tensor) -> Tensor:
        """``g item + (1 - g) entity``, g = sigmoid(``item gate_item^T + entity gate_entity^T``); ``[n_items, d]``."""
        ...


@runtime_checkable
class PropagatingBackend(SparseBackend, Protocol):
    """A backend that also runs all layers of HAKG at once, differentiably."""

    def propagates(self, form: Propagation) -> bool:
        """Whether it can, on this graph."""
        ...

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
        """Running sums of the rows that leave each of the layers, those that enter the first one included.

        Parameters
        ----------
        form
            What a layer adds up.
        start, weights
            What enters the first layer, and what all layers share; float32 or float64.
        n_layers
            At least 1.
        n_heads
            Of how many entities sums are asked for: all, or the items.
        factor
            What a copy along an interaction is multiplied by.
        chance
            What a training step keeps; None for all.

        Returns
        -------
        Start
            The sums; entities ``[n_heads, d]``. Differentiable once in the tensors of ``start`` and ``weights``.
        """
        ...


class Taken(NamedTuple):
    """What says which items a user has; see :class:`~hakg_dgl.layers.sampling.NegativeSampler`.

    Attributes
    ----------
    bits
        uint8: a bit for each ``user * n_items + item``, folded by ``fold``.
    keys
        int64, ascending: these numbers of the items that users have, without users who have all.
    below
        int64, ascending: the same minus the place of the item among the user's.
    first, n_negatives
        int64 ``[n_users]``: place of the user's first key, and how many items the user lacks.
    fold
        Mask of the bits that there are.
    folded
        Whether several numbers share a bit.
    n_items
        Of the catalogue.
    """

    bits: Tensor
    keys: Tensor
    below: Tensor
    first: Tensor
    n_negatives: Tensor
    fold: int
    folded: bool
    n_items: int


@runtime_checkable
class LossBackend(SparseBackend, Protocol):
    """A backend that also computes the losses of a step, differentiably and without asking the device.

    Each does what the function of the same name in :mod:`hakg_dgl.layers.losses` does with PyTorch's operators.
    """

    def computes_losses_of(self, table: Tensor) -> bool:
        """Whether it does so for tables of this type and width."""
        ...

    def mean_cone_excess(
        self, pairs: SparsePattern, entity: Tensor, drawn: Tensor | None, rule: MessageRule, *,
        both: bool, aperture: float, dropout: float,
    ) -> Tensor:  # fmt: skip
        """See :class:`~hakg_dgl.layers.losses.AngleLoss`, whose mask is ``drawn >= dropout``, ``[d]``; a scalar."""
        ...

    def contrastive_loss(
        self, user: Tensor, tables: Sequence[Tensor], users: Tensor, positives: Tensor, negatives: Tensor,
        margin: float, count_floor: float,
    ) -> Tensor:  # fmt: skip
        """See :func:`~hakg_dgl.layers.losses.contrastive_loss`; of tables whose rows may have any length."""
        ...

    def softmax_loss(
        self, user: Tensor, item: Tensor, users: Tensor, positives: Tensor, known: tuple[Tensor, Tensor],
        rivals: Tensor | None, temperature: float,
    ) -> Tensor:  # fmt: skip
        """See :func:`~hakg_dgl.layers.losses.softmax_loss`; ``rivals`` ascending, or None for all items."""
        ...

    def pick_negatives(self, taken: Taken, users: Tensor, drawn: Tensor, again: Tensor, wide: Tensor) -> Tensor:
        """Of three draws for each place, ``[B, k]`` each, the first that its user, ``[B]``, does not have; int64.

        The third is by rank: ``wide`` modulo the number of the user's negatives.
        """
        ...
