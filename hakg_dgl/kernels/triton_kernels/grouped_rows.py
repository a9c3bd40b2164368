"""Rows of a batch, grouped by an id and added up in the order of the batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hakg_dgl.kernels.triton_kernels.products import tile_shape


class ById(NamedTuple):
    """Places grouped by their id: those of id i are ``order[indptr[i]:indptr[i + 1]]``, ascending.

    Attributes
    ----------
    indptr
        int64 ``[n_ids + 1]``.
    order
        int64 ``[n]``.
    ids
        int32 ``[n]``, sorted: that of each place in ``order``.
    """

    indptr: Tensor
    order: Tensor
    ids: Tensor


class Grouper:
    """Groups ids by a stable sort of 32 bits, without asking the device.

    What depends on the number of ids alone is made once and kept as long as the grouper: a CUDA graph reads it where it
    lies.
    """

    def __init__(self) -> None:
        self._bounds: dict[tuple[int, torch.device], Tensor] = {}

    def __call__(self, ids: Tensor, n_ids: int) -> ById:
        """Group places by ``ids``, int64 of any shape, below ``n_ids`` and 2^31."""
        key = n_ids, ids.device
        if key not in self._bounds:
            self._bounds[key] = torch.arange(n_ids + 1, dtype=torch.int32, device=ids.device)
        found, order = torch.sort(ids.reshape(-1).int(), stable=True)
        return ById(torch.searchsorted(found, self._bounds[key]), order, found)


@triton.jit
def _rows_kernel(indptr, order, rows, scale, out, dim, ROWS: tl.constexpr, DIMS: tl.constexpr):
    group = tl.program_id(0).to(tl.int64)
    dims = tl.arange(0, DIMS)
    within = dims < dim
    begin, end = tl.load(indptr + group), tl.load(indptr + group + 1)
    total = tl.zeros([ROWS, DIMS], dtype=tl.float32)
    for start in range(begin, end, ROWS):
        place = start + tl.arange(0, ROWS)
        live = place < end
        source = tl.load(order + place, mask=live, other=0)
        total += tl.load(rows + source[:, None] * dim + dims[None, :], mask=live[:, None] & within[None, :], other=0.0)
    tl.store(out + group * dim + dims, tl.sum(total, 0) * tl.load(scale), mask=within)


def sum_rows(by_id: ById, rows: Tensor, scale: Tensor) -> Tensor:
    """Sum of the rows of each id times a number: float32 ``[n, d] -> [n_ids, d]``; the same bits every time.

    A program adds up all rows of an id, so this is for ids that occur a few times each.

    Parameters
    ----------
    by_id
        Of the rows.
    rows
        Contiguous.
    scale
        A scalar on the device.
    """
    n_ids, dim, tile = len(by_id.indptr) - 1, rows.shape[1], tile_shape(rows.shape[1], 512)
    out = rows.new_empty(n_ids, dim)
    if n_ids:
        _rows_kernel[(n_ids,)](
            by_id.indptr, by_id.order, rows, scale, out, dim, ROWS=tile.rows, DIMS=tile.dims, num_warps=tile.warps
        )
    return out
