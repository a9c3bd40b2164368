"""The training loop: epochs, evaluation, early stopping and resuming."""

from __future__ import annotations

import itertools
import math
import platform
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import CheckpointError, ConfigError, NumericalError
from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.layers.sampling import EpochBatches
from hakg_dgl.models.hakg import HAKG
from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.evaluation import Evaluator
from hakg_dgl.ranking.topk import EmbeddingScorer
from hakg_dgl.training.allocator import keep_freed_memory
from hakg_dgl.training.checkpoint import (
    STATE_AGE,
    Checkpoint,
    Standing,
    Weights,
    copied,
    require_run,
    restart,
)
from hakg_dgl.training.objective import Objective, relation_ids
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.steps import LossRing, Step, make_optimizer, make_step, refuse_uncapturable, set_learning_rate
from hakg_dgl.training.tensorboard import ScalarLog

PUBLISHED_NOTE = "selected on the test split, as the published experiments did: compare with their tables only"


@dataclass(frozen=True)
class Progress:
    """What the trainer reports after each step and each epoch.

    Attributes
    ----------
    epoch, epochs
        Epoch counted from 1, and the most there will be.
    step, steps
        Step within the epoch counted from 1; the report with ``step == steps`` comes once the epoch is over.
    loss
        Mean loss of the epoch so far; NaN for a model that has none.
    seconds
        Since the epoch began.
    metrics
        Of the evaluation after this epoch, if one was made.
    best
        Whether it is the best so far.
    stopped
        Why training ends here, None while it goes on.
    refit
        Whether this is the second training, on train and validation together; epochs are counted anew.
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
    refit: bool = False


def training_splits(settings: Settings) -> tuple[str, ...]:
    """Splits whose interactions are trained on: train, and validation too under the published protocol."""
    return ("train",) if settings.training.protocol == "validation" else ("train", "valid")


def require_kind(settings: Settings, kinds: tuple[str, ...]) -> None:
    """Raise ConfigError if the kind of model is none of these."""
    if settings.model.kind not in kinds:
        raise ConfigError(
            f"kind = {settings.model.kind!r}, but this trains {' or '.join(map(repr, kinds))}; "
            "hakg_dgl.make_trainer chooses the trainer by the settings"
        )


def require_pairs(dataset: Dataset, settings: Settings) -> None:
    """Raise ConfigError if the data set lacks a split that the protocol trains or selects on."""
    protocol = settings.training.protocol
    for splits in (training_splits(settings), ("valid" if protocol == "validation" else "test",)):
        if not len(dataset.pairs(*splits)):
            raise ConfigError(
                f"data set {dataset.name!r} has no {' or '.join(splits)} interactions, which protocol "
                f"{protocol!r} needs; preprocess again with a larger --{splits[-1]}"
            )


def circumstances(
    dataset: Dataset, settings: Settings, data_path: str | Path | None, device: torch.device
) -> dict[str, Any]:
    """What ``result.json`` says of every run: settings, data set, machine, versions."""
    return {
        "settings": settings.to_dict(),
        "data": {
            "name": dataset.name,
            "digest": dataset.digest,
            "path": None if data_path is None else str(Path(data_path).resolve()),
        },
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "peak_memory_bytes": _peak_memory(device),
        "versions": _versions(),
    }


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


def build_model(
    dataset: Dataset, settings: Settings, device: torch.device, splits: tuple[str, ...] | None = None
) -> HAKG:
    """A freshly initialised model for a data set, on the graph of the interactions of ``splits``.

    Parameters
    ----------
    dataset, settings, device
        What to build for, how, and where.
    splits
        Default: those of :func:`training_splits`; after a refit the model's are train and validation.
    """
    graph = build_graph(dataset, splits or training_splits(settings))
    model = HAKG(
        graph.to(device),
        settings.model,
        seed=settings.run.seed,
        dtype=getattr(torch, settings.run.dtype),
    )
    return model.to(device)


def angle_loss_warnings(objective: Objective, dataset: Dataset, settings: Settings) -> list[str]:
    """Why the angle loss does nothing though it has a weight, in a text; empty where it does something."""
    if settings.loss.angle_weight == 0.0 or objective.angle.pairs.n_edges:
        return []
    names = settings.loss.hierarchical_relations
    chosen = relation_ids(dataset, names)
    why = f"no triple of hierarchical_relations = {list(names)} joins an item and an entity that is no item"
    if chosen is not None and not len(chosen):
        why = f"hierarchical_relations = {list(names)} finds no hierarchical relation in data set {dataset.name!r}"
    return [f"The angle loss is off: {why}; name other relations (hakg info DATA lists them), or set angle_weight = 0"]


class Trainer:
    """Trains HAKG on a data set.

    Parameters
    ----------
    dataset
        With a validation split, unless the protocol is ``published``.
    settings
        All settings; see :class:`~hakg_dgl.models.settings.Settings`.
    run
        Folder for checkpoints and metrics; without one nothing is written, and nothing can be resumed.
    data_path
        Where the data set lies, noted in the run for later commands.
    on_progress
        Called after every step and every epoch.

    Raises
    ------
    ConfigError
        If the data set lacks the split that the protocol selects on, the device is not there, TensorBoard is asked for
        without a run folder, ``kind`` is another model, or ``cuda_graphs`` is set where steps cannot be recorded.
    MissingDependencyError
        If TensorBoard is asked for and not installed.

    Examples
    --------
    >>> trainer = Trainer(load_dataset("data"), Settings.resolve(overrides={"epochs": 5}), run="run")
    >>> result = trainer.fit()
    >>> result["metrics"]["test"]["recall@20"]
    """

    kinds: tuple[str, ...] = ("hakg",)
    """The kinds of model it trains."""

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
        require_kind(self.settings, self.kinds)
        self.folder = None if run is None else RunFolder(run)
        self.data_path, self._report = data_path, on_progress or (lambda progress: None)
        training = self.settings.training
        self.selected_on = "valid" if training.protocol == "validation" else "test"
        require_pairs(dataset, self.settings)
        self.device = choose_device(self.settings.run.device)
        refuse_uncapturable(self.settings, self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.cuts = tuple(sorted({20, int(training.select_by.partition("@")[2])}))
        self._evaluator: Evaluator | None = None
        self._scalars: ScalarLog | None = None
        if self.settings.run.tensorboard:
            if self.folder is None:
                raise ConfigError("tensorboard = true, but there is no run folder to write to: give the trainer one")
            self._scalars = ScalarLog(self.folder.tensorboard)
        self._standing = Standing()
        self._best: Weights = {}
        self._fresh, self._stop_asked = True, False
        self._set_up(training_splits(self.settings))
        self.warnings = self._warnings()
        """Settings that turned out to do nothing, also in ``result.json``."""

    def _warnings(self) -> list[str]:
        return angle_loss_warnings(self.objective, self.dataset, self.settings)

    def _set_up(self, splits: tuple[str, ...]) -> None:
        """Everything that training changes, as it is before the first epoch on these splits."""
        settings, self.splits = self.settings, splits
        self._step: Step | None = None
        self.model, self.objective = self._model_and_objective(splits)
        self._generators = generators = self.objective.generators
        self.batches = EpochBatches(
            self.dataset.pairs(*splits), settings.training.batch_size, generators["batches"], device=self.device
        )
        self.optimizer = make_optimizer(self.model.parameters(), settings.training.lr, self.device)
        self._checkpoint: Checkpoint | None = None
        if self.folder is not None:
            self._checkpoint = Checkpoint(self.folder, settings, self.model, self.optimizer, generators)

    def _model_and_objective(self, splits: tuple[str, ...]) -> tuple[HAKG, Objective]:
        """What is trained on these splits, freshly initialised."""
        model = build_model(self.dataset, self.settings, self.device, splits)
        model.fit_linear_term()
        return model, Objective(model, self.dataset, self.settings, splits)

    def interrupt(self) -> None:
        """Have :meth:`fit` save the state after the step it is in, and raise KeyboardInterrupt.

        It only sets a flag, so a handler of signals, another thread or ``on_progress`` may call it. A run that is
        past its last step ends as it would have.
        """
        self._stop_asked = True

    def fit(self, *, resume: bool = False) -> dict[str, Any]:
        """Train to the end (or from the last saved state on) and evaluate the best model, which ``model`` then is.

        Interrupted by an exception or a kill at any moment, a run continues with ``resume`` from the last saved state
        to the same result. Without ``resume``, the folder is cleared and training starts anew.

        Parameters
        ----------
        resume
            Continue the run in the folder. Its settings must be those given, but for ``epochs`` (with a constant
            learning rate), ``patience``, ``tensorboard`` and ``cuda_graphs``. A finished run goes on if there are more
            epochs now; the evaluation at its end stays, even where ``eval_every`` asks for none.

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
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        if not self._fresh:
            self._standing, self._best = Standing(), {}
            self._set_up(training_splits(self.settings))
        self._fresh = False
        if resume:
            self._resume()
        elif self.folder is not None:
            self.folder.create(self.settings, self.dataset, self.data_path)
        if self._scalars is not None:
            self._scalars.open(self._standing.epoch)
        try:
            while self._reason_to_stop() is None:
                self._epoch()
            self._refit()
        except NumericalError:
            self._set_back()
            raise
        finally:
            self._stop_asked = False
            if self._scalars is not None:
                self._scalars.close()
        return self._finish()

    def _set_back(self) -> None:
        """Make ``model`` the best of the search for the best epoch, if there is one."""
        best, splits = self._best, training_splits(self.settings)
        if not best and self._standing.refit_from is not None and self.folder is not None:
            with suppress(CheckpointError):  # a resumed refit does not hold it
                best = self.folder.load_tensors(self.folder.model_file)[0]
        if best and self.splits != splits:
            self._set_up(splits)
        if best:
            self.model.load_state_dict(best)

    def _reason_to_stop(self) -> str | None:
        """Why the search for the best epoch is over, None while it is not."""
        standing, training = self._standing, self.settings.training
        if standing.worse >= training.patience:
            return f"no better {training.select_by} in {standing.worse} evaluations"
        done = standing.epoch if standing.refit_from is None else standing.refit_from
        return f"{done} epochs done" if done >= training.epochs else None

    @property
    def _refits(self) -> bool:
        return self.settings.training.refit and self.settings.training.protocol == "validation"

    def _refit(self) -> None:
        """Train afresh on train and validation, for as many epochs as were best; begun or not, to the end."""
        if not self._refits:
            return
        standing, training = self._standing, self.settings.training
        if standing.refit_from is None:
            self._set_up(("train", "valid"))
            standing.refit_from, standing.step = standing.epoch, 0
        while (number := standing.epoch - standing.refit_from + 1) <= standing.best_epoch:
            began = time.perf_counter() - standing.step_seconds
            lr = learning_rate(training.lr, training.lr_schedule, number, training.epochs)
            loss = self._steps(number, lr, began)
            standing.epoch += 1
            seconds = time.perf_counter() - began
            standing.seconds += seconds
            if self.folder is not None:
                line = {"epoch": standing.epoch, "seconds": round(seconds, 4), "loss": loss, "refit": number}
                self.folder.append_metrics(line)
            last = number == standing.best_epoch
            if self._checkpoint is not None:
                self._checkpoint.save(standing, {}, force=last)
            if self._scalars is not None:
                self._scalars.write(standing.epoch, {"loss": loss, "learning_rate": lr, "seconds": seconds})
            steps = len(self.batches)
            stopped = f"trained again on train and validation for {number} epochs" if last else None
            self._report(
                Progress(number, standing.best_epoch, steps, steps, loss, seconds, stopped=stopped, refit=True)
            )
            self._stop_after_epoch()
        self._evaluate_selection(standing.best_epoch)  # for its error, before the best model of the search is replaced
        self._best = copied(self.model)
        self._save_best()

    def _epoch(self) -> None:
        standing, training = self._standing, self.settings.training
        began, number = time.perf_counter() - standing.step_seconds, standing.epoch + 1
        lr = learning_rate(training.lr, training.lr_schedule, number, training.epochs)
        loss = self._steps(number, lr, began)
        metrics: dict[str, float] = {}
        best, learned = False, None
        if number % training.eval_every == 0 or number == training.epochs:
            metrics, learned = self._evaluate_selection(number)
            best = self._note(metrics, learned, number)
        standing.epoch = number
        seconds = time.perf_counter() - began
        standing.seconds += seconds
        if self.folder is not None:
            line = {"epoch": number, "seconds": round(seconds, 4), "loss": loss}
            if learned is not None:
                line["learned"] = learned
            self.folder.append_metrics({**line, "split": self.selected_on, **metrics} if metrics else line)
        stopped = self._reason_to_stop()
        if self._checkpoint is not None:
            self._checkpoint.save(standing, self._best, force=stopped is not None)
        if self._scalars is not None:
            scalars = {"loss": loss, "learning_rate": lr, "seconds": seconds}
            self._scalars.write(number, scalars | {f"{self.selected_on}/{key}": metrics[key] for key in metrics})
        steps = len(self.batches)
        self._report(Progress(number, training.epochs, steps, steps, loss, seconds, metrics or None, best, stopped))
        self._stop_after_epoch()

    def _steps(self, number: int, lr: float, began: float) -> float:
        """One pass over the training interactions, or what is left of it; the mean loss."""
        set_learning_rate(self.optimizer, lr)
        self.model.train()
        standing = self._standing
        steps, total, done = len(self.batches), standing.step_loss if standing.step else 0.0, standing.step
        refit = standing.refit_from is not None
        epochs = standing.best_epoch if refit else self.settings.training.epochs
        losses, one = LossRing(), self._training_step()
        order = self.batches.generator.get_state()
        for step, (users, positives) in enumerate(itertools.islice(self.batches, done, None), start=done + 1):
            losses.append(one.gradients(users, positives))
            pause = step < steps and (self._stop_asked or self._state_is_old)
            # Reading the loss waits for a GPU, so there it is read every few steps; parameters change after the check.
            if self.device.type == "cpu" or step == steps or pause or len(losses) == losses.size:
                values = losses.take()
                for earlier, value in enumerate(values, start=step - len(values) + 1):
                    if not math.isfinite(value):
                        raise self._numerical_error(f"the loss became {value}", number, f"step {earlier}")
                    total += value
                if step < steps:
                    seconds = time.perf_counter() - began
                    self._report(Progress(number, epochs, step, steps, total / step, seconds, refit=refit))
            one.update()
            if pause:
                self._require_finite(number, step)
                standing.step, standing.step_loss, standing.step_seconds = step, total, time.perf_counter() - began
                self._save_state(order)
                if self._stop_asked:
                    raise KeyboardInterrupt
        self._require_finite(number, steps)
        standing.step, standing.step_loss, standing.step_seconds = 0, 0.0, 0.0
        return total / steps

    def _training_step(self) -> Step:
        """What makes a step; the same for all epochs on these splits, as a CUDA graph is recorded once."""
        if self._step is None:
            size = min(self.batches.batch_size, len(self.batches.pairs))
            captured = self.settings.run.cuda_graphs
            self._step = make_step(
                self.objective, self.optimizer, size, self._generators, self.device, captured=captured
            )
        return self._step

    def _require_finite(self, number: int, step: int) -> None:
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise self._numerical_error("a parameter became NaN or infinite", number, f"step {step}")

    @property
    def _state_is_old(self) -> bool:
        return self._checkpoint is not None and self._checkpoint.age > STATE_AGE

    def _save_state(self, order: Tensor | None = None) -> None:
        """Write the state in any case; within an epoch, ``order`` is what its batches were drawn from."""
        if self._checkpoint is not None:
            best = self._best if self._standing.refit_from is None else {}
            self._checkpoint.save(self._standing, best, force=True, order=order)

    def _stop_after_epoch(self) -> None:
        """KeyboardInterrupt after :meth:`interrupt`, with the state written."""
        if self._stop_asked:
            self._save_state()
            raise KeyboardInterrupt

    def _evaluate_selection(self, number: int) -> tuple[dict[str, float], float | None]:
        """Metrics on the split that selects, and the selecting one without the linear term, if there is that term."""
        if self._evaluator is None:
            self._evaluator = Evaluator(self.dataset, self.selected_on, self.cuts)
        self.model.eval()
        try:
            user, item = _with_finite_scores(*self.model.ranking_vectors())
            metrics = dict(self._evaluator(EmbeddingScorer(user, item)).metrics)
            learned = getattr(self.model, "n_learned_columns", user.shape[1])
            if learned == user.shape[1]:
                return metrics, None
            alone = self._evaluator(EmbeddingScorer(user[:, :learned], item[:, :learned])).metrics
            return metrics, alone[self.settings.training.select_by]
        except NumericalError as error:
            raise self._numerical_error(f"scores are no finite numbers ({error})", number, "evaluation") from error

    def _note(self, metrics: dict[str, float], learned: float | None, number: int) -> bool:
        """Keep the model if it is the best so far."""
        standing, value = self._standing, metrics[self.settings.training.select_by]
        # Beside a strong linear term the score falls before it rises: training goes on while what is learned improves.
        if learned is not None and (standing.best_learned is None or learned > standing.best_learned):
            standing.best_learned, standing.worse = learned, -1
        if standing.best_value is not None and not value > standing.best_value:
            standing.worse += 1
            return False
        standing.best_value, standing.best_epoch, standing.best_metrics, standing.worse = value, number, metrics, 0
        self._best = copied(self.model)
        self._save_best()
        return True

    def _save_best(self) -> None:
        if self.folder is not None:
            about = {
                "epoch": self._standing.best_epoch,
                "settings": self.settings.to_dict(),
                "splits": list(self.splits),
            }
            self.folder.save_tensors(self.folder.model_file, self._best, about)

    def _finish(self) -> dict[str, Any]:
        """Load the best model, evaluate it on the splits the protocol allows, write the result."""
        standing = self._standing
        self.model.load_state_dict(self._best)
        self.model.eval()
        test: dict[str, float] | None = None
        if len(self.dataset.pairs("test")):
            scorer = EmbeddingScorer(*self.model.ranking_vectors())
            test = dict(Evaluator(self.dataset, "test", self.cuts)(scorer).metrics)
        published = self.settings.training.protocol == "published"
        result = {
            "protocol": self.settings.training.protocol,
            "note": PUBLISHED_NOTE if published else None,
            "warnings": self.warnings,
            "best_epoch": standing.best_epoch,
            "epochs_run": standing.epoch if standing.refit_from is None else standing.refit_from,
            "refit": None
            if standing.refit_from is None
            else {"epochs": standing.best_epoch, "splits": ["train", "valid"]},
            "stopped": self._reason_to_stop(),
            "metrics": {"valid": None if published else standing.best_metrics, "test": test},
            "seconds": round(standing.seconds, 3),
            **circumstances(self.dataset, self.settings, self.data_path, self.device),
        }
        if self.folder is not None:
            self.folder.write_result(result)
        return result

    def _numerical_error(self, problem: str, epoch: int, where: str) -> NumericalError:
        norms: dict[str, list[Tensor]] = {}
        for name, parameter in self.model.named_parameters():
            norms.setdefault(name.partition(".")[0], []).append(parameter.detach().norm(dim=-1).max())
        largest = ", ".join(f"{name} {float(torch.stack(values).max()):.3g}" for name, values in norms.items())
        kept, best = "", self._standing.best_epoch
        if best:
            place = (
                "is set back to" if self.folder is None else f"and the last good state are kept in {self.folder.path}:"
            )
            kept = f"\nThe best model {place} epoch {best}."
        training, loss, run = self.settings.training, self.settings.loss, self.settings.run
        angle = f", or lower angle_weight (now {loss.angle_weight:g})" if self.kinds == Trainer.kinds else ""
        return NumericalError(
            f"{problem} in epoch {epoch}, {where}. Largest row norms: {largest}.{kept}\n"
            f"Lower lr (now {training.lr:g}), raise batch_size (now {training.batch_size}){angle}"
            + (", or set dtype = float64." if run.dtype == "float32" else ".")
        )

    def _resume(self) -> None:
        folder = require_run(self.folder)
        if self._checkpoint is None or not folder.state_file.exists():  # stopped within the first epoch
            restart(folder, self.settings, self.dataset, self.data_path)
            return
        folder.check_dataset(self.dataset)
        standing, best = self._checkpoint.restore()
        if standing.refit_from is not None:
            self._set_up(("train", "valid"))
            standing, best = self._checkpoint.restore()
            self._refuse_longer_selection(folder)
        epochs = self.settings.training.epochs
        done = standing.epoch if standing.refit_from is None else standing.refit_from
        if done > epochs or (done == epochs and not best and standing.refit_from is None):
            raise CheckpointError(f"{folder.path}: has done {done} epochs already; epochs = {epochs} is too few")
        self._standing, self._best = standing, best
        folder.remove_temporaries()
        folder.truncate_metrics(standing.epoch)
        folder.result_file.unlink(missing_ok=True)
        if (
            best and standing.refit_from is None
        ):  # the file may be of a later epoch, which training may not come to again
            self._save_best()
        folder.describe(self.settings, self.dataset, self.data_path)

    def _refuse_longer_selection(self, folder: RunFolder) -> None:
        """Once the refit has begun, the best epoch stays what it is."""
        was, now = folder.settings.training, self.settings.training
        if (was.epochs, was.patience) != (now.epochs, now.patience):
            raise CheckpointError(
                f"{folder.path}: has chosen its epoch and begun the refit, so epochs and patience cannot change now "
                f"(were {was.epochs} and {was.patience}); train in another folder"
            )


def _with_finite_scores(user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors; NumericalError if their inner products may overflow, which ranks without a NaN to be seen."""
    longest = [float(vectors.detach().norm(dim=1).amax()) for vectors in (user, item)]
    if not longest[0] * longest[1] <= torch.finfo(user.dtype).max:
        raise NumericalError(f"the longest vectors have norms {longest[0]:.3g} and {longest[1]:.3g}")
    return user, item


def learning_rate(base: float, schedule: str, epoch: int, epochs: int) -> float:
    """Learning rate of an epoch counted from 1: ``constant``, or ``cosine`` from ``base`` down to a hundredth of it."""
    if schedule == "constant":
        return base
    return base * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * (epoch - 1) / max(1, epochs - 1))))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"


def _peak_memory(device: torch.device) -> int | None:
    """Bytes: of the GPU where one is used, else the process's resident set; None where that is not known."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:  # getrusage would count the process that started this one
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _versions() -> dict[str, str]:
    names = ("hakg_dgl", "torch", "triton", "dgl", "numpy", "pandas")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
