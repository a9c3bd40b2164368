# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code="no-untyped-def,no-untyped-call,misc"
"""Relation-transitive aggregation in Triton: one pass over a head's edges, values and gradients.

Forward, a program holds its head's row and gathers the rows of some tails and relations; the inner products, the
message's coefficients (:mod:`~hakg_dgl.kernels.triton_kernels.coefficients`) and the sum of the messages never leave
the registers. Backward, the same pass computes the coefficients again, adds up the head's gradient and leaves eight
numbers an edge, its *shares*; the gradients of tails and relations are then sums of rows weighted by shares, over the
edges grouped by tail and by relation. No array of edges x d exists, rows are cut as in
:mod:`~hakg_dgl.kernels.triton_kernels.products`, and every sum has its fixed order: the same bits every time.

Near the edge of the ball the frame's sums cancel, in float32 beyond use. The readable path loses digits there too, and
which ones depends on its order of operations, which no other code repeats. So messages of such heads
(:data:`WIDEN_BEYOND`) are computed in float64, from the inner products on: nearer to the formulas than any evaluation
in float32. Programs that find such a head only put their number on a list, which a second, usually idle kernel works
off; the first one keeps the few registers that float32 needs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from packaging.version import Version
from torch import Tensor

from hakg_dgl.geometry.guards import max_norm
from hakg_dgl.geometry.message import MessageRule
from hakg_dgl.graph.packed import Grouping, KnowledgePattern
from hakg_dgl.kernels.triton_kernels.coefficients import message_coefficients, message_gradients
from hakg_dgl.kernels.triton_kernels.products import (
    Pieces,
    TileShape,
    accumulator,
    combine_kernel,
    pieces_for,
    place_of,
)

PIECE = 128
"""Edges of a row that one program adds up."""
SPREADS = Version(triton.__version__) >= Version("3.8")
"""Whether ``tl.gather`` spreads numbers over threads (:func:`_row_sums`); before 3.8 it leaves them where they are."""
OUTER_PROGRAMS = 1024
"""Most programs that share the list of outer heads between them."""
WIDEN_BEYOND = tl.constexpr(4.77)
"""Squared norm of a head (times c) beyond which float32 messages are computed in float64: its point's is 0.95 then."""
SHARES = tl.constexpr(8)
"""Numbers an edge that the backward pass keeps: four for the gradient of its tail, four for that of its relation."""


@triton.jit
def _gather(table, index, live, dims, within, dim, SUM: tl.constexpr):
    """Rows ``index`` of the table, zeros where not live: ``[ROWS, DIMS]``."""
    place = table + index.to(tl.int64)[:, None] * dim + dims[None, :]
    return tl.load(place, mask=live[:, None] & within[None, :], other=0.0).to(SUM)


@triton.jit
def _keep(place, one, two, three, four, live):
    """Four numbers an edge, in one store."""
    ROWS: tl.constexpr = one.shape[0]
    packed = tl.reshape(tl.join(tl.join(one, three), tl.join(two, four)), [ROWS, 4])
    tl.store(place[:, None] + tl.arange(0, 4)[None, :], packed, mask=live[:, None])


@triton.jit
def _row_sums(tile):
    """Sums over d, ``[ROWS]``, one edge a thread.

    A sum leaves its result with all threads that took part in it, which would then all compute the same coefficients;
    the gather, of every number from its own place, is there to spread them out.
    """
    return tl.gather(tl.sum(tile, 1), tl.arange(0, tile.shape[0]), 0)


@triton.jit
def _inner(head, tail, rel, CURVATURE: tl.constexpr, TYPE: tl.constexpr):
    """The six inner products of a head with tails and relations, on the unit ball, computed in ``TYPE``."""
    head, tail, rel = head.to(TYPE), tail.to(TYPE), rel.to(TYPE)
    hh, ht, hw = tl.sum(head * head, 0), _row_sums(head[None, :] * tail), _row_sums(head[None, :] * rel)
    tt, ww, tw = _row_sums(tail * tail), _row_sums(rel * rel), _row_sums(tail * rel)
    return CURVATURE * hh, CURVATURE * ht, CURVATURE * hw, CURVATURE * tt, CURVATURE * ww, CURVATURE * tw


