"""The runs of a study: one folder each, trained to the end or continued, in one process or several."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from hakg_dgl.atomic_files import replace_file
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import HakgError, NumericalError
from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.evaluation import Evaluator
from hakg_dgl.studies.processes import orphaned
from hakg_dgl.training.circumstances import choose_device
from hakg_dgl.training.loading import load_scorer
from hakg_dgl.training.progress import Progress
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.trainer import make_trainer

METRICS = ("recall@20", "ndcg@20")
SAME = 1e-6
"""Means of a table of users and of the run's result that differ by more are of different models."""

Watch = Callable[[Progress], None]


@dataclass(frozen=True)
class PlannedRun:
    """A run of a study.

    Attributes
    ----------
    variant, label, seed
        Which model, and with which seed.
    folder
        Where it is trained; ``users.parquet`` in it has the metrics of every user of the test split.
    settings
        What it is trained with.
    """

    variant: str
    label: str
    seed: int
    folder: Path
    settings: Settings

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.label}, seed {self.seed}"

    @property
    def finished(self) -> bool:
        """Whether it was trained to the end."""
        return RunFolder(self.folder).result_file.exists()


@dataclass(frozen=True)
class Done:
    """A run that is over: ``failure`` says why, None where it is finished."""

    run: PlannedRun
    failure: str | None


def train_all(
    runs: Sequence[PlannedRun],
    dataset: Dataset,
    data_path: Path | None,
    *,
    workers: int,
    threads: int | None,
    watch: Callable[[PlannedRun, Progress], None],
) -> Iterator[Done]:
    """Train the runs, in order or side by side, and yield each when it is over.

    One that fails for its settings' sake (a loss that becomes NaN, too little memory) is yielded with the reason; what
    else goes wrong is raised. When the caller stops listening, workers stop after the step they are in.

    Raises
    ------
    HakgError
        If a worker was killed, and as training does.
    """
    if workers == 1:
        before = torch.get_num_threads()
        torch.set_num_threads(threads or before)
        try:
            for run in runs:
                yield Done(run, _attempt(run, dataset, data_path, partial(watch, run)))
        finally:
            torch.set_num_threads(before)
        return
    context = multiprocessing.get_context("spawn")
    stop, share = context.Event(), threads or max(1, torch.get_num_threads() // workers)
    pool = ProcessPoolExecutor(workers, context, _begin, (dataset, data_path, share, stop))
    try:
        with _signals_held_back():
            started: dict[Future[str | None], PlannedRun] = {pool.submit(_work, run): run for run in runs}
        for future in as_completed(started):
            yield Done(started[future], future.result())
    except BrokenProcessPool as error:
        raise HakgError(
            "a worker was killed; where memory ran out, take fewer (--workers)\nWhat is finished stays: give the same "
            "command again to continue."
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of the block: the pool would hang if one came while it starts a process.

    Those processes never hear Ctrl-C; this one does, and asks them to stop.
    """
    if threading.current_thread() is not threading.main_thread():  # where nothing is interrupted
        yield
        return
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which new processes inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
    for again in received:
        signal.raise_signal(again)


_worker: dict[str, Any] = {}
"""What a worker process was given when it began."""


def _begin(dataset: Dataset, data_path: Path | None, threads: int, stop: Any) -> None:
    torch.set_num_threads(threads)
    _worker.update(dataset=dataset, data_path=data_path, stop=stop)


def _work(run: PlannedRun) -> str | None:
    def watch(progress: Progress | None) -> None:
        if _worker["stop"].is_set() or orphaned():
            raise KeyboardInterrupt

    watch(None)
    return _attempt(run, _worker["dataset"], _worker["data_path"], watch)


def _attempt(run: PlannedRun, dataset: Dataset, data_path: Path | None, watch: Watch) -> str | None:
    """Train a run to the end, from where it is; the reason if it fails for its settings' sake."""
    try:
        trainer = make_trainer(dataset, run.settings, run=run.folder, data_path=data_path, on_progress=watch)
        trainer.fit(resume=RunFolder(run.folder).exists())
        user_metrics(run, dataset)
    except (NumericalError, MemoryError, torch.cuda.OutOfMemoryError) as error:
        return f"{type(error).__name__}: {str(error).strip()}"
    return None


def user_metrics(run: PlannedRun, dataset: Dataset) -> pd.DataFrame:
    """``user`` and :data:`METRICS` of every user of the test split, by the best model of a finished run.

    Measured once and kept beside the run; measured again if the means are not those of the run's result.
    """
    file = run.folder / "users.parquet"
    expected = [RunFolder(run.folder).result["metrics"]["test"][metric] for metric in METRICS]
    try:
        table = pd.read_parquet(file)
        if np.allclose(table[list(METRICS)].mean(), expected, rtol=0, atol=SAME):
            return table
    except (OSError, ValueError, KeyError):  # not there, or damaged
        pass
    scorer = load_scorer(run.folder, dataset, device=choose_device(run.settings.run.device))
    found = Evaluator(dataset, "test", (20,), per_user=True)(scorer).per_user
    assert found is not None
    table = found[["user", "n_relevant", *METRICS]]
    replace_file(file, lambda temporary: table.to_parquet(temporary, index=False))
    return table
