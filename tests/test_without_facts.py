"""Models that read facts, on a data set that has none."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_demo import read_by, small_demo, small_settings

from hakg_dgl import make_trainer
from hakg_dgl.models.registry import BUILT_IN, models_that

DEMO = small_demo()
READING = [kind for kind in models_that("facts") if kind in BUILT_IN and kind != "facts-profile"]
BESIDE = [kind for kind in READING if kind.endswith("+facts")]
KINDS = [kind for kind in READING if kind not in BESIDE]


@pytest.mark.parametrize("relations", [0, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_facts_is_trained_on_interactions_alone(kind: str, relations: int) -> None:
    none = dataclasses.replace(DEMO, triples=DEMO.triples.head(0), relations=DEMO.relations.head(relations))
    metrics = make_trainer(none, small_settings(kind, **read_by(kind, {"epochs": 8}))).fit()["metrics"]["test"]
    chance = 20 / (DEMO.n_items - len(DEMO.pairs("train", "valid")) / DEMO.n_users)
    assert metrics["recall@20"] > chance


def test_the_profile_of_facts_knows_nothing_without_them() -> None:
    none = dataclasses.replace(DEMO, triples=DEMO.triples.head(0))
    trainer = make_trainer(none, small_settings("facts-profile"))
    trainer.fit()
    assert not trainer.model.scorer().scores(torch.arange(DEMO.n_users)).any()


@pytest.mark.parametrize("kind", BESIDE)
def test_a_model_with_the_profile_beside_it_is_the_model_alone(kind: str) -> None:
    none = dataclasses.replace(DEMO, triples=DEMO.triples.head(0))
    trainers = [make_trainer(none, small_settings(name)) for name in (kind, kind.removesuffix("+facts"))]
    beside, alone = (trainer.fit()["metrics"] for trainer in trainers)
    assert beside == alone
