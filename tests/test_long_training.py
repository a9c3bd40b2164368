"""Numerical faults: training far too fast, the ball's edge, NaN in every phase, of every model, in the command."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from small_demo import read_by, small_demo, small_settings
from torch import Tensor

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import NumericalError
from hakg_dgl.models import ease
from hakg_dgl.models.bpr_mf import BPRMF
from hakg_dgl.models.ease import ease_weights
from hakg_dgl.models.hakg.objective import Objective
from hakg_dgl.training.progress import Progress
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.trainer import Trainer, make_trainer

cli = pytest.importorskip("hakg_dgl.cli", reason="python -m pip install -e .")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import long_training  # noqa: E402

STEPS = 4


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def demo() -> Dataset:
    return small_demo()


@pytest.fixture(scope="module")
def data(demo: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "demo"
    demo.save(path)
    return path


def hakg_train(data: Path, run: Path, **overrides: Any) -> Result:
    small = {"dim": 8, "layers": 1, "batch_size": 160, "lr": 0.01, "epochs": 3, "refit": False}
    values = read_by(overrides.get("kind", "hakg"), small) | overrides
    given = [f"--set={key}={str(value).lower()}" for key, value in values.items()]
    return CliRunner().invoke(cli.main, ["train", str(data), "--out", str(run), "--quiet", *given])


# --- the ball's edge ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "overrides", [{"ranking_loss": "hinge", "linear_weight": 0.0}, {}, {"curvature": 4.0}], ids=str
)
def test_points_stay_in_the_ball_however_fast_training_is(demo: Dataset, overrides: dict[str, Any], dtype: str) -> None:
    found = long_training.watch(demo, small_settings(lr=5.0, dtype=dtype, **overrides), steps=60)
    assert found["steps"] == 60
    assert found["ended"] == "all steps done"
    assert found["largest_tangent"] > 50.0, "too slow to get to the edge: this tests little"
    assert found["largest_point"] == pytest.approx(1.0, abs=1e-6)
    assert found["at_edge"] > 0
    assert found["outside"] == 0
    assert found["not_finite"] == 0


def test_points_that_are_not_in_the_ball_are_counted() -> None:
    inside, edge, beyond = torch.tensor([0.5, 0.0]), torch.tensor([0.996, 0.0]), torch.tensor([0.9999, 0.0])
    found = long_training.count(torch.stack([inside, edge, beyond, inside * math.nan]), limit=0.996)
    assert found == {"outside": 1, "not_finite": 1, "at_edge": 1, "largest_point": pytest.approx(0.9999 / 0.996)}


# --- NaN in every phase -------------------------------------------------------------------------------------------


def nan_from(n: int, inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The objective, NaN from its nth call on."""
    calls = [0]

    def outer(*args: Any) -> Tensor:
        calls[0] += 1
        loss = inner(*args)
        return loss * math.nan if calls[0] >= n else loss

    return outer


@pytest.mark.parametrize("kind", ["hakg", "bpr-mf", "lightgcn"])
@pytest.mark.parametrize("phase", ["the second epoch", "the refit"])
def test_a_loss_that_is_no_number_ends_the_command_with_the_settings_to_change(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, phase: str
) -> None:
    run, folder = tmp_path / "run", RunFolder(tmp_path / "run")
    owner, name = (Objective, "__call__") if kind == "hakg" else (BPRMF, "batch_loss")
    n = STEPS + 2 if phase == "the second epoch" else 3 * STEPS + 2
    evals = {"eval_every": 1, "patience": 3}
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, nan_from(n, getattr(owner, name)))
        result = hakg_train(data, run, kind=kind, refit=True, **evals)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
    epoch = 2 if phase == "the second epoch" else 1
    assert result.stderr.startswith(f"Error: the loss became nan in epoch {epoch}, step 2. Largest row norms: user ")
    assert f"The best model and the last good state are kept in {run}: epoch " in result.stderr
    assert "Lower lr (now 0.01), raise batch_size (now 160)" in result.stderr
    assert ("angle_weight" in result.stderr) == (kind == "hakg")
    tensors, about = folder.load_tensors(folder.model_file)
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    assert about["splits"] == ["train"]
    state, at = folder.load_tensors(folder.state_file)
    assert all(bool(tensor.isfinite().all()) for tensor in state.values() if tensor.is_floating_point())
    assert at["standing"]["epoch"] == (1 if phase == "the second epoch" else 3)
    resumed = CliRunner().invoke(cli.main, ["train", str(data), "--out", str(run), "--resume"])
    assert resumed.exit_code == 0, resumed.output
    assert hakg_train(data, tmp_path / "whole", kind=kind, refit=True, **evals).exit_code == 0
    assert folder.result["metrics"] == RunFolder(tmp_path / "whole").result["metrics"]


