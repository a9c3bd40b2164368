"""Where a model puts entities and items: in the Poincaré ball or in flat space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from hakg_dgl.errors import ConfigError
from hakg_dgl.geometry.guards import ball_margin
from hakg_dgl.geometry.message import MessageRule

Float64: TypeAlias = NDArray[np.float64]
VALUES = ("parameters", "output")


@dataclass(frozen=True, eq=False)
class Positions:
    """Places as tangent vectors at the origin.

    Attributes
    ----------
    entity
        Knowledge embeddings, float64 ``[n_entities, d]``; the first ``n_items`` rows are the items.
    item
        Collaborative embeddings of the items, float64 ``[n_items, d]``; None if items have one embedding only.
    geometry, curvature
        Of the model.
    values
        ``parameters``: what is trained, and what the angle loss orders; ``output``: what propagation makes of it.
    formulation
        Whether the angle loss takes the vectors themselves as points (``released``) or maps them to the ball first.
    aperture
        K of the cones of the angle loss.
    margin
        Distance that points keep from the edge of the ball.
    """

    entity: Float64
    item: Float64 | None
    geometry: Literal["poincare", "euclidean"]
    curvature: float
    values: str
    formulation: Literal["released", "paper"]
    aperture: float
    margin: float = ball_margin(torch.float64)

    @property
    def hyperbolic(self) -> bool:
        """Whether the model lives in the ball."""
        return self.geometry == "poincare"

    @property
    def rule(self) -> MessageRule:
        """Formulation and geometry, as the functions of :mod:`hakg_dgl.geometry` take them."""
        return MessageRule(self.formulation, self.geometry, self.curvature, self.margin)

    def distance(self, tangent: Float64) -> Float64:
        r"""Distance of vectors ``[n, d]`` to the origin, float64 ``[n]``.

        In the ball :math:`d_c(0, \exp_0(v)) = \frac{2}{\sqrt c}\mathrm{artanh}(\tanh(\sqrt c\|v\|)) = 2\|v\|`, for any
        curvature; in flat space :math:`\|v\|`.
        """
        length: Float64 = np.linalg.norm(tangent, axis=1)
        return 2.0 * length if self.hyperbolic else length

    @property
    def entity_distance(self) -> Float64:
        """Distance of every entity, ``[n_entities]``."""
        return self.distance(self.entity)


def require_values(values: str) -> None:
    """Raise ConfigError unless ``values`` is one of :data:`VALUES`."""
    if values not in VALUES:
        raise ConfigError(f"there are no values {values!r}; choose from {', '.join(VALUES)}")
