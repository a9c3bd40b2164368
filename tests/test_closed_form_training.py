"""Every baseline through trainer, run folder and commands: search, refit, resume, reload, and the recorded figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from small_demo import read_by, small_demo, small_settings

from hakg_dgl import RunFolder, load_model, load_scorer, make_trainer
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
from hakg_dgl.data.readers.kgat import read_kgat
from hakg_dgl.errors import CheckpointError, ConfigError, IntegrityError
from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.evaluation import Evaluator
from hakg_dgl.ranking.yardsticks import PopularityScorer
from hakg_dgl.training.closed_form import ClosedFormTrainer
from hakg_dgl.training.loading import model_splits
from hakg_dgl.training.progress import Progress
from hakg_dgl.training.trainer import Trainer

KINDS = ("popularity", "item-knn", "ease", "bpr-mf", "lightgcn")
DEMO = small_demo()
FEW: dict[str, Any] = {"neighbours": [5, 20], "shrinkage": [0.0, 10.0], "ease_l2": [1.0, 20.0, 200.0], "epochs": 6}


def settings(kind: str, **overrides: Any) -> Any:
    return small_settings(kind, **(read_by(kind, FEW) | overrides))


def measured(run: Path, split: str = "test") -> dict[str, float]:
    return Evaluator(DEMO, split)(load_scorer(run, DEMO)).metrics


@pytest.mark.parametrize("refit", [False, True], ids=["once", "refit"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_any_kind_ranks_after_loading_as_it_did_in_training(kind: str, refit: bool, tmp_path: Path) -> None:
    result = make_trainer(DEMO, settings(kind, refit=refit), run=tmp_path).fit()
    folder = RunFolder(tmp_path)
    assert folder.result == result
    assert folder.settings.kind == kind
    assert measured(tmp_path) == pytest.approx(result["metrics"]["test"], abs=1e-12)
    assert model_splits(folder) == (("train", "valid") if refit else ("train",))
    assert bool(result["refit"]) == refit
    best = next(line for line in folder.metrics if line["epoch"] == result["best_epoch"])
    assert best["ndcg@20"] == result["metrics"]["valid"]["ndcg@20"]
    assert best["ndcg@20"] == max(line["ndcg@20"] for line in folder.metrics if "ndcg@20" in line)
    if not refit:
        assert measured(tmp_path, "valid") == pytest.approx(result["metrics"]["valid"], abs=1e-12)


@pytest.mark.parametrize("kind", ["item-knn", "ease"])
def test_every_choice_is_a_line_and_a_report_and_the_best_is_kept(kind: str, tmp_path: Path) -> None:
    reports: list[Progress] = []
    result = make_trainer(DEMO, settings(kind), run=tmp_path, on_progress=reports.append).fit()
    lines = RunFolder(tmp_path).metrics
    keys = ("neighbours", "shrinkage") if kind == "item-knn" else ("ease_l2",)
    assert len(lines) == len(reports) == result["epochs_run"] == (4 if kind == "item-knn" else 3)
    assert result["selected"] == {key: lines[result["best_epoch"] - 1][key] for key in keys}
    assert [(report.epoch, report.epochs) for report in reports] == [(n + 1, len(lines)) for n in range(len(lines))]
    values = [line["ndcg@20"] for line in lines]
    assert [report.best for report in reports] == [
        value > max(values[:n], default=-1) for n, value in enumerate(values)
    ]
    assert len(set(values)) > 1, "the choices must differ for this test to say anything"
    assert (reports[-1].stopped, reports[0].stopped) == (result["stopped"], None)


@pytest.mark.parametrize("kind", ["ease", "bpr-mf"])
def test_map_selects_where_it_is_asked_to(kind: str, tmp_path: Path) -> None:
    result = make_trainer(DEMO, settings(kind, select_by="map@5", refit=False), run=tmp_path).fit()
    lines = [line for line in RunFolder(tmp_path).metrics if "map@5" in line]
    assert result["best_epoch"] == max(lines, key=lambda line: line["map@5"])["epoch"]
    for split in ("valid", "test"):
        again = Evaluator(DEMO, split, (5, 20), also=["map"])(load_scorer(tmp_path, DEMO)).metrics
        assert result["metrics"][split] == pytest.approx(again, abs=1e-12)
        assert {"map@5", "map@20", "ndcg@20"} <= set(result["metrics"][split])


def test_one_value_is_no_search() -> None:
    assert make_trainer(DEMO, settings("ease", ease_l2=50)).fit()["epochs_run"] == 1


def test_popularity_is_the_yardstick() -> None:
    result = make_trainer(DEMO, settings("popularity", refit=True)).fit()
    assert result["metrics"]["test"] == Evaluator(DEMO, "test")(PopularityScorer(DEMO, ("train", "valid"))).metrics


@pytest.mark.parametrize("kind", ["ease", "lightgcn"])
def test_refit_trains_the_selected_on_train_and_validation(kind: str, tmp_path: Path) -> None:
    """The same model comes from training on both splits under the published protocol with what was selected."""
    chosen = make_trainer(DEMO, settings(kind, refit=True), run=tmp_path / "refit").fit()
    fixed = {"ease_l2": chosen["selected"]["ease_l2"]} if kind == "ease" else {}
    changes = fixed | {"protocol": "published", "epochs": chosen["best_epoch"], "eval_every": chosen["best_epoch"]}
    published = make_trainer(DEMO, settings(kind, **read_by(kind, changes)), run=tmp_path / "published").fit()
    assert published["metrics"]["test"] == pytest.approx(chosen["metrics"]["test"], abs=1e-12)
    assert published["metrics"]["valid"] is None
    assert "test split" in published["note"]


@pytest.mark.parametrize("kind", ["bpr-mf", "lightgcn"])
def test_a_run_stopped_midway_continues_to_the_same_result(kind: str, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.epoch == 3:
            raise Stop

    whole = make_trainer(DEMO, settings(kind)).fit()
    with pytest.raises(Stop):
        make_trainer(DEMO, settings(kind), run=tmp_path, on_progress=stop).fit()
    resumed = make_trainer(DEMO, settings(kind), run=tmp_path).fit(resume=True)
    for key in ("metrics", "best_epoch", "epochs_run"):
        assert resumed[key] == whole[key]


def test_closed_forms_resume_by_beginning_again_and_refuse_what_does_not_fit(tmp_path: Path) -> None:
    first = make_trainer(DEMO, settings("ease"), run=tmp_path).fit()
    again = make_trainer(DEMO, settings("ease"), run=tmp_path).fit(resume=True)
    assert (again["metrics"], again["selected"]) == (first["metrics"], first["selected"])
    assert len(RunFolder(tmp_path).metrics) == 3
    with pytest.raises(CheckpointError, match="ease_l2"):
        make_trainer(DEMO, settings("ease", ease_l2=7.0), run=tmp_path).fit(resume=True)
    with pytest.raises(IntegrityError):
        make_trainer(small_demo(seed=3), settings("ease"), run=tmp_path).fit(resume=True)
    with pytest.raises(CheckpointError, match="no run to resume"):
        make_trainer(DEMO, settings("ease"), run=tmp_path / "none").fit(resume=True)
    assert RunFolder(tmp_path).result["metrics"] == first["metrics"]


def test_trainers_refuse_kinds_that_are_not_theirs() -> None:
    for trainer, kind in ((Trainer, "ease"), (ClosedFormTrainer, "lightgcn"), (ClosedFormTrainer, "hakg")):
        with pytest.raises(ConfigError, match="make_trainer"):
            trainer(DEMO, settings(kind))
    for kind in ("hakg", "bpr-mf", "lightgcn"):
        assert type(make_trainer(DEMO, settings(kind))) is Trainer
    for kind in ("popularity", "item-knn", "ease"):
        assert type(make_trainer(DEMO, settings(kind))) is ClosedFormTrainer


def test_what_needs_validation_or_memory_says_so_before_the_folder_is_touched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no valid interactions"):
        make_trainer(small_demo(valid=0.0), settings("ease"), run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_kind_or_damaged_model_is_refused(kind: str, tmp_path: Path) -> None:
    make_trainer(DEMO, settings(kind), run=tmp_path).fit()
    folder = RunFolder(tmp_path)
    assert load_model(tmp_path, DEMO).name == kind
    with pytest.raises(IntegrityError):
        load_scorer(tmp_path, small_demo(seed=3))
    tensors, about = folder.load_tensors(folder.model_file)
    name = next(iter(tensors))
    folder.save_tensors(folder.model_file, tensors | {name: torch.zeros(3)}, about)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_scorer(tmp_path, DEMO)
    config = folder.config_file.read_text(encoding="utf-8")
    folder.config_file.write_text(config.replace(f'"{kind}"', '"hakg"'), encoding="utf-8")
    with pytest.raises(CheckpointError, match="kind"):
        load_scorer(tmp_path, DEMO)


def test_own_defaults_come_below_all_that_is_given(tmp_path: Path) -> None:
    for kind, lr in (("bpr-mf", 2e-3), ("lightgcn", 5e-3)):
        resolved = Settings.resolve(overrides={"kind": kind})
        assert (resolved.training.lr, resolved.training.epochs, resolved.training.patience) == (lr, 1000, 40)
        assert Settings.resolve(overrides=[f"kind={kind}", "lr=0.5"]).training.lr == 0.5
        (tmp_path / "c.toml").write_text(f'lr = 0.25\n[model]\nkind = "{kind}"\n')
        assert Settings.resolve(file=tmp_path / "c.toml").training.lr == 0.25
        file = tmp_path / "all.toml"
        file.write_text(resolved.to_toml())
        assert Settings.resolve(file=file) == resolved


# --- commands -----------------------------------------------------------------------------------------------------


def hakg(*args: object) -> str:
    cli = pytest.importorskip("hakg_dgl.cli", reason="python -m pip install -e .")
    result = CliRunner().invoke(cli.main, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return str(result.stdout)


@pytest.mark.parametrize("kind", KINDS)
def test_train_evaluate_and_recommend_by_the_commands(kind: str, tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    DEMO.save(data)
    few = [word for key, value in read_by(kind, FEW | {"dim": 8}).items() for word in ("--set", f"{key}={value}")]
    printed = hakg("train", data, "--model", kind, "--out", run, *few)
    assert ("Best of" in printed) == (kind in ("item-knn", "ease"))
    assert "nan" not in printed
    measured = json.loads(hakg("evaluate", run, "--json", "-"))
    assert measured["model"]["metrics"] == pytest.approx(RunFolder(run).result["metrics"]["test"], abs=1e-12)
    user = DEMO.users["original_id"].iloc[4]
    listed = [json.loads(line) for line in hakg("recommend", run, "--user", user, "--k", 5, "--json").splitlines()]
    assert [row["rank"] for row in listed] == [1, 2, 3, 4, 5]
    own = set(DEMO.items["original_id"].to_numpy()[np.unique(DEMO.pairs()[DEMO.pairs()[:, 0] == 4, 1])])
    assert not own & {row["item"] for row in listed}


# --- recorded figures ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared_dir: Path) -> dict[str, Dataset]:
    names = ("ml-100k", "music")
    return {name: preprocess(read_kgat(shared_dir / "data" / name), PreprocessOptions(valid=0.1)) for name in names}


@pytest.mark.parametrize(
    ("name", "label", "kind", "fixed", "tolerance"),
    [
        ("ml-100k", "EASE (lambda 400)", "ease", 400.0, 1e-4),
        pytest.param("music", "EASE (lambda 100)", "ease", 100.0, 1e-4, marks=pytest.mark.slow),
        # The order of equally popular items is not recorded.
        ("ml-100k", "popularity", "popularity", 1.0, 2e-4),
        ("music", "popularity", "popularity", 1.0, 2e-4),
    ],
)
def test_independent_figures_are_reproduced(
    shared_dir: Path, real: dict[str, Dataset], name: str, label: str, kind: str, fixed: float, tolerance: float
) -> None:
    recorded = json.loads((shared_dir / "reference" / "alternatives.json").read_text(encoding="utf-8"))[name][label]
    result = make_trainer(real[name], settings(kind, protocol="published", **read_by(kind, {"ease_l2": fixed}))).fit()
    found = [result["metrics"]["test"][metric] for metric in ("recall@20", "ndcg@20")]
    assert found == pytest.approx(recorded, abs=tolerance)
