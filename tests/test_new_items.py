"""New items: computed from their facts alone, they are what they would be in the data set without interactions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_demo import small_demo, small_settings

from hakg_dgl import HAKG, Dataset, load_model, make_trainer, model_class, model_names, read_new_items
from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.models.hakg import HAKGSettings
from hakg_dgl.training.trainee import build_model

DEMO = small_demo()
ABLE = [name for name in model_names() if model_class(name).abilities.new_items]
COLD = (DEMO.n_items - 2, DEMO.n_items - 1)
"""Two items, the last ones, that nobody shall have."""


def with_cold() -> Dataset:
    """The demo without interactions of the two items, which are in it: their facts are there."""
    kept = DEMO.interactions[~DEMO.interactions["item"].isin(COLD)]
    return dataclasses.replace(DEMO, interactions=kept)


def without_cold() -> Dataset:
    """The same data set without the two items; entities that are not items move down by two."""
    whole = with_cold()
    triples = whole.triples[~whole.triples[["head", "tail"]].isin(COLD).any(axis=1)].copy()
    for end in ("head", "tail"):
        triples[end] -= 2 * (triples[end] >= DEMO.n_items)
    return dataclasses.replace(
        whole,
        triples=triples,
        items=whole.items[: COLD[0]],
        entities=whole.entities.drop(index=list(COLD)).reset_index(drop=True),
    )


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A row for each of the two items, a column a relation, as a shop's catalogue has them."""
    rows = []
    for item in COLD:
        facts = DEMO.triples[DEMO.triples["head"] == item]
        row = {"item": DEMO.items["original_id"][item], "title": DEMO.items["name"][item], "shelf": "B4"}
        for relation, tails in facts.groupby("relation")["tail"]:
            ids = DEMO.entities["original_id"].iloc[tails]
            row[str(DEMO.relations["original_id"].iloc[int(relation)])] = "|".join(ids)
        rows.append(row)
    path = tmp_path / "new.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_the_data_set_with_the_new_items_is_the_whole_one(table: Path) -> None:
    found = read_new_items(table, without_cold())
    whole = with_cold()
    assert found.numbers.tolist() == list(COLD)
    pd.testing.assert_frame_equal(found.dataset.triples, whole.triples)
    pd.testing.assert_frame_equal(found.dataset.entities, whole.entities)
    pd.testing.assert_frame_equal(found.dataset.items, whole.items)
    assert found.report["columns_without_a_relation_left_out"] == 1
    assert found.report["values_unknown_left_out"] == found.report["new_items_without_facts"] == 0


def test_new_items_may_be_a_frame(table: Path) -> None:
    frame = pd.read_csv(table, dtype=str)
    from_file, *others = (read_new_items(each, without_cold()) for each in (table, frame, [frame[:1], frame[1:]]))
    for other in others:
        assert (other.dataset.digest, other.report) == (from_file.dataset.digest, from_file.report)
    with pytest.raises(DataError, match="new items: no column 'sku' with the ids of items"):
        read_new_items(frame.drop(columns="item"), DEMO, item_col="sku")


def trained_on_the_whole(**settings: Any) -> HAKG:
    """HAKG with default terms on the data set that has the items; their own parameters are zero, all others drawn."""
    model = HAKG(build_graph(with_cold()), HAKGSettings(dim=8, **settings), seed=5, dtype=torch.float64)
    with torch.no_grad():
        model.entity[list(COLD)] = 0.0
        if settings.get("dual_item_embeddings", True):
            model.item[list(COLD)] = 0.0
    chosen = model.terms.first_choice() | {"facts_weight": 0.2, "new_items_weight": 0.8, "new_items_bias": 0.5}
    model.set_terms(chosen)
    return model


