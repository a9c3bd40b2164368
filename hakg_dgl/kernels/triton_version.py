"""Which Triton the kernels need."""

from __future__ import annotations

OLDEST_TRITON = "3.4"
"""The first that compiles all kernels; PyTorch 2.8 came with it."""
INSTALL_TRITON = f"python -m pip install 'triton>={OLDEST_TRITON}'  (Linux)"
