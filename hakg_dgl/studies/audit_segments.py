"""What an audit measures of a run: the metrics of each user, for segments of users and items."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pandas as pd

from hakg_dgl.atomic_files import replace_file
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.ranking.evaluation import Evaluation, Evaluator, IntArray, cold_items, equal_share_groups
from hakg_dgl.ranking.topk import Scorer
from hakg_dgl.studies.runs import METRICS, SAME
from hakg_dgl.studies.study import PlannedRun
from hakg_dgl.training.circumstances import choose_device
from hakg_dgl.training.loading import load_scorer
from hakg_dgl.training.run_folder import RunFolder

ALL, TAIL, NEW, NEW_ALONE, FEW = "all", "tail", "new-items", "new-items-alone", "few-interactions"
SEGMENTS = {
    ALL: "all users and items",
    TAIL: "items of the tail",
    NEW: "items without interactions",
    NEW_ALONE: "items without interactions, ranked among themselves",
    FEW: "users with few or no interactions",
}
"""Name -> label. docs/knowledge.md defines them."""
_SPLIT, _CUT, _FILE = "test", (20,), "segments.parquet"


def segment_metrics(run: PlannedRun, dataset: Dataset) -> pd.DataFrame:
    """The metrics of every user of the test split in each segment, by the best model of a run.

    They are measured once and kept beside the finished run, in ``segments.parquet``; they are measured again if the
    means over all users are not those of the run's result.

    Parameters
    ----------
    run
        A finished run.
    dataset
        What it was trained on.

    Returns
    -------
    DataFrame
        The columns ``segment``, ``user``, ``n_relevant``, ``recall@20`` and ``ndcg@20``. A segment in which no user
        has a relevant item is absent.
    """
    file = run.folder / _FILE
    expected = [RunFolder(run.folder).result["metrics"][_SPLIT][metric] for metric in METRICS]
    try:
        table = pd.read_parquet(file)
        if np.allclose(table.loc[table["segment"] == ALL, list(METRICS)].mean(), expected, rtol=0, atol=SAME):
            return table
    except (OSError, ValueError, KeyError):  # the file is not there, or damaged
        pass
    scorer = load_scorer(run.folder, dataset, device=choose_device(run.settings.run.device))
    table = measured(scorer, dataset)
    replace_file(file, lambda temporary: table.to_parquet(temporary, index=False))
    return table


def measured(scorer: Scorer, dataset: Dataset) -> pd.DataFrame:
    """The table of :func:`segment_metrics`, from a scorer."""
    parts = []
    for segment, evaluator in _evaluators(dataset):
        table = evaluator(scorer).per_user
        assert table is not None
        parts.append(table[["user", "n_relevant", *METRICS]].assign(segment=segment))
    return pd.concat(parts, ignore_index=True)[["segment", "user", "n_relevant", *METRICS]]


def evaluation_of(table: pd.DataFrame, dataset: Dataset) -> Evaluation:
    """A segment's table of users as :func:`~hakg_dgl.compare` takes it."""
    return Evaluation(
        split=_SPLIT,
        mask=("train", "valid"),
        ks=_CUT,
        n_users=len(table),
        n_relevant=int(table["n_relevant"].sum()),
        n_candidates=dataset.n_items,
        n_masked_relevant=0,  # no pair is in two splits
        metrics={metric: float(table[metric].mean()) for metric in METRICS},
        per_user=table,
    )


def _evaluators(dataset: Dataset) -> Iterator[tuple[str, Evaluator]]:
    """What measures each segment in which a user has a relevant item."""
    user, item = dataset.pairs(_SPLIT).T
    new, tail = cold_items(dataset, _SPLIT), _tail(dataset)
    busy = np.setdiff1d(np.arange(dataset.n_users), _users_with_few(dataset))
    yield ALL, Evaluator(dataset, _SPLIT, _CUT, per_user=True)
    for segment, items in ((TAIL, tail), (NEW, new)):
        if np.isin(item, items).any():
            yield segment, Evaluator(_where_relevant(dataset, items), _SPLIT, _CUT, per_user=True)
    if np.isin(item, new).any():
        yield NEW_ALONE, Evaluator(dataset, _SPLIT, _CUT, per_user=True, candidates=new)
    if not np.isin(user, busy).all():
        yield FEW, Evaluator(dataset, _SPLIT, _CUT, per_user=True, exclude_users=busy)


def _tail(dataset: Dataset) -> IntArray:
    """The items of group ``tail`` of an evaluation by popularity: the least chosen with a third of interactions."""
    counts = np.bincount(dataset.pairs("train")[:, 1], minlength=dataset.n_items)
    return np.flatnonzero(equal_share_groups(counts, 3) == 1)


def _users_with_few(dataset: Dataset) -> IntArray:
    """The users of groups ``none`` and ``few`` of an evaluation by activity."""
    counts = np.bincount(dataset.pairs("train")[:, 0], minlength=dataset.n_users)
    return np.flatnonzero(equal_share_groups(counts, 4) <= 1)


def _where_relevant(dataset: Dataset, items: IntArray) -> Dataset:
    """The data set in which these items alone are relevant in the test split; all are ranked still.

    An item that left the test split is no hit any more, and keeps its place in a list.
    """
    rows = dataset.interactions
    kept = (rows["split"] != _SPLIT) | rows["item"].isin(items)
    return dataclasses.replace(dataset, interactions=rows[kept])
