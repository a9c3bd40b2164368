"""Which Numba the kernels need."""

from __future__ import annotations

OLDEST_NUMBA = "0.60"
"""The first for NumPy 2."""
INSTALL_NUMBA = f"python -m pip install 'numba>={OLDEST_NUMBA}'"
