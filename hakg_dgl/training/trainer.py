"""The training loop: epochs, evaluation, early stopping, checkpoints and resuming."""

from __future__ import annotations

import math
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hakg_dgl.config import Settings
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import CheckpointError, ConfigError, NumericalError
from hakg_dgl.graph.heterograph import build_heterograph, pack
from hakg_dgl.nn.model import HAKG
from hakg_dgl.ranking.evaluation import Evaluator
from hakg_dgl.ranking.topk import EmbeddingScorer
from hakg_dgl.sampling import EpochBatches
from hakg_dgl.training.files import write_json
from hakg_dgl.training.objective import STREAMS, Objective
from hakg_dgl.training.run_folder import RunFolder

PUBLISHED_NOTE = "selected on the test split, as the published experiments did: compare with their tables only"
STATE_SHARE = 0.05
"""Largest share of the time that writing the state for resuming may take."""


@dataclass(frozen=True)
class Progress:
    """What the trainer reports after each step and each epoch.

    Attributes
    ----------
    epoch, epochs
        Epoch counted from 1, and the most there will be.
    step, steps
        Step within the epoch counted from 1; ``step == steps`` with ``metrics`` or ``stopped`` set ends an epoch.
    loss
        Mean loss of the epoch so far.
    seconds
        Since the epoch began.
    metrics
        Of the evaluation after this epoch, if one was made.
    best
        Whether it is the best so far.
    stopped
        Why training ends here, None while it goes on.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    seconds: float
    metrics: dict[str, float] | None = None
    best: bool = False
    stopped: str | None = None


@dataclass
class _State:
    """What changes from epoch to epoch, apart from tensors."""

    epoch: int = 0
    best_epoch: int = 0
    best_value: float = -math.inf
    best_metrics: dict[str, float] = field(default_factory=dict)
    worse: int = 0
    seconds: float = 0.0
    stopped: str | None = None


def training_splits(settings: Settings) -> tuple[str, ...]:
    """Splits whose interactions are trained on: train, and validation too under the published protocol."""
    return ("train",) if settings.training.protocol == "validation" else ("train", "valid")


def choose_device(name: str) -> torch.device:
    """The device of this setting; ``auto`` is CUDA where PyTorch has it.

    Raises
    ------
    ConfigError
        If CUDA is asked for and PyTorch has none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device = 'cuda', but this PyTorch ({torch.__version__}) finds no CUDA device; "
            "use --device cpu, or install a CUDA build of PyTorch (docs/install.md)"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def build_model(dataset: Dataset, settings: Settings, device: torch.device) -> HAKG:
    """A freshly initialised model for a data set, on the graph of its training interactions."""
    graph = build_heterograph(dataset, training_splits(settings))
    readable = settings.model.kernels == "readable"
    model = HAKG(
        graph.to(device) if readable else pack(graph).to(device),
        settings.model,
        seed=settings.run.seed,
        dtype=getattr(torch, settings.run.dtype),
    )
    return model.to(device)


