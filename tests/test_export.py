"""Exports: what is written is what the model has, whole or not at all, and an index over it ranks as the model does."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bad_input import COMMAND, contents, hakg
from small_demo import small_demo

from hakg_dgl import HAKG, EmbeddingScorer, build_graph, load_dataset, load_model, recommend
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.insight import export as module
from hakg_dgl.insight.export import export
from hakg_dgl.models.hakg import HAKGSettings
from hakg_dgl.ranking.yardsticks import RandomScorer

EXAMPLE = Path(__file__).resolve().parents[1] / "docs" / "examples" / "nearest_neighbours.py"


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return small_demo()


def untrained(dataset: Dataset, **settings: Any) -> HAKG:
    return HAKG(build_graph(dataset), HAKGSettings(**{"dim": 5, "layers": 2, **settings}), seed=4)


def column(folder: Path, table: str, name: str) -> Any:
    """Vectors of a Parquet file, and that the ``.npy`` file has the same."""
    values = np.stack(pd.read_parquet(folder / f"{table}.parquet")[name].to_list())
    assert np.array_equal(values, np.load(folder / f"{table}.{name}.npy"))
    return values


def test_everything_a_model_knows_is_written(dataset: Dataset, tmp_path: Path) -> None:
    model, out = untrained(dataset), tmp_path / "deep" / "vectors"
    manifest = export(model, dataset, out, about={"model": {"kind": "hakg"}})
    assert json.loads((out / "manifest.json").read_text()) == manifest
    embeddings, (users, items) = model.propagate(all_entities=True), model.ranking_vectors()
    assert embeddings.item is not None
    expected = {
        ("users", "ranking"): users,
        ("users", "parameters"): model.user,
        ("users", "propagated"): embeddings.user,
        ("items", "ranking"): items,
        ("items", "collaborative_parameters"): model.item,
        ("items", "collaborative_propagated"): embeddings.item,
        ("entities", "parameters"): model.entity,
        ("entities", "propagated"): embeddings.entity,
        ("relations", "parameters"): model.relation,
    }
    for (table, name), values in expected.items():
        assert np.array_equal(column(out, table, name), values.detach().numpy()), (table, name)
        file = manifest["files"][f"{table}.{name}.npy"]
        assert (file["shape"], file["dtype"]) == (list(values.shape), "float32")
    assert {path.name for path in out.iterdir()} == {"manifest.json", *manifest["files"]}
    assert len(manifest["files"]) == len(expected) + 4
    assert set(manifest["meaning"]) == {name for _, name in expected}
    assert manifest["data"] == {"name": dataset.name, "digest": dataset.digest}
    assert manifest["model"] == {"kind": "hakg"}


def test_rows_are_numbers_and_relations_have_inverses(dataset: Dataset, tmp_path: Path) -> None:
    export(untrained(dataset), dataset, tmp_path / "v")
    for table in ("users", "items", "entities"):
        written = pd.read_parquet(tmp_path / "v" / f"{table}.parquet")
        frame = getattr(dataset, table)
        assert written["original_id"].tolist() == frame["original_id"].tolist()
        assert written["name"].tolist() == frame["name"].tolist()
    relations = pd.read_parquet(tmp_path / "v" / "relations.parquet")
    names = dataset.relations["name"].tolist()
    assert relations["name"].tolist() == [*names, *names]
    assert relations["inverse"].tolist() == [False] * len(names) + [True] * len(names)


def test_a_model_without_collaborative_embeddings_has_none_of_them(dataset: Dataset, tmp_path: Path) -> None:
    manifest = export(untrained(dataset, dual_item_embeddings=False), dataset, tmp_path / "v")
    assert not [name for name in [*manifest["files"], *manifest["meaning"]] if "collaborative" in name]


def test_a_scorer_with_vectors_is_exported_and_another_refused_by_name(dataset: Dataset, tmp_path: Path) -> None:
    users, items = untrained(dataset).ranking_vectors()
    manifest = export(EmbeddingScorer(users, items), dataset, tmp_path / "v")
    assert np.array_equal(column(tmp_path / "v", "items", "ranking"), items.numpy())
    assert set(manifest["meaning"]) == {"ranking"}
    with pytest.raises(ConfigError, match="a RandomScorer ranks without vectors"):
        export(RandomScorer(dataset.n_users, dataset.n_items, 0), dataset, tmp_path / "w")
    with pytest.raises(DataError, match="ranking vectors of 59 users, but the data set has 60"):
        export(EmbeddingScorer(users[:-1], items), dataset, tmp_path / "w")
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


def test_an_earlier_export_is_replaced_and_nothing_else(dataset: Dataset, tmp_path: Path) -> None:
    model, out = untrained(dataset), tmp_path / "v"
    export(model, dataset, out)
    export(EmbeddingScorer(*model.ranking_vectors()), dataset, out)
    assert not (out / "entities.parameters.npy").exists()
    (out / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "empty").mkdir()
    before = contents(tmp_path)
    for place, problem in (
        (out, "such as 'notes.txt'"),
        (tmp_path / "file", "not a folder"),
        (tmp_path / "link", "link"),
    ):
        with pytest.raises(DataError, match=problem):
            export(model, dataset, place)
    assert contents(tmp_path) == before
    export(model, dataset, tmp_path / "empty")


def test_a_full_disk_leaves_the_earlier_export(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "v"
    export(untrained(dataset), dataset, out)
    before, written = contents(tmp_path), []

    def write_two(table: Any, file: Path) -> None:
        written.append(file)
        if len(written) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        file.write_bytes(b"")

    monkeypatch.setattr(module.pq, "write_table", write_two)
    with pytest.raises(OSError, match="No space left") as caught:
        export(untrained(dataset, dim=3), dataset, out)
    assert caught.value.filename == str(out)
    assert len(written) == 3
    assert contents(tmp_path) == before


@pytest.mark.parametrize("size", [200, 3_000])
def test_a_write_that_fails_says_why(trained: Path, tmp_path: Path, size: int) -> None:
    done = subprocess.run(
        [*COMMAND, "export", trained / "R", "--out", tmp_path / "v", "--device", "cpu"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, f"Error: {tmp_path / 'v'}: {os.strerror(errno.EFBIG)}\n")
    assert list(tmp_path.iterdir()) == []


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_writes_and_says_what(trained: Path, tmp_path: Path) -> None:
    result = hakg("export", trained / "R", "--out", tmp_path / "v", "--device", "cpu")
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "v" / "manifest.json").read_text())
    assert manifest["model"]["kind"] == "hakg"
    assert manifest["model"]["score"] == "inner"
    assert result.stdout == f"Wrote {tmp_path / 'v'}: {len(manifest['files'])} files of " + (
        "12 users, 8 items, 11 entities, 4 relations\n"
    )
    dataset = load_dataset(trained / "D")
    users, _ = load_model(trained / "R", dataset).ranking_vectors()
    assert np.array_equal(np.load(tmp_path / "v" / "users.ranking.npy"), users.numpy())


def test_baselines_are_exported_if_they_have_vectors(work: Path) -> None:
    for kind in ("bpr-mf", "ease"):
        few = ("--epochs", 1) if kind == "bpr-mf" else ()
        result = hakg("train", "D", "--out", kind, "--set", f"kind={kind}", *few)
        assert result.exit_code == 0, result.output
    assert hakg("export", "bpr-mf", "--out", "v").exit_code == 0
    assert json.loads(Path("v/manifest.json").read_text())["model"] == {"kind": "bpr-mf"}
    result = hakg("export", "ease", "--out", "w")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "model 'ease' ranks without vectors" in result.stderr
    assert not Path("w").exists()


def test_a_folder_of_something_else_is_refused(work: Path) -> None:
    before = contents(work)
    result = hakg("export", "R", "--out", "D")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "D: holds something else than an export" in result.stderr
    assert contents(work) == before


# --- the example --------------------------------------------------------------------------------------------------


def test_a_manifest_of_something_else_is_refused_however_deep_it_is(work: Path) -> None:
    (work / "v").mkdir()
    (work / "v" / "manifest.json").write_text("[" * 100_000 + "]" * 100_000)
    result = hakg("export", "R", "--out", "v")
    assert result.exit_code == 2
    assert "v: holds something else than an export, such as 'manifest.json'" in result.stderr


def test_an_index_over_the_vectors_retrieves_the_same_items(dataset: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    model, folder = untrained(dataset, dim=16), tmp_path / "v"
    export(model, dataset, folder)
    ours = recommend(EmbeddingScorer(*model.ranking_vectors()), np.array([7]), 10)
    command = [sys.executable, str(EXAMPLE), str(folder), "user_7", "10"]
    assert dataset.users["original_id"].iloc[7] == "user_7"
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    assert [line.split()[0] for line in printed[1:]] == dataset.items["original_id"].iloc[ours["item"]].tolist()
    assert np.allclose([float(line.split()[-1]) for line in printed[1:]], ours["score"], atol=1e-4)


def test_the_example_ranks_as_the_model_for_every_user(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    import nearest_neighbours

    model = untrained(dataset, dim=16)
    export(model, dataset, tmp_path / "v")
    lists = recommend(EmbeddingScorer(*model.ranking_vectors()), np.arange(dataset.n_users), 5)
    for user, rows in lists.groupby("user"):
        found = nearest_neighbours.recommend(tmp_path / "v", dataset.users["original_id"].iloc[user], 5)
        assert found["original_id"].tolist() == dataset.items["original_id"].iloc[rows["item"]].tolist()
