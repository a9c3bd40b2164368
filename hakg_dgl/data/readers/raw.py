"""What every reader returns: :class:`RawData`, checked tables in the ids of the source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

SPLITS = ("train", "valid", "test")


def empty_user_facts() -> pd.DataFrame:
    """The table of facts of users, without rows."""
    return pd.DataFrame(dict.fromkeys(("user", "relation", "entity"), pd.Series(dtype="int64")))


def empty_pairs() -> pd.DataFrame:
    """A table of pairs of user and item, without rows."""
    return pd.DataFrame(dict.fromkeys(("user", "item"), pd.Series(dtype="int64")))


def empty_user_links() -> pd.DataFrame:
    """The table of links between users, without rows."""
    return pd.DataFrame(dict.fromkeys(("user", "relation", "other"), pd.Series(dtype="int64")))


@dataclass(frozen=True, eq=False)
class RawData:
    """What every reader returns: checked tables in the ids of the source, before numbering and splitting.

    Attributes
    ----------
    name
        Name of the data set.
    interactions
        Columns ``user``, ``item`` (all strings, categories of strings, or all integers); optional
        ``rating`` and ``timestamp`` (float64,
        finite) and ``split`` (``'train'``, ``'valid'`` or ``'test'``).
    triples
        Columns ``head``, ``relation``, ``tail``, in the ids of the source. No inverses.
    item_entity
        Columns ``item``, ``entity``: which entity of the triples an item is; each item and each entity at most once.
        Items that are absent become entities of their own; if it is empty, each item is the entity of the same id.
        Empty where ``ids_are_indices``.
    users, items, entities, relations
        Optional name tables: ``id`` (as used in the tables above), ``name``, and ``original_id`` where the files hold
        renumbered ids (the KGAT layout). They need not cover every id.
    user_facts
        Columns ``user``, ``relation``, ``entity``: what is known of users, in the ids of the source; entities are named
        as in ``triples``.
    user_links
        Columns ``user``, ``relation``, ``other``: which user is linked to which.
    test_overlap
        Columns ``user``, ``item``: pairs of the source's test part that an earlier part has too, which are therefore
        not in the test split.
    catalogue
        Ids of items that are in the data set though nobody has chosen them, text.
    columns
        What was made of each column of a table of items, as JSON values; see :class:`~hakg_dgl.data.facts.ColumnRead`.
    item_rows, user_rows
        The tables of items and of users that ``columns`` and ``user_columns`` tell of, as text: ids first, then the
        columns. An update reads some of them again.
    people
        Ids of users that a table of users has a row of, text, whether they have interactions or not.
    user_columns
        What was made of each column of a table of users, as ``columns``.
    attribute_order
        ``head``, ``relation``, ``tail``: the order of values of users' attributes (bins, months), in the ids of
        entities. Apart from ``triples``, which are about items.
    sources
        File name -> ``{"sha256": ..., "bytes": ...}``, of the files as they lie on disk.
    report
        Repairs and remarks, with counts.
    notes
        What was decided while the files were read, for people: separators, columns of other names.
    ids_are_indices
        True for the KGAT layout: ids are kept as row numbers, and item ``i`` is entity ``i``.
    counts
        Where ``ids_are_indices``: least sizes of ``users``, ``items``, ``entities``, ``relations``, for ids that
        occur in no interaction or triple (a user alone on its line, say).
    """

    name: str
    interactions: pd.DataFrame
    triples: pd.DataFrame
    item_entity: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"item": [], "entity": []}, dtype=object))
    users: pd.DataFrame | None = None
    items: pd.DataFrame | None = None
    entities: pd.DataFrame | None = None
    relations: pd.DataFrame | None = None
    user_facts: pd.DataFrame = field(default_factory=empty_user_facts)
    user_links: pd.DataFrame = field(default_factory=empty_user_links)
    test_overlap: pd.DataFrame = field(default_factory=empty_pairs)
    catalogue: pd.Series[Any] = field(default_factory=lambda: pd.Series(dtype=object))
    columns: tuple[Mapping[str, Any], ...] = ()
    item_rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    user_rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    people: pd.Series[Any] = field(default_factory=lambda: pd.Series(dtype=object))
    user_columns: tuple[Mapping[str, Any], ...] = ()
    attribute_order: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame({"head": [], "relation": [], "tail": []}, dtype=object)
    )
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    report: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ids_are_indices: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
