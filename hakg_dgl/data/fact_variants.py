"""The same data set with other facts: none, tails shuffled within relations, or a random share of them.

All but the triples stays as it is, entities, relations and what is known of users included, so that models of two
variants differ by the facts alone.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pandas as pd

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError

Int64 = npt.NDArray[np.int64]

REPAIRS = 100
"""Rounds in which a shuffled relation may get rid of facts that it states twice."""
SWAPS_PER_FACT = 10
"""Swaps that are tried for each fact of a relation that shuffling at once cannot do."""


def without_facts(dataset: Dataset) -> Dataset:
    """The data set without triples."""
    return _with_triples(dataset, dataset.triples.head(0), "without facts")


def shuffled_facts(dataset: Dataset, generator: np.random.Generator) -> Dataset:
    """The data set with the tails of each relation shuffled.

    Within each relation every head is the head of as many facts as before, and every tail the tail of as many. No fact
    is stated twice. A relation that has only one tail stays as it is, as does one that states every fact it could.

    Parameters
    ----------
    dataset
        What to take the facts from.
    generator
        What the permutations are drawn from.

    Returns
    -------
    Dataset
        The new data set. :func:`share_of_true_facts` tells how many facts came out as they were.
    """
    facts = dataset.facts
    tail, by_relation = facts.tail.copy(), np.argsort(facts.relation, kind="stable")
    ends = np.flatnonzero(np.diff(facts.relation[by_relation])) + 1
    for rows in np.split(by_relation, ends):
        tail[rows] = _shuffled(facts.head[rows], tail[rows], generator)
    return _with_triples(dataset, dataset.triples.assign(tail=tail), "with shuffled facts")


def thinned_facts(dataset: Dataset, share: float, generator: np.random.Generator) -> Dataset:
    """The data set with a random share of its triples, rounded to whole triples.

    Generators in the same state give nested sets: the facts of a smaller share are among those of a larger one.

    Parameters
    ----------
    dataset
        What to take the facts from.
    share
        The share that is kept, from 0 to 1.
    generator
        What the order is drawn from whose beginning is kept.

    Returns
    -------
    Dataset
        The new data set.

    Raises
    ------
    ConfigError
        If the share is not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"share = {share}: a share of the facts is a number from 0 to 1")
    order = generator.permutation(len(dataset.triples))
    kept = np.sort(order[: round(share * len(order))])
    return _with_triples(dataset, dataset.triples.iloc[kept], f"with {share:.0%} of its facts")


def share_of_true_facts(dataset: Dataset, variant: Dataset) -> float:
    """Which share of the data set's triples the variant has too.

    Parameters
    ----------
    dataset
        The one with the true facts; it has at least one.
    variant
        The same data set with other facts.
    """
    columns = ["head", "relation", "tail"]
    return len(dataset.triples.merge(variant.triples, on=columns)) / len(dataset.triples)


def _with_triples(dataset: Dataset, triples: pd.DataFrame, what: str) -> Dataset:
    return dataclasses.replace(dataset, name=f"{dataset.name} {what}", triples=triples)


def _shuffled(head: Int64, tail: Int64, generator: np.random.Generator) -> Int64:
    """The tails of a relation in another order in which no pair of head and tail occurs twice."""
    order = generator.permutation(tail)
    for _ in range(REPAIRS):
        again = np.flatnonzero(pd.DataFrame({"head": head, "tail": order}).duplicated())
        if not len(again):
            return order
        for row, partner in zip(again, generator.integers(len(order), size=len(again)), strict=True):
            order[row], order[partner] = order[partner], order[row]
    return _swapped(head, tail, generator)


def _swapped(head: Int64, tail: Int64, generator: np.random.Generator) -> Int64:
    """The same by swaps of two tails, one after the other, leaving out those that would state a fact twice."""
    heads, tails = head.tolist(), tail.tolist()
    stated = set(zip(heads, tails, strict=True))
    for row, partner in generator.integers(len(tails), size=(SWAPS_PER_FACT * len(tails), 2)).tolist():
        new = {(heads[row], tails[partner]), (heads[partner], tails[row])}
        if new & stated:
            continue
        stated -= {(heads[row], tails[row]), (heads[partner], tails[partner])}
        stated |= new
        tails[row], tails[partner] = tails[partner], tails[row]
    return np.array(tails, dtype=np.int64)
