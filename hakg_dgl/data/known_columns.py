"""Columns of a grown log's tables, read as those of the data set that it grew from were.

What a column holds is decided by all of its values, so a table that has grown, or that has new rows alone, may be read
otherwise than the earlier one: other bins of numbers, or a column left out since each of five new items has a price of
its own. Here such columns are read again, from their text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.facts import ASKED, TELLS_APART, facts_of_columns, read_as, separator_of
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.data.values import USER_MARK, bin_of, number
from hakg_dgl.errors import ConfigError

_FACT = ["owner", "relation", "entity"]
_ORDER = ["head", "relation", "tail"]
_BINNED, _LEFT_OUT = "numbers_put_into_earlier_bins", "values_of_another_kind_left_out"


def read_as_before(old: Dataset, raw: RawData, report: dict[str, int]) -> RawData:
    """The tables with the columns that the data set has read as they were read then.

    Numbers come into the bins that there are, exactly as they would have then; owners who have a bin by the column keep
    it. Values that cannot be read so (text where there were numbers) are left out, and counted. ``columns`` and
    ``user_columns`` of the result are those of the data set, and new ones.

    Raises
    ------
    ConfigError
        If another kind is asked for of a column that the data set has in bins.
    """
    counts = {_BINNED: 0, _LEFT_OUT: 0}
    raw = _with_items(old, raw, counts)
    raw = _with_users(old, raw, counts)
    report |= counts
    return raw


@dataclass(frozen=True, eq=False)
class _Reread:
    """Facts of owners and an order of values, that were read and that take their place; names of the entities."""

    wrong: pd.DataFrame
    right: pd.DataFrame
    wrong_order: pd.DataFrame
    right_order: pd.DataFrame
    entities: pd.DataFrame
    columns: tuple[Mapping[str, Any], ...]


def _with_items(old: Dataset, raw: RawData, counts: dict[str, int]) -> RawData:
    facts = _item_facts(old)
    found = _reread(old.options.get("columns", []), raw.columns, raw.item_rows, facts, _bins(old, facts), "", counts)
    if found is None:
        return raw
    entity = pd.Series(raw.item_entity["entity"].to_numpy(), index=raw.item_entity["item"].astype(str), dtype=object)
    wrong, right = (
        pd.concat([part.assign(owner=part["owner"].map(entity)).set_axis(_ORDER, axis=1), order])
        for part, order in ((found.wrong, found.wrong_order), (found.right, found.right_order))
    )
    triples = _without(raw.triples, wrong, _ORDER)
    return replace(
        raw,
        triples=pd.concat([triples, right], ignore_index=True),
        entities=_with_names(raw, found.entities),
        columns=found.columns,
    )


def _with_users(old: Dataset, raw: RawData, counts: dict[str, int]) -> RawData:
    facts = pd.DataFrame(
        {
            "owner": old.users["original_id"].to_numpy()[old.user_facts["user"]],
            "relation": old.user_relations["original_id"].to_numpy()[old.user_facts["relation"]],
            "entity": old.entities["original_id"].to_numpy()[old.user_facts["entity"]],
        },
        dtype=object,
    )
    mark = next(iter(raw.user_facts["entity"].astype(str).str.extract(rf"^({USER_MARK}+)")[0].dropna()), USER_MARK)
    found = _reread(
        old.options.get("user_columns", []), raw.user_columns, raw.user_rows, facts, _bins(old, facts), mark, counts
    )
    if found is None:
        return raw
    names = ["user", "relation", "entity"]
    kept = _without(raw.user_facts.astype(str), found.wrong.set_axis(names, axis=1), names)
    order = _without(raw.attribute_order.astype(str), found.wrong_order, _ORDER)
    return replace(
        raw,
        user_facts=pd.concat([kept, found.right.set_axis(names, axis=1)], ignore_index=True).drop_duplicates(),
        attribute_order=pd.concat([order, found.right_order], ignore_index=True),
        entities=_with_names(raw, found.entities),
        user_columns=found.columns,
    )


def _item_facts(old: Dataset) -> pd.DataFrame:
    """Facts of items by original ids."""
    triples = old.triples[old.triples["head"] < old.n_items]
    return pd.DataFrame(
        {
            "owner": old.items["original_id"].to_numpy()[triples["head"]],
            "relation": old.relations["original_id"].to_numpy()[triples["relation"]],
            "entity": old.entities["original_id"].to_numpy()[triples["tail"]],
        },
        dtype=object,
    )


def _bins(old: Dataset, facts: pd.DataFrame) -> pd.Series[Any]:
    """All ids of entities that are not items, among which bins are that no owner has any more."""
    ids: pd.Series[Any] = pd.concat([facts["entity"], old.entities["original_id"][old.n_items :]])
    return ids.drop_duplicates()


def _reread(
    before: Sequence[Mapping[str, Any]],
    now: Sequence[Mapping[str, Any]],
    rows: pd.DataFrame,
    facts: pd.DataFrame,
    entities: pd.Series[Any],
    mark: str,
    counts: dict[str, int],
) -> _Reread | None:
    """The columns of a table that were read otherwise; None where there is no table, or nothing to compare with.

    Parameters
    ----------
    before, now
        What was made of the columns of the earlier table, and of this one.
    rows
        Ids of owners, and the columns as text.
    facts
        What is known of owners so far.
    entities
        Ids of entities so far.
    mark
        What stands before the column in ids that were made now.
    counts
        Are raised.
    """
    if not len(rows) or not before:
        return None
    known, read = {row["column"]: row for row in before}, {row["column"]: row for row in now}
    owners, table = rows.iloc[:, 0], rows.iloc[:, 1:]
    separator = separator_of(owners, table.columns)
    parts: dict[str, list[pd.DataFrame]] = {"wrong": [], "right": [], "wrong_order": [], "right_order": []}
    names = []
    for column in table.columns:
        kind = _kind(known.get(column), read[column])
        if kind is None:
            continue
        of_column = facts[facts["relation"] == column]
        earlier = _prefix(of_column["entity"], column) or mark + column + separator
        if kind == read[column]["kind"] != "bins" and earlier == mark + column + separator:
            continue
        was = _facts(owners, table[[column]], read[column]["kind"], mark, separator)
        fits = read_as(kind, table[column])
        counts[_LEFT_OUT] += int((table[column].notna() & ~fits).sum())
        text = table[[column]].where(fits)
        if kind == "bins":
            here = entities[entities.str.startswith(earlier)]
            found = _put_into_bins(owners, text[column], column, here, of_column["owner"])
            counts[_BINNED] += len(found)
            parts["right"].append(found)
        else:
            again = _facts(owners, text, kind, earlier.removesuffix(column + _equals(earlier)), _equals(earlier))
            parts["right"].append(again[0])
            parts["right_order"].append(again[1])
            names.append(again[2])
        parts["wrong"].append(was[0])
        parts["wrong_order"].append(was[1])
    none = {"wrong": _FACT, "right": _FACT, "wrong_order": _ORDER, "right_order": _ORDER}
    joined = {
        part: pd.concat([pd.DataFrame(columns=none[part], dtype=object), *tables]) for part, tables in parts.items()
    }
    columns = tuple(known.get(row["column"], row) if _kind(known.get(row["column"]), row) else row for row in now)
    gone = tuple(row for row in before if row["column"] not in read)
    labels = pd.concat([pd.DataFrame(columns=["id", "name"], dtype=object), *names])
    return _Reread(**joined, entities=labels, columns=(*columns, *gone))


def _kind(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str | None:
    """The kind that a column was read in, None where it may be read as it is read now."""
    if before is None:
        return None
    earlier, kind = str(before["kind"]), str(now["kind"])
    if now["why"] == ASKED:
        if earlier == "bins" and kind not in ("bins", "out"):
            raise ConfigError(
                f"column {now['column']!r} is in bins in the data set so far, and cannot be read as {kind} now; do not "
                "ask for it, or make the data set anew"
            )
        return earlier if kind == earlier else None
    if earlier == "out":  # what was the same for all, or empty, may tell something now
        return "out" if before["why"] in (ASKED, *TELLS_APART) else None
    return earlier


def _facts(
    owners: pd.Series[Any], table: pd.DataFrame, kind: str, mark: str, separator: str
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Facts of owners by a column, the order of its values, and the names of entities."""
    (column,) = table.columns
    found = facts_of_columns(owners, table, {column: kind}, separator=separator)
    triples, entities = found.triples, found.entities.assign(id=mark + found.entities["id"])
    between = triples["head"].isin(found.entities["id"]) & (triples["relation"] != column)
    facts, order = triples[~between].set_axis(_FACT, axis=1), triples[between]
    return (
        facts.assign(entity=mark + facts["entity"]),
        order.assign(head=mark + order["head"], tail=mark + order["tail"]),
        entities,
    )


