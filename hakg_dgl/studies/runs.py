"""The planned runs of a study: each is trained to the end or continued, in one process or several, and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hakg_dgl.atomic_files import replace_file
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import HakgError, NumericalError
from hakg_dgl.ranking.evaluation import Evaluator
from hakg_dgl.studies.pool import Ended, orphaned, run_calls
from hakg_dgl.studies.study import PlannedRun
from hakg_dgl.studies.threads import on_threads, threads_each
from hakg_dgl.training.circumstances import choose_device
from hakg_dgl.training.loading import load_scorer
from hakg_dgl.training.progress import Progress
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.trainer import make_trainer

METRICS = ("recall@20", "ndcg@20")
SAME = 1e-6
"""Means of a table of users and of the run's result that differ by more are of different models."""


@dataclass(frozen=True)
class OfRun:
    """What a study does for each of its runs; functions at the top level of a module, for workers.

    Attributes
    ----------
    dataset
        From a run and the data set of the study to the data set that the run is trained on.
    measure
        Measures a finished run on that data set, and keeps what it finds beside it.
    """

    dataset: Callable[[PlannedRun, Dataset], Dataset]
    measure: Callable[[PlannedRun, Dataset], object]


def train_all(
    runs: Sequence[PlannedRun],
    dataset: Dataset,
    data_path: Path | None,
    *,
    workers: int,
    threads: int | None,
    watch: Callable[[PlannedRun, Progress], None],
    over: Callable[[PlannedRun, str | None], None],
    of_run: OfRun | None = None,
) -> None:
    """Train the runs, in order or side by side.

    Parameters
    ----------
    runs
        What to train. A run that was begun earlier is continued.
    dataset, data_path
        What the runs are trained on, and where it lies, None if it is not on disk.
    workers, threads
        The number of processes (1 trains in this one), and the threads of each.
    watch
        Called after each step of a run that is trained in this process.
    over
        Called when a run is over, with the reason if its settings made it fail: the loss became NaN, or there was too
        little memory. What else goes wrong is raised, and the other runs stop.
    of_run
        What each run is trained on and how it is measured. By default, it is trained on ``dataset`` and measured by
        :func:`user_metrics`.

    Raises
    ------
    HakgError
        If a worker was killed, and as training does.
    """
    if workers == 1:
        with on_threads(threads):
            for run in runs:
                over(run, _attempt(run, dataset, data_path, partial(watch, run), of_run))
        return

    def ended(call: Ended) -> None:
        if call.killed:
            raise HakgError(
                "a worker was killed; where memory ran out, take fewer (--workers)\nWhat is finished stays: give the "
                "same command again to continue."
            )
        if call.error is not None:
            raise call.error
        over(runs[call.number], call.value)

    shared = (dataset, data_path, threads_each(workers, threads), of_run)
    run_calls(_train, [(run,) for run in runs], shared=shared, workers=workers, ended=ended)


def _train(
    dataset: Dataset, data_path: Path | None, threads: int | None, of_run: OfRun | None, run: PlannedRun
) -> str | None:
    """What a worker does with a run."""

    def watch(progress: Progress) -> None:
        if orphaned():
            raise KeyboardInterrupt

    with on_threads(threads):
        return _attempt(run, dataset, data_path, watch, of_run)


def _attempt(
    run: PlannedRun,
    dataset: Dataset,
    data_path: Path | None,
    watch: Callable[[Progress], None],
    of_run: OfRun | None,
) -> str | None:
    """Train a run to the end, from where it stands; returns the reason if its settings make it fail."""
    own = dataset if of_run is None else of_run.dataset(run, dataset)
    where = data_path if own.digest == dataset.digest else None  # what is on disk there is another data set
    measure = user_metrics if of_run is None else of_run.measure
    try:
        trainer = make_trainer(own, run.settings, run=run.folder, data_path=where, on_progress=watch)
        trainer.fit(resume=RunFolder(run.folder).exists())
        measure(run, own)
    except (NumericalError, MemoryError, torch.cuda.OutOfMemoryError) as error:
        return f"{type(error).__name__}: {str(error).strip()}"
    return None


def user_metrics(run: PlannedRun, dataset: Dataset) -> pd.DataFrame:
    """``user``, ``n_relevant`` and :data:`METRICS` of every user of the test split, by the best model of a run.

    They are measured once and kept beside the finished run, in ``users.parquet``; they are measured again if their
    means are not those of the run's result.
    """
    file = run.folder / "users.parquet"
    expected = [RunFolder(run.folder).result["metrics"]["test"][metric] for metric in METRICS]
    try:
        table = pd.read_parquet(file)
        if np.allclose(table[list(METRICS)].mean(), expected, rtol=0, atol=SAME):
            return table
    except (OSError, ValueError, KeyError):  # the file is not there, or damaged
        pass
    scorer = load_scorer(run.folder, dataset, device=choose_device(run.settings.run.device))
    found = Evaluator(dataset, "test", (20,), per_user=True)(scorer).per_user
    assert found is not None
    table = found[["user", "n_relevant", *METRICS]]
    replace_file(file, lambda temporary: table.to_parquet(temporary, index=False))
    return table
