"""Places in the plane: distances are kept, edges are geodesics, outlines are those of the cones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted import at

from hakg_dgl.figures.disk_layout import cone_outline, disk_layout, geodesics
from hakg_dgl.geometry.cones import cone_angle, half_aperture
from hakg_dgl.geometry.poincare import distance, expmap0

pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")


@pytest.mark.parametrize("curvature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("dim", [1, 2, 3, 16])
def test_the_layout_keeps_the_distance_to_the_origin(dim: int, curvature: float) -> None:
    tangent = np.random.default_rng(1).normal(size=(40, dim)) * 0.5
    tangent[7] = 0.0
    layout = disk_layout(at(tangent, curvature=curvature))
    assert layout.exact == (dim <= 2)
    assert layout.points.shape == (40, 2)
    assert np.allclose(2.0 * np.arctanh(np.linalg.norm(layout.points, axis=1)) / math.sqrt(curvature),
                       at(tangent, curvature=curvature).entity_distance)  # fmt: skip
    flat = disk_layout(at(tangent, geometry="euclidean"))
    assert np.allclose(np.linalg.norm(flat.points, axis=1), np.linalg.norm(tangent, axis=1))


def test_two_dimensions_are_shown_as_they_are() -> None:
    tangent = np.random.default_rng(2).normal(size=(20, 2)) * 0.4
    expected = expmap0(torch.from_numpy(tangent)).numpy()
    assert np.allclose(disk_layout(at(tangent)).points, expected)


def test_the_projection_keeps_clusters_of_directions_apart() -> None:
    centres = np.eye(8)[:3]
    tangent = np.repeat(centres, 30, axis=0) + np.random.default_rng(3).normal(size=(90, 8)) * 0.02
    angle = np.arctan2(*disk_layout(at(tangent)).points.T[::-1]).reshape(3, 30)
    spread = np.abs(np.exp(1j * angle).mean(axis=1))
    assert spread.min() > 0.95, "each cluster has one direction"
    middles = np.angle(np.exp(1j * angle).mean(axis=1))
    gaps = np.abs(np.angle(np.exp(1j * (middles[:, None] - middles))))[np.triu_indices(3, 1)]
    assert gaps.min() > 1.0


coordinate = st.floats(-0.6, 0.6)


@given(st.lists(st.tuples(coordinate, coordinate), min_size=2, max_size=2))
def test_edges_are_geodesics(ends: list[tuple[float, float]]) -> None:
    x, y = np.array([ends[0]]), np.array([ends[1]])
    line = torch.from_numpy(geodesics(x, y, steps=9)[0])
    assert np.allclose(line[0], x, atol=1e-9)
    assert np.allclose(line[-1], y, atol=1e-6)
    whole = float(distance(line[:1], line[-1:]))
    steps = distance(line[:-1], line[1:])
    assert float(steps.sum()) == pytest.approx(whole, abs=1e-5), "no way between the ends is shorter"
    assert torch.allclose(steps, torch.full_like(steps, whole / 8), atol=1e-5)


def test_flat_edges_are_straight() -> None:
    line = geodesics(np.array([[0.0, 1.0]]), np.array([[2.0, 3.0]]), hyperbolic=False, steps=3)
    assert line.tolist() == [[[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]]


@pytest.mark.parametrize("apex", [(0.5, 0.0), (-0.2, 0.3), (0.0, -0.6), (0.02, 0.05)])
@pytest.mark.parametrize("aperture", [0.1, 0.3])
def test_points_are_within_the_outline_exactly_if_they_are_in_the_cone(
    apex: tuple[float, float], aperture: float
) -> None:
    """The angle at the apex (geometry.cones) decides for random points; the outline has to agree."""
    from matplotlib.path import Path as Outline

    top = torch.tensor(apex, dtype=torch.float64)
    radius = torch.rand(400, generator=torch.Generator().manual_seed(4), dtype=torch.float64).sqrt() * 0.97
    turn = torch.rand(400, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 2 * math.pi
    points = torch.stack([radius * turn.cos(), radius * turn.sin()], dim=1)
    xx, psi = top.square().sum(), half_aperture(top.square().sum(), aperture=aperture)
    angle = cone_angle(xx.expand(400), points.square().sum(1), points @ top)
    clear = (angle - psi).abs() > 0.03  # the outline is a polygon
    inside = Outline(cone_outline(np.array(apex), aperture=aperture)).contains_points(points.numpy())
    assert clear.sum() > 300
    assert (inside == (angle <= psi).numpy())[clear.numpy()].all()
    assert 0 < inside.sum() < 400


def test_the_layout_of_many_points_is_quick() -> None:
    """50,000 points of 64 dimensions: no square matrix of points."""
    tangent = np.random.default_rng(0).normal(size=(50_000, 64))
    assert disk_layout(at(tangent)).points.shape == (50_000, 2)
