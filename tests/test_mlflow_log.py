"""Runs in a store of MLflow: what was logged is what the run folder says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from hakg_dgl.cli import main
from small_demo import SMALL, small_demo

from hakg_dgl import RunFolder, log_to_mlflow
from hakg_dgl.errors import CheckpointError, MissingDependencyError
from hakg_dgl.training import mlflow_log


def test_without_mlflow_training_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_log, "find_spec", lambda name: None)
    small_demo().save(tmp_path / "data")
    arguments = ["train", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--mlflow", str(tmp_path / "store")]
    done = CliRunner().invoke(main, arguments)
    assert isinstance(done.exception, MissingDependencyError) or done.exit_code == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_is_logged_as_its_folder_has_it(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="python -m pip install -e .[mlflow]")
    from mlflow.tracking import MlflowClient

    small_demo().save(tmp_path / "data")
    sets = [
        word for key, value in SMALL.items() if key != "negatives" for word in ("--set", f"{key}={str(value).lower()}")
    ]
    arguments = ["train", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--mlflow", str(tmp_path / "store")]
    done = CliRunner().invoke(main, [*arguments, *sets])
    assert done.exit_code == 0, done.output
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ
    again = log_to_mlflow(tmp_path / "run", tmp_path / "store")
    assert f"Wrote run {again} into" in done.stdout
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    try:
        client = MlflowClient(tracking_uri=(tmp_path / "store").as_uri())
        run, folder = client.get_run(again), RunFolder(tmp_path / "run")
        history = client.get_metric_history(again, "loss")
        files = {file.path for file in client.list_artifacts(again)}
    finally:
        del os.environ["MLFLOW_ALLOW_FILE_STORE"]
    assert run.data.params["epochs"] == "5"
    assert run.data.params["kind"] == "hakg"
    assert [(each.step, each.value) for each in history] == [(line["epoch"], line["loss"]) for line in folder.metrics]
    result = folder.result
    assert run.data.metrics["best/test/ndcg_at_20"] == pytest.approx(result["metrics"]["test"]["ndcg@20"])
    assert run.data.metrics["best/epoch"] == result["best_epoch"]
    assert run.data.tags["hakg.data.digest"] == result["data"]["digest"]
    assert files == {"config.toml", "result.json", "metrics.jsonl"}
    assert run.info.status == "FINISHED"


def test_what_is_not_finished_is_not_logged(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"result\.json"):
        log_to_mlflow(tmp_path, tmp_path / "store")
    assert not (tmp_path / "store").exists()
