"""What propagation over the heterograph yields."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Embeddings:
    """What the model knows after propagation, as tangent vectors at the origin.

    Attributes
    ----------
    user
        ``[n_users, d]``.
    entity
        Knowledge embeddings, ``[n_items, d]`` or, where all were asked for, ``[n_entities, d]``; row i is item i.
    item
        Collaborative item embeddings ``[n_items, d]``, None without dual item embeddings.
    """

    user: Tensor
    entity: Tensor
    item: Tensor | None
