"""One trial of a search: a training with its settings, and the record of what came of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError, NumericalError
from hakg_dgl.models.settings import Settings
from hakg_dgl.studies.claims import GIVEN
from hakg_dgl.studies.pool import orphaned
from hakg_dgl.studies.search_space import SearchSpace
from hakg_dgl.training.progress import Progress
from hakg_dgl.training.trainer import make_trainer

if TYPE_CHECKING:
    import optuna


def train_trial(
    trial: optuna.Trial,
    study: optuna.Study,
    space: SearchSpace,
    settings: Settings,
    dataset: Dataset,
    report: Callable[[int], None],
) -> None:
    """Train with the settings of a trial, and record its result, or why it has none.

    Parameters
    ----------
    trial, study
        The trial, whose settings are drawn, and Optuna's view of the search.
    space, settings
        What is searched, and what is not.
    dataset
        A data set without test interactions, as of :func:`without_test`.
    report
        Called with the epoch after each evaluation.

    Raises
    ------
    optuna.exceptions.UpdateFinishedTrialError
        If the worker was taken for dead meanwhile, and the trial given to another one.
    KeyboardInterrupt
        If the training is interrupted, or the process that started this one has ended; nothing is recorded then.
    """
    import optuna

    select_by = settings.training.select_by

    def evaluated(progress: Progress) -> None:
        if orphaned():
            raise KeyboardInterrupt
        if progress.metrics is None:
            return
        trial.report(progress.metrics[select_by], progress.epoch)
        report(progress.epoch)
        if trial.should_prune() and progress.stopped is None:
            raise optuna.TrialPruned

    try:
        values = {} if GIVEN in trial.user_attrs else space.decode(trial.params)
        values["refit"] = False
        if "tensorboard" in settings.by_section():
            values["tensorboard"] = False
        result = make_trainer(dataset, settings.replace(values), on_progress=evaluated).fit()
        trial.set_user_attr("metrics", result["metrics"]["valid"])
        study.tell(trial, result["metrics"]["valid"][select_by])
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    except optuna.exceptions.UpdateFinishedTrialError:
        raise
    except Exception as error:
        trial.set_user_attr("reason", f"{type(error).__name__}: {str(error).strip()}")
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        if not _settings_may_be_the_cause(error):
            raise


def without_test(dataset: Dataset) -> Dataset:
    """The data set without the interactions of its test split."""
    return dataclasses.replace(dataset, interactions=dataset.interactions[dataset.interactions["split"] != "test"])


def _settings_may_be_the_cause(error: Exception) -> bool:
    """Whether trials with other settings may go well."""
    if isinstance(error, (NumericalError, ConfigError, MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
