# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code="no-untyped-def,no-untyped-call,misc"
"""All layers of HAKG and their gradients, in a dozen launches each way whatever the number of edge types.

The rows of users, items (if they have collaborative embeddings) and entities are one table, behind which lies what
items send to users. A layer is five launches: that mixture, the messages to heads (and those in float64), the copies
along interactions in both directions, and what is done row by row. The way back is six and a matrix product. No
gradient is added up outside these kernels, and no table is made to be read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from hakg_dgl.geometry.guards import max_norm
from hakg_dgl.kernels.propagation import Chance, Propagation, Start, Weights
from hakg_dgl.kernels.triton_kernels import gate as fused_gate
from hakg_dgl.kernels.triton_kernels import layer_rows, layer_sums
from hakg_dgl.kernels.triton_kernels.aggregation import OUTER_PROGRAMS, SHARES, tile_of_messages
from hakg_dgl.kernels.triton_kernels.edge_lists import MOST_EDGES, EdgeLists, Group, n_places
from hakg_dgl.kernels.triton_kernels.products import accumulator, tile_shape

_NO_CHANCE = -(1 << 15)


class Layout:
    """Where the rows lie, and what stays the same from step to step.

    Parameters
    ----------
    form
        What is propagated, and how.
    dual
        Whether items have collaborative embeddings.
    like
        Device and dtype.
    """

    def __init__(self, form: Propagation, dual: bool, like: Tensor) -> None:
        pairs, device = form.knowledge.pairs, like.device
        self.form, self.dual = form, dual
        self.users, self.n_items, self.n_entities = form.interactions.n_rows, form.interactions.n_cols, pairs.n_rows
        self.entities: int = self.users + (self.n_items if dual else 0)
        self.n_rows: int = self.entities + self.n_entities
        self.lists: EdgeLists = EdgeLists.of(form.interactions, form.knowledge)
        lists = self.lists
        received = [group.first for group in (lists.users, *([lists.items] if dual else []), lists.heads)]
        self.first: Tensor = torch.cat([pieces[:-1] for pieces in received])
        self.last: Tensor = torch.cat([pieces[1:] for pieces in received])
        self.heads_of_items: int = int(lists.heads.first[self.n_items]) - lists.heads.start
        self.edges: tuple[Tensor, ...] = tuple(
            x.int() for x in (form.interactions.rows, form.interactions.cols, pairs.rows, pairs.cols,
                              form.knowledge.relation)
        )  # fmt: skip

        def numbers(user: Tensor | None, item: Tensor | None) -> list[Tensor]:
            one = torch.ones((), dtype=like.dtype, device=device)
            users = one.expand(self.users) if user is None else user
            items = one.expand(self.n_items) if item is None else item
            return [users, *([items] if dual else []), one.expand(self.n_entities)]

        one = torch.ones(self.n_items, dtype=like.dtype, device=device)
        self.item_sent: Tensor = one if form.item_sent is None else form.item_sent.contiguous()
        sent = numbers(form.user_sent, None)
        self.sent: Tensor = torch.cat([*sent, one])
        self._scale: Tensor = torch.cat(numbers(form.user_scale, form.item_scale))
        self._scales: dict[float, Tensor] = {1.0: self._scale}

    @classmethod
    def fits(cls, form: Propagation) -> bool:
        """Whether the graph has edges of both kinds, few enough to count in 32 bits."""
        interactions, knowledge = form.interactions, form.knowledge
        return min(interactions.n_edges, knowledge.n_edges) > 0 and n_places(interactions, knowledge) < MOST_EDGES

    def scale_with(self, factor: float) -> Tensor:
        """What the sums of users and of items are multiplied by, factor included, ``[n_rows]``."""
        if factor not in self._scales:
            self._scales[factor] = self._scale * factor
        return self._scales[factor]

    def views(self, table: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Users, items, entities and what items send, of a table of all rows."""
        users, items, entities = table[: self.users], table[self.users : self.entities], table[self.entities :]
        return users, items, entities[: self.n_entities], table[self.n_rows :]


