"""Whole trainings by several processes come to the numbers of one."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from several_processes import run_in
from small_demo import small_demo, small_settings

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.edge_blocks import SavedEdges
from hakg_dgl.data.owners import Owners, hash_owners
from hakg_dgl.data.part_dataset import read_part
from hakg_dgl.data.part_writing import write_parts
from hakg_dgl.data.parts import Parts
from hakg_dgl.distributed.group import require_alike
from hakg_dgl.distributed.trainer import DistributedTrainer
from hakg_dgl.errors import ConfigError
from hakg_dgl.models.settings import Settings
from hakg_dgl.training.model_file import load_model_tensors
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.trainer import Trainer

VALUES: dict[str, dict[str, Any]] = {
    "hakg": {"epochs": 3, "refit": True, "message_dropout": 0.2, "candidates": 20, "linear_rank": 8, "facts_rank": 8},
    "lightgcn": {"epochs": 3, "eval_every": 1},
}


def settings_of(kind: str, **more: Any) -> Settings:
    return small_settings(kind, dtype="float64", **{**VALUES[kind], **more})


def train(rank: int, folder: Path, kind: str, more: dict[str, Any], resume: bool) -> None:
    trainer = DistributedTrainer(small_demo(), settings_of(kind, **more), run=folder / "run")
    result = trainer.fit(resume=resume)
    (folder / f"{rank}.json").write_text(json.dumps(result["metrics"]))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    run = RunFolder(folder / "run")
    return load_model_tensors(run)[0]


def require_same(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name in first.keys() & {"user", "item", "entity", "relation"}:
        torch.testing.assert_close(first[name], second[name], rtol=1e-6, atol=1e-9)
    metrics = [RunFolder(folder / "run").result["metrics"] for folder in (one, other)]
    assert metrics[0]["test"] == pytest.approx(metrics[1]["test"], rel=1e-9)


@pytest.mark.slow
def test_lightgcn_without_dropout_comes_to_what_the_trainer_of_one_process_does(tmp_path: Path) -> None:
    run_in(2, train, tmp_path / "two", "lightgcn", {}, False)
    Trainer(small_demo(), settings_of("lightgcn"), run=tmp_path / "one" / "run").fit()
    require_same(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two" / "0.json").read_text() == (tmp_path / "two" / "1.json").read_text()


@pytest.mark.slow
def test_hakg_with_dropout_and_refit_comes_to_the_same_with_one_process_and_two(tmp_path: Path) -> None:
    for size, name in ((1, "one"), (2, "two")):
        run_in(size, train, tmp_path / name, "hakg", {}, False)
    require_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_with_three(tmp_path: Path) -> None:
    run_in(1, train, tmp_path / "one", "lightgcn", {}, False)
    run_in(2, train, tmp_path / "other", "lightgcn", {"epochs": 1}, False)
    (tmp_path / "other" / "meeting").unlink(missing_ok=True)
    saved = sorted(file.name for file in (tmp_path / "other" / "run").glob("state*"))
    assert len(saved) == 3, saved  # what each process had, and the index
    assert saved[-1] == "state.index.json"
    run_in(3, train, tmp_path / "other", "lightgcn", {}, True)
    require_same(tmp_path / "one", tmp_path / "other")


def differ(rank: int, folder: Path) -> None:
    settings = settings_of("lightgcn", lr=0.01 if rank == 0 else 0.02)
    with pytest.raises(ConfigError, match=r"process 1 has other settings \(\w+, there \w+\) than process 0"):
        require_alike(small_demo(), settings)
    require_alike(small_demo(), settings_of("lightgcn"))
    with pytest.raises(ConfigError, match=r"process 1 has other data \(\w+, there \w+\) than"):
        require_alike(small_demo(seed=rank), settings_of("lightgcn"))


def test_processes_with_other_settings_or_data_are_refused_in_all_of_them(tmp_path: Path) -> None:
    run_in(2, differ, tmp_path)


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def hold(rank: int, folder: Path, kind: str) -> None:
    """Train on the parts of a folder; write the bytes of parameters, optimizers and edges that this process has."""
    parts = Parts(folder / "parts")
    owners = Owners(2, *(np.array(parts.owners(of)) for of in ("users", "entities")))
    trainer = DistributedTrainer(read_part(parts, rank), settings_of(kind), run=folder / "run", owners=owners)
    trainer.fit()
    trainee = trainer.shared.shared
    shard = trainee.shard
    own = list(shard.model.parameters())
    states = [value for o in trainee.optimizers.values() for slots in o.state.values() for value in slots.values()]
    held = {id(t): t for t in gc.get_objects() if isinstance(t, torch.nn.Parameter)}
    edges = shard.to_users.pattern.n_edges  # type: ignore[attr-defined]
    found = {"own": bytes_of(own), "states": bytes_of(states), "all": bytes_of(held.values()), "edges": edges}
    (folder / f"{rank}.json").write_text(json.dumps(found))


def test_a_process_reads_its_part_alone_and_holds_its_rows_alone(tmp_path: Path) -> None:
    data = small_demo()
    data.save(tmp_path / "data")
    edges = SavedEdges(tmp_path / "data")
    write_parts(edges, hash_owners(edges, 2), tmp_path / "two" / "parts", method="hash")
    run_in(2, hold, tmp_path / "two", "lightgcn")
    found = [json.loads((tmp_path / "two" / f"{rank}.json").read_text()) for rank in range(2)]
    whole = (data.n_users + data.n_items) * 8 * 8  # dim 8, float64
    assert sum(each["own"] for each in found) == whole
    assert sum(each["edges"] for each in found) == len(data.pairs("train"))
    for each in found:
        assert each["all"] == each["own"]  # no other parameter in the process
        assert each["own"] == pytest.approx(whole / 2, rel=0.25)  # by hash: even by chance
        assert each["states"] == pytest.approx(2 * each["own"], abs=64)  # Adam's, and the numbers of steps
    Trainer(data, settings_of("lightgcn"), run=tmp_path / "one" / "run").fit()
    require_same(tmp_path / "one", tmp_path / "two")


def apart(rank: int, folder: Path, epochs: int, resume: bool) -> None:
    """Train where only the first process sees the folder of the run."""
    run = folder / "run" if rank == 0 else folder / "elsewhere" / "run"
    DistributedTrainer(small_demo(), settings_of("lightgcn", epochs=epochs), run=run).fit(resume=resume)


def test_the_first_process_writes_the_files_of_those_that_do_not_see_its_folder(tmp_path: Path) -> None:
    run_in(2, apart, tmp_path / "two", 1, False)
    (tmp_path / "two" / "meeting").unlink(missing_ok=True)
    assert not (tmp_path / "two" / "elsewhere").exists()
    for stem in ("state", "model"):
        assert len(list((tmp_path / "two" / "run").glob(f"{stem}-*-of-00002.safetensors"))) == 2
    run_in(2, apart, tmp_path / "two", 3, True)
    Trainer(small_demo(), settings_of("lightgcn"), run=tmp_path / "one" / "run").fit()
    require_same(tmp_path / "one", tmp_path / "two")


def tiny() -> Dataset:
    """Two users, three items and four interactions: most of five processes have nothing of one kind."""

    def named(n: int) -> pd.DataFrame:
        ids = [str(number) for number in range(n)]
        return pd.DataFrame({"original_id": ids, "name": ids})

    pairs = {"user": [0, 0, 0, 1], "item": [0, 1, 2, 1], "split": ["train", "valid", "test", "train"]}
    facts = {"head": [0, 1], "relation": [0, 0], "tail": [3, 3]}
    return Dataset("tiny", pd.DataFrame(pairs), pd.DataFrame(facts), named(2), named(3), named(4), named(1))


def train_tiny(rank: int, folder: Path, kinds: list[str]) -> None:
    for kind in kinds:
        ranks = {"linear_rank": 2, "facts_rank": 2, "refit": True} if kind == "hakg" else {}
        settings = small_settings(kind, dtype="float64", epochs=2, dim=4, **ranks)
        DistributedTrainer(tiny(), settings, run=folder / kind / "run").fit()


@pytest.mark.slow
def test_more_processes_than_users_and_interactions_come_to_the_same(tmp_path: Path) -> None:
    kinds = ["bpr-mf", "lightgcn", "hakg"]
    for size, name in ((1, "one"), (5, "five")):
        run_in(size, train_tiny, tmp_path / name, kinds)
    for kind in kinds:
        require_same(tmp_path / "one" / kind, tmp_path / "five" / kind)
