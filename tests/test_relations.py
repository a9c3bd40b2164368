"""Shares of pairs that the model orders: counted by hand, and by its angle loss."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted import at

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.figures.relations import _in_cone, relation_order, relations_figure
from hakg_dgl.geometry.poincare import expmap0
from hakg_dgl.graph.packed import SparsePattern
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.layers.losses import AngleLoss

pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")


def test_the_share_of_ordered_triples_is_counted(planted: Dataset) -> None:
    tangent = np.ones((planted.n_entities, 3))
    tangent[: planted.n_items] = 2.0
    order = relation_order(planted, at(tangent)).set_index("name")
    assert order.loc["belongs_to", "attribute_closer"] == 1.0
    assert order.loc["subcategory_of", "attribute_closer"] == 0.0, "all attributes are equally far"
    assert order.loc["subcategory_of", "hierarchical"]
    tangent[0] = 0.5
    mine = (planted.triples["head"] == 0) & (planted.triples["relation"] == 0)
    of_all = (planted.triples["relation"] == 0).sum()
    order = relation_order(planted, at(tangent)).set_index("name")
    assert order.loc["belongs_to", "attribute_closer"] == pytest.approx(1.0 - mine.sum() / of_all)


@pytest.mark.parametrize("formulation", ["released", "paper"])
@pytest.mark.parametrize("geometry", ["poincare", "euclidean"])
@pytest.mark.parametrize("curvature", [0.5, 1.0, 2.0])
def test_the_share_in_the_cone_is_where_the_angle_loss_vanishes(
    planted: Dataset, formulation: Any, geometry: Any, curvature: float
) -> None:
    """Pairs counted as inside have no excess in the model's angle loss, all others have one."""
    tangent = np.random.default_rng(6).normal(size=(planted.n_entities, 3)) * 0.1
    tangent[: planted.n_items] *= 6.0
    where = dataclasses.replace(at(tangent, geometry=geometry, curvature=curvature), formulation=formulation)
    item, attribute = torch.arange(planted.n_items), torch.arange(planted.n_items) % 40 + planted.n_items
    inside = _in_cone(where, attribute.numpy(), item.numpy())
    for i in range(planted.n_items):
        pair = SparsePattern.from_pairs(item[[i]], attribute[[i]], planted.n_items, planted.n_entities)
        loss = AngleLoss(pair, where.rule, direction="attribute", dropout=0.0)
        value = loss(choose_backend("torch", torch.device("cpu")), torch.from_numpy(tangent), torch.Generator())
        assert (float(value) == 0.0) == inside[i]
    assert 0 < inside.sum() < planted.n_items


@pytest.mark.parametrize(("formulation", "angle", "opening"), [("released", 17.285, 17.658), ("paper", 18.372, 18.309)])
def test_the_released_code_takes_the_vectors_themselves_as_points(
    formulation: Any, angle: float, opening: float
) -> None:
    """The apex (0.3, 0) and (0.4, 0.03): in the cone as they are, outside it once both are mapped to the ball."""
    where = dataclasses.replace(at([[0.4, 0.03], [0.3, 0.0]]), formulation=formulation)
    points = where.entity if formulation == "released" else expmap0(torch.from_numpy(where.entity)).numpy()
    y, x = points
    xx, yy, xy = x @ x, y @ y, x @ y
    below = np.sqrt(xx * ((x - y) @ (x - y)) * (1 + xx * yy - 2 * xy))
    assert math.degrees(math.acos((xy * (1 + xx) - xx * (1 + yy)) / below)) == pytest.approx(angle, abs=1e-3)
    assert math.degrees(math.asin(0.1 * (1 - xx) / math.sqrt(xx))) == pytest.approx(opening, abs=1e-3)
    assert _in_cone(where, np.array([1]), np.array([0])).tolist() == [angle < opening]


def test_shares_of_relations_stand_where_they_can_be_read() -> None:
    order = pd.DataFrame({
        "relation": range(4), "name": list("abcd"), "triples": [4, 3, 2, 1], "hierarchy": 1.0,
        "hierarchical": [True, False, True, False], "attribute_closer": [0.95, 0.85, 0.1, np.nan], "in_cone": 0.0,
    })  # fmt: skip
    texts = relations_figure(order).axes[1].texts
    assert [text.get_text() for text in texts] == ["95%", "85%", "10%", "no such pairs"]
    assert [text.get_color() for text in texts[:2]] == ["white", "#222222"], "dark on a pale bar"
    assert [text.get_ha() for text in texts] == ["right", "right", "left", "left"]
