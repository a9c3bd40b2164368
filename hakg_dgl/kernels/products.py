"""Differentiable sparse products over a pattern: edge inner products and neighbourhood sums."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hakg_dgl.graph.packed import SparsePattern
from hakg_dgl.kernels.interface import SparseBackend


def transposed_sum(backend: SparseBackend, pattern: SparsePattern, weights: Tensor | None, x: Tensor) -> Tensor:
    """For each column the sum of ``weights * x[row]`` over its edges, ``[n_cols, d]``; weights in edge order."""
    by_col = pattern.by_col
    ordered = None if weights is None else by_col.permute(weights)
    return backend.weighted_sum(by_col, by_col.permute(pattern.rows), ordered, x)


class _EdgeDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backend: SparseBackend, pattern: SparsePattern, x: Tensor, y: Tensor) -> Tensor:
        ctx.backend, ctx.pattern = backend, pattern
        ctx.save_for_backward(x, y)
        return backend.dot(pattern.by_row, pattern.cols, x, y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor, Tensor]:
        x, y = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = ctx.backend.weighted_sum(ctx.pattern.by_row, ctx.pattern.cols, grad, y)
        return None, None, grad_x, transposed_sum(ctx.backend, ctx.pattern, grad, x)


class _NeighbourSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backend: SparseBackend, pattern: SparsePattern, y: Tensor) -> Tensor:
        ctx.backend, ctx.pattern = backend, pattern
        return backend.weighted_sum(pattern.by_row, pattern.cols, None, y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:
        return None, None, transposed_sum(ctx.backend, ctx.pattern, None, grad.contiguous())


class _TransposedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backend: SparseBackend, pattern: SparsePattern, x: Tensor) -> Tensor:
        ctx.backend, ctx.pattern = backend, pattern
        return transposed_sum(backend, pattern, None, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.backend.weighted_sum(ctx.pattern.by_row, ctx.pattern.cols, None, grad.contiguous())


def edge_dot(backend: SparseBackend, pattern: SparsePattern, x: Tensor, y: Tensor) -> Tensor:
    """``<x[row], y[col]>`` of each edge: ``[n_rows, d], [n_cols, d] -> [n_edges]``, differentiable in both."""
    result: Tensor = _EdgeDot.apply(backend, pattern, x, y)  # type: ignore[no-untyped-call]
    return result


def sum_over_columns(backend: SparseBackend, pattern: SparsePattern, y: Tensor) -> Tensor:
    """For each row the sum of ``y[col]`` over its edges: ``[n_cols, d] -> [n_rows, d]``, differentiable."""
    result: Tensor = _NeighbourSum.apply(backend, pattern, y)  # type: ignore[no-untyped-call]
    return result


def sum_over_rows(backend: SparseBackend, pattern: SparsePattern, x: Tensor) -> Tensor:
    """For each column the sum of ``x[row]`` over its edges: ``[n_rows, d] -> [n_cols, d]``, differentiable."""
    result: Tensor = _TransposedSum.apply(backend, pattern, x)  # type: ignore[no-untyped-call]
    return result
