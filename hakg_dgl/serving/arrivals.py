"""Items of a request that the data set does not have: the model and the data set with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.new_items import new_items_of
from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.models.registry import models_that
from hakg_dgl.serving.batches import NewItemRow
from hakg_dgl.serving.refusals import Refusal
from hakg_dgl.training.loading import TrainedModel

_NAMES = ("name", "title")


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
    new = new_items_of(_table(rows), dataset)
    grown = model.with_new_items(build_graph(new.dataset, trained.splits).to(model.device))
    return replace(trained, model=grown), new.dataset, {"new_items": len(new), **new.report}


def _table(rows: Sequence[NewItemRow]) -> pd.DataFrame:
    """A column a key; text or None."""
    table = pd.DataFrame([dict(row) for row in rows], dtype=object)
    name = next((column for column in _NAMES if column in table), None)
    names = None if name is None else table[name]
    table = table.drop(columns=[column for column in _NAMES if column in table]).assign(name=names)
    return table.where(table.notna(), None)
