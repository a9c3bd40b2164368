"""Which part owns a user or an entity, and what it costs that the parts exchange rows.

Each part owns some users and some entities; an item belongs to the owner of the entity that it is. The owner of a node
receives its edges, so before a layer it needs the rows at their other ends: those that others own are its halo.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hakg_dgl.data.edge_blocks import EDGE_TABLES, SavedEdges
from hakg_dgl.errors import ConfigError

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Marks = npt.NDArray[np.bool_]

METHODS = ("metis", "hash", "range")

KINDS = ("user", "item", "entity")
"""Kinds of rows that are exchanged: of users, of items as their users see them, of entities."""

MARKS_AT_ONCE = 2**29
"""Bytes of marks, one for each node and part, that are held at once; more parts take more passes over the edges."""


@dataclass(frozen=True, eq=False)
class Owners:
    """The owner of each node.

    Attributes
    ----------
    n_parts
        How many parts there are.
    users
        int32 ``[n_users]``, from 0.
    entities
        int32 ``[n_entities]``; the items are the first of them.

    Raises
    ------
    ConfigError
        On creation, for an owner that does not exist.
    """

    n_parts: int
    users: Int32
    entities: Int32

    def __post_init__(self) -> None:
        require_parts(self.n_parts)
        for owners in (self.users, self.entities):
            if len(owners) and not 0 <= owners.min() <= owners.max() < self.n_parts:
                raise ConfigError(
                    f"owners go from {owners.min()} to {owners.max()}, and there are {self.n_parts} parts"
                )

    def of(self, kind: str) -> Int32:
        """The owners of ``user``, ``item`` or ``entity``; ids of items are those of entities."""
        return self.users if kind == "user" else self.entities


def require_parts(n_parts: int) -> None:
    """Raise ConfigError for a number of parts that makes no sense."""
    if not 1 <= n_parts <= 4096:
        raise ConfigError(f"parts = {n_parts} is not allowed; it is an integer from 1 to 4096")


def hash_owners(edges: SavedEdges, n_parts: int) -> Owners:
    """Owners by a hash of kind and number: about equal parts, whatever the order of ids, and no thought of the cut."""
    require_parts(n_parts)
    users, entities = (
        (_mixed(np.arange(size, dtype=np.uint64), salt) % np.uint64(n_parts)).astype(np.int32)
        for size, salt in ((edges.n_users, 1), (edges.n_entities, 2))
    )
    return Owners(n_parts, users, entities)


def range_owners(edges: SavedEdges, n_parts: int) -> Owners:
    """Owners by ranges of numbers, which hold about equally many edges of users, of items, and of other entities."""
    require_parts(n_parts)
    users, entities = edges.degrees()
    items, others = entities[: edges.n_items], entities[edges.n_items :]
    return Owners(
        n_parts, _ranges(users, n_parts), np.concatenate([_ranges(part, n_parts) for part in (items, others)])
    )


def equal_owners(n_users: int, n_items: int, n_entities: int, n_parts: int) -> Owners:
    """Owners by ranges of numbers with equally many users, items and other entities each: no edge is looked at."""
    require_parts(n_parts)
    user, item, other = (
        (np.arange(n) * n_parts // max(1, n)).astype(np.int32) for n in (n_users, n_items, n_entities - n_items)
    )
    return Owners(n_parts, user, np.concatenate([item, other]))


def owners_of_ends(frame: pd.DataFrame, table: str, owners: Owners) -> tuple[Int32, Int32]:
    """The owners of either end of edges, who are those that need them.

    Parameters
    ----------
    frame, table
        Rows of one of :data:`~hakg_dgl.data.edge_blocks.EDGE_TABLES`. Items take no part in the test split: its rows
        are needed by the users' owners alone.
    owners
        Who owns what.
    """
    (first, kind), (second, other_kind) = EDGE_TABLES[table].first, EDGE_TABLES[table].second
    one = owners.of(kind)[frame[first].to_numpy()]
    other = owners.of(other_kind)[frame[second].to_numpy()]
    if table == "interactions":
        other = np.where((frame["split"] == "test").to_numpy(), one, other)
    return one, other


def _ranges(weight: Int64, n_parts: int) -> Int32:
    """Part of each node, so that consecutive ones share a part and parts weigh about the same; a node weighs 1 more."""
    before = np.cumsum(weight + 1) - (weight + 1) / 2
    total = float(weight.sum() + len(weight))
    found: Int32 = np.minimum(before * n_parts / max(total, 1.0), n_parts - 1).astype(np.int32)
    return found


def _mixed(numbers: npt.NDArray[np.uint64], salt: int) -> npt.NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): every bit of the result depends on every bit of the number."""
    mixed = numbers + np.uint64(salt * 0x9E3779B97F4A7C15 % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def halos(edges: SavedEdges, owners: Owners, *, marks_at_once: int = MARKS_AT_ONCE) -> Iterator[dict[str, Int64]]:
    """The halo of each part in turn: kind of row (:data:`KINDS`) -> ids, int64, ascending, of rows that others own."""
    sizes = {"user": edges.n_users, "item": edges.n_items, "entity": edges.n_entities}
    group = max(1, min(owners.n_parts, marks_at_once // max(1, sum(sizes.values()))))
    for start in range(0, owners.n_parts, group):
        n_marked = min(group, owners.n_parts - start)
        marks = {kind: np.zeros((n_marked, size), dtype=bool) for kind, size in sizes.items()}
        for table, first, second in edges.ends():
            kinds = EDGE_TABLES[table].first[1], EDGE_TABLES[table].second[1]
            first_owner, second_owner = owners.of(kinds[0])[first], owners.of(kinds[1])[second]
            cut = first_owner != second_owner
            _mark(marks[kinds[1]], first_owner[cut] - start, second[cut])
            _mark(marks[kinds[0]], second_owner[cut] - start, first[cut])
        for part in range(n_marked):
            yield {kind: np.flatnonzero(marked[part]) for kind, marked in marks.items()}


def _mark(marks: Marks, part: Int32, ids: Int64) -> None:
    here = (part >= 0) & (part < len(marks))
    marks[part[here], ids[here]] = True


def cut_costs(
    edges: SavedEdges, owners: Owners, *, d: int, layers: int, halo_sizes: list[dict[str, int]] | None = None
) -> dict[str, Any]:
    """What a partition costs, as JSON values.

    Parameters
    ----------
    edges, owners
        The data set, and who owns what.
    d
        Numbers in a row.
    layers
        Layers of a step.
    halo_sizes
        Of each part, the sizes of its halo by kind, if they are known already.

    Returns
    -------
    dict
        - ``parts``;
        - ``rows_a_layer``: rows that all parts together receive before a layer, and ``largest_halo``: of one part;
        - ``bytes_a_step``: of rows in float32, forwards and as gradients backwards, in all layers of all parts;
          ``largest_bytes_a_step``: received by one part;
        - ``edges_max``, ``edges_mean``: edges that parts receive; ``balance``: the one by the other;
        - ``nodes_max``: users and entities of the largest part;
        - ``cut``: share of the edges whose ends have different owners.
    """
    sizes = (
        halo_sizes
        if halo_sizes is not None
        else [{kind: len(ids) for kind, ids in halo.items()} for halo in halos(edges, owners)]
    )
    totals = [sum(size.values()) for size in sizes]
    users, entities = edges.degrees()
    received = np.bincount(owners.users, users, owners.n_parts) + np.bincount(owners.entities, entities, owners.n_parts)
    nodes = np.bincount(owners.users, minlength=owners.n_parts) + np.bincount(owners.entities, minlength=owners.n_parts)
    cut = found = 0
    for table, first, second in edges.ends():
        kinds = EDGE_TABLES[table].first[1], EDGE_TABLES[table].second[1]
        cut += int((owners.of(kinds[0])[first] != owners.of(kinds[1])[second]).sum())
        found += len(first)
    row = 2 * layers * d * 4
    return {
        "parts": owners.n_parts,
        "rows_a_layer": sum(totals),
        "largest_halo": max(totals),
        "bytes_a_step": sum(totals) * row,
        "largest_bytes_a_step": max(totals) * row,
        "edges_max": int(received.max()),
        "edges_mean": float(received.mean()),
        "balance": float(received.max() / max(received.mean(), 1e-9)),
        "nodes_max": int(nodes.max()),
        "cut": cut / max(found, 1),
    }
