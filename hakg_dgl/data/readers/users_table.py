"""A table of users, a row a user with attributes: age, city, occupation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from hakg_dgl.data.facts import ItemFacts, facts_of_columns
from hakg_dgl.data.readers.items_table import attribute_columns, id_column, name_column, put_plainly
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.data.readers.source_table import SourceTable, read_table
from hakg_dgl.data.readers.sources import Source, first_path, frame_name
from hakg_dgl.data.readers.table_form import Reading
from hakg_dgl.data.values import USER_MARK
from hakg_dgl.errors import DataError

ID_COLUMNS = ("user", "user_id", "id")


@dataclass(frozen=True, eq=False)
class People:
    """Users and what is known of them.

    Attributes
    ----------
    users
        Ids, text, each once.
    names
        ``id`` and ``name`` of the users who have one.
    facts
        From the other columns; heads are ids of users, and entities where values have an order.
    rows
        Ids and the other columns, text.
    """

    users: pd.Series[Any]
    names: pd.DataFrame
    facts: ItemFacts
    rows: pd.DataFrame


def read_users(
    sources: Sequence[Source],
    id_col: str | None,
    user_col: str,
    kinds: Mapping[str, str],
    reading: Reading,
) -> People:
    """Read tables of users; files may have different columns, and rows of one user are taken together.

    Repairs, counted in the report: rows without an id are dropped; of several names of a user the first is kept.

    Raises
    ------
    DataError
        If a file has no column of ids (the message lists those there are), or no row with an id.
    ConfigError
        If ``kinds`` names a column or a kind that does not exist.
    """
    report, unread, frames = reading.report, dict[str, str](), []
    for at, source in enumerate(sources, start=1):
        table = read_table(source, reading.digests, reading.form("users"), name=frame_name("users", at))
        frames.append(_frame(table, id_col, user_col, unread))
        reading.take_notes(table.notes)
    rows = put_plainly(pd.concat(frames, ignore_index=True), kinds, "users", reading)
    for column, kind in unread.items():
        reading.note(f"column {column!r} of users holds {kind}, which are not read")
    missing = rows["user"].isna()
    report["users_rows_without_id_dropped"] = int(missing.sum())
    rows = rows[~missing].reset_index(drop=True)
    if not len(rows):
        where = first_path(sources, "users")
        raise DataError("no row has an id", path=where, remedy="Check that the right column is read.")
    report["users_rows_of_a_user_seen_before"] = len(rows) - rows["user"].nunique()
    return people_of(rows, kinds)


def _frame(table: SourceTable, id_col: str | None, user_col: str, unread: dict[str, str]) -> pd.DataFrame:
    """``user``, ``name`` and the other columns, as text; notes in ``unread`` the columns of other kinds."""
    ids = id_column(table, id_col, user_col, ID_COLUMNS, "user")
    name = name_column(table, ids)
    frame = pd.DataFrame(
        {"user": table.ids({"user": ids}, {}, "")["user"], "name": None if name is None else table.texts(name)},
        dtype=object,
    )
    return pd.concat([frame, *attribute_columns(table, (ids, name), "user", unread)], axis=1)


def people_of(rows: pd.DataFrame, kinds: Mapping[str, str] | None = None) -> People:
    """Users from rows that a reader has read.

    Parameters
    ----------
    rows
        ``user`` (an id in every row), ``name`` (None where there is none), and a column of text an attribute.
    kinds
        Column -> kind, for those that are not to be read by what they hold; see
        :func:`~hakg_dgl.data.facts.facts_of_columns`.

    Raises
    ------
    ConfigError
        If ``kinds`` names a column or a kind that does not exist.
    """
    users = rows["user"].drop_duplicates().reset_index(drop=True)
    names = rows[["user", "name"]].set_axis(["id", "name"], axis=1).dropna().drop_duplicates("id")
    facts = facts_of_columns(rows["user"], rows.drop(columns=["user", "name"]), kinds, of="users")
    return People(users, names.reset_index(drop=True), facts, rows.drop(columns="name"))


def with_people(raw: RawData, people: People) -> RawData:
    """Raw data with what is known of users; names that are known already are kept.

    Facts go to ``user_facts``, the order of values to ``attribute_order``. Ids of entities are ``user:COLUMN=VALUE``,
    with as many more ``:`` as it takes to be no other entity's.
    """
    prefix = USER_MARK  # a user's city is another entity than an item's
    taken = pd.concat([raw.triples["head"], raw.triples["tail"], raw.item_entity["entity"]]).astype(str)
    while taken.str.startswith(prefix).any():
        prefix += ":"
    triples, entities = people.facts.triples, people.facts.entities
    order = triples["head"].isin(entities["id"]) & ~triples["head"].isin(people.users)
    facts = triples[~order].set_axis(["user", "relation", "entity"], axis=1)
    facts = facts.assign(entity=prefix + facts["entity"])
    between = triples[order].assign(head=lambda each: prefix + each["head"], tail=lambda each: prefix + each["tail"])
    entities = entities.assign(id=prefix + entities["id"])
    return replace(
        raw,
        users=people.names
        if raw.users is None
        else pd.concat([raw.users, people.names]).drop_duplicates("id").reset_index(drop=True),
        entities=entities if raw.entities is None else pd.concat([raw.entities, entities], ignore_index=True),
        user_facts=pd.concat([raw.user_facts.astype(object), facts], ignore_index=True),
        attribute_order=pd.concat([raw.attribute_order, between], ignore_index=True),
        people=people.users,
        user_columns=tuple(column.to_dict() for column in people.facts.columns),
        user_rows=people.rows,
    )
