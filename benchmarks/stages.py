"""Where a training step's time goes, and how near each stage comes to the speed of memory.

The stages are the package's own pieces. Their forward passes are timed where they are called; for the backward passes
each piece is put between two identities whose backward only reads the clock (autograd runs the nodes in between, and
no others, from the later one to the earlier).
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from measure import markdown
from torch import Tensor
from training_step import endless_batches, model_of, objective_of, optimizer_of

from hakg_dgl.geometry.message import MessageRule
from hakg_dgl.graph.edge_types import EdgeType
from hakg_dgl.graph.packed import KnowledgePattern
from hakg_dgl.layers.embeddings import Embeddings
from hakg_dgl.layers.execution import Executor, Masks
from hakg_dgl.layers.losses import contrastive_loss
from hakg_dgl.layers.packed_executor import PackedExecutor
from hakg_dgl.training.trainer import Trainer

STAGES = (
    "negatives",
    "aggregation",
    "collaborative sums",
    "gate",
    "contrastive loss",
    "angle loss",
    "rest",
    "optimiser",
)
"""``rest``: masks, dropout, normalisation, sums over layers, and what of the backward pass is not another stage's."""


class StageClock:
    """Seconds by stage, forward and backward."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.forward: dict[str, float] = defaultdict(float)
        self.backward: dict[str, float] = defaultdict(float)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = self.now()
        yield
        self.forward[name] += self.now() - began

    def timed(self, name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The function of tensors, with both of its passes timed."""

        def run(*arguments: Any) -> Tensor:
            marked = self.mark(name, -1.0, *(x for x in arguments if isinstance(x, Tensor)))
            places = iter(marked)
            with self.stage(name):
                result = function(*(next(places) if isinstance(x, Tensor) else x for x in arguments))
            return self.mark(name, 1.0, result)[0]

        return run

    def mark(self, name: str, sign: float, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The tensors; when their gradients pass, the time is taken off (sign 1: it begins) or added (-1: it ends)."""
        marked: tuple[Tensor, ...] = _Mark.apply(self, name, sign, *tensors)  # type: ignore[no-untyped-call]
        return marked


class _Mark(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, clock: StageClock, name: str, sign: float, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.clock, ctx.name, ctx.sign = clock, name, sign
        ctx.set_materialize_grads(False)
        return tuple(x.view_as(x) for x in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        ctx.clock.backward[ctx.name] -= ctx.sign * ctx.clock.now()
        return None, None, None, *grads


class TimedExecutor(PackedExecutor):
    """A packed executor with a clock."""

    clock: StageClock

    @classmethod
    def around(cls, executor: Executor, clock: StageClock) -> TimedExecutor:
        """One like ``executor``, which must be packed, with a clock."""
        if not isinstance(executor, PackedExecutor):
            raise ValueError("stages are timed with packed views: take other kernels than 'readable'")
        timed = cls(executor.graph, executor.plain_backend, bfloat16=executor.bfloat16, masks=executor.masks)
        timed.clock = clock
        return timed

    def drop(self, masks: Masks) -> TimedExecutor:
        return self.around(super().drop(masks), self.clock)

    def relation_transitive(
        self, pattern: KnowledgePattern, values: Tensor, relations: Tensor, rule: MessageRule
    ) -> Tensor:
        def run(values: Tensor, relations: Tensor) -> Tensor:
            return super(TimedExecutor, self).relation_transitive(pattern, values, relations, rule)

        return self.clock.timed("aggregation", run)(values, relations)

    def copied(self, etype: EdgeType, values: Tensor) -> Tensor:
        return self.clock.timed("collaborative sums", lambda x: super(TimedExecutor, self).copied(etype, x))(values)


def timed_step(trainer: Trainer, batch: tuple[Tensor, Tensor], clock: StageClock) -> None:
    """One training step, piece by piece; the model's executor and gate must carry the clock already."""
    objective, model, (users, positives) = objective_of(trainer), model_of(trainer), batch
    loss = objective.settings
    optimizer_of(trainer).zero_grad(set_to_none=True)
    with clock.stage("negatives"):
        negatives = objective.sampler.sample(users, loss.negatives, objective.generators["negatives"])
    began, within = clock.now(), sum(clock.forward.values())
    embeddings = model.propagate(dropout=objective.generators["dropout"])
    clock.forward["rest"] += clock.now() - began - (sum(clock.forward.values()) - within)

    def contrastive(*tables: Tensor) -> Tensor:
        dual = Embeddings(tables[0], tables[1], tables[2] if len(tables) > 2 else None)
        return contrastive_loss(objective.backend, dual, users, positives, negatives, loss.margin)

    tables = [x for x in (embeddings.user, embeddings.entity, embeddings.item) if x is not None]
    total = clock.timed("contrastive loss", contrastive)(*tables)
    if loss.angle_weight > 0.0:
        generator = objective.generators["angle"]
        angle = clock.timed("angle loss", lambda x: objective.angle(objective.backend, x, generator))
        total = total + loss.angle_weight * angle(model.entity)
    began, within = clock.now(), sum(clock.backward.values())
    total.backward()  # type: ignore[no-untyped-call]
    clock.backward["rest"] += clock.now() - began - (sum(clock.backward.values()) - within)
    with clock.stage("optimiser"):
        optimizer_of(trainer).step()


def time_stages(trainer: Trainer, repeats: int) -> dict[str, tuple[float, float]]:
    """Median seconds of every stage, forward and backward, over ``repeats`` steps after one that is not counted."""
    clock, batches, model = StageClock(trainer.device), endless_batches(trainer), model_of(trainer)
    executor, fused_items = model.executor, model.fused_items
    model.executor = TimedExecutor.around(executor, clock)
    model.fused_items = clock.timed("gate", fused_items)  # type: ignore[method-assign]
    steps = []
    try:
        for _ in range(1 + repeats):
            clock.forward, clock.backward = defaultdict(float), defaultdict(float)
            timed_step(trainer, next(batches), clock)
            steps.append((clock.forward, clock.backward))
    finally:
        model.executor = executor
        del model.fused_items
    medians = ([statistics.median(step[way][name] for step in steps[1:]) for way in (0, 1)] for name in STAGES)
    return {name: (forward, backward) for name, (forward, backward) in zip(STAGES, medians, strict=True)}


def bytes_to_move(trainer: Trainer) -> dict[str, tuple[float, float]]:
    """Bytes that the stages of a step must move, forward and backward together: (at least, with gathers).

    *At least*: each table that a stage reads or writes counts once, as do 8 bytes for each id it reads (the column and
    the relation of an edge, the item of a negative). *With gathers*: in addition the row of d numbers that each edge
    (or negative) reads, once forward, and backward once for each of the ends that get a gradient through it and once
    for its value; this is what moves where the tables do not stay in cache. Active negatives are not counted in the
    backward pass: how many there are depends on the model. Per layer l with h_l heads and m_l kept KG edges; n, u, i
    entities, users, items; p kept interactions; B k negatives; q item-attribute pairs; P parameters; row = 4 d bytes:

    ================== =========================================== ==============================
    stage              at least                                    with gathers, more
    ================== =========================================== ==============================
    negatives          9 B k                                       0
    aggregation        sum_l (3 n + 2 h_l) row + 32 m_l            sum_l 4 m_l row
    collaborative sums L (4 (u + i) row + 32 p)                    L 4 p row
    gate               L 8 i row                                   0
    rest               sum_l (6 row + 2 d) (u + i + h_l)           0
    contrastive loss   5 (u + 2 i) row + 16 B k                    2 B k row
    angle loss         3 n row + 32 q                              3 q row
    optimiser          28 P                                        0
    ================== =========================================== ==============================
    """
    s, graph, loss = trainer.settings, model_of(trainer).packed, trainer.settings.loss
    size, layers = model_of(trainer).user.element_size(), s.model.layers
    row, u, i, n = s.model.dim * size, graph.n_users, graph.n_items, graph.n_entities
    kept = 1.0 - s.model.kg_edge_dropout
    last = kept * int((graph.knowledge.pairs.rows < i).sum())
    heads, edges = n * (layers - 1) + i, kept * graph.knowledge.n_edges * (layers - 1) + last
    p = (1.0 - s.model.interaction_dropout) * graph.interactions.n_edges
    drawn, q = s.training.batch_size * loss.negatives, objective_of(trainer).angle.pairs.n_edges
    parameters = sum(x.numel() for x in model_of(trainer).parameters())
    pairs = {
        "negatives": (9 * drawn, 0),
        "aggregation": ((3 * n * layers + 2 * heads) * row + 32 * edges, 4 * edges * row),
        "collaborative sums": (layers * (4 * (u + i) * row + 32 * p), layers * 4 * p * row),
        "gate": (layers * 8 * i * row, 0),
        "rest": ((6 * row + 2 * s.model.dim) * (layers * (u + i) + heads), 0),
        "contrastive loss": (5 * (u + 2 * i) * row + 16 * drawn, 2 * drawn * row),
        "angle loss": (3 * n * row + 32 * q, 3 * q * row),
        "optimiser": (7 * size * parameters, 0),
    }
    return {name: (float(least), float(least + gathers)) for name, (least, gathers) in pairs.items()}


def stage_rows(trainer: Trainer, repeats: int, bandwidth: float) -> list[dict[str, Any]]:
    """A row a stage: seconds forward and backward, share of the step, bytes and seconds they take at ``bandwidth``."""
    times, moved = time_stages(trainer, repeats), bytes_to_move(trainer)
    total = sum(map(sum, times.values()))
    rows = []
    for name, (forward, backward) in times.items():
        least, gathered = moved[name]
        rows.append({
            "stage": name, "forward_s": forward, "backward_s": backward, "share": (forward + backward) / total,
            "least_bytes": least, "gathered_bytes": gathered,
            "least_s": least / bandwidth, "gathered_s": gathered / bandwidth,
        })  # fmt: skip
    return rows


def stage_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown, with their sum."""
    header = ["stage", "forward ms", "backward ms", "share", "at least MB", "with gathers MB"]
    header += ["time / copying least", "time / copying gathers"]
    total = {"stage": "the step"} | {key: sum(row[key] for row in rows) for key in rows[0] if key != "stage"}
    lines = []
    for row in (*rows, total):
        spent = row["forward_s"] + row["backward_s"]
        line = [row["stage"], f"{row['forward_s'] * 1e3:.1f}", f"{row['backward_s'] * 1e3:.1f}", f"{row['share']:.0%}"]
        line += [f"{row[key] / 1e6:.0f}" for key in ("least_bytes", "gathered_bytes")]
        line += [f"{spent / row[key]:.1f}" for key in ("least_s", "gathered_s")]
        lines.append(line)
    return markdown(header, lines)
