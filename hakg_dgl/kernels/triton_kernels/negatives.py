"""The hinge over negatives in one pass.

A user's program gathers the rows of its negatives once: the cosines, the hinge, the count of active negatives and the
sum of their rows, which is the gradient of the user up to a factor, all come from the same tile in registers. The
gradient of the items is a weighted sum over the negatives grouped by item, in which only active ones are loaded.
Shapes never depend on how many are active, so nothing is read back from the device.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hakg_dgl.graph.packed import Grouping
from hakg_dgl.kernels.triton_kernels.products import accumulator, tile_shape, weighted_sum


@triton.jit
def _hinge_kernel(
    x, z, negatives, active, loss, inverse, pulled, n_negatives, dim, MARGIN: tl.constexpr, COUNT_FLOOR: tl.constexpr,
    ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    # Both numbers are constants of the program: as arguments they would be float32.
    row = tl.program_id(0).to(tl.int64)
    dims = tl.arange(0, DIMS)
    within = dims < dim
    own = tl.load(x + row * dim + dims, mask=within, other=0.0).to(SUM)
    excess = tl.zeros([ROWS], dtype=SUM)
    count = tl.zeros([ROWS], dtype=SUM)
    total = tl.zeros([ROWS, DIMS], dtype=SUM)
    for start in range(0, n_negatives, ROWS):
        place = start + tl.arange(0, ROWS)
        live = place < n_negatives
        item = tl.load(negatives + row * n_negatives + place, mask=live, other=0).to(tl.int64)
        tile = tl.load(z + item[:, None] * dim + dims[None, :], mask=live[:, None] & within[None, :], other=0.0).to(SUM)
        cosine = tl.sum(tile * own[None, :], 1)
        counts = live & (cosine > MARGIN)
        tl.store(active + row * n_negatives + place, counts.to(tl.int8), mask=live)
        excess += tl.where(counts, cosine - MARGIN, 0.0)
        count += tl.where(counts, 1.0, 0.0)
        total += tl.where(counts[:, None], tile, 0.0)
    share = 1.0 / (tl.sum(count, 0) + COUNT_FLOOR)
    tl.store(loss + row, tl.sum(excess, 0) * share)
    tl.store(inverse + row, share)
    tl.store(pulled + row * dim + dims, tl.sum(total, 0) * share, mask=within)


class ByItem(NamedTuple):
    """Negatives grouped by item: the places of item i are ``indptr[i]`` to ``indptr[i + 1]``.

    Attributes
    ----------
    indptr
        int64 ``[n_items + 1]``.
    place
        int64 ``[batch * n_negatives]``, places in the flattened negatives.
    row
        int64, row of the batch of each.
    """

    indptr: Tensor
    place: Tensor
    row: Tensor


def group_by_item(negatives: Tensor, n_items: int) -> ByItem:
    """Group negatives, int64 ``[batch, n_negatives]``; a stable sort of 32-bit keys, without asking the device."""
    item, place = torch.sort(negatives.reshape(-1).int(), stable=True)
    bounds = torch.arange(n_items + 1, dtype=item.dtype, device=item.device)
    return ByItem(torch.searchsorted(item, bounds), place, torch.div(place, negatives.shape[1], rounding_mode="floor"))


class _Hinge(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, z: Tensor, negatives: Tensor, by_item: ByItem, margin: float, count_floor: float
    ) -> Tensor:
        n_rows, k = negatives.shape
        dtype, total = accumulator(x.dtype)
        active = torch.empty(negatives.shape, dtype=torch.int8, device=x.device)
        loss, inverse = x.new_empty(n_rows, dtype=dtype), x.new_empty(n_rows, dtype=dtype)
        pulled = x.new_empty(x.shape, dtype=dtype)
        tile = tile_shape(x.shape[1], 2048)
        if n_rows:
            _hinge_kernel[(n_rows,)](
                x.contiguous(), z.contiguous(), negatives.contiguous(), active, loss, inverse, pulled,
                k, x.shape[1], MARGIN=margin, COUNT_FLOOR=count_floor,
                ROWS=tile.rows, DIMS=tile.dims, SUM=total, num_warps=tile.warps,
            )  # fmt: skip
        ctx.save_for_backward(x, active, inverse, pulled, *by_item)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        x, active, inverse, pulled, indptr, place, row = ctx.saved_tensors
        weights = (grad * inverse).index_select(0, row).mul_(active.view(-1).index_select(0, place))
        return grad.unsqueeze(1) * pulled, weighted_sum(Grouping(indptr, None), row, weights, x), None, None, None, None


def hinge_over_negatives(
    x: Tensor, z: Tensor, negatives: Tensor, by_item: ByItem, margin: float, count_floor: float
) -> Tensor:
    r"""Sum of the negatives' excesses over the margin, divided by how many exceed it.

    :math:`S_b = \sum_j \max(0, \langle x_b, z_j\rangle - m) / (f + |\{j : \langle x_b, z_j\rangle > m\}|)`

    Parameters
    ----------
    x, z
        ``[batch, d]`` and ``[n_items, d]``, float32 or float64.
    negatives
        int64 ``[batch, n_negatives]``, of items below 2^31.
    by_item
        :func:`group_by_item` of them.
    margin, count_floor
        m and f.

    Returns
    -------
    Tensor
        ``[batch]``, differentiable in x and z; values and gradients are the same bits every time.
    """
    result: Tensor = _Hinge.apply(x, z, negatives, by_item, margin, count_floor)
    return result
