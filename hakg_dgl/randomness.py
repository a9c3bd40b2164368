"""Random streams: every use of chance draws from its own generator, all derived from the one seed.

Separate streams mean that changing one setting (say, the number of negatives) leaves the others' draws
(initialisation, batches, dropout) as they were.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def stream_seed(seed: int, stream: str) -> int:
    """A 63-bit seed for the named stream of the given seed (SHA-256 of both, so names are independent)."""
    digest = hashlib.sha256(f"hakg:{seed}:{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def torch_generator(seed: int, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A ``torch.Generator`` on ``device`` for the named stream of ``seed``."""
    generator = torch.Generator(device=device)
    generator.manual_seed(stream_seed(seed, stream))
    return generator


def numpy_generator(seed: int, stream: str) -> np.random.Generator:
    """A ``numpy.random.Generator`` (PCG64) for the named stream of ``seed``."""
    return np.random.default_rng(stream_seed(seed, stream))


_GAMMA, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """``x >> bits`` of 64 bits without a sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mixed(x: torch.Tensor) -> torch.Tensor:
    """One number of splitmix64 from each counter, int64 of any shape (Steele, Lea and Flood 2014, figure 15)."""
    z = x + _GAMMA
    z = (z ^ _shifted(z, 30)) * _FIRST
    z = (z ^ _shifted(z, 27)) * _SECOND
    return z ^ _shifted(z, 31)


class CounterStream:
    """Draws that depend on what is drawn for, and not on who draws it or in which order.

    A draw is a hash of the seed, the stream, the step, the use within the step and the id of an edge or a coordinate.
    So processes that each hold a part of the ids draw what one process draws for all of them.

    Parameters
    ----------
    seed, stream
        As for :func:`torch_generator`.
    device
        Of the draws.

    Attributes
    ----------
    step, use
        What the next draw is for. Every call of :meth:`keep` is a use.
    """

    def __init__(self, seed: int, stream: str, device: torch.device | str = "cpu") -> None:
        self.key: int = stream_seed(seed, stream)
        self.device: torch.device = torch.device(device)
        self.step = self.use = 0

    def begin(self, step: int) -> None:
        """Draw for a step, counted over the whole training, from its first use on."""
        self.step = step
        self.use = 0

    def keep(self, ids: torch.Tensor, levels: int) -> torch.Tensor:
        """Bool of the shape of ``ids`` (int64), each false with probability ``levels / 2^16``."""
        key = torch.tensor(self.key, device=self.device)
        for part in (self.step, self.use):
            key = mixed(key) + part
        self.use += 1
        return _shifted(mixed(mixed(key) + mixed(ids)), 48) >= levels
