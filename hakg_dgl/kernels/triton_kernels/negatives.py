"""The hinge over negatives and the gate of the items, each in one pass.

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

GATE_DIMS = 64
"""Largest d of the fused gate: both of its matrices lie in shared memory."""
_GATE_ROWS, _GATE_WARPS = 16, 8
"""Of each program; with more rows, or fewer warps, its products do not fit into registers."""


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


@triton.jit
def _gate(v, e, a, b):
    """sigmoid(v A^T + e B^T); IEEE products, since TF32 would keep three digits."""
    score = tl.dot(v, tl.trans(a), input_precision="ieee") + tl.dot(e, tl.trans(b), input_precision="ieee")
    return 1.0 / (1.0 + tl.exp(-score))


@triton.jit
def _square(matrix, dim, DIMS: tl.constexpr):
    dims = tl.arange(0, DIMS)
    inside = (dims[:, None] < dim) & (dims[None, :] < dim)
    return tl.load(matrix + dims[:, None] * dim + dims[None, :], mask=inside, other=0.0)


@triton.jit
def _gate_kernel(item, entity, gate_item, gate_entity, out, n_rows, dim, ROWS: tl.constexpr, DIMS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    dims = tl.arange(0, DIMS)
    inside = (row[:, None] < n_rows) & (dims[None, :] < dim)
    place = row[:, None] * dim + dims[None, :]
    v, e = tl.load(item + place, mask=inside, other=0.0), tl.load(entity + place, mask=inside, other=0.0)
    g = _gate(v, e, _square(gate_item, dim, DIMS), _square(gate_entity, dim, DIMS))
    tl.store(out + place, e + g * (v - e), mask=inside)


@triton.jit
def _gate_backward_kernel(
    item, entity, gate_item, gate_entity, grad, d_item, d_entity, d_score, n_rows, dim,
    ROWS: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    dims = tl.arange(0, DIMS)
    inside = (row[:, None] < n_rows) & (dims[None, :] < dim)
    place = row[:, None] * dim + dims[None, :]
    v, e = tl.load(item + place, mask=inside, other=0.0), tl.load(entity + place, mask=inside, other=0.0)
    upstream = tl.load(grad + place, mask=inside, other=0.0)
    a, b = _square(gate_item, dim, DIMS), _square(gate_entity, dim, DIMS)
    g = _gate(v, e, a, b)
    score = upstream * (v - e) * g * (1.0 - g)
    tl.store(d_score + place, score, mask=inside)
    tl.store(d_item + place, upstream * g + tl.dot(score, a, input_precision="ieee"), mask=inside)
    tl.store(d_entity + place, upstream * (1.0 - g) + tl.dot(score, b, input_precision="ieee"), mask=inside)


class _GatedItems(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, item: Tensor, entity: Tensor, gate_item: Tensor, gate_entity: Tensor) -> Tensor:
        tensors = [x.contiguous() for x in (item, entity, gate_item, gate_entity)]
        n_rows, dim = item.shape
        out, dims = torch.empty_like(tensors[0]), max(16, triton.next_power_of_2(dim))
        _gate_kernel[(triton.cdiv(n_rows, _GATE_ROWS),)](
            *tensors, out, n_rows, dim, ROWS=_GATE_ROWS, DIMS=dims, num_warps=_GATE_WARPS
        )
        ctx.save_for_backward(*tensors)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        item, entity, gate_item, gate_entity = ctx.saved_tensors
        n_rows, dim = item.shape
        d_item, d_entity, d_score = (torch.empty_like(item) for _ in range(3))
        _gate_backward_kernel[(triton.cdiv(n_rows, _GATE_ROWS),)](
            item, entity, gate_item, gate_entity, grad.contiguous(), d_item, d_entity, d_score, n_rows, dim,
            ROWS=_GATE_ROWS, DIMS=max(16, triton.next_power_of_2(dim)), num_warps=_GATE_WARPS,
        )  # fmt: skip
        return d_item, d_entity, d_score.T @ item, d_score.T @ entity


def gated_items(item: Tensor, entity: Tensor, gate_item: Tensor, gate_entity: Tensor) -> Tensor:
    r"""What users receive from items: :math:`g v + (1 - g) e` with :math:`g = \sigma(A v + B e)` (HAKG eqs. 8-9).

    Parameters
    ----------
    item, entity
        v and e, ``[n_items, d]``.
    gate_item, gate_entity
        A and B, ``[d, d]``.

    Returns
    -------
    Tensor
        ``[n_items, d]``, differentiable in all four. PyTorch's operators compute it in float64, for d above
        :data:`GATE_DIMS`, and for no items.
    """
    if item.dtype != torch.float32 or item.shape[1] > GATE_DIMS or len(item) == 0:
        return torch.lerp(entity, item, torch.sigmoid(item @ gate_item.T + entity @ gate_entity.T))
    result: Tensor = _GatedItems.apply(item, entity, gate_item, gate_entity)
    return result
