"""Canonical edge types: their names, and which of them are inverses of which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

EdgeType: TypeAlias = tuple[str, str, str]
"""Node type of the source, name, node type of the destination."""
INTERACTS: EdgeType = ("user", "interacts", "item")
INTERACTED_BY: EdgeType = ("item", "interacted_by", "user")
INVERSE_PREFIX = "inverse_"
MIRRORED = {INTERACTS: INTERACTED_BY}
"""Edge types stored edge for edge as the reverse of another: packed as its transpose, and dropped with it."""


def unique_names(names: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """The names, those that are taken with their number appended, so that no name and no inverse occurs twice.

    Parameters
    ----------
    names
        In the order of numbers. A name is taken by an earlier one, by the inverse of an earlier one, or by ``taken``.
    taken
        Names that others have.
    """
    known = set(taken)
    unique: list[str] = []
    for number, name in enumerate(names):
        candidate = name
        while candidate in known or INVERSE_PREFIX + candidate in known:
            candidate = f"{candidate}#{number}"
        known |= {candidate, INVERSE_PREFIX + candidate}
        unique.append(candidate)
    return unique


def relation_edge_types(names: Sequence[str]) -> list[EdgeType]:
    """Canonical edge types of the relations of a KG, then of their inverses: 2R of them, in the order of relation ids.

    A name that is taken (by another relation, an inverse or the interactions) gets its relation's number appended.
    """
    unique = unique_names(names, (INTERACTS[1], INTERACTED_BY[1]))
    return [("entity", name, "entity") for name in (*unique, *(INVERSE_PREFIX + name for name in unique))]


def inverse_of(edge_type: EdgeType) -> EdgeType:
    """The edge type of the same edges the other way round, by its name."""
    source, name, destination = edge_type
    return destination, INVERSE_PREFIX + name, source


def paired_with_inverses(edge_types: Iterable[EdgeType]) -> list[EdgeType]:
    """Those that have an inverse among the given ones, in their order, then their inverses in the same order.

    An edge type that is an inverse itself does not count as one that has an inverse.
    """
    edge_types = list(edge_types)
    known, inverses = set(edge_types), set[EdgeType]()
    for edge_type in sorted(edge_types, key=_length_of_name):  # a type comes before its inverse, which may have one too
        if edge_type not in inverses and inverse_of(edge_type) in known:
            inverses.add(inverse_of(edge_type))
    forward = [edge_type for edge_type in edge_types if inverse_of(edge_type) in inverses]
    return [*forward, *(inverse_of(edge_type) for edge_type in forward)]


def _length_of_name(edge_type: EdgeType) -> int:
    return len(edge_type[1])
