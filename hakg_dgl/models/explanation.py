"""What an explanation is made of: the terms that a model's score is the sum of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

KEPT_PATHS = 10_000
"""Paths of one kind that are kept, the strongest first; their totals count all."""

USER_COLUMNS = ("via", "item", "contribution")
USER_FACT_COLUMNS = ("via", "item", "node", "contribution")
FACT_OR_LINK = {"entity": "fact", "user": "link"}
"""Type of the other end of a user's edge -> what such an edge is called in ``via``."""
ITEM_COLUMNS = ("via", "relation", "node", "contribution")
PATH_COLUMNS = ("via", "past_item", "relation", "node", "item_relation", "through_node", "contribution")
_NONE = torch.empty(0, dtype=torch.int64)


def frame_of(columns: tuple[str, ...], *values: Tensor | str | int) -> pd.DataFrame:
    """A table whose last column is a tensor; constants are repeated."""
    size = len(values[-1])  # type: ignore[arg-type]
    arrays = {
        name: value.numpy() if isinstance(value, Tensor) else np.full(size, value)
        for name, value in zip(columns, values, strict=True)
    }
    return pd.DataFrame(arrays)


def strongest(values: Tensor) -> Tensor:
    """Places of the :data:`KEPT_PATHS` values of the largest size, int64, from ``[n]``."""
    return values.abs().topk(min(KEPT_PATHS, len(values))).indices


def no_paths() -> pd.DataFrame:
    """A table of paths without rows."""
    return frame_of(PATH_COLUMNS, "", *[_NONE] * 4, *[_NONE.double()] * 2)


@dataclass(frozen=True)
class Terms:
    """What one component of the score is made of.

    Attributes
    ----------
    value
        The component's part of the score.
    from_user
        ``via``, ``item``, ``contribution``; adds up to ``value``. ``via`` is ``own`` for the user's parameters (item
        -1), ``fact`` or ``link`` for an edge between the user and an entity or another user (item -1), and otherwise
        what carried the past item's evidence: ``knowledge``, ``collaborative``, or a name of the component's. Rows of
        facts and links also have ``node`` (the other end), ``relation`` (its name) and ``inverse`` (whether the other
        end is the subject); these columns may be missing if there are no such rows.
    from_item
        ``via``, ``relation``, ``node``, ``contribution``; adds up to ``value``. ``via`` is ``own`` for the item's
        parameters, ``fact`` (node: an entity; with the parts ``from_entity``, ``from_relation``, ``from_item`` of the
        contribution), ``user`` (node: a user; relation -1), ``user fact`` (node: a user with a fact about the item), or
        a name of the component's.
    paths
        ``via`` (``entity`` or ``user``), ``past_item``, ``relation``, ``node``, ``item_relation``, ``through_node``,
        ``contribution``: entities or users that a past item and the item share, at most :data:`KEPT_PATHS`.
        ``contribution`` is the joint term of the past item and the edge from the node to the item; ``through_node`` is
        the part of it in which the node's edge to the past item is the other factor; NaN where a model does not tell.
    path_totals
        Kind of path -> number and sum of all of them.
    """

    value: float
    from_user: pd.DataFrame
    from_item: pd.DataFrame
    paths: pd.DataFrame = field(default_factory=no_paths)
    path_totals: dict[str, tuple[int, float]] = field(default_factory=dict)


class Component(Protocol):
    """A named part of the score; the score is the sum of its components."""

    @property
    def name(self) -> str:
        """What people read."""

    def terms(self, user: int, item: int) -> Terms:
        """Where its part of the score of this user and item comes from."""


class Breakdown(Protocol):
    """A model's score as a sum of components, at the moment it was made.

    Attributes
    ----------
    components
        Their terms add up to the score.
    """

    @property
    def components(self) -> Sequence[Component]:
        """The named parts of the score."""

    def past_items(self, user: int) -> Tensor:
        """The user's items in the graph, int64 ``[n]``."""

    def mean_gate(self, items: Tensor) -> Tensor:
        """Mean weight of the collaborative embedding in what items show their users, ``[n]``; NaN without a gate."""
