"""Sparse products in Triton: one program a row, long rows in pieces.

A row of more than :data:`PIECE` edges is cut, so that one hub (or a relation with half of all edges) does not keep the
whole GPU waiting. The first piece of a row writes to the row itself, the others to a table of their own, from which
they are added in order: the result does not depend on which program ran first. How many pieces there are is bounded
by the number of edges, so nothing is read back from the device.

Edges beyond ``indptr[-1]`` are not looked at. Edges of weight zero are not loaded.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from torch import Tensor

from hakg_dgl.graph.packed import Grouping

PIECE = 256
"""Edges of a row that one program adds up."""


class TileShape(NamedTuple):
    """How many rows of d numbers a program holds at once, the next power of two of d, and its warps."""

    rows: int
    dims: int
    warps: int


def tile_shape(dim: int, elements: int = 1024) -> TileShape:
    """Tile of about ``elements`` numbers with whole rows of ``dim``."""
    dims = triton.next_power_of_2(dim)
    rows = min(32, max(1, elements // dims))
    return TileShape(rows, dims, min(8, max(1, rows * dims // 1024)))


class Pieces(NamedTuple):
    """The pieces after the first of each row, all on the device.

    ``first`` int64 ``[n_rows + 1]``: number of the row's first such piece. ``row`` int64 ``[bound]``: row of each,
    ``n_rows`` for numbers that are none.
    """

    first: Tensor
    row: Tensor
    bound: int


def _pieces(indptr: Tensor, n_edges: int, piece: int) -> Pieces:
    bound = n_edges // piece
    if bound == 0:  # no row can be longer than a piece
        return Pieces(indptr, indptr, 0)
    more = torch.div(indptr.diff().sub_(1).clamp_min_(0), piece, rounding_mode="floor")
    first = torch.zeros_like(indptr)
    torch.cumsum(more, 0, out=first[1:])
    numbers = torch.arange(bound, device=indptr.device, dtype=indptr.dtype)
    return Pieces(first, torch.searchsorted(first[1:], numbers, right=True), bound)


_pieces_of: WeakKeyDictionary[Grouping, dict[tuple[int, int], Pieces]] = WeakKeyDictionary()


def pieces_for(grouping: Grouping, n_edges: int, piece: int) -> Pieces:
    """How a grouping's rows are cut after every ``piece`` edges, found once for each grouping and kept as long as it.

    Parameters
    ----------
    grouping
        Of ``n_edges`` edges, or fewer where it is padded.
    n_edges, piece
        At least 0 and 1.
    """
    found = _pieces_of.setdefault(grouping, {})
    if (n_edges, piece) not in found:
        found[n_edges, piece] = _pieces(grouping.indptr, n_edges, piece)
    return found[n_edges, piece]


@triton.jit
def place_of(program, indptr, first, piece_row, n_rows, PIECE: tl.constexpr):
    """Row of a program, and the edges of its piece: none (and row ``n_rows``) where the program has no piece.

    Without branches: Triton 3.4 and older ones fail on loops whose bounds come out of one.
    """
    further = program >= n_rows
    number = tl.maximum(program - n_rows, 0).to(tl.int64)
    row = tl.where(further, tl.load(piece_row + number, mask=further, other=0).to(tl.int64), program.to(tl.int64))
    exists = row < n_rows
    before = tl.load(first + row, mask=further & exists, other=0).to(tl.int64)
    skipped = tl.where(further, (number - before + 1) * PIECE, 0)
    begin = tl.load(indptr + row, mask=exists, other=0).to(tl.int64) + skipped
    end = tl.minimum(begin + PIECE, tl.load(indptr + row + 1, mask=exists, other=0).to(tl.int64))
    return row, begin, end


@triton.jit
def _sum_kernel(
    indptr, cols, weights, y, out, extra, first, piece_row, n_rows, dim,
    WEIGHTED: tl.constexpr, PIECE: tl.constexpr, ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    row, begin, end = place_of(program, indptr, first, piece_row, n_rows, PIECE)
    dims = tl.arange(0, DIMS)
    within = dims < dim
    total = tl.zeros([ROWS, DIMS], dtype=SUM)
    for start in range(begin, end, ROWS):
        edge = start + tl.arange(0, ROWS)
        live = edge < end
        if WEIGHTED:
            weight = tl.load(weights + edge, mask=live, other=0.0).to(SUM)
            live = live & (weight != 0.0)
        col = tl.load(cols + edge, mask=live, other=0).to(tl.int64)
        tile = tl.load(y + col[:, None] * dim + dims[None, :], mask=live[:, None] & within[None, :], other=0.0).to(SUM)
        if WEIGHTED:
            tile = tile * weight[:, None]
        total += tile
    result = tl.sum(total, 0)
    if program < n_rows:
        tl.store(out + row * dim + dims, result, mask=within)
    elif row < n_rows:
        tl.store(extra + (program - n_rows).to(tl.int64) * dim + dims, result, mask=within)


@triton.jit
def add_pieces(total, table, begin, end, dims, within, dim):
    """To each row of a tile the rows ``begin`` to ``end`` of a table, in order."""
    for k in range(0, tl.max(end - begin, 0)):
        number = begin + k
        place = table + number.to(tl.int64)[:, None] * dim + dims[None, :]
        total += tl.load(place, mask=(number < end)[:, None] & within[None, :], other=0.0)
    return total


@triton.jit
def combine_kernel(out, extra, first, dim, DIMS: tl.constexpr):
    """A program a row: add the sums of the row's further pieces (:class:`Pieces`) to its first."""
    row = tl.program_id(0).to(tl.int64)
    begin, end = tl.load(first + row), tl.load(first + row + 1)
    if begin < end:
        dims = tl.arange(0, DIMS)
        within = dims < dim
        total = tl.load(out + row * dim + dims, mask=within, other=0.0)
        for number in range(begin, end):
            total += tl.load(extra + number * dim + dims, mask=within, other=0.0)
        tl.store(out + row * dim + dims, total, mask=within)


