"""Training a model on a data set: the search for the best epoch, the refit, the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError, NumericalError
from hakg_dgl.models.recommender import ClosedFormRecommender, GradientRecommender
from hakg_dgl.models.settings import Settings
from hakg_dgl.training.allocator import keep_freed_memory
from hakg_dgl.training.checkpoint import Weights, require_run
from hakg_dgl.training.circumstances import choose_device
from hakg_dgl.training.closed_form import ClosedFormTrainer
from hakg_dgl.training.phases import Refit, Search
from hakg_dgl.training.progress import OnProgress
from hakg_dgl.training.protocol import REFIT_SPLITS, require_pairs
from hakg_dgl.training.recording import Recording
from hakg_dgl.training.result import result_of, tested
from hakg_dgl.training.resuming import resume as resume_session
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.session import Session
from hakg_dgl.training.trainee import Trainee, graph_choice


class Trainer:
    """Trains a model by gradients; :func:`make_trainer` makes the trainer of any model.

    Parameters
    ----------
    dataset
        With a validation split, unless the protocol is ``published``.
    settings
        All settings; see :class:`~hakg_dgl.Settings`.
    run
        Folder for checkpoints and metrics; without one nothing is written, and nothing can be resumed.
    data_path
        Where the data set lies, noted in the run for later commands.
    on_progress
        Called after every step and every epoch.
    start
        Values of parameters to begin with, by name; drawn by default. :func:`~hakg_dgl.make_updater` makes them from an
        earlier run.

    Raises
    ------
    ConfigError
        If the data set lacks the split that the protocol selects on, the device is not there, TensorBoard is asked for
        without a run folder, the model is not trained by gradients, or ``cuda_graphs`` is true where steps cannot be
        recorded.
    MissingDependencyError
        If TensorBoard is asked for and not installed.

    Examples
    --------
    >>> trainer = Trainer(load_dataset("data"), Settings.resolve(overrides={"epochs": 5}), run="run")
    >>> result = trainer.fit()
    >>> result["metrics"]["test"]["recall@20"]
    """

    def __init__(
        self,
        dataset: Dataset,
        settings: Settings | None = None,
        *,
        run: str | Path | None = None,
        data_path: str | Path | None = None,
        on_progress: OnProgress | None = None,
        start: Weights | None = None,
    ) -> None:
        self.dataset: Dataset = dataset
        self.settings: Settings = settings or Settings()
        if not issubclass(self.settings.model_class, GradientRecommender):
            raise ConfigError(
                f"kind = {self.settings.kind!r} is not trained by gradients; hakg_dgl.make_trainer chooses the trainer"
            )
        self._require_pairs()
        self.device: torch.device = choose_device(self.settings.run.device)
        graph_choice(self.settings, self.device)  # before the graph is built, as it may refuse
        if self.device.type == "cpu":
            keep_freed_memory()
        self.folder: RunFolder | None = None if run is None else RunFolder(run)
        recording = Recording(self.folder, self.settings, on_progress)
        self.session: Session = self._new_session(data_path, recording, start)
        self.model.require_resources()
        self.warnings: list[str] = [*self.settings.idle(), *self._warnings()]
        """Settings that turned out to do nothing, also in ``result.json``."""
        self._fresh = True

    def _warnings(self) -> list[str]:
        return self.model.warnings()

    def _require_pairs(self) -> None:
        require_pairs(self.dataset, self.settings.training)

    def _new_session(self, data_path: str | Path | None, recording: Recording, start: Weights | None) -> Session:
        return Session(self.dataset, self.settings, self.device, self.folder, data_path, recording, start)

    @property
    def trainee(self) -> Trainee:
        """What is trained: the model, what it goes over, its optimizers and random streams."""
        return self.session.trainee

    @property
    def model(self) -> GradientRecommender:
        """The model that is trained; the best one after :meth:`fit`."""
        return self.session.trainee.model

    def interrupt(self) -> None:
        """Have :meth:`fit` save the state after the step it is in, and raise KeyboardInterrupt.

        It only sets a flag, so a handler of signals, another thread or ``on_progress`` may call it. A run that is
        past its last step ends as it would have.
        """
        self.session.stop_asked = True

    def fit(self, *, resume: bool = False) -> dict[str, Any]:
        """Train to the end (or from the last saved state on) and evaluate the best model, which ``model`` then is.

        Interrupted by an exception or a kill at any moment, a run continues with ``resume`` from the last saved state
        to the same result. Without ``resume``, the folder is cleared and training starts anew.

        Parameters
        ----------
        resume
            Continue the run in the folder. Its settings must be those given, but for ``epochs`` (with a constant
            learning rate), ``patience``, ``tensorboard`` and ``cuda_graphs``. A finished run goes on if there are more
            epochs now, and is refitted again; the evaluation at its end stays, even where ``eval_every`` asks for
            none.

        Returns
        -------
        dict
            The content of ``result.json``.

        Raises
        ------
        CheckpointError
            If there is nothing to resume, the run has other settings, another process is training in the folder, or
            it cannot be written.
        IntegrityError
            If the run belongs to another data set.
        NumericalError
            If training yields NaN or infinity; the best model and the last good state stay in the run folder, and
            ``model`` is the best so far, of the search for the best epoch where the refit fails.
        KeyboardInterrupt
            After :meth:`interrupt`.
        """
        if self.folder is None:
            return self._fit(resume)
        if resume:
            require_run(self.folder)
        with self.folder.sole_writer():
            return self._fit(resume)

    def _fit(self, resume: bool) -> dict[str, Any]:
        session = self.session
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        if not self._fresh:
            session.begin()
        self._fresh = False
        self._open(resume)
        session.recording.open(session.standing.epoch)
        try:
            Search(session).run()
            Refit(session).run()
        except NumericalError:
            session.set_back()
            raise
        finally:
            session.stop_asked = False
            session.recording.close()
        return self._finish()

    def _open(self, resume: bool) -> None:
        """Stand where the run in the folder does, or begin one."""
        if resume:
            resume_session(self.session)
        elif self.folder is not None:
            self.folder.create(self.settings, self.dataset, self.session.data_path, start=self.session.start)

    def _finish(self) -> dict[str, Any]:
        """Load the best model, evaluate it on the splits the protocol allows, write the result."""
        session, standing = self.session, self.session.standing
        self.model.load_tensors(session.best)
        self.model.eval()
        refitted = standing.refit_from is not None
        test = self._tested()
        result = result_of(
            self.dataset, self.settings, session.data_path, self.device,
            warnings=self.warnings, best_epoch=standing.best_epoch,
            epochs_run=standing.epoch if standing.refit_from is None else standing.refit_from,
            stopped=session.selection.reason_to_stop(standing),
            refit={"epochs": standing.best_epoch, "splits": list(REFIT_SPLITS)} if refitted else None,
            selecting=standing.best_metrics, test=test,
            seconds=standing.seconds, chosen=standing.chosen,
        )  # fmt: skip
        if self.folder is not None:
            self.folder.write_result(result)
        return result

    def _tested(self) -> dict[str, float] | None:
        return tested(self.dataset, self.settings.training, self.model.scorer())


def make_trainer(
    dataset: Dataset,
    settings: Settings | None = None,
    *,
    run: str | Path | None = None,
    data_path: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Trainer | ClosedFormTrainer:
    """The trainer of the settings' model: its ``fit`` trains and returns the content of ``result.json``.

    Parameters
    ----------
    dataset, settings, run, data_path, on_progress
        See :class:`~hakg_dgl.Trainer`.

    Raises
    ------
    ConfigError, MissingDependencyError
        As those trainers do.
    """
    settings = settings or Settings()
    trainer = ClosedFormTrainer if issubclass(settings.model_class, ClosedFormRecommender) else Trainer
    return trainer(dataset, settings, run=run, data_path=data_path, on_progress=on_progress)
