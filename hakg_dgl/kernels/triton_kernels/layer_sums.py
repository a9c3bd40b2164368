# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code="no-untyped-def,no-untyped-call,misc"
"""Sums of a layer over the pieces of :class:`~hakg_dgl.kernels.triton_kernels.edge_lists.EdgeLists`.

A program sums a piece and leaves the result in the row of its number; whoever reads it adds up the pieces of a row, in
order. Messages and their gradients are those of :mod:`~hakg_dgl.kernels.triton_kernels.aggregation`, heads near the
edge of the ball in float64 included.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hakg_dgl.kernels.triton_kernels.aggregation import (
    WIDEN_BEYOND,
    gradient_of_head,
    sum_of_messages,
    sum_of_shares,
)
from hakg_dgl.kernels.triton_kernels.edge_lists import kept_before


@triton.jit
def _row_of(table, row, dims, within, dim, SUM: tl.constexpr):
    return tl.load(table + row * dim + dims, mask=within, other=0.0).to(SUM)


@triton.jit
def copy_kernel(
    order, counts, bounds, rows, cols, table, scale, out, piece, n_by_row, base_by_row, base_by_col, dim,
    SCALED: tl.constexpr, ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Sum of the rows of ``table`` at the other ends of a piece of interactions, from number ``piece`` on.

    Pieces below ``n_by_row`` are of users, whose items lie at ``base_by_row``; others of items, whose users lie at
    ``base_by_col``. With ``SCALED`` each row is multiplied by its number in ``scale``.
    """
    number = piece + tl.program_id(0)
    begin, end = kept_before(bounds, counts, number), kept_before(bounds, counts, number + 1)
    by_row = number < n_by_row
    base = tl.where(by_row, base_by_row, base_by_col).to(tl.int64)
    dims = tl.arange(0, DIMS)
    within = dims < dim
    total = tl.zeros([ROWS, DIMS], dtype=SUM)
    for start in range(begin, end, ROWS):
        place = start + tl.arange(0, ROWS)
        live = place < end
        edge = tl.load(order + place, mask=live, other=0)
        item, user = live & by_row, live & (number >= n_by_row)
        other = base + tl.load(cols + edge, mask=item, other=0) + tl.load(rows + edge, mask=user, other=0)
        tile = tl.load(table + other[:, None] * dim + dims[None, :], mask=live[:, None] & within[None, :], other=0.0)
        if SCALED:
            tile = tile * tl.load(scale + other, mask=live, other=0.0)[:, None]
        total += tile
    tl.store(out + number.to(tl.int64) * dim + dims, tl.sum(total, 0), mask=within)


@triton.jit
def _is_outer(entity, row, dims, within, dim, CURVATURE: tl.constexpr):
    """Whether a head is so near to the edge that float32 will not do."""
    head = tl.load(entity + row * dim + dims, mask=within, other=0.0).to(tl.float32)
    return CURVATURE * tl.sum(head * head, 0) > WIDEN_BEYOND


