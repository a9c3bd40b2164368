"""Dropout masks from explicit generators, cheap enough to be drawn for every coordinate of every layer."""

from __future__ import annotations

import torch
from torch import Tensor

_LEVELS = 1 << 16


def _random_words(n: int, generator: torch.Generator) -> Tensor:
    """``[n]`` uniform int16, four from each 64-bit draw."""
    words = torch.empty((n + 3) // 4, dtype=torch.int64, device=generator.device)
    words.random_(-(2**63), None, generator=generator)
    return words.view(torch.int16)[:n]


def draw_mask(n: int, rate: float, generator: torch.Generator) -> Tensor | None:
    """Bool ``[n]``, each false with probability ``rate`` (to within 2^-17); None for rate 0."""
    if rate == 0.0:
        return None
    return _random_words(n, generator) >= round(rate * _LEVELS) - _LEVELS // 2


def drop_coordinates(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Zero each coordinate of ``x`` with probability ``rate`` and scale the others by ``1 / (1 - rate)``.

    The rate is rounded to a multiple of 2^-16, and the scale is that of the rounded rate, so the mean is unchanged.
    """
    if generator is None or rate == 0.0:
        return x
    mask = draw_mask(x.numel(), rate, generator)
    assert mask is not None
    scale = _LEVELS / (_LEVELS - round(rate * _LEVELS))
    return x * mask.view(x.shape).to(x.dtype).mul_(scale)
