"""What the processes of a benchmark do: search the settings of a model, train a run, and measure it."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hakg_dgl.atomic_files import replace_file, write_json, write_text
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import CheckpointError, ConfigError, IntegrityError
from hakg_dgl.ranking.evaluation import ALSO, Evaluator
from hakg_dgl.studies.benchmark_plan import Budget, Part, reason_of
from hakg_dgl.studies.pool import orphaned
from hakg_dgl.studies.runs import METRICS
from hakg_dgl.studies.study import PlannedRun
from hakg_dgl.studies.threads import on_threads
from hakg_dgl.studies.tuning import Study, StudyProgress
from hakg_dgl.training.circumstances import choose_device
from hakg_dgl.training.loading import load_model
from hakg_dgl.training.progress import Progress
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.trainer import make_trainer

FAILURE, MEASURED = "failure.txt", "measured.json"


def measured_file(run: PlannedRun) -> Path:
    """Where what :func:`train` measured of a run is kept."""
    return run.folder / MEASURED


def where_file(folder: Path) -> Path:
    """Where a process notes how far it is with the tuning or the run in a folder."""
    return folder.with_name(f"{folder.name}.progress")


def tune(part: Part, budget: Budget, threads: int | None) -> str | None:
    """Search the settings of a model until the budget is spent, and write the best; returns why this failed.

    Raises
    ------
    CheckpointError
        If the folder is damaged, or cannot be written.
    """

    def search() -> None:
        assert part.contender.settings is not None
        study = Study(part.tuning, part.dataset, part.contender.settings, part.contender.space,
                      data_path=part.data_path)  # fmt: skip
        report = study.report(budget.trials)
        if budget.seconds is None or (left := budget.seconds - _spent(report)) > 0:
            seconds = None if budget.seconds is None else left
            report = study.run(budget.trials, seconds=seconds, threads=threads, on_progress=watch)
        if report["best"] is None:
            raise ConfigError(_why_nothing(report))
        best = {key: report["best"][key] for key in ("settings", "value", "epoch")}
        found = {**best, "metric": report["metric"], "trials": report["counts"], "seconds": _spent(report)}
        with _writing(part.best_file):
            write_json(part.best_file, found)

    def watch(progress: StudyProgress) -> None:
        of = "" if progress.total is None else f" of {progress.total}"
        epoch = "" if progress.epoch is None else f", epoch {progress.epoch}"
        _note(part.tuning, f"trial {progress.done + progress.running}{of}{epoch}")

    return _attempt(search, part.folder, part.tuning)


def train(run: PlannedRun, part: Part, workers: int, threads: int | None) -> str | None:
    """Train a run to the end, from where it stands, and measure it; returns why this failed.

    Raises
    ------
    CheckpointError
        If the folder is damaged, or cannot be written.
    """

    def watch(progress: Progress) -> None:
        if orphaned():
            raise KeyboardInterrupt
        if progress.step == progress.steps:
            again = " of the refit" if progress.refit else ""
            _note(run.folder, f"epoch {progress.epoch} of {progress.epochs}{again}")

    def work() -> None:
        if not run.finished:
            trainer = make_trainer(
                part.dataset, run.settings, run=run.folder, data_path=part.data_path, on_progress=watch
            )
            trainer.fit(resume=RunFolder(run.folder).exists())
        measure(run, part.dataset, workers)

    with on_threads(threads):
        return _attempt(work, part.folder, run.folder)


def measure(run: PlannedRun, dataset: Dataset, workers: int | None = None) -> dict[str, Any]:
    """Measure the best model of a finished run on the test split, and keep what was found beside it.

    Parameters
    ----------
    run, dataset
        The run, and what it was trained on.
    workers
        How many processes trained side by side, None if that is not known.

    Returns
    -------
    dict
        ``metrics`` and ``groups`` of the test split, ``parameters`` (numbers that gradients change), ``stored``
        (all numbers of the trained model) and ``workers``. The table of users is in ``users.parquet``.
    """
    model = load_model(run.folder, dataset, device=choose_device(run.settings.run.device))
    found = Evaluator(dataset, "test", (20,), groups=True, per_user=True, also=ALSO)(model.scorer())
    users = found.per_user
    assert users is not None
    kept = {
        "metrics": found.metrics,
        "groups": found.groups,
        "parameters": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "stored": sum(tensor.numel() for tensor in model.tensors().values()),
        "workers": workers,
    }
    table = users[["user", "n_relevant", *METRICS]]
    with _writing(run.folder / "users.parquet"):
        replace_file(run.folder / "users.parquet", lambda temporary: table.to_parquet(temporary, index=False))
    with _writing(measured_file(run)):
        write_json(measured_file(run), kept)
    return kept


def measurement(run: PlannedRun, dataset: Dataset) -> dict[str, Any]:
    """What :func:`measure` found of a finished run; it is measured again where the file is missing or damaged."""
    try:
        found = json.loads(measured_file(run).read_bytes())
        if {"metrics", "groups", "parameters", "stored", "workers"} <= set(found):
            return dict(found)
    except (OSError, ValueError, TypeError):
        pass
    return measure(run, dataset)


def _attempt(work: Callable[[], None], folder: Path, place: Path) -> str | None:
    """Do the work of a folder; an error of the model is returned as a text, with its traceback in ``failure.txt``."""
    failure = folder / FAILURE
    with _writing(failure):
        folder.mkdir(parents=True, exist_ok=True)
        failure.unlink(missing_ok=True)
    try:
        work()
    except (CheckpointError, IntegrityError):  # of the folder, not of the model
        raise
    except Exception as error:
        with _writing(failure):
            write_text(failure, traceback.format_exc())
        return reason_of(error)
    finally:
        with suppress(OSError):
            where_file(place).unlink(missing_ok=True)
    return None


def _note(folder: Path, where: str) -> None:
    """Say how far the work in a folder is, for the progress of the process that started this one."""
    with suppress(OSError):
        where_file(folder).write_text(where, encoding="utf-8")


def _spent(report: dict[str, Any]) -> float:
    """The seconds that the trials of a search took."""
    return float(sum(trial["seconds"] or 0.0 for trial in report["trials"]))


def _why_nothing(report: dict[str, Any]) -> str:
    """Why a search has no best settings."""
    reasons = [trial["reason"] for trial in report["trials"] if trial["state"] == "failed"]
    if not reasons:
        return "no trial was completed within the budget; give more --time"
    return f"all {len(reasons)} trials failed, the last with {reasons[-1]}"


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{file}: cannot be written: {error.strerror}\n"
            "Free some space or fix the permissions, then give the same command again."
        ) from error
