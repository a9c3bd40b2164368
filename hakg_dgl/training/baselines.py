"""Training the baselines, into the same run folders as HAKG, and loading any run as a scorer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import CheckpointError, NumericalError
from hakg_dgl.graph.packed import SparsePattern
from hakg_dgl.kernels.interface import choose_backend
from hakg_dgl.models.bpr_mf import MatrixFactorisation, PairwiseObjective
from hakg_dgl.models.closed_form import ClosedForm, Popularity
from hakg_dgl.models.ease import EASE, require_memory
from hakg_dgl.models.item_knn import ItemKNN
from hakg_dgl.models.lightgcn import LightGCN
from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.evaluation import Evaluator
from hakg_dgl.ranking.topk import EmbeddingScorer, Scorer
from hakg_dgl.training.checkpoint import require_run, restart
from hakg_dgl.training.run_folder import RunFolder, fill, load_model, model_splits, trained_tensors
from hakg_dgl.training.trainer import (
    PUBLISHED_NOTE,
    Progress,
    Trainer,
    choose_device,
    circumstances,
    require_kind,
    require_pairs,
    training_splits,
)

CLOSED_FORMS: dict[str, Callable[[Dataset, tuple[str, ...], Settings, torch.device], ClosedForm]] = {
    "popularity": Popularity,
    "item-knn": ItemKNN,
    "ease": EASE,
}


def build_pairwise_model(
    dataset: Dataset, settings: Settings, device: torch.device, splits: tuple[str, ...]
) -> MatrixFactorisation:
    """A freshly initialised BPR-MF or LightGCN, the latter on the interactions of ``splits``."""
    model, run = settings.model, settings.run
    options: dict[str, Any] = {"dim": model.dim, "seed": run.seed, "dtype": getattr(torch, run.dtype)}
    if model.kind == "bpr-mf":
        return MatrixFactorisation(dataset.n_users, dataset.n_items, **options).to(device)
    users, items = torch.from_numpy(dataset.pairs(*splits)).to(device).unbind(1)
    pattern = SparsePattern.from_pairs(users.contiguous(), items.contiguous(), dataset.n_users, dataset.n_items)
    backend = choose_backend("auto" if model.kernels == "readable" else model.kernels)
    return LightGCN(pattern, model.layers, backend, **options).to(device)


class PairwiseTrainer(Trainer):
    """Trains BPR-MF and LightGCN: the loop, runs, resuming and refit of :class:`~hakg_dgl.Trainer`."""

    kinds = ("bpr-mf", "lightgcn")
    model: MatrixFactorisation  # type: ignore[assignment]

    def _model_and_objective(  # type: ignore[override]
        self, splits: tuple[str, ...]
    ) -> tuple[MatrixFactorisation, PairwiseObjective]:
        model = build_pairwise_model(self.dataset, self.settings, self.device, splits)
        return model, PairwiseObjective(model, self.dataset, self.settings, splits)

    def _warnings(self) -> list[str]:
        return []


_ALL_TRIED = "all settings tried"


@dataclass(frozen=True)
class Solved:
    """A closed-form model for one choice of settings.

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
    tensors: dict[str, Tensor]