@triton.jit
def _message(head, tail, rel, CURVATURE: tl.constexpr, PAPER: tl.constexpr, LIMIT: tl.constexpr, TYPE: tl.constexpr):
    """Coefficients a, b, c of a tile of edges, computed in ``TYPE``, in the type of the tile."""
    hh, ht, hw, tt, ww, tw = _inner(head, tail, rel, CURVATURE, TYPE)
    a, b, c = message_coefficients(hh, ht, hw, tt, ww, tw, PAPER, LIMIT)
    return a.to(tail.dtype), b.to(tail.dtype), c.to(tail.dtype)


@triton.jit
def _gradients(
    head, tail, rel, upstream, CURVATURE: tl.constexpr, PAPER: tl.constexpr, LIMIT: tl.constexpr, TYPE: tl.constexpr
):
    """Coefficients, and gradients of hh, ht, hw, tt, ww, tw from those of the messages; types as above."""
    hh, ht, hw, tt, ww, tw = _inner(head, tail, rel, CURVATURE, TYPE)
    a, b, c = message_coefficients(hh, ht, hw, tt, ww, tw, PAPER, LIMIT)
    wide = upstream.to(TYPE)
    d_b, d_c = _row_sums(wide[None, :] * tail.to(TYPE)), _row_sums(wide[None, :] * rel.to(TYPE))
    d_a = tl.sum(wide * head.to(TYPE), 0) + d_b * 0.0
    d_hh, d_ht, d_hw, d_tt, d_ww, d_tw = message_gradients(hh, ht, hw, tt, ww, tw, d_a, d_b, d_c, PAPER, LIMIT)
    out: tl.constexpr = tail.dtype
    return (
        a.to(out), b.to(out), c.to(out),
        (CURVATURE * d_hh).to(out), (CURVATURE * d_ht).to(out), (CURVATURE * d_hw).to(out),
        (CURVATURE * d_tt).to(out), (CURVATURE * d_ww).to(out), (CURVATURE * d_tw).to(out),
    )  # fmt: skip


@triton.jit
def _head_of(entity, indptr, row, n_rows, dims, within, dim, SUM: tl.constexpr):
    """The head's row, and one over its number of edges (one if it has none); those of some head if row is no head."""
    known = tl.minimum(row, n_rows - 1)
    head = tl.load(entity + known * dim + dims, mask=within, other=0.0).to(SUM)
    degree = tl.load(indptr + known + 1) - tl.load(indptr + known)
    return head, 1.0 / tl.maximum(degree, 1).to(SUM)


@triton.jit
def _put(out, extra, program, row, n_rows, result, dims, within, dim):
    """Store the sum of a piece: the first in its row, another in its place among the extra ones."""
    if program < n_rows:
        tl.store(out + row * dim + dims, result, mask=within)
    elif row < n_rows:
        tl.store(extra + (program - n_rows).to(tl.int64) * dim + dims, result, mask=within)


@triton.jit
def _edges_at(order, start, end, ROWS: tl.constexpr, ORDERED: tl.constexpr):
    """Numbers of the next edges of a list, from place ``start`` on, and which of them are there."""
    place = start + tl.arange(0, ROWS)
    live = place < end
    edge = place
    if ORDERED:
        edge = tl.load(order + place, mask=live, other=0).to(tl.int64)
    return edge, live


