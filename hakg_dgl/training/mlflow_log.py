"""A run in a tracking store of MLflow, which is an optional dependency."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hakg_dgl.errors import CheckpointError, MissingDependencyError
from hakg_dgl.training.model_file import model_digest
from hakg_dgl.training.run_folder import RunFolder

EXPERIMENT = "hakg"
"""Experiment that runs are put into, unless another is named."""
_MODEL_TAG = "hakg.model_sha256"
_AT_ONCE = 500
"""Values that MLflow takes at once; it refuses more than a thousand metrics."""
_INSTALL = "pip install 'hakg_dgl[mlflow]'"
_FOLDERS_ALLOWED = "MLFLOW_ALLOW_FILE_STORE"
"""Variable without which MLflow 3.7 and later refuse a folder as a store."""


def log_to_mlflow(run: str | Path, store: str | Path, *, experiment: str = EXPERIMENT) -> str:
    """Write a finished run into a tracking store of MLflow.

    Parameters are the run's settings. Metrics are those of every epoch, by the number of the epoch (``loss``,
    ``seconds``, ``valid/ndcg_at_20``), and in the end those of the result (``best/valid/ndcg_at_20``,
    ``best/test/ndcg_at_20``, ``best/epoch``). Tags tell the data set and its digest, versions, device and the commit
    where it is known. ``config.toml``, ``result.json`` and ``metrics.jsonl`` are kept as artefacts, the model is not. A
    run whose model is in the experiment already is not written again.

    Parameters
    ----------
    run
        The folder of the run.
    store
        A folder, or a tracking URI of MLflow, such as ``sqlite:///mlflow.db`` or ``https://...``.
    experiment
        Made if there is none of this name.

    Returns
    -------
    str
        The id that MLflow gave the run.

    Raises
    ------
    CheckpointError
        If the run is not finished, or is damaged, or the store cannot be written.
    MissingDependencyError
        If MLflow is not installed.
    """
    folder = RunFolder(run)
    result, settings = folder.result, folder.settings
    digest = model_digest(folder)
    with _client(str(store)) as client:
        found = client.get_experiment_by_name(experiment)
        number = client.create_experiment(experiment) if found is None else found.experiment_id
        earlier = client.search_runs([number], f"tags.`{_MODEL_TAG}` = '{digest}'", max_results=1)
        if earlier:
            return str(earlier[0].info.run_id)
        made = client.create_run(number, tags=_tags(folder, result, digest), run_name=folder.path.resolve().name)
        name = str(made.info.run_id)
        _write(client, name, {"kind": settings.kind, **settings.values()}, _metrics(folder, result))
        for file in (folder.config_file, folder.result_file, folder.metrics_file):
            client.log_artifact(name, str(file))
        client.set_terminated(name)
    return name


@contextmanager
def _client(store: str) -> Iterator[Any]:
    """MLflow's client for a store, and its errors as ours."""
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise MissingDependencyError(
            f"MLflow cannot be imported ({error}): {_INSTALL}, or leave --mlflow out"
        ) from error
    is_folder = not re.match(r"[\w+]+:", store) and store != "databricks"
    try:
        with _folders_allowed(is_folder):
            yield MlflowClient(tracking_uri=Path(store).resolve().as_uri() if is_folder else store)
    except (MlflowException, OSError) as error:
        text = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{store}: MLflow cannot write there: {text}\nThe run itself is whole; name another store."
        ) from error


@contextmanager
def _folders_allowed(needed: bool) -> Iterator[None]:
    """Have MLflow take a folder, if that is needed."""
    before = os.environ.get(_FOLDERS_ALLOWED)
    if not needed or before is not None:
        yield
        return
    os.environ[_FOLDERS_ALLOWED] = "true"
    try:
        yield
    finally:
        del os.environ[_FOLDERS_ALLOWED]


def require_mlflow() -> None:
    """Raise MissingDependencyError if MLflow is not installed; it is not imported, which takes seconds."""
    if find_spec("mlflow") is None:
        raise MissingDependencyError(f"MLflow is not installed: {_INSTALL}, or leave --mlflow out")


def _tags(folder: RunFolder, result: Mapping[str, Any], digest: str) -> dict[str, str]:
    about = {key: value for key, value in result.items() if isinstance(value, (str, int, float)) and value != ""}
    nested = {f"{key}.{name}": value for key in ("data", "versions") for name, value in (result.get(key) or {}).items()}
    told = {f"hakg.{key}": str(value) for key, value in {**about, **nested}.items() if value is not None}
    return {**told, "hakg.run": str(folder.path.resolve()), _MODEL_TAG: digest}


def _metrics(folder: RunFolder, result: Mapping[str, Any]) -> list[tuple[str, float, int]]:
    """Name, value and epoch of each number."""
    found = []
    for line in folder.metrics:
        split = line.get("split", "valid")
        for key, value in line.items():
            if key not in ("epoch", "split") and value is not None:
                found.append((_name(key if "@" not in key else f"{split}/{key}"), float(value), int(line["epoch"])))
    best = int(result["best_epoch"])
    found.append(("best/epoch", float(best), best))
    for split, values in result["metrics"].items():
        found += [(_name(f"best/{split}/{key}"), float(value), best) for key, value in (values or {}).items()]
    return found


def _name(key: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w\-. /]", "_", key.replace("@", "_at_"))


def _write(client: Any, name: str, settings: Mapping[str, Any], metrics: list[tuple[str, float, int]]) -> None:
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    client.log_batch(name, params=[Param(key, str(value)) for key, value in settings.items()])
    for start in range(0, len(metrics), _AT_ONCE):
        part = metrics[start : start + _AT_ONCE]
        client.log_batch(name, metrics=[Metric(key, value, now, step) for key, value, step in part])
