"""Processes that each read their rows of a run rank as one process does that reads it whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hakg_dgl.cli import main as commands
from several_processes import run_in
from small_demo import small_demo, small_settings

from hakg_dgl.data.edge_blocks import SavedEdges
from hakg_dgl.data.owners import hash_owners
from hakg_dgl.data.part_dataset import part_of
from hakg_dgl.data.part_writing import write_parts
from hakg_dgl.distributed.trainer import DistributedTrainer
from hakg_dgl.distributed.vectors import write_vectors
from hakg_dgl.errors import ConfigError
from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.shared_vectors import mapped_scorer
from hakg_dgl.training.loading import load_model
from hakg_dgl.training.trainer import Trainer


def settings_of(kind: str) -> Settings:
    terms = {"linear_rank": 4, "facts_rank": 4, "layers": 2} if kind == "hakg" else {}
    return small_settings(kind, dtype="float64", epochs=1, **terms)


def train_by_two(rank: int, folder: Path) -> None:
    DistributedTrainer(small_demo(), settings_of("hakg"), run=folder / "two").fit()


def write_own(rank: int, folder: Path, data: Path, runs: list[str]) -> None:
    owners = hash_owners(SavedEdges(data), 3)
    part = part_of(small_demo(), owners, rank)
    for run in runs:
        out = folder / f"{run}-vectors"
        out.mkdir(exist_ok=True)
        if run == "kgat":
            with pytest.raises(ConfigError, match="'kgat' is trained by one process"):
                write_vectors(folder / run, part, owners, out)
        else:
            write_vectors(folder / run, part, owners, out)


@pytest.mark.slow
def test_vectors_of_three_processes_are_those_of_one(tmp_path: Path) -> None:
    small_demo().save(tmp_path / "data")
    for kind in ("hakg", "kgat"):
        Trainer(small_demo(), settings_of(kind), run=tmp_path / kind).fit()
    run_in(2, train_by_two, tmp_path)
    (tmp_path / "meeting").unlink(missing_ok=True)
    run_in(3, write_own, tmp_path, tmp_path / "data", ["hakg", "kgat", "two"])
    for run in ("hakg", "two"):
        found = mapped_scorer(tmp_path / f"{run}-vectors")
        expected = load_model(tmp_path / run, small_demo()).ranking_vectors()
        for mine, theirs in zip((found.user_vectors, found.item_vectors), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def hakg(*arguments: object) -> str:
    done = CliRunner().invoke(commands, [str(argument) for argument in arguments])
    return done.stdout if done.exit_code == 0 else f"exit code {done.exit_code}: {done.output}"


@pytest.mark.slow
def test_commands_by_parts_find_what_one_process_does(tmp_path: Path) -> None:
    data, run, parts = tmp_path / "data", tmp_path / "run", tmp_path / "parts"
    small_demo().save(data)
    write_parts(SavedEdges(data), hash_owners(SavedEdges(data), 2), parts, method="hash")
    Trainer(small_demo(), settings_of("lightgcn"), run=run, data_path=data).fit()
    several = ("--processes", 2, "--parts", parts)
    said = [hakg("evaluate", run, "--json", "-", "--device", "cpu", *more) for more in ((), several)]
    assert json.loads(said[0]) == json.loads(said[1])
    assert "--parts is for several processes" in hakg("evaluate", run, "--parts", parts)
    on_a_gpu = hakg("export", run, "--out", tmp_path / "out", *several, "--device", "cuda")
    assert "--processes rank on the CPU" in on_a_gpu
    assert "--processes is for --parts" in hakg("export", run, "--out", tmp_path / "out", "--processes", 2)
    for name, more in (("one", ()), ("two", several)):
        assert "6 files" in hakg("export", run, "--out", tmp_path / name, *more), "ranking vectors of users and items"
    for table in ("users", "items"):
        mine, theirs = (np.load(tmp_path / name / f"{table}.ranking.npy") for name in ("two", "one"))
        np.testing.assert_allclose(mine, theirs, rtol=1e-9)
    assert "there are 2 parts and 3 processes" in hakg("evaluate", run, "--parts", parts, "--processes", 3)
    assert "--parts is for the lists of users that the run knows" in hakg(
        "recommend", run, "--similar-to", "x", *several
    )
