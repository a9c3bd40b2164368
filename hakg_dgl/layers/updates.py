"""Update functions: what an edge type contributes to the nodes that it leads to.

A layer is a mapping from canonical edge type to update function. Each function can be called on a batch of edges, and
that is its meaning. :mod:`hakg_dgl.layers.executors` runs a layer; for the functions of this module it knows faster
ways that give the same numbers. A function of your own is anything that can be called on a batch of edges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from torch import Tensor

from hakg_dgl.errors import ConfigError
from hakg_dgl.geometry.message import MessageRule
from hakg_dgl.graph.edge_types import EdgeType
from hakg_dgl.graph.heterograph import HeteroGraph

Reduce: TypeAlias = Literal["sum", "mean"]


class EdgeBatch(Protocol):
    """Some edges of one type, as an update function sees them; DGL's ``EdgeBatch`` is one.

    Attributes
    ----------
    src, dst
        Of the source and the destination of each edge: ``"x"``, the values ``[n, d]`` that enter the layer, and
        ``"id"``, the number of the node, int64 ``[n]``. ``dst["x"]`` is there if the node type has values.
    data
        Of each edge: ``"id"``, its number among the edges of its type, int64 ``[n]``; for :class:`Attention` also
        ``"share"``, the edge's share in the softmax.
    """

    @property
    def src(self) -> Mapping[str, Tensor]:
        """Values at the source."""

    @property
    def dst(self) -> Mapping[str, Tensor]:
        """Values at the destination."""

    @property
    def data(self) -> Mapping[str, Tensor]:
        """Values of the edges."""


UpdateFunction: TypeAlias = Callable[[Any], Tensor]
"""From an :class:`EdgeBatch` to messages ``[n, d]``.

If it has an attribute ``reduce``, that says how messages are put together at a node: ``"sum"`` (also without the
attribute), or ``"mean"``, which is over all edges that the node receives from all edge types with that reduction. What
both give at a node is added.
"""
Updates: TypeAlias = Mapping[EdgeType, UpdateFunction]


def reduction(update: UpdateFunction) -> Reduce:
    """How the messages of an update function are put together."""
    found = getattr(update, "reduce", "sum")
    if found not in ("sum", "mean"):
        raise ConfigError(f"reduce = {found!r} of {update}: it is 'sum' or 'mean'")
    return "mean" if found == "mean" else "sum"


@dataclass(frozen=True, eq=False)
class Silent:
    """Nothing: says that edges of a type are left out on purpose."""

    def __call__(self, edges: EdgeBatch) -> Tensor:
        """Zeros ``[n, d]``."""
        return edges.src["x"] * 0.0


@dataclass(frozen=True, eq=False)
class Copy:
    """The source's values, scaled at both ends.

    Attributes
    ----------
    source_scale, destination_scale
        A number a node, ``[n_nodes]``, that its messages are multiplied by; None for ones.
    factor
        A number that all messages are multiplied by.
    reduce
        ``"sum"`` or ``"mean"``.
    """

    source_scale: Tensor | None = None
    destination_scale: Tensor | None = None
    factor: float = 1.0
    reduce: Reduce = "sum"

    def __call__(self, edges: EdgeBatch) -> Tensor:
        """``[n, d]``."""
        message = edges.src["x"]
        if self.source_scale is not None:
            message = message * self.source_scale[edges.src["id"]].unsqueeze(1)
        if self.destination_scale is not None:
            message = message * self.destination_scale[edges.dst["id"]].unsqueeze(1)
        return message * self.factor


@dataclass(frozen=True, eq=False)
class WeightedSum:
    """The source's values times the weight of the edge.

    Attributes
    ----------
    weights
        ``[n_edges]``, in the order of the graph; may have a gradient.
    reduce
        ``"sum"`` or ``"mean"``.
    """

    weights: Tensor
    reduce: Reduce = "sum"

    def __call__(self, edges: EdgeBatch) -> Tensor:
        """``[n, d]``."""
        return edges.src["x"] * self.weights[edges.data["id"]].unsqueeze(1)


@dataclass(frozen=True, eq=False)
class Attention:
    """The source's values times the edge's share in a softmax over what the destination receives.

    Attributes
    ----------
    logits
        ``[n_edges]``, in the order of the graph; may have a gradient.
    group
        The softmax at a node is over the edges of all types with the same group that lead to it.
    """

    logits: Tensor
    group: str = ""

    def __call__(self, edges: EdgeBatch) -> Tensor:
        """``[n, d]``; the executor puts the share of each edge into ``edges.data["share"]``."""
        return edges.src["x"] * edges.data["share"].unsqueeze(1)


@dataclass(frozen=True, eq=False)
class RelationTransitive:
    """The source moved along a relation, seen from the destination; the mean of what is received (HAKG eqs. 4-5).

    Attributes
    ----------
    relations
        Tangent vectors at the origin, ``[n_relations, d]``.
    number
        Which of them is that of this edge type.
    rule
        Formulation, geometry, curvature.
    """

    relations: Tensor
    number: int
    rule: MessageRule
    reduce: Reduce = "mean"

    def __call__(self, edges: EdgeBatch) -> Tensor:
        """``[n, d]``: tangent vectors at the destination (or translations, in Euclidean geometry)."""
        source = edges.src["x"]
        return self.rule.message(edges.dst["x"], source, self.relations[self.number].expand_as(source))


def require_functions(graph: HeteroGraph, updates: Updates) -> None:
    """Raise ConfigError unless exactly the edge types of the graph have an update function."""
    if updates.keys() == graph.edges.keys():
        return
    for etype in graph.edges:
        if etype not in updates:
            raise ConfigError(
                f"the graph has edges of type {etype}, for which this layer has no update function; give it one, "
                f"for example updates={{{etype}: Copy(reduce='mean')}} (hakg_dgl.layers.updates), or Silent() to leave "
                "them out"
            )
    unknown = next(etype for etype in updates if etype not in graph.edges)
    raise ConfigError(
        f"there is an update function for edges of type {unknown}, which the graph does not have; it has "
        f"{', '.join(map(str, graph.edges))}"
    )
