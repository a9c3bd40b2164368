"""The yardstick computes what the package does, and the benchmarks run from end to end at a tiny size."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from small_demo import small_demo
from torch import Tensor
from with_dgl import needs_dgl

from hakg_dgl.data.kgat_files import write_kgat
from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
from hakg_dgl.data.random_graphs import generate_like
from hakg_dgl.data.readers.kgat import read_kgat
from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.evaluation import evaluate
from hakg_dgl.ranking.topk import EmbeddingScorer
from hakg_dgl.training.trainer import Trainer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import before_steps
import big_log
import measure
import models
import naive
import new_items
import partition
import scaling
import speed
import stages
import training_step

COUNTS = {"users": 40, "items": 60, "entities": 150, "relations": 4, "triples": 500, "train": 500, "test": 120}
FEW = ["batch_size=128", "negatives=8", "dim=16"]
# Message dropout draws other numbers: the package leaves out the rows of the last layer that nobody reads.
EDGE_DROPOUT = {"kg_edge_dropout": 0.5, "interaction_dropout": 0.3, "message_dropout": 0.0, "angle_dropout": 0.0}
NO_DROPOUT = dict.fromkeys(EDGE_DROPOUT, 0.0)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for work on graphs this small cost more than they do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def dataset() -> Any:
    return preprocess(generate_like(COUNTS), PreprocessOptions(valid=0.0))


def make_trainer(dataset: Any, **changes: Any) -> Trainer:
    base = {
        "device": "cpu",
        "protocol": "published",
        "dtype": "float64",
        "dim": 16,
        "negatives": 8,
        "angle_weight": 0.5,
    }
    return Trainer(dataset, Settings.resolve(preset="paper", overrides=base | {"batch_size": 128} | changes))


def loss_and_gradients(trainer: Trainer, objective: Any) -> tuple[float, list[Tensor]]:
    for name, generator in trainer.trainee.passes[0].loss.generators.items():
        generator.manual_seed(len(name))
    users, positives = next(iter(trainer.trainee.passes[0].batches))
    loss = objective(users, positives)
    return loss.item(), list(torch.autograd.grad(loss, list(trainer.model.parameters())))


@pytest.mark.parametrize("dropout", [NO_DROPOUT, EDGE_DROPOUT], ids=["whole", "dropped"])
@pytest.mark.parametrize(
    "changes",
    [
        {"formulation": "released"},
        {"formulation": "paper", "curvature": 0.5, "angle_direction": "attribute", "layers": 2},
    ],
    ids=["released", "paper"],
)
def test_the_yardstick_agrees_in_values_and_gradients(dataset: Any, changes: dict[str, Any], dropout: Any) -> None:
    trainer = make_trainer(dataset, margin=-0.2, **changes, **dropout)
    with torch.no_grad():  # longer vectors than at the start, so that curvature shows
        trainer.model.entity.mul_(4.0)
    ours, gradients = loss_and_gradients(trainer, trainer.trainee.passes[0].loss)
    theirs, naive_gradients = loss_and_gradients(trainer, naive.NaiveObjective(trainer.trainee.passes[0].loss))
    assert theirs == pytest.approx(ours, rel=1e-9)
    for mine, other in zip(gradients, naive_gradients, strict=True):
        assert float(mine.abs().max()) > 0.0
        torch.testing.assert_close(other, mine, rtol=0.0, atol=1e-8 * float(mine.abs().max()))


def test_the_yardstick_has_the_same_embeddings(dataset: Any) -> None:
    trainer = make_trainer(dataset)
    expected = trainer.model.propagate(all_entities=True)
    found = naive.NaiveObjective(trainer.trainee.passes[0].loss).propagate()
    for name in ("user", "entity", "item"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0.0, atol=1e-10)


def test_the_yardstick_splits_the_angle_loss(dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(dataset)
    whole = naive.angle_loss(trainer.trainee.passes[0].loss.angle, trainer.model.entity, None)
    monkeypatch.setattr(naive, "ANGLE_CHUNK", 100)
    torch.testing.assert_close(
        naive.angle_loss(trainer.trainee.passes[0].loss.angle, trainer.model.entity, None), whole
    )


def test_the_yardstick_is_the_full_model_only(dataset: Any) -> None:
    with pytest.raises(ValueError, match="ablations"):
        naive.NaiveObjective(make_trainer(dataset, gate=False).trainee.passes[0].loss)


@pytest.mark.parametrize("changes", [{"degree_exponent": 0.5}, {"gate_l2": 0.1}, {"ranking_loss": "softmax"}])
def test_the_yardstick_is_the_published_model_only(dataset: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="published"):
        naive.NaiveObjective(make_trainer(dataset, **changes).trainee.passes[0].loss)


def test_the_yardstick_ranks_alike(dataset: Any) -> None:
    vectors = make_trainer(dataset).model.ranking_vectors()
    expected = evaluate(EmbeddingScorer(*vectors), dataset, ks=(10,)).metrics
    assert naive.evaluate(*vectors, dataset, 10) == pytest.approx(expected)


@needs_dgl
def test_the_yardstick_reads_alike(tmp_path: Path) -> None:
    write_kgat(generate_like(COUNTS), tmp_path)
    found, expected = naive.read_kgat(tmp_path), preprocess(read_kgat(tmp_path), PreprocessOptions(valid=0.0))
    for lists, split in ((found.train, "train"), (found.test, "test")):
        assert [[user, item] for user in sorted(lists) for item in lists[user]] == expected.pairs(split).tolist()
    assert [list(triple) for triple in sorted(found.triples)] == expected.triples.to_numpy().tolist()
    graph = build_graph(expected)
    assert (found.graph.num_edges(), found.graph.num_nodes("entity")) == (graph.num_edges(), graph.n_entities)
    assert len(found.graph.canonical_etypes) == len(graph.canonical_etypes)


def test_timing_the_stages_changes_no_number(dataset: Any) -> None:
    trained = []
    for timed in (False, True):
        trainer = make_trainer(dataset)
        batch = next(iter(trainer.trainee.passes[0].batches))
        if timed:
            clock = stages.StageClock(trainer.device)
            trainer.model.executor = stages.TimedExecutor.around(trainer.model.executor, clock)
            stages.timed_step(trainer, batch, clock)
            assert clock.backward["aggregation"] > 0.0
            assert min(clock.backward.values()) >= 0.0
        else:
            training_step.step(trainer, trainer.trainee.passes[0].loss, batch)
        trained.append([parameter.detach().clone() for parameter in trainer.model.parameters()])
    for plain, with_clock in zip(*trained, strict=True):
        assert torch.equal(plain, with_clock)


def test_stages_leave_the_model_as_it_was(dataset: Any) -> None:
    trainer = make_trainer(dataset)
    executor = trainer.model.executor
    rows = stages.stage_rows(trainer, 1, 1e9)
    assert trainer.model.executor is executor
    assert "fused_items" not in vars(trainer.model)
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    assert all(row["gathered_bytes"] >= row["least_bytes"] > 0 for row in rows)


@needs_dgl  # the yardstick reads its graph by DGL
def test_speed_runs_and_shows_no_verdict_on_tiny_graphs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--tiny",
        "--threads",
        "1",
        "--repeats",
        "1",
        "--naive-steps",
        "1",
        "--json",
        str(tmp_path / "speed.json"),
    ]
    speed.main([*arguments, "--set", *FEW])
    out = capsys.readouterr().out
    assert "missed" not in out
    assert "275 s" not in out
    saved = json.loads((tmp_path / "speed.json").read_text())
    assert str(tmp_path) not in saved["command"]
    assert list(saved["sections"]) == list(speed.Benchmark.sections)
    large = saved["sections"]["large"]
    assert set(large) == {"rows", "package", "naive"}  # both ran, in a process of their own
    assert large["package"]["peak_bytes"] >= large["package"]["ready_bytes"] > 1e8
    rows = [row for section in saved["sections"].values() for row in section["rows"]]
    assert all(row["package"] > 0 and row["naive"] > 0 for row in rows)


@needs_dgl
def test_scaling_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def here(folder: Path, options: list[str]) -> dict[str, Any]:
        training_step.main([str(folder), *options])
        line = json.loads(capsys.readouterr().out.splitlines()[-1])
        return {line["what"]: line}

    monkeypatch.setattr(scaling, "in_subprocess", here)  # that a process of its own works, the test above shows
    scaling.main(["--scales", "0.04", "0.004", "1e6", "--threads", "1", "--repeats", "1", "--set", *FEW, "layers=1"])
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("| 0.0")]
    assert [row.split()[1] for row in rows] == ["0.004", "0.04"]
    assert "| 1e+06 | - | - | - | - | left out: needs about" in out
    assert "From 0.004 to 0.04 times" in out


def test_memory_is_foreseen_from_the_sizes_measured() -> None:
    done = [{"scale": 0.1, "peak_bytes": 6e8}, {"scale": 1.0, "peak_bytes": 2.4e9}]
    assert scaling.estimate(10.0, []) == pytest.approx(4e10)
    assert scaling.estimate(1.0, done[:1]) == pytest.approx(6e9)
    assert scaling.estimate(1.0, [{**done[0], "before_bytes": 1e8}]) == pytest.approx(5.1e9)
    assert scaling.estimate(10.0, done) == pytest.approx(2.04e10)  # 0.4 GB, and 2 GB for each time


def test_targets_apply_to_what_they_are_about() -> None:
    assert scaling.verdict(9.9) == "aim met"
    assert scaling.verdict(11.0) == "must met"
    assert scaling.verdict(12.1) == "missed"
    cells = {s: speed.Row("x", s, 10.0, speed.TARGETS["epoch"]).cells() for s in (2.5, 8.0, 8.1)}
    assert [line[-1] for line in cells.values()] == ["aim", "must", "**missed**"]
    assert cells[2.5][4] == "4x"


def test_a_process_that_dies_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert "out of memory?" in training_step.in_subprocess(tmp_path, [])["died"]["skipped"]


def test_peak_memory_follows_what_is_held() -> None:
    cpu = torch.device("cpu")
    before = measure.peak_memory(cpu)
    block = torch.ones(before, dtype=torch.int8)
    assert len(block) < measure.peak_memory(cpu) <= 3 * before
    assert measure.free_memory(cpu) > 0


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_big_log_is_generated_and_read(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "big.json"
    sizes = ["--interactions", "4000", "--users", "50", "--items", "30", "--format", kind]
    big_log.main([*sizes, "--folder", str(tmp_path), "--json", str(out)])
    found = json.loads(out.read_text())
    found = found.get("values", found)
    assert "| 4,000 |" in capsys.readouterr().out
    assert found["counts"]["interactions"] + found["repeats"] == 4000
    assert found["counts"]["triples"] > 80
    assert found["peak_bytes"] > 10**8


def test_parts_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--scale", "0.01", "--parts", "2", "3", "--methods", "hash", "range"]
    partition.main([*sizes, "--json", str(tmp_path / "parts.json")])
    shown = capsys.readouterr().out
    assert [line.split("|")[2].strip() for line in shown.splitlines()[4:]] == ["hash", "range"] * 2


@pytest.mark.slow
def test_epochs_are_timed_and_an_interpreter_without_recbole_is_a_row_with_its_reason(
    dataset: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset.save(tmp_path / "data")
    few = ["--models", "cke", "--epochs", "1", "--rounds", "1", "--recbole", sys.executable]
    models.main([str(tmp_path / "data"), *few])
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("| cke"))
    assert "No module named 'recbole'" in row or re.search(r"0\.\d\d \|$", row)
    assert re.match(r"\| cke \| [\d.]+ m?s \|", row)


def test_what_recbole_reads_is_what_is_trained_on(dataset: Any, tmp_path: Path) -> None:
    models.write_atomic_files(dataset, tmp_path)
    tables = {name: pd.read_csv(tmp_path / f"data/data.{name}", sep="\t") for name in ("inter", "kg", "link")}
    assert list(tables["inter"]) == ["user_id:token", "item_id:token"]
    assert [tuple(row) for row in tables["inter"].to_numpy()] == [tuple(row) for row in dataset.pairs("train")]
    assert len(tables["kg"]) == len(dataset.triples)
    assert len(tables["link"]) == dataset.n_items


def test_new_items_of_a_cold_split_are_taken_out_and_ranked_again() -> None:
    data = small_demo(split="cold-items")
    part, whole, chosen = new_items.divided(data)
    assert (whole.n_items, whole.n_entities, len(whole.triples)) == (data.n_items, data.n_entities, len(data.triples))
    assert sorted(whole.items["original_id"]) == sorted(data.items["original_id"])
    assert len(chosen) == len(data.pairs("test"))
    assert chosen[:, 1].min() >= part.n_items
    named = [whole.entities["original_id"].to_numpy()[whole.triples[end]] for end in ("head", "tail")]
    expected = [data.entities["original_id"].to_numpy()[data.triples[end]] for end in ("head", "tail")]
    assert sorted(zip(*named, strict=True)) == sorted(zip(*expected, strict=True))
    row = new_items.ranked("facts-profile", part, whole, chosen, 1)
    assert float(row.split("|")[2].split("±")[0]) > 0.5


def test_what_comes_before_the_steps_is_timed_in_any_way(
    dataset: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset.save(tmp_path / "data")
    options = ["--data", str(tmp_path / "data"), "--ranks", "4", "6", "--threads", "1", "--way", "blocks"]
    before_steps.main([*options, "--json", str(tmp_path / "before.json")])
    assert "| items by facts |" in capsys.readouterr().out
    taken = json.loads((tmp_path / "before.json").read_text())["taken"]
    assert list(taken) == [
        "graph",
        "edges joined",
        "orders of edges",
        "items by items",
        "facts of items",
        "items by facts",
    ]
    assert all(min(took.values()) >= 0.0 for took in taken.values())
