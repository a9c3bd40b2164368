"""Relation-transitive aggregation by Numba's compiled kernels on a CPU; the sparse products are PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from packaging.version import Version
from torch import Tensor

from hakg_dgl.errors import ConfigError, MissingDependencyError
from hakg_dgl.geometry.guards import max_norm
from hakg_dgl.geometry.message import MessageRule
from hakg_dgl.graph.packed import KnowledgePattern, SparsePattern
from hakg_dgl.kernels.aggregation import OuterEdges
from hakg_dgl.kernels.numba_version import INSTALL_NUMBA, OLDEST_NUMBA
from hakg_dgl.kernels.torch_backend import TorchBackend

try:
    import numba
except ImportError as error:
    raise MissingDependencyError(
        f"kernels = 'numba' needs Numba, which cannot be imported: {error}\n"
        f"Install it with: {INSTALL_NUMBA}, or set kernels = auto."
    ) from error
if Version(numba.__version__) < Version(OLDEST_NUMBA):
    raise MissingDependencyError(
        f"kernels = 'numba' needs Numba {OLDEST_NUMBA} or newer, this is {numba.__version__}\n"
        f"Install it with: {INSTALL_NUMBA}, or set kernels = auto."
    )

from hakg_dgl.kernels.numba_kernels import aggregation as kernels
from hakg_dgl.kernels.numba_kernels import angle, rows

PIECES = 16
"""Parts in which threads share the edges and sums over relations are made, whatever the number of threads."""


class NumbaBackend(TorchBackend):
    """See :class:`~hakg_dgl.kernels.interface.CompiledBackend`; on a CPU.

    Results are the same bits every time, whatever the number of threads, which is PyTorch's.

    Parameters
    ----------
    device
        Where it shall run.

    Raises
    ------
    ConfigError
        If that is not a CPU.
    """

    name = "numba"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        if torch.device(device).type != "cpu":
            raise ConfigError(
                f"kernels = 'numba' runs on a CPU, not on {torch.device(device).type!r}: "
                "use --device cpu, or kernels = auto."
            )

    def mean_on_unit_ball(self, graph: KnowledgePattern, entity: Tensor, relation: Tensor, rule: MessageRule) -> Tensor:
        """Two passes over the edges: forward one, backward one by heads and one by tails."""
        mean: Tensor = _Aggregate.apply(graph, rule, entity, relation)  # type: ignore[no-untyped-call]
        return mean

    def normalised(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """One pass over the rows each way."""
        unit: Tensor = _Normalise.apply(x, mask)  # type: ignore[no-untyped-call]
        return unit

    def mean_cone_excess(
        self, pairs: SparsePattern, entity: Tensor, kept: Tensor | None, rule: MessageRule, *,
        both: bool, aperture: float,
    ) -> Tensor:  # fmt: skip
        """A pass over the entities and two over the pairs, and one over the entities for the gradient."""
        excess: Tensor = _ConeExcess.apply(pairs, entity, kept, rule, both, aperture)  # type: ignore[no-untyped-call]
        return excess


class _ConeExcess(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pairs: SparsePattern, entity: Tensor, kept: Tensor | None, rule: MessageRule, both: bool,
        aperture: float,
    ) -> Tensor:  # fmt: skip
        entity = entity.detach().contiguous()
        coordinates = torch.arange(entity.shape[1]) if kept is None else kept.nonzero().flatten()
        table, squares = entity.new_empty(len(entity), len(coordinates)), entity.new_empty(len(entity))
        narrowed = [x.numpy() for x in (entity, coordinates, table, squares)]
        _on_threads([partial(angle.narrow, *part, *narrowed) for part in _parts(len(entity))])
        gram, excess = entity.new_empty(3, pairs.n_edges), entity.new_empty(pairs.n_edges)
        indptr = pairs.by_row.indptr.numpy()
        of_pairs = [x.numpy() for x in (pairs.cols, table, squares, gram)]
        _on_threads([partial(angle.products, *part, indptr, *of_pairs) for part in _equal_shares(indptr)])
        flat = rule.geometry == "euclidean"
        numbers = rule.curvature, max_norm(entity.dtype, c=1.0, margin=rule.margin), aperture
        given = *map(entity.numpy().dtype.type, numbers), flat, not flat and rule.formulation == "paper", both
        _on_threads([
            partial(angle.slopes, *part, *given, gram.numpy(), excess.numpy()) for part in _parts(pairs.n_edges)
        ])  # fmt: skip
        ctx.pairs, ctx.shape, ctx.count = pairs, entity.shape, (2 if both else 1) * pairs.n_edges
        ctx.save_for_backward(table, coordinates, gram)
        return entity.new_tensor(float(excess.numpy().sum(dtype=np.float64)) / ctx.count)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None, None, None]:
        table, coordinates, gram = ctx.saved_tensors
        pairs: SparsePattern = ctx.pairs
        by_row, by_col, out = pairs.by_row, pairs.by_col, table.new_empty(ctx.shape)
        order = torch.arange(pairs.n_edges) if by_col.order is None else by_col.order
        by_ends = by_row.indptr, pairs.cols, by_col.indptr, order, by_col.permute(pairs.rows)
        arrays = [x.numpy() for x in (*by_ends, gram)]
        called = (*arrays, (grad / ctx.count).numpy()[()], *(x.numpy() for x in (table, coordinates, out)))
        ends = by_col.indptr.clone()
        ends[: len(by_row.indptr)] += by_row.indptr
        ends[len(by_row.indptr) :] += by_row.indptr[-1]
        _on_threads([partial(angle.gradient, *part, *called) for part in _equal_shares(ends.numpy())])
        return None, out, None, None, None, None


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x.detach().contiguous()
        unit, inverse = torch.empty_like(x), x.new_empty(len(x))
        kept = np.empty((0, 0), np.uint8) if mask is None else mask.contiguous().view(torch.uint8).numpy()
        _on_threads([
            partial(rows.normalise, *part, x.numpy(), kept, unit.numpy(), inverse.numpy()) for part in _parts(len(x))
        ])  # fmt: skip
        ctx.kept = kept
        ctx.save_for_backward(unit, inverse)
        return unit

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        unit, inverse = ctx.saved_tensors
        grad, result = grad.contiguous(), torch.empty_like(unit)
        arrays = grad.numpy(), unit.numpy(), inverse.numpy(), ctx.kept, result.numpy()
        _on_threads([partial(rows.normalise_backward, *part, *arrays) for part in _parts(len(grad))])
        return result, None


def _parts(n: int) -> list[tuple[int, int]]:
    """First and last of about equally many of n rows, for each thread."""
    threads = max(1, min(torch.get_num_threads(), n // 256))
    return [(n * i // threads, n * (i + 1) // threads) for i in range(threads)]


def _equal_shares(ends: np.ndarray[Any, np.dtype[np.int64]]) -> list[tuple[int, int]]:
    """First and last of the rows of each thread, so that their edges, of which ``ends`` are the bounds, are as many."""
    threads = max(1, torch.get_num_threads())
    bounds = np.searchsorted(ends, np.linspace(ends[0], ends[-1], threads + 1))
    bounds[0], bounds[-1] = 0, len(ends) - 1
    return [(int(first), int(last)) for first, last in pairwise(bounds) if last > first]


def _squared_norms(x: Tensor) -> Tensor:
    """Of the rows of x, ``[n]``."""
    out = x.new_empty(len(x))
    _on_threads([partial(rows.squares, *part, x.numpy(), out.numpy()) for part in _parts(len(x))])
    return out


class _Call:
    """What all kernels of one aggregation are called with, as arrays."""

    def __init__(self, graph: KnowledgePattern, rule: MessageRule, entity: Tensor, relation: Tensor) -> None:
        pairs = graph.pairs
        squared = _squared_norms(entity)
        heads = squared[: pairs.n_rows]
        self.outer = OuterEdges(graph, rule, rule.scale(heads).square() * heads)
        self.outer_heads = self.outer.heads.numpy()
        self.indptr = pairs.by_row.indptr.numpy()
        self.edges = pairs.rows.numpy(), pairs.cols.numpy(), graph.relation.numpy()
        self.tables = entity.numpy(), relation.numpy()
        self.squares = squared.numpy(), relation.square().sum(1).numpy()
        self.limit = entity.numpy().dtype.type(max_norm(entity.dtype, c=1.0, margin=rule.margin))
        self.paper = rule.formulation == "paper"
        pieces = max(1, min(PIECES, graph.n_edges // (4 * graph.n_relations or 1)))
        wanted = np.linspace(0, graph.n_edges, pieces + 1).astype(np.int64)
        bounds = np.searchsorted(self.indptr, wanted)
        bounds[0], bounds[-1] = 0, pairs.n_rows
        self.pieces = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))

    def run_forward(self, out: Tensor, inner: Tensor) -> None:
        """Means in ``out`` ``[n_rows, d]``, inner products of the edges in ``inner`` ``[3, n_edges]``."""
        arrays = out.numpy(), inner.numpy()
        _on_threads([
            partial(
                kernels.forward, first, last, self.indptr, *self.edges, *self.tables, *self.squares, self.outer_heads,
                self.limit, self.paper, *arrays,
            )
            for first, last in self.pieces
        ])  # fmt: skip

    def run_backward(self, inner: Tensor, grad: Tensor, grad_entity: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the tables, the first one in the memory of ``grad_entity``."""
        n_heads, upstream, into = len(grad), grad.numpy(), grad_entity.numpy()
        grad_entity[n_heads:].zero_()
        shares = np.empty((inner.shape[1], kernels.SHARES), into.dtype)
        by_piece = np.empty((len(self.pieces), *self.tables[1].shape), into.dtype)
        _on_threads([
            partial(
                kernels.backward_of_heads, first, last, self.indptr, *self.edges, *self.tables, *self.squares,
                self.outer_heads, self.limit, self.paper, inner.numpy(), upstream, into, by_piece[number], shares,
            )
            for number, (first, last) in enumerate(self.pieces)
        ])  # fmt: skip
        n_threads, n_edges = min(torch.get_num_threads(), PIECES), int(self.indptr[-1])
        _on_threads([
            partial(
                kernels.backward_of_tails, mine, n_threads, n_edges, *self.edges, *self.tables, self.outer_heads,
                upstream, into, shares,
            )
            for mine in range(n_threads)
        ])  # fmt: skip
        return grad_entity, torch.from_numpy(by_piece.sum(0))


