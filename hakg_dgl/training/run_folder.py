"""The RUN folder: what training leaves, and how later commands read it.

``config.toml`` (all settings), ``run.json`` (the data set it belongs to), ``metrics.jsonl`` (a line an epoch),
``result.json`` (at the end), ``model.safetensors`` (best so far) and ``state.safetensors`` (for resuming). Nothing in
it can run code.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hakg_dgl.config import Settings
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import CheckpointError, FormatVersionError, IntegrityError
from hakg_dgl.nn.model import HAKG
from hakg_dgl.training.files import replace_file, write_json, write_text

RUN_FORMAT_VERSION = 1


class RunFolder:
    """A run on disk. Reading attributes of a folder that lacks the file raises CheckpointError.

    Parameters
    ----------
    path
        The folder; it need not exist before :meth:`create`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.toml"
        self.about_file = self.path / "run.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.result_file = self.path / "result.json"
        self.model_file = self.path / "model.safetensors"
        self.state_file = self.path / "state.safetensors"

    def create(self, settings: Settings, dataset: Dataset, data_path: str | Path | None) -> None:
        """Start the folder afresh: settings and data set are written, what an earlier run left is removed."""
        self.path.mkdir(parents=True, exist_ok=True)
        for file in (self.state_file, self.result_file, self.model_file, self.metrics_file):
            file.unlink(missing_ok=True)
        write_text(self.config_file, settings.to_toml())
        where = None if data_path is None else str(Path(data_path).resolve())
        about = {"format_version": RUN_FORMAT_VERSION, "data": {"name": dataset.name, "digest": dataset.digest}}
        about["data"]["path"] = where  # type: ignore[index]
        write_json(self.about_file, about)

    def exists(self) -> bool:
        """Whether a run was started here."""
        return self.about_file.exists()

    @cached_property
    def settings(self) -> Settings:
        """The run's settings."""
        self._require(self.config_file)
        return Settings.resolve(file=self.config_file)

    @cached_property
    def about(self) -> dict[str, Any]:
        """Content of ``run.json``."""
        about = self._read_json(self.about_file)
        version = about.get("format_version")
        if not isinstance(version, int) or version > RUN_FORMAT_VERSION:
            raise FormatVersionError(
                f"run format {version!r}, this version reads up to {RUN_FORMAT_VERSION}",
                path=self.about_file,
                remedy="upgrade hakg_dgl",
            )
        return about

    @property
    def data_path(self) -> Path | None:
        """Where the data set lay when training started, None if it was not on disk."""
        where = self.about["data"].get("path")
        return None if where is None else Path(where)

    @property
    def data_digest(self) -> str:
        """Digest of the data set the run belongs to."""
        return str(self.about["data"]["digest"])

    @property
    def result(self) -> dict[str, Any]:
        """Content of ``result.json``."""
        return self._read_json(self.result_file)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Lines of ``metrics.jsonl``; a last line cut off by a kill is left out."""
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add a line to ``metrics.jsonl``."""
        with self.metrics_file.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line, allow_nan=False) + "\n")

    def truncate_metrics(self, epoch: int) -> None:
        """Keep the lines of epochs up to this one."""
        kept = [line for line in self.metrics if line["epoch"] <= epoch]
        write_text(self.metrics_file, "".join(json.dumps(line) + "\n" for line in kept))

    def save_tensors(self, file: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Write tensors and JSON metadata to a safetensors file, atomically."""
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        header = {"hakg": json.dumps(metadata, allow_nan=False)}
        replace_file(file, lambda temporary: save_file(contiguous, temporary, metadata=header))

    def load_tensors(self, file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and metadata of a safetensors file written by :meth:`save_tensors`."""
        self._require(file)
        try:
            from safetensors import safe_open

            with safe_open(file, framework="pt") as handle:
                metadata = json.loads((handle.metadata() or {})["hakg"])
            return load_file(file), metadata
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise CheckpointError(
                f"{file}: is damaged or not written by this package ({error}); train again, or restore the file"
            ) from error

    def check_dataset(self, dataset: Dataset) -> None:
        """Raise IntegrityError if the run belongs to another data set."""
        if dataset.digest != self.data_digest:
            raise IntegrityError(
                f"the run was trained on data set {self.about['data']['name']!r} (digest {self.data_digest[:12]}), "
                f"not on {dataset.name!r} (digest {dataset.digest[:12]})",
                path=self.path,
                remedy="give the data set it was trained on, or train again on this one",
            )

    def _require(self, file: Path) -> None:
        if not file.exists():
            raise CheckpointError(
                f"{self.path}: has no {file.name}, so it is not a run that finished its first epoch; "
                "train with `hakg train DATA --out RUN`"
            )

    def _read_json(self, file: Path) -> dict[str, Any]:
        self._require(file)
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{file}: is damaged ({error}); train again, or restore the file") from error
        if not isinstance(value, dict):
            raise CheckpointError(f"{file}: is damaged (not a JSON object); train again, or restore the file")
        return value


def load_model(run: str | Path, dataset: Dataset, *, device: torch.device | str = "cpu") -> HAKG:
    """The best model of a run, ready to rank.

    Parameters
    ----------
    run
        Folder written by training.
    dataset
        The data set it was trained on.
    device
        Where the model shall lie.

    Raises
    ------
    IntegrityError
        If the run belongs to another data set.
    CheckpointError
        If the run is incomplete or its files are damaged.
    """
    from hakg_dgl.training.trainer import build_model

    folder = RunFolder(run)
    folder.check_dataset(dataset)
    model = build_model(dataset, folder.settings, torch.device(device))
    tensors, _ = folder.load_tensors(folder.model_file)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{folder.model_file}: does not fit {folder.config_file}: {error}") from error
    model.eval()
    return model