class _Step(NamedTuple):
    """One run of all layers: kernels' constants, edges that are kept, and how far sums go."""

    layout: Layout
    lists: EdgeLists
    scale: Tensor
    chance: Chance | None
    n_layers: int
    kept: int
    rows: dict[str, Any]
    messages: dict[str, Any]
    message_tile: dict[str, Any]
    fused_gate: bool

    @property
    def n_sums(self) -> int:
        """Rows that have a running sum."""
        return self.layout.entities + self.kept

    @property
    def widens(self) -> bool:
        """Whether some heads may need more precision than the sums have."""
        return bool(self.rows["SUM"] == accumulator(torch.float32)[1]) and not self.messages["FLAT"]

    def last(self, layer: int) -> bool:
        """Whether a layer is the last, and only some heads are asked for."""
        return layer == self.n_layers - 1 and self.kept < self.layout.n_entities

    def heads(self, layer: int) -> int:
        """How many entities receive."""
        return self.kept if self.last(layer) else self.layout.n_entities

    def head_pieces(self, layer: int) -> int:
        """How many pieces these have."""
        group = self.lists.heads
        return self.layout.heads_of_items if self.last(layer) else group.stop - group.start

    def tails(self, layer: int) -> tuple[Group, Group]:
        """The lists of tails and of relations whose heads receive."""
        lists = self.lists
        return (lists.last_tails, lists.last_relations) if self.last(layer) else (lists.tails, lists.relations)

    def edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """What all kernels that sum read."""
        return self.lists.order, self.lists.counts, self.lists.bounds

    def grid(self, n_rows: int) -> tuple[int]:
        """Programs for some rows."""
        return (triton.cdiv(n_rows, self.rows["ROWS"]),)

    def dropout(self, layer: int | None) -> tuple[Tensor, tuple[int, int, int], dict[str, Any]]:
        """Random words, where those of users, items and entities lie, and the constants of message dropout."""
        chance = self.chance
        if chance is None or layer is None or chance.limits[2] == _NO_CHANCE:
            return self.lists.order, (0, 0, 0), {"DROPS": False, "LIMIT": _NO_CHANCE}
        users, entities, items = chance.starts[2 + 3 * layer : 5 + 3 * layer]
        return chance.words, (users, items, entities), {"DROPS": True, "LIMIT": chance.limits[2]}


