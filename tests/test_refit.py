"""Training again on train and validation, once the best epoch is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_demo import small_demo, small_settings
from torch import Tensor

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import CheckpointError
from hakg_dgl.ranking.evaluation import evaluate
from hakg_dgl.ranking.topk import EmbeddingScorer
from hakg_dgl.training.loading import load_model, model_splits
from hakg_dgl.training.progress import Progress
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.trainer import Trainer

REFIT = {"refit": True, "epochs": 5}


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
def whole(demo: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    Trainer(demo, small_settings(**REFIT), run=run).fit()
    return run


def weights(run: Path) -> dict[str, Tensor]:
    return RunFolder(run).load_tensors(RunFolder(run).model_file)[0]


def lines(run: Path) -> list[dict[str, Any]]:
    return [{key: line[key] for key in line if key != "seconds"} for line in RunFolder(run).metrics]


def assert_same(run: Path, expected: Path) -> None:
    assert lines(run) == lines(expected)
    mine, theirs = RunFolder(run).result, RunFolder(expected).result
    for key in ("best_epoch", "epochs_run", "stopped", "metrics", "refit"):
        assert mine[key] == theirs[key]
    ours, others = weights(run), weights(expected)
    assert all(torch.equal(ours[name], others[name]) for name in others)


class Stop(Exception):
    """Raised in the middle of training."""


def stop_in_refit(epoch: int, step: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.refit and (progress.epoch, progress.step) == (epoch, step):
            raise Stop

    return report


def test_the_refit_is_a_training_on_both_splits_for_the_selected_number_of_epochs(demo: Dataset, whole: Path) -> None:
    result = RunFolder(whole).result
    assert result["refit"] == {"epochs": result["best_epoch"], "splits": ["train", "valid"]}
    assert model_splits(RunFolder(whole)) == ("train", "valid")
    table = demo.interactions.copy()
    is_valid = table["split"] == "valid"
    merged = table.assign(split=table["split"].where(~is_valid, "train"))
    # The same number of epochs on a data set whose train split holds both; its validation split is never learnt from.
    both = dataclasses.replace(demo, interactions=merged)
    trainer = Trainer(
        both, small_settings(epochs=result["best_epoch"], protocol="published", eval_every=1000, patience=1000)
    )
    trainer.fit()
    trainer.model.take(result["chosen"])
    mine = weights(whole)
    for name, tensor in trainer.model.state_dict().items():
        torch.testing.assert_close(mine[name], tensor, rtol=0, atol=0)


def test_selection_is_that_of_a_run_without_refit(demo: Dataset, whole: Path, tmp_path: Path) -> None:
    result = Trainer(demo, small_settings(epochs=5), run=tmp_path / "run").fit()
    mine = RunFolder(whole).result
    assert result["refit"] is None
    assert (mine["best_epoch"], mine["metrics"]["valid"]) == (result["best_epoch"], result["metrics"]["valid"])
    assert lines(whole)[:5] == lines(tmp_path / "run")
    assert [line["refit"] for line in lines(whole)[5:]] == list(range(1, mine["best_epoch"] + 1))


def test_the_test_metrics_are_those_of_the_refitted_model(demo: Dataset, whole: Path) -> None:
    model = load_model(whole, demo)
    metrics = evaluate(EmbeddingScorer(*model.ranking_vectors()), demo).metrics
    assert metrics == RunFolder(whole).result["metrics"]["test"]


@pytest.mark.parametrize("moment", [(1, 1), (1, 4), (2, 2), (2, 5)])
def test_an_interrupted_refit_resumes_to_the_same_end(
    demo: Dataset, tmp_path: Path, whole: Path, moment: tuple[int, int]
) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stop):
        Trainer(demo, small_settings(**REFIT), run=run, on_progress=stop_in_refit(*moment)).fit()
    assert model_splits(RunFolder(run)) == ("train",)
    Trainer(demo, small_settings(**REFIT), run=run).fit(resume=True)
    assert_same(run, whole)


def test_a_finished_refit_resumes_to_itself(demo: Dataset, tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    Trainer(demo, small_settings(**REFIT), run=run).fit()
    RunFolder(run).model_file.unlink()
    Trainer(demo, small_settings(**REFIT), run=run).fit(resume=True)
    assert_same(run, whole)


@pytest.fixture(scope="module")
def longer(demo: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of more epochs."""
    run = tmp_path_factory.mktemp("longer") / "run"
    Trainer(demo, small_settings(**{**REFIT, "epochs": 9}), run=run).fit()
    return run


@pytest.mark.parametrize("moment", [None, (1, 2), (2, 4)], ids=["finished", "within the refit", "between its epochs"])
def test_a_refitted_run_goes_on_with_more_epochs(
    demo: Dataset, tmp_path: Path, longer: Path, moment: tuple[int, int] | None
) -> None:
    run = tmp_path / "run"
    if moment is None:
        Trainer(demo, small_settings(**REFIT), run=run).fit()
    else:
        with pytest.raises(Stop):
            Trainer(demo, small_settings(**REFIT), run=run, on_progress=stop_in_refit(*moment)).fit()
    Trainer(demo, small_settings(**{**REFIT, "epochs": 9}), run=run).fit(resume=True)
    assert_same(run, longer)
    with pytest.raises(CheckpointError, match="has done 9 epochs already; epochs = 5 is too few"):
        Trainer(demo, small_settings(**REFIT), run=run).fit(resume=True)


def test_going_on_can_be_interrupted_again(demo: Dataset, tmp_path: Path, longer: Path) -> None:
    run, more = tmp_path / "run", small_settings(**{**REFIT, "epochs": 9})
    Trainer(demo, small_settings(**REFIT), run=run).fit()

    def stop(progress: Progress) -> None:
        if not progress.refit and (progress.epoch, progress.step) == (7, 2):
            raise Stop

    with pytest.raises(Stop):
        Trainer(demo, more, run=run, on_progress=stop).fit(resume=True)
    Trainer(demo, more, run=run).fit(resume=True)
    assert_same(run, longer)


def test_a_search_that_patience_ended_stays_over(demo: Dataset, tmp_path: Path) -> None:
    run, settings = tmp_path / "run", small_settings(refit=True, lr=1e-8, epochs=9, patience=1)
    first = Trainer(demo, settings, run=run).fit()
    assert first["epochs_run"] < 9
    again = Trainer(demo, settings.replace({"epochs": 20}), run=run).fit(resume=True)
    assert {key: again[key] for key in ("best_epoch", "epochs_run", "metrics", "refit")} == {
        key: first[key] for key in ("best_epoch", "epochs_run", "metrics", "refit")
    }


def test_fitting_again_starts_from_the_selection(demo: Dataset, tmp_path: Path, whole: Path) -> None:
    trainer = Trainer(demo, small_settings(**REFIT), run=tmp_path / "run")
    trainer.fit()
    trainer.fit()
    assert_same(tmp_path / "run", whole)


def test_published_runs_have_no_refit(demo: Dataset, tmp_path: Path) -> None:
    result = Trainer(demo, small_settings(**REFIT, protocol="published"), run=tmp_path / "run").fit()
    assert result["refit"] is None
    assert len(lines(tmp_path / "run")) == 5