@triton.jit
def sum_of_messages(
    begin, end, order, cols, relations, entity, relation, head, dims, within, dim,
    TYPE: tl.constexpr, CURVATURE: tl.constexpr, PAPER: tl.constexpr, FLAT: tl.constexpr, LIMIT: tl.constexpr,
    ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr, ORDERED: tl.constexpr,
):  # fmt: skip
    """Sum of the messages of some edges of a head, ``[DIMS]``; coefficients computed in ``TYPE``.

    The edges are ``begin`` to ``end``, or, if ``ORDERED``, those at these places of ``order``.
    """
    along = tl.zeros([ROWS], dtype=SUM)
    total = tl.zeros([ROWS, DIMS], dtype=SUM)
    for start in range(begin, end, ROWS):
        edge, live = _edges_at(order, start, end, ROWS, ORDERED)
        tail = _gather(entity, tl.load(cols + edge, mask=live, other=0), live, dims, within, dim, SUM)
        rel = _gather(relation, tl.load(relations + edge, mask=live, other=0), live, dims, within, dim, SUM)
        if FLAT:
            along += tl.where(live, -1.0 if PAPER else 1.0, 0.0)
            total += tail + rel
        else:
            a, b, c = _message(head, tail, rel, CURVATURE, PAPER, LIMIT, TYPE)
            along += tl.where(live, a, 0.0)
            total += b[:, None] * tail + c[:, None] * rel
    return tl.sum(total, 0) + tl.sum(along, 0) * head


@triton.jit
def gradient_of_head(
    begin, end, order, cols, relations, entity, relation, head, upstream, inverse, shares, dims, within, dim,
    TYPE: tl.constexpr, CURVATURE: tl.constexpr, PAPER: tl.constexpr, FLAT: tl.constexpr, LIMIT: tl.constexpr,
    ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr, ORDERED: tl.constexpr,
):  # fmt: skip
    """Gradient of a head from some of its edges (as above), ``[DIMS]``, and the shares of these edges.

    ``upstream`` is the gradient of the sum of the messages, and ``inverse`` times what the shares will multiply.
    """
    along, along_grad = tl.zeros([ROWS], dtype=SUM), tl.zeros([ROWS], dtype=SUM)
    total = tl.zeros([ROWS, DIMS], dtype=SUM)
    for start in range(begin, end, ROWS):
        edge, live = _edges_at(order, start, end, ROWS, ORDERED)
        tail = _gather(entity, tl.load(cols + edge, mask=live, other=0), live, dims, within, dim, SUM)
        rel = _gather(relation, tl.load(relations + edge, mask=live, other=0), live, dims, within, dim, SUM)
        if FLAT:
            none = tl.zeros([ROWS], dtype=SUM)
            a, b, c = none + (-1.0 if PAPER else 1.0), none + 1.0, none + 1.0
            d_hh, d_ht, d_hw, d_tt, d_ww, d_tw = none, none, none, none, none, none
        else:
            a, b, c, d_hh, d_ht, d_hw, d_tt, d_ww, d_tw = _gradients(
                head, tail, rel, upstream, CURVATURE, PAPER, LIMIT, TYPE
            )
        along += tl.where(live, 2.0 * d_hh, 0.0)
        along_grad += tl.where(live, a, 0.0)
        total += d_ht[:, None] * tail + d_hw[:, None] * rel
        _keep(shares + edge * SHARES, b * inverse, d_ht, 2.0 * d_tt, d_tw, live)
        _keep(shares + edge * SHARES + 4, c * inverse, d_hw, 2.0 * d_ww, d_tw, live)
    return tl.sum(total, 0) + tl.sum(along, 0) * head + tl.sum(along_grad, 0) * upstream


