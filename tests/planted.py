"""What the tests of pictures share: positions by hand, and runs on the small demo, whose tree is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bad_input import hakg
from small_demo import small_demo, small_settings

from hakg_dgl import RunFolder, Trainer, load_dataset
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.figures.subject import Subject
from hakg_dgl.models.positions import Positions


def at(entity: Any, item: Any = None, geometry: Any = "poincare", curvature: float = 1.0) -> Positions:
    return Positions(np.asarray(entity, dtype=np.float64), item, geometry, curvature, "parameters", "paper", 0.1)


def tree_of(dataset: Dataset) -> pd.DataFrame:
    """The tree of the small demo."""
    depth = np.repeat([4, 0, 1, 2, 3], [dataset.n_items, 1, 3, 9, 18])
    return pd.DataFrame({"entity": np.arange(len(depth)), "depth": depth})


@pytest.fixture(scope="session")
def planted() -> Dataset:
    """The small demo, in which a tree of genres was planted."""
    return small_demo()


@pytest.fixture(scope="session")
def planted_runs(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs ``hakg``, ``flat`` (Euclidean, two dimensions) and ``popularity`` on the small demo ``D``."""
    place = tmp_path_factory.mktemp("runs")
    planted.save(place / "D")
    Trainer(planted, small_settings(epochs=2), run=place / "hakg", data_path=place / "D").fit()
    flat = small_settings(epochs=1, geometry="euclidean", dim=2)
    Trainer(planted, flat, run=place / "flat", data_path=place / "D").fit()
    assert hakg("train", place / "D", "--out", place / "popularity", "--set", "kind=popularity").exit_code == 0
    return place


@pytest.fixture
def planted_run(planted_runs: Path) -> Subject:
    """The run ``hakg`` of them."""
    return Subject(RunFolder(planted_runs / "hakg"), load_dataset(planted_runs / "D"))
