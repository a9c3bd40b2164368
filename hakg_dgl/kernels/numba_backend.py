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


def _squared_norms(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Of the rows of x, ``[n]``, added up in a type."""
    out = x.new_empty(len(x), dtype=dtype)
    _on_threads([partial(rows.squares, *part, x.numpy(), out.numpy()) for part in _parts(len(x))])
    return out


class _Pass:
    """Some of the edges of an aggregation, and the type in which their scalars and sums are computed.

    Parameters
    ----------
    graph, rule
        Whose messages; rows ascend and no edge is padding.
    edges
        Which edges, ascending, all of their heads'; None for all.
    squared, squared_relation
        Squared norms of entities and relations; their type is that of the pass.
    every
        Whether heads without one of the edges get zeros.
    """

    def __init__(
        self, graph: KnowledgePattern, rule: MessageRule, edges: Tensor | None, squared: Tensor,
        squared_relation: Tensor, *, every: bool,
    ) -> None:  # fmt: skip
        pairs, self.dtype = graph.pairs, squared.dtype
        ends, indptr = [pairs.rows, pairs.cols, graph.relation], pairs.by_row.indptr
        if edges is not None:
            ends = [x.index_select(0, edges) for x in ends]
            indptr = torch.searchsorted(ends[0], torch.arange(pairs.n_rows + 1))
        self.n_edges, self.indptr = len(ends[0]), indptr.numpy()
        self.ends = [x.numpy() for x in ends]
        inverse = pairs.row_degree.clamp_min(1).to(self.dtype).reciprocal()
        limit = squared.numpy().dtype.type(max_norm(self.dtype, c=1.0, margin=rule.margin))
        numbers = [x.numpy() for x in (inverse, squared, squared_relation)]
        self.given = (every, self.indptr, *self.ends, *numbers, limit, rule.formulation == "paper")
        pieces = max(1, min(PIECES, self.n_edges // (4 * graph.n_relations or 1)))
        bounds = np.searchsorted(self.indptr, np.linspace(0, self.n_edges, pieces + 1).astype(np.int64))
        bounds[0], bounds[-1] = 0, pairs.n_rows
        self.pieces = list(pairwise(bounds.tolist()))

    def run_forward(self, entity: Tensor, relation: Tensor, out: Tensor) -> Tensor:
        """Means in ``out`` ``[n_rows, d]``; the edges' inner products, ``[3, n_edges]``."""
        inner = entity.new_empty(3, self.n_edges, dtype=self.dtype)
        arrays = [x.numpy() for x in (entity, relation, out, inner)]
        _on_threads([partial(kernels.forward, *piece, *self.given, *arrays) for piece in self.pieces])
        return inner

    def run_backward(
        self, entity: Tensor, relation: Tensor, inner: Tensor, grad: Tensor, grad_entity: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the heads' rows in ``grad_entity``; those of relations, and the edges' shares of their tails."""
        shares = entity.new_empty(self.n_edges, kernels.SHARES, dtype=self.dtype)
        by_piece = relation.new_empty(len(self.pieces), *relation.shape, dtype=self.dtype)
        arrays = [x.numpy() for x in (entity, relation, inner, grad, grad_entity)]
        _on_threads([
            partial(kernels.backward_of_heads, *piece, *self.given, *arrays, of_relations, shares.numpy())
            for piece, of_relations in zip(self.pieces, by_piece.numpy(), strict=True)
        ])  # fmt: skip
        return by_piece.sum(0), shares

    def add_tails(self, entity: Tensor, relation: Tensor, grad: Tensor, grad_entity: Tensor, shares: Tensor) -> None:
        """Add the gradients of the tails' rows to ``grad_entity``."""
        arrays = [x.numpy() for x in (entity, relation, grad, grad_entity, shares)]
        n_threads, at_once = min(torch.get_num_threads(), PIECES), self.dtype != entity.dtype
        _on_threads([
            partial(kernels.backward_of_tails, mine, n_threads, at_once, *self.ends, *arrays)
            for mine in range(n_threads)
        ])  # fmt: skip


def _passes(
    graph: KnowledgePattern, rule: MessageRule, entity: Tensor, relation: Tensor
) -> tuple[list[_Pass], OuterEdges | None]:
    """All edges, or those of inner heads in the tables' type and, of tables of float32, the outer ones in float64.

    Outer edges of tables of float64 are left over, for PyTorch.
    """
    squared, squared_relation = _squared_norms(entity, entity.dtype), _squared_norms(relation, entity.dtype)
    heads = squared[: graph.pairs.n_rows]
    outer = OuterEdges(graph, rule, rule.scale(heads).square() * heads)
    if not len(outer.edges):
        return [_Pass(graph, rule, None, squared, squared_relation, every=True)], None
    inner = (~outer.heads).index_select(0, graph.pairs.rows).nonzero().squeeze(1)
    passes = [_Pass(graph, rule, inner, squared, squared_relation, every=True)]
    if entity.dtype == torch.float64:
        return passes, outer
    wide = _squared_norms(entity, torch.float64), _squared_norms(relation, torch.float64)
    return [*passes, _Pass(graph, rule, outer.edges, *wide, every=False)], None


class _Aggregate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graph: KnowledgePattern, rule: MessageRule, entity: Tensor, relation: Tensor) -> Tensor:
        entity, relation = entity.detach().contiguous(), relation.detach().contiguous()
        passes, left = _passes(graph, rule, entity, relation)
        out = entity.new_empty(graph.pairs.n_rows, entity.shape[1])
        inner = [some.run_forward(entity, relation, out) for some in passes]
        if left is not None:
            left.add_messages(out, entity, relation, _over_degree(graph, entity))
        ctx.passes, ctx.left = passes, left
        ctx.save_for_backward(entity, relation, *inner)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor, Tensor]:
        entity, relation, *inner = ctx.saved_tensors
        passes: list[_Pass] = ctx.passes
        left: OuterEdges | None = ctx.left
        grad, grad_entity = grad.contiguous(), torch.empty_like(entity)
        grad_entity[len(grad) :].zero_()
        grad_relation, shares = torch.zeros_like(relation), []
        for some, products in zip(passes, inner, strict=True):
            by_relation, share = some.run_backward(entity, relation, products, grad, grad_entity)
            grad_relation += by_relation
            shares.append(share)
        for some, share in zip(passes, shares, strict=True):
            some.add_tails(entity, relation, grad, grad_entity, share)
        if left is not None:
            left.add_gradients(entity, relation, grad * _over_degree(left.graph, grad), grad_entity, grad_relation)
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