@triton.jit
def sum_of_shares(
    begin, end, order, heads, others, shares, grad, entity, other_table, own_row, dims, within, dim,
    FLAT: tl.constexpr, ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Gradient of a tail or a relation, whose row is ``own_row``, from the shares of some of its edges, ``[DIMS]``."""
    own = tl.zeros([ROWS], dtype=SUM)
    total = tl.zeros([ROWS, DIMS], dtype=SUM)
    for start in range(begin, end, ROWS):
        edge, live = _edges_at(order, start, end, ROWS, True)
        share = shares + edge * SHARES
        head = tl.load(heads + edge, mask=live, other=0)
        by_grad = tl.load(share, mask=live, other=0.0)
        total += by_grad[:, None] * _gather(grad, head, live, dims, within, dim, SUM)
        if not FLAT:
            by_head = tl.load(share + 1, mask=live, other=0.0)
            own += tl.load(share + 2, mask=live, other=0.0)
            by_other = tl.load(share + 3, mask=live, other=0.0)
            other = tl.load(others + edge, mask=live, other=0)
            total += by_head[:, None] * _gather(entity, head, live, dims, within, dim, SUM)
            total += by_other[:, None] * _gather(other_table, other, live, dims, within, dim, SUM)
    result = tl.sum(total, 0)
    if not FLAT:
        result += tl.sum(own, 0) * tl.load(own_row + dims, mask=within, other=0.0).to(SUM)
    return result


@triton.jit
def _sum_piece(
    program, indptr, cols, relations, entity, relation, out, extra, first, piece_row, n_rows, dim,
    TYPE: tl.constexpr, CURVATURE: tl.constexpr, PAPER: tl.constexpr, FLAT: tl.constexpr, LIMIT: tl.constexpr,
    PIECE: tl.constexpr, ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Sum of the messages of a piece of a row, over the row's number of edges; coefficients computed in ``TYPE``."""
    row, begin, end = place_of(program, indptr, first, piece_row, n_rows, PIECE)
    dims = tl.arange(0, DIMS)
    within = dims < dim
    head, inverse = _head_of(entity, indptr, row, n_rows, dims, within, dim, SUM)
    result = sum_of_messages(
        begin, end, cols, cols, relations, entity, relation, head, dims, within, dim,
        TYPE, CURVATURE, PAPER, FLAT, LIMIT, ROWS, DIMS, SUM, False,
    )  # fmt: skip
    _put(out, extra, program, row, n_rows, result * inverse, dims, within, dim)


@triton.jit
def _differentiate_piece(
    program, indptr, cols, relations, entity, relation, grad, grad_entity, shares, extra, first,
    piece_row, n_rows, dim,
    TYPE: tl.constexpr, CURVATURE: tl.constexpr, PAPER: tl.constexpr, FLAT: tl.constexpr,
    LIMIT: tl.constexpr, PIECE: tl.constexpr, ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Gradient of a head, from a piece of its row, and the shares of its edges."""
    row, begin, end = place_of(program, indptr, first, piece_row, n_rows, PIECE)
    dims = tl.arange(0, DIMS)
    within = dims < dim
    head, inverse = _head_of(entity, indptr, row, n_rows, dims, within, dim, SUM)
    upstream, _ = _head_of(grad, indptr, row, n_rows, dims, within, dim, SUM)
    result = gradient_of_head(
        begin, end, cols, cols, relations, entity, relation, head, upstream * inverse, inverse, shares,
        dims, within, dim, TYPE, CURVATURE, PAPER, FLAT, LIMIT, ROWS, DIMS, SUM, False,
    )  # fmt: skip
    _put(grad_entity, extra, program, row, n_rows, result, dims, within, dim)


@triton.jit
def _is_outer(program, entity, first, piece_row, n_rows, dim, CURVATURE: tl.constexpr, DIMS: tl.constexpr):
    """Whether the head of a program is so near to the edge that float32 will not do."""
    further = program >= n_rows
    row = tl.load(piece_row + tl.maximum(program - n_rows, 0), mask=further, other=0).to(tl.int64)
    row = tl.where(further, tl.minimum(row, n_rows - 1), program.to(tl.int64))
    dims = tl.arange(0, DIMS)
    head = tl.load(entity + row * dim + dims, mask=dims < dim, other=0.0).to(tl.float32)
    return CURVATURE * tl.sum(head * head, 0) > WIDEN_BEYOND


@triton.jit
def _forward_kernel(
    indptr, cols, relations, entity, relation, out, extra, first, piece_row, outer, n_outer, n_rows, dim,
    WIDEN: tl.constexpr, CURVATURE: tl.constexpr, PAPER: tl.constexpr, FLAT: tl.constexpr, LIMIT: tl.constexpr,
    PIECE: tl.constexpr, ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """One program a piece; where float32 will not do it puts its number on the list of outer ones instead."""
    program = tl.program_id(0)
    near_edge = False
    if WIDEN:
        near_edge = _is_outer(program, entity, first, piece_row, n_rows, dim, CURVATURE, DIMS)
    if near_edge:
        tl.store(outer + tl.atomic_add(n_outer, 1), program)
    else:
        _sum_piece(
            program, indptr, cols, relations, entity, relation, out, extra, first, piece_row, n_rows, dim,
            SUM, CURVATURE, PAPER, FLAT, LIMIT, PIECE, ROWS, DIMS, SUM,
        )  # fmt: skip


@triton.jit
def _outer_forward_kernel(
    indptr, cols, relations, entity, relation, out, extra, first, piece_row, outer, n_outer, n_rows, dim,
    CURVATURE: tl.constexpr, PAPER: tl.constexpr, FLAT: tl.constexpr, LIMIT: tl.constexpr,
    PIECE: tl.constexpr, ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The pieces on the list, in float64."""
    for number in range(tl.program_id(0), tl.load(n_outer), tl.num_programs(0)):
        _sum_piece(
            tl.load(outer + number), indptr, cols, relations, entity, relation, out, extra, first, piece_row, n_rows,
            dim, tl.float64, CURVATURE, PAPER, FLAT, LIMIT, PIECE, ROWS, DIMS, SUM,
        )  # fmt: skip


@triton.jit
def _backward_kernel(
    indptr, cols, relations, entity, relation, grad, grad_entity, shares, extra, first, piece_row,
    n_rows, dim,
    WIDEN: tl.constexpr, CURVATURE: tl.constexpr, PAPER: tl.constexpr, FLAT: tl.constexpr,
    LIMIT: tl.constexpr, PIECE: tl.constexpr, ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """One program a piece; nothing where float32 will not do."""
    program = tl.program_id(0)
    near_edge = False
    if WIDEN:
        near_edge = _is_outer(program, entity, first, piece_row, n_rows, dim, CURVATURE, DIMS)
    if not near_edge:
        _differentiate_piece(
            program, indptr, cols, relations, entity, relation, grad, grad_entity, shares, extra, first,
            piece_row, n_rows, dim,
            SUM, CURVATURE, PAPER, FLAT, LIMIT, PIECE, ROWS, DIMS, SUM,
        )  # fmt: skip


@triton.jit
def _outer_backward_kernel(
    indptr, cols, relations, entity, relation, grad, grad_entity, shares, extra, first, piece_row,
    outer, n_outer, n_rows, dim,
    CURVATURE: tl.constexpr, PAPER: tl.constexpr, FLAT: tl.constexpr,
    LIMIT: tl.constexpr, PIECE: tl.constexpr, ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The pieces that the forward pass put on the list, in float64."""
    for number in range(tl.program_id(0), tl.load(n_outer), tl.num_programs(0)):
        _differentiate_piece(
            tl.load(outer + number), indptr, cols, relations, entity, relation, grad, grad_entity,
            shares, extra, first, piece_row, n_rows, dim,
            tl.float64, CURVATURE, PAPER, FLAT, LIMIT, PIECE, ROWS, DIMS, SUM,
        )  # fmt: skip


@triton.jit
def _spread_kernel(
    indptr, order, heads, others, shares, grad, entity, own_table, other_table, out, extra, first, piece_row,
    n_rows, n_started, dim,
    FLAT: tl.constexpr, PIECE: tl.constexpr, ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Gradients of tails or relations from shares; the first ``n_started`` rows of ``out`` are added to."""
    program = tl.program_id(0)
    row, begin, end = place_of(program, indptr, first, piece_row, n_rows, PIECE)
    dims = tl.arange(0, DIMS)
    within = dims < dim
    known = tl.minimum(row, n_rows - 1)
    result = sum_of_shares(
        begin, end, order, heads, others, shares, grad, entity, other_table, own_table + known * dim,
        dims, within, dim, FLAT, ROWS, DIMS, SUM,
    )  # fmt: skip
    if row < n_started and program < n_rows:
        result += tl.load(out + row * dim + dims, mask=within, other=0.0)
    _put(out, extra, program, row, n_rows, result, dims, within, dim)


class _Launch(NamedTuple):
    """What all kernels of one aggregation are compiled for, and the precision of their sums."""

    options: dict[str, Any]
    message: dict[str, Any]
    sums: torch.dtype

    @classmethod
    def of(cls, graph: KnowledgePattern, entity: Tensor, rule: MessageRule) -> _Launch:
        sums, total = accumulator(entity.dtype)
        flat = rule.geometry == "euclidean"
        tile = tile_of_messages(entity.shape[1], graph.n_edges / max(1, graph.pairs.n_rows))
        options = {"PIECE": PIECE, "ROWS": tile.rows, "DIMS": tile.dims, "SUM": total, "num_warps": tile.warps}
        limit = max_norm(sums, c=1.0, margin=rule.margin)
        message = {"CURVATURE": float(rule.curvature), "PAPER": rule.formulation == "paper", "LIMIT": limit}
        return cls({**options, "FLAT": flat}, message, sums)

    @property
    def widens(self) -> bool:
        """Whether some heads may need more precision than the sums have."""
        return self.sums == torch.float32 and not self.options["FLAT"]

    def combine(self, out: Tensor, extra: Tensor, pieces: Pieces) -> None:
        """Add the rows' further pieces to the first."""
        if pieces.bound:
            dims = self.options["DIMS"]
            combine_kernel[(len(out),)](out, extra, pieces.first, out.shape[1], DIMS=dims, num_warps=1)


class _Outer(NamedTuple):
    """Programs of outer heads, int32, and their number, int32 ``[1]``: known to the device alone.

    The list's order is that in which they ran. Each of its programs computes the same, whichever its place.
    """

    programs: Tensor
    number: Tensor


def tile_of_messages(dim: int, mean_degree: float) -> TileShape:
    """As many edges at a time as the registers hold by what ptxas reports for compute capability 9.0.

    8 to 32, few where most heads have few; a warp for 512 numbers. Where each thread computes the coefficients of all
    edges whose rows it holds parts of, only few.
    """
    dims = triton.next_power_of_2(dim)
    if not SPREADS or dims > 256:
        rows = min(32, max(4, 128 // dims))
        return TileShape(rows, dims, min(8, max(1, rows * dims // 256)))
    rows = min(32, max(8, dims // 8, (512 if mean_degree < 12 else 1024) // dims))
    return TileShape(rows, dims, min(8, max(1, rows * dims // 512)))


def _forward(launch: _Launch, graph: KnowledgePattern, entity: Tensor, relation: Tensor) -> tuple[Tensor, _Outer]:
    pairs, dim = graph.pairs, entity.shape[1]
    out = entity.new_empty(pairs.n_rows, dim, dtype=launch.sums)
    count = torch.zeros(1, dtype=torch.int32, device=out.device)
    if out.numel() == 0 or graph.n_edges == 0:
        return out.zero_(), _Outer(count, count)
    pieces = pieces_for(pairs.by_row, graph.n_edges, PIECE)
    programs = pairs.n_rows + pieces.bound
    outer = _Outer(count.new_empty(programs if launch.widens else 0), count)
    extra = out.new_empty(pieces.bound, dim)
    arguments = (
        pairs.by_row.indptr, pairs.cols, graph.relation, entity, relation, out, extra, pieces.first, pieces.row, *outer,
        pairs.n_rows, dim,
    )  # fmt: skip
    _forward_kernel[(programs,)](*arguments, WIDEN=launch.widens, **launch.message, **launch.options)
    if launch.widens:
        _outer_forward_kernel[(min(programs, OUTER_PROGRAMS),)](*arguments, **launch.message, **launch.options)
    launch.combine(out, extra, pieces)
    return out, outer


def _backward(
    launch: _Launch, graph: KnowledgePattern, entity: Tensor, relation: Tensor, grad: Tensor, outer: _Outer
) -> tuple[Tensor, Tensor]:  # fmt: skip
    pairs, dim = graph.pairs, entity.shape[1]
    empty = grad.numel() == 0 or graph.n_edges == 0
    fresh = entity.new_zeros if empty else entity.new_empty
    grad_entity, grad_relation = (fresh(x.shape, dtype=launch.sums) for x in (entity, relation))
    if empty:
        return grad_entity, grad_relation
    pieces = pieces_for(pairs.by_row, graph.n_edges, PIECE)
    programs, options = pairs.n_rows + pieces.bound, {**launch.message, **launch.options}
    extra = grad_entity.new_empty(pieces.bound, dim)
    shares = grad_entity.new_empty(graph.n_edges * SHARES.value)
    arguments = (
        pairs.by_row.indptr, pairs.cols, graph.relation, entity, relation, grad, grad_entity, shares,
        extra, pieces.first, pieces.row,
    )  # fmt: skip
    _backward_kernel[(programs,)](*arguments, pairs.n_rows, dim, WIDEN=launch.widens, **options)
    if launch.widens:
        _outer_backward_kernel[(min(programs, OUTER_PROGRAMS),)](*arguments, *outer, pairs.n_rows, dim, **options)
    launch.combine(grad_entity[: pairs.n_rows], extra, pieces)
    ends = (entity, relation, graph.relation, shares, grad_entity)
    _spread(launch, graph, pairs.by_col, *ends, grad=grad, entity=entity, n_started=pairs.n_rows)
    ends = (relation, entity, pairs.cols, shares[4:], grad_relation)
    _spread(launch, graph, graph.by_relation, *ends, grad=grad, entity=entity, n_started=0)
    return grad_entity, grad_relation


def _spread(
    launch: _Launch, graph: KnowledgePattern, grouping: Grouping, own: Tensor, other: Tensor, others: Tensor,
    shares: Tensor, out: Tensor, *, grad: Tensor, entity: Tensor, n_started: int,
) -> None:  # fmt: skip
    """Gradient of the grouping's rows (``own``); ``others`` of the table ``other`` are their edges' other ends."""
    n_rows, dim = own.shape
    pieces = pieces_for(grouping, graph.n_edges, PIECE)
    extra = out.new_empty(pieces.bound, dim)
    order = torch.arange(graph.n_edges, device=out.device) if grouping.order is None else grouping.order
    _spread_kernel[(n_rows + pieces.bound,)](
        grouping.indptr, order, graph.pairs.rows, others, shares, grad, entity, own, other, out, extra, pieces.first,
        pieces.row, n_rows, n_started, dim, **launch.options,
    )  # fmt: skip
    launch.combine(out, extra, pieces)


class _Aggregate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, graph: KnowledgePattern, rule: MessageRule, rounded: bool, entity: Tensor, relation: Tensor
    ) -> Tensor:
        ctx.graph, ctx.dtype = graph, entity.dtype
        entity, relation = ((x.bfloat16() if rounded else x).contiguous() for x in (entity, relation))
        ctx.launch = _Launch.of(graph, entity, rule)
        with torch.cuda.device_of(entity):
            out, outer = _forward(ctx.launch, graph, entity, relation)
        ctx.save_for_backward(entity, relation, *outer)
        return out.to(ctx.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        entity, relation, *outer = ctx.saved_tensors
        with torch.cuda.device_of(entity):
            gradients = _backward(ctx.launch, ctx.graph, entity, relation, grad.contiguous(), _Outer(*outer))
        return None, None, None, *(x.to(ctx.dtype) for x in gradients)


def relation_transitive_mean(
    graph: KnowledgePattern, entity: Tensor, relation: Tensor, rule: MessageRule, *, bfloat16: bool = False
) -> Tensor:
    """Mean of the messages each head receives, zero where it receives none (HAKG eqs. 4-5).

    The meaning is that of :func:`hakg_dgl.kernels.aggregation.relation_transitive_mean`. Nothing is read back from
    the device.

    Parameters
    ----------
    graph
        Knowledge graph with inverses, int32 or int64; its heads may be the first entities only.
    entity, relation
        Tangent vectors at the origin, ``[n_entities, d]`` and ``[2R, d]`` of one dtype: float32, float64, or bfloat16
        with sums in float32.
    rule
        Formulation, geometry, curvature, margin.
    bfloat16
        Gather from copies of float32 tables in bfloat16; result and gradients are float32.

    Returns
    -------
    Tensor
        ``[n_heads, d]`` of the dtype of ``entity``, differentiable in ``entity`` and ``relation``.

    Notes
    -----
    Tables of float64 have no wider type to turn to: heads at the very edge then agree with the readable path as far as
    rounding errors, which grow by the squared conformal factor, let them.
    """
    mean: Tensor = _Aggregate.apply(graph, rule, bfloat16, entity, relation)
    return mean
