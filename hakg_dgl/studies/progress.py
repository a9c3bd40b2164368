"""Where a study of planned runs stands: trains them, and tells what is over and what trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.studies.runs import OfRun, train_all
from hakg_dgl.studies.study import PlannedRun
from hakg_dgl.training.progress import Progress


@dataclass(frozen=True)
class RunsProgress:
    """Where a study stands.

    Attributes
    ----------
    done, total
        The number of runs of this call that are over, and of all its runs.
    running
        The title of the run that trains in this process, None if none does.
    epoch, epochs
        The epoch of that run, and the most that there will be.
    """

    done: int
    total: int
    running: str | None = None
    epoch: int | None = None
    epochs: int | None = None


OnProgress = Callable[[RunsProgress], None]


def train_and_tell(
    todo: Sequence[PlannedRun],
    dataset: Dataset,
    data_path: Path | None,
    *,
    workers: int,
    threads: int | None,
    on_progress: OnProgress | None,
    failures: dict[Path, str],
    of_run: OfRun | None = None,
) -> None:
    """Train runs as :func:`~hakg_dgl.studies.runs.train_all` does, whose parameters these are.

    Parameters
    ----------
    on_progress
        Called after each step with one worker, and when a run is over.
    failures
        What is noted as it happens: the folder of each run that failed, and the reason.
    """
    tell, done = on_progress or (lambda progress: None), 0

    def watch(run: PlannedRun, progress: Progress) -> None:
        tell(RunsProgress(done, len(todo), run.title, progress.epoch, progress.epochs))

    def over(run: PlannedRun, failure: str | None) -> None:
        nonlocal done
        done += 1
        if failure is not None:
            failures[run.folder] = failure
        tell(RunsProgress(done, len(todo)))

    tell(RunsProgress(0, len(todo)))
    train_all(
        todo, dataset, data_path, workers=workers, threads=threads, watch=watch, over=over, of_run=of_run
    )  # fmt: skip
