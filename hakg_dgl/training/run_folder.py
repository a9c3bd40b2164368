"""The RUN folder: what training leaves, and how later commands read it.

``config.toml`` (all settings), ``run.json`` (the data set it belongs to), ``metrics.jsonl`` (a line an epoch),
``result.json`` (at the end), ``model.safetensors`` (best so far), ``state.safetensors`` (for resuming),
``model.safetensors.index.json`` with ``model-*.safetensors``, and ``state.index.json`` with ``state-*.safetensors``, in
their place where several processes trained,
``search.safetensors`` (the search for the best epoch, where a refit followed it), ``start.safetensors`` (what training
began with, in a run that goes on from another one) and, if asked for, ``tensorboard/``.
Nothing in it can run code.
"""

from __future__ import annotations

import json
import re
import reprlib
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hakg_dgl import locks
from hakg_dgl.atomic_files import replace_file, sync_file, write_json, write_text
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import CheckpointError, ConfigError, FormatVersionError, IntegrityError
from hakg_dgl.models.registry import UnknownModelError
from hakg_dgl.models.settings import Settings
from hakg_dgl.settings.toml import read_toml

RUN_FORMAT_VERSION = 1
_TEMPORARY = re.compile(
    r"\.(config\.toml|run\.json|metrics\.jsonl|result\.json|(state|search)\.index\.json|model\.safetensors\.index\.json|"
    r"start\.safetensors|(model|state|search)(-[-a-z0-9]+)?\.safetensors)\..+\.tmp|\.tmp.{6}"
)


_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "C64": torch.complex64, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U64": torch.uint64, "U32": torch.uint32,
    "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Types of numbers in safetensors files that NumPy has too."""
WITH_ITS_DATA = "Give the data set it was trained on (--data DATA), or train again on this one."
"""What to do about a run of another data set."""


