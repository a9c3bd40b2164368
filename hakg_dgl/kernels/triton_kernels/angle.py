"""The angle loss in one pass over its pairs' rows, and its gradient in one pass over the ends of these.

The first pass gathers both ends of each pair and writes three numbers, their squared norms and their inner product.
From these a second kernel has both excesses and puts their slopes by the three in the same place. The backward pass
adds up, for each entity, its partners in pairs by their slopes. Formulas are those of :mod:`hakg_dgl.geometry.cones`,
in float32.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from torch import Tensor

from hakg_dgl.geometry import guards
from hakg_dgl.geometry.message import MessageRule
from hakg_dgl.graph.packed import Grouping, SparsePattern
from hakg_dgl.kernels.triton_kernels.coefficients import _ball_point
from hakg_dgl.kernels.triton_kernels.products import PIECE, combine_kernel, pieces_for, place_of, tile_shape

_FLOOR = tl.constexpr(guards.SQUARED_NORM_FLOOR)
_MARGIN = tl.constexpr(guards.ANGLE_MARGIN)
_LIMIT = tl.constexpr(1.0 - guards.ANGLE_MARGIN)
_PAIRS = 128
"""Of a program that has numbers of pairs alone."""
_HALF_PI, _PI = tl.constexpr(math.pi / 2), tl.constexpr(math.pi)


class Angle(NamedTuple):
    """What an angle loss is, apart from its pairs; see :class:`~hakg_dgl.layers.losses.AngleLoss`."""

    rule: MessageRule
    aperture: float
    both: bool
    dropout: float


@triton.jit
def _arcsine(x):
    """asin of x in [-1, 1] to about float32's precision: the minimax polynomial of Cephes' asinf."""
    size = tl.abs(x)
    far = size > 0.5
    z = tl.where(far, 0.5 * (1.0 - size), size * size)
    root = tl.where(far, tl.sqrt(z), size)
    series = (((4.2163199048e-2 * z + 2.4181311049e-2) * z + 4.5470025998e-2) * z + 7.4953002686e-2) * z
    near = root + (series + 1.6666752422e-1) * z * root
    angle = tl.where(far, _HALF_PI - 2.0 * near, near)
    return tl.where(x < 0.0, -angle, angle), near, far


@triton.jit
def _arccosine(x):
    angle, near, far = _arcsine(x)
    beside = tl.where(x < 0.0, _PI - 2.0 * near, 2.0 * near)
    return tl.where(far, beside, _HALF_PI - angle)


@triton.jit
def _root(squared):
    """Floored square root and its slope."""
    root = tl.sqrt(tl.maximum(squared, _FLOOR))
    return root, tl.where(squared >= _FLOOR, 0.5 / root, 0.0)


@triton.jit
def _opening(apex, APERTURE: tl.constexpr, FLAT: tl.constexpr):
    """Half aperture of the cone and its slope."""
    kept = apex if FLAT else tl.minimum(apex, _LIMIT)
    above = 1.0 if FLAT else 1.0 - kept
    root, slope = _root(kept)
    sine = APERTURE * above / root
    d_sine = -sine * slope / root
    if not FLAT:
        d_sine = tl.where(apex <= _LIMIT, d_sine - APERTURE / root, 0.0)
    clipped = tl.minimum(tl.maximum(sine, -_LIMIT), _LIMIT)
    inside = tl.abs(sine) <= _LIMIT
    angle, _, _ = _arcsine(clipped)
    return angle, tl.where(inside, d_sine / tl.sqrt(1.0 - clipped * clipped), 0.0)


@triton.jit
def _excess(apex, point, dot, APERTURE: tl.constexpr, FLAT: tl.constexpr):
    """How far a point is outside the cone, and the slopes of that by both squared norms and the inner product."""
    opening, d_opening = _opening(apex, APERTURE, FLAT)
    length, d_length = _root(apex)
    gap, d_gap = _root(apex + point - 2.0 * dot)
    if FLAT:
        root, d_root = 1.0, 0.0
        above, above_apex, above_point, above_dot = dot - apex, -1.0, 0.0, 1.0
    else:
        radicand = 1.0 + apex * point - 2.0 * dot
        root = tl.sqrt(tl.maximum(radicand, _MARGIN))
        d_root = tl.where(radicand >= _MARGIN, 0.5 / root, 0.0)
        above = dot * (1.0 + apex) - apex * (1.0 + point)
        above_apex, above_point, above_dot = dot - (1.0 + point), -apex, 1.0 + apex
    below = length * gap * root + _MARGIN
    through_gap, through_root = length * root * d_gap, length * gap * d_root
    inverse = 1.0 / below
    cosine = above * inverse
    clipped = tl.minimum(tl.maximum(cosine, -_LIMIT), _LIMIT)
    d_cosine = tl.where(tl.abs(cosine) <= _LIMIT, -inverse / tl.sqrt(1.0 - clipped * clipped), 0.0)
    below_apex = d_length * gap * root + through_gap + through_root * point
    below_point = through_gap + through_root * apex
    below_dot = -2.0 * (through_gap + through_root)
    excess = _arccosine(clipped) - opening
    outside = excess >= 0.0
    d_apex = tl.where(outside, d_cosine * (above_apex - cosine * below_apex) - d_opening, 0.0)
    d_point = tl.where(outside, d_cosine * (above_point - cosine * below_point), 0.0)
    d_dot = tl.where(outside, d_cosine * (above_dot - cosine * below_dot), 0.0)
    return tl.maximum(excess, 0.0), d_apex, d_point, d_dot


@triton.jit
def _gram_kernel(
    rows, cols, entity, drawn, gram, n_pairs, dim,
    DROPOUT: tl.constexpr, MASKED: tl.constexpr, ROWS: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """Squared norms of both ends of each pair, and their inner product: three rows of ``gram``."""
    pair = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = pair < n_pairs
    dims = tl.arange(0, DIMS)
    kept = dims < dim
    if MASKED:
        kept = kept & (tl.load(drawn + dims, mask=kept, other=0.0) >= DROPOUT)
    row = tl.load(rows + pair, mask=live, other=0).to(tl.int64)
    col = tl.load(cols + pair, mask=live, other=0).to(tl.int64)
    inside = live[:, None] & kept[None, :]
    item = tl.load(entity + row[:, None] * dim + dims[None, :], mask=inside, other=0.0)
    attribute = tl.load(entity + col[:, None] * dim + dims[None, :], mask=inside, other=0.0)
    tl.store(gram + pair, tl.sum(item * item, 1), mask=live)
    tl.store(gram + n_pairs + pair, tl.sum(attribute * attribute, 1), mask=live)
    tl.store(gram + 2 * n_pairs + pair, tl.sum(item * attribute, 1), mask=live)


@triton.jit
def _slopes_kernel(
    gram, total, n_pairs, scale, CURVATURE: tl.constexpr, LIMIT: tl.constexpr, APERTURE: tl.constexpr,
    FLAT: tl.constexpr, MAPPED: tl.constexpr, BOTH: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Excesses, and their slopes in the place of the inner products: a pair a thread, as no tile of rows would have."""
    program = tl.program_id(0).to(tl.int64)
    pair = program * PAIRS + tl.arange(0, PAIRS)
    live = pair < n_pairs
    xx = tl.load(gram + pair, mask=live, other=0.0)
    yy = tl.load(gram + n_pairs + pair, mask=live, other=0.0)
    xy = tl.load(gram + 2 * n_pairs + pair, mask=live, other=0.0)
    # Points on the unit ball, and their slopes by what they are made of; in flat space the vectors are the points.
    ball = 1.0 if FLAT else CURVATURE
    x_norm, y_norm, shared = ball * xx, ball * yy, ball
    x_slope, y_slope, shared_x, shared_y = ball, ball, 0.0, 0.0
    if MAPPED:
        x_scale, x_norm, x_scale_slope, x_norm_slope = _ball_point(CURVATURE * xx, LIMIT)
        y_scale, y_norm, y_scale_slope, y_norm_slope = _ball_point(CURVATURE * yy, LIMIT)
        x_slope, y_slope, shared = CURVATURE * x_norm_slope, CURVATURE * y_norm_slope, CURVATURE * x_scale * y_scale
        shared_x = CURVATURE * CURVATURE * x_scale_slope * y_scale
        shared_y = CURVATURE * CURVATURE * x_scale * y_scale_slope
    excess, d_y, d_x, d_dot = _excess(y_norm, x_norm, shared * xy, APERTURE, FLAT)
    if BOTH:
        more, more_x, more_y, more_dot = _excess(x_norm, y_norm, shared * xy, APERTURE, FLAT)
        excess, d_x, d_y, d_dot = excess + more, d_x + more_x, d_y + more_y, d_dot + more_dot
    tl.store(gram + pair, scale * (d_x * x_slope + d_dot * xy * shared_x), mask=live)
    tl.store(gram + n_pairs + pair, scale * (d_y * y_slope + d_dot * xy * shared_y), mask=live)
    tl.store(gram + 2 * n_pairs + pair, scale * d_dot * shared, mask=live)
    tl.store(total + program, scale * tl.sum(tl.where(live, excess, 0.0), 0))