@pytest.mark.parametrize("settings", [{}, {"layers": 3, "formulation": "paper"}, {"dual_item_embeddings": False}])
def test_a_new_item_of_hakg_is_the_one_of_the_data_set(table: Path, settings: dict[str, Any]) -> None:
    whole, small = trained_on_the_whole(**settings), without_cold()
    part = HAKG(build_graph(small), whole.settings, seed=1, dtype=torch.float64)
    others = [entity for entity in range(DEMO.n_entities) if entity not in COLD]
    with torch.no_grad():
        for name, value in whole.named_parameters():
            if name == "entity":
                value = value[others]
            elif name == "item":
                value = value[: COLD[0]]
            dict(part.named_parameters())[name].copy_(value)
    part.set_terms(part.terms.first_choice())
    part.terms.weights.copy_(whole.terms.weights)
    grown = part.with_new_items(build_graph(read_new_items(table, small).dataset))
    (users, items), (expected_users, expected_items) = grown.ranking_vectors(), whole.ranking_vectors()
    torch.testing.assert_close(items[:, :8], expected_items[:, :8], rtol=0, atol=1e-12)
    assert items[list(COLD), :8].abs().max() > 0.01
    # Factors of the closed-form terms are unique up to rotations, the scores that they make are unique.
    torch.testing.assert_close(users @ items.T, expected_users @ expected_items.T, rtol=0, atol=1e-9)
    facts, bias = (expected_users @ expected_items.T)[:, list(COLD)], whole.terms.weights[3]
    assert facts.std() > 0
    assert bias > 0


@pytest.mark.parametrize("name", [name for name in ABLE if name != "hakg"])
def test_a_new_item_scores_as_the_one_of_the_data_set(name: str, table: Path) -> None:
    """Models in closed form are solved for with the items and without; others get the same parameters."""
    torch.manual_seed(0)
    small = without_cold()
    settings = small_settings(name)
    whole, part = (build_model(data, settings, torch.device("cpu"), ("train",)) for data in (with_cold(), small))
    if hasattr(part, "solve"):
        for model in (whole, part):
            model.solve(model.candidates()[0])
    others = [entity for entity in range(DEMO.n_entities) if entity not in COLD]
    for key, value in whole.named_parameters():
        with torch.no_grad():
            if len(value) == DEMO.n_entities and "entity" in key:
                value[list(COLD)] = 0.0
                dict(part.named_parameters())[key].copy_(value[others])
            elif len(value) == DEMO.n_items and "item" in key:
                value[list(COLD)] = 0.0
                dict(part.named_parameters())[key].copy_(value[: COLD[0]])
            else:
                dict(part.named_parameters())[key].copy_(value)
    if hasattr(part, "facts_multiplier"):
        for model in (whole, part):
            model.facts_multiplier.fill_(0.7)
    grown = part.with_new_items(build_graph(read_new_items(table, small).dataset))
    users = torch.arange(DEMO.n_users)
    scores, expected = grown.scorer().scores(users), whole.scorer().scores(users)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
    assert scores[:, list(COLD)].std() > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item,made_by\nitem_1,maker_1\n", "all of their items are in the data set"),
        ("item,colour\nnew_1,red\n", "none of the columns 'colour' is a relation of the data set"),
        ("what,made_by\nnew_1,maker_1\n", "no column 'item' with the ids of items; there are: 'what', 'made_by'"),
        ("item,made_by\n,maker_1\n", "no row has an id"),
    ],
)
def test_a_table_of_which_nothing_follows_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "new.csv"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_new_items(path, DEMO)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["lightgcn", "ease", "popularity"])
def test_a_model_without_facts_refuses_new_items(name: str, table: Path, tmp_path: Path) -> None:
    few = {"epochs": 1} if name == "lightgcn" else {}
    small = without_cold()
    make_trainer(small, small_settings(name, **few), run=tmp_path / "run").fit()
    with pytest.raises(ConfigError, match=f"model '{name}' knows nothing of items .* by their facts: hakg, "):
        load_model(tmp_path / "run", small, new_items=read_new_items(table, small))


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text("id,name,made_by,shelf\nitem_1,Old,maker_1,a\nx,New,maker_1|nobody,b\ny,,nobody,c\n,,maker_1,d\n")
    found = read_new_items(path, DEMO)
    assert found.dataset.items["original_id"].tolist()[-2:] == ["x", "y"]
    assert found.dataset.items["name"].tolist()[-2:] == ["New", "y"]
    assert found.report == {
        "rows_without_id_dropped": 1, "items_of_the_data_set_left_out": 1, "columns_without_a_relation_left_out": 1,
        "values_unknown_left_out": 2, "new_items_without_facts": 1,
    }  # fmt: skip
    assert np.array_equal(found.numbers, [DEMO.n_items, DEMO.n_items + 1])
