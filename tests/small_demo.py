"""A demo small enough to train on within a second, and the settings for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pandas as pd

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
from hakg_dgl.data.synthetic import DemoSettings, generate_demo
from hakg_dgl.models.settings import Settings


def small_demo(**options: Any) -> Dataset:
    """60 users, 50 items, 102 entities, 4 relations; options of preprocessing."""
    sizes = dataclasses.replace(
        DemoSettings.load(),
        users=60,
        items=50,
        branching=(3, 3, 2),
        makers=8,
        years=5,
        mean_interactions=14.0,
        min_interactions=6,
    )
    return preprocess(generate_demo(sizes), PreprocessOptions(**options))


def with_interactions(dataset: Dataset, interactions: pd.DataFrame) -> Dataset:
    """The same data set with other interactions."""
    return dataclasses.replace(dataset, interactions=interactions)


SMALL: dict[str, Any] = {
    "dim": 8,
    "layers": 1,
    "negatives": 10,
    "batch_size": 160,
    "lr": 0.01,
    "epochs": 5,
    "device": "cpu",
    "refit": False,
}


def read_by(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that are settings of this model."""
    known = Settings(kind).by_section()
    return {key: value for key, value in values.items() if key in known}


def small_settings(kind: str = "hakg", **overrides: Any) -> Settings:
    """Four steps an epoch, a few hundredths of a second; of the small values those that the model reads."""
    small = read_by(kind, SMALL)
    if overrides.get("ranking_loss") != "hinge":
        small.pop("negatives", None)
    return Settings(kind).replace(small | overrides)
