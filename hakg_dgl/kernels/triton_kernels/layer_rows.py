# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code="no-untyped-def,no-untyped-call,misc"
"""What a layer does row by row, between its sums: put pieces together, drop, normalise, add; and back.

The rows of users, of items and of entities lie one after the other in one table, so that each of these is one launch
for all three. Entities begin at row ``entities``. The pieces of a row are ``first`` to ``last``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hakg_dgl.geometry import guards
from hakg_dgl.kernels.triton_kernels.edge_lists import kept_before
from hakg_dgl.kernels.triton_kernels.products import add_pieces

_FLOOR = tl.constexpr(guards.ROW_NORM_FLOOR)


@triton.jit
def _scale_of(row, live, first, last, bounds, counts, scale, entities, SUM: tl.constexpr):
    """What sums are multiplied by: one over the number of kept facts for entities, numbers of their own for others."""
    mean = live & (row >= entities)
    begin, end = tl.load(first + row, mask=mean, other=0), tl.load(last + row, mask=mean, other=0)
    degree = kept_before(bounds, counts, end) - kept_before(bounds, counts, begin)
    own = tl.load(scale + row, mask=live & (row < entities), other=1.0)
    return tl.where(mean, 1.0 / tl.maximum(degree, 1).to(SUM), own)


@triton.jit
def _is_kept(words, row, inside, dims, dim, users, entities, user_words, item_words, entity_words, LIMIT: tl.constexpr):
    """Which coordinates dropout keeps, ``[ROWS, DIMS]``."""
    start = tl.where(row < users, user_words, tl.where(row < entities, item_words, entity_words)).to(tl.int64)
    skipped = tl.where(row < users, 0, tl.where(row < entities, users, entities))
    word = start + (row - skipped).to(tl.int64) * dim
    drawn = tl.load(words + word[:, None] + dims[None, :], mask=inside, other=0).to(tl.int32)
    return drawn >= LIMIT


@triton.jit
def finish_kernel(
    pieces, first, last, bounds, counts, scale, words, sums, out, inverse, new_sums, n_rows, n_sums, users, entities,
    user_words, item_words, entity_words, dim,
    DROPS: tl.constexpr, LIMIT: tl.constexpr, ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Sums of pieces, scaled, dropped and normalised; and added to the running sums of the first ``n_sums`` rows."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = row < n_rows
    dims = tl.arange(0, DIMS)
    within = dims < dim
    inside = live[:, None] & within[None, :]
    begin, end = tl.load(first + row, mask=live, other=0), tl.load(last + row, mask=live, other=0)
    x = add_pieces(tl.zeros([ROWS, DIMS], dtype=SUM), pieces, begin, end, dims, within, dim)
    x *= _scale_of(row, live, first, last, bounds, counts, scale, entities, SUM)[:, None]
    if DROPS:
        kept = _is_kept(words, row, inside, dims, dim, users, entities, user_words, item_words, entity_words, LIMIT)
        x = tl.where(kept, x, 0.0)
    over = 1.0 / tl.maximum(tl.sqrt(tl.sum(x * x, 1)), _FLOOR)
    unit = x * over[:, None]
    place = row.to(tl.int64)[:, None] * dim + dims[None, :]
    tl.store(out + place, unit, mask=inside)
    tl.store(inverse + row, over, mask=live)
    summed = inside & (row < n_sums)[:, None]
    tl.store(new_sums + place, tl.load(sums + place, mask=summed, other=0.0) + unit, mask=summed)


@triton.jit
def collect_kernel(
    pieces, first, last, tail_first, bounds, counts, mixed, sent, scale, words, unit, inverse,
    user_grad, item_grad, entity_grad, out, n_rows, n_sums, n_heads, tails_lie, users, entities, n_mixed,
    user_words, item_words, entity_words, dim,
    ABOVE: tl.constexpr, BELOW: tl.constexpr, COPIED: tl.constexpr, DROPS: tl.constexpr, LIMIT: tl.constexpr,
    ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Gradient of what a layer's sums were, or (without ``BELOW``) of what enters the first layer.

    The gradient of a row that left a layer is that of the running sums (of the first ``n_sums`` rows), and, if there is
    a layer ``ABOVE``, what this one makes of it: pieces as a user whose rows were ``COPIED`` (times ``sent``) or as one
    of ``n_heads`` heads, pieces as a tail (those numbered from ``tails_lie`` on begin a table), and ``mixed`` of the
    gate. ``BELOW`` is through normalisation, dropout and scale.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = row < n_rows
    dims = tl.arange(0, DIMS)
    within = dims < dim
    inside = live[:, None] & within[None, :]
    place = row.to(tl.int64)[:, None] * dim + dims[None, :]
    item_place = (row.to(tl.int64) - users)[:, None] * dim + dims[None, :]
    is_user, is_entity = live & (row < users), live & (row >= entities)
    is_item = live & (row >= users) & (row < entities)
    total = tl.zeros([ROWS, DIMS], dtype=SUM)
    if ABOVE:
        own = (is_user & COPIED) | (is_entity & (row < entities + n_heads))
        begin, end = tl.load(first + row, mask=own, other=0), tl.load(last + row, mask=own, other=0)
        total = add_pieces(total, pieces, begin, end, dims, within, dim)
        total *= tl.load(sent + row, mask=live, other=0.0)[:, None]
        entity = row - entities
        begin = tl.load(tail_first + entity, mask=is_entity, other=0) - tails_lie
        end = tl.load(tail_first + entity + 1, mask=is_entity, other=0) - tails_lie
        total = add_pieces(total, pieces, begin, end, dims, within, dim)
        mixes = inside & ((row >= users) & (row < users + n_mixed))[:, None]
        total += tl.load(mixed + item_place, mask=mixes, other=0.0)
    total += tl.load(user_grad + place, mask=is_user[:, None] & within[None, :], other=0.0)
    total += tl.load(item_grad + item_place, mask=is_item[:, None] & within[None, :], other=0.0)
    summed = (is_entity & (row < n_sums))[:, None] & within[None, :]
    entity_place = (row.to(tl.int64) - entities)[:, None] * dim + dims[None, :]
    total += tl.load(entity_grad + entity_place, mask=summed, other=0.0)
    if BELOW:
        direction = tl.load(unit + place, mask=inside, other=0.0)
        along = tl.sum(total * direction, 1)
        total = (total - along[:, None] * direction) * tl.load(inverse + row, mask=live, other=0.0)[:, None]
        if DROPS:
            kept = _is_kept(words, row, inside, dims, dim, users, entities, user_words, item_words, entity_words, LIMIT)
            total = tl.where(kept, total, 0.0)
        total *= _scale_of(row, live, first, last, bounds, counts, scale, entities, SUM)[:, None]
    tl.store(out + place, total, mask=inside)


@triton.jit
def piece_kernel(
    pieces, first, sent, out, n_rows, dim, ROWS: tl.constexpr, DIMS: tl.constexpr, SUM: tl.constexpr
):  # fmt: skip
    """Sums of pieces, times ``sent``."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = row < n_rows
    dims = tl.arange(0, DIMS)
    within = dims < dim
    begin, end = tl.load(first + row, mask=live, other=0), tl.load(first + row + 1, mask=live, other=0)
    total = add_pieces(tl.zeros([ROWS, DIMS], dtype=SUM), pieces, begin, end, dims, within, dim)
    total *= tl.load(sent + row, mask=live, other=0.0)[:, None]
    tl.store(out + row.to(tl.int64)[:, None] * dim + dims[None, :], total, mask=live[:, None] & within[None, :])
