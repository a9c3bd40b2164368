"""Bins of numbers in a grown log's tables, as those of the data set that it grew from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.data.values import USER_MARK

_REPORTED = "numbers_put_into_earlier_bins"


def in_known_bins(old: Dataset, triples: pd.DataFrame, report: dict[str, int]) -> pd.DataFrame:
    """Triples in which bins of numbers are those of the data set, and known items keep the bins that they have."""
    items = set(old.entities["original_id"][: old.n_items])
    report[_REPORTED] = report.get(_REPORTED, 0)
    for column, bounds in _binned(old, "columns", ""):
        ids = rf"{re.escape(column)}=+"
        triples = triples[~(triples["head"].str.match(ids) & triples["tail"].str.match(ids))]
        facts = (triples["relation"] == column) & triples["tail"].str.match(ids)
        triples = triples[~(facts & triples["head"].isin(items))]
        facts = facts.reindex(triples.index)
        place = _places(bounds, triples.loc[facts, "tail"])
        report[_REPORTED] += int(triples.loc[facts, "tail"].isin(place).sum())
        triples = triples.assign(tail=triples["tail"].where(~facts, triples["tail"].replace(place)))
    return triples


def with_users_in_known_bins(old: Dataset, raw: RawData, report: dict[str, int]) -> RawData:
    """The tables with bins of users' numbers as the data set has them, and the order of other values of users.

    A user who has a bin keeps it. A number of any other is known by the bin that the grown table gave it, and comes
    into the earlier bin that the middle of that one lies in.
    """
    facts, order = raw.user_facts.astype(str), raw.attribute_order.astype(str)
    report[_REPORTED] = report.get(_REPORTED, 0)
    for column, bounds in _binned(old, "user_columns", f"{USER_MARK}+"):
        ids = rf"{USER_MARK}+{re.escape(column)}=+"
        order = order[~(order["head"].str.match(ids) & order["tail"].str.match(ids))]
        numbers = [n for n, name in enumerate(old.user_relations["original_id"]) if name == column]
        have = old.user_facts.loc[old.user_facts["relation"].isin(numbers), "user"].unique()
        binned = (facts["relation"] == column) & facts["entity"].str.match(ids)
        facts = facts[~(binned & facts["user"].isin(old.users["original_id"].iloc[have]))]
        binned = binned.reindex(facts.index)
        place = _places(bounds, facts.loc[binned, "entity"])
        report[_REPORTED] += int(facts.loc[binned, "entity"].isin(place).sum())
        facts = facts.assign(entity=facts["entity"].where(~binned, facts["entity"].replace(place)))
    triples = pd.concat([raw.triples, order], ignore_index=True) if len(order) else raw.triples
    return replace(raw, user_facts=facts.drop_duplicates(), triples=triples, attribute_order=order.head(0))


def _binned(old: Dataset, option: str, mark: str) -> Iterator[tuple[str, dict[str, tuple[float, float]]]]:
    """Columns that the data set has in bins, and the bins: entity -> its least and largest number.

    ``mark`` is the pattern of what stands before the column in the ids of entities.
    """
    ids = old.entities["original_id"][old.n_items :]
    for column in [row["column"] for row in old.options.get(option, []) if row.get("kind") == "bins"]:
        bounds = _bounds(ids[ids.str.match(rf"{mark}{re.escape(column)}=+")])
        if bounds:
            yield column, bounds


def _places(bounds: Mapping[str, tuple[float, float]], names: pd.Series[Any]) -> dict[str, str]:
    """Bins of the grown table -> the earlier bins that their middles lie in or next to."""
    return {name: _nearest(bounds, sum(ends) / 2) for name, ends in _bounds(names.drop_duplicates()).items()}


def _bounds(names: pd.Series[Any]) -> dict[str, tuple[float, float]]:
    """Entity of a bin -> its least and largest number; what is not called as a bin is left out."""
    number = r"(-?[\d.]+(?:e[+-]?\d+)?)"
    found = names.str.extract(rf"=+{number}(?: to {number})?$")
    found[1] = found[1].where(found[1].notna(), found[0])
    known = found.notna().all(axis=1)
    ends = found[known].astype(float).to_numpy()
    return {name: (float(low), float(high)) for name, (low, high) in zip(names[known], ends, strict=True)}


def _nearest(bounds: Mapping[str, tuple[float, float]], number: float) -> str:
    """The bin that a number is in, or the nearest one."""
    return min(bounds, key=lambda name: max(bounds[name][0] - number, number - bounds[name][1], 0.0))
