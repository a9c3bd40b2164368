"""Opens a trained run together with its data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hakg_dgl import Dataset, RunFolder
    from hakg_dgl.training.loading import TrainedModel


@dataclass(frozen=True)
class OpenedRun:
    """A run folder and the data set it belongs to."""

    folder: RunFolder
    dataset: Dataset
    data_path: Path

    @property
    def protocol(self) -> str:
        """The protocol by which the checkpoint was selected."""
        return str(self.folder.settings.training.protocol)

    @property
    def notes(self) -> list[str]:
        """Remarks that every report on this run has to show."""
        from hakg_dgl.training.protocol import protocol_note

        unfinished = not self.folder.result_file.exists()
        return [
            *protocol_notes(protocol_note(self.folder.settings.training)),
            *(["Training has not finished: this is the best model so far."] if unfinished else []),
        ]

    def about(self) -> Mapping[str, Any]:
        """Run, protocol and data set, for JSON."""
        return {
            "run": str(self.folder.path),
            "protocol": self.protocol,
            "notes": self.notes,
            "data": {"name": self.dataset.name, "digest": self.dataset.digest},
        }

    def load(self, device: str) -> TrainedModel:
        """The best model on ``auto``, ``cpu`` or ``cuda``, with the splits it has seen, from one reading of its file.

        Training may replace the file at any moment, so a command calls this once.
        """
        from hakg_dgl.training.circumstances import choose_device
        from hakg_dgl.training.loading import load_trained

        return load_trained(self.folder.path, self.dataset, device=choose_device(device))


def open_run(path: Path, data: Path | None, instead: str = "") -> OpenedRun:
    """Open a run folder with the data set it names, or with the one at ``data``.

    ``instead`` is what this command offers people who give a data set other than that of the run.
    """
    from hakg_dgl.data.dataset import load_dataset
    from hakg_dgl.errors import CheckpointError
    from hakg_dgl.training.run_folder import WITH_ITS_DATA, RunFolder

    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder\nMake a run with 'hakg train DATA --out RUN'.")
    folder = RunFolder(path)
    place = data or folder.data_path
    if place is None:
        raise CheckpointError(f"{path}: the run does not say where its data set is\nAdd --data DATA.")
    if data is None and not place.is_dir():
        raise CheckpointError(f"{path}: its data set is no longer at {place}\nAdd --data DATA, if it has moved.")
    dataset = load_dataset(place)
    if instead:
        folder.check_dataset(dataset, f"{WITH_ITS_DATA} {instead}")
    return OpenedRun(folder, dataset, place)


def protocol_notes(note: str | None) -> list[str]:
    """The warning that numbers of protocol ``published`` carry, from the note of a result."""
    return [f"Protocol 'published': {note}"] if note else []


def list_length() -> click.IntRange:
    """The type of ``--k``; a list beyond a million is a mistake, and would not fit in memory."""
    return click.IntRange(1, 1_000_000)


def device_option(command: Any) -> Any:
    """Add the option ``--device`` to a command that loads a model."""
    choice = click.Choice(["auto", "cpu", "cuda"])
    return click.option("--device", type=choice, default="auto", show_default=True, help="Where to rank.")(command)
