"""The processes that train together: sums and maxima over them, and what these are in a backward pass.

The loss is the same number in every process. A sum over processes passes its gradient on as it is, so what a process
computes backwards is its own share of the gradient, and rows and replicated parameters add the shares up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from safetensors import torch as safetensors_of_torch
from torch import Tensor

PATIENCE = timedelta(hours=12)
"""How long processes wait for each other; :mod:`~hakg_dgl.distributed.watch` notices long before if one hangs."""


@dataclass
class Traffic:
    """Counts of what a process exchanges with others.

    Attributes
    ----------
    sent, exchanges
        Bytes of rows sent to other processes, and in how many exchanges.
    reduced, reductions
        Bytes of tensors that are summed over processes, and how many. A ring sends ``2 (N - 1) / N`` times as much.
    """

    sent: int = 0
    exchanges: int = 0
    reduced: int = 0
    reductions: int = 0


class Ranks:
    """All processes of the default group, or one process alone where there is no group.

    Making it is a step of all processes together.

    Attributes
    ----------
    rank, size
        Which of how many this process is.
    traffic
        What this process has exchanged so far.
    """

    def __init__(self) -> None:
        self.traffic: Traffic = Traffic()
        self._joined = dist.is_available() and dist.is_initialized()
        self.rank: int = dist.get_rank() if self._joined else 0
        self.size: int = dist.get_world_size() if self._joined else 1
        self._group = dist.new_group(timeout=PATIENCE) if self._joined else None

    def sum(self, values: Tensor) -> Tensor:
        """The sum over processes of tensors of one shape; not differentiable."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def max(self, values: Tensor) -> Tensor:
        """The maximum over processes of tensors of one shape; not differentiable."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def _reduced(self, values: Tensor, how: Any) -> Tensor:
        total = values.detach().clone(memory_format=torch.contiguous_format)
        if self.size > 1 and total.numel():
            self.traffic.reduced += total.numel() * total.element_size()
            self.traffic.reductions += 1
            dist.all_reduce(total, op=how, group=self._group)
        return total

    def exchange(self, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Rows sent to each process, one after the other, for the rows that each sends here; not differentiable."""
        if self.size == 1:
            return rows.contiguous()
        out = rows.new_empty(sum(received), *rows.shape[1:])
        row = math.prod(rows.shape[1:]) * rows.element_size()
        self.traffic.sent += (sum(sent) - sent[self.rank]) * row
        self.traffic.exchanges += 1
        dist.all_to_all_single(out, rows.contiguous(), received, sent, group=self._group)
        return out

    def to_first(self, rows: Tensor, counts: list[int]) -> Tensor | None:
        """The rows of all processes, one process after the other, in the first one; None in the others.

        ``counts`` are how many each of them has.
        """
        sent = [len(rows), *[0] * (self.size - 1)]
        found = self.exchange(rows, sent, counts if self.rank == 0 else [0] * self.size)
        return found if self.rank == 0 else None

    def from_first(self, content: bytes | None) -> bytes:
        """What the first process passes, in all of them; the others pass None."""
        if self.size == 1:
            assert content is not None
            return content
        size = torch.tensor(0 if content is None else len(content))
        dist.broadcast(size, 0, group=self._group)
        if not int(size):
            return b""
        buffer = torch.zeros(int(size), dtype=torch.uint8)
        if content:
            buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        dist.broadcast(buffer, 0, group=self._group)
        return buffer.numpy().tobytes()

    def told(self, value: Any) -> Any:
        """A JSON value of the first process, in all of them."""
        return json.loads(self.from_first(json.dumps(value).encode() if self.rank == 0 else None))

    def pieces_from_first(self, pieces: Iterator[dict[str, Tensor]] | None) -> Iterator[dict[str, Tensor]]:
        """What the first process iterates over, in all of them; the others pass None."""
        while True:
            piece = None if pieces is None else next(pieces, None)
            content = (
                self.from_first(b"" if piece is None else safetensors_of_torch.save(piece))
                if self.rank == 0
                else self.from_first(None)
            )
            if not content:
                return
            yield safetensors_of_torch.load(content)

    def bytes_to_first(self, sender: int, content: bytes) -> bytes:
        """What a process passes, in the first one; nothing in the others. Only that of ``sender`` is sent."""
        size = int(self.max(torch.tensor(len(content) if self.rank == sender else 0)))
        if self.rank != sender:
            content = b""
        rows = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
        counts = [size if rank == sender else 0 for rank in range(self.size)]
        found = self.to_first(rows, counts)
        return b"" if found is None else found.numpy().tobytes()


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ranks: Ranks, values: Tensor) -> Tensor:
        return ranks.sum(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


def sum_over_ranks(ranks: Ranks, values: Tensor) -> Tensor:
    """The sum over processes, ``[...] -> [...]``; what is computed from it must be the same in all processes."""
    result: Tensor = _SumOverRanks.apply(ranks, values)  # type: ignore[no-untyped-call]
    return result


class _RowsEverywhere(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ranks: Ranks, own: Tensor, places: Tensor, slots: Tensor, n: int) -> Tensor:
        ctx.ranks, ctx.shape = ranks, own.shape
        ctx.save_for_backward(places, slots)
        rows = own.new_zeros(n, own.shape[1]).index_copy_(0, slots, own.index_select(0, places))
        return ranks.sum(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None, None]:
        places, slots = ctx.saved_tensors
        total = ctx.ranks.sum(grad)
        back = total.new_zeros(ctx.shape).index_copy_(0, places, total.index_select(0, slots))
        return None, back, None, None, None


def rows_everywhere(ranks: Ranks, own: Tensor, places: Tensor, slots: Tensor, n: int) -> Tensor:
    """Rows that processes own, in all of them, ``[n, d]``; their gradients add up over processes.

    Parameters
    ----------
    ranks
        The processes.
    own
        The rows of this process, ``[n_own, d]``.
    places, slots
        int64 ``[k]``: which of them go to which of the n rows; each row comes from one process, and from one place.
    n
        Number of rows.
    """
    result: Tensor = _RowsEverywhere.apply(ranks, own, places, slots, n)  # type: ignore[no-untyped-call]
    return result
