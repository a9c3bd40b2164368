"""The softmax over candidates without a table of scores: an online log-sum of exponentials, as in flash attention.

Dao et al., "FlashAttention", 2022 (arXiv 2205.14135), section 3.1. A program scores a tile of pairs of the batch
against one tile of candidates after the other, and keeps the largest score so far, the sum of exponentials relative
to it, and the sum of the candidates' rows by these, which is the gradient of the user up to a factor. The candidates
are cut into parts so that a GPU is busy, and the parts are put together by a second kernel. The gradient of the
candidates is a pass of its own, in which scores are computed again. Inner products run over the coordinates a few at a
time, so that registers hold a tile whatever d is. Items that a user is known to have are bits of
words, a row a pair.

Products are of three TF32 ones each, which have float32's precision and a GPU's speed for them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hakg_dgl.kernels.triton_kernels.grouped_rows import ById, sum_rows
from hakg_dgl.kernels.triton_kernels.products import tile_shape
from hakg_dgl.kernels.triton_kernels.searching import lower_bound

PARTS = 8
"""Of the candidates, in which scores are summed."""
_LOWEST = tl.constexpr(-1e30)
"""Log-sum of the scores of a user who knows all candidates; finite, so that no NaN arises."""
OWN, OTHER, CHUNK, WARPS, STAGES = 32, 64, 16, 8, 2
"""Of a tile of scores: rows of its own, others, coordinates that a product takes at once.