@triton.jit
def _ends_kernel(
    indptr, partners, places, slopes, entity, drawn, upstream, out, extra, first, piece_row, n_entities, n_pairs, dim,
    DROPOUT: tl.constexpr, MASKED: tl.constexpr, PIECE: tl.constexpr, ROWS: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    row, begin, end = place_of(program, indptr, first, piece_row, n_entities, PIECE)
    dims = tl.arange(0, DIMS)
    within = dims < dim
    kept = within
    if MASKED:
        kept = kept & (tl.load(drawn + dims, mask=kept, other=0.0) >= DROPOUT)
    total = tl.zeros([ROWS, DIMS], dtype=tl.float32)
    own = tl.zeros([ROWS], dtype=tl.float32)
    for start in range(begin, end, ROWS):
        at = start + tl.arange(0, ROWS)
        live = at < end
        place = tl.load(places + at, mask=live, other=0)
        pair = tl.where(place < n_pairs, place, place - n_pairs)
        own += tl.load(slopes + place, mask=live, other=0.0)
        weight = tl.load(slopes + 2 * n_pairs + pair, mask=live, other=0.0)
        live = live & (weight != 0.0)
        partner = tl.load(partners + at, mask=live, other=0).to(tl.int64)
        inside = live[:, None] & kept[None, :]
        tile = tl.load(entity + partner[:, None] * dim + dims[None, :], mask=inside, other=0.0)
        total += weight[:, None] * tile
    exists = row < n_entities
    mine = tl.load(entity + row * dim + dims, mask=kept & exists, other=0.0)
    result = (tl.sum(total, 0) + 2.0 * tl.sum(own, 0) * mine) * tl.load(upstream)
    result = tl.where(kept, result, 0.0)
    if program < n_entities:
        tl.store(out + row * dim + dims, result, mask=within)
    elif exists:
        tl.store(extra + (program - n_entities).to(tl.int64) * dim + dims, result, mask=within)


class Ends(NamedTuple):
    """The ends of pairs grouped by entity: each pair is there twice, once for each of its ends.

    Attributes
    ----------
    by_entity
        Bounds of each entity's ends.
    partner
        int64 ``[2 n_pairs]``: the entity at the other end.
    place
        int64: number of the pair, and for attributes ``n_pairs`` more.
    """

    by_entity: Grouping
    partner: Tensor
    place: Tensor


_ends_of: WeakKeyDictionary[SparsePattern, dict[int, Ends]] = WeakKeyDictionary()


def ends_of(pairs: SparsePattern, n_entities: int) -> Ends:
    """The ends of a pattern's pairs, found once and kept as long as the pattern."""
    found = _ends_of.setdefault(pairs, {})
    if n_entities not in found:
        own, partner = torch.cat([pairs.rows, pairs.cols]), torch.cat([pairs.cols, pairs.rows])
        keys, place = torch.sort(own, stable=True)
        bounds = torch.arange(n_entities + 1, device=own.device)
        found[n_entities] = Ends(Grouping(torch.searchsorted(keys, bounds), None), partner[place], place)
    return found[n_entities]


class _ConeExcess(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pairs: SparsePattern, angle: Angle, entity: Tensor, drawn: Tensor | None) -> Tensor:
        entity = entity.contiguous()
        n_pairs, dim, rule, tile = pairs.n_edges, entity.shape[1], angle.rule, tile_shape(entity.shape[1])
        n_programs, flat = triton.cdiv(n_pairs, _PAIRS), rule.geometry == "euclidean"
        slopes, total = entity.new_empty(3 * n_pairs), entity.new_empty(n_programs)
        _gram_kernel[(triton.cdiv(n_pairs, tile.rows),)](
            pairs.rows, pairs.cols, entity, entity if drawn is None else drawn, slopes, n_pairs, dim,
            DROPOUT=angle.dropout, MASKED=drawn is not None, ROWS=tile.rows, DIMS=tile.dims, num_warps=tile.warps,
        )  # fmt: skip
        _slopes_kernel[(n_programs,)](
            slopes, total, n_pairs, 0.5 / n_pairs if angle.both else 1.0 / n_pairs, CURVATURE=rule.curvature,
            LIMIT=guards.max_norm(entity.dtype, c=1.0, margin=rule.margin), APERTURE=angle.aperture,
            FLAT=flat, MAPPED=not flat and rule.formulation == "paper", BOTH=angle.both, PAIRS=_PAIRS, num_warps=4,
        )  # fmt: skip
        ctx.pairs, ctx.angle, ctx.masked = pairs, angle, drawn is not None
        ctx.save_for_backward(entity, slopes, entity if drawn is None else drawn)
        return total.sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor, None]:
        entity, slopes, drawn = ctx.saved_tensors
        (n_entities, dim), pairs = entity.shape, ctx.pairs
        ends, tile, out = ends_of(pairs, n_entities), tile_shape(dim), torch.empty_like(entity)
        pieces = pieces_for(ends.by_entity, len(ends.place), PIECE)
        extra = out.new_empty(pieces.bound, dim)
        _ends_kernel[(n_entities + pieces.bound,)](
            ends.by_entity.indptr, ends.partner, ends.place, slopes, entity, drawn, grad, out, extra,
            pieces.first, pieces.row, n_entities, pairs.n_edges, dim,
            DROPOUT=ctx.angle.dropout, MASKED=ctx.masked, PIECE=PIECE,
            ROWS=tile.rows, DIMS=tile.dims, num_warps=tile.warps,
        )  # fmt: skip
        if pieces.bound:
            combine_kernel[(n_entities,)](out, extra, pieces.first, dim, DIMS=tile.dims, num_warps=1)
        return None, None, out, None


def mean_cone_excess(pairs: SparsePattern, angle: Angle, entity: Tensor, drawn: Tensor | None) -> Tensor:
    """Mean excess of the angle over the half aperture, of both directions or of the attributes' cones.

    Parameters
    ----------
    pairs
        Of items and attributes, at least one.
    angle
        Which loss.
    entity
        float32 ``[n_entities, d]``.
    drawn
        Uniform numbers ``[d]``: coordinates whose number is below the dropout are left out; None for all of them.

    Returns
    -------
    Tensor
        Scalar, differentiable in ``entity``; the same bits every time.
    """
    result: Tensor = _ConeExcess.apply(pairs, angle, entity, drawn)
    return result