class ClosedFormTrainer:
    """Tries the settings of a closed-form model, keeps the best, and writes a run as HAKG's trainer does.

    In ``metrics.jsonl`` an ``epoch`` is one choice of settings, counted from 1; ``result.json`` has the best one as
    ``selected``. With ``refit`` that one is solved for once more, on train and validation.

    Parameters
    ----------
    dataset, settings, run, data_path, on_progress
        As for :class:`~hakg_dgl.Trainer`; a choice of settings is reported as an epoch of one step without a loss.

    Raises
    ------
    ConfigError
        If the data set lacks the split that the protocol selects on, the device is not there or too small, or
        ``kind`` is another model.
    """

    kinds = tuple(CLOSED_FORMS)

    def __init__(
        self,
        dataset: Dataset,
        settings: Settings,
        *,
        run: str | Path | None = None,
        data_path: str | Path | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        require_kind(settings, self.kinds)
        require_pairs(dataset, settings)
        self.dataset, self.settings, self.data_path = dataset, settings, data_path
        self.folder = None if run is None else RunFolder(run)
        self.device = choose_device(settings.run.device)
        if settings.model.kind == "ease":
            require_memory(dataset.n_items, self.device)
        self._report = on_progress or (lambda progress: None)
        training = settings.training
        self.selected_on = "valid" if training.protocol == "validation" else "test"
        self.cuts = tuple(sorted({20, int(training.select_by.partition("@")[2])}))
        self.scorer: Scorer | None = None
        """Of the best model, after :meth:`fit`."""
        self.warnings: list[str] = []
        self._stop_asked = False

    def interrupt(self) -> None:
        """Have :meth:`fit` raise KeyboardInterrupt after the choice of settings that it is at."""
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
        began = time.perf_counter()
        training, splits = self.settings.training, training_splits(self.settings)
        model = self._model(splits)
        best = self._search(model, splits)
        refits = training.refit and training.protocol == "validation"
        if refits:
            splits = ("train", "valid")
            model = self._model(splits)
            best = replace(best, tensors=model.fit(best.chosen))
            self._save(best, splits)
        self.scorer = model.scorer(best.tensors)
        seconds = time.perf_counter() - began
        return self._finish(best, {"splits": list(splits)} if refits else None, seconds)

    def _model(self, splits: tuple[str, ...]) -> ClosedForm:
        return CLOSED_FORMS[self.settings.model.kind](self.dataset, splits, self.settings, self.device)

    def _search(self, model: ClosedForm, splits: tuple[str, ...]) -> Solved:
        """The best choice of settings; of equal ones the first."""
        evaluator = Evaluator(self.dataset, self.selected_on, self.cuts)
        select_by, candidates = self.settings.training.select_by, model.candidates()
        best: Solved | None = None
        for number, chosen in enumerate(candidates, start=1):
            began = time.perf_counter()
            tensors, metrics = self._solved(model, chosen, evaluator)
            better = best is None or metrics[select_by] > best.metrics[select_by]
            if better:
                best = Solved(number, len(candidates), chosen, metrics, tensors)
                self._save(best, splits)
            seconds = time.perf_counter() - began
            if self.folder is not None:
                line = {"epoch": number, "seconds": round(seconds, 4), **chosen, "split": self.selected_on, **metrics}
                self.folder.append_metrics(line)
            stopped = _ALL_TRIED if number == len(candidates) else None
            self._report(Progress(number, len(candidates), 1, 1, math.nan, seconds, metrics, better, stopped))
            if self._stop_asked:
                self._stop_asked = False
                raise KeyboardInterrupt
        assert best is not None
        return best

    def _solved(
        self, model: ClosedForm, chosen: dict[str, float], evaluator: Evaluator
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The tensors for a choice of settings, and their metrics."""
        try:
            tensors = model.fit(chosen)
            return tensors, dict(evaluator(model.scorer(tensors)).metrics)
        except (NumericalError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            settings = ", ".join(f"{key} = {value:g}" for key, value in chosen.items())
            raise NumericalError(
                f"{self.settings.model.kind} has no finite solution for {settings or 'this data set'} "
                f"({str(error).splitlines()[0]})\n"
                "Raise what regularises it (ease_l2, shrinkage), or leave that value out."
            ) from error

    def _save(self, best: Solved, splits: tuple[str, ...]) -> None:
        if self.folder is not None:
            about = {"epoch": best.number, "selected": best.chosen, "splits": list(splits)}
            about |= {"settings": self.settings.to_dict()}
            self.folder.save_tensors(self.folder.model_file, best.tensors, about)

    def _finish(self, best: Solved, refit: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
        """Evaluate the best on the test split, write the result."""
        test: dict[str, float] | None = None
        if len(self.dataset.pairs("test")):
            assert self.scorer is not None
            test = dict(Evaluator(self.dataset, "test", self.cuts)(self.scorer).metrics)
        published = self.settings.training.protocol == "published"
        result = {
            "protocol": self.settings.training.protocol,
            "note": PUBLISHED_NOTE if published else None,
            "warnings": self.warnings,
            "best_epoch": best.number,
            "epochs_run": best.tried,
            "selected": best.chosen,
            "refit": refit,
            "stopped": _ALL_TRIED,
            "metrics": {"valid": None if published else best.metrics, "test": test},
            "seconds": round(seconds, 3),
            **circumstances(self.dataset, self.settings, self.data_path, self.device),
        }
        if self.folder is not None:
            self.folder.write_result(result)
        return result


def make_trainer(
    dataset: Dataset,
    settings: Settings | None = None,
    *,
    run: str | Path | None = None,
    data_path: str | Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Trainer | ClosedFormTrainer:
    """The trainer of the settings' kind of model: its ``fit`` trains and returns the content of ``result.json``.

    Parameters
    ----------
    dataset, settings, run, data_path, on_progress
        See :class:`~hakg_dgl.Trainer`.

    Raises
    ------
    ConfigError, MissingDependencyError
        As those trainers do.
    """
    settings = settings or Settings.resolve()
    for trainer in (Trainer, PairwiseTrainer, ClosedFormTrainer):
        if settings.model.kind in trainer.kinds:
            return trainer(dataset, settings, run=run, data_path=data_path, on_progress=on_progress)
    raise AssertionError(settings.model.kind)


def load_scorer(run: str | Path, dataset: Dataset, *, device: torch.device | str = "cpu") -> Scorer:
    """The best model of a run of any kind, as a scorer.

    Parameters
    ----------
    run
        Folder written by training.
    dataset
        The data set it was trained on.
    device
        Where to rank.

    Raises
    ------
    IntegrityError
        If the run belongs to another data set.
    CheckpointError
        If the run is incomplete, its files are damaged, or ``config.toml`` is not that of the model.
    """
    folder, device = RunFolder(run), torch.device(device)
    kind = folder.settings.model.kind
    if kind in Trainer.kinds:
        return EmbeddingScorer(*load_model(run, dataset, device=device).ranking_vectors())
    tensors, settings = trained_tensors(folder, dataset)
    splits = model_splits(folder)
    if kind in PairwiseTrainer.kinds:
        model = build_pairwise_model(dataset, settings, device, splits)
        fill(model, tensors, folder)
        return EmbeddingScorer(*model.ranking_vectors())
    try:
        return CLOSED_FORMS[kind](dataset, splits, settings, device).scorer(tensors)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{folder.model_file}: does not fit the run: {error}; train again") from error
