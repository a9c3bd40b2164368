"""Evaluation by several processes finds what one finds, bit by bit, whatever is asked for and whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hakg_dgl.cli import main as commands
from small_demo import small_demo, small_settings

from hakg_dgl.errors import DataError
from hakg_dgl.ranking import topk
from hakg_dgl.ranking.evaluation import Evaluator, cold_items
from hakg_dgl.ranking.shared_vectors import mapped_scorer, save_vectors
from hakg_dgl.ranking.together import Together, _Work
from hakg_dgl.ranking.topk import EmbeddingScorer
from hakg_dgl.ranking.yardsticks import PopularityScorer, RandomScorer
from hakg_dgl.training.loading import load_scorer, open_scorer
from hakg_dgl.training.trainer import make_trainer

ASKED = {
    "all": {"groups": True, "per_user": True, "also": ("map", "auc", "diversity", "novelty", "coverage")},
    "sampled": {"sampled": 7, "sample_seed": 3, "per_user": True, "also": ("auc",)},
    "cold": {"candidates": "cold"},
}


def evaluator_of(name: str) -> Evaluator:
    data, options = small_demo(), dict(ASKED[name])
    if "candidates" in options:
        options["candidates"] = [*cold_items(data), 1, 5, 8, 13]
    return Evaluator(data, "test", (5, 20), **options)  # type: ignore[arg-type]


def scorer() -> EmbeddingScorer:
    data, generator = small_demo(), torch.Generator().manual_seed(7)
    return EmbeddingScorer(*(torch.randn(n, 4, generator=generator) for n in (data.n_users, data.n_items)))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "SCORES_PER_BLOCK", 3 * small_demo().n_items)  # three users at once


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process leave the share of the others to them, who take longer to start than all takes."""
    places = _Work.places

    def own_places(self: _Work, number: int) -> Iterator[int]:
        n_blocks, began = -(-self.about["n"] // self.about["block"]), time.monotonic()
        yield from range(number, n_blocks, self.about["processes"])
        while not all(map(self._is_done, range(n_blocks))):
            assert time.monotonic() - began < 60, "the others do nothing"
            time.sleep(0.02)
        assert not list(places(self, number))

    monkeypatch.setattr(_Work, "places", own_places)


@pytest.mark.slow
@pytest.mark.parametrize("name", ASKED)
def test_two_processes_find_what_one_does(name: str, small_blocks: None, patient: None) -> None:
    evaluator, data = evaluator_of(name), small_demo()
    scorers = scorer(), PopularityScorer(data), RandomScorer(data.n_users, data.n_items, 5)
    with Together(evaluator, 2) as ranked:
        found = [ranked(each) for each in scorers]
        if name == "sampled":
            with pytest.raises(DataError, match="the scorer has 3 users"):
                ranked(RandomScorer(3, data.n_items, 5))
    assert ranked.lost == []
    for each, expected in zip(found, map(evaluator, scorers), strict=True):
        assert json.dumps(each.to_dict()) == json.dumps(expected.to_dict())
        if expected.per_user is not None and each.per_user is not None:
            assert each.per_user.equals(expected.per_user)


def test_a_process_that_is_killed_or_hangs_costs_its_help_alone(small_blocks: None) -> None:
    evaluator = evaluator_of("all")
    with Together(evaluator, 3) as ranked:
        (first, _), (second, _) = ranked._helpers
        os.kill(first.pid, signal.SIGKILL)
        os.kill(second.pid, signal.SIGSTOP)
        first.join()
        found = ranked(scorer())
    assert found.to_dict() == evaluator(scorer()).to_dict()
    assert ranked.lost == ["process 2 of 3 ended early, the others did its work: SIGKILL"]
    assert second.exitcode == -signal.SIGKILL


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    small_demo().save(folder / "data")
    for kind, values in (("bpr-mf", {"epochs": 1}), ("ease", {})):
        make_trainer(
            small_demo(), small_settings(kind, **values), run=folder / kind, data_path=folder / "data"
        ).fit()  # fmt: skip
    return folder


@pytest.mark.slow
def test_a_model_without_vectors_is_opened_by_each_process(trained: Path, small_blocks: None, patient: None) -> None:
    evaluator = evaluator_of("all")
    with Together(evaluator, 2, partial(open_scorer, trained / "ease", trained / "data")) as ranked:
        found = ranked(load_scorer(trained / "ease", small_demo()))
    assert ranked.lost == []
    assert found.to_dict() == evaluator(load_scorer(trained / "ease", small_demo())).to_dict()


def test_the_command_prints_and_writes_the_same(trained: Path, tmp_path: Path) -> None:
    said = []
    for n in (1, 2):
        line = ["evaluate", str(trained / "bpr-mf"), "--also", "auc", "--processes", str(n), "--device", "cpu"]
        line += ["--json", str(tmp_path / f"{n}.json"), "--per-user", str(tmp_path / f"{n}.csv")]
        done = CliRunner().invoke(commands, line)
        assert done.exit_code == 0, done.output
        said.append(done.stdout)
    assert said[0] == said[1]
    for name in ("json", "csv"):
        assert (tmp_path / f"1.{name}").read_text() == (tmp_path / f"2.{name}").read_text()
    wrong = CliRunner().invoke(commands, ["evaluate", str(trained / "bpr-mf"), "--processes", "2", "--device", "cuda"])
    assert wrong.exit_code == 2
    assert "--processes rank on the CPU" in wrong.output


def test_lists_are_by_the_vectors_that_another_process_shares(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = scorer()
    save_vectors(tmp_path, shared)
    mapped = mapped_scorer(tmp_path)
    assert torch.equal(mapped.user_vectors, shared.user_vectors)
    mapped.user_vectors[3] = 0.0  # of this process alone
    assert torch.equal(mapped_scorer(tmp_path).user_vectors, shared.user_vectors)
    monkeypatch.setenv("HAKG_SHARED_VECTORS", str(tmp_path))
    user = small_demo().users["original_id"][4]
    line = ["recommend", str(trained / "bpr-mf"), "--user", user, "--k", "3", "--include-seen", "--json"]
    done = CliRunner().invoke(commands, line)
    assert done.exit_code == 0, done.output
    best = (shared.user_vectors[4] @ shared.item_vectors.T).sort(descending=True).values[:3]
    assert [json.loads(row)["score"] for row in done.stdout.splitlines()] == pytest.approx(best.tolist(), rel=1e-5)
