"""The gate of the items, which mixes both of their embeddings, in one pass each way.

A program has a tile of rows and up to :data:`WIDEST` of their columns. Products run over the coordinates a few at a
time, so that registers hold them whatever d is. The way there writes the opened gate as well: a number of each
coordinate is cheaper to read again than two products of d numbers are to compute.

Products are of three TF32 ones each, which have float32's precision and a GPU's speed for them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hakg_dgl.kernels.triton_kernels.products import add_pieces

WIDEST = 128
"""Columns of a program; further ones are another program's."""
ROWS, CHUNK = 32, 16
"""Rows of a program and coordinates that a product takes at once; with more of either, registers do not hold them."""


class GateTile(NamedTuple):
    """Columns of a program of the gate, how many programs share the columns of a row, and the warps of each."""

    dims: int
    programs: int
    warps: int

    @classmethod
    def of(cls, dim: int) -> GateTile:
        """A warp for 16 columns."""
        dims = min(WIDEST, max(16, triton.next_power_of_2(dim)))
        return cls(dims, triton.cdiv(dim, dims), dims // 16)


@triton.jit
def _block(table, row, column, live, dim):
    inside = live[:, None] & (column < dim)[None, :]
    return tl.load(table + row[:, None] * dim + column[None, :], mask=inside, other=0.0)


@triton.jit
def _block_of_matrix(matrix, row, column, dim):
    inside = (row < dim)[:, None] & (column < dim)[None, :]
    return tl.load(matrix + row[:, None] * dim + column[None, :], mask=inside, other=0.0)


@triton.jit
def gate_kernel(
    item, entity, gate_item, gate_entity, sent, out, opened, n_rows, dim,
    SCALED: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """g v + (1 - g) e with the gate g, and g itself; the former times ``sent``, a number of each row, if ``SCALED``."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = row < n_rows
    column = tl.program_id(1) * DIMS + tl.arange(0, DIMS)
    score = tl.zeros([ROWS, DIMS], dtype=tl.float32)
    for start in range(0, dim, CHUNK):
        chunk = start + tl.arange(0, CHUNK)
        of_item = tl.trans(_block_of_matrix(gate_item, column, chunk, dim))
        score = tl.dot(_block(item, row, chunk, live, dim), of_item, score, input_precision="tf32x3")
        of_entity = tl.trans(_block_of_matrix(gate_entity, column, chunk, dim))
        score = tl.dot(_block(entity, row, chunk, live, dim), of_entity, score, input_precision="tf32x3")
    g = 1.0 / (1.0 + tl.exp(-score))
    v, e = _block(item, row, column, live, dim), _block(entity, row, column, live, dim)
    mixed = e + g * (v - e)
    if SCALED:
        mixed *= tl.load(sent + row, mask=live, other=0.0)[:, None]
    inside, place = live[:, None] & (column < dim)[None, :], row[:, None] * dim + column[None, :]
    tl.store(opened + place, g, mask=inside)
    tl.store(out + place, mixed, mask=inside)


@triton.jit
def _upstream(
    grad, begin, end, share, row, column, live, dim, PIECED: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr
):  # fmt: skip
    """The gradient of the mixture, or the sum of its pieces times ``share`` if it lies in such."""
    if PIECED:
        total = add_pieces(tl.zeros([ROWS, COLS], dtype=tl.float32), grad, begin, end, column, column < dim, dim)
        total *= share[:, None]
    else:
        total = _block(grad, row, column, live, dim)
    return total


@triton.jit
def gate_gradient_kernel(
    item, entity, opened, gate_item, gate_entity, sent, grad, first, d_item, d_entity, d_score, n_rows, dim,
    PIECED: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """Gradients of v, of e and of what the gate's sigmoid is taken of, from that of the mixture or its pieces."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = row < n_rows
    column = tl.program_id(1) * DIMS + tl.arange(0, DIMS)
    begin, end, share = row, row, row
    if PIECED:
        begin, end = tl.load(first + row, mask=live, other=0), tl.load(first + row + 1, mask=live, other=0)
        share = tl.load(sent + row, mask=live, other=0.0)
    of_v = tl.zeros([ROWS, DIMS], dtype=tl.float32)
    of_e = tl.zeros([ROWS, DIMS], dtype=tl.float32)
    for start in range(0, dim, CHUNK):
        chunk = start + tl.arange(0, CHUNK)
        g = _block(opened, row, chunk, live, dim)
        apart = _block(item, row, chunk, live, dim) - _block(entity, row, chunk, live, dim)
        upstream = _upstream(grad, begin, end, share, row, chunk, live, dim, PIECED, ROWS, CHUNK)
        score = upstream * apart * g * (1.0 - g)
        if tl.program_id(1) == 0:
            inside = live[:, None] & (chunk < dim)[None, :]
            tl.store(d_score + row[:, None] * dim + chunk[None, :], score, mask=inside)
        of_v = tl.dot(score, _block_of_matrix(gate_item, chunk, column, dim), of_v, input_precision="tf32x3")
        of_e = tl.dot(score, _block_of_matrix(gate_entity, chunk, column, dim), of_e, input_precision="tf32x3")
    mine = _upstream(grad, begin, end, share, row, column, live, dim, PIECED, ROWS, DIMS)
    g = _block(opened, row, column, live, dim)
    inside, place = live[:, None] & (column < dim)[None, :], row[:, None] * dim + column[None, :]
    tl.store(d_item + place, of_v + mine * g, mask=inside)
    tl.store(d_entity + place, of_e + mine * (1.0 - g), mask=inside)


def mix(item: Tensor, entity: Tensor, gate: tuple[Tensor, Tensor], sent: Tensor | None, out: Tensor) -> Tensor:
    """Write the mixture, times ``sent`` if there is such, to ``out``; the opened gate, ``[n, d]``.

    All are contiguous and float32, and there is a row.
    """
    (n_rows, dim), opened = item.shape, torch.empty_like(item)
    tile = GateTile.of(dim)
    gate_kernel[(triton.cdiv(n_rows, ROWS), tile.programs)](
        item, entity, *gate, item if sent is None else sent, out, opened, n_rows, dim,
        SCALED=sent is not None, ROWS=ROWS, CHUNK=CHUNK, DIMS=tile.dims, num_warps=tile.warps,
    )  # fmt: skip
    return opened


def mix_gradients(
    item: Tensor, entity: Tensor, opened: Tensor, gate: tuple[Tensor, Tensor], grad: Tensor,
    pieces: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of both embeddings, ``[2, n, d]``, and of what the sigmoid was taken of, ``[n, d]``.

    ``grad`` is that of what :func:`mix` wrote, or lies in ``pieces``: the bounds of each row's, and ``sent``.
    """
    n_rows, dim = item.shape
    tile, both, score = GateTile.of(dim), item.new_empty(2, n_rows, dim), torch.empty_like(item)
    first, sent = (item, item) if pieces is None else pieces
    gate_gradient_kernel[(triton.cdiv(n_rows, ROWS), tile.programs)](
        item, entity, opened, *gate, sent, grad, first, *both.unbind(), score, n_rows, dim,
        PIECED=pieces is not None, ROWS=ROWS, CHUNK=CHUNK, DIMS=tile.dims, num_warps=tile.warps,
    )  # fmt: skip
    return both, score


class _GatedItems(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, item: Tensor, entity: Tensor, gate_item: Tensor, gate_entity: Tensor) -> Tensor:
        item, entity, gate_item, gate_entity = (x.contiguous() for x in (item, entity, gate_item, gate_entity))
        out = torch.empty_like(item)
        opened = mix(item, entity, (gate_item, gate_entity), None, out)
        ctx.save_for_backward(item, entity, gate_item, gate_entity, opened)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        item, entity, gate_item, gate_entity, opened = ctx.saved_tensors
        both, score = mix_gradients(item, entity, opened, (gate_item, gate_entity), grad.contiguous())
        return both[0], both[1], score.T @ item, score.T @ entity


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
        ``[n_items, d]``, differentiable in all four. PyTorch's operators compute it in float64, and for no items.
    """
    if item.dtype != torch.float32 or len(item) == 0:
        return torch.lerp(entity, item, torch.sigmoid(item @ gate_item.T + entity @ gate_entity.T))
    result: Tensor = _GatedItems.apply(item, entity, gate_item, gate_entity)
    return result