With fewer of its own than others, each warp has columns of its own in both products; with as many, warps compute the
same. With more of any, the parts of TF32 products do not fit into registers.
"""
WIDEST = 128
"""Columns of a program's gradients; further ones are another program's, which computes the scores once more."""
_KNOWN = 64
"""Known items that a program takes at once."""


class Competition(NamedTuple):
    """The pairs of a step and the items that their positives compete with.

    Attributes
    ----------
    users, positives
        int64 ``[batch]``.
    by_user, by_item
        Their places by user and by item.
    indptr, known
        int64: the items that users are known to have.
    candidates
        int64 ``[m]``, ascending and distinct, or None for all items.
    temperature, log_scale
        What scores are divided by, and what is added to the log-sum of a sample.
    """

    users: Tensor
    positives: Tensor
    by_user: ById
    by_item: ById
    indptr: Tensor
    known: Tensor
    candidates: Tensor | None
    temperature: float
    log_scale: float


@triton.jit
def _known_kernel(
    users, indptr, known, candidates, words, n_candidates, n_words,
    SAMPLED: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Set the bits of the candidates that the user of a pair has."""
    pair = tl.program_id(0).to(tl.int64)
    user = tl.load(users + pair)
    begin, end = tl.load(indptr + user), tl.load(indptr + user + 1)
    for start in range(begin, end, BLOCK):
        at = start + tl.arange(0, BLOCK)
        live = at < end
        slot = tl.load(known + at, mask=live, other=0)
        if SAMPLED:
            item = slot
            slot = lower_bound(candidates, n_candidates, item, live, STEPS)
            live = live & (slot < n_candidates)
            live = live & (tl.load(candidates + slot, mask=live, other=-1) == item)
        bit = tl.full([BLOCK], 1, tl.int32) << (slot % 32).to(tl.int32)
        tl.atomic_or(words + pair * n_words + slot // 32, bit, mask=live, sem="relaxed")


@triton.jit
def _tile(table, ids, live, columns, dim):
    inside = live[:, None] & (columns < dim)[None, :]
    return tl.load(table + ids[:, None] * dim + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _dots(x, own, own_live, z, other, other_live, dim, OWN: tl.constexpr, OTHER: tl.constexpr, CHUNK: tl.constexpr):
    """Inner products of rows of x with rows of z, ``[OWN, OTHER]``, a few coordinates after the other."""
    total = tl.zeros([OWN, OTHER], dtype=tl.float32)
    for start in range(0, dim, CHUNK):
        chunk = start + tl.arange(0, CHUNK)
        rows, others = _tile(x, own, own_live, chunk, dim), _tile(z, other, other_live, chunk, dim)
        total = tl.dot(rows, tl.trans(others), total, input_precision="tf32x3")
    return total


@triton.jit
def _scored_kernel(
    user, item, users, candidates, words, best, total, pulled, n_pairs, n_candidates, n_words, dim, tiles, per_score,
    SAMPLED: tl.constexpr, PAIRS: tl.constexpr, ITEMS: tl.constexpr, CHUNK: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """A tile of pairs and a part of the candidates: largest score, sum of exponentials, and of rows by these."""
    pair, part = tl.program_id(0).to(tl.int64) * PAIRS + tl.arange(0, PAIRS), tl.program_id(1)
    columns = tl.program_id(2) * DIMS + tl.arange(0, DIMS)
    live = pair < n_pairs
    own = tl.load(users + pair, mask=live, other=0)
    most = tl.full([PAIRS], _LOWEST, tl.float32)
    mass = tl.zeros([PAIRS], dtype=tl.float32)
    rows = tl.zeros([PAIRS, DIMS], dtype=tl.float32)
    begin = part * tiles * ITEMS
    for start in range(begin, tl.minimum(begin + tiles * ITEMS, n_candidates), ITEMS):
        slot = start + tl.arange(0, ITEMS)
        inside = slot < n_candidates
        ids = slot.to(tl.int64)
        if SAMPLED:
            ids = tl.load(candidates + slot, mask=inside, other=0)
        score = _dots(user, own, live, item, ids, inside, dim, PAIRS, ITEMS, CHUNK) * per_score
        both = live[:, None] & inside[None, :]
        word = tl.load(words + pair[:, None] * n_words + (slot // 32)[None, :], mask=both, other=-1)
        rival = both & (((word >> (slot % 32)[None, :]) & 1) == 0)
        score = tl.where(rival, score, _LOWEST)
        higher = tl.maximum(most, tl.max(score, 1))
        decay = tl.exp(most - higher)
        share = tl.where(rival, tl.exp(score - higher[:, None]), 0.0)
        mass = mass * decay + tl.sum(share, 1)
        z = _tile(item, ids, inside, columns, dim)
        rows = rows * decay[:, None] + tl.dot(share, z, input_precision="tf32x3")
        most = higher
    place = part * n_pairs + pair
    if tl.program_id(2) == 0:
        tl.store(best + place, most, mask=live)
        tl.store(total + place, mass, mask=live)
    tl.store(pulled + place[:, None] * dim + columns[None, :], rows, mask=live[:, None] & (columns < dim)[None, :])


@triton.jit
def _softplus_and_slope(gap):
    decay = tl.exp(-tl.abs(gap))
    more = tl.where(decay < 1e-3, decay * (1.0 - decay * (0.5 - decay / 3.0)), tl.log(1.0 + decay))
    return tl.maximum(gap, 0.0) + more, tl.where(gap >= 0.0, 1.0, decay) / (1.0 + decay)


@triton.jit
def _joined_kernel(
    user, item, users, positives, best, total, pulled, loss, log_sum, pull, grad, n_pairs, dim,
    per_score, log_scale, per_pair, PARTS: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """A pair: its parts put together, its loss, and the gradient of its user's row."""
    pair = tl.program_id(0).to(tl.int64)
    dims = tl.arange(0, DIMS)
    within = dims < dim
    most = tl.load(best + pair)
    for part in tl.static_range(1, PARTS):
        most = tl.maximum(most, tl.load(best + part * n_pairs + pair))
    mass = most * 0.0
    rows = tl.zeros([DIMS], dtype=tl.float32)
    for part in tl.static_range(PARTS):
        place = part * n_pairs + pair
        decay = tl.exp(tl.load(best + place) - most)
        mass += decay * tl.load(total + place)
        rows += decay * tl.load(pulled + place * dim + dims, mask=within, other=0.0)
    some = mass > 0.0
    whole = tl.where(some, most + tl.log(tl.where(some, mass, 1.0)), _LOWEST)
    x = tl.load(user + tl.load(users + pair) * dim + dims, mask=within, other=0.0) * per_score
    own = tl.load(item + tl.load(positives + pair) * dim + dims, mask=within, other=0.0)
    excess, slope = _softplus_and_slope(whole + log_scale - tl.sum(x * own, 0))
    tl.store(loss + pair, excess * per_pair)
    tl.store(log_sum + pair, whole)
    tl.store(pull + pair, slope * per_pair)
    towards = rows / tl.where(some, mass, 1.0) - own
    tl.store(grad + pair * dim + dims, towards * slope * per_pair * per_score, mask=within)


@triton.jit
def _candidates_kernel(
    user, item, users, candidates, words, log_sum, pull, grad, n_pairs, n_candidates, n_words, dim, per_score,
    SAMPLED: tl.constexpr, PAIRS: tl.constexpr, ITEMS: tl.constexpr, CHUNK: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """A tile of candidates: the gradients of their rows as rivals."""
    slot = tl.program_id(0).to(tl.int64) * ITEMS + tl.arange(0, ITEMS)
    columns = tl.program_id(1) * DIMS + tl.arange(0, DIMS)
    inside = slot < n_candidates
    ids = slot
    if SAMPLED:
        ids = tl.load(candidates + slot, mask=inside, other=0)
    rows = tl.zeros([ITEMS, DIMS], dtype=tl.float32)
    for start in range(0, n_pairs, PAIRS):
        pair = start + tl.arange(0, PAIRS).to(tl.int64)
        live = pair < n_pairs
        own = tl.load(users + pair, mask=live, other=0)
        score = _dots(item, ids, inside, user, own, live, dim, ITEMS, PAIRS, CHUNK) * per_score
        both = inside[:, None] & live[None, :]
        word = tl.load(words + pair[None, :] * n_words + (slot // 32)[:, None], mask=both, other=-1)
        rival = both & (((word >> (slot % 32).to(tl.int32)[:, None]) & 1) == 0)
        score -= tl.load(log_sum + pair, mask=live, other=0.0)[None, :]
        share = tl.exp(tl.where(rival, score, _LOWEST)) * tl.load(pull + pair, mask=live, other=0.0)[None, :]
        rows += tl.dot(share, _tile(user, own, live, columns, dim), input_precision="tf32x3")
    place = slot[:, None] * dim + columns[None, :]
    tl.store(grad + place, rows * per_score, mask=inside[:, None] & (columns < dim)[None, :])


@triton.jit
def _items_kernel(
    user, users, candidates, indptr, order, pull, rivals, upstream, out, n_candidates, dim, per_score,
    SAMPLED: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """An item: its gradient as a rival, where it is one, and as a positive."""
    item = tl.program_id(0).to(tl.int64)
    dims = tl.arange(0, DIMS)
    within = dims < dim
    total = tl.zeros([ROWS, DIMS], dtype=tl.float32)
    for start in range(tl.load(indptr + item), tl.load(indptr + item + 1), ROWS):
        at = start + tl.arange(0, ROWS)
        live = at < tl.load(indptr + item + 1)
        pair = tl.load(order + at, mask=live, other=0)
        x = _tile(user, tl.load(users + pair, mask=live, other=0), live, dims, dim)
        total += tl.load(pull + pair, mask=live, other=0.0)[:, None] * x
    slot = item
    rival = item >= 0
    if SAMPLED:
        slot = lower_bound(candidates, n_candidates, item, rival, STEPS)
        rival = slot < n_candidates
        rival = rival & (tl.load(candidates + slot, mask=rival, other=-1) == item)
    rows = tl.load(rivals + slot * dim + dims, mask=within & rival, other=0.0)
    tl.store(out + item * dim + dims, (rows - tl.sum(total, 0) * per_score) * tl.load(upstream), mask=within)


def _columns(dim: int) -> int:
    return min(WIDEST, max(16, int(triton.next_power_of_2(dim))))


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: Competition, user: Tensor, item: Tensor) -> Tensor:
        user, item = user.contiguous(), item.contiguous()
        n_pairs, dim = len(step.users), user.shape[1]
        sampled, n_candidates = step.candidates is not None, len(item if step.candidates is None else step.candidates)
        candidates = step.users if step.candidates is None else step.candidates
        n_words, per_score = triton.cdiv(n_candidates, 32), 1.0 / step.temperature
        words = torch.zeros(n_pairs, n_words, dtype=torch.int32, device=user.device)
        _known_kernel[(n_pairs,)](
            step.users, step.indptr, step.known, candidates, words, n_candidates, n_words,
            SAMPLED=sampled, STEPS=n_candidates.bit_length(), BLOCK=_KNOWN,
        )  # fmt: skip
        tiles = triton.cdiv(n_candidates, OTHER * PARTS)
        parts = triton.cdiv(n_candidates, OTHER * tiles)
        best, total = user.new_empty(parts, n_pairs), user.new_empty(parts, n_pairs)
        pulled, grad = user.new_empty(parts, n_pairs, dim), user.new_empty(n_pairs, dim)
        _scored_kernel[(triton.cdiv(n_pairs, OWN), parts, triton.cdiv(dim, WIDEST))](
            user, item, step.users, candidates, words, best, total, pulled,
            n_pairs, n_candidates, n_words, dim, tiles, per_score,
            SAMPLED=sampled, PAIRS=OWN, ITEMS=OTHER, CHUNK=CHUNK, DIMS=_columns(dim),
            num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
        loss, log_sum, pull = (user.new_empty(n_pairs) for _ in range(3))
        _joined_kernel[(n_pairs,)](
            user, item, step.users, step.positives, best, total, pulled, loss, log_sum, pull, grad, n_pairs, dim,
            per_score, step.log_scale, 1.0 / n_pairs, PARTS=parts, DIMS=triton.next_power_of_2(dim), num_warps=1,
        )  # fmt: skip
        ctx.step, ctx.sampled, ctx.n_candidates = step, sampled, n_candidates
        ctx.save_for_backward(user, item, candidates, words, log_sum, pull, grad)
        return loss.sum()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, Tensor, Tensor]:
        user, item, candidates, words, log_sum, pull, grad = ctx.saved_tensors
        step: Competition = ctx.step
        n_candidates, sampled, dim = ctx.n_candidates, ctx.sampled, user.shape[1]
        per_score = 1.0 / step.temperature
        rivals, out, tile = user.new_empty(n_candidates, dim), torch.empty_like(item), tile_shape(dim, 512)
        _candidates_kernel[(triton.cdiv(n_candidates, OWN), triton.cdiv(dim, WIDEST))](
            user, item, step.users, candidates, words, log_sum, pull, rivals,
            len(step.users), n_candidates, words.shape[1], dim, per_score,
            SAMPLED=sampled, PAIRS=OTHER, ITEMS=OWN, CHUNK=CHUNK, DIMS=_columns(dim),
            num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
        _items_kernel[(len(item),)](
            user, step.users, candidates, step.by_item.indptr, step.by_item.order, pull, rivals, upstream, out,
            n_candidates, dim, per_score,
            SAMPLED=sampled, STEPS=n_candidates.bit_length(), ROWS=tile.rows, DIMS=tile.dims, num_warps=tile.warps,
        )  # fmt: skip
        return None, sum_rows(step.by_user, grad, upstream), out


def softmax_loss(step: Competition, user: Tensor, item: Tensor) -> Tensor:
    """Mean over the pairs of the cross-entropy; see :func:`hakg_dgl.layers.losses.softmax_loss`.

    Parameters
    ----------
    step
        At least one pair and one candidate.
    user, item
        float32 ``[n_users, d]`` and ``[n_items, d]``.

    Returns
    -------
    Tensor
        Scalar, differentiable in both; the same bits every time.
    """
    result: Tensor = _Softmax.apply(step, user, item)
    return result
