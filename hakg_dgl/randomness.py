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
