"""The gate of the items, which mixes both of their embeddings, in one pass."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

GATE_DIMS = 64
"""Largest d of the fused gate: both of its matrices lie in shared memory."""
GATE_ROWS, GATE_WARPS = 16, 8
"""Of each program; with more rows, or fewer warps, its products do not fit into registers."""


@triton.jit
def gate(v, e, a, b):
    """sigmoid(v A^T + e B^T); IEEE products, since TF32 would keep three digits."""
    score = tl.dot(v, tl.trans(a), input_precision="ieee") + tl.dot(e, tl.trans(b), input_precision="ieee")
    return 1.0 / (1.0 + tl.exp(-score))


@triton.jit
def gate_gradients(upstream, v, e, a, b):
    """Of what the sigmoid is taken of, of v and of e, where ``upstream`` is that of the mixture."""
    g = gate(v, e, a, b)
    score = upstream * (v - e) * g * (1.0 - g)
    of_v = upstream * g + tl.dot(score, a, input_precision="ieee")
    of_e = upstream * (1.0 - g) + tl.dot(score, b, input_precision="ieee")
    return score, of_v, of_e


@triton.jit
def square(matrix, dim, DIMS: tl.constexpr):
    """A matrix of the gate, ``[DIMS, DIMS]``, zero beyond ``dim``."""
    dims = tl.arange(0, DIMS)
    inside = (dims[:, None] < dim) & (dims[None, :] < dim)
    return tl.load(matrix + dims[:, None] * dim + dims[None, :], mask=inside, other=0.0)


@triton.jit
def _gate_kernel(item, entity, gate_item, gate_entity, out, n_rows, dim, ROWS: tl.constexpr, DIMS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    dims = tl.arange(0, DIMS)
    inside = (row[:, None] < n_rows) & (dims[None, :] < dim)
    place = row[:, None] * dim + dims[None, :]
    v, e = tl.load(item + place, mask=inside, other=0.0), tl.load(entity + place, mask=inside, other=0.0)
    g = gate(v, e, square(gate_item, dim, DIMS), square(gate_entity, dim, DIMS))
    tl.store(out + place, e + g * (v - e), mask=inside)


@triton.jit
def _gate_backward_kernel(
    item, entity, gate_item, gate_entity, grad, d_item, d_entity, d_score, n_rows, dim,
    ROWS: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    dims = tl.arange(0, DIMS)
    inside = (row[:, None] < n_rows) & (dims[None, :] < dim)
    place = row[:, None] * dim + dims[None, :]
    v, e = tl.load(item + place, mask=inside, other=0.0), tl.load(entity + place, mask=inside, other=0.0)
    upstream = tl.load(grad + place, mask=inside, other=0.0)
    score, of_v, of_e = gate_gradients(
        upstream, v, e, square(gate_item, dim, DIMS), square(gate_entity, dim, DIMS)
    )  # fmt: skip
    tl.store(d_score + place, score, mask=inside)
    tl.store(d_item + place, of_v, mask=inside)
    tl.store(d_entity + place, of_e, mask=inside)


class _GatedItems(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, item: Tensor, entity: Tensor, gate_item: Tensor, gate_entity: Tensor) -> Tensor:
        tensors = [x.contiguous() for x in (item, entity, gate_item, gate_entity)]
        n_rows, dim = item.shape
        out, dims = torch.empty_like(tensors[0]), max(16, triton.next_power_of_2(dim))
        _gate_kernel[(triton.cdiv(n_rows, GATE_ROWS),)](
            *tensors, out, n_rows, dim, ROWS=GATE_ROWS, DIMS=dims, num_warps=GATE_WARPS
        )
        ctx.save_for_backward(*tensors)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        item, entity, gate_item, gate_entity = ctx.saved_tensors
        n_rows, dim = item.shape
        d_item, d_entity, d_score = (torch.empty_like(item) for _ in range(3))
        _gate_backward_kernel[(triton.cdiv(n_rows, GATE_ROWS),)](
            item, entity, gate_item, gate_entity, grad.contiguous(), d_item, d_entity, d_score, n_rows, dim,
            ROWS=GATE_ROWS, DIMS=max(16, triton.next_power_of_2(dim)), num_warps=GATE_WARPS,
        )  # fmt: skip
        return d_item, d_entity, d_score.T @ item, d_score.T @ entity


def gated_items(item: Tensor, entity: Tensor, gate_item: Tensor, gate_entity: Tensor) -> Tensor:
    r"""What users receive from items: :math:`g v + (1 - g) e` with :math:`g = \sigma(A v + B e)` (HAKG eqs. 8-9).

    Parameters
    ----------
    item, entity
        v and e, ``[n_items, d]``.
    gate_item, gate_entity
        A and B, ``[d, d]``.

    Returns
    -------
    Tensor
        ``[n_items, d]``, differentiable in all four. PyTorch's operators compute it in float64, for d above
        :data:`GATE_DIMS`, and for no items.
    """
    if item.dtype != torch.float32 or item.shape[1] > GATE_DIMS or len(item) == 0:
        return torch.lerp(entity, item, torch.sigmoid(item @ gate_item.T + entity @ gate_entity.T))
    result: Tensor = _GatedItems.apply(item, entity, gate_item, gate_entity)
    return result