@pytest.mark.parametrize("resumed", [False, True])
def test_after_a_refit_that_fails_the_model_is_the_best_of_the_search(
    demo: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resumed: bool
) -> None:
    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.refit and resumed:
            raise Stop

    settings = small_settings(epochs=3, refit=True)
    trainer = Trainer(demo, settings, run=tmp_path / "run", on_progress=stop)
    if resumed:
        with pytest.raises(Stop):
            trainer.fit()
        trainer = Trainer(demo, settings, run=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Objective, "__call__", nan_from(2 if resumed else 3 * STEPS + 2, Objective.__call__))
        with pytest.raises(NumericalError, match="epoch 1, step 2"):
            trainer.fit(resume=resumed)
    folder = RunFolder(tmp_path / "run")
    best = folder.load_tensors(folder.model_file)[0]
    assert trainer.model.graph.packed.interactions.n_edges == len(demo.pairs("train"))
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, best[name]), name


def test_scores_that_overflow_in_the_refit_do_not_replace_the_best_model(
    demo: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights may be finite while their products are not."""

    def spoil(progress: Progress) -> None:
        if progress.refit and progress.stopped:
            with torch.no_grad():
                trainer.model.user.fill_(3e38)
                trainer.model.get_parameter("item").fill_(-3e38)

    trainer = make_trainer(demo, small_settings(kind="bpr-mf", refit=True), run=tmp_path / "run", on_progress=spoil)
    with pytest.raises(NumericalError, match="scores are not finite numbers") as caught:
        trainer.fit()
    assert "Lower lr" in str(caught.value)
    assert RunFolder(tmp_path / "run").load_metadata(tmp_path / "run" / "model.safetensors")["splits"] == ["train"]


def test_a_closed_form_without_a_solution_names_its_settings(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_an_indefinite_matrix(gram: Tensor, l2: float, between: Callable[[], None]) -> Tensor:
        return ease_weights(gram - 1e6 * torch.eye(len(gram), dtype=gram.dtype), l2, between)

    monkeypatch.setattr(ease, "ease_weights", of_an_indefinite_matrix)
    result = hakg_train(data, tmp_path / "run", kind="ease", ease_l2="[20]")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ease has no finite solution for ease_l2 = 20 (linalg.cholesky")
    assert "Raise what regularises it" in result.stderr


# --- an angle loss that does nothing ------------------------------------------------------------------------------


def test_an_angle_loss_without_relations_is_reported(
    demo: Dataset, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr("hakg_dgl.models.hakg.objective.hierarchical_relations", lambda triples: [])
    result = hakg_train(data, run, hierarchical_relations='["auto"]', angle_pairs="items", epochs=1)
    assert result.exit_code == 0, result.output
    (warning,) = RunFolder(run).result["warnings"]
    assert warning.startswith("The angle loss is off: hierarchical_relations = ['auto'] finds no hierarchical relation")
    assert "set angle_weight = 0" in warning
    assert result.stderr.splitlines() == [warning]
    for quiet in (
        {"angle_weight": 0.0, "hierarchical_relations": ["all"]},
        {"hierarchical_relations": ["all"]},
        {"kind": "bpr-mf"},
    ):
        options = read_by(str(quiet.get("kind", "hakg")), {"hierarchical_relations": ["auto"]})
        assert make_trainer(demo, small_settings(**(options | quiet))).warnings == []


def test_relations_between_items_alone_are_reported(demo: Dataset) -> None:
    table = demo.triples.head(1).assign(head=0, tail=1)
    between = dataclasses.replace(demo, triples=table)
    (warning,) = Trainer(between, small_settings()).warnings
    assert "no triple of hierarchical_relations = ['all'] joins an item and an entity that is not an item" in warning
