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
from hakg_dgl.kernels.triton_kernels import layer_rows, layer_sums
from hakg_dgl.kernels.triton_kernels.aggregation import OUTER_PROGRAMS, SHARES, tile_of_messages
from hakg_dgl.kernels.triton_kernels.edge_lists import MOST_EDGES, EdgeLists, Group, n_places
from hakg_dgl.kernels.triton_kernels.gate import GATE_DIMS, GATE_ROWS, GATE_WARPS
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
        gated and like.dtype == torch.float32 and dim <= GATE_DIMS,
    )  # fmt: skip


# --- forward ---------------------------------------------------------------------------------------------------------


def _mix(step: _Step, table: Tensor, gate: tuple[Tensor, Tensor] | None) -> None:
    """What items send to users, behind the other rows of the table."""
    layout = step.layout
    _, item, entity, out = layout.views(table)
    entity, sent, n_items = entity[: layout.n_items], layout.item_sent, layout.n_items
    if gate is not None and step.fused_gate:
        layer_rows.gate_kernel[(triton.cdiv(n_items, GATE_ROWS),)](
            item, entity, *gate, sent, out, n_items, table.shape[1],
            ROWS=GATE_ROWS, DIMS=_gate_dims(table), num_warps=GATE_WARPS,
        )  # fmt: skip
    else:
        torch.mul(_mixed(layout, item, entity, gate), sent.unsqueeze(1), out=out)


def _mixed(layout: Layout, item: Tensor, entity: Tensor, gate: tuple[Tensor, Tensor] | None) -> Tensor:
    if not layout.dual:
        return entity
    if gate is None:
        return (item + entity) / 2.0
    return torch.lerp(entity, item, _open(item, entity, gate))


def _open(item: Tensor, entity: Tensor, gate: tuple[Tensor, Tensor]) -> Tensor:
    return torch.sigmoid(torch.addmm(item @ gate[0].T, entity, gate[1].T))


def _gate_dims(table: Tensor) -> int:
    return max(16, int(triton.next_power_of_2(table.shape[1])))


