"""The model of a run in one file or in several: what is read is one version, whole."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from hakg_dgl.distributed.ownership import Ownership
from hakg_dgl.distributed.ranks import Ranks
from hakg_dgl.distributed.saving import SharedFiles
from hakg_dgl.errors import CheckpointError
from hakg_dgl.training.model_file import (
    load_model_metadata,
    load_model_tensors,
    model_digest,
    opened_model,
    piece_name,
    save_model,
    save_model_index,
)
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.sharded_state import digest_of, next_number, shard_name

USER = torch.arange(10.0).reshape(5, 2)


def save_two(folder: RunFolder, value: float) -> None:
    """What two processes write: three and two rows of the users, and a matrix in the first file."""
    number, files = next_number(folder, "model"), {}
    parts: list[dict[str, torch.Tensor]] = [
        {piece_name("user", 0, 3): USER[:3] + value, "gate": torch.tensor([value])},
        {piece_name("user", 3, 5): USER[3:] + value},
    ]
    where = {}
    for rank, tensors in enumerate(parts):
        name = shard_name("model", number, rank, 2)
        folder.save_tensors(folder.path / name, tensors, {})
        files[name] = digest_of(folder.path / name)
        where |= dict.fromkeys(tensors, name)
    save_model_index(folder, files, where, {"user": [0, 3, 5]}, 44, {"epoch": int(value), "splits": ["train"]})


def require(found: tuple[dict[str, torch.Tensor], dict[str, Any]], value: float) -> None:
    tensors, about = found
    assert tensors.keys() == {"user", "gate"}
    assert torch.equal(tensors["user"], USER + value)
    assert tensors["gate"].tolist() == [value]
    assert about["epoch"] == value


def test_rows_are_read_without_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hakg_dgl.training.model_file.ROWS_AT_ONCE", 2)
    folder = RunFolder(tmp_path)
    wide = torch.zeros(3, dtype=torch.float64)
    for save in (
        lambda: save_model(folder, {"user": USER + 1, "gate": torch.ones(1)}, {}),
        lambda: save_two(folder, 1.0),
    ):
        save()
        with opened_model(folder) as files:
            assert sorted(files.names) == ["gate", "user"]
            for ids in ([], [0], [4], [1, 2, 3], [0, 1, 2, 3, 4]):
                assert torch.equal(files.rows("user", torch.tensor(ids, dtype=torch.int64)), USER[ids] + 1)
            state = {"user": torch.zeros(5, 2), "gate": torch.zeros(1)}
            files.fill(state)
            assert torch.equal(state["user"], USER + 1)
            assert state["gate"].tolist() == [1.0]
            for other in (
                {"user": torch.zeros(6, 2), "gate": wide[:1].float()},
                {"user": USER},
                {**state, "gate": wide},
            ):
                with pytest.raises(ValueError, match="missing, too many, or of another shape or type"):
                    files.fill(other)


def test_files_of_processes_take_the_place_of_one_file_and_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    save_model(folder, {"user": USER, "gate": torch.zeros(1)}, {"epoch": 0})
    require(load_model_tensors(folder), 0)
    digests = {model_digest(folder)}
    for value in (1.0, 2.0):
        save_two(folder, value)
        require(load_model_tensors(folder), value)
        assert load_model_metadata(folder)["epoch"] == value
        digests.add(model_digest(folder))
        assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert len(digests) == 3
    save_model(folder, {"user": USER + 3, "gate": torch.full((1,), 3.0)}, {"epoch": 3})
    require(load_model_tensors(folder), 3)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_index_says_in_which_file_each_tensor_is(tmp_path: Path) -> None:
    save_two(RunFolder(tmp_path), 1.0)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 44
    assert index["metadata"]["tables"] == {"user": ["user.rows.0-3", "user.rows.3-5"]}
    found = {}
    for name, file in index["weight_map"].items():  # as other programs read such a folder
        with safe_open(tmp_path / file, framework="pt") as handle:
            found[name] = handle.get_tensor(name)
    assert torch.equal(torch.cat([found["user.rows.0-3"], found["user.rows.3-5"]]), USER + 1)


def test_one_process_writes_the_layout_of_several(tmp_path: Path) -> None:
    owners = {"user": torch.zeros(5), "item": torch.zeros(1), "entity": torch.zeros(1)}
    files = SharedFiles(Ranks(), Ownership(owners, 1), tmp_path)
    files.save_model({"user": USER, "gate": torch.zeros(1)}, {"user": "user"}, {"epoch": 0})
    require(load_model_tensors(RunFolder(tmp_path)), 0)


def test_what_is_read_is_never_of_two_versions(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    save_two(folder, 0.0)
    over = threading.Event()

    def write() -> None:
        for value in range(1, 40):
            save_two(folder, float(value))
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not over.is_set():
        found = load_model_tensors(folder)
        require(found, found[1]["epoch"])
        seen.add(found[1]["epoch"])
    writer.join()
    require(load_model_tensors(folder), 39)
    assert seen


def test_damage_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        load_model_tensors(folder)
    save_two(folder, 1.0)
    first, second = sorted(tmp_path.glob("model-*.safetensors"))
    good = second.read_bytes()
    second.write_bytes(first.read_bytes())
    with pytest.raises(CheckpointError, match="another digest"):
        load_model_tensors(folder)
    second.unlink()
    with pytest.raises(CheckpointError, match=second.name):
        load_model_tensors(folder)
    second.write_bytes(good)
    index = json.loads(folder.model_index_file.read_text())
    for change, message in (
        ({"metadata": index["metadata"] | {"format_version": 9}}, "install a newer hakg_dgl"),
        ({"metadata": index["metadata"] | {"files": {"../x.safetensors": ""}}}, "is not the name of a file"),
        ({"metadata": index["metadata"] | {"tables": {"user": ["user.rows.0-9"]}}}, "the pieces of 'user'"),
        ({"weight_map": {**index["weight_map"], "more": first.name}}, "other tensors than it says"),
        ({"metadata": {}}, "does not describe a model"),
    ):
        folder.model_index_file.write_text(json.dumps(index | change))
        with pytest.raises(CheckpointError, match=message):
            load_model_tensors(folder)
