"""Places in the plane: entities with their distance to the origin, geodesics between them, outlines of cones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hakg_dgl.geometry.cones import APERTURE, euclidean_half_aperture, half_aperture
from hakg_dgl.geometry.poincare import expmap, logmap
from hakg_dgl.models.positions import Float64, Positions

_RAY = 12.0


@dataclass(frozen=True, eq=False)
class Layout:
    """Points of the plane for all entities.

    Attributes
    ----------
    points
        Points, float64 ``[n_entities, 2]``. Those of a model of the ball lie in the unit disk (of curvature -1, to
        which a ball of any curvature scales), others in the plane. The distance to the origin is the model's own.
    exact
        Whether the model has at most two dimensions; angles are those of a projection otherwise.
    hyperbolic
        Whether edges are geodesics of the disk.
    """

    points: Float64
    exact: bool
    hyperbolic: bool

    @property
    def caption(self) -> str:
        """A sentence that says how the points were found."""
        if self.exact:
            return "The model has two dimensions: points lie where it puts them."
        return (
            "The distance to the origin is the model's own; the angle is that of the point's direction projected to "
            "the two principal components of all directions, so neighbours in the picture need not be neighbours."
        )


def disk_layout(where: Positions) -> Layout:
    r"""Put entities into the plane, keeping their distance to the origin.

    Models of two dimensions are shown as they are, at :math:`\sqrt c \exp_0(v)`. For other models the directions
    :math:`v/\|v\|` are projected to their first two principal components. The angle of a point is the angle there, and
    its radius is :math:`\tanh(\sqrt c\|v\|)` (in flat space :math:`\|v\|`).
    """
    length = np.linalg.norm(where.entity, axis=1, keepdims=True)
    directions = where.entity / np.maximum(length, 1e-300)
    dim = directions.shape[1]
    if dim > 2:
        directions = directions - directions.mean(axis=0)
        # Principal components by way of the small matrix [d, d]; the largest first.
        vectors = np.linalg.eigh(directions.T @ directions)[1][:, ::-1][:, :2]
        vectors = vectors * np.where(vectors[np.abs(vectors).argmax(0), [0, 1]] < 0, -1.0, 1.0)  # a sign of our own
        directions = directions @ vectors
        directions = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-300)
    elif dim == 1:
        directions = np.concatenate([directions, np.zeros_like(directions)], axis=1)
    radius = np.tanh(np.sqrt(where.curvature) * length) if where.hyperbolic else length
    return Layout(directions * radius, dim <= 2, where.hyperbolic)


def geodesics(start: Float64, end: Float64, *, hyperbolic: bool = True, steps: int = 16) -> Float64:
    r"""Points along the shortest lines between points of the unit disk.

    Geodesics of the disk are :math:`\gamma(t) = \exp_x(t \log_x(y))`; in the plane the lines are straight.

    Parameters
    ----------
    start, end
        Ends of the lines, float64 ``[n, 2]``.
    hyperbolic
        Whether the disk is the Poincaré disk.
    steps
        Number of points on a line, at least 2.

    Returns
    -------
    Float64
        The lines, ``[n, steps, 2]``.
    """
    t = np.linspace(0.0, 1.0, steps)[None, :, None]
    if not hyperbolic:
        return start[:, None] * (1.0 - t) + end[:, None] * t
    x, y = torch.from_numpy(start)[:, None], torch.from_numpy(end)[:, None]
    lines: Float64 = expmap(torch.from_numpy(t) * logmap(y, x), x).numpy()
    return lines


def cone_outline(apex: Float64, *, aperture: float = APERTURE, hyperbolic: bool = True, steps: int = 48) -> Float64:
    r"""Outline of the entailment cone at an apex: two rays at the half aperture :math:`\psi` from its axis.

    The axis leads from the origin outwards through the apex. The rays are geodesics that end (nearly) at the edge of
    the disk, and the arc of the edge between them closes the outline.

    Parameters
    ----------
    apex
        The apex, float64 ``[2]``, which is not the origin.
    aperture
        The constant K of the cones.
    hyperbolic
        Whether the disk is the Poincaré disk.
    steps
        Number of points on a ray.

    Returns
    -------
    Float64
        A polygon, ``[3 steps, 2]``; the first point is not repeated at the end.
    """
    squared = torch.tensor(float(apex @ apex), dtype=torch.float64)
    opening = half_aperture if hyperbolic else euclidean_half_aperture
    psi, axis = float(opening(squared, aperture=aperture)), np.arctan2(apex[1], apex[0])
    turn = axis + np.array([[-psi], [psi]])
    directions = np.stack([np.cos(turn), np.sin(turn)], axis=-1)  # [2, 1, 2]
    along = np.linspace(0.0, 1.0, steps)[None, :, None] * directions
    if hyperbolic:
        base = torch.from_numpy(np.broadcast_to(apex, (2, steps, 2)).copy())
        # Ray lengths are hyperbolic: a tangent t at x goes to distance lambda_x |t|.
        rays = expmap(torch.from_numpy(along * _RAY * (1.0 - apex @ apex) / 2.0), base).numpy()
    else:
        rays = apex + along * 10.0
    first, second = rays
    ends = np.arctan2(first[-1, 1], first[-1, 0]), np.arctan2(second[-1, 1], second[-1, 0])
    sweep = ends[0] + np.linspace(0.0, 1.0, steps) * ((ends[1] - ends[0]) % (2.0 * np.pi))
    radius = np.linalg.norm(first[-1])
    arc = radius * np.stack([np.cos(sweep), np.sin(sweep)], axis=-1)
    return np.concatenate([first, arc, second[::-1]])
