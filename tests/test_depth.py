"""Depth in the planted tree and distance to the origin."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from planted import at, tree_of
from small_demo import small_settings

from hakg_dgl import Trainer, preprocess
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.synthetic import generate_demo, planted_depth
from hakg_dgl.figures.depth import DepthAgreement, depth_agreement, known_tree


def test_agreement_of_a_perfect_and_of_a_reversed_tree() -> None:
    tree = planted_depth()
    tangent = tree.sort_values("entity")["depth"].to_numpy(np.float64)[:, None] + 1.0
    n_items = int((tree["depth"] == tree["depth"].max()).sum())
    perfect = depth_agreement(at(tangent), tree, n_items)
    assert (perfect.spearman, perfect.attributes) == (pytest.approx(1.0), pytest.approx(1.0))
    assert perfect.levels["median"].tolist() == pytest.approx([2.0, 4.0, 6.0, 8.0, 10.0, 12.0])
    assert perfect.levels["nodes"].tolist() == [1, 5, 20, 60, 180, 800]
    # Within a depth the distances differ now, so no order of the nodes reaches 1.
    strict = depth_agreement(at(tangent + np.linspace(0.0, 0.5, len(tangent))[:, None]), tree, n_items)
    assert (strict.spearman, strict.attributes) == (
        pytest.approx(strict.highest),
        pytest.approx(strict.highest_attributes),
    )
    assert (strict.highest, strict.highest_attributes) == (
        pytest.approx(0.757, abs=1e-3),
        pytest.approx(0.824, abs=1e-3),
    )
    reversed_ = depth_agreement(at(7.0 - tangent), tree, n_items)
    assert reversed_.spearman == pytest.approx(-1.0)


def test_the_demo_alone_has_a_known_tree(planted: Dataset) -> None:
    demo = preprocess(generate_demo())
    found = known_tree(demo)
    assert found is not None
    assert len(found) == 1066
    assert known_tree(planted) is None, "a demo of other sizes"
    assert known_tree(dataclasses.replace(demo, name="mine")) is None
    other = demo.entities.assign(original_id=[f"x{i}" for i in range(demo.n_entities)])
    assert known_tree(dataclasses.replace(demo, entities=other)) is None


def learned_order(dataset: Dataset, **settings: Any) -> DepthAgreement:
    """How a model of the small demo agrees with its tree."""
    chosen = small_settings(epochs=15, layers=2, linear_weight=0, patience=15, **settings)
    trainer = Trainer(dataset, chosen)
    trainer.fit()
    return depth_agreement(trainer.model.positions(), tree_of(dataset), dataset.n_items)


@pytest.mark.parametrize("geometry", ["poincare", "euclidean"])
def test_the_tree_is_laid_out_from_the_origin_outwards(planted: Dataset, geometry: str) -> None:
    """docs/figures.md: the angle loss over attributes below attributes orders all levels, in both geometries."""
    found = learned_order(planted, geometry=geometry)
    assert found.spearman > 0.7
    assert found.attributes > 0.3
    medians = found.levels.sort_values("depth")["median"]
    assert medians.is_monotonic_increasing
    items_alone = learned_order(planted, geometry=geometry, angle_pairs="items")
    assert items_alone.attributes < -0.3, "pairs of items alone pull the lowest genres below those above them"
    assert learned_order(planted, geometry=geometry, angle_weight=0.0).attributes < 0.2