def _step_of(
    layout: Layout, chance: Chance | None, like: Tensor, n_layers: int, kept: int, factor: float, *, gated: bool
) -> _Step:
    dim, rule = like.shape[1], layout.form.rule
    _, total = accumulator(like.dtype)
    flat = rule.geometry == "euclidean"
    limit = max_norm(like.dtype, c=1.0, margin=rule.margin)
    tile = tile_shape(dim, 1024)
    message_tile = tile_of_messages(dim, layout.form.knowledge.n_edges / max(1, layout.n_entities))
    return _Step(
        layout, layout.lists if chance is None else layout.lists.drop(chance), layout.scale_with(factor), chance,
        n_layers, kept,
        {"ROWS": tile.rows, "DIMS": tile.dims, "SUM": total, "num_warps": min(8, max(1, tile.rows * tile.dims // 256))},
        {"CURVATURE": float(rule.curvature), "PAPER": rule.formulation == "paper", "FLAT": flat, "LIMIT": limit},
        {"ROWS": message_tile.rows, "DIMS": message_tile.dims, "SUM": total, "num_warps": message_tile.warps},
        gated and like.dtype == torch.float32,
    )  # fmt: skip


# --- forward ---------------------------------------------------------------------------------------------------------


def _mix(step: _Step, table: Tensor, gate: tuple[Tensor, Tensor] | None) -> Tensor | None:
    """Write what items send to users behind the other rows of the table; the gate as it was opened, if it is kept."""
    layout = step.layout
    _, item, entity, out = layout.views(table)
    entity, sent = entity[: layout.n_items], layout.item_sent
    if gate is not None and step.fused_gate:
        return fused_gate.mix(item, entity, gate, sent, out)
    torch.mul(_mixed(layout, item, entity, gate), sent.unsqueeze(1), out=out)
    return None


def _mixed(layout: Layout, item: Tensor, entity: Tensor, gate: tuple[Tensor, Tensor] | None) -> Tensor:
    if not layout.dual:
        return entity
    if gate is None:
        return (item + entity) / 2.0
    return torch.lerp(entity, item, _open(item, entity, gate))


def _open(item: Tensor, entity: Tensor, gate: tuple[Tensor, Tensor]) -> Tensor:
    return torch.sigmoid(torch.addmm(item @ gate[0].T, entity, gate[1].T))


class _Left(NamedTuple):
    """What a layer leaves.

    Attributes
    ----------
    table, inverse
        What enters the next one, and one over the lengths of its rows before they were normalised.
    outer, n_outer
        The list of outer pieces.
    opened
        The gate, if kernels open it.
    """

    table: Tensor
    inverse: Tensor
    outer: Tensor
    n_outer: Tensor
    opened: Tensor | None


def _forward_layer(
    step: _Step, layer: int, table: Tensor, relation: Tensor, gate: tuple[Tensor, Tensor] | None,
    sums: Tensor, new_sums: Tensor, n_outer: Tensor,
) -> _Left:  # fmt: skip
    layout, lists, dim = step.layout, step.lists, table.shape[1]
    rows, cols, _, tails, kinds = layout.edges
    outer = n_outer.new_empty(step.head_pieces(layer) if step.widens else 0)
    opened = _mix(step, table, gate)
    pieces = table.new_empty(lists.heads.stop, dim)
    entity = layout.views(table)[2]
    arguments = (*step.edges(), lists.row, tails, kinds, entity, relation, pieces, outer, n_outer)
    n_pieces = step.head_pieces(layer)
    options = {**step.messages, **step.message_tile}
    if n_pieces:
        layer_sums.head_kernel[(n_pieces,)](*arguments, lists.heads.start, dim, WIDEN=step.widens, **options)
        if step.widens:
            layer_sums.outer_head_kernel[(min(n_pieces, OUTER_PROGRAMS),)](*arguments, dim, **options)
    layer_sums.copy_kernel[(lists.items.stop if layout.dual else lists.users.stop,)](
        *step.edges(), rows, cols, table, layout.sent, pieces, 0, lists.users.stop, layout.n_rows, 0, dim,
        SCALED=True, **step.rows,
    )  # fmt: skip
    n_rows = layout.entities + step.heads(layer)
    out, inverse = torch.empty_like(table), table.new_empty(n_rows)
    words, starts, dropout = step.dropout(layer)
    layer_rows.finish_kernel[step.grid(n_rows)](
        pieces, layout.first, layout.last, lists.bounds, lists.counts, step.scale, words, sums, out, inverse, new_sums,
        n_rows, step.n_sums, layout.users, layout.entities, *starts, dim, **dropout, **step.rows,
    )  # fmt: skip
    return _Left(out, inverse, outer, n_outer, opened)


# --- backward --------------------------------------------------------------------------------------------------------


def _collect(
    step: _Step, layer: int, grads: Sequence[Tensor], above: tuple[Tensor, Tensor] | None,
    left: _Left | None,
) -> Tensor:  # fmt: skip
    """Gradient of the sums of a layer, or of what enters the first one if ``left`` is None.

    ``above`` are pieces and mixtures of the layer above, ``left`` what the layer left.
    """
    layout, lists = step.layout, step.lists
    like, dim = grads[0], grads[0].shape[1]
    n_rows = layout.entities + (step.heads(layer) if left is not None else layout.n_entities)
    out = like.new_empty(n_rows, dim)
    words, starts, dropout = step.dropout(layer if left is not None else None)
    pieces, mixed = (like, like) if above is None else above
    unit, inverse = (like, like) if left is None else left[:2]
    tails, _ = step.tails(layer + 1)
    layer_rows.collect_kernel[step.grid(n_rows)](
        pieces, layout.first, layout.last, tails.first, lists.bounds, lists.counts, mixed, layout.sent, step.scale,
        words, unit, inverse, *grads, out, n_rows, step.n_sums, step.heads(layer + 1), tails.start - lists.heads.stop,
        layout.users, layout.entities, layout.entities - layout.users + layout.n_items, *starts, dim,
        ABOVE=above is not None, BELOW=left is not None, COPIED=layout.dual, **dropout, **step.rows,
    )  # fmt: skip
    return out


def _mix_gradients(
    step: _Step, table: Tensor, gate: tuple[Tensor, Tensor] | None, opened: Tensor | None, pieces: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Gradients of items and their entities as they were mixed, one after the other, and of the gate matrices."""
    layout, dim, n_items = step.layout, table.shape[1], step.layout.n_items
    _, item, entity, _ = layout.views(table)
    entity, first, sent = entity[:n_items], step.lists.items.first, layout.item_sent
    if gate is not None and opened is not None:
        mixed, score = fused_gate.mix_gradients(item, entity, opened, gate, pieces, (first, sent))
        both = table[layout.users : layout.users + 2 * n_items].view(2, n_items, dim)  # items, then their entities
        of_item, of_entity = torch.bmm(score.T.expand(2, dim, n_items), both).unbind()
        return mixed.view(2 * n_items, dim), (of_item, of_entity)
    upstream = table.new_empty(n_items, dim)
    layer_rows.piece_kernel[step.grid(n_items)](pieces, first, sent, upstream, n_items, dim, **step.rows)
    if not layout.dual:
        return upstream, None
    if gate is None:
        return torch.cat([upstream / 2.0, upstream / 2.0]), None
    g = _open(item, entity, gate)
    score = upstream * (item - entity) * g * (1.0 - g)
    mixed = torch.cat([upstream * g + score @ gate[0], upstream * (1.0 - g) + score @ gate[1]])
    return mixed, (score.T @ item, score.T @ entity)


def _backward_layer(
    step: _Step, layer: int, table: Tensor, relation: Tensor, gate: tuple[Tensor, Tensor] | None, grad: Tensor,
    left: _Left, of_relations: Tensor,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:  # fmt: skip
    """Pieces of the gradients of what entered a layer and its mixtures, and gradients of the gate matrices.

    ``grad`` is that of the layer's sums; pieces of the gradient of relations go to ``of_relations``.
    """
    layout, lists, dim = step.layout, step.lists, table.shape[1]
    rows, cols, heads, ends, kinds = layout.edges
    tails, relations = step.tails(layer)
    pieces = table.new_empty(lists.heads.stop + tails.stop - tails.start, dim)
    begin = 0 if layout.dual else lists.items.start
    layer_sums.copy_kernel[(lists.items.stop - begin,)](
        *step.edges(), rows, cols, grad, layout.sent, pieces, begin, lists.users.stop, layout.users, 0, dim,
        SCALED=False, **step.rows,
    )  # fmt: skip
    mixed, of_gate = _mix_gradients(step, table, gate, left.opened, pieces)
    entity, upstream, n_pieces = layout.views(table)[2], grad[layout.entities :], step.head_pieces(layer)
    if n_pieces == 0:
        of_relations.zero_()
        return (pieces, mixed), of_gate
    shares = table.new_empty(len(heads) * SHARES.value)
    arguments = (*step.edges(), lists.row, ends, kinds, entity, relation, upstream, shares, pieces)
    options = {**step.messages, **step.message_tile}
    layer_sums.head_gradient_kernel[(n_pieces,)](*arguments, lists.heads.start, dim, WIDEN=step.widens, **options)
    if step.widens:
        layer_sums.outer_head_gradient_kernel[(min(n_pieces, OUTER_PROGRAMS),)](
            *arguments, left.outer, left.n_outer, dim, **options
        )
    options = {"FLAT": step.messages["FLAT"], **step.message_tile}
    n_tails, n_relations = tails.stop - tails.start, relations.stop - relations.start
    layer_sums.share_kernel[(n_tails + n_relations,)](
        *step.edges(), lists.row, heads, ends, kinds, shares, upstream, entity, relation, pieces[lists.heads.stop :],
        of_relations, tails.start, n_tails, relations.start, dim, **options,
    )  # fmt: skip
    return (pieces, mixed), of_gate


def _sum_relations(step: _Step, pieces: Tensor, like: Tensor) -> Tensor:
    """The gradient of the relations from their pieces in all layers."""
    lists, out = step.lists, torch.empty_like(like)
    _, last = step.tails(step.n_layers - 1)
    every = lists.relations
    layer_sums.relation_kernel[(len(like),)](
        pieces, every.first, last.first, out, every.start, last.start, every.stop - every.start, step.n_layers - 1,
        like.shape[1], **step.rows,
    )  # fmt: skip
    return out


def _forward(
    step: _Step, start: list[Tensor], relation: Tensor, gates: Sequence[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor, list[_Left]]:
    """The running sums, the table that enters the first layer, and what each layer left."""
    layout, dim = step.layout, relation.shape[1]
    table = relation.new_empty(layout.n_rows + layout.n_items, dim)
    torch.cat(start, out=table[: layout.n_rows])
    sums, left = relation.new_empty(step.n_sums, dim), list[_Left]()
    counters = torch.zeros(step.n_layers, 1, dtype=torch.int32, device=table.device)
    for layer, counter in enumerate(counters):
        entered, before = (left[-1].table, sums) if left else (table, table)
        gate = gates[layer] if gates else None
        left.append(_forward_layer(step, layer, entered, relation, gate, before, sums, counter))
    return sums, table, left


def _backward(
    step: _Step,
    start: Tensor,
    left: Sequence[_Left],
    relation: Tensor,
    gates: Sequence[tuple[Tensor, Tensor]],
    grads: Sequence[Tensor],
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Gradients of all rows, of relations and of the gate matrices."""
    n_each = [relations.stop - relations.start for _, relations in map(step.tails, range(step.n_layers))]
    of_relations = relation.new_empty(sum(n_each), relation.shape[1])
    above: tuple[Tensor, Tensor] | None = None
    of_gates: list[Tensor] = []
    for layer in reversed(range(step.n_layers)):
        grad, entered = _collect(step, layer, grads, above, left[layer]), left[layer - 1].table if layer else start
        begin = sum(n_each[:layer])
        above, of_gate = _backward_layer(
            step, layer, entered, relation, gates[layer] if gates else None, grad, left[layer],
            of_relations[begin : begin + n_each[layer]],
        )  # fmt: skip
        of_gates[:0] = of_gate or ()
    rows = _collect(step, -1, grads, above, None)
    return rows, _sum_relations(step, of_relations, relation), of_gates


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: _Step, relation: Tensor, n_gates: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        relation, *tensors = (x.contiguous() for x in (relation, *tensors))  # type: ignore[assignment]
        gates = list(zip(tensors[0:n_gates:2], tensors[1:n_gates:2], strict=True))
        with torch.cuda.device_of(relation):
            sums, start, left = _forward(step, list(tensors[n_gates:]), relation, gates)
        ctx.step, ctx.n_gates, ctx.sizes = step, n_gates, [len(x) for x in tensors[n_gates:]]
        ctx.save_for_backward(relation, *tensors[:n_gates], start, *(x for each in left for x in each))
        layout = step.layout
        return sums[: layout.users], sums[layout.users : layout.entities], sums[layout.entities :]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        step, (relation, *saved) = ctx.step, ctx.saved_tensors
        matrices, saved = saved[: ctx.n_gates], saved[ctx.n_gates :]
        gates = list(zip(matrices[0::2], matrices[1::2], strict=True))
        n = len(_Left._fields)
        left = [_Left(*each) for each in zip(*(saved[1 + i :: n] for i in range(n)), strict=True)]
        with torch.cuda.device_of(relation):
            rows, of_relations, of_gates = _backward(
                step, saved[0], left, relation, gates, [x.contiguous() for x in grads]
            )
        return None, of_relations, None, *of_gates, *torch.split(rows, ctx.sizes)


def propagate(
    layout: Layout, start: Start, weights: Weights, n_layers: int, kept: int, factor: float, chance: Chance | None
) -> Start:
    """Running sums of the rows that leave each of the layers, those that enter the first one included.

    Parameters
    ----------
    layout
        Of the graph that ``start`` is of.
    start, weights
        float32 or float64, of one dtype.
    n_layers
        At least 1.
    kept
        How many entities are asked for, all or the items.
    factor
        What a copy along an interaction is multiplied by.
    chance
        What a training step keeps; None for all.

    Returns
    -------
    Start
        Differentiable once in what ``start`` and ``weights`` hold; the same bits every time.
    """
    gates = [matrix for pair in weights.gates for matrix in pair]
    rows = [start.user, *([] if start.item is None else [start.item]), start.entity]
    step = _step_of(layout, chance, start.user, n_layers, kept, factor, gated=bool(gates))
    user, item, entity = _Propagate.apply(step, weights.relation, len(gates), *gates, *rows)
    return Start(user, entity, None if start.item is None else item)