class Trainer:
    """Trains HAKG on a data set.

    Parameters
    ----------
    dataset
        With a validation split, unless the protocol is ``published``.
    settings
        All settings; see :class:`~hakg_dgl.config.Settings`.
    run
        Folder for checkpoints and metrics; without one nothing is written, and nothing can be resumed.
    data_path
        Where the data set lies, noted in the run for later commands.
    on_progress
        Called after every step and every epoch.

    Raises
    ------
    ConfigError
        If the data set lacks the split that the protocol selects on, or the device is not there.

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
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.dataset, self.settings = dataset, settings or Settings.resolve()
        self.folder = None if run is None else RunFolder(run)
        self.data_path, self._report = data_path, on_progress or (lambda progress: None)
        training = self.settings.training
        self.selected_on = "valid" if training.protocol == "validation" else "test"
        self._require_pairs(training_splits(self.settings))
        self._require_pairs((self.selected_on,))
        self.device = choose_device(self.settings.run.device)
        self.model = build_model(dataset, self.settings, self.device)
        splits = training_splits(self.settings)
        self.objective = Objective(self.model, dataset, self.settings, splits)
        self.batches = EpochBatches(
            dataset.pairs(*splits), training.batch_size, self.objective.generators["batches"], device=self.device
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=training.lr, fused=True)
        self.cuts = tuple(sorted({20, int(training.select_by.partition("@")[2])}))
        self._evaluator: Evaluator | None = None
        self._best: dict[str, Tensor] = {}
        self._state = _State()
        self._state_written = time.monotonic()
        self._state_cost = 0.0

    def _require_pairs(self, splits: tuple[str, ...]) -> None:
        if not len(self.dataset.pairs(*splits)):
            raise ConfigError(
                f"data set {self.dataset.name!r} has no {' or '.join(splits)} interactions, which protocol "
                f"{self.settings.training.protocol!r} needs; preprocess again with --valid and --test above 0"
            )

    def fit(self, *, resume: bool = False) -> dict[str, Any]:
        """Train to the end (or from the last saved state on) and evaluate the best model.

        Parameters
        ----------
        resume
            Continue the run in the folder; its settings must be those given, but for ``epochs`` and ``patience``.

        Returns
        -------
        dict
            The content of ``result.json``.

        Raises
        ------
        CheckpointError
            If there is nothing to resume, or the run has other settings.
        NumericalError
            If the loss becomes NaN or infinite; the best and the last good state stay in the run folder.
        """
        if resume:
            self._resume()
        elif self.folder is not None:
            self.folder.create(self.settings, self.dataset, self.data_path)
        state, training = self._state, self.settings.training
        if state.stopped is not None and state.epoch < training.epochs and state.worse < training.patience:
            state.stopped = None  # more epochs, or more patience, than when it stopped
        try:
            while state.stopped is None:
                self._epoch()
        except BaseException:
            self._free_memory()
            raise
        return self._finish()

    def _epoch(self) -> None:
        state, training = self._state, self.settings.training
        began, number = time.perf_counter(), state.epoch + 1
        loss = self._steps(number, began)
        metrics, best = None, False
        if number % training.eval_every == 0 or number == training.epochs:
            metrics = self._evaluate_selection()
            best = self._note(metrics, number)
        state.epoch = number
        if state.worse >= training.patience:
            state.stopped = f"no better {training.select_by} in {state.worse} evaluations"
        elif number >= training.epochs:
            state.stopped = f"{number} epochs done"
        seconds = time.perf_counter() - began
        state.seconds += seconds
        line: dict[str, Any] = {"epoch": number, "seconds": round(seconds, 4), "loss": loss}
        if metrics is not None:
            line |= {"split": self.selected_on, **metrics}
        if self.folder is not None:
            self.folder.append_metrics(line)
            self._save_state()
        steps = len(self.batches)
        self._report(Progress(number, training.epochs, steps, steps, loss, seconds, metrics or {}, best, state.stopped))

    def _steps(self, number: int, began: float) -> float:
        """One pass over the training interactions; the mean loss."""
        training = self.settings.training
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(training.lr, training.lr_schedule, number, training.epochs)
        self.model.train()
        steps, total = len(self.batches), 0.0
        pending: list[Tensor] = []
        for step, (users, positives) in enumerate(self.batches, start=1):
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.objective(users, positives)
            loss.backward()  # type: ignore[no-untyped-call]
            pending.append(loss.detach())
            # Reading the loss waits for a GPU, so there it is read every few steps; parameters change after the check.
            if self.device.type == "cpu" or step == steps or len(pending) == 32:
                for value in torch.stack(pending).tolist():
                    if not math.isfinite(value):
                        raise self._numerical_error(number, step, value)
                    total += value
                pending.clear()
                if step < steps:
                    seconds = time.perf_counter() - began
                    self._report(Progress(number, training.epochs, step, steps, total / step, seconds))
            self.optimizer.step()
        return total / steps

    def _evaluate_selection(self) -> dict[str, float]:
        if self._evaluator is None:
            self._evaluator = Evaluator(self.dataset, self.selected_on, self.cuts)
        self.model.eval()
        return dict(self._evaluator(EmbeddingScorer(*self.model.ranking_vectors())).metrics)

    def _note(self, metrics: dict[str, float], number: int) -> bool:
        """Keep the model if it is the best so far."""
        state, value = self._state, metrics[self.settings.training.select_by]
        if not value > state.best_value:
            state.worse += 1
            return False
        state.best_value, state.best_epoch, state.best_metrics, state.worse = value, number, metrics, 0
        if self.folder is None:
            self._best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        else:
            self.folder.save_tensors(self.folder.model_file, self.model.state_dict(), {"epoch": number})
        return True

    def _finish(self) -> dict[str, Any]:
        """Load the best model, evaluate it on the splits the protocol allows, write the result."""
        state, folder = self._state, self.folder
        best = self._best if folder is None else folder.load_tensors(folder.model_file)[0]
        self.model.load_state_dict(best)
        self.model.eval()
        scorer = EmbeddingScorer(*self.model.ranking_vectors())
        test: dict[str, float] | None = None
        if len(self.dataset.pairs("test")):
            test = dict(Evaluator(self.dataset, "test", self.cuts)(scorer).metrics)
        published = self.settings.training.protocol == "published"
        result = {
            "protocol": self.settings.training.protocol,
            "note": PUBLISHED_NOTE if published else None,
            "best_epoch": state.best_epoch,
            "epochs_run": state.epoch,
            "stopped": state.stopped,
            "metrics": {"valid": None if published else state.best_metrics, "test": test},
            "seconds": round(state.seconds, 3),
            "settings": self.settings.to_dict(),
            "data": {
                "name": self.dataset.name,
                "digest": self.dataset.digest,
                "path": None if self.data_path is None else str(Path(self.data_path).resolve()),
            },
            "device": _device_name(self.device),
            "threads": torch.get_num_threads(),
            "peak_memory_bytes": _peak_memory(self.device),
            "versions": _versions(),
        }
        if folder is not None:
            self._save_state(force=True)
            write_json(folder.result_file, result)
        return result

    def _numerical_error(self, epoch: int, step: int, value: float) -> NumericalError:
        norms = ", ".join(
            f"{name} {float(parameter.detach().norm(dim=-1).max()):.3g}"
            for name, parameter in self.model.named_parameters()
            if parameter.ndim == 2 and not name.startswith("gate")
        )
        kept = "" if self.folder is None else f" The best and the last good state are kept in {self.folder.path}."
        training = self.settings.training
        return NumericalError(
            f"the loss became {value} in epoch {epoch}, step {step}. Largest row norms: {norms}.{kept}\n"
            f"Lower lr (now {training.lr:g}), raise batch_size (now {training.batch_size}), "
            "lower angle_weight, or set dtype=float64."
        )

    def _save_state(self, *, force: bool = False) -> None:
        """Write all that resuming needs, unless the last write was too short a while ago to afford one."""
        folder, state = self.folder, self._state
        now = time.monotonic()
        due = force or state.stopped is not None or (now - self._state_written) * STATE_SHARE >= self._state_cost
        if folder is None or not due:
            return
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, slot in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": torch.as_tensor(value) for name, value in slot.items()}
        for name in STREAMS:
            tensors[f"random.{name}"] = self.objective.generators[name].get_state()
        folder.save_tensors(folder.state_file, tensors, {"format_version": 1, **vars(state)} | _finite(state))
        self._state_written = time.monotonic()
        self._state_cost = self._state_written - now

    def _resume(self) -> None:
        folder = self.folder
        if folder is None or not folder.exists():
            raise CheckpointError(
                f"there is no run to resume in {'memory' if folder is None else folder.path}; train without --resume"
            )
        folder.check_dataset(self.dataset)
        theirs, ours = folder.settings.to_dict(), self.settings.to_dict()
        for free in ("epochs", "patience"):
            theirs["training"][free] = ours["training"][free]
        different = [
            f"{key} (was {theirs[section][key]!r}, now {value!r})"
            for section, values in ours.items()
            for key, value in values.items()
            if theirs[section][key] != value
        ]
        if different:
            raise CheckpointError(
                f"{folder.path}: the run has other settings: {', '.join(different)}; "
                "resume with its own, or train in another folder"
            )
        if not folder.state_file.exists():
            folder.create(self.settings, self.dataset, self.data_path)  # stopped within the first epoch
            return
        tensors, saved = folder.load_tensors(folder.state_file)
        try:
            self._restore(tensors, saved)
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(f"{folder.state_file}: does not fit this run: {error}") from error
        folder.truncate_metrics(self._state.epoch)
        folder.result_file.unlink(missing_ok=True)

    def _restore(self, tensors: dict[str, Tensor], saved: dict[str, Any]) -> None:
        self._state = _State(**{name: saved[name] for name in vars(self._state)})
        if self._state.best_epoch == 0:
            self._state.best_value = -math.inf
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "adam": {}, "random": {}}
        for name, tensor in tensors.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = tensor
        self.model.load_state_dict(groups["model"])
        optimizer = self.optimizer.state_dict()
        for name, tensor in groups["adam"].items():
            index, _, slot = name.partition(".")
            optimizer["state"].setdefault(int(index), {})[slot] = tensor
        self.optimizer.load_state_dict(optimizer)
        for name in STREAMS:
            self.objective.generators[name].set_state(groups["random"][name])

    def _free_memory(self) -> None:
        self._best = {}
        self.optimizer.zero_grad(set_to_none=True)


def _finite(state: _State) -> dict[str, Any]:
    """JSON has no infinity: no best value before the first evaluation."""
    return {"best_value": state.best_value if math.isfinite(state.best_value) else None}


def learning_rate(base: float, schedule: str, epoch: int, epochs: int) -> float:
    """Learning rate of an epoch counted from 1: ``constant``, or ``cosine`` from ``base`` down to a hundredth of it."""
    if schedule == "constant":
        return base
    return base * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * (epoch - 1) / max(1, epochs))))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"


def _peak_memory(device: torch.device) -> int | None:
    """Bytes: of the GPU where one is used, else the process's resident set."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _versions() -> dict[str, str]:
    names = ("hakg_dgl", "torch", "dgl", "numpy", "pandas")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
