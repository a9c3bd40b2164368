"""The contrastive loss of a batch: cosines, both hinges and the users' gradient in one pass, the items' in another.

A program of the first pass has a pair of the batch. It gathers the rows of its user, its positive and its negatives
from the tables as propagation left them, of both embeddings of items, and divides by norms in registers: no table of
unit rows is made. What it writes is the pair's loss, the gradient of its user's row, and which of its negatives
count. The second pass adds up, for each item, the users of the places that drew it, positives among them, which are
sorted once for both tables. Long rows are cut as in :mod:`~hakg_dgl.kernels.triton_kernels.products`, but where the
further pieces lie follows from the bounds alone: a piece that begins at place q, at least :data:`PIECE` places after
its row does, covers all of the block of places that q lies in before q, so no two pieces lie in one block, and the
block's number is the piece's own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hakg_dgl.geometry import guards
from hakg_dgl.kernels.triton_kernels.grouped_rows import ById, sum_rows
from hakg_dgl.kernels.triton_kernels.products import PIECE, tile_shape

_FLOOR = tl.constexpr(guards.ROW_NORM_FLOOR)


class Batch(NamedTuple):
    """Ids of a batch, and the groupings that its gradients are summed by.

    Attributes
    ----------
    users
        int64 ``[batch]``.
    drawn
        int64 ``[batch, n + 1]``: n negatives of each user, then the positive.
    by_user
        Places of ``users`` by user.
    by_item
        Places of the flattened ``drawn`` by item.
    """

    users: Tensor
    drawn: Tensor
    by_user: ById
    by_item: ById


class Hinge(NamedTuple):
    """Cosine above which a negative counts, and what is added to how many do."""

    margin: float
    count_floor: float


@triton.jit
def _inverse_norm(squared):
    return 1.0 / tl.maximum(tl.sqrt(squared), _FLOOR)


@triton.jit
def _through_norm(grad, unit, inverse):
    """Gradient of a row from that of its unit row; of a row as short as the floor, which is divided by the floor."""
    along = tl.where(inverse < 1.0 / _FLOOR, tl.sum(grad * unit, 0), 0.0)
    return (grad - along * unit) * inverse


@triton.jit
def _contrast_kernel(
    user, first, second, users, drawn, loss, unit, pulled, active, share, n_negatives, dim, per_pair,
    MARGIN: tl.constexpr, COUNT_FLOOR: tl.constexpr, TABLES: tl.constexpr, ROWS: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    pair, n_pairs = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    dims = tl.arange(0, DIMS)
    within = dims < dim
    width = n_negatives + 1
    x = tl.load(user + tl.load(users + pair) * dim + dims, mask=within, other=0.0)
    inverse = _inverse_norm(tl.sum(x * x, 0))
    x = x * inverse
    missing = tl.sum(x, 0) * 0.0 + TABLES
    excess, grad, near = missing * 0.0, x * 0.0, x * 0.0
    positive = tl.load(drawn + pair * width + n_negatives)
    for number in tl.static_range(TABLES):
        table = first if number == 0 else second
        own = tl.load(table + positive * dim + dims, mask=within, other=0.0)
        own = own * _inverse_norm(tl.sum(own * own, 0))
        missing -= tl.sum(own * x, 0)
        near += own
        beyond = tl.zeros([ROWS], dtype=tl.float32)
        count = tl.zeros([ROWS], dtype=tl.float32)
        total = tl.zeros([ROWS, DIMS], dtype=tl.float32)
        at = number * n_pairs + pair
        for start in range(0, n_negatives, ROWS):
            place = start + tl.arange(0, ROWS)
            live = place < n_negatives
            item = tl.load(drawn + pair * width + place, mask=live, other=0)
            tile = tl.load(table + item[:, None] * dim + dims[None, :], mask=live[:, None] & within[None, :], other=0.0)
            length = _inverse_norm(tl.sum(tile * tile, 1))
            cosine = tl.sum(tile * x[None, :], 1) * length
            counts = live & (cosine > MARGIN)
            tl.store(active + at * n_negatives + place, counts.to(tl.int8), mask=live)
            beyond += tl.where(counts, cosine - MARGIN, 0.0)
            count += tl.where(counts, 1.0, 0.0)
            total += tl.where(counts, length, 0.0)[:, None] * tile
        each = 1.0 / (tl.sum(count, 0) + COUNT_FLOOR)
        excess += tl.sum(beyond, 0) * each
        grad += tl.sum(total, 0) * each
        tl.store(share + at, each * per_pair)
    pull = tl.where(missing >= 0.0, 1.0, 0.0)
    tl.store(share + TABLES * n_pairs + pair, -pull * per_pair)
    tl.store(loss + pair, (tl.maximum(missing, 0.0) + excess) * per_pair)
    tl.store(unit + pair * dim + dims, x, mask=within)
    tl.store(pulled + pair * dim + dims, _through_norm((grad - pull * near) * per_pair, x, inverse), mask=within)


@triton.jit
def _items_kernel(
    indptr, order, items, unit, active, share, out, extra, n_items, n_places, n_negatives, n_pairs, dim,
    TABLES: tl.constexpr, PIECE: tl.constexpr, ROWS: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """A program a row, and one a block of places for the piece that may begin there; a grid's row a table."""
    program, number = tl.program_id(0), tl.program_id(1).to(tl.int64)
    further = program >= n_items
    block = tl.maximum(program - n_items, 0).to(tl.int64)
    item = tl.where(further, tl.load(items + block * PIECE, mask=further, other=0).to(tl.int64), program.to(tl.int64))
    start, stop = tl.load(indptr + item), tl.load(indptr + item + 1)
    after = tl.where(further, block - start // PIECE, 0)
    begin = start + after * PIECE
    exists = (after > 0) & (begin < stop)
    end = tl.where(further & (after <= 0), begin, tl.minimum(begin + PIECE, stop))
    dims = tl.arange(0, DIMS)
    within = dims < dim
    width = n_negatives + 1
    total = tl.zeros([ROWS, DIMS], dtype=tl.float32)
    for first in range(begin, end, ROWS):
        at = first + tl.arange(0, ROWS)
        live = at < end
        place = tl.load(order + at, mask=live, other=0)
        pair = place // width
        column = place - pair * width
        drawn = live & (column < n_negatives)
        counts = tl.load(active + (number * n_pairs + pair) * n_negatives + column, mask=drawn, other=0) != 0
        live = live & (counts | (column == n_negatives))
        row = tl.where(column < n_negatives, number, TABLES) * n_pairs + pair
        weight = tl.load(share + row, mask=live, other=0.0)
        tile = tl.load(unit + pair[:, None] * dim + dims[None, :], mask=live[:, None] & within[None, :], other=0.0)
        total += weight[:, None] * tile
    result = tl.sum(total, 0)
    if program < n_items:
        tl.store(out + (number * n_items + item) * dim + dims, result, mask=within)
    elif exists:
        n_blocks = tl.num_programs(0) - n_items
        tl.store(extra + (number * n_blocks + block) * dim + dims, result, mask=within)


@triton.jit
def _finish_kernel(
    first, second, indptr, upstream, out, extra, n_items, n_blocks, dim, PIECE: tl.constexpr, DIMS: tl.constexpr
):
    """Add a row's further pieces to its first, and have the gradient of the unit row become that of the row."""
    item, number = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    dims = tl.arange(0, DIMS)
    within = dims < dim
    place = (number * n_items + item) * dim + dims
    start, stop = tl.load(indptr + item), tl.load(indptr + item + 1)
    total = tl.load(out + place, mask=within, other=0.0)
    block = start // PIECE
    more = tl.maximum(stop - start - 1, 0) // PIECE
    for further in range(block + 1, block + 1 + more):
        total += tl.load(extra + (number * n_blocks + further) * dim + dims, mask=within, other=0.0)
    if number == 0:
        row = tl.load(first + item * dim + dims, mask=within, other=0.0)
    else:
        row = tl.load(second + item * dim + dims, mask=within, other=0.0)
    inverse = _inverse_norm(tl.sum(row * row, 0))
    tl.store(out + place, _through_norm(total, row * inverse, inverse) * tl.load(upstream), mask=within)


class _Contrastive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, batch: Batch, hinge: Hinge, user: Tensor, *tables: Tensor) -> Tensor:
        user, tables = user.contiguous(), tuple(table.contiguous() for table in tables)
        (n_pairs, width), dim = batch.drawn.shape, user.shape[1]
        loss, unit, pulled = user.new_empty(n_pairs), user.new_empty(n_pairs, dim), user.new_empty(n_pairs, dim)
        active = torch.empty(len(tables), n_pairs, width - 1, dtype=torch.int8, device=user.device)
        share, tile = user.new_empty(len(tables) + 1, n_pairs), tile_shape(dim, 2048)
        _contrast_kernel[(n_pairs,)](
            user, tables[0], tables[-1], batch.users, batch.drawn, loss, unit, pulled, active, share,
            width - 1, dim, 1.0 / n_pairs, MARGIN=hinge.margin, COUNT_FLOOR=hinge.count_floor, TABLES=len(tables),
            ROWS=tile.rows, DIMS=tile.dims, num_warps=4 * tile.warps,
        )  # fmt: skip
        ctx.batch = batch
        ctx.save_for_backward(unit, pulled, active, share, *tables)
        return loss.sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unit, pulled, active, share, *tables = ctx.saved_tensors
        batch: Batch = ctx.batch
        (n_items, dim), (n_pairs, width), by_item = tables[0].shape, batch.drawn.shape, batch.by_item
        tile, n_blocks = tile_shape(dim, 512), triton.cdiv(n_pairs * width, PIECE)
        out = unit.new_empty(len(tables), n_items, dim)
        extra = unit.new_empty(len(tables), n_blocks, dim)
        _items_kernel[(n_items + n_blocks, len(tables))](
            by_item.indptr, by_item.order, by_item.ids, unit, active, share, out, extra,
            n_items, n_pairs * width, width - 1, n_pairs, dim,
            TABLES=len(tables), PIECE=PIECE, ROWS=tile.rows, DIMS=tile.dims, num_warps=2 * tile.warps,
        )  # fmt: skip
        _finish_kernel[(n_items, len(tables))](
            tables[0], tables[-1], by_item.indptr, grad, out, extra, n_items, n_blocks, dim,
            PIECE=PIECE, DIMS=tile.dims, num_warps=1,
        )  # fmt: skip
        return None, None, sum_rows(batch.by_user, pulled, grad), *out.unbind(0)


def contrastive_loss(batch: Batch, hinge: Hinge, user: Tensor, tables: list[Tensor]) -> Tensor:
    """Mean over the batch of the contrastive loss; see :func:`hakg_dgl.layers.losses.contrastive_loss`.

    Parameters
    ----------
    batch
        At least one pair.
    hinge
        Which negatives count.
    user
        float32 ``[n_users, d]``, rows of any length.
    tables
        One or two, ``[n_items, d]``.

    Returns
    -------
    Tensor
        Scalar, differentiable in all tables; the same bits every time.
    """
    result: Tensor = _Contrastive.apply(batch, hinge, user, *tables)
    return result