def _forward_layer(
    step: _Step, layer: int, table: Tensor, relation: Tensor, gate: tuple[Tensor, Tensor] | None,
    sums: Tensor, new_sums: Tensor, outer: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The next layer's table, and one over the lengths of its rows before they were normalised."""
    layout, lists, dim = step.layout, step.lists, table.shape[1]
    rows, cols, _, tails, kinds = layout.edges
    _mix(step, table, gate)
    pieces = table.new_empty(lists.heads.stop, dim)
    entity = layout.views(table)[2]
    arguments = (*step.edges(), lists.row, tails, kinds, entity, relation, pieces, *outer)
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
    return out, inverse


# --- backward --------------------------------------------------------------------------------------------------------


def _collect(
    step: _Step, layer: int, grads: Sequence[Tensor], above: tuple[Tensor, Tensor] | None,
    left: tuple[Tensor, Tensor] | None,
) -> Tensor:  # fmt: skip
    """Gradient of the sums of a layer, or of what enters the first one if ``left`` is None.

    ``above`` are pieces and mixtures of the layer above, ``left`` the table that the layer left, and its lengths.
    """
    layout, lists = step.layout, step.lists
    like, dim = grads[0], grads[0].shape[1]
    n_rows = layout.entities + (step.heads(layer) if left is not None else layout.n_entities)
    out = like.new_empty(n_rows, dim)
    words, starts, dropout = step.dropout(layer if left is not None else None)
    pieces, mixed = (like, like) if above is None else above
    unit, inverse = (like, like) if left is None else left
    tails, _ = step.tails(layer + 1)
    layer_rows.collect_kernel[step.grid(n_rows)](
        pieces, layout.first, layout.last, tails.first, lists.bounds, lists.counts, mixed, layout.sent, step.scale,
        words, unit, inverse, *grads, out, n_rows, step.n_sums, step.heads(layer + 1), tails.start - lists.heads.stop,
        layout.users, layout.entities, layout.entities - layout.users + layout.n_items, *starts, dim,
        ABOVE=above is not None, BELOW=left is not None, COPIED=layout.dual, **dropout, **step.rows,
    )  # fmt: skip
    return out


def _mix_gradients(
    step: _Step, table: Tensor, gate: tuple[Tensor, Tensor] | None, pieces: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Gradients of items and their entities as they were mixed, one after the other, and of the gate matrices."""
    layout, dim, n_items = step.layout, table.shape[1], step.layout.n_items
    _, item, entity, _ = layout.views(table)
    entity, first, sent = entity[:n_items], step.lists.items.first, layout.item_sent
    if gate is not None and step.fused_gate:
        mixed, score = table.new_empty(2 * n_items, dim), table.new_empty(n_items, dim)
        layer_rows.gate_gradient_kernel[(triton.cdiv(n_items, GATE_ROWS),)](
            item, entity, *gate, sent, pieces, first, mixed, mixed[n_items:], score, n_items, dim,
            ROWS=GATE_ROWS, DIMS=_gate_dims(table), num_warps=GATE_WARPS,
        )  # fmt: skip
        both = table[layout.users : layout.users + 2 * n_items].view(2, n_items, dim)  # items, then their entities
        of_item, of_entity = torch.bmm(score.T.expand(2, dim, n_items), both).unbind()
        return mixed, (of_item, of_entity)
    upstream = table.new_empty(n_items, dim)
    layer_rows.piece_kernel[step.grid(n_items)](pieces, first, sent, upstream, n_items, dim, **step.rows)
    if not layout.dual:
        return upstream, None
    if gate is None:
        return torch.cat([upstream / 2.0, upstream / 2.0]), None
    opened = _open(item, entity, gate)
    score = upstream * (item - entity) * opened * (1.0 - opened)
    mixed = torch.cat([upstream * opened + score @ gate[0], upstream * (1.0 - opened) + score @ gate[1]])
    return mixed, (score.T @ item, score.T @ entity)


def _backward_layer(
    step: _Step, layer: int, table: Tensor, relation: Tensor, gate: tuple[Tensor, Tensor] | None, grad: Tensor,
    outer: tuple[Tensor, Tensor], of_relations: Tensor,
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
    mixed, of_gate = _mix_gradients(step, table, gate, pieces)
    entity, upstream, n_pieces = layout.views(table)[2], grad[layout.entities :], step.head_pieces(layer)
    if n_pieces == 0:
        of_relations.zero_()
        return (pieces, mixed), of_gate
    shares = table.new_empty(len(heads) * SHARES.value)
    arguments = (*step.edges(), lists.row, ends, kinds, entity, relation, upstream, shares, pieces)
    options = {**step.messages, **step.message_tile}
    layer_sums.head_gradient_kernel[(n_pieces,)](*arguments, lists.heads.start, dim, WIDEN=step.widens, **options)
    if step.widens:
        layer_sums.outer_head_gradient_kernel[(min(n_pieces, OUTER_PROGRAMS),)](*arguments, *outer, dim, **options)
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


class _Run(NamedTuple):
    """What the way back needs of the way there: tables and lengths of each layer, and the lists of outer pieces."""

    tables: list[Tensor]
    inverse: list[Tensor]
    outer: list[tuple[Tensor, Tensor]]


def _forward(
    step: _Step, start: list[Tensor], relation: Tensor, gates: Sequence[tuple[Tensor, Tensor]]
) -> tuple[Tensor, _Run]:
    layout, dim = step.layout, relation.shape[1]
    table = relation.new_empty(layout.n_rows + layout.n_items, dim)
    torch.cat(start, out=table[: layout.n_rows])
    sums, run = relation.new_empty(step.n_sums, dim), _Run([table], [], [])
    counters = torch.zeros(step.n_layers, 1, dtype=torch.int32, device=table.device)
    for layer, counter in enumerate(counters):
        outer = counter.new_empty(step.head_pieces(layer) if step.widens else 0), counter
        before, gate = table if layer == 0 else sums, gates[layer] if gates else None
        table, inverse = _forward_layer(step, layer, table, relation, gate, before, sums, outer)
        run.tables.append(table)
        run.inverse.append(inverse)
        run.outer.append(outer)
    return sums, run


def _backward(
    step: _Step, run: _Run, relation: Tensor, gates: Sequence[tuple[Tensor, Tensor]], grads: Sequence[Tensor]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Gradients of all rows, of relations and of the gate matrices."""
    n_each = [relations.stop - relations.start for _, relations in map(step.tails, range(step.n_layers))]
    of_relations = relation.new_empty(sum(n_each), relation.shape[1])
    above: tuple[Tensor, Tensor] | None = None
    of_gates: list[Tensor] = []
    for layer in reversed(range(step.n_layers)):
        grad = _collect(step, layer, grads, above, (run.tables[layer + 1], run.inverse[layer]))
        begin = sum(n_each[:layer])
        above, of_gate = _backward_layer(
            step, layer, run.tables[layer], relation, gates[layer] if gates else None, grad, run.outer[layer],
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
            sums, run = _forward(step, list(tensors[n_gates:]), relation, gates)
        ctx.step, ctx.n_gates, ctx.sizes = step, n_gates, [len(x) for x in tensors[n_gates:]]
        outer = [x for pair in run.outer for x in pair]
        ctx.save_for_backward(relation, *tensors[:n_gates], *run.tables, *run.inverse, *outer)
        layout = step.layout
        return sums[: layout.users], sums[layout.users : layout.entities], sums[layout.entities :]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        step, (relation, *saved) = ctx.step, ctx.saved_tensors
        n = step.n_layers
        matrices, saved = saved[: ctx.n_gates], saved[ctx.n_gates :]
        gates = list(zip(matrices[0::2], matrices[1::2], strict=True))
        outer = list(zip(saved[2 * n + 1 :: 2], saved[2 * n + 2 :: 2], strict=True))
        run = _Run(saved[: n + 1], saved[n + 1 : 2 * n + 1], outer)
        with torch.cuda.device_of(relation):
            rows, of_relations, of_gates = _backward(step, run, relation, gates, [x.contiguous() for x in grads])
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
