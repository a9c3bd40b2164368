"""Scalars for TensorBoard, which is an optional dependency."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hakg_dgl.errors import MissingDependencyError


class ScalarLog:
    """Event files in a folder: one scalar a name and epoch.

    Parameters
    ----------
    folder
        Made when the log is opened.

    Raises
    ------
    MissingDependencyError
        If TensorBoard cannot be imported.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependencyError(
                f"tensorboard = true, but TensorBoard cannot be imported ({error}): "
                "pip install tensorboard, or leave the setting off"
            ) from error
        self._folder = folder
        self._make: Any = SummaryWriter
        self._writer: Any = None

    def open(self, epochs_done: int) -> None:
        """Begin, or continue after this many epochs: what a lost continuation wrote about later ones is hidden."""
        self._writer = self._make(str(self._folder), purge_step=epochs_done + 1 if epochs_done else None)

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add the values of an epoch, and see to it that they are on disk."""
        assert self._writer is not None
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self) -> None:
        """Close the file; nothing happens if there is none."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
