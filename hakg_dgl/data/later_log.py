"""A later log: interactions that happened after a data set was made, in its numbers, to measure a model on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.id_maps import IdMap
from hakg_dgl.data.readers.sources import Files, first_path
from hakg_dgl.data.readers.tables import read_tables
from hakg_dgl.errors import DataError

SHOWN = 3
"""Ids that a message gives as examples."""


@dataclass(frozen=True, eq=False)
class LaterLog:
    """A later log beside what a model has learnt from.

    Attributes
    ----------
    dataset
        The data set with the interactions of the log as its ``test`` split, in place of those that it had there; train
        and validation are as they were, so an evaluation of ``test`` masks them.
    report
        Repairs and remarks, with counts.
    """

    dataset: Dataset
    report: Mapping[str, int] = field(default_factory=dict)


def read_later_log(
    paths: Files,
    dataset: Dataset,
    *,
    user_col: str = "user",
    item_col: str = "item",
    rating_col: str | None = None,
    delimiter: str | Mapping[str, str] | None = None,
    encoding: str | Mapping[str, str] | None = None,
    no_header: Sequence[str] = (),
    decimal: str | None = None,
) -> LaterLog:
    """Read tables of interactions, as :func:`~hakg_dgl.data.readers.tables.read_tables` does, and number them.

    Where the data set was made with a rating threshold, ratings below it are left out here too, if ``rating_col`` is
    given.

    Raises
    ------
    DataError
        If a file cannot be read or lacks a column, or no row is left.
    """
    raw = read_tables(
        paths, user_col=user_col, item_col=item_col, rating_col=rating_col, delimiter=delimiter, encoding=encoding,
        no_header=no_header, decimal=decimal,
    )  # fmt: skip
    first = first_path(paths, "interactions")
    return later_log(raw.interactions, dataset, report=raw.report, path=first)


def later_log(
    interactions: pd.DataFrame,
    dataset: Dataset,
    *,
    report: Mapping[str, int] | None = None,
    path: str | Path | None = None,
) -> LaterLog:
    """Number the interactions of a later log.

    Left out, and counted: ratings below the threshold of the data set, rows of users or items that it does not have,
    repeats, and pairs that are in its train or validation split: the user has the item, so it is masked.

    Parameters
    ----------
    interactions
        ``user`` and ``item`` (original ids, text), and perhaps ``rating``.
    dataset
        The data set that the model was trained on.
    report
        Counts so far.
    path
        The file, for messages.

    Raises
    ------
    DataError
        If no row is left; the message says why.
    """
    counts = dict(report or {})
    least = dataset.options.get("rating_threshold")
    if least is not None and "rating" in interactions:
        kept = interactions[interactions["rating"] >= least]
        counts["below_rating_threshold_dropped"] = len(interactions) - len(kept)
        interactions = kept
    rows = interactions[["user", "item"]].drop_duplicates().astype("str")
    counts["repeated_interactions_dropped"] = len(interactions) - len(rows)
    maps = {kind: _ids(table) for kind, table in (("user", dataset.users), ("item", dataset.items))}
    numbers = pd.DataFrame({kind: ids.indices(rows[kind]) for kind, ids in maps.items()})
    for kind in maps:
        unknown = (numbers[kind] < 0).to_numpy()
        counts[f"unknown_{kind}s"] = rows[kind][unknown].nunique()
    known = (numbers >= 0).all(axis=1)
    counts["rows_of_unknown_users_or_items_left_out"] = int((~known).sum())
    trained = dataset.interactions[dataset.interactions["split"] != "test"]
    numbers = numbers[known]
    pairs = pd.MultiIndex.from_frame(trained[["user", "item"]])
    had = pd.MultiIndex.from_frame(numbers).isin(pairs)
    counts["pairs_that_were_known_before_left_out"] = int(had.sum())
    later = numbers[~had]
    if not len(later):
        raise _nothing_left(rows, dataset, int(known.sum()), path)
    both = pd.concat([trained[["user", "item", "split"]].astype({"split": str}), later.assign(split="test")])
    return LaterLog(replace(dataset, interactions=both, split_strategy="given"), counts)


def _ids(table: pd.DataFrame) -> IdMap:
    return IdMap(pd.Index(table["original_id"]), table["name"])


def _nothing_left(rows: pd.DataFrame, dataset: Dataset, known: int, path: str | Path | None) -> DataError:
    if known:
        problem = f"all {known:,} interactions with users and items of the data set are in it already"
        return DataError(problem, path=path, remedy="Give a log of what happened after the data set was made.")
    shown = {
        kind: (", ".join(map(repr, rows[kind].head(SHOWN))), ", ".join(map(repr, table["original_id"].head(SHOWN))))
        for kind, table in (("user", dataset.users), ("item", dataset.items))
    }
    return DataError(
        "no interaction is of a user and an item of the data set: " + "; ".join(
            f"{kind}s are called {theirs} here and {ours} there" for kind, (theirs, ours) in shown.items()
        ),
        path=path,
        remedy="Write the ids as in the files that the data set was made of, and check the names of the columns.",
    )  # fmt: skip
