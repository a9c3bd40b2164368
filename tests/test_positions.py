"""Positions of entities: their distance to the origin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import at

from hakg_dgl.errors import ConfigError
from hakg_dgl.figures.subject import Subject
from hakg_dgl.geometry.poincare import distance, expmap0


@pytest.mark.parametrize("curvature", [0.3, 1.0, 4.0])
def test_the_distance_to_the_origin_is_that_of_the_ball(curvature: float) -> None:
    tangent = torch.randn(50, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.7
    there = expmap0(tangent, c=curvature)
    expected = distance(torch.zeros_like(there), there, c=curvature)
    found = at(tangent.numpy(), curvature=curvature).entity_distance
    assert np.allclose(found, expected.numpy(), rtol=1e-6)
    assert np.allclose(at(tangent.numpy(), geometry="euclidean").entity_distance, tangent.norm(dim=1).numpy())


def test_wrong_values_are_refused(planted_run: Subject) -> None:
    assert planted_run.model is not None
    with pytest.raises(ConfigError, match="there are no values 'inputs'"):
        planted_run.model.positions("inputs")
