"""Each process evaluates its own users, and the sums are those of one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from several_processes import run_in
from small_demo import small_demo, small_settings

from hakg_dgl.data.owners import Owners
from hakg_dgl.data.part_dataset import part_of
from hakg_dgl.distributed.evaluation import SharedEvaluator, exact_sums
from hakg_dgl.distributed.gathering import gathered_dataset
from hakg_dgl.distributed.own_model import drawn_rows
from hakg_dgl.distributed.ownership import Ownership
from hakg_dgl.distributed.ranks import Ranks
from hakg_dgl.errors import DataError, NumericalError
from hakg_dgl.models.bpr_mf import BPRMF
from hakg_dgl.randomness import torch_generator
from hakg_dgl.ranking.evaluation import evaluate
from hakg_dgl.ranking.topk import EmbeddingScorer
from hakg_dgl.training.trainee import build_model

KS = (5, 20)


def owners_of(size: int) -> Owners:
    """Scattered; the last process has no user who is evaluated."""
    data, random = small_demo(), np.random.default_rng(3)
    user = random.integers(0, size - 1, data.n_users)
    user[np.setdiff1d(np.arange(data.n_users), data.pairs("valid")[:, 0])[:1]] = size - 1
    return Owners(size, user.astype(np.int32), random.integers(0, size, data.n_entities).astype(np.int32))


def vectors() -> tuple[torch.Tensor, torch.Tensor]:
    data, generator = small_demo(), torch.Generator().manual_seed(7)
    return torch.randn(data.n_users, 4, generator=generator), torch.randn(data.n_items, 4, generator=generator)


def in_parts(rank: int, folder: Path) -> None:
    data, ranks = small_demo(), Ranks()
    owners = owners_of(ranks.size)
    ownership = Ownership.of(owners, data.n_items)
    part = part_of(data, owners, rank)
    (user, item), own = vectors(), [ownership.rows(name, rank) for name in ("user", "item")]
    # Blocks of three items, so that lists of twenty come from many of them.
    evaluator = SharedEvaluator(ranks, ownership, part, "valid", KS, also=("map",), numbers_per_block=12)
    found = evaluator(user[own[0]], item[own[1]])
    whole = evaluate(EmbeddingScorer(user, item), data, split="valid", ks=KS, also=("map",))
    assert found.keys() == whole.metrics.keys()
    assert found == pytest.approx(whole.metrics, rel=1e-15)
    assert evaluator.n_users == whole.n_users
    item[own[1][:1]] = torch.nan if rank == 0 else item[own[1][:1]]
    with pytest.raises(NumericalError):  # in all of them, though one alone has it
        evaluator(user[own[0]], item[own[1]])
    with pytest.raises(DataError, match="no user has an item in the 'test' split"):
        SharedEvaluator(ranks, ownership, part_of(small_demo(test=0.0), owners, rank), "test", KS)
    gathered = gathered_dataset(ranks, ownership, part)
    assert (gathered is None) == (rank > 0)
    if gathered is not None:
        assert gathered.triples.equals(data.triples)
        assert all((gathered.pairs(split) == data.pairs(split)).all() for split in ("train", "valid", "test"))


def test_processes_evaluate_their_users_to_what_one_finds(tmp_path: Path) -> None:
    run_in(3, in_parts, tmp_path)


def test_sums_do_not_depend_on_the_order() -> None:
    values = torch.rand(999, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sums = exact_sums(Ranks(), values)
    assert sums == exact_sums(Ranks(), values.flip(0))
    parts = [exact_sums(Ranks(), part) for part in values.split(100)]
    assert sums == pytest.approx([sum(column) for column in zip(*parts, strict=True)], rel=1e-14)
    assert sums == pytest.approx(values.sum(0).tolist(), rel=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_are_drawn_as_those_of_the_whole_table(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hakg_dgl.distributed.own_model.NUMBERS_AT_ONCE", 56)  # seven rows at once
    model = build_model(small_demo(), small_settings("bpr-mf", dtype=dtype), torch.device("cpu"), ("train",))
    assert isinstance(model, BPRMF)
    own = torch.tensor([0, 6, 7, 8, 31, 59])
    generator = torch_generator(model.run.seed, "init:user")
    drawn = drawn_rows(generator, len(model.user), 8, own, model.dtype)
    assert torch.equal(drawn, model.user.detach()[own])