class RunFolder:
    """A run on disk.

    Reading a file that is missing or damaged raises CheckpointError, which names the file. Writing that fails (on a
    full disk, for example) raises it too, and leaves the earlier file as it was.

    Parameters
    ----------
    path
        The folder; it need not exist before :meth:`create`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path: Path = Path(path)
        self.config_file: Path = self.path / "config.toml"
        self.about_file: Path = self.path / "run.json"
        self.metrics_file: Path = self.path / "metrics.jsonl"
        self.result_file: Path = self.path / "result.json"
        self.model_file: Path = self.path / "model.safetensors"
        self.state_file: Path = self.path / "state.safetensors"
        self.state_index_file: Path = self.path / "state.index.json"
        self.search_file: Path = self.path / "search.safetensors"
        self.search_index_file: Path = self.path / "search.index.json"
        self.model_index_file: Path = self.path / "model.safetensors.index.json"
        self.start_file: Path = self.path / "start.safetensors"
        self.tensorboard: Path = self.path / "tensorboard"

    @property
    def model_place(self) -> Path:
        """The file of the model, or the index of its files; see :mod:`hakg_dgl.training.model_file`."""
        return self.model_index_file if self.model_index_file.exists() else self.model_file

    @contextmanager
    def sole_writer(self) -> Iterator[None]:
        """Keep other trainers out of the folder, which is made if need be; CheckpointError if one trains in it."""
        with ExitStack() as held:
            with self.writing(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                held.enter_context(locks.sole_writer(self.path))
            yield

    def create(
        self,
        settings: Settings,
        dataset: Dataset,
        data_path: str | Path | None,
        *,
        start: dict[str, Tensor] | None = None,
        keep_start: bool = False,
    ) -> None:
        """Start the folder afresh: write settings and data set, and remove what an earlier run left.

        Parameters
        ----------
        settings, dataset, data_path
            Of the run.
        start
            What training begins with, if that is not drawn.
        keep_start
            Leave what an earlier start of the run wrote of it.
        """
        with self.writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if start is not None:
                self.save_tensors(self.start_file, start, {"data": dataset.digest})
            elif not keep_start:
                self.start_file.unlink(missing_ok=True)
            write_text(self.config_file, settings.to_toml())  # first: what resumes without a state reads them here
            # What makes it a run goes first, so that a kill in between leaves no mixture of two.
            states = [self.state_file, self.state_index_file, self.search_file, self.search_index_file]
            states += [self.model_file, self.model_index_file]
            shards = (file for stem in ("state", "search", "model") for file in self.path.glob(f"{stem}-*-of-*.*"))
            for file in (self.about_file, *states, *shards, self.result_file, self.metrics_file):
                file.unlink(missing_ok=True)
            if self.tensorboard.exists():
                shutil.rmtree(self.tensorboard)
        self.remove_temporaries()
        self.describe(settings, dataset, data_path)

    def describe(self, settings: Settings, dataset: Dataset, data_path: str | Path | None) -> None:
        """Write the settings and the data set of the run; without a path, one that was noted earlier stays."""
        noted = None
        if self.about_file.exists():
            noted = self.about["data"].get("path")
        with self.writing(self.config_file):
            write_text(self.config_file, settings.to_toml())
        where = noted if data_path is None else str(Path(data_path).resolve())
        self._write_json(
            self.about_file,
            {
                "format_version": RUN_FORMAT_VERSION,
                "data": {"name": dataset.name, "digest": dataset.digest, "path": where},
            },
        )

    def remove_temporaries(self) -> None:
        """Remove what writers killed in the middle left: our own temporaries, and those of safetensors."""
        for file in self.path.iterdir():
            if _TEMPORARY.fullmatch(file.name):
                file.unlink(missing_ok=True)

    def holds_other_files(self) -> bool:
        """Whether there are files in the folder other than those that a trainer leaves if it is killed at its start."""
        names = [file.name for file in self.path.iterdir()]
        return any(name != locks.LOCK_NAME and not _TEMPORARY.fullmatch(name) for name in names)

    def exists(self) -> bool:
        """Whether a run was started here."""
        return self.about_file.exists() or self.config_file.exists()

    @property
    def settings(self) -> Settings:
        """The run's settings."""
        self._require(self.config_file)
        try:
            return self._read_settings()
        except UnknownModelError as error:
            raise CheckpointError(
                f"{self.config_file}: {error}\nInstall the package that has the model, or register it before."
            ) from error
        except ConfigError as error:
            raise CheckpointError(f"{error}\nFix the file, or train again.") from error

    def _read_settings(self) -> Settings:
        values = read_toml(self.config_file)
        try:
            return Settings.from_dict(values)
        except UnknownModelError:
            raise
        except ConfigError as error:
            raise ConfigError(f"{self.config_file}: {error}") from error

    @property
    def about(self) -> dict[str, Any]:
        """Content of ``run.json``."""
        about = self._read_json(self.about_file)
        version, data = about.get("format_version"), about.get("data")
        if isinstance(version, int) and version > RUN_FORMAT_VERSION:
            raise FormatVersionError(
                f"run format {version}, this version reads up to {RUN_FORMAT_VERSION}",
                path=self.about_file,
                remedy="Install a newer hakg_dgl, or train again.",
            )
        if type(version) is not int or version < 1:
            raise damaged(self.about_file, f"its format version is {version!r}")
        if not isinstance(data, dict) or not all(isinstance(data.get(key), str) for key in ("name", "digest")):
            raise damaged(self.about_file, "it does not name a data set")
        if not isinstance(data.get("path"), (str, type(None))):
            raise damaged(self.about_file, f"the path of the data set is {data['path']!r}")
        return about

    @property
    def data_path(self) -> Path | None:
        """The place of the data set when training started, None if it was not on disk."""
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

    def write_result(self, result: dict[str, Any]) -> None:
        """Write ``result.json``."""
        self._write_json(self.result_file, result)

    def write_index(self, file: Path, index: dict[str, Any]) -> None:
        """Write what says which files belong together; see :mod:`hakg_dgl.training.sharded_state`."""
        self._write_json(file, index)

    def read_index(self, file: Path) -> dict[str, Any]:
        """Content of such a file."""
        return self._read_json(file)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Lines of ``metrics.jsonl``; a last line cut off by a kill is left out."""
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_bytes().splitlines(keepends=True)
        return [self._metrics_line(line, n) for n, line in enumerate(lines, 1) if line.endswith(b"\n")]

    def _metrics_line(self, line: bytes, number: int) -> dict[str, Any]:
        """A line, in which all values but the name of the split are numbers; else CheckpointError names its number."""
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise damaged(self.metrics_file, f"line {number}: {error}") from error
        if not isinstance(value, dict) or not _is_whole(value.get("epoch")):
            raise damaged(self.metrics_file, f"line {number} is not a JSON object with an epoch")
        for key, entry in value.items():
            if isinstance(entry, str) if key == "split" else _is_finite(entry):
                continue
            wanted = "the name of a split" if key == "split" else "a number"
            raise damaged(self.metrics_file, f"line {number}: {key!r} is {reprlib.repr(entry)}, not {wanted}")
        return value

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add a line to ``metrics.jsonl``."""
        with self.writing(self.metrics_file), self.metrics_file.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line, allow_nan=False) + "\n")

    def sync_metrics(self) -> None:
        """Return when the lines so far are on the disk, because a state must not outlive the lines of its epochs."""
        if self.metrics_file.exists():
            with self.writing(self.metrics_file):
                sync_file(self.metrics_file)

    def truncate_metrics(self, epoch: int) -> None:
        """Keep the lines of epochs up to this one."""
        kept = "".join(json.dumps(line) + "\n" for line in self.metrics if line["epoch"] <= epoch)
        with self.writing(self.metrics_file):
            write_text(self.metrics_file, kept)

    def save_tensors(self, file: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Write tensors and JSON metadata to a safetensors file, atomically."""
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        header = {"hakg": json.dumps(metadata, allow_nan=False)}
        with self.writing(file):
            replace_file(file, lambda temporary: save_file(contiguous, temporary, metadata=header))

    def load_tensors(self, file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and metadata of a safetensors file written by :meth:`save_tensors`, both of the same version."""
        with self.open_tensors(file) as opened:
            return {name: opened.read(name) for name in opened.names}, opened.metadata()

    @contextmanager
    def open_tensors(self, file: Path) -> Iterator[TensorFile]:
        """A safetensors file written by :meth:`save_tensors`, whose tensors are read one by one, all of one version.

        The file is opened once: a trainer may replace it at any moment. For PyTorch safetensors would open it again for
        the values, so they are read as arrays, which have no bfloat16; nothing here saves such.
        """
        self._require(file)
        try:
            handle = safe_open(file, framework="np")
        except (SafetensorError, OSError) as error:
            raise damaged(file, error) from error
        with handle as opened:
            yield TensorFile(file, opened)

    def load_metadata(self, file: Path) -> dict[str, Any]:
        """The metadata, without tensors, of a safetensors file written by :meth:`save_tensors`."""
        self._require(file)
        try:
            with safe_open(file, framework="np") as handle:
                return _metadata(handle)
        except (SafetensorError, KeyError, ValueError, RecursionError, OSError) as error:
            raise damaged(file, error) from error

    def check_dataset(self, dataset: Dataset, remedy: str = WITH_ITS_DATA) -> None:
        """Raise IntegrityError, with this remedy, if the run belongs to another data set."""
        if dataset.digest != self.data_digest:
            raise IntegrityError(
                f"the run was trained on data set {self.about['data']['name']!r} (digest {self.data_digest[:12]}), "
                f"not on {dataset.name!r} (digest {dataset.digest[:12]})",
                path=self.path,
                remedy=remedy,
            )

    @contextmanager
    def writing(self, file: Path) -> Iterator[None]:
        """Turn what writers raise into CheckpointError; safetensors has its own exception for a full disk."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CheckpointError(
                f"{file}: cannot be written: {reason}; what the run saved earlier is intact\n"
                "Free space or fix permissions, then continue with --resume, or train in another folder."
            ) from error

    def _write_json(self, file: Path, value: dict[str, Any]) -> None:
        with self.writing(file):
            write_json(file, value)

    def _require(self, file: Path) -> None:
        if file.exists() and not file.is_file():  # a pipe or a device may have no end
            raise damaged(file, "it is not a plain file")
        if not file.exists():
            inner = [file.parent for file in sorted(self.path.glob(f"*/{self.about_file.name}"))]
            if inner and not self.exists():
                raise CheckpointError(f"{self.path}: has no {file.name}, so it is not a run; {inner[0]} is one")
            raise CheckpointError(
                f"{self.path}: has no {file.name}, so it is not a run, or one that has not come so far; "
                "train with `hakg train DATA --out RUN`, or continue with --resume"
            )

    def _read_json(self, file: Path) -> dict[str, Any]:
        self._require(file)
        try:
            value = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:
            raise damaged(file, error) from error
        if not isinstance(value, dict):
            raise damaged(file, "not a JSON object")
        return value


class TensorFile:
    """An open safetensors file; what is wrong with it raises CheckpointError."""

    def __init__(self, file: Path, handle: Any) -> None:
        self._file, self._handle = file, handle
        self.names: list[str] = list(handle.keys())

    def read(self, name: str) -> Tensor:
        """A copy of a tensor: what safetensors gives may be mapped from the file."""
        with self._reading():
            return torch.tensor(self._handle.get_tensor(name))

    def rows(self, name: str, first: int, end: int) -> Tensor:
        """A copy of some consecutive rows of a tensor."""
        with self._reading():
            return torch.tensor(self._handle.get_slice(name)[first:end])

    def kind(self, name: str) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape and type of a tensor, which is not read; a type that nothing here saves is an error."""
        with self._reading():
            found = self._handle.get_slice(name)
            return tuple(found.get_shape()), _TYPES[found.get_dtype()]

    def metadata(self) -> dict[str, Any]:
        """The JSON metadata."""
        with self._reading():
            return _metadata(self._handle)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        # Types of numbers that NumPy does not have end in an AttributeError or a TypeError.
        except (SafetensorError, AttributeError, KeyError, TypeError, ValueError, RecursionError, OSError) as error:
            raise damaged(self._file, error) from error


def _metadata(handle: Any) -> dict[str, Any]:
    """The JSON metadata of an open safetensors file; KeyError or ValueError if there are none."""
    metadata = json.loads((handle.metadata() or {})["hakg"])
    if not isinstance(metadata, dict):
        raise ValueError("its metadata are not a JSON object")
    return metadata


def damaged(file: Path, why: object) -> CheckpointError:
    """The error for a file of a run that is not as it was written."""
    return CheckpointError(f"{file}: is damaged, or not written by this package ({why}); train again, or restore it")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    """Whether a JSON value is a number that is not too large for a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max


def settings_differences(theirs: Mapping[str, Any], ours: Settings, free: Collection[str] = ()) -> list[str]:
    """How settings differ from those stored as :meth:`Settings.to_dict`, as texts ``key (was ..., now ...)``.

    Parameters
    ----------
    theirs
        The stored settings; keys that they lack have their defaults.
    ours
        The settings to compare with.
    free
        Keys that may differ.

    Raises
    ------
    ConfigError
        If the stored values are not settings.
    """
    stored = Settings.from_dict(theirs)
    if stored.kind != ours.kind:
        return [f"kind (was {stored.kind!r}, now {ours.kind!r})"]
    was, now = (_plain(settings.values()) for settings in (stored, ours))
    return [f"{key} (was {was[key]!r}, now {now[key]!r})" for key in now if key not in free and was[key] != now[key]]


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as files hold them, with lists in place of tuples."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
