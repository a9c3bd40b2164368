"""``hakg train``, ``evaluate`` and ``recommend`` on the demo: the files they write and what they say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from hakg_dgl import RunFolder, load_dataset, load_model

cli = pytest.importorskip("hakg_dgl.cli", reason="python -m pip install -e .")

SMALL = ("--set", "dim=8", "--set", "layers=1", "--set", "refit=false")
METRICS = {"recall@20", "ndcg@20", "precision@20", "hit@20", "mrr@20"}


def hakg(*args: object) -> Result:
    return CliRunner().invoke(cli.main, [str(arg) for arg in args])


def succeed(*args: object) -> Result:
    result = hakg(*args)
    assert result.exit_code == 0, result.output
    return result


def refuse(message: str, *args: object) -> None:
    result = hakg(*args)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "data"
    succeed("preprocess", "demo", "--out", path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    succeed("train", data, "--out", path, "--epochs", 2, *SMALL)
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    path = tmp_path_factory.mktemp("published") / "run"
    result = succeed("train", data, "--out", path, "--epochs", 1, "--protocol", "published", *SMALL)
    assert "Protocol 'published': selected on the test split" in result.stdout
    return path


def test_train_leaves_a_whole_run_and_reports_it(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "deep" / "run"
    result = succeed("train", data, "--out", out, "--epochs", 2, "--seed", 0, "--device", "cpu", *SMALL)
    folder = RunFolder(out)
    assert (folder.settings.run.seed, folder.settings.training.epochs, folder.settings.model.dim) == (0, 2, 8)
    assert [line["epoch"] for line in folder.metrics] == [1, 2]
    assert folder.result["protocol"] == "validation"
    assert folder.result["data"]["digest"] == load_dataset(data).digest
    assert f"Best epoch {folder.result['best_epoch']} of 2" in result.stdout
    assert f"{folder.result['metrics']['test']['recall@20']:.4f}" in result.stdout
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == ["epoch 1/2", "epoch 2/2"]
    assert load_model(out, load_dataset(data)).user.shape == (600, 8)


def test_settings_come_from_preset_then_file_then_set_then_own_options(tmp_path: Path, data: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text("lr = 0.02\nmargin = 0.1\n[training]\nepochs = 7\nbatch_size = 9000\n")
    result = hakg(
        *("train", data, "--out", tmp_path / "run", "--preset", "last-fm", "--config", config, *SMALL),
        *("--set", "margin=0.2", "--set", "epochs=5", "--epochs", "1"),
    )
    assert result.exit_code == 0, result.output
    settings = RunFolder(tmp_path / "run").settings
    assert (settings.loss.margin, settings.training.lr, settings.training.batch_size) == (0.2, 0.02, 9000)
    assert settings.training.epochs == 1


def test_train_touches_no_run_and_no_other_folder_unasked(data: Path, run: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    refuse("holds a run already\nAdd --resume", "train", data, "--out", run, *SMALL)
    refuse("give one of them", "train", data, "--out", run, "--resume", "--overwrite")
    refuse("holds something else than a run", "train", data, "--out", data)
    refuse("holds something else than a run", "train", data, "--out", data, "--overwrite")
    refuse("is a file", "train", data, "--out", run / "config.toml")
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert load_dataset(data).name == "demo"


def test_after_a_refit_validation_is_no_longer_measured(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "run"
    succeed("train", data, "--out", out, "--epochs", 2, *SMALL, "--set", "refit=true")
    best = RunFolder(out).result["best_epoch"]
    assert [line["epoch"] for line in RunFolder(out).metrics] == list(range(1, 3 + best))
    assert "test:" in succeed("evaluate", out).stdout
    refuse("trained again on train and validation (refit)", "evaluate", out, "--split", "valid")


def test_overwrite_trains_anew(tmp_path: Path, data: Path, run: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    succeed("train", data, "--out", tmp_path / "run", "--epochs", 1, "--overwrite", *SMALL)
    assert [line["epoch"] for line in RunFolder(tmp_path / "run").metrics] == [1]


def test_resume_continues_with_the_settings_of_the_run(tmp_path: Path, data: Path, run: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    succeed("train", data, "--out", tmp_path / "run", "--resume", "--epochs", 3)
    resumed = RunFolder(tmp_path / "run")
    assert [line["epoch"] for line in resumed.metrics] == [1, 2, 3]
    assert resumed.settings.model.dim == 8
    succeed("train", data, "--out", tmp_path / "straight", "--epochs", 3, *SMALL)
    assert resumed.result["metrics"] == RunFolder(tmp_path / "straight").result["metrics"]


def test_settings_missing_in_a_file_are_the_defaults(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "run"
    succeed("train", data, "--out", out, "--epochs", 2, *SMALL)
    whole = RunFolder(out).result["settings"]
    lines = (out / "config.toml").read_text().splitlines()
    missing = ("degree_exponent", "gate_l2", "angle_pairs", "cuda_graphs", "margin")
    (tmp_path / "short.toml").write_text("\n".join(line for line in lines if not line.startswith(missing)))
    succeed("train", data, "--out", tmp_path / "again", "--config", tmp_path / "short.toml")
    assert RunFolder(tmp_path / "again").result["settings"] == whole


def test_resume_accepts_the_command_line_of_the_run_and_refuses_another(tmp_path: Path, data: Path, run: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    command = ("train", data, "--out", tmp_path / "run", "--preset", "default", "--resume")
    succeed(*command, "--epochs", 2, *SMALL)
    refuse("the run has other settings: dim", *command, "--epochs", 2)
    refuse("there is no run to resume", "train", data, "--out", tmp_path / "none", "--resume")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--set", "lerning_rate=1"], "there is no setting 'lerning_rate'"),
        (["--set", "lr"], "write it as key=value"),
        (["--set", "lr=fast"], "lr = 'fast'"),
        (["--epochs", "0"], "epochs = 0 is not allowed"),
        (["--preset", "best"], "there is no preset 'best' of model 'hakg'"),
        (["--config", "missing.toml"], "missing.toml: cannot be read"),
        (["--protocol", "none"], "'none' is not one of"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    tmp_path: Path, data: Path, args: list[str], message: str
) -> None:
    refuse(message, "train", data, "--out", tmp_path / "run", "--set", "epochs=1", *SMALL, *args)
    assert list(tmp_path.iterdir()) == []


def test_no_data_set_and_no_run(tmp_path: Path, data: Path) -> None:
    refuse("no such folder", "train", tmp_path / "nothing", "--out", tmp_path / "run")
    refuse("not a data set", "train", tmp_path, "--out", tmp_path / "run")
    for command in ("evaluate", "recommend"):
        args = ("--user", "user_1") if command == "recommend" else ()
        refuse("has no run.json", command, data, *args)


def evaluated(tmp_path: Path, *args: object) -> dict[str, Any]:
    succeed("evaluate", *args, "--json", tmp_path / "out" / "metrics.json")
    value: dict[str, Any] = json.loads((tmp_path / "out" / "metrics.json").read_text())
    return value


def test_evaluate_agrees_with_training_and_stands_beside_the_yardsticks(tmp_path: Path, run: Path) -> None:
    measured = evaluated(tmp_path, run)
    result = RunFolder(run).result
    assert measured["model"]["metrics"] == pytest.approx(result["metrics"]["test"], abs=1e-9)
    assert measured["data"]["digest"] == result["data"]["digest"]
    assert (measured["protocol"], measured["notes"]) == ("validation", [])
    for scorer in ("model", "popularity", "random"):
        assert set(measured[scorer]["metrics"]) == METRICS
        assert measured[scorer]["mask"] == ["train", "valid"]
        assert set(measured[scorer]["groups"]) == {"user_activity", "item_popularity", "item_novelty"}
    assert measured["random"]["metrics"]["recall@20"] < 0.05 < measured["popularity"]["metrics"]["recall@20"]
    valid = evaluated(tmp_path, run, "--split", "valid")
    assert valid["model"]["mask"] == ["train"]
    assert valid["model"]["metrics"] == pytest.approx(result["metrics"]["valid"], abs=1e-9)


def test_the_table_of_evaluate(run: Path) -> None:
    text = succeed("evaluate", run, "--k", 10, "--k", 5, "--k", 10).stdout
    lines = [line.split() for line in text.splitlines()]
    assert ["metric", "model", "popularity", "random"] in lines
    assert [line[0] for line in lines if line and line[0].startswith("recall@")] == ["recall@5", "recall@10"] + [
        "recall@5"
    ] * 3
    assert "ndcg@5 by user activity" in text
    assert "share@5 by item popularity" in text
    assert "by user activity" not in succeed("evaluate", run, "--no-groups").stdout


def test_json_on_stdout_is_json_alone(run: Path) -> None:
    measured = json.loads(succeed("evaluate", run, "--json", "-", "--k", 7).stdout)
    assert measured["model"]["ks"] == [7]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_metrics_of_every_user_by_original_id(tmp_path: Path, run: Path, suffix: str) -> None:
    file = tmp_path / f"users{suffix}"
    measured = evaluated(tmp_path, run, "--per-user", file, "--no-groups")
    users = read(file)
    assert len(users) == measured["model"]["n_users"]
    assert users["user"].str.startswith("user_").all()
    assert users["recall@20"].mean() == pytest.approx(measured["model"]["metrics"]["recall@20"])


def read(file: Path) -> pd.DataFrame:
    if file.suffix == ".jsonl":
        return pd.read_json(file, lines=True)
    return pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)


def test_every_output_of_a_published_run_says_so(tmp_path: Path, published: Path) -> None:
    warning = "Protocol 'published': selected on the test split"
    assert warning in succeed("evaluate", published).stdout
    measured = evaluated(tmp_path, published)
    assert measured["protocol"] == "published"
    assert measured["notes"][0].startswith(warning)
    assert warning in succeed("recommend", published, "--user", "user_1").stderr
    refuse("trains on the validation split", "evaluate", published, "--split", "valid")


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_recommendations_for_all_users_are_unseen_items_by_original_id(
    tmp_path: Path, data: Path, run: Path, suffix: str
) -> None:
    file = tmp_path / "new" / f"lists{suffix}"
    result = succeed("recommend", run, "--k", 3, "--out", file)
    assert "1,800 rows, 600 users" in result.stdout
    lists = read(file)
    assert lists.columns.tolist() == ["user", "rank", "item", "name", "score"]
    dataset = load_dataset(data)
    assert lists["user"].unique().tolist() == dataset.users["original_id"].tolist()
    assert lists["rank"].tolist() == [1, 2, 3] * 600
    assert (lists["item"].str.replace("item_", "Item ") == lists["name"]).all()
    known = {f"user_{user} item_{item}" for user, item in dataset.pairs()}  # whatever the split
    assert not known & set(lists["user"] + " " + lists["item"])
    assert (lists.groupby("user")["score"].diff().fillna(0) <= 1e-12).all()
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_recommendations_are_those_of_the_model(data: Path, run: Path) -> None:
    shown = succeed("recommend", run, "--user", "user_9", "--user", "user_9", "--k", 4, "--include-seen", "--json")
    lists = pd.DataFrame([json.loads(line) for line in shown.stdout.splitlines()])
    users, items = load_model(run, load_dataset(data)).ranking_vectors()
    scores = (users[9] @ items.T).numpy()
    assert lists["item"].tolist() == [f"item_{item}" for item in np.argsort(-scores, kind="stable")[:4]]
    assert lists["score"].tolist() == pytest.approx(np.sort(scores)[::-1][:4], abs=1e-6)


def test_recommendations_on_the_terminal(run: Path) -> None:
    text = succeed("recommend", run, "--user", "user_2", "--user", "user_1", "--k", 2).stdout
    lines = [line.split() for line in text.splitlines() if line]
    assert [line[:2] for line in lines[::4]] == [["User", "user_2"], ["User", "user_1"]]
    assert [line[0] for line in lines] == ["User", "rank", "1", "2", "User", "rank", "1", "2"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "name users (--user ID), or a file"),
        (["--user", "nobody"], "there is no user with the id 'nobody'\nIds look like these: 'user_0'"),
        (["--user", "user_1", "--k", "0"], "0 is not in the range 1<=x<=1000000"),
        (["--out", "lists.txt"], "'lists.txt' must end with one of .csv, .parquet, .jsonl"),
    ],
)
def test_what_recommend_refuses(run: Path, args: list[str], message: str) -> None:
    refuse(message, "recommend", run, *args)


def test_a_data_set_that_moved_and_one_that_is_another(tmp_path: Path, data: Path) -> None:
    moved, run = tmp_path / "moved", tmp_path / "run"
    shutil.copytree(data, tmp_path / "data")
    succeed("train", tmp_path / "data", "--out", run, "--epochs", 1, *SMALL)
    (tmp_path / "data").rename(moved)
    refuse("its data set is no longer at", "evaluate", run)
    succeed("evaluate", run, "--data", moved, "--no-groups")
    succeed("preprocess", "demo", "--out", tmp_path / "other", "--seed", 1)
    refuse("the run was trained on data set 'demo'", "evaluate", run, "--data", tmp_path / "other")
    refuse("the run was trained on data set 'demo'", "recommend", run, "--user", "user_1", "--data", tmp_path / "other")


def test_an_unfinished_run_is_usable_and_says_so(tmp_path: Path, run: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    assert "Training has not finished" in succeed("evaluate", tmp_path / "run").stdout
    assert "Training has not finished" in succeed("recommend", tmp_path / "run", "--user", "user_1").stderr
    (tmp_path / "run" / "model.safetensors").write_bytes(b"nonsense")
    refuse("is damaged", "evaluate", tmp_path / "run")
