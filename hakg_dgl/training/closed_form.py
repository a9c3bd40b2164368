"""Training of models in closed form: every choice of their settings is tried, and the best one kept."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError, NumericalError
from hakg_dgl.models.recommender import ClosedFormRecommender
from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.evaluation import Evaluator
from hakg_dgl.training.checkpoint import Weights, copied, require_run, restart
from hakg_dgl.training.circumstances import choose_device
from hakg_dgl.training.model_file import save_model
from hakg_dgl.training.progress import OnProgress, Progress
from hakg_dgl.training.protocol import REFIT_SPLITS, require_pairs
from hakg_dgl.training.recording import Recording
from hakg_dgl.training.result import result_of, tested
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.selection import Selection, selecting_evaluator
from hakg_dgl.training.trainee import build_model

_ALL_TRIED = "all settings tried"


@dataclass(frozen=True)
class Solved:
    """A closed form for one choice of settings.

    Attributes
    ----------
    number, tried
        Which of the choices it is, counted from 1, and how many there are.
    chosen, metrics, tensors
        The choice, what it reaches on the split that selects, and what makes the model.
    """

    number: int
    tried: int
    chosen: dict[str, float]
    metrics: dict[str, float]
    tensors: Weights


class ClosedFormTrainer:
    """Tries the settings of a model in closed form, keeps the best, and writes a run as :class:`~hakg_dgl.Trainer`.

    In ``metrics.jsonl`` an ``epoch`` is one choice of settings, counted from 1; ``result.json`` has the best one as
    ``selected``. With ``refit`` that one is solved for once more, on train and validation.

    Parameters
    ----------
    dataset, settings, run, data_path, on_progress
        As for :class:`~hakg_dgl.Trainer`; a choice of settings is reported as an epoch of one step without a loss.

    Raises
    ------
    ConfigError
        If the data set lacks the split that the protocol selects on, the device is not there or too small, or the
        model is not one in closed form.
    """

    def __init__(
        self,
        dataset: Dataset,
        settings: Settings,
        *,
        run: str | Path | None = None,
        data_path: str | Path | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        if not issubclass(settings.model_class, ClosedFormRecommender):
            raise ConfigError(
                f"kind = {settings.kind!r} is not a model in closed form; hakg_dgl.make_trainer chooses the trainer"
            )
        require_pairs(dataset, settings.training)
        self.dataset: Dataset = dataset
        self.settings: Settings = settings
        self.data_path: str | Path | None = data_path
        self.folder: RunFolder | None = None if run is None else RunFolder(run)
        self.device = choose_device(settings.run.device)
        self._recording = Recording(self.folder, settings, on_progress)
        self.model: ClosedFormRecommender = self._built(settings.training.training_splits)
        """The model; the best one after :meth:`fit`."""
        self.model.require_resources()
        self.warnings: list[str] = [*settings.idle(), *self.model.warnings()]
        self._stop_asked = False

    def interrupt(self) -> None:
        """Have :meth:`fit` raise KeyboardInterrupt within seconds, also in the middle of a long solution.

        It only sets a flag, so a handler of signals, another thread or ``on_progress`` may call it.
        """
        self._stop_asked = True

    def fit(self, *, resume: bool = False) -> dict[str, Any]:
        """Try all settings and evaluate the best.

        Parameters
        ----------
        resume
            Begin the run in the folder again; nothing is drawn by chance, so it comes to the same result.

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
            If a choice of settings cannot be solved for, or gives NaN.
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
        if resume:
            restart(require_run(self.folder), self.settings, self.dataset, self.data_path)
        elif self.folder is not None:
            self.folder.create(self.settings, self.dataset, self.data_path)
        began, training = time.perf_counter(), self.settings.training
        splits = training.training_splits
        self.model = self._built(splits)
        best = self._search()
        self.model.load_tensors(best.tensors)
        chosen = self.model.choose(Selection(self.dataset, training))
        if chosen:
            best = self._measured_again(best)
        if training.refits:
            splits = REFIT_SPLITS
            self.model = self._built(splits)
            self.model.solve(best.chosen)
            self.model.take(chosen)
        self._save(best, splits)
        self.model.eval()
        result = result_of(
            self.dataset, self.settings, self.data_path, self.device,
            warnings=self.warnings, best_epoch=best.number, epochs_run=best.tried, stopped=_ALL_TRIED,
            refit={"splits": list(splits)} if training.refits else None,
            selecting=best.metrics, test=tested(self.dataset, training, self.model.scorer()),
            seconds=time.perf_counter() - began, selected=best.chosen, chosen=chosen,
        )  # fmt: skip
        if self.folder is not None:
            self.folder.write_result(result)
        return result

    def _measured_again(self, best: Solved) -> Solved:
        """The best with what its model chose beside."""
        training = self.settings.training
        metrics = selecting_evaluator(self.dataset, training)(self.model.scorer()).metrics
        return replace(best, metrics=dict(metrics), tensors=copied(self.model))

    def _built(self, splits: tuple[str, ...]) -> ClosedFormRecommender:
        model = build_model(self.dataset, self.settings, self.device, splits)
        assert isinstance(model, ClosedFormRecommender)
        model.on_block = self._stop_if_asked
        return model

    def _stop_if_asked(self) -> None:
        if self._stop_asked:
            self._stop_asked = False
            raise KeyboardInterrupt

    def _search(self) -> Solved:
        """The best choice of settings; of equal ones the first."""
        training, candidates = self.settings.training, self.model.candidates()
        evaluator = selecting_evaluator(self.dataset, training)
        best: Solved | None = None
        for number, chosen in enumerate(candidates, start=1):
            began = time.perf_counter()
            metrics = self._solved(chosen, evaluator)
            better = best is None or metrics[training.select_by] > best.metrics[training.select_by]
            if better:
                best = Solved(number, len(candidates), chosen, metrics, copied(self.model))
                self._save(best, training.training_splits)
            seconds = time.perf_counter() - began
            line = {"epoch": number, "seconds": round(seconds, 4), **chosen, "split": training.selected_on, **metrics}
            self._recording.epoch(line, {})
            stopped = _ALL_TRIED if number == len(candidates) else None
            progress = Progress(number, len(candidates), 1, 1, math.nan, seconds, metrics, better, stopped)
            self._recording.report(progress)
            self._stop_if_asked()
        assert best is not None
        return best

    def _solved(self, chosen: Mapping[str, float], evaluator: Evaluator) -> dict[str, float]:
        """Solve for a choice of settings; its metrics."""
        try:
            self.model.solve(chosen)
            return dict(evaluator(self.model.scorer()).metrics)
        except NumericalError as error:
            settings = ", ".join(f"{key} = {value:g}" for key, value in chosen.items())
            remedies = self.model.remedies()
            raise NumericalError(
                f"{self.settings.kind} has no finite solution for {settings or 'this data set'} "
                f"({str(error).splitlines()[0]})"
                + (f"\nRaise what regularises it ({remedies}), or leave that value out." if remedies else "")
            ) from error

    def _save(self, best: Solved, splits: tuple[str, ...]) -> None:
        if self.folder is not None:
            about = {"epoch": best.number, "selected": best.chosen, "splits": list(splits)}
            about |= {"settings": self.settings.to_dict()}
            save_model(self.folder, self.model.tensors(), about)
