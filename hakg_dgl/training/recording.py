"""What a training leaves behind as it goes: lines of ``metrics.jsonl``, TensorBoard's events, reports of progress."""

from __future__ import annotations

from typing import Any

from hakg_dgl.errors import ConfigError
from hakg_dgl.models.settings import Settings
from hakg_dgl.training.progress import OnProgress
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.tensorboard import ScalarLog


class Recording:
    """Where epochs are recorded.

    Parameters
    ----------
    folder
        The run; None writes nothing.
    settings
        Whether TensorBoard's event files are written.
    on_progress
        Called with every report.

    Raises
    ------
    ConfigError
        If TensorBoard is asked for without a run folder.
    MissingDependencyError
        If TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: RunFolder | None, settings: Settings, on_progress: OnProgress | None) -> None:
        self.folder = folder
        self.report: OnProgress = on_progress or (lambda progress: None)
        self._scalars: ScalarLog | None = None
        if settings.values().get("tensorboard", False):
            if folder is None:
                raise ConfigError("tensorboard = true, but there is no run folder to write to: give the trainer one")
            self._scalars = ScalarLog(folder.tensorboard)

    def open(self, epochs_done: int) -> None:
        """Begin, or continue after this many epochs."""
        if self._scalars is not None:
            self._scalars.open(epochs_done)

    def epoch(self, line: dict[str, Any], scalars: dict[str, float]) -> None:
        """Record an epoch.

        Parameters
        ----------
        line
            For ``metrics.jsonl``; with ``epoch``.
        scalars
            For TensorBoard.
        """
        if self.folder is not None:
            self.folder.append_metrics(line)
        if self._scalars is not None:
            self._scalars.write(line["epoch"], scalars)

    def close(self) -> None:
        """Close what is open."""
        if self._scalars is not None:
            self._scalars.close()
