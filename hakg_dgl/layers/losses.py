"""The losses: softmax or contrastive with a margin, and the angle loss that keeps items in their attributes' cones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hakg_dgl.geometry.cones import cone_excess, cone_points
from hakg_dgl.geometry.guards import ROW_NORM_FLOOR
from hakg_dgl.geometry.message import MessageRule
from hakg_dgl.graph.packed import Grouping, KnowledgePattern, SparsePattern
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.kernels.interface import CompiledBackend, FusedBackend, LossBackend, SparseBackend
from hakg_dgl.kernels.products import dots_and_squares, grouped_in_fixed_shapes, rows_of, sum_by_group
from hakg_dgl.layers.embeddings import Embeddings

COUNT_FLOOR = 1e-5
"""Added to the number of active negatives of a positive, by which their sum is divided."""
SCORES_PER_BLOCK = 1 << 20
"""Scores of users with candidates held at once on a CPU: 4 MiB of float32, which its caches hold in part."""
FIXED_PER_BLOCK = 1 << 25
"""Scores, or items of users, held at once on a GPU: 128 MiB of float32, 256 MiB of ids."""
LOGSUM_FLOOR = -1e30
"""Log-sum of the scores of a user who knows all candidates: none of them counts, and no NaN arises."""


def bpr_loss(user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    r"""Mean of :math:`-\ln \sigma(\langle u, i \rangle - \langle u, j \rangle)` over a batch (Rendle et al., eq. 4).

    Parameters
    ----------
    user, positive, negative
        Vectors u, i and j, ``[batch, d]`` each.

    Returns
    -------
    Tensor
        A scalar.
    """
    return -F.logsigmoid((user * (positive - negative)).sum(1)).mean()


def cross_entropy_loss(user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    r"""Mean of :math:`-\ln \sigma(\langle u, i \rangle)` and :math:`-\ln \sigma(-\langle u, j \rangle)` over a batch.

    The binary cross-entropy of scores of positives and as many negatives.

    Parameters
    ----------
    user, positive, negative
        Vectors u, i and j, ``[batch, d]`` each.

    Returns
    -------
    Tensor
        A scalar.
    """
    return -(F.logsigmoid((user * positive).sum(1)) + F.logsigmoid(-(user * negative).sum(1))).mean() / 2


class _HingeOverNegatives(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backend: SparseBackend, x: Tensor, z: Tensor, negatives: Tensor, margin: float) -> Tensor:
        n_rows, k = negatives.shape
        indptr = torch.arange(0, n_rows * k + 1, k, device=x.device)
        cosine = backend.dot(Grouping(indptr, None), negatives.reshape(-1), x, z).view(n_rows, k)
        active = cosine > margin
        count = active.sum(1)
        inverse = 1.0 / (COUNT_FLOOR + count.to(x.dtype))
        places = active.view(-1).nonzero().squeeze(1)
        rows = torch.repeat_interleave(count, output_size=len(places))
        before = torch.cat([count.new_zeros(1), count.cumsum(0)])
        ctx.backend, ctx.by_row = backend, Grouping(before, None)
        ctx.save_for_backward(x, z, rows, negatives.reshape(-1).index_select(0, places), inverse)
        return (cosine - margin).clamp_min_(0.0).sum(1).mul_(inverse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, None, None]:
        x, z, rows, cols, inverse = ctx.saved_tensors
        weights = (grad * inverse).index_select(0, rows)
        grad_x = ctx.backend.weighted_sum(ctx.by_row, cols, weights, z)
        by_col = Grouping.of(cols, len(z))
        grad_z = ctx.backend.weighted_sum(by_col, by_col.permute(rows), by_col.permute(weights), x)
        return None, grad_x, grad_z, None, None


def hinge_over_negatives(backend: SparseBackend, x: Tensor, z: Tensor, negatives: Tensor, margin: float) -> Tensor:
    r"""Mean excess over the margin of the negatives that exceed it.

    :math:`S_b = \sum_j \max(0, \langle x_b, z_j\rangle - m) / (10^{-5} + |\{j : \langle x_b, z_j\rangle > m\}|)`

    Only active negatives take part in the backward pass; nothing of size batch x negatives x d is made.

    Parameters
    ----------
    backend
        Who computes the sparse products.
    x
        Unit rows ``[batch, d]``.
    z
        Unit rows ``[n_items, d]``.
    negatives
        int64 ``[batch, n_negatives]``.
    margin
        Cosine m above which a negative counts.

    Returns
    -------
    Tensor
        ``[batch]``.
    """
    if isinstance(backend, FusedBackend):
        return backend.hinge_over_negatives(x, z, negatives, margin, COUNT_FLOOR)
    result: Tensor = _HingeOverNegatives.apply(backend, x, z, negatives, margin)  # type: ignore[no-untyped-call]
    return result


def contrastive_loss(
    backend: SparseBackend, embeddings: Embeddings, users: Tensor, positives: Tensor, negatives: Tensor, margin: float
) -> Tensor:
    r"""Contrastive loss of a batch (HAKG eqs. 11-13).

    Mean over positives (u, i) of :math:`\max(0, 2 - \cos(u, e_i) - \cos(u, v_i)) + S(e) + S(v)` with S of
    :func:`hinge_over_negatives`; without dual item embeddings, the terms of v are left out and 2 becomes 1.

    Parameters
    ----------
    backend
        Who computes the sparse products.
    embeddings
        After propagation.
    users, positives
        int64 ``[batch]``.
    negatives
        int64 ``[batch, n_negatives]``: items each user has no interaction with.
    margin
        Cosine above which a negative counts.

    Returns
    -------
    Tensor
        Scalar.
    """
    tables = [embeddings.entity] if embeddings.item is None else [embeddings.entity, embeddings.item]
    if isinstance(backend, LossBackend) and backend.computes_losses_of(embeddings.user):
        batch = users, positives, negatives
        return backend.contrastive_loss(embeddings.user, tables, *batch, margin, COUNT_FLOOR)
    user = batch_rows(backend, F.normalize(embeddings.user, dim=1, eps=ROW_NORM_FLOOR), users)
    missing = torch.full_like(user[:, 0], float(len(tables)))
    excess = torch.zeros_like(missing)
    for table in tables:
        unit = F.normalize(table, dim=1, eps=ROW_NORM_FLOOR)
        missing = missing - (user * batch_rows(backend, unit, positives)).sum(1)
        excess = excess + hinge_over_negatives(backend, user, unit, negatives, margin)
    return (missing.clamp_min(0.0) + excess).mean()


class _SumOfSquares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        return torch.stack(torch._foreach_norm(tensors)).square_().sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch._foreach_mul(ctx.saved_tensors, 2.0 * grad))


def sum_of_squares(backend: SparseBackend, tensors: Sequence[Tensor]) -> Tensor:
    """Sum of the squares of all numbers of some tensors, a scalar; all at once where each launch counts."""
    if isinstance(backend, LossBackend):
        total: Tensor = _SumOfSquares.apply(*tensors)  # type: ignore[no-untyped-call]
        return total
    squares = [tensor.square().sum() for tensor in tensors]
    return sum(squares[1:], start=squares[0])


def in_fixed_shapes(on: Tensor) -> bool:
    """Whether shapes may not depend on values, since reading these would wait for the device."""
    return on.is_cuda


def batch_rows(backend: SparseBackend, table: Tensor, ids: Tensor) -> Tensor:
    """Rows ``ids`` (int64 ``[batch]``) of a table; their gradient adds up in the same order every time."""
    if in_fixed_shapes(ids):
        return rows_of(backend, grouped_in_fixed_shapes(ids, len(table)), ids, table)
    # Not table[ids]: on several threads its gradient adds up in the order they happen to come in.
    return table.index_select(0, ids)


def _add_rows(backend: SparseBackend, total: Tensor, ids: Tensor, rows: Tensor) -> Tensor:
    """Add rows to those of ``total`` with these ids, in place; in the same order every time."""
    if in_fixed_shapes(ids):
        return total.add_(sum_by_group(backend, grouped_in_fixed_shapes(ids, len(total)), rows))
    return total.index_add_(0, ids, rows)


class _SoftmaxOverCandidates(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, backend: SparseBackend, user: Tensor, item: Tensor, users: Tensor, positives: Tensor,
        rivals: Rivals, temperature: float,
    ) -> Tensor:  # fmt: skip
        fixed = in_fixed_shapes(users)
        # A row a user, not a pair, as the pairs of a user share their sums; but finding them would wait for a GPU.
        rows, row = users, torch.arange(len(users), device=users.device)
        if not fixed:
            rows, row = torch.unique(users, return_inverse=True)
        x, z = user.index_select(0, rows) / temperature, rivals.rows_of(item)
        of_positive = (x.index_select(0, row) * item.index_select(0, positives)).sum(1)
        grad_x, grad_z = torch.empty_like(x), torch.zeros_like(z)
        excess, pull = torch.empty_like(of_positive), torch.empty_like(of_positive)
        for start, stop, pairs in _blocks(row, len(rows), len(z), rivals.longest if fixed else None):
            mask = rivals.known_within(rows[start:stop], fixed)
            logits = (x[start:stop] @ z.T).masked_fill_(mask, -torch.inf)
            total = logits.logsumexp(1).clamp_min_(LOGSUM_FLOOR)
            at = row.index_select(0, pairs) - start
            gap = total.index_select(0, at) + rivals.log_scale - of_positive.index_select(0, pairs)
            excess[pairs], pull[pairs] = F.softplus(gap), gap.sigmoid()
            push = pull[start:stop] if fixed else torch.zeros_like(total).index_add_(0, at, pull.index_select(0, pairs))
            weights = logits.sub_(total.unsqueeze(1)).exp_().mul_(push.unsqueeze(1))
            torch.mm(weights, z, out=grad_x[start:stop])
            grad_z.addmm_(weights.T, x[start:stop])
        pull.neg_()
        from_positive = pull.unsqueeze(1) * item.index_select(0, positives)
        grad_x = grad_x.add_(from_positive) if fixed else grad_x.index_add_(0, row, from_positive)
        to_positive = pull.unsqueeze(1) * x.index_select(0, row)
        grad_user = _add_rows(backend, torch.zeros_like(user), rows, grad_x.div_(temperature))
        grad_item = _add_rows(backend, rivals.scatter(grad_z, item), positives, to_positive)
        ctx.save_for_backward(grad_user.div_(len(users)), grad_item.div_(len(users)))
        return excess.mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        grad_user, grad_item = ctx.saved_tensors
        return None, grad_user * grad, grad_item * grad, None, None, None, None


@dataclass(frozen=True)
class Rivals:
    """The items that positives compete with in a step, and which of them each user is known to have."""

    items: Tensor | None
    """Distinct ids, int64 ``[m]``; None for all items."""
    indptr: Tensor
    known: Tensor
    longest: int
    n_items: int

    @property
    def log_scale(self) -> float:
        """What makes the sum over a sample of the items that over all of them, on average."""
        return 0.0 if self.items is None else math.log(self.n_items / len(self.items))

    def rows_of(self, table: Tensor) -> Tensor:
        """Their rows of a table of all items."""
        return table if self.items is None else table.index_select(0, self.items)

    def scatter(self, grad: Tensor, table: Tensor) -> Tensor:
        """Gradients of their rows as one of the table of all items."""
        return grad if self.items is None else torch.zeros_like(table).index_copy_(0, self.items, grad)

    def known_within(self, users: Tensor, fixed: bool) -> Tensor:
        """Which candidates each of the users is known to have, bool ``[B, m]``."""
        first = self.indptr.index_select(0, users)
        count = self.indptr.index_select(0, users + 1) - first
        m = self.n_items if self.items is None else len(self.items)
        if fixed:  # a row as long as the longest; what is beyond a user's own goes to a column that is cut off
            place = torch.arange(self.longest, device=users.device)
            beyond = place >= count.unsqueeze(1)
            column = self.known[(place + first.unsqueeze(1)).clamp_max_(max(0, len(self.known) - 1))]
            column = self._slots(column, m).masked_fill_(beyond, m)
            return torch.zeros(len(users), m + 1, dtype=torch.bool, device=users.device).scatter_(1, column, True)[
                :, :m
            ]
        row = torch.repeat_interleave(count)
        place = torch.arange(len(row), device=row.device) + (first - count.cumsum(0) + count).index_select(0, row)
        mask = torch.zeros(len(users), m + 1, dtype=torch.bool, device=users.device)
        mask[row, self._slots(self.known.index_select(0, place), m)] = True
        return mask[:, :m]

    def _slots(self, items: Tensor, m: int) -> Tensor:
        """Column of each item, m for those that are no candidates."""
        if self.items is None:
            return items.clone()
        slot = torch.full((self.n_items,), m, dtype=torch.int64, device=items.device)
        slot[self.items] = torch.arange(m, device=items.device)
        return slot[items]


def _blocks(row: Tensor, n_rows: int, m: int, longest: int | None) -> Iterator[tuple[int, int, Tensor]]:
    """First row, end and pairs of each block of rows; with the ``longest`` list of a user, in fixed shapes.

    In these a row is a pair, and a block also holds the lists of its users, as long as the longest.
    """
    if longest is not None:
        size = max(1, FIXED_PER_BLOCK // max(1, m, longest))
        for start in range(0, n_rows, size):
            stop = min(start + size, n_rows)
            yield start, stop, torch.arange(start, stop, device=row.device)
        return
    size = max(1, SCORES_PER_BLOCK // max(1, m))
    if size >= n_rows:
        yield 0, n_rows, torch.arange(len(row), device=row.device)
        return
    order, ends = row.argsort(stable=True), row.bincount(minlength=n_rows).cumsum(0).tolist()
    for start in range(0, n_rows, size):
        stop = min(start + size, n_rows)
        yield start, stop, order[ends[start - 1] if start else 0 : ends[stop - 1]]


def softmax_loss(
    user: Tensor,
    item: Tensor,
    users: Tensor,
    positives: Tensor,
    known: tuple[Tensor, Tensor],
    *,
    longest: int | None = None,
    candidates: Tensor | None = None,
    temperature: float = 1.0,
    backend: SparseBackend | None = None,
) -> Tensor:
    r"""Cross-entropy of each positive among items its user is not known to have.

    Mean over pairs (u, i) of :math:`\log(1 + \frac{n}{m} \sum_{j \in C \setminus N_u} e^{(s_{uj} - s_{ui})/\tau})`
    with inner products s, the known items :math:`N_u` and the candidates C, m of the n items drawn uniformly (sampled
    softmax; Jean et al. 2015, arXiv 1412.2007, section 3, for a uniform distribution).

    The gradient is computed with the value, block by block of users: nothing larger than a block of scores is kept.

    Parameters
    ----------
    user, item
        Vectors ``[n_users, d]`` and ``[n_items, d]``.
    users, positives
        int64 ``[batch]``.
    known
        ``(indptr [n_users + 1], items)``, int64: the items of each user, left out of the sum.
    longest
        The most items of a user; without it, it is read from ``known``, for which a GPU is waited for.
    candidates
        Distinct items, int64 ``[m]``, ascending; None for all.
    temperature
        τ, above 0.
    backend
        Who sums the gradients of a user's or an item's pairs on a GPU; by default PyTorch's operators.

    Returns
    -------
    Tensor
        Scalar, differentiable once in ``user`` and ``item``.
    """
    if isinstance(backend, LossBackend) and backend.computes_losses_of(user):
        return backend.softmax_loss(user, item, users, positives, known, candidates, temperature)
    if longest is None:
        longest = int(known[0].diff().max()) if in_fixed_shapes(users) else 0
    rivals = Rivals(candidates, known[0], known[1], longest, len(item))
    result: Tensor = _SoftmaxOverCandidates.apply(  # type: ignore[no-untyped-call]
        backend or choose_backend("torch"), user, item, users, positives, rivals, temperature
    )
    return result


@dataclass(frozen=True)
class AngleLoss:
    """Angle loss over the item-attribute pairs of the KG (HAKG eqs. 14-16).

    Attributes
    ----------
    pairs
        Pattern item x attribute entity, one edge for every triple with exactly one end an item; or child x parent of
        :func:`with_attribute_pairs`, to which all said of items and attributes then applies.
    rule
        Formulation and geometry. The released code takes the parameters themselves as points, the paper's
        formulation maps them to the ball first.
    direction
        ``both``: items and attributes are apexes in turn, and the mean is over both; ``attribute``: attributes only.
    aperture
        K of the cones.
    dropout
        Share of coordinates left out of both ends in a training step.
    mask
        ``step``: the same coordinates for all pairs of a step; ``edge``: drawn for each pair (slower).
    """

    pairs: SparsePattern
    rule: MessageRule
    direction: Literal["both", "attribute"] = "both"
    aperture: float = 0.1
    dropout: float = 0.5
    mask: Literal["step", "edge"] = "step"

    def __call__(self, backend: SparseBackend, entity: Tensor, generator: torch.Generator | None) -> Tensor:
        """Mean excess of the angle over the half aperture; scalar, zero if there are no pairs.

        Parameters
        ----------
        backend
            Who computes the sparse products.
        entity
            Entity parameters ``[n_entities, d]``.
        generator
            Of the coordinate mask; None switches the mask off.
        """
        if self.pairs.n_edges == 0:
            return entity.new_zeros(())
        if self.dropout == 0.0:
            generator = None
        if generator is not None and self.mask == "edge":
            item, attribute, dot = self._masked_by_edge(backend, entity, generator)
        elif isinstance(backend, LossBackend) and backend.computes_losses_of(entity):
            drawn = None if generator is None else self._drawn((entity.shape[1],), generator)
            return backend.mean_cone_excess(
                self.pairs, entity, drawn, self.rule,
                both=self.direction == "both", aperture=self.aperture, dropout=self.dropout,
            )  # fmt: skip
        else:
            kept = None if generator is None else self._kept((entity.shape[1],), generator)
            if isinstance(backend, CompiledBackend):
                both = self.direction == "both"
                return backend.mean_cone_excess(self.pairs, entity, kept, self.rule, both=both, aperture=self.aperture)
            if kept is not None:
                entity = entity * kept.to(entity)
            dot, squared = dots_and_squares(backend, self.pairs, entity)
            item, attribute = self._ends(backend, squared)
        item, attribute, dot = cone_points(item, attribute, dot, rule=self.rule)
        total = self._excess(attribute, item, dot).mean()
        return total if self.direction == "attribute" else (total + self._excess(item, attribute, dot).mean()) / 2.0

    def _excess(self, apex: Tensor, point: Tensor, dot: Tensor) -> Tensor:
        return cone_excess(apex, point, dot, rule=self.rule, aperture=self.aperture)

    def _kept(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return self._drawn(shape, generator) >= self.dropout

    @staticmethod
    def _drawn(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device)

    def _ends(self, backend: SparseBackend, table: Tensor) -> tuple[Tensor, Tensor]:
        """What a table of entities holds of the item and of the attribute of each pair."""
        pairs = self.pairs
        if not in_fixed_shapes(table):
            return table.index_select(0, pairs.rows), table.index_select(0, pairs.cols)
        items = rows_of(backend, pairs.by_row, pairs.rows, table[: pairs.n_rows])
        return items, rows_of(backend, pairs.by_col, pairs.cols, table)

    def _masked_by_edge(
        self, backend: SparseBackend, entity: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        keep = self._kept((self.pairs.n_edges, entity.shape[1]), generator).to(entity)
        item, attribute = (end * keep for end in self._ends(backend, entity))
        return item.square().sum(1), attribute.square().sum(1), (item * attribute).sum(1)


def item_attribute_pairs(knowledge: KnowledgePattern, n_items: int, relations: Tensor | None = None) -> SparsePattern:
    """Pattern item x attribute of the triples with exactly one end an item, one edge each, whichever end the item is.

    Parameters
    ----------
    knowledge
        Knowledge graph with inverses.
    n_items
        Entities below this are items.
    relations
        int64 ids of the relations (without inverses) to take; None takes all.
    """
    pairs, r = knowledge.pairs, knowledge.n_relations // 2
    chosen = (pairs.rows < n_items) & (pairs.cols >= n_items)
    if relations is not None:
        chosen &= torch.isin(knowledge.relation % max(r, 1), relations.to(knowledge.relation.device))
    return SparsePattern.from_pairs(pairs.rows[chosen], pairs.cols[chosen], n_items, pairs.n_cols)


def with_attribute_pairs(items: SparsePattern, children: Tensor, parents: Tensor) -> SparsePattern:
    """Pattern entity x entity of the pairs of :func:`item_attribute_pairs` and of attributes below attributes.

    Parameters
    ----------
    items
        Items below attributes.
    children, parents
        int64 ``[n]`` each: entities, the lower and the higher, in any order.
    """
    rows = torch.cat([items.rows, children.to(items.rows)])
    cols = torch.cat([items.cols, parents.to(items.cols)])
    order = rows.argsort(stable=True)
    return SparsePattern.from_pairs(rows[order], cols[order], items.n_cols, items.n_cols)
