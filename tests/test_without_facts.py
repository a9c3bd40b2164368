"""Models that read facts, on a data set that has none."""

from __future__ import annotations

import dataclasses

import pytest
from small_demo import small_demo, small_settings

from hakg_dgl import make_trainer
from hakg_dgl.models.registry import BUILT_IN, models_that

DEMO = small_demo()
KINDS = [kind for kind in models_that("facts") if kind in BUILT_IN]


@pytest.mark.parametrize("relations", [0, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_facts_is_trained_on_interactions_alone(kind: str, relations: int) -> None:
    none = dataclasses.replace(DEMO, triples=DEMO.triples.head(0), relations=DEMO.relations.head(relations))
    metrics = make_trainer(none, small_settings(kind, epochs=8)).fit()["metrics"]["test"]
    chance = 20 / (DEMO.n_items - len(DEMO.pairs("train", "valid")) / DEMO.n_users)
    assert metrics["recall@20"] > chance
