"""LKGR against the maps of the hyperboloid written out at each node, edge by edge."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_demo import small_demo, small_settings
from torch import Tensor

from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.models.lkgr import LKGR

DEMO = small_demo()


def lkgr(**overrides: Any) -> LKGR:
    given = {"dtype": "float64", "layers": 2, "sample_size": 4, "seed": 5, "dim": 5}
    read = small_settings("lkgr", **(given | overrides))
    model = LKGR(build_graph(DEMO), read.model, read.loss, read.run)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # so that biases take part
        for linear in (model.of_user, *model.of_entity):
            linear.bias.normal_(0.0, 0.1, generator=generator)
    return model


def at_origin(vector: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(vector[:1]), vector])


def inner(x: Tensor, y: Tensor) -> Tensor:
    return x[1:] @ y[1:] - x[0] * y[0]


class Dense:
    """Node by node; None is the origin."""

    def __init__(self, model: LKGR) -> None:
        self.model, self.c = model, float(model.settings.curvature)
        self.origin = at_origin(torch.zeros(model.settings.dim, dtype=torch.float64))
        self.origin[0] = self.c**-0.5

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        length = (self.c * inner(v, v)).sqrt()
        return torch.cosh(length) * x + torch.sinh(length) / length * v

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        z = -self.c * inner(x, y)
        return torch.arccosh(z) / (z * z - 1).sqrt() * (y - z * x)

    def point(self, vector: Tensor) -> Tensor:
        return self.exp(self.origin, at_origin(vector))

    def received(self, own: Tensor, others: list[Tensor], matrices: list[Tensor]) -> Tensor | None:
        """The point that a node receives, tangent vectors at the origin being given."""
        if not others:
            return None
        shares = torch.stack([(w @ own) @ y for w, y in zip(matrices, others, strict=True)]).softmax(0)
        x = self.point(own)
        logs = [self.log(x, self.point(y)) for y in others]
        return self.exp(x, sum((s * y for s, y in zip(shares, logs, strict=True)), start=torch.zeros_like(x)))

    def plus(self, x: Tensor, y: Tensor | None) -> Tensor:
        if y is None:
            return x
        v = self.log(self.origin, y)
        moved = v + self.c * inner(x, v) / (1 - self.c * inner(self.origin, x)) * (self.origin + x)
        return self.exp(x, moved)

    def layer(self, total: Tensor, linear: Any) -> Tensor:
        return linear.weight @ self.log(self.origin, total)[1:] + linear.bias

    def whole(self) -> tuple[Tensor, Tensor]:
        model = self.model
        user, entity, users, from_users = list(model.user), list(model.entity), [], []
        for u, own in enumerate(user):
            pattern = model.items_of_users
            others = [entity[i] for i in pattern.cols[pattern.rows == u].tolist()]
            got = self.received(own, others, [model.interaction] * len(others))
            users.append(torch.tanh(self.layer(self.plus(self.point(own), got), model.of_user)))
        for i in range(model.graph.n_items):
            pattern = model.users_of_items
            others = [user[u] for u in pattern.cols[pattern.rows == i].tolist()]
            from_users.append(self.received(entity[i], others, [model.interaction] * len(others)))
        for number, (facts, linear) in enumerate(zip(model.facts, model.of_entity, strict=True), 1):
            last, after = number == len(model.facts), []
            for h in range(facts.pattern.n_rows):
                edges = (facts.pattern.rows == h).nonzero().flatten()
                relations = facts.relation[facts.by_edge.rows[edges]].tolist()
                others = [entity[t] for t in facts.pattern.cols[edges].tolist()]
                got = self.received(entity[h], others, [model.matrices[r] for r in relations])
                total = self.plus(self.point(entity[h]), got)
                if last:
                    total = self.plus(total, from_users[h])
                value = self.layer(total, linear)
                after.append(torch.tanh(value) if last else value.clamp_min(0))
            entity = after
        return torch.stack(users), torch.stack(entity)


@pytest.mark.parametrize(("layers", "curvature"), [(1, 1.0), (2, 0.5)])
def test_propagation_is_that_of_single_edges(layers: int, curvature: float) -> None:
    model = lkgr(layers=layers, curvature=curvature)
    parameters, gradients = list(model.parameters()), []
    ours, dense = model.propagate(), Dense(model).whole()
    for found in (ours, dense):
        total = sum((x.square().sum() for x in found), start=torch.zeros(()).double())
        gradients.append(torch.autograd.grad(total, parameters))
    for mine, expected in zip(ours, dense, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-8, atol=1e-10)
    for mine, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-9)


def test_sampled_facts_are_facts_and_enough_for_all_layers() -> None:
    model = lkgr()
    knowledge = model.graph.packed.knowledge
    true = set(
        zip(*(x.tolist() for x in (knowledge.pairs.rows, knowledge.relation, knowledge.pairs.cols)), strict=True)
    )
    first, last = model.facts
    for facts in (first, last):
        assert int(facts.pattern.row_degree.max()) <= 4
        relations = facts.relation[facts.by_edge.rows]
        drawn = set(zip(*(x.tolist() for x in (facts.pattern.rows, relations, facts.pattern.cols)), strict=True))
        assert drawn <= true
        assert len(drawn) == facts.pattern.n_edges
    wanted = knowledge.pairs.row_degree.clamp_max(4)
    assert torch.equal(last.pattern.row_degree, wanted[: DEMO.n_items])
    read = torch.cat([torch.arange(DEMO.n_items), last.pattern.cols]).unique()
    assert torch.equal(first.pattern.row_degree[read], wanted[read])


def test_values_and_gradients_are_finite_where_points_coincide() -> None:
    model = lkgr(dtype="float32")
    with torch.no_grad():
        for parameter in (model.user, model.entity):
            parameter.fill_(0.3)
    users, items = model.propagate()
    for value in (users, items, *torch.autograd.grad(users.sum() + items.sum(), list(model.parameters()))):
        assert bool(value.isfinite().all())
