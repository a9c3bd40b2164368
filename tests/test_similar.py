"""Similar items and users: against cosines computed with NumPy, for every model that has vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_demo import small_demo, small_settings

from hakg_dgl import Similarity, model_class, model_names, similar_items, similar_users
from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.training.trainee import build_model

DEMO = small_demo()


def model_of(name: str) -> Any:
    return build_model(DEMO, small_settings(name), torch.device("cpu"), ("train",))


def ranked(vectors: np.ndarray, asked: int, allowed: np.ndarray, k: int) -> tuple[list[int], np.ndarray]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit[asked]
    others = allowed[allowed != asked]
    best = others[np.argsort(-cosines[others], kind="stable")][:k]
    return best.tolist(), cosines[best]


@pytest.mark.parametrize("name", [name for name in model_names() if model_class(name).abilities.vectors])
def test_lists_are_those_of_the_cosines(name: str) -> None:
    model = model_of(name)
    users, items = (part.detach().double().numpy() for part in model.likeness_vectors())
    some = np.arange(0, DEMO.n_items, 3)
    for found, vectors, allowed, key in (
        (similar_items(model, np.array([4, 9]), 7), items, np.arange(DEMO.n_items), "item"),
        (similar_items(model, np.array([4, 9]), 7, some), items, some, "item"),
        (similar_users(model, np.array([4, 9]), 7), users, np.arange(DEMO.n_users), "user"),
    ):
        assert list(found) == [key, "rank", "similar", "score"]
        for asked, rows in found.groupby(key):
            _, cosines = ranked(vectors, int(asked), allowed, 7)
            np.testing.assert_allclose(rows["score"], cosines, atol=1e-5)
            assert set(rows["similar"]) <= {*allowed.tolist()} - {asked}
            assert rows["rank"].tolist() == list(range(1, 8))


@pytest.mark.parametrize("name", [name for name in model_names() if not model_class(name).abilities.vectors])
def test_a_model_without_vectors_says_so(name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"model '{name}' ranks without vectors .* no similar items".replace("+", ".")
    ):
        Similarity(model_of(name))


def test_what_does_not_exist_is_refused() -> None:
    similarity = Similarity(model_of("bpr-mf"))
    with pytest.raises(DataError, match="does not exist"):
        similarity.items(np.array([DEMO.n_items]))
    with pytest.raises(ConfigError, match="k is 0"):
        similarity.users(np.array([0]), 0)
