"""Items of a request that the data set does not have: the model and the data set with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import Lock
from typing import Generic, TypeVar

import pandas as pd

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.new_items import new_items_of
from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.models.registry import models_that
from hakg_dgl.serving.batches import NewItemRow
from hakg_dgl.serving.refusals import Refusal
from hakg_dgl.training.allocator import give_back_freed_memory
from hakg_dgl.training.loading import TrainedModel

_NAMES = ("name", "title")
Made = TypeVar("Made")
Rows = tuple[NewItemRow, ...]


class LastArrivals(Generic[Made]):
    """What is made for new items, which takes as much memory as a model: the last one is remembered, and no other.

    One is made at a time, and after the one before is dropped, so that threads do not hold several.

    Parameters
    ----------
    make
        From the rows of new items.
    """

    def __init__(self, make: Callable[[Rows], Made]) -> None:
        self._make, self._one_at_a_time = make, Lock()
        self._last: tuple[Rows, Made] | None = None

    def of(self, rows: Rows) -> Made:
        """What is made for these rows."""
        last = self._last
        if last is not None and last[0] == rows:
            return last[1]
        del last
        with self._one_at_a_time:
            if self._last is None or self._last[0] != rows:  # another thread may just have made it
                self._last = None
                give_back_freed_memory()
                made = self._make(rows)
                give_back_freed_memory()
                self._last = rows, made
            return self._last[1]


def with_arrivals(
    trained: TrainedModel, dataset: Dataset, rows: Sequence[NewItemRow]
) -> tuple[TrainedModel, Dataset, Mapping[str, int]]:
    """The model and the data set with new items behind the others, and remarks with counts.

    Parameters
    ----------
    trained, dataset
        The model, and the data set it was trained on.
    rows
        The new items, as rows of a catalogue.

    Raises
    ------
    Refusal
        400: if the model needs training for new items.
    DataError
        As :func:`~hakg_dgl.data.new_items.new_items_of`.
    """
    model = trained.model
    if not model.abilities.new_items:
        able = ", ".join(models_that("new_items"))
        raise Refusal(400, f"model {model.name!r} knows nothing of items that it was not trained on", f"Serve {able}.")
    new = new_items_of(table_of(rows), dataset)
    grown = model.with_new_items(build_graph(new.dataset, trained.splits).to(model.device))
    return replace(trained, model=grown), new.dataset, {"new_items": len(new), **new.report}


def table_of(rows: Sequence[NewItemRow]) -> pd.DataFrame:
    """Rows as a table with a column a key, text or None; the name is what stands in ``name``, else in ``title``."""
    table = pd.DataFrame([dict(row) for row in rows], dtype=object)
    name = next((column for column in _NAMES if column in table), None)
    names = None if name is None else table[name]
    table = table.drop(columns=[] if name is None else [name]).assign(name=names)
    return table.where(table.notna(), None)
