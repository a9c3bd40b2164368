"""One training of a model by gradients, from its first step to its last: what its phases share."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import CheckpointError, NumericalError
from hakg_dgl.models.settings import Settings
from hakg_dgl.training.checkpoint import STATE_AGE, Checkpoint, Standing, Weights, copied
from hakg_dgl.training.model_file import load_model_tensors, save_model
from hakg_dgl.training.recording import Recording
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.selection import Measured, Selection
from hakg_dgl.training.trainee import Trainee


class Session:
    """The state of a training and the ways to save it.

    Parameters
    ----------
    dataset, settings, device
        What to train on, how, and where.
    folder
        The run; None writes nothing.
    data_path
        Where the data set lies, noted in the run.
    recording
        Where epochs are recorded.
    start
        Values of parameters to begin with, also in the refit; None draws them.

    Attributes
    ----------
    trainee
        What is trained now.
    standing
        Where training stands.
    best
        Weights of the best epoch so far; empty before the first evaluation and in a resumed refit.
    stop_asked
        Whether to stop after the step that is being made.
    """

    def __init__(
        self,
        dataset: Dataset,
        settings: Settings,
        device: torch.device,
        folder: RunFolder | None,
        data_path: str | Path | None,
        recording: Recording,
        start: Weights | None = None,
    ) -> None:
        self.dataset: Dataset = dataset
        self.settings: Settings = settings
        self.device: torch.device = device
        self.folder: RunFolder | None = folder
        self.data_path: str | Path | None = data_path
        self.recording: Recording = recording
        self.selection: Selection = Selection(dataset, settings.training)
        self.stop_asked: bool = False
        self.start: Weights | None = start
        self.begin()

    def begin(self) -> None:
        """Stand before the first step."""
        self.standing: Standing = Standing()
        self.best = Weights()
        self.set_up(self.settings.training.training_splits)

    def set_up(self, splits: tuple[str, ...]) -> None:
        """Make what is trained on these splits, as it is before the first epoch."""
        self.trainee: Trainee = self.new_trainee(splits)
        self.checkpoint: Checkpoint | None = self.new_checkpoint()

    def new_checkpoint(self) -> Checkpoint | None:
        """What saves the trainee's state; None where nothing is written."""
        return None if self.folder is None else Checkpoint(self.folder, self.settings, self.trainee)

    def new_trainee(self, splits: tuple[str, ...]) -> Trainee:
        """What is trained on these splits, as it is before the first epoch."""
        return Trainee(self.dataset, self.settings, self.device, splits, self.start)

    # --- what phases ask for ----------------------------------------------------------------------------------------

    def measure(self, number: int) -> Measured:
        """Evaluate on the split that selects, after epoch ``number``."""
        try:
            return self.selection.measure(self.trainee.model)
        except NumericalError as error:
            raise self.numerical_error(f"scores are not finite numbers ({error})", number, "evaluation") from error

    def choose(self) -> None:
        """Have the best model choose what is not learned; the model that is trained stays as it is."""
        if not self.best:
            return
        model, last = self.trainee.model, copied(self.trainee.model)
        model.load_tensors(self.best)
        self.standing.chosen = model.choose(self.selection)
        if self.standing.chosen:
            self.standing.best_metrics = self.measure(self.standing.best_epoch).metrics
            self.keep_as_best()
        model.load_tensors(last)

    def take_choice(self) -> None:
        """Have the model that is trained become that of what :meth:`choose` chose."""
        self.trainee.model.take(self.standing.chosen)

    def keep_as_best(self) -> None:
        """Take the model as it is for the best, and write it."""
        self.best = copied(self.trainee.model)
        self.save_best()

    def save_best(self) -> None:
        """Write the best weights as the run's model."""
        if self.folder is not None:
            save_model(self.folder, self.best, self.about_best())

    def about_best(self) -> dict[str, Any]:
        """The metadata of the run's model."""
        return {
            "epoch": self.standing.best_epoch,
            "settings": self.settings.to_dict(),
            "splits": list(self.trainee.splits),
        }

    def save_state(self, *, force: bool = True, order: Tensor | None = None) -> None:
        """Write the state; without ``force`` only if the last write was long enough ago.

        Parameters
        ----------
        force
            Write in any case.
        order
            Within an epoch, the state of the batches' generator at the beginning of the pass.
        """
        if self.checkpoint is not None:
            best = self.best if self.standing.refit_from is None else Weights()
            self.checkpoint.save(self.standing, best, force=force, order=order)

    def keep_search(self) -> None:
        """Write the state of the search, which is over."""
        if self.checkpoint is not None:
            self.checkpoint.keep_search(self.standing, self.best)

    @property
    def state_is_old(self) -> bool:
        """Whether the state was last written so long ago that it is written within an epoch."""
        return self.checkpoint is not None and self.checkpoint.age > STATE_AGE

    def stop_if_asked(self) -> None:
        """After an epoch: raise KeyboardInterrupt, with the state written, if that is asked for."""
        if self.stop_asked:
            self.save_state()
            raise KeyboardInterrupt

    def began(self) -> float:
        """When the epoch began, on the clock ``time.perf_counter``, less what was done before a resume."""
        return time.perf_counter() - self.standing.step_seconds

    def agreed_seconds(self, seconds: float) -> float:
        """How long something took; where several processes train, the longest time of all."""
        return seconds

    # --- when numbers are no longer numbers -------------------------------------------------------------------------

    def set_back(self) -> None:
        """Make the model the best of the search for the best epoch, if there is one."""
        best, splits = self.best, self.settings.training.training_splits
        if not best and self.standing.refit_from is not None and self.folder is not None:
            with suppress(CheckpointError):  # a resumed refit does not hold it
                best = load_model_tensors(self.folder)[0]
        if best and self.trainee.splits != splits:
            self.set_up(splits)
        if best:
            self.trainee.model.load_tensors(best)

    def largest_norms(self) -> dict[str, float]:
        """The largest norm of a row, by the first part of the parameters' names."""
        norms: dict[str, list[Tensor]] = {}
        for name, parameter in self.trainee.model.named_parameters():
            lengths = parameter.detach().norm(dim=-1).flatten()
            norms.setdefault(name.partition(".")[0], []).append(
                lengths.max() if len(lengths) else lengths.new_zeros(())
            )
        return {name: float(torch.stack(values).max()) for name, values in norms.items()}

    def numerical_error(self, problem: str, epoch: int, where: str) -> NumericalError:
        """What to raise when something became NaN or infinite."""
        largest = ", ".join(f"{name} {norm:.3g}" for name, norm in self.largest_norms().items())
        kept, best = "", self.standing.best_epoch
        if best:
            place = (
                "is set back to" if self.folder is None else f"and the last good state are kept in {self.folder.path}:"
            )
            kept = f"\nThe best model {place} epoch {best}."
        training = self.settings.training
        remedies = [f"Lower lr (now {training.lr:g})", f"raise batch_size (now {training.batch_size})"]
        remedies += [f"or {self.trainee.model.remedies()}"] if self.trainee.model.remedies() else []
        remedies += ["or set dtype = float64"] if self.settings.run.dtype == "float32" else []
        return NumericalError(f"{problem} in epoch {epoch}, {where}. Largest row norms: {largest}.{kept}\n"
                              + ", ".join(remedies) + ".")  # fmt: skip
