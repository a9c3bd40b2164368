"""Files for other programs: they rank as the model does, in those programs, and say whose rows are whose."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from hakg_dgl.cli import export as command
from hakg_dgl.cli import main
from small_demo import small_demo, small_settings

from hakg_dgl import Dataset, EmbeddingScorer, Trainer, export_to, load_scorer, recommend
from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.insight.program_files import PROGRAMS
from hakg_dgl.ranking.yardsticks import RandomScorer


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return small_demo()


def scorer(n_users: int, n_items: int, dim: int = 24) -> EmbeddingScorer:
    """Vectors of very different lengths, by which inner products and cosines rank differently."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.rand(n_items, 1, generator=draw) * 3
    users, items = (torch.randn(n, dim, generator=draw) for n in (n_users, n_items))
    return EmbeddingScorer(users, items * lengths)


def large() -> tuple[EmbeddingScorer, Dataset]:
    """3,000 items, among which an approximate search can miss some."""
    ids = pd.DataFrame({"original_id": [f"i{at}" for at in range(3000)]})
    named, small = ids.assign(name=ids["original_id"]), small_demo()
    return scorer(60, 3000), dataclasses.replace(small, items=named, entities=named, triples=small.triples[:0])


def session(path: Path) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime", reason="python -m pip install -e .[onnx]")
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_onnx_gives_the_scores_and_lists_of_the_model(dataset: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="python -m pip install -e .[onnx]")
    Trainer(dataset, small_settings(epochs=2), run=tmp_path / "run", data_path=tmp_path / "data").fit()
    dataset.save(tmp_path / "data")
    out = tmp_path / "demo.onnx"
    done = CliRunner().invoke(main, ["export", str(tmp_path / "run"), "--to", "onnx", "--out", str(out)])
    assert done.exit_code == 0, done.output
    trained = load_scorer(tmp_path / "run", dataset)
    users, graph = np.array([3, 0, 59, 3]), session(out)
    (scores,) = graph.run(["scores"], {"user": users})
    expected = trained.scores(torch.from_numpy(users)).detach().numpy()
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    items, best = graph.run(["item", "score"], {"user": users[:3]})
    lists = recommend(trained, users[:3], 20)
    assert items.ravel().tolist() == lists["item"].tolist()
    np.testing.assert_allclose(best.ravel(), lists["score"], rtol=1e-5, atol=1e-5)
    indptr, had = dataset.positives()
    seen = np.zeros((3, dataset.n_items), dtype=bool)
    for row, user in enumerate(users[:3]):
        seen[row, had[indptr[user] : indptr[user + 1]]] = True
    (items,) = graph.run(["item"], {"user": users[:3], "k": np.array([7]), "seen": seen})
    assert items.ravel().tolist() == recommend(trained, users[:3], 7, dataset.positives())["item"].tolist()
    about = json.loads((tmp_path / "demo.onnx.json").read_text())
    assert (about["program"], about["opset"]) == ("onnx", 17)
    assert about["data"]["digest"] == dataset.digest
    assert graph.get_modelmeta().producer_name == "hakg_dgl"


def test_faiss_finds_the_exact_lists(dataset: Dataset, tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss", reason="python -m pip install -e .[index]")
    made, out = scorer(dataset.n_users, dataset.n_items), tmp_path / "deep" / "items.faiss"
    about = export_to("faiss", made, dataset, out, about={"model": {"kind": "mine"}})
    users = pd.read_parquet(f"{out}.users.parquet")
    items = pd.read_parquet(f"{out}.items.parquet")
    assert users["original_id"].tolist() == dataset.users["original_id"].tolist()
    scores, found = faiss.read_index(str(out)).search(np.stack(users["ranking"].to_list()), 10)
    lists = recommend(made, np.arange(dataset.n_users), 10)
    assert found.ravel().tolist() == lists["item"].tolist()
    np.testing.assert_allclose(scores.ravel(), lists["score"], rtol=1e-5, atol=1e-6)
    assert items["original_id"].to_numpy()[found[0, 0]] == dataset.items["original_id"][int(lists["item"][0])]
    assert json.loads(Path(f"{out}.json").read_text()) == about
    assert about["model"] == {"kind": "mine"}
    for name, digest in about["files"].items():
        assert hashlib.sha256((out.parent / name).read_bytes()).hexdigest() == digest
    assert sorted(path.name for path in out.parent.iterdir()) == sorted([*about["files"], "items.faiss.json"])


def test_hnswlib_finds_nearly_all_of_the_exact_lists(tmp_path: Path) -> None:
    hnswlib = pytest.importorskip("hnswlib", reason="python -m pip install -e .[hnswlib], with a compiler of C++")
    made, dataset = large()
    about = export_to("hnswlib", made, dataset, tmp_path / "items.hnsw")
    index = hnswlib.Index(space=about["space"], dim=about["dim"])
    index.load_index(str(tmp_path / "items.hnsw"))
    index.set_ef(about["ef"])
    users = np.stack(pd.read_parquet(tmp_path / "items.hnsw.users.parquet")["ranking"].to_list())
    found, distances = index.knn_query(users, k=100)
    lists = recommend(made, np.arange(60), 100)
    exact = lists["item"].to_numpy().reshape(60, 100)
    recall = np.mean([len(np.intersect1d(a, b)) / 100 for a, b in zip(found, exact, strict=True)])
    assert recall >= 0.93
    assert about["recall"]["value"] >= 0.93
    assert about["ef"] < 3000  # it does not search everything
    best = lists.query("rank == 1")["score"].to_numpy()
    hit = found[:, 0] == exact[:, 0]
    assert hit.mean() > 0.9
    np.testing.assert_allclose(1 - distances[hit, 0], best[hit], rtol=1e-4)
    export_to("hnswlib", made, dataset, tmp_path / "again.hnsw")
    assert (tmp_path / "again.hnsw").read_bytes() == (tmp_path / "items.hnsw").read_bytes()


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(dataset: Dataset, tmp_path: Path) -> None:
    made = scorer(dataset.n_users, dataset.n_items)
    for wrong, kind, message in (
        (lambda: export_to("excel", made, dataset, tmp_path / "x"), ConfigError, "faiss, hnswlib, onnx"),
        (lambda: export_to("faiss", made, dataset, tmp_path), DataError, "is a folder"),
        (
            lambda: export_to("onnx", scorer(9, dataset.n_items), dataset, tmp_path / "x"),
            DataError,
            "vectors of 9 users",
        ),
        (
            lambda: export_to("faiss", RandomScorer(60, 50, 0), dataset, tmp_path / "x"),  # type: ignore[arg-type]
            ConfigError,
            "ranks without vectors",
        ),
    ):
        with pytest.raises(kind, match=message):
            wrong()
    assert not list(tmp_path.iterdir())
    assert command.PROGRAMS == PROGRAMS
