"""Adam, as PyTorch has it, without what PyTorch loads for its compiler."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import unwrap
from typing import Any

import torch
from torch import nn

_Any: Any = torch.optim.Optimizer


class Adam(torch.optim.Adam):
    """PyTorch's Adam: the same methods, of which those that begin by importing ``torch._dynamo`` stand unwrapped.

    That import takes 1.7 s of a processor in every process that trains, and serves ``torch.compile``, which nothing
    here uses. Where a method is not wrapped, it is PyTorch's as it is.
    """

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))
    add_param_group = unwrap(_Any.add_param_group)
    zero_grad = unwrap(_Any.zero_grad)
    state_dict = unwrap(_Any.state_dict)
    load_state_dict = unwrap(_Any.load_state_dict)


def adam(parameters: Iterator[nn.Parameter], lr: float, device: torch.device) -> Adam:
    """Adam, fused.

    On CUDA its learning rate is a tensor there, which a graph reads each time it is played. Such a tensor is float32,
    with a CUDA graph or without, so that both make the same steps.
    """
    rate = torch.tensor(lr, dtype=torch.float32, device=device) if device.type == "cuda" else lr
    return Adam(parameters, lr=rate, fused=True)
