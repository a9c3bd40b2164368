"""The yardstick: what the released code does, written plainly.

Whole-graph propagation with ``[n_edges, d]`` temporaries, negatives scored by gathering ``[batch, negatives, d]`` rows,
an angle loss that gathers both ends of every edge and draws a mask for each, evaluation by a loop over users with a
heap, reading by a loop over lines. It works on the parameters of a :class:`~hakg_dgl.models.hakg.HAKG` and, given the
same masks, computes the same numbers.

Where the released code is slower still, the yardstick is kinder: its negatives come from the package's sampler, its
angle loss runs in one piece where memory allows (the released code slices gathered rows, which makes the backward pass
quadratic in the number of edges), and evaluation starts no processes.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.geometry.cones import cone_angle, half_aperture
from hakg_dgl.geometry.guards import ROW_NORM_FLOOR
from hakg_dgl.layers.dropout import draw_mask
from hakg_dgl.layers.embeddings import Embeddings
from hakg_dgl.layers.losses import COUNT_FLOOR, AngleLoss
from hakg_dgl.models.hakg.objective import Objective

ANGLE_CHUNK = 1 << 21
"""Edges whose angles are computed at once."""
ROWS_PER_EDGE = 60
"""Rows of d numbers that a training step keeps for each kept KG edge and layer (53 measured), to estimate memory."""


class NaiveObjective:
    """The loss of a batch, in place of :class:`~hakg_dgl.models.hakg.objective.Objective`, from the same streams."""

    def __init__(self, objective: Objective) -> None:
        model = objective.network
        s = model.settings
        if s.geometry != "poincare" or not (s.gate and s.dual_item_embeddings):
            raise ValueError("the yardstick is the full model in Poincaré geometry: no ablations")
        loss = objective.settings
        if s.degree_exponent or loss.gate_l2 or loss.ranking_loss != "hinge":
            raise ValueError("the yardstick is the published model: take a preset other than 'default'")
        self.objective, self.model = objective, model
        knowledge, interactions = model.packed.knowledge, model.packed.interactions
        self.edges = torch.stack([knowledge.pairs.rows, knowledge.relation, knowledge.pairs.cols], 1)
        self.interactions = torch.stack([interactions.rows, interactions.cols])

    def __call__(self, users: Tensor, positives: Tensor) -> Tensor:
        settings, generators = self.objective.settings, self.objective.generators
        negatives = self.objective.sampler.sample(users, settings.negatives, generators["negatives"])
        embeddings = self.propagate(generators["dropout"])
        total = contrastive_loss(embeddings, users, positives, negatives, settings.margin)
        if settings.angle_weight > 0.0:
            angle = angle_loss(self.objective.angle, self.model.entity, generators["angle"])
            total = total + settings.angle_weight * angle
        return total

    def propagate(self, dropout: torch.Generator | None = None) -> Embeddings:
        """Embeddings of all users, entities and items; see :meth:`HAKG.propagate`."""
        model, s = self.model, self.model.settings
        edges, interactions, value = self.edges, self.interactions, 1.0
        if dropout is not None:
            edges = _kept(edges, draw_mask(len(edges), s.kg_edge_dropout, dropout))
            interactions = _kept(interactions.T, draw_mask(interactions.shape[1], s.interaction_dropout, dropout)).T
            value = 1.0 / (1.0 - s.interaction_dropout)
        values = torch.full_like(interactions[0], value, dtype=model.user.dtype)
        matrix = torch.sparse_coo_tensor(
            interactions, values, (model.graph.n_users, model.graph.n_items), check_invariants=False
        )
        parts: list[Tensor] = [model.user, model.entity, model.item]
        sums = parts
        for number in range(s.layers):
            outputs = self._layer(number, edges, matrix, *parts)
            parts = [F.normalize(_dropped(x, s.message_dropout, dropout), dim=1, eps=ROW_NORM_FLOOR) for x in outputs]
            sums = [total + part for total, part in zip(sums, parts, strict=True)]
        return Embeddings(*sums)

    def _layer(
        self, number: int, edges: Tensor, matrix: Tensor, user: Tensor, entity: Tensor, item: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        model = self.model
        head, relation, tail = edges.unbind(1)
        messages = model.rule.message(entity[head], entity[tail], model.relation[relation])
        count = torch.bincount(head, minlength=len(entity)).clamp_min(1).to(entity.dtype)
        new_entity = torch.zeros_like(entity).index_add(0, head, messages) / count.unsqueeze(1)
        new_item = torch.sparse.mm(matrix.T, user)
        if model.settings.formulation == "paper":
            new_item = new_item / _degree(self.interactions[1], len(item), user)
        knowledge = entity[: len(item)]
        gate = torch.sigmoid(item @ model.gate_item[number].T + knowledge @ model.gate_entity[number].T)
        fused = gate * item + (1.0 - gate) * knowledge
        return torch.sparse.mm(matrix, fused) / _degree(self.interactions[0], len(user), user), new_entity, new_item


def _kept(rows: Tensor, mask: Tensor | None) -> Tensor:
    return rows if mask is None else rows[mask]


def _dropped(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    if generator is None or rate == 0.0:
        return x
    return x * (torch.rand(x.shape, generator=generator, device=x.device) >= rate) / (1.0 - rate)


def _degree(ids: Tensor, n: int, like: Tensor) -> Tensor:
    return torch.bincount(ids, minlength=n).clamp_min(1).to(like.dtype).unsqueeze(1)


def contrastive_loss(
    embeddings: Embeddings, users: Tensor, positives: Tensor, negatives: Tensor, margin: float
) -> Tensor:
    """See :func:`hakg_dgl.layers.losses.contrastive_loss`."""
    assert embeddings.item is not None
    user = F.normalize(embeddings.user[users], dim=1, eps=ROW_NORM_FLOOR)
    missing, excess = torch.full_like(user[:, 0], 2.0), torch.zeros_like(user[:, 0])
    for table in (embeddings.entity, embeddings.item):
        rows = F.normalize(table, dim=1, eps=ROW_NORM_FLOOR)
        missing = missing - (user * rows[positives]).sum(1)
        cosine = (user.unsqueeze(1) * rows[negatives]).sum(2)  # [batch, negatives, d] rows
        active = (cosine > margin).to(cosine.dtype).sum(1)
        excess = excess + F.relu(cosine - margin).sum(1) / (COUNT_FLOOR + active)
    return (F.relu(missing) + excess).mean()


def angle_loss(angle: AngleLoss, entity: Tensor, generator: torch.Generator | None) -> Tensor:
    """:class:`hakg_dgl.layers.losses.AngleLoss`; both ends of every edge are gathered, with a mask for each edge."""
    items, attributes = angle.pairs.rows, angle.pairs.cols
    apex, point = attributes, items
    if angle.direction == "both":
        apex, point = torch.cat([attributes, items]), torch.cat([items, attributes])
    total = entity.new_zeros(())
    for start in range(0, len(apex), ANGLE_CHUNK):
        x, y = entity[apex[start : start + ANGLE_CHUNK]], entity[point[start : start + ANGLE_CHUNK]]
        if generator is not None and angle.dropout > 0.0:
            kept = torch.rand(x.shape, generator=generator, device=x.device) >= angle.dropout
            x, y = x * kept, y * kept
        if angle.rule.formulation == "paper":
            x, y = angle.rule.point(x), angle.rule.point(y)
        x, y = (math.sqrt(angle.rule.curvature) * z for z in (x, y))
        xx, yy, xy = (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)
        total = total + F.relu(cone_angle(xx, yy, xy) - half_aperture(xx, aperture=angle.aperture)).sum()
    return total / max(1, len(apex))


def evaluate(users: Tensor, items: Tensor, dataset: Dataset, k: int, limit: int | None = None) -> dict[str, float]:
    """Metrics of the test split from ranking vectors, a user at a time (the first ``limit`` users that have any)."""
    seen, relevant = (_lists(dataset, *splits) for splits in (("train", "valid"), ("test",)))
    rows = []
    for user in list(relevant)[:limit]:
        scores = (users[user] @ items.T).tolist()
        known = set(seen.get(user, ()))
        candidates = {item: scores[item] for item in range(dataset.n_items) if item not in known}
        best = heapq.nlargest(k, candidates, key=candidates.__getitem__)
        wanted = set(relevant[user])
        hits = [item in wanted for item in best]
        gain = sum(1.0 / math.log2(rank + 2) for rank, hit in enumerate(hits) if hit)
        ideal = sum(1.0 / math.log2(rank + 2) for rank in range(min(k, len(wanted))))
        first = hits.index(True) + 1 if any(hits) else math.inf
        rows.append((sum(hits) / len(wanted), gain / ideal, sum(hits) / k, float(any(hits)), 1.0 / first))
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return {
        f"{name}@{k}": mean for name, mean in zip(("recall", "ndcg", "precision", "hit", "mrr"), means, strict=True)
    }


def _lists(dataset: Dataset, *splits: str) -> dict[int, list[int]]:
    lists: dict[int, list[int]] = defaultdict(list)
    for user, item in dataset.pairs(*splits).tolist():
        lists[user].append(item)
    return lists


class NaiveData(NamedTuple):
    """What :func:`read_kgat` made."""

    train: dict[int, list[int]]
    test: dict[int, list[int]]
    triples: list[tuple[int, int, int]]
    graph: Any


def read_kgat(folder: Path) -> NaiveData:
    """Read the KGAT layout line by line and build the DGL heterograph of its training part; needs DGL."""
    from hakg_dgl.graph.dgl_gate import dgl

    train, test = _read_lists(folder / "train.txt"), _read_lists(folder / "test.txt")
    triples, known = [], set()
    with (folder / "kg_final.txt").open() as lines:
        for line in lines:
            head, relation, tail = (int(token) for token in line.split())
            if (head, relation, tail) not in known:
                known.add((head, relation, tail))
                triples.append((head, relation, tail))
    edges: dict[tuple[str, str, str], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for user, items in train.items():
        for item in items:
            _connect(edges, ("user", "interacts", "item"), user, item)
            _connect(edges, ("item", "interacted_by", "user"), item, user)
    for head, relation, tail in triples:
        _connect(edges, ("entity", f"{relation}", "entity"), tail, head)
        _connect(edges, ("entity", f"inverse_{relation}", "entity"), head, tail)
    ends = {etype: (torch.tensor(source), torch.tensor(target)) for etype, (source, target) in edges.items()}
    return NaiveData(train, test, triples, dgl.heterograph(ends))


def _read_lists(file: Path) -> dict[int, list[int]]:
    lists: dict[int, list[int]] = {}
    with file.open() as lines:
        for line in lines:
            user, *items = (int(token) for token in line.split())
            lists[user] = sorted(set(items))
    return lists


def _connect(edges: Any, etype: tuple[str, str, str], source: int, target: int) -> None:
    edges[etype][0].append(source)
    edges[etype][1].append(target)
