"""What a model of a grown data set begins with: the vectors of the earlier model, and sensible ones for what is new."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.growth import Growth
from hakg_dgl.errors import ConfigError
from hakg_dgl.models.recommender import Axis, GradientRecommender

Int64 = npt.NDArray[np.int64]
Edges = tuple[Int64, Int64]
"""Nodes, and what each of them is joined to."""


@torch.no_grad()
def warm_start(earlier: GradientRecommender, model: GradientRecommender, growth: Growth) -> dict[str, Tensor]:
    """Values for the parameters of a model, by name, that continue from an earlier one.

    Rows of known users, items, entities and relations are those of the earlier model. The row of a new item is the
    mean over its facts of the mean row of the known items that share the fact, in each table by itself; without such
    items, that over its users. The row of a new user is the mean over its items of the mean row of the known users of
    the item. What is new and joined to nothing known keeps the row that was drawn for it, as new relations and
    entities do. Only training interactions are looked at.

    Parameters
    ----------
    earlier
        Trained on the data set before it grew.
    model
        Of the same class and settings, on the grown data set.
    growth
        The grown data set.

    Returns
    -------
    dict
        Tensors on the CPU, of the shapes of ``model``'s parameters.

    Raises
    ------
    ConfigError
        If a parameter has another shape in the two models and :meth:`GradientRecommender.axes` does not say why.
    """
    before, after = earlier.axes(), model.axes()
    known = {"user": np.arange(earlier.graph.n_users), "item": np.arange(earlier.graph.n_items)}
    known["entity"] = growth.entities
    rows = _NewRows(growth.dataset, earlier.graph.n_users, earlier.graph.n_items)
    values: dict[str, Tensor] = {}
    trained = dict(earlier.named_parameters())
    for name, parameter in model.named_parameters():
        source, value = trained[name].detach().cpu(), parameter.detach().cpu().clone()
        places = [_places(old, new, known) for old, new in zip(before.get(name, ()), after.get(name, ()), strict=True)]
        places += [None] * (value.dim() - len(places))
        _refuse_other_shape(name, model, source, value, places)
        value[_grid([None if each is None else each[1] for each in places], value)] = source[
            _grid([None if each is None else each[0] for each in places], source)
        ]
        kind = after[name][0] if after.get(name) else None
        if kind in ("item", "entity"):
            rows.fill_items(value)
        elif kind == "user":
            rows.fill_users(value)
        values[name] = value
    return values


def _places(old: Axis, new: Axis, known: dict[str, Int64]) -> tuple[Int64, Int64] | None:
    """Places along an axis before, and where they are now; None where they stay."""
    if old is None or new is None:
        return None
    if isinstance(old, str):
        return np.arange(len(known[old])), known[old]
    assert not isinstance(new, str)
    return _by_label(old, new)


def _by_label(old: Sequence[Hashable], new: Sequence[Hashable]) -> tuple[Int64, Int64]:
    at = {label: place for place, label in enumerate(new)}
    pairs = [(place, at[label]) for place, label in enumerate(old) if label in at]
    taken = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return taken[:, 0], taken[:, 1]


def _refuse_other_shape(
    name: str, model: GradientRecommender, source: Tensor, value: Tensor, places: Sequence[object | None]
) -> None:
    for axis, (old, new) in enumerate(zip(source.shape, value.shape, strict=True)):
        if places[axis] is None and old != new:
            raise ConfigError(
                f"model {model.name!r} cannot be updated: its parameter {name} grew from {list(source.shape)} to "
                f"{list(value.shape)}, and the model does not say what its rows are (axes); train it anew"
            )


def _grid(places: Sequence[Int64 | None], tensor: Tensor) -> tuple[Tensor, ...]:
    """An index for these places along each axis."""
    index = []
    for axis, chosen in enumerate(places):
        along = torch.arange(tensor.shape[axis]) if chosen is None else torch.from_numpy(np.ascontiguousarray(chosen))
        index.append(along.view([-1 if other == axis else 1 for other in range(tensor.dim())]))
    return tuple(index)


class _NewRows:
    """Rows of new users and items from those of known ones.

    Parameters
    ----------
    dataset
        The grown data set.
    n_users, n_items
        Known ones.
    """

    def __init__(self, dataset: Dataset, n_users: int, n_items: int) -> None:
        self.n_users, self.n_items, self.all_items = n_users, n_items, dataset.n_items
        pairs = dataset.pairs("train")
        self._by_user: Edges = (pairs[:, 0], pairs[:, 1])
        self._by_item: Edges = (pairs[:, 1], pairs[:, 0])
        head, tail = dataset.facts.head, dataset.facts.tail
        ends = np.concatenate([head, tail]), np.concatenate([tail, head])
        of_items = ends[0] < dataset.n_items
        self._facts: Edges = (ends[0][of_items], ends[1][of_items])

    def fill_users(self, table: Tensor) -> None:
        """Rows of new users from those of known users of the same items, in place."""
        found, rows = _two_steps(self._by_user, self.n_users, len(table), table)
        table[found] = rows

    def fill_items(self, table: Tensor) -> None:
        """Rows of new items from those of known items with the same facts, else of the same users, in place."""
        for edges in (self._by_item, self._facts):  # facts last, as they win
            found, rows = _two_steps(edges, self.n_items, self.all_items, table)
            table[found] = rows


def _two_steps(edges: Edges, n_known: int, n_all: int, table: Tensor) -> tuple[Tensor, Tensor]:
    """New nodes that share a neighbour with a known one, and for each the mean over such neighbours of mean rows."""
    node, other = (torch.from_numpy(np.ascontiguousarray(ends)) for ends in edges)
    size = int(other.max()) + 1 if len(other) else 0
    known = node < n_known
    means, counts = _means(other[known], node[known], size, table)
    reached = (node >= n_known) & (node < n_all)
    reached &= counts[other] > 0
    rows, degrees = _means(node[reached] - n_known, other[reached], n_all - n_known, means)
    found = torch.nonzero(degrees > 0).squeeze(1)
    return found + n_known, rows[found]


def _means(to: Tensor, source: Tensor, size: int, table: Tensor) -> tuple[Tensor, Tensor]:
    """Means ``[size, ...]`` of the rows ``source`` by where they go ``to``, and how many came."""
    counts = torch.bincount(to, minlength=size)
    sums = table.new_zeros(size, *table.shape[1:]).index_add_(0, to, table[source])
    return sums / counts.clamp_min(1).view(-1, *[1] * (table.dim() - 1)), counts