@triton.jit
def _dot_kernel(
    indptr, cols, x, y, out, first, piece_row, n_rows, dim,
    PIECE: tl.constexpr, ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    row, begin, end = place_of(tl.program_id(0), indptr, first, piece_row, n_rows, PIECE)
    dims = tl.arange(0, DIMS)
    within = dims < dim
    own = tl.load(x + tl.minimum(row, n_rows - 1) * dim + dims, mask=within, other=0.0).to(SUM)
    for start in range(begin, end, ROWS):
        edge = start + tl.arange(0, ROWS)
        live = edge < end
        col = tl.load(cols + edge, mask=live, other=0).to(tl.int64)
        tile = tl.load(y + col[:, None] * dim + dims[None, :], mask=live[:, None] & within[None, :], other=0.0).to(SUM)
        tl.store(out + edge, tl.sum(tile * own[None, :], 1), mask=live)


def accumulator(dtype: torch.dtype) -> tuple[torch.dtype, Any]:
    """What sums of this type are added up and returned in: float64 for float64, float32 for all else."""
    return (torch.float64, tl.float64) if dtype == torch.float64 else (torch.float32, tl.float32)


def weighted_sum(by_row: Grouping, cols: Tensor, weights: Tensor | None, y: Tensor, *, piece: int = PIECE) -> Tensor:
    """SpMM: for each row the sum of ``weights * y[col]`` over its edges, zero rows where there are none.

    Parameters
    ----------
    by_row
        Edges grouped by row, already in row order (``order`` is not read).
    cols
        int32 or int64 ``[>= n_edges]``.
    weights
        ``[>= n_edges]`` or None for ones. An edge of weight zero adds nothing, whatever its row of y holds.
    y
        ``[n_cols, d]``: float64, float32 or bfloat16.
    piece
        Edges after which a row is cut.

    Returns
    -------
    Tensor
        ``[n_rows, d]``, float64 for float64, else float32; the same bits every time.
    """
    n_rows, dim, (dtype, total) = len(by_row.indptr) - 1, y.shape[1], accumulator(y.dtype)
    out = y.new_empty(n_rows, dim, dtype=dtype)
    if out.numel() == 0:
        return out
    y, pieces, tile = y.contiguous(), pieces_for(by_row, len(cols), piece), tile_shape(dim)
    extra = out.new_empty(pieces.bound, dim)
    _sum_kernel[(n_rows + pieces.bound,)](
        by_row.indptr, cols.contiguous(), y if weights is None else weights.contiguous(), y, out, extra,
        pieces.first, pieces.row, n_rows, dim,
        WEIGHTED=weights is not None, PIECE=piece, ROWS=tile.rows, DIMS=tile.dims, SUM=total, num_warps=tile.warps,
    )  # fmt: skip
    if pieces.bound:
        combine_kernel[(n_rows,)](out, extra, pieces.first, dim, DIMS=tile.dims, num_warps=1)
    return out


def dot(by_row: Grouping, cols: Tensor, x: Tensor, y: Tensor, *, piece: int = PIECE) -> Tensor:
    """SDDMM: ``<x[row], y[col]>`` of each edge.

    Parameters
    ----------
    by_row, cols, piece
        As in :func:`weighted_sum`.
    x, y
        ``[n_rows, d]`` and ``[n_cols, d]``: float64, float32 or bfloat16.

    Returns
    -------
    Tensor
        ``[len(cols)]``, float64 for float64, else float32; zero beyond ``indptr[-1]``.
    """
    n_rows, dim, (dtype, total) = len(by_row.indptr) - 1, y.shape[1], accumulator(y.dtype)
    out = y.new_zeros(len(cols), dtype=dtype)
    if out.numel() == 0 or n_rows == 0:
        return out
    pieces, tile = pieces_for(by_row, len(cols), piece), tile_shape(dim)
    _dot_kernel[(n_rows + pieces.bound,)](
        by_row.indptr, cols.contiguous(), x.contiguous(), y.contiguous(), out, pieces.first, pieces.row, n_rows, dim,
        PIECE=piece, ROWS=tile.rows, DIMS=tile.dims, SUM=total, num_warps=tile.warps,
    )  # fmt: skip
    return out
