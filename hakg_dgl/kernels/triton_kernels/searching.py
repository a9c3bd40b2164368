"""Binary search within a kernel, and the negatives that it finds."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hakg_dgl.kernels.interface import Taken

_BLOCK = 256


@triton.jit
def lower_bound(table, n, value, wanted, STEPS: tl.constexpr):
    """How many of the n ascending numbers of a table are below each value; only where it is ``wanted``."""
    low = value * 0
    high = low + n
    for _ in range(STEPS):
        open = wanted & (low < high)
        middle = (low + high) // 2
        below = tl.load(table + middle, mask=open, other=0) < value
        low = tl.where(open & below, middle + 1, low)
        high = tl.where(open & (below == 0), middle, high)
    return low


@triton.jit
def _is_taken(bits, keys, n_keys, start, item, wanted, FOLD: tl.constexpr, FOLDED: tl.constexpr, STEPS: tl.constexpr):
    slot = ((start & FOLD) + item) & FOLD
    word = tl.load(bits + (slot >> 3), mask=wanted, other=0).to(tl.int32)
    taken = wanted & (((word >> (slot & 7).to(tl.int32)) & 1) != 0)
    if FOLDED:
        key = start + item
        at = lower_bound(keys, n_keys, key, taken, STEPS)
        taken = taken & (tl.load(keys + at, mask=taken & (at < n_keys), other=-1) == key)
    return taken


@triton.jit
def _pick_kernel(
    users, drawn, again, wide, bits, keys, below, first, n_negatives, out, n_places, k, n_keys, n_items,
    FOLD: tl.constexpr, FOLDED: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = place < n_places
    user = tl.load(users + place // k, mask=live, other=0)
    start = user * n_items
    item = tl.load(drawn + place, mask=live, other=0).to(tl.int64)
    taken = _is_taken(bits, keys, n_keys, start, item, live, FOLD, FOLDED, STEPS)
    other = tl.load(again + place, mask=taken, other=0).to(tl.int64)
    item = tl.where(taken, other, item)
    taken = _is_taken(bits, keys, n_keys, start, other, taken, FOLD, FOLDED, STEPS)
    rank = tl.load(wide + place, mask=taken, other=0) % tl.load(n_negatives + user, mask=taken, other=1)
    # As many as are at most start + rank.
    passed = lower_bound(below, n_keys, start + rank + 1, taken, STEPS) - tl.load(first + user, mask=taken, other=0)
    tl.store(out + place, tl.where(taken, rank + passed, item), mask=live)


def pick_negatives(taken: Taken, users: Tensor, drawn: Tensor, again: Tensor, wide: Tensor) -> Tensor:
    """Of three draws for each place the first that is a negative of the user, the third being one by its rank.

    Parameters
    ----------
    taken
        What users have.
    users
        int64 ``[B]``.
    drawn, again
        Items, int32 or int64 ``[B, k]``.
    wide
        int64 ``[B, k]``, uniform below 2^62.

    Returns
    -------
    Tensor
        int64 ``[B, k]``.
    """
    out = torch.empty(drawn.shape, dtype=torch.int64, device=drawn.device)
    n_places, n_keys = out.numel(), len(taken.keys)
    if n_places:
        _pick_kernel[(triton.cdiv(n_places, _BLOCK),)](
            users.contiguous(), drawn, again, wide, taken.bits, taken.keys, taken.below, taken.first, taken.n_negatives,
            out, n_places, drawn.shape[1], n_keys, taken.n_items,
            FOLD=taken.fold, FOLDED=taken.folded, STEPS=n_keys.bit_length(), BLOCK=_BLOCK,
        )  # fmt: skip
    return out
