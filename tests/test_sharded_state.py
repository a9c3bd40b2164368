"""States in several files: put together as they were, and never half of one and half of another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hakg_dgl.errors import CheckpointError
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.sharded_state import (
    digest_of,
    index_file,
    load_sharded,
    next_number,
    remove_shards,
    remove_unnamed,
    save_index,
    shard_name,
)

AXES = {"model.user": "user"}


def save_shard(folder: RunFolder, name: str, tensors: dict[str, torch.Tensor]) -> str:
    folder.save_tensors(folder.path / name, tensors, {"rows_of": AXES})
    return digest_of(folder.path / name)


def load(folder: RunFolder, stem: str = "state") -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return load_sharded(index_file(folder, stem), folder)


def save(folder: RunFolder, value: float, owners: tuple[tuple[int, ...], ...] = ((0, 3), (1, 2))) -> None:
    """A state of as many files as owners, whose rows are the value plus their number."""
    number, files = next_number(folder, "state"), {}
    for rank, rows in enumerate(owners):
        ids = torch.tensor(rows)
        tensors = {"model.user": (value + ids).unsqueeze(1), "rows.user": ids}
        if rank == 0:
            tensors["random.batches"] = torch.tensor([7])
        name = shard_name("state", number, rank, len(owners))
        files[name] = save_shard(folder, name, tensors)
    save_index(folder, "state", files, {"epoch": value})


def test_a_state_is_put_together_and_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    save(folder, 10.0)
    save(folder, 20.0, ((2,), (0, 1), (3,)))
    tensors, about = load(folder)
    assert tensors["model.user"].flatten().tolist() == [20.0, 21.0, 22.0, 23.0]
    assert tensors.keys() == {"model.user", "random.batches"}
    assert about == {"epoch": 20.0}
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    searched = shard_name("search", 1, 0, 1)
    ids = torch.arange(4)
    digest = save_shard(folder, searched, {"model.user": ids.clone().unsqueeze(1), "rows.user": ids})
    save_index(folder, "search", {searched: digest}, {"epoch": 1.0})
    assert load(folder, "search")[0]["model.user"].flatten().tolist() == [0, 1, 2, 3]
    remove_shards(folder, "state")
    assert sorted(file.name for file in tmp_path.iterdir()) == [searched, "search.index.json"]
    remove_shards(folder, "search")
    assert list(tmp_path.iterdir()) == []


def test_before_the_index_is_replaced_the_earlier_state_is_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    save(folder, 10.0)
    name = shard_name("state", next_number(folder, "state"), 0, 2)  # killed here: one of two files is written
    save_shard(folder, name, {"model.user": torch.zeros(2, 1), "rows.user": torch.tensor([0, 3])})
    assert load(folder)[0]["model.user"].flatten().tolist() == [10.0, 11.0, 12.0, 13.0]
    remove_unnamed(folder)
    assert not (tmp_path / name).exists()
    assert load(folder)[0]["model.user"].flatten().tolist() == [10.0, 11.0, 12.0, 13.0]
    save_shard(folder, name, {"model.user": torch.zeros(2, 1), "rows.user": torch.tensor([0, 3])})
    save(folder, 30.0)
    assert not (tmp_path / name).exists()


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    save(folder, 10.0, ((0, 3), (1, 1)))
    with pytest.raises(CheckpointError, match=r"do not have every row of model\.user once"):
        load(folder)
    save(folder, 10.0)
    name = next(name for name in folder.read_index(folder.state_index_file)["files"] if "-00001-of" in name)
    good = (tmp_path / name).read_bytes()
    save_shard(folder, name, {"model.user": torch.zeros(2, 1), "rows.user": torch.tensor([1, 2])})
    with pytest.raises(CheckpointError, match="another digest"):
        load(folder)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load(folder)
    (tmp_path / name).write_bytes(good)
    index = folder.read_index(folder.state_index_file)
    folder.state_index_file.write_text(json.dumps(index | {"files": {"../model.safetensors": ""}}))
    with pytest.raises(CheckpointError, match="is not the name of a file of a state"):
        load(folder)
    folder.state_index_file.write_text(json.dumps(index | {"format_version": 9}))
    with pytest.raises(CheckpointError, match="install a newer hakg_dgl"):
        load(folder)
