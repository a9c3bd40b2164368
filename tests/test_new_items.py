"""New items: computed from their facts alone, they are what they would be in the data set without interactions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_demo import read_by, small_demo, small_settings
from torch import Tensor

from hakg_dgl import HAKG, Dataset, Recommender, load_model, make_trainer, model_class, model_names, read_new_items
from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.insight.explain import Explainer
from hakg_dgl.models.hakg import HAKGSettings
from hakg_dgl.training.trainee import build_model

DEMO = small_demo()
ABLE = [name for name in model_names() if model_class(name).abilities.new_items]
COLD = (DEMO.n_items - 2, DEMO.n_items - 1)
"""Two items, the last ones, that nobody shall have."""
BY_PROPAGATION = ["kgin", "kgat", "kgcl", "kgrec", "ckan", "lkgr", "kgnn-ls"]
"""Models that make the vector of an item from its facts."""
DRAWN = ["ckan", "lkgr", "kgnn-ls"]
"""Those that draw the facts of an entity once."""


def with_cold(cold: Sequence[int] = COLD) -> Dataset:
    """The demo without interactions of the last items, which are in it: their facts are there."""
    kept = DEMO.interactions[~DEMO.interactions["item"].isin(cold)]
    return dataclasses.replace(DEMO, interactions=kept)


def without_cold(cold: Sequence[int] = COLD) -> Dataset:
    """The same data set without the last items; entities that are not items move down."""
    whole = with_cold(cold)
    triples = whole.triples[~whole.triples[["head", "tail"]].isin(cold).any(axis=1)].copy()
    for end in ("head", "tail"):
        triples[end] -= len(cold) * (triples[end] >= DEMO.n_items)
    return dataclasses.replace(
        whole,
        triples=triples,
        items=whole.items[: cold[0]],
        entities=whole.entities.drop(index=list(cold)).reset_index(drop=True),
    )


def catalogue(cold: Sequence[int] = COLD) -> pd.DataFrame:
    """A row for each of the items, a column a relation, as a shop has them."""
    rows = []
    for item in cold:
        facts = DEMO.triples[DEMO.triples["head"] == item]
        row = {"item": DEMO.items["original_id"][item], "title": DEMO.items["name"][item], "shelf": "B4"}
        for relation, tails in facts.groupby("relation")["tail"]:
            ids = DEMO.entities["original_id"].iloc[tails]
            row[str(DEMO.relations["original_id"].iloc[int(relation)])] = "|".join(ids)
        rows.append(row)
    return pd.DataFrame(rows)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "new.csv"
    catalogue().to_csv(path, index=False)
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


def scores_of(model: Recommender) -> Tensor:
    return model.scorer().scores(torch.arange(DEMO.n_users))


def drawn_at_random(name: str, dataset: Dataset, **settings: Any) -> Recommender:
    """A model with two layers and parameters far from zero, those of the last items excepted."""
    shape = read_by(name, {"layers": 2, "sample_size": 3, "user_set": 4, "item_set": 6, "dtype": "float64"} | settings)
    model = build_model(dataset, small_settings(name, **shape), torch.device("cpu"), ("train",)).eval()
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.4, generator=draw)
        model.get_parameter("entity")[list(COLD)] = 0.0
    return model


@pytest.mark.parametrize("aggregator", ["sum", "pool", "concat"])
@pytest.mark.parametrize("name", BY_PROPAGATION)
def test_a_new_item_is_the_trained_one_with_its_facts_and_no_parameters(name: str, aggregator: str) -> None:
    """The same facts give the same scores, whichever of the two items was there in training."""
    if aggregator != "sum" and name != "ckan":
        return
    model = drawn_at_random(name, with_cold(), aggregator=aggregator, sample_size=10)
    twins = catalogue().assign(item=["twin of the last but one", "twin of the last"])
    grown = model.with_new_items(build_graph(read_new_items(twins, with_cold()).dataset))
    scores = scores_of(grown)
    torch.testing.assert_close(scores[:, -2:], scores[:, list(COLD)], rtol=1e-9, atol=1e-12)
    assert bool(scores.isfinite().all())
    assert scores[:, -1].std() > 1e-3
    assert (scores[:, -1] - scores[:, -2]).abs().max() > 1e-3


@pytest.mark.parametrize("name", BY_PROPAGATION)
def test_the_order_of_new_items_does_not_matter(name: str) -> None:
    cold = range(DEMO.n_items - 5, DEMO.n_items)
    small, rows = without_cold(cold), catalogue(cold)
    model = drawn_at_random(name, small)
    one, other = (
        scores_of(model.with_new_items(build_graph(read_new_items(each, small).dataset))) for each in (rows, rows[::-1])
    )
    torch.testing.assert_close(one[:, cold[0] :], other[:, cold[0] :].flip(1), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(one[:, : cold[0]], other[:, : cold[0]], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", BY_PROPAGATION)
def test_the_score_of_a_new_item_is_taken_apart_and_one_without_facts_has_a_score(name: str) -> None:
    small, bare = without_cold(), pd.DataFrame({"item": ["bare"], "title": ["Bare"]})
    model = drawn_at_random(name, small, sample_size=10)
    new = read_new_items(pd.concat([catalogue(), bare], ignore_index=True), small)
    assert new.report["new_items_without_facts"] == 1
    grown = model.with_new_items(build_graph(new.dataset, ("train",)))
    explainer, scores = Explainer(grown, new.dataset), scores_of(grown)
    assert bool(scores.isfinite().all())
    for item in new.numbers.tolist():
        explanation = explainer(7, item)
        assert explanation.score == pytest.approx(float(scores[7, item]), rel=1e-9, abs=1e-12)
        assert max(map(abs, explanation.rounding.values())) < 1e-9
        assert (len(explanation.facts) > 0) is (new.dataset.items["original_id"][item] != "bare")
        assert not len(explanation.users)


@pytest.mark.parametrize("name", DRAWN)
def test_what_was_drawn_stays_where_new_items_come(name: str) -> None:
    """Neither trained items nor another new item change by one, on two hops."""
    cold = range(DEMO.n_items - 5, DEMO.n_items)
    small, rows = without_cold(cold), catalogue(cold)
    model = drawn_at_random(name, small)
    grown = model.with_new_items(build_graph(read_new_items(rows[:2], small).dataset))
    more = grown.with_new_items(build_graph(read_new_items(rows, small).dataset))
    torch.testing.assert_close(scores_of(grown)[:, : cold[0]], scores_of(model), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(scores_of(more)[:, : cold[2]], scores_of(grown), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", BY_PROPAGATION)
def test_new_items_are_ranked_among_themselves_better_than_by_chance(name: str, tmp_path: Path) -> None:
    """How often an item that a user has comes before one that the user does not have, of items that nobody had."""
    cold = range(DEMO.n_items - 15, DEMO.n_items)
    small = without_cold(cold)
    make_trainer(small, small_settings(name, epochs=6, lr=0.05), run=tmp_path / "run").fit()
    grown = load_model(tmp_path / "run", small, new_items=read_new_items(catalogue(cold), small))
    scores, has = scores_of(grown), torch.zeros(DEMO.n_users, DEMO.n_items, dtype=torch.bool)
    has[tuple(DEMO.pairs("train", "valid", "test").T)] = True
    assert bool(scores.isfinite().all())
    shares = [
        (mine[:, None] > others[None]).double().mean()
        for row, his in zip(scores[:, cold[0] :], has[:, cold[0] :], strict=True)
        if len(mine := row[his]) and len(others := row[~his])
    ]
    assert len(shares) > 40
    assert float(torch.stack(shares).mean()) > 0.54


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
