"""Triton kernels. Only this package imports Triton, and only :mod:`hakg_dgl.kernels.triton_backend` imports it."""

import os

# Triton 3.10 will no longer fuse products and sums by default. The numbers should not change with Triton's version.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