@triton.jit
def _sum_of_piece(
    number, order, counts, bounds, piece_row, cols, kinds, entity, relation, out, dim,
    TYPE: tl.constexpr, CURVATURE: tl.constexpr, PAPER: tl.constexpr, FLAT: tl.constexpr, LIMIT: tl.constexpr,
    ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    dims = tl.arange(0, DIMS)
    within = dims < dim
    row = tl.load(piece_row + number).to(tl.int64)
    begin, end = kept_before(bounds, counts, number), kept_before(bounds, counts, number + 1)
    result = sum_of_messages(
        begin, end, order, cols, kinds, entity, relation, _row_of(entity, row, dims, within, dim, SUM),
        dims, within, dim, TYPE, CURVATURE, PAPER, FLAT, LIMIT, ROWS, DIMS, SUM, True,
    )  # fmt: skip
    tl.store(out + number.to(tl.int64) * dim + dims, result, mask=within)


@triton.jit
def head_kernel(
    order, counts, bounds, piece_row, cols, kinds, entity, relation, out, outer, n_outer, piece, dim,
    WIDEN: tl.constexpr, CURVATURE: tl.constexpr, PAPER: tl.constexpr, FLAT: tl.constexpr, LIMIT: tl.constexpr,
    ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Sums of messages of the pieces of heads, from number ``piece`` on; outer ones are put on a list instead."""
    number = piece + tl.program_id(0)
    near_edge = False
    if WIDEN:
        dims = tl.arange(0, DIMS)
        row = tl.load(piece_row + number).to(tl.int64)
        near_edge = _is_outer(entity, row, dims, dims < dim, dim, CURVATURE)
    if near_edge:
        tl.store(outer + tl.atomic_add(n_outer, 1), number)
    else:
        _sum_of_piece(
            number, order, counts, bounds, piece_row, cols, kinds, entity, relation, out, dim,
            SUM, CURVATURE, PAPER, FLAT, LIMIT, ROWS, DIMS, SUM,
        )  # fmt: skip


@triton.jit
def outer_head_kernel(
    order, counts, bounds, piece_row, cols, kinds, entity, relation, out, outer, n_outer, dim,
    CURVATURE: tl.constexpr, PAPER: tl.constexpr, FLAT: tl.constexpr, LIMIT: tl.constexpr,
    ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The pieces on the list, in float64."""
    for place in range(tl.program_id(0), tl.load(n_outer), tl.num_programs(0)):
        _sum_of_piece(
            tl.load(outer + place), order, counts, bounds, piece_row, cols, kinds, entity, relation, out, dim,
            tl.float64, CURVATURE, PAPER, FLAT, LIMIT, ROWS, DIMS, SUM,
        )  # fmt: skip


@triton.jit
def _gradient_of_piece(
    number, order, counts, bounds, piece_row, cols, kinds, entity, relation, grad, shares, out, dim,
    TYPE: tl.constexpr, CURVATURE: tl.constexpr, PAPER: tl.constexpr, FLAT: tl.constexpr, LIMIT: tl.constexpr,
    ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    dims = tl.arange(0, DIMS)
    within = dims < dim
    row = tl.load(piece_row + number).to(tl.int64)
    begin, end = kept_before(bounds, counts, number), kept_before(bounds, counts, number + 1)
    result = gradient_of_head(
        begin, end, order, cols, kinds, entity, relation, _row_of(entity, row, dims, within, dim, SUM),
        _row_of(grad, row, dims, within, dim, SUM), 1.0, shares, dims, within, dim,
        TYPE, CURVATURE, PAPER, FLAT, LIMIT, ROWS, DIMS, SUM, True,
    )  # fmt: skip
    tl.store(out + number.to(tl.int64) * dim + dims, result, mask=within)


@triton.jit
def head_gradient_kernel(
    order, counts, bounds, piece_row, cols, kinds, entity, relation, grad, shares, out, piece, dim,
    WIDEN: tl.constexpr, CURVATURE: tl.constexpr, PAPER: tl.constexpr, FLAT: tl.constexpr, LIMIT: tl.constexpr,
    ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Gradients of heads from their pieces, and the shares of all edges; nothing for outer heads."""
    number = piece + tl.program_id(0)
    near_edge = False
    if WIDEN:
        dims = tl.arange(0, DIMS)
        row = tl.load(piece_row + number).to(tl.int64)
        near_edge = _is_outer(entity, row, dims, dims < dim, dim, CURVATURE)
    if not near_edge:
        _gradient_of_piece(
            number, order, counts, bounds, piece_row, cols, kinds, entity, relation, grad, shares, out, dim,
            SUM, CURVATURE, PAPER, FLAT, LIMIT, ROWS, DIMS, SUM,
        )  # fmt: skip


@triton.jit
def outer_head_gradient_kernel(
    order, counts, bounds, piece_row, cols, kinds, entity, relation, grad, shares, out, outer, n_outer, dim,
    CURVATURE: tl.constexpr, PAPER: tl.constexpr, FLAT: tl.constexpr, LIMIT: tl.constexpr,
    ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The pieces that the forward pass put on the list, in float64."""
    for place in range(tl.program_id(0), tl.load(n_outer), tl.num_programs(0)):
        _gradient_of_piece(
            tl.load(outer + place), order, counts, bounds, piece_row, cols, kinds, entity, relation, grad, shares, out,
            dim, tl.float64, CURVATURE, PAPER, FLAT, LIMIT, ROWS, DIMS, SUM,
        )  # fmt: skip


@triton.jit
def share_kernel(
    order, counts, bounds, piece_row, heads, tails, kinds, shares, grad, entity, relation, of_tails, of_relations,
    tail_piece, n_tails, relation_piece, dim,
    FLAT: tl.constexpr, ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Gradients of tails and of relations from the shares of their edges, piece by piece.

    The first ``n_tails`` programs are for the pieces of tails, from number ``tail_piece`` on, the others for those of
    relations, from ``relation_piece`` on. Each kind has a table of its own.
    """
    program = tl.program_id(0)
    of_tail = program < n_tails
    number = tl.where(of_tail, tail_piece + program, relation_piece + program - n_tails)
    dims = tl.arange(0, DIMS)
    within = dims < dim
    row = tl.load(piece_row + number).to(tl.int64)
    begin, end = kept_before(bounds, counts, number), kept_before(bounds, counts, number + 1)
    if of_tail:
        result = sum_of_shares(
            begin, end, order, heads, kinds, shares, grad, entity, relation, entity + row * dim, dims, within, dim,
            FLAT, ROWS, DIMS, SUM,
        )  # fmt: skip
        tl.store(of_tails + program.to(tl.int64) * dim + dims, result, mask=within)
    else:
        result = sum_of_shares(
            begin, end, order, heads, tails, shares + 4, grad, entity, entity, relation + row * dim, dims, within, dim,
            FLAT, ROWS, DIMS, SUM,
        )  # fmt: skip
        tl.store(of_relations + (program - n_tails).to(tl.int64) * dim + dims, result, mask=within)


@triton.jit
def relation_kernel(
    pieces, first, last_first, out, before, before_last, n_each, n_layers, dim,
    ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The gradient of a relation: the sum of its pieces over all layers.

    Those of the first ``n_layers`` layers lie one after the other, ``n_each`` of a layer; then come those of the last.
    ``before`` and ``before_last`` are the numbers of the first pieces of relations.
    """
    row = tl.program_id(0).to(tl.int64)
    dims = tl.arange(0, DIMS)
    within = dims < dim
    total = tl.zeros([ROWS, DIMS], dtype=SUM)
    table = pieces
    for layer in range(0, n_layers + 1):
        last = layer == n_layers
        begin = tl.where(last, tl.load(last_first + row) - before_last, tl.load(first + row) - before)
        end = tl.where(last, tl.load(last_first + row + 1) - before_last, tl.load(first + row + 1) - before)
        for start in range(begin, end, ROWS):
            number = start + tl.arange(0, ROWS)
            place = number.to(tl.int64)[:, None] * dim + dims[None, :]
            total += tl.load(table + place, mask=(number < end)[:, None] & within[None, :], other=0.0)
        table += n_each * dim
    tl.store(out + row * dim + dims, tl.sum(total, 0), mask=within)
