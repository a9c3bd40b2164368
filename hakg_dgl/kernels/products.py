"""Differentiable sparse products over a pattern: edge inner products and neighbourhood sums."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hakg_dgl.graph.packed import Grouping, SparsePattern
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


class _DotsAndSquares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backend: SparseBackend, pattern: SparsePattern, y: Tensor) -> tuple[Tensor, Tensor]:
        ctx.backend, ctx.pattern = backend, pattern
        ctx.save_for_backward(y)
        return backend.dot(pattern.by_row, pattern.cols, y[: pattern.n_rows], y), y.square().sum(1)

    @staticmethod
    def backward(ctx: Any, grad_dot: Tensor, grad_square: Tensor) -> tuple[None, None, Tensor]:
        (y,) = ctx.saved_tensors
        backend, pattern, n_rows = ctx.backend, ctx.pattern, ctx.pattern.n_rows
        grad_dot = grad_dot.contiguous()
        grad = transposed_sum(backend, pattern, grad_dot, y[:n_rows])
        grad[:n_rows] += backend.weighted_sum(pattern.by_row, pattern.cols, grad_dot, y)
        return None, None, grad.addcmul_(y, grad_square.unsqueeze(1), value=2.0)


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


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backend: SparseBackend, pattern: SparsePattern, weights: Tensor, y: Tensor) -> Tensor:
        ctx.backend, ctx.pattern = backend, pattern
        ctx.save_for_backward(weights, y)
        return backend.weighted_sum(pattern.by_row, pattern.cols, weights, y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor | None, Tensor | None]:
        weights, y = ctx.saved_tensors
        grad, grad_weights, grad_y = grad.contiguous(), None, None
        if ctx.needs_input_grad[2]:
            grad_weights = ctx.backend.dot(ctx.pattern.by_row, ctx.pattern.cols, grad, y)
        if ctx.needs_input_grad[3]:
            grad_y = transposed_sum(ctx.backend, ctx.pattern, weights, grad)
        return None, None, grad_weights, grad_y


class _GroupSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backend: SparseBackend, grouping: Grouping, groups: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(groups)
        return sum_by_group(backend, grouping, values.contiguous())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None, Tensor]:
        (groups,) = ctx.saved_tensors
        return None, None, None, grad.index_select(0, groups)


class _RowsOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backend: SparseBackend, grouping: Grouping, ids: Tensor, table: Tensor) -> Tensor:
        ctx.backend, ctx.grouping = backend, grouping
        return table.index_select(0, ids)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None, Tensor]:
        numbers = grad.ndim == 1
        total = sum_by_group(ctx.backend, ctx.grouping, grad.unsqueeze(1) if numbers else grad.contiguous())
        return None, None, None, total.squeeze(1) if numbers else total


def grouped_in_fixed_shapes(ids: Tensor, n_groups: int) -> Grouping:
    """Group places by their id, int64 ``[n]`` below ``n_groups``, as :meth:`Grouping.of` without waiting for a GPU."""
    keys, order = torch.sort(ids.int() if n_groups < 1 << 31 else ids, stable=True)
    bounds = torch.arange(n_groups + 1, dtype=keys.dtype, device=keys.device)
    return Grouping(torch.searchsorted(keys, bounds), order)


def sum_by_group(backend: SparseBackend, grouping: Grouping, values: Tensor) -> Tensor:
    """Sum of the values of each group: ``[n, d] -> [n_groups, d]``, added in the order of the grouping.

    What ``index_add_`` computes, which on a GPU adds atomically, in an order that changes from run to run.
    """
    order = grouping.order
    if order is None:
        order = torch.arange(len(values), device=values.device)
    return backend.weighted_sum(grouping, order, None, values)


def rows_of(backend: SparseBackend, grouping: Grouping, ids: Tensor, table: Tensor) -> Tensor:
    """Rows ``ids`` of a table, ``[n_groups, ...] -> [n, ...]``, differentiable; the gradient adds up in a fixed order.

    Parameters
    ----------
    backend
        Who sums the gradient.
    grouping
        Of the places in ``ids`` by id.
    ids
        int64 ``[n]``.
    table
        ``[n_groups]`` or ``[n_groups, d]``.
    """
    rows: Tensor = _RowsOf.apply(backend, grouping, ids, table)  # type: ignore[no-untyped-call]
    return rows


def edge_dot(backend: SparseBackend, pattern: SparsePattern, x: Tensor, y: Tensor) -> Tensor:
    """``<x[row], y[col]>`` of each edge: ``[n_rows, d], [n_cols, d] -> [n_edges]``, differentiable in both."""
    result: Tensor = _EdgeDot.apply(backend, pattern, x, y)  # type: ignore[no-untyped-call]
    return result


def dots_and_squares(backend: SparseBackend, pattern: SparsePattern, y: Tensor) -> tuple[Tensor, Tensor]:
    """``<y[row], y[col]>`` of each edge, ``[n_edges]``, and y's squared norms, ``[n_cols]``; differentiable.

    The pattern's rows are the first rows of y, ``[n_cols, d]``. Both share one array of gradients.
    """
    dots, squares = _DotsAndSquares.apply(backend, pattern, y)  # type: ignore[no-untyped-call]
    return dots, squares


def sum_over_columns(backend: SparseBackend, pattern: SparsePattern, y: Tensor) -> Tensor:
    """For each row the sum of ``y[col]`` over its edges: ``[n_cols, d] -> [n_rows, d]``, differentiable."""
    result: Tensor = _NeighbourSum.apply(backend, pattern, y)  # type: ignore[no-untyped-call]
    return result


def sum_over_rows(backend: SparseBackend, pattern: SparsePattern, x: Tensor) -> Tensor:
    """For each column the sum of ``x[row]`` over its edges: ``[n_rows, d] -> [n_cols, d]``, differentiable."""
    result: Tensor = _TransposedSum.apply(backend, pattern, x)  # type: ignore[no-untyped-call]
    return result


def weighted_sum_over_columns(backend: SparseBackend, pattern: SparsePattern, weights: Tensor, y: Tensor) -> Tensor:
    """For each row the sum of ``weights * y[col]`` over its edges, differentiable in both.

    Parameters
    ----------
    backend
        Who computes the sparse products.
    pattern
        Which row receives from which column.
    weights
        ``[n_edges]``, in the order of the pattern.
    y
        ``[n_cols, d]``.

    Returns
    -------
    Tensor
        ``[n_rows, d]``.
    """
    result: Tensor = _WeightedSum.apply(backend, pattern, weights, y)  # type: ignore[no-untyped-call]
    return result


def sum_of_groups(backend: SparseBackend, grouping: Grouping, groups: Tensor, values: Tensor) -> Tensor:
    """:func:`sum_by_group`, differentiable in ``values``; ``groups`` int64 ``[n]`` is the group of each."""
    result: Tensor = _GroupSum.apply(backend, grouping, groups, values)  # type: ignore[no-untyped-call]
    return result