def _put_into_bins(
    owners: pd.Series[Any], texts: pd.Series[Any], column: str, bins: pd.Series[Any], having: pd.Series[Any]
) -> pd.DataFrame:
    """Facts of owners who have no bin as yet: the bins that their numbers lie in."""
    spans = [(span, name) for name in bins for span in [number(name[len(_prefix_of(name, column)) :])] if span]
    new = texts.notna() & ~owners.isin(having)
    place = {text: bin_of(spans, float(text)) for text in texts[new].unique()} if spans else {}
    found = pd.DataFrame({"owner": owners[new], "relation": column, "entity": texts[new].map(place)}, dtype=object)
    return found.dropna().drop_duplicates()


def _prefix(entities: pd.Series[Any], column: str) -> str | None:
    """What stands before the values of a column in ids of entities; None where no id has that form."""
    return next((found for name in entities if (found := _prefix_of(name, column))), None)


def _prefix_of(name: str, column: str) -> str:
    found = re.match(rf"(?:{USER_MARK}+)?{re.escape(column)}=+", name)
    return found.group() if found else ""


def _equals(prefix: str) -> str:
    return "=" * (len(prefix) - len(prefix.rstrip("=")))


def _without(table: pd.DataFrame, rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """A table without some rows."""
    if not len(rows):
        return table
    gone = pd.MultiIndex.from_frame(table[columns].astype(str)).isin(pd.MultiIndex.from_frame(rows[columns]))
    return table[~gone]


def _with_names(raw: RawData, names: pd.DataFrame) -> pd.DataFrame:
    return names if raw.entities is None else pd.concat([raw.entities, names], ignore_index=True)
