"""The picture of the disk: its view, its legend, its cones."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from planted import at

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.figures.disk import _frame, disk_figure, shows_cones
from hakg_dgl.figures.disk_layout import cone_outline, disk_layout
from hakg_dgl.figures.relations import _in_cone

pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")


@pytest.mark.parametrize(("hyperbolic", "scale"), [(True, 0.1), (True, 0.95), (False, 30.0)])
def test_the_disk_shows_the_origin_all_points_and_no_circle_without_its_label(hyperbolic: bool, scale: float) -> None:
    from matplotlib.figure import Figure

    points = scale * (np.array([1.0, 0.1]) + 0.2 * np.random.default_rng(0).normal(size=(50, 2))).clip(-0.7, 0.7)
    panel = Figure().subplots()
    view = _frame(panel, points, hyperbolic)
    assert ((points > view[:, 0]) & (points < view[:, 1])).all()
    assert (view[:, 0] < 0).all()
    assert (view[:, 1] > 0).all()
    edge = hyperbolic and scale > 0.9
    reach = np.ptp(np.vstack([points, [[0, 0]]]), axis=0).max()
    assert np.ptp(view[0]) == pytest.approx(2.06 if edge else 1.12 * reach)
    assert 0 < len(panel.texts) == len(panel.patches) - hyperbolic
    for text in panel.texts:
        assert ((text.xy > view[:, 0]) & (text.xy < view[:, 1])).all()


def test_the_legend_tells_attributes_without_a_name_by_items(planted: Dataset) -> None:
    bare = dataclasses.replace(planted, entities=planted.entities.assign(name=planted.entities["original_id"]))
    where = at(np.random.default_rng(0).normal(size=(planted.n_entities, 4)))
    legends = [disk_figure(where, data).legends[0].get_texts() for data in (planted, bare)]
    named, unnamed = ([text.get_text() for text in texts if " items)" in text.get_text()] for texts in legends)
    assert len(named) == len(unnamed) > 1
    assert not any("\n" in text for text in named)
    told = [text for text in unnamed if re.search(r"items\)\n[a-z_]+: .+", text)]
    assert told, unnamed


@pytest.mark.parametrize("geometry", ["poincare", "euclidean"])
@pytest.mark.parametrize("formulation", ["released", "paper"])
def test_cones_are_drawn_where_the_angle_loss_compares_the_points_of_the_picture(
    planted: Dataset, formulation: Any, geometry: Any
) -> None:
    """The released code compares the vectors themselves; only in flat space are these the points that are shown."""
    vectors = np.random.default_rng(0).normal(size=(planted.n_entities, 2))
    where = dataclasses.replace(at(vectors, geometry=geometry), formulation=formulation)
    shown = [text.get_text() for text in disk_figure(where, planted).legends[0].get_texts()]
    assert ("its entailment cone" in shown) == shows_cones(where) == (formulation == "paper" or geometry == "euclidean")


@pytest.mark.parametrize("geometry", ["poincare", "euclidean"])
def test_what_is_drawn_in_a_cone_has_no_loss(planted: Dataset, geometry: Any) -> None:
    """Points of the picture are inside the outline of an apex exactly if the angle loss of the pair is zero."""
    from matplotlib.path import Path as Outline

    vectors = np.random.default_rng(6).normal(size=(planted.n_entities, 2)) * 0.1
    vectors[: planted.n_items] *= 6.0
    where = dataclasses.replace(at(vectors, geometry=geometry, curvature=2.0), aperture=0.2)
    points, items = disk_layout(where).points, np.arange(planted.n_items)
    apexes = planted.n_items + np.argsort(-np.linalg.norm(vectors[planted.n_items :], axis=1))[:10]
    counted = agreed = 0
    for apex in apexes:
        outline = Outline(cone_outline(points[apex], aperture=where.aperture, hyperbolic=where.hyperbolic))
        drawn = outline.contains_points(points[items])
        agreed += int((drawn == _in_cone(where, np.full(len(items), apex), items)).sum())
        counted += int(drawn.sum())
    assert 0 < counted < 10 * len(items)
    assert agreed >= 0.99 * 10 * len(items), "but for points on an outline, which is a polygon"
