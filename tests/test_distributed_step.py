"""Losses and gradients of several processes are those of one, in float64, dropout included."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from several_processes import run_in
from small_demo import small_demo, small_settings

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.owners import Owners, equal_owners
from hakg_dgl.data.part_dataset import part_of
from hakg_dgl.distributed.batches import SharedBatches
from hakg_dgl.distributed.own_model import own_model
from hakg_dgl.distributed.ownership import Ownership
from hakg_dgl.distributed.ranks import Ranks
from hakg_dgl.distributed.shards import SHARDS, shard_class
from hakg_dgl.errors import ConfigError
from hakg_dgl.models.recommender import GradientRecommender
from hakg_dgl.models.registry import models_that
from hakg_dgl.models.settings import Settings
from hakg_dgl.randomness import CounterStream, mixed, torch_generator
from hakg_dgl.training.trainee import build_model

STEP = 3
DROPOUT = {"kg_edge_dropout": 0.3, "interaction_dropout": 0.4, "message_dropout": 0.2}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "softmax": ("hakg", {"layers": 2, "candidates": 20, **DROPOUT}),
    "softmax over all": ("hakg", {"layers": 2, "score": "fused", "angle_weight": 0.3, "gate_l2": 0.01}),
    "hinge": ("hakg", {"layers": 3, "ranking_loss": "hinge", "angle_weight": 0.1, "gate_l2": 0.01, **DROPOUT}),
    "paper": ("hakg", {"layers": 2, "ranking_loss": "hinge", "formulation": "paper"}),
    "without items of their own": ("hakg", {"layers": 2, "dual_item_embeddings": False}),
    "facts of users": ("hakg", {"layers": 2, "candidates": 20, **DROPOUT}),
    "links of users": ("hakg", {"layers": 2, "formulation": "paper", "angle_weight": 0.1}),
    "lightgcn": ("lightgcn", {"layers": 2}),
    "bpr-mf": ("bpr-mf", {}),
}


def data_of(case: str) -> Dataset:
    """The demo, with facts and links of a few users where the case is about them: some parts have none."""
    data = small_demo()
    if "of users" not in case:
        return data
    facts = [(user, 0, 60 + user % 3) for user in range(0, 60, 7)] if "facts" in case else []
    links = [(user, 1, (user * 3 + 1) % 60) for user in range(50, 60)]
    return dataclasses.replace(
        data,
        user_facts=pd.DataFrame(facts, columns=["user", "relation", "entity"], dtype=np.int64),
        user_links=pd.DataFrame(links, columns=["user", "relation", "other"], dtype=np.int64),
        user_relations=pd.DataFrame({"original_id": ["lives", "knows"], "name": ["lives in", "knows"]}),
    )


def settings_of(case: str) -> Settings:
    kind, values = CASES[case]
    return small_settings(kind, dtype="float64", **values)


def model_of(settings: Settings, dataset: Dataset | None = None) -> GradientRecommender:
    model = build_model(dataset or small_demo(), settings, torch.device("cpu"), ("train",))
    assert isinstance(model, GradientRecommender)
    return model


def chance(settings: Settings, model: GradientRecommender) -> dict[str, Any]:
    return {name: torch_generator(settings.run.seed, name) for name in ("batches", *model.streams)}


class Generators(dict[str, torch.Generator]):
    """A generator for every name."""

    def __missing__(self, name: str) -> torch.Generator:
        return torch_generator(1, name)


class ByEnds(CounterStream):
    """Draws for the edges of a whole graph, numbered 0 to n - 1, as processes do, by what the edges join."""

    def __init__(self, seed: int, model: GradientRecommender) -> None:
        super().__init__(seed, "dropout")
        packed = model.graph.packed
        pairs, types = packed.interactions, (*model.graph.relation_types, *model.graph.user_types)
        facts = model.graph.joined(types, one_table=True).pattern if types else packed.knowledge
        n = facts.pairs.n_rows
        self.edges = [
            pairs.rows * packed.n_items + pairs.cols,
            (facts.relation * n + facts.pairs.rows) * n + facts.pairs.cols,
        ]

    def keep(self, ids: torch.Tensor, levels: int) -> torch.Tensor:
        for edges in self.edges:
            if len(ids) == len(edges):
                ids = edges
        return super().keep(ids, levels)


def of_one_process(case: str) -> dict[str, torch.Tensor]:
    """Loss and gradients as the model computes them by itself, with the masks drawn by counters."""
    settings = settings_of(case)
    model = model_of(settings, data_of(case))
    random = chance(settings, model)
    counters = ByEnds(settings.run.seed, model)
    counters.begin(STEP)
    (each,) = model.passes(settings.training, {**random, "dropout": counters})  # type: ignore[dict-item]
    loss = each.loss(*next(iter(each.batches)))
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    return {"loss": loss.detach(), **gradients}


def scattered(dataset: Dataset, size: int) -> Owners:
    """Owners without any order; with three processes and more, the last has no item."""
    random = np.random.default_rng(5)
    holders = size - 1 if size > 2 else size
    item = random.integers(0, holders, dataset.n_items)
    other = random.integers(0, size, dataset.n_entities - dataset.n_items)
    user = random.integers(0, size, dataset.n_users)
    return Owners(size, user.astype(np.int32), np.concatenate([item, other]).astype(np.int32))


def steps_of_all(rank: int, folder: Path, cases: list[str], kind: str) -> None:
    """Write loss and gradients, put together from all processes."""
    ranks = Ranks()
    for case in cases:
        dataset, settings = data_of(case), settings_of(case)
        sizes = dataset.n_users, dataset.n_items, dataset.n_entities
        owners = equal_owners(*sizes, ranks.size) if kind == "ranges" else scattered(dataset, ranks.size)
        ownership = Ownership.of(owners, dataset.n_items)
        part = part_of(dataset, owners, rank)
        model = own_model(part, settings, torch.device("cpu"), ("train",), ownership, ranks)
        random = chance(settings, model)
        training = settings.training
        batches = SharedBatches(
            ranks, ownership, model.graph.pairs(), training.batch_size, random["batches"], training.positives_per_user
        )
        batch = next(iter(batches))
        shard = shard_class(settings.kind)(model, ranks, ownership, random, settings.run.seed)
        shard.step = STEP
        loss = shard.loss(*batch)
        loss.backward()  # type: ignore[no-untyped-call]
        shard.add_gradients()
        found = {name: shard.whole(name, p.grad) for name, p in model.named_parameters() if p.grad is not None}
        if rank == ranks.size - 1:
            save_file({"loss": loss.detach(), **found}, folder / f"{case}.safetensors")


@pytest.mark.parametrize(("size", "kind"), [
    (1, "ranges"), (2, "ranges"), pytest.param(3, "scattered", marks=pytest.mark.slow),
    pytest.param(4, "scattered", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_step_of_several_processes_is_that_of_one(tmp_path: Path, size: int, kind: str) -> None:
    run_in(size, steps_of_all, tmp_path, list(CASES), kind)
    for case in CASES:
        expected, found = of_one_process(case), load_file(tmp_path / f"{case}.safetensors")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(
                found[name], value, rtol=1e-9, atol=1e-11, msg=lambda m, n=name, case=case: f"{case} {n}: {m}"
            )
            assert name == "loss" or value.abs().max() > 0 or case == "without items of their own", (case, name)


def test_counters_are_splitmix64() -> None:
    # The first outputs of splitmix64 for the seed 1234567, of which the generator's state is the counter.
    gamma = -0x61C8864680B583EB
    counters = torch.tensor([1234567, 1234567 + gamma])
    assert [value % (1 << 64) for value in mixed(counters).tolist()] == [6457827717110365317, 3203168211198807973]


def test_counters_keep_the_share_they_should_and_depend_on_step_and_use() -> None:
    stream, ids = CounterStream(1, "dropout"), torch.arange(100_000)
    stream.begin(1)
    first, second = stream.keep(ids, 1 << 14), stream.keep(ids, 1 << 14)
    assert abs(first.float().mean() - 0.75) < 0.01
    assert abs((first & second).float().mean() - 0.75**2) < 0.01
    stream.begin(1)
    assert torch.equal(stream.keep(ids[500:700], 1 << 14), first[500:700])
    stream.begin(2)
    assert not torch.equal(stream.keep(ids, 1 << 14), first)


def test_other_models_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'kgat' is trained by one process; several can train hakg, lightgcn"):
        shard_class("kgat")


def test_models_that_say_that_several_processes_train_them_are_those_that_can_be() -> None:
    assert sorted(models_that("distributed")) == sorted(SHARDS)
    for name, shard in SHARDS.items():
        (each,) = model_of(small_settings(name, dtype="float64")).passes(Settings(name).training, Generators())
        assert each.optimizer == "all", name  # what the trainer of several processes takes for granted
        assert shard.__doc__


def test_an_item_and_its_entity_have_one_owner() -> None:
    owners = {"user": torch.zeros(2), "item": torch.tensor([0, 1]), "entity": torch.tensor([0, 0, 1])}
    with pytest.raises(ConfigError, match="item 1 belongs to process 1, but the entity that it is to process 0"):
        Ownership(owners, 2)