class _Aggregate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graph: KnowledgePattern, rule: MessageRule, entity: Tensor, relation: Tensor) -> Tensor:
        entity, relation = entity.detach().contiguous(), relation.detach().contiguous()
        call = _Call(graph, rule, entity, relation)
        out = entity.new_empty(graph.pairs.n_rows, entity.shape[1])
        inner = entity.new_empty(3, graph.n_edges)
        call.run_forward(out, inner)
        call.outer.add_messages(out, entity, relation, _over_degree(graph, entity))
        ctx.call = call
        ctx.save_for_backward(entity, relation, inner)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor, Tensor]:
        entity, relation, inner = ctx.saved_tensors
        call: _Call = ctx.call
        grad = grad.contiguous()
        grad_entity, grad_relation = call.run_backward(inner, grad, torch.empty_like(entity))
        if len(call.outer.edges):
            call.outer.add_gradients(
                entity, relation, grad * _over_degree(call.outer.graph, grad), grad_entity, grad_relation
            )
        return None, None, grad_entity, grad_relation


def _over_degree(graph: KnowledgePattern, like: Tensor) -> Tensor:
    """One over each head's number of edges, ``[n_rows, 1]``; one where there is none."""
    return graph.pairs.row_degree.clamp_min(1).to(like.dtype).reciprocal().unsqueeze(1)


def _on_threads(tasks: list[Callable[[], Any]]) -> None:
    """Run them all, on as many threads as PyTorch has, and wait for them."""
    threads = min(torch.get_num_threads(), len(tasks))
    if threads <= 1:
        for task in tasks:
            task()
        return
    # Threads of their own instead of Numba's: its layers end the process when two threads, or a fork's child, use them.
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(task) for task in tasks]:
            done.result()
