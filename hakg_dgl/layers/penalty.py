"""The sum of squares of several matrices, and what its gradient is, in a few operators however many there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class _SumOfSquares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *matrices: Tensor) -> Tensor:
        ctx.save_for_backward(*matrices)
        flat = torch.cat([matrix.reshape(-1) for matrix in matrices])
        return flat.dot(flat)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch._foreach_mul(list(ctx.saved_tensors), 2.0 * grad))


def sum_of_squares(matrices: Sequence[Tensor]) -> Tensor:
    """A scalar, differentiable once in each of the matrices, of which there is at least one."""
    total: Tensor = _SumOfSquares.apply(*matrices)  # type: ignore[no-untyped-call]
    return total
