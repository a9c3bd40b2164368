"""From tables to lists in one go: data set, training, evaluation, lists, report.

Each step writes into a folder of its own and is left out where it is done, so that a run that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hakg_dgl.atomic_files import replace_file, write_json, write_text
from hakg_dgl.data.dataset import Dataset, load_dataset
from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.errors import CheckpointError, ConfigError, DataError, MissingDependencyError
from hakg_dgl.figures.report import report_page
from hakg_dgl.figures.subject import Subject
from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.evaluation import evaluate
from hakg_dgl.ranking.lists import recommend, with_names
from hakg_dgl.ranking.yardsticks import PopularityScorer
from hakg_dgl.training.closed_form import ClosedFormTrainer
from hakg_dgl.training.loading import load_scorer
from hakg_dgl.training.progress import OnProgress
from hakg_dgl.training.run_folder import RunFolder, settings_differences
from hakg_dgl.training.trainer import Trainer, make_trainer

_NAMES = {"data", "run", "evaluation.json", "lists.csv", "report.html"}


@dataclass(frozen=True)
class QuickFolder:
    """Where :func:`quickstart` writes.

    Attributes
    ----------
    path
        The folder.
    """

    path: Path

    @property
    def data(self) -> Path:
        """The data set."""
        return self.path / "data"

    @property
    def run(self) -> Path:
        """The run."""
        return self.path / "run"

    @property
    def evaluation(self) -> Path:
        """Metrics of the model and of popularity on the test split."""
        return self.path / "evaluation.json"

    @property
    def lists(self) -> Path:
        """Lists of all users: ``user``, ``rank``, ``item``, ``name``, ``score``."""
        return self.path / "lists.csv"

    @property
    def report(self) -> Path:
        """The page on the run."""
        return self.path / "report.html"

    def refuse_occupied(self, *, resume: bool) -> None:
        """Raise DataError if there is something else, or if there are results and ``resume`` is not given."""
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_dir()):
            raise DataError("exists and is not a folder", path=self.path, remedy="Choose another place.")
        found = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()
        foreign = sorted(name for name in found - _NAMES if not name.startswith("."))
        if foreign:
            problem = f"holds other files, such as {foreign[0]!r}"
            raise DataError(problem, path=self.path, remedy="Choose another folder, or empty it yourself.")
        if found & _NAMES and not resume:
            remedy = "Add --resume to go on with it, or choose another folder."
            raise DataError("holds a quick start already", path=self.path, remedy=remedy)


@dataclass(frozen=True, eq=False)
class QuickResult:
    """What :func:`quickstart` did.

    Attributes
    ----------
    folder
        Where everything is.
    dataset
        The data set.
    metrics
        Metrics of the model on the test split, and those of popularity; None without a test split.
    rows
        Rows of the lists.
    notes
        What was left out, and why.
    """

    folder: QuickFolder
    dataset: Dataset
    metrics: dict[str, dict[str, float]] | None
    rows: int
    notes: tuple[str, ...]


def quickstart(
    read: Callable[[], RawData],
    out: str | Path,
    options: PreprocessOptions | None = None,
    settings: Settings | None = None,
    *,
    k: int = 20,
    resume: bool = False,
    begin: Callable[[str], None] = lambda step: None,
    on_progress: OnProgress | None = None,
    on_trainer: Callable[[Trainer | ClosedFormTrainer], None] = lambda trainer: None,
) -> QuickResult:
    """Make a data set, train, evaluate, and write lists and a report.

    Parameters
    ----------
    read
        What reads the raw data, such as ``lambda: read_tables("orders.csv", items="catalog.csv")``.
    out
        Folder for ``data``, ``run``, ``evaluation.json``, ``lists.csv`` and ``report.html``.
    options, settings
        Of preprocessing and of training; their defaults if None.
    k
        Length of the lists.
    resume
        Go on in a folder that a stopped quick start left: its data set is kept, its training continued.
    begin
        Called with the name of each step when it begins.
    on_progress, on_trainer
        Called as training goes on, and with the trainer before it begins.

    Raises
    ------
    DataError
        If the folder holds something already (and ``resume`` is not given), the log or a table is wrong, or, on
        resuming, the data set was made from other files or with other options.
    ConfigError
        If there is nothing to validate on, ``k`` is below 1, or a setting is wrong.
    CheckpointError
        If, on resuming, the run that is there has other settings, or it is damaged.

    Examples
    --------
    >>> quickstart(lambda: read_tables("orders.csv", items="catalog.csv"), "shop").folder.lists
    """
    folder, settings, notes = QuickFolder(Path(out)), settings or Settings(), []
    if k < 1:
        raise ConfigError(f"k = {k} is not allowed; a list has at least one item")
    folder.refuse_occupied(resume=resume)
    _refuse_other_settings(RunFolder(folder.run), settings)
    dataset = _dataset(folder, read, options or PreprocessOptions(), begin)
    run = RunFolder(folder.run)
    done = resume and run.exists() and run.result_file.exists()
    if done:
        run.check_dataset(dataset)
    else:
        begin("training")
        trainer = make_trainer(dataset, settings, run=folder.run, data_path=folder.data, on_progress=on_progress)
        on_trainer(trainer)
        trainer.fit(resume=resume and run.exists())
    begin("evaluation")
    scorer = load_scorer(folder.run, dataset)
    metrics = None
    if len(dataset.pairs("test")):
        yardstick = PopularityScorer(dataset, ("train", "valid"))
        both = {"model": scorer, "popularity": yardstick}
        metrics = {name: dict(evaluate(each, dataset).metrics) for name, each in both.items()}
        write_json(folder.evaluation, metrics)
    else:
        notes.append("nothing was evaluated, as there is no test split")
    begin("lists")
    lists = _lists(dataset, scorer, k)
    replace_file(folder.lists, lambda file: lists.to_csv(file, index=False, lineterminator="\n"))
    begin("report")
    try:
        write_text(folder.report, report_page(Subject(run, dataset)))
    except MissingDependencyError as error:
        notes.append(f"no report was written: {error}")
    return QuickResult(folder, dataset, metrics, len(lists), tuple(notes))


def _refuse_other_settings(run: RunFolder, settings: Settings) -> None:
    """Raise CheckpointError if the run that is there was made with other settings."""
    if not run.config_file.exists():
        return
    different = settings_differences(run.settings.to_dict(), settings, {"device", "tensorboard", "cuda_graphs"})
    if different:
        raise CheckpointError(
            f"{run.path}: the run has other settings: {', '.join(different)}; "
            "resume with its own, or choose another folder"
        )


def _dataset(
    folder: QuickFolder, read: Callable[[], RawData], options: PreprocessOptions, begin: Callable[[str], None]
) -> Dataset:
    """The data set: made, or the one that a stopped quick start left, if it is of the same files and options."""
    begin("reading")
    made = preprocess(read(), options)
    if not (folder.data / "dataset.json").exists():
        made.save(folder.data)
        return made
    kept = load_dataset(folder.data)
    if kept.digest != made.digest:
        raise DataError(
            "was made from other files, or with other options",
            path=folder.data,
            remedy="Give those it was made with, or choose another folder.",
        )
    return kept


def _lists(dataset: Dataset, scorer: Any, k: int) -> pd.DataFrame:
    """Lists of all users by original ids, without what a user has."""
    everyone = np.arange(dataset.n_users)
    return with_names(recommend(scorer, everyone, min(k, dataset.n_items), dataset.positives()), dataset)
