"""Test pairs that are also in train: left out, kept aside, and counted where a run under protocol published asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from small_demo import small_demo, small_settings

from hakg_dgl import RunFolder, load_dataset, load_model, make_trainer
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError
from hakg_dgl.ranking.evaluation import Evaluator
from hakg_dgl.ranking.topk import EmbeddingScorer

cli = pytest.importorskip("hakg_dgl.cli", reason="python -m pip install -e .")
DEMO = small_demo()


def hakg(*args: object) -> Result:
    return CliRunner().invoke(cli.main, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo in the KGAT layout, a sixth of whose training pairs is in the test part too."""
    folder = tmp_path_factory.mktemp("overlap")
    known = DEMO.pairs("train", "valid")
    parts = {"train": known, "test": np.concatenate([DEMO.pairs("test"), known[::6]])}
    for part, pairs in parts.items():
        rows = [f"{user} {' '.join(map(str, pairs[pairs[:, 0] == user, 1]))}\n" for user in range(DEMO.n_users)]
        (folder / f"{part}.txt").write_text("".join(rows))
    triples = DEMO.triples[["head", "relation", "tail"]].to_numpy()
    (folder / "kg_final.txt").write_text("".join(f"{h} {r} {t}\n" for h, r, t in triples))
    result = hakg("preprocess", folder, "--out", folder / "data")
    assert result.exit_code == 0, result.output
    return folder / "data"


def expected(dataset: Dataset, scores: Any) -> float:
    """Recall@20, user by user, as the released code counts: known items are never listed, and relevant all the same."""
    recalls = []
    overlap = dataset.test_overlap.to_numpy()
    for user in range(dataset.n_users):
        known = {item for u, item in dataset.pairs("train", "valid").tolist() if u == user}
        relevant = {item for u, item in [*dataset.pairs("test").tolist(), *overlap.tolist()] if u == user}
        order = [item for item in np.argsort(-scores[user], kind="stable").tolist() if item not in known][:20]
        if relevant:
            recalls.append(len(relevant & set(order)) / len(relevant))
    return float(np.mean(recalls))


def test_the_pairs_are_kept_aside(data: Path) -> None:
    dataset = load_dataset(data)
    known = {tuple(pair) for pair in DEMO.pairs("train", "valid").tolist()}
    kept = {tuple(pair) for pair in dataset.test_overlap.to_numpy().tolist()}
    assert kept == {tuple(pair) for pair in DEMO.pairs("train", "valid")[::6].tolist()}
    assert kept <= known
    assert dataset.report["train_test_overlap_dropped_from_test"] == len(kept) == dataset.counts["test_overlap"]
    assert sorted(map(tuple, dataset.pairs("test").tolist())) == sorted(map(tuple, DEMO.pairs("test").tolist()))


def test_another_split_has_no_overlap(data: Path, tmp_path: Path) -> None:
    result = hakg("preprocess", data.parent, "--out", tmp_path / "data", "--split", "random")
    assert result.exit_code == 0, result.output
    assert not len(load_dataset(tmp_path / "data").test_overlap)


def test_kept_pairs_are_relevant_and_missed(data: Path) -> None:
    dataset = load_dataset(data)
    generator = torch.Generator().manual_seed(1)
    scorer = EmbeddingScorer(
        torch.randn(dataset.n_users, 4, generator=generator), torch.randn(dataset.n_items, 4, generator=generator)
    )
    scores = scorer.scores(torch.arange(dataset.n_users)).numpy()
    found = Evaluator(dataset, keep_overlap=True)(scorer)
    assert found.metrics["recall@20"] == pytest.approx(expected(dataset, scores))
    assert found.n_masked_relevant == len(dataset.test_overlap)
    assert found.n_relevant == len(dataset.pairs("test")) + len(dataset.test_overlap)
    without = Evaluator(dataset)(scorer)
    assert without.n_masked_relevant == 0
    assert without.metrics["recall@20"] > found.metrics["recall@20"]
    with pytest.raises(ConfigError, match="keep_overlap"):
        Evaluator(dataset, "valid", keep_overlap=True)


@pytest.mark.parametrize("model", ["popularity", "bpr-mf"])
def test_every_output_of_such_a_run_says_so(model: str, data: Path, tmp_path: Path) -> None:
    run, note = tmp_path / "run", "test pairs that are also in train"
    options = ("--epochs", 2, "--set", "dim=4") if model == "bpr-mf" else ()
    trained = hakg("train", data, "--model", model, "--out", run, "--protocol", "published", "--keep-overlap", *options)
    assert trained.exit_code == 0, trained.output
    assert note in trained.stdout
    dataset, result = load_dataset(data), RunFolder(run).result
    assert note in result["note"]
    scorer = load_model(run, dataset).scorer()
    scores = np.asarray(scorer.scores(torch.arange(dataset.n_users)))
    assert result["metrics"]["test"]["recall@20"] == pytest.approx(expected(dataset, scores))
    measured = hakg("evaluate", run, "--json", "-")
    assert measured.exit_code == 0, measured.output
    about = json.loads(measured.stdout)
    assert note in about["notes"][0]
    assert about["model"]["metrics"]["recall@20"] == pytest.approx(result["metrics"]["test"]["recall@20"])
    assert about["model"]["n_masked_relevant"] == len(dataset.test_overlap)
    if model == "popularity":
        plain = tmp_path / "plain"
        assert hakg("train", data, "--model", model, "--out", plain, "--protocol", "published").exit_code == 0
        assert RunFolder(plain).result["metrics"]["test"]["recall@20"] > result["metrics"]["test"]["recall@20"]
        assert note not in RunFolder(plain).result["note"]
        mixed = hakg("compare", run, plain)
        assert (mixed.exit_code, "keep_overlap" in mixed.stderr) == (2, True)


def test_it_is_refused_where_it_has_no_meaning(data: Path) -> None:
    for kind in ("bpr-mf", "popularity"):
        with pytest.raises(ConfigError, match="protocol = 'published'"):
            make_trainer(DEMO, small_settings(kind, keep_overlap=True))
        with pytest.raises(ConfigError, match="no test pairs that are also in train"):
            make_trainer(DEMO, small_settings(kind, protocol="published", keep_overlap=True))
