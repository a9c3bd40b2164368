"""Dropout masks from explicit generators, cheap enough to be drawn for every coordinate of every layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from hakg_dgl.geometry.guards import ROW_NORM_FLOOR
from hakg_dgl.kernels.interface import CompiledBackend, SparseBackend
from hakg_dgl.randomness import CounterStream

Chance: TypeAlias = torch.Generator | CounterStream
"""What masks are drawn from: in the order of draws, or by what is drawn for."""

_LEVELS = 1 << 16


def _dropped_levels(rate: float) -> int:
    """How many of the levels a rate drops: never all, since a rate is below 1."""
    return min(round(rate * _LEVELS), _LEVELS - 1)


def _random_words(n: int, generator: torch.Generator) -> Tensor:
    """``[n]`` uniform int16, four from each 64-bit draw."""
    words = torch.empty((n + 3) // 4, dtype=torch.int64, device=generator.device)
    words.random_(-(2**63), None, generator=generator)
    return words.view(torch.int16)[:n]


def draw_mask(n: int, rate: float, generator: Chance, ids: Tensor | None = None) -> Tensor | None:
    """Bool ``[n]``, each false with probability ``rate`` (to within 2^-17, at most 1 - 2^-16); None for rate 0.

    ``ids`` (int64 ``[n]``; 0 to n - 1 if None) are what a :class:`~hakg_dgl.randomness.CounterStream` draws for.
    """
    if rate == 0.0:
        return None
    if isinstance(generator, CounterStream):
        ids = torch.arange(n, device=generator.device) if ids is None else ids
        return generator.keep(ids, _dropped_levels(rate))
    return _random_words(n, generator) >= _dropped_levels(rate) - _LEVELS // 2


def draw_words(uses: Iterable[tuple[int, float]], generator: torch.Generator) -> tuple[Tensor, list[int], list[int]]:
    """The random words of several calls of :func:`draw_mask` at once, each of ``(n, rate)``.

    Returns
    -------
    words
        int16, on a CPU the same as those of the calls.
    starts
        Where the words of each use begin; those of rate 0 have none.
    limits
        For each use the lowest word that is kept.
    """
    starts, limits, n_words = [], [], 0
    for n, rate in uses:
        starts.append(n_words)
        limits.append(_dropped_levels(rate) - _LEVELS // 2)
        n_words += 0 if rate == 0.0 else 4 * ((n + 3) // 4)
    return _random_words(n_words, generator), starts, limits


class _DropAndNormalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor | None) -> Tensor:
        unit = x.clone()
        if mask is not None:
            unit.mul_(mask)
        length = torch.linalg.vector_norm(unit, dim=1, keepdim=True).clamp_min_(ROW_NORM_FLOOR)
        unit.div_(length)
        ctx.save_for_backward(unit, length, mask)
        return unit

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        unit, length, mask = ctx.saved_tensors
        along = (grad * unit).sum(1, keepdim=True)
        result = torch.addcmul(grad, unit, along, value=-1.0).div_(length)
        return result if mask is None else result.mul_(mask), None


def drop_and_normalise(
    x: Tensor,
    rate: float,
    generator: Chance | None,
    rows: Tensor | None = None,
    *,
    backend: SparseBackend | None = None,
) -> Tensor:
    """Zero each coordinate with probability ``rate``, then divide each row by its L2 norm (floored at 1e-12).

    Dropout's factor ``1 / (1 - rate)`` would cancel in the division, so it is left out.

    Parameters
    ----------
    x
        ``[n, d]``.
    rate
        Share of coordinates dropped, rounded to a multiple of 2^-16.
    generator
        Source of the mask; None switches dropout off.
    rows
        Numbers of the rows, int64 ``[n]``, for a source that draws by them; 0 to n - 1 if None.
    backend
        Who computes; PyTorch's operators unless it is a :class:`~hakg_dgl.kernels.interface.CompiledBackend`.

    Returns
    -------
    Tensor
        ``[n, d]`` with unit rows, zero rows where all of x's coordinates are zero or dropped.
    """
    ids = None
    if rows is not None:
        ids = (rows.unsqueeze(1) * x.shape[1] + torch.arange(x.shape[1], device=x.device)).view(-1)
    mask = None if generator is None else draw_mask(x.numel(), rate, generator, ids)
    mask = None if mask is None else mask.view(x.shape)
    if isinstance(backend, CompiledBackend):
        return backend.normalised(x, mask)
    result: Tensor = _DropAndNormalise.apply(x, mask)  # type: ignore[no-untyped-call]
    return result
