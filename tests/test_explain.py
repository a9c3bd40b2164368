"""Explanations: the terms add up to the ranking score, are those of the equations, and point at what matters."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from bad_input import hakg
from hakg_dgl.cli.explain import _sections
from small_demo import small_demo, small_settings, with_interactions

from hakg_dgl import EmbeddingScorer, Trainer, build_graph, load_dataset, load_model, recommend
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.shared_items import SharedItems
from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.graph.edge_types import INTERACTED_BY
from hakg_dgl.insight.explain import Explainer, explain
from hakg_dgl.insight.explanation import Explanation, introduced
from hakg_dgl.models import explanation as decomposition
from hakg_dgl.models.explanation import Terms
from hakg_dgl.models.hakg import HAKG, HAKGSettings
from hakg_dgl.models.hakg.explanation import HAKGBreakdown
from hakg_dgl.models.hakg.trace import Trace

PAIRS = [(0, 0), (7, 31), (59, 49)]
SWITCHES = [
    {"formulation": formulation, "geometry": geometry, "score": score, **items}
    for number, (formulation, geometry, items) in enumerate(
        itertools.product(
            ("released", "paper"), ("poincare", "euclidean"), ({}, {"gate": False}, {"dual_item_embeddings": False})
        )
    )
    for score in (("fused", "separate") if not items else (("fused", "separate")[number % 2],))
]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return small_demo()


@pytest.fixture(scope="module")
def graph(dataset: Dataset) -> Any:
    return build_graph(dataset)


def untrained(graph: Any, dtype: torch.dtype = torch.float64, **settings: Any) -> HAKG:
    """By default ranked by both cosines alone."""
    chosen = {"dim": 6, "layers": 3, "score": "separate", "linear_weight": 0.0, "facts_weight": 0.0, **settings}
    model = HAKG(graph, HAKGSettings(**chosen), seed=1, dtype=dtype)
    model.fit_terms()
    return model


# --- the terms add up ---------------------------------------------------------------------------------------------


def assert_adds_up(explanation: Explanation, model: HAKG, bound: float) -> None:
    users, items = model.ranking_vectors()
    x = explanation
    assert x.score == pytest.approx(float(users[x.user] @ items[x.item]), abs=bound)
    assert x.components["contribution"].sum() == pytest.approx(x.score, abs=bound)
    assert x.past_items["contribution"].sum() + x.user_own == pytest.approx(x.score, abs=bound)
    item_side = x.facts["contribution"].sum() + x.users["contribution"].sum() + sum(x.item_own.values())
    item_side += x.other_terms["contribution"].sum()
    assert item_side == pytest.approx(x.score, abs=bound)
    parts = x.facts[["from_entity", "from_relation", "from_item"]].sum(axis=1)
    assert np.allclose(parts, x.facts["contribution"], atol=bound)
    ways = [way for way in ("knowledge", "collaborative", "linear") if way in x.past_items]
    assert np.allclose(x.past_items[ways].sum(axis=1), x.past_items["contribution"])
    assert max(map(abs, x.rounding.values())) < bound


@pytest.mark.parametrize("settings", SWITCHES, ids=lambda s: "-".join(map(str, s.values())))
def test_both_sides_add_up_to_the_ranking_score(dataset: Dataset, graph: Any, settings: dict[str, Any]) -> None:
    model = untrained(graph, **settings)
    explainer = Explainer(model, dataset)
    for user, item in PAIRS:
        assert_adds_up(explainer(user, item), model, 1e-11)
        for component in explainer.components:
            terms = component.terms(user, item)
            assert terms.from_user["contribution"].sum() == pytest.approx(terms.value, abs=1e-11)
            assert terms.from_item["contribution"].sum() == pytest.approx(terms.value, abs=1e-11)


@pytest.mark.parametrize(
    ("dtype", "bound", "settings"),
    [
        (torch.float64, 1e-11, {"layers": 1}),
        (torch.float64, 1e-11, {"score": "inner"}),
        (torch.float64, 1e-11, {"score": "inner", "dual_item_embeddings": False}),
        (torch.float64, 1e-11, {"score": "inner", "linear_weight": 3.0, "linear_l2": 20.0}),
        (torch.float64, 1e-11, {"score": "fused", "linear_weight": 3.0}),
        (torch.float64, 1e-11, {"layers": 4, "curvature": 0.3}),
        (torch.float64, 1e-11, {"layers": 3, "degree_exponent": 1.5}),
        (torch.float64, 1e-11, {"layers": 3, "degree_exponent": 0.0}),
        (torch.float64, 1e-11, {"layers": 2, "kernels": "readable"}),
        (torch.float32, 1e-5, {"layers": 3}),
        (torch.float32, 1e-5, {"layers": 2, "formulation": "released", "score": "fused", "curvature": 2.0}),
    ],
)
def test_they_add_up_for_every_depth_curvature_and_precision(
    dataset: Dataset, graph: Any, dtype: torch.dtype, bound: float, settings: dict[str, Any]
) -> None:
    model = untrained(graph, dtype, **settings)
    explainer = Explainer(model, dataset)
    for user, item in PAIRS:
        assert_adds_up(explainer(user, item), model, bound)


def test_what_has_no_edges_rests_on_its_own_parameters(dataset: Dataset) -> None:
    """User 0 has no items, item 0 no users, item 1 no facts."""
    train = dataset.interactions[(dataset.interactions["user"] != 0) & (dataset.interactions["item"] != 0)]
    triples = dataset.triples[(dataset.triples["head"] != 1) & (dataset.triples["tail"] != 1)]
    cold = with_interactions(dataclasses.replace(dataset, triples=triples), train)
    model = untrained(build_graph(cold))
    explainer = Explainer(model, cold)
    for user, item in itertools.product((0, 1), (0, 1, 2)):
        assert_adds_up(explainer(user, item), model, 1e-11)
        json.dumps(explainer(user, item).to_dict(), allow_nan=False)
    nobody = explainer(0, 2)
    assert len(nobody.past_items) == len(nobody.paths) == 0
    assert nobody.user_own == pytest.approx(nobody.score)
    assert (len(explainer(1, 0).users), len(explainer(1, 1).facts)) == (0, 0)
    assert nobody.to_dict()["gate"]["collaborative_weight"] is None


# --- the terms are those of the equations -------------------------------------------------------------------------


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm()


def edges_of(dataset: Dataset, entity: int) -> list[tuple[int, int]]:
    """(relation, tail) of the edges that an entity receives, from the data set's triples."""
    ours = dataset.triples[dataset.triples["head"] == entity]
    inverse = dataset.triples[dataset.triples["tail"] == entity]
    return [
        *zip(ours["relation"], ours["tail"], strict=True),
        *zip(inverse["relation"] + dataset.n_relations, inverse["head"], strict=True),
    ]


def shares(model: HAKG, dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """What users and items multiply by before they send, ``[n, 1]`` each."""
    pairs = torch.from_numpy(dataset.pairs("train"))
    degrees = (torch.bincount(pairs[:, end]).clamp_min(1).double()[:, None] for end in (0, 1))
    of_user, of_item = (degree**-model.settings.degree_exponent for degree in degrees)
    return of_user, of_item


def message(model: HAKG, head: int, relation: int, tail: int) -> torch.Tensor:
    return model.rule.message(model.entity[head], model.entity[tail], model.relation[relation])


@torch.no_grad()
def test_terms_of_one_layer_by_hand(dataset: Dataset, graph: Any) -> None:
    model, (user, item) = untrained(graph, layers=1), (7, 31)
    x = explain(model, dataset, user, item)
    sums = model.propagate()
    assert sums.item is not None
    u, e, v = sums.user[user], sums.entity[item], sums.item[item]
    edges = edges_of(dataset, item)
    total = sum(message(model, item, *edge) for edge in edges).norm()  # type: ignore[union-attr]
    facts = {edge: float(unit(u) @ message(model, item, *edge) / total / e.norm()) for edge in edges}
    found = {(row.relation, row.entity): row.contribution for row in x.facts.itertuples()}
    assert found == pytest.approx(facts)
    pairs = dataset.pairs("train")
    users = pairs[pairs[:, 1] == item, 0]
    of_user, of_item = shares(model, dataset)
    sent = of_user * model.user
    among = sent[users].sum(0).norm()
    assert dict(x.users.to_numpy()) == pytest.approx(
        {other: float(unit(u) @ sent[other] / among / v.norm()) for other in users}
    )
    items = pairs[pairs[:, 0] == user, 1]
    gates = torch.sigmoid(model.item[items] @ model.gate_item[0].T + model.entity[items] @ model.gate_entity[0].T)
    knowledge, collaborative = (1 - gates) * model.entity[items], gates * model.item[items]
    knowledge, collaborative = knowledge * of_item[items], collaborative * of_item[items]
    scale = (knowledge + collaborative).sum(0).norm() * u.norm()
    target = unit(e) + unit(v)
    rows = x.past_items.set_index("item").loc[items]
    assert np.allclose(rows["knowledge"], (knowledge @ target / scale).numpy())
    assert np.allclose(rows["collaborative"], (collaborative @ target / scale).numpy())
    assert np.allclose(rows["gate"], gates.mean(1).numpy())


def shared_entities(dataset: Dataset, user: int, item: int) -> set[tuple[int, int, int, int]]:
    """(past item, relation, entity, item's relation) of all paths, by loops."""
    pairs = dataset.pairs("train")
    return {
        (past, relation, tail, its)
        for past in pairs[pairs[:, 0] == user, 1]
        if past != item
        for relation, tail in edges_of(dataset, past)
        for its, entity in edges_of(dataset, item)
        if entity == tail
    }


def shared_users(dataset: Dataset, user: int, item: int) -> set[tuple[int, int]]:
    pairs = dataset.pairs("train")
    users = set(pairs[pairs[:, 1] == item, 0]) - {user}
    past = set(pairs[pairs[:, 0] == user, 1]) - {item}
    return {(j, other) for other, j in pairs.tolist() if other in users and j in past}


@torch.no_grad()
def test_paths_are_what_is_shared_with_their_joint_terms(dataset: Dataset, graph: Any) -> None:
    """Two layers: the user's vector holds facts of past items in the second, weighted by the second gate."""
    model, pairs = untrained(graph, layers=2), dataset.pairs("train")
    explainer = Explainer(model, dataset)
    trace = explainer.breakdown.trace
    # A pair that shares entities, the item being one of the user's: it makes no path to itself.
    user, item = next((u, i) for u, i in pairs.tolist() if len(shared_entities(dataset, u, i)) > 2)
    x = explainer(user, item)
    entity = x.paths[x.paths["via"] == "entity"]
    keys = ["past_item", "relation", "node", "item_relation"]
    assert set(map(tuple, entity[keys].to_numpy().tolist())) == shared_entities(dataset, user, item)
    other = x.paths[x.paths["via"] == "user"]
    assert set(map(tuple, other[["past_item", "node"]].to_numpy().tolist())) == shared_users(dataset, user, item)
    assert x.path_totals == {
        "entity": (len(entity), pytest.approx(entity["contribution"].sum())),
        "user": (len(other), pytest.approx(other["contribution"].sum())),
    }
    sums, row = model.propagate(), entity.iloc[0]
    past, relation, node, its = (int(row[key]) for key in keys)
    items = pairs[pairs[:, 0] == user, 1]

    def fact(layer: int, head: int, relation: int, tail: int) -> torch.Tensor:
        values = trace.layers[layer].entity
        every = [model.rule.message(values[head], values[t], model.relation[r]) for r, t in edges_of(dataset, head)]
        whole = torch.stack(every).sum(0).norm()
        return model.rule.message(values[head], values[tail], model.relation[relation]) / whole

    target = sum(fact(layer, item, its, node) for layer in (0, 1)) / sums.entity[item].norm()
    gates, from_past, of_item = [], torch.zeros_like(model.user[0]), shares(model, dataset)[1]
    for number, layer in enumerate(trace.layers):
        assert layer.item is not None
        fused = of_item * model.fused_items(number, layer.entity, layer.item)
        a, b = model.gate_item[number], model.gate_entity[number]
        whole = fused[items].sum(0).norm()
        gates.append(of_item[past] * torch.sigmoid(a @ layer.item[past] + b @ layer.entity[past]) / whole)
        from_past += fused[past] / whole
    norm = sums.user[user].norm()
    parallel = sum(tail == node for _, tail in edges_of(dataset, past))
    assert row["contribution"] == pytest.approx(float(from_past @ target / norm / parallel))
    layer = trace.layers[1]
    fused = (of_item * model.fused_items(1, layer.entity, layer.item))[items].sum(0).norm()
    through = (of_item[past] / fused - gates[1]) * fact(0, past, relation, node)
    assert row["through_node"] == pytest.approx(float(through @ target / norm))


def test_one_layer_lets_no_past_fact_through(dataset: Dataset, graph: Any) -> None:
    paths = Explainer(untrained(graph, layers=1), dataset)(7, 31).paths
    assert len(paths)
    assert (paths["through_node"] == 0).all()
    assert (paths["contribution"] != 0).all()


def test_totals_count_paths_beyond_those_kept(dataset: Dataset, graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = Explainer(untrained(graph), dataset)
    whole = explainer(7, 31)
    monkeypatch.setattr(decomposition, "KEPT_PATHS", 3)
    cut = explainer(7, 31)
    assert cut.path_totals == whole.path_totals
    users = whole.paths[whole.paths["via"] == "user"]
    kept = cut.paths[cut.paths["via"] == "user"]
    assert len(users) > len(kept) == 3
    assert kept["contribution"].abs().min() >= users["contribution"].abs().nlargest(3).min()


# --- the terms point at what matters ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained_model(dataset: Dataset) -> HAKG:
    trainer = Trainer(dataset, small_settings(dim=16, layers=3, epochs=15))
    trainer.fit()
    return trainer.model


def test_without_its_strongest_edges_the_score_falls_more_than_without_random_ones(
    dataset: Dataset, trained_model: HAKG
) -> None:
    """Over the first recommendations of 30 users: one past item less, or one fact of the item, and no new training."""
    model, explainer, random = trained_model, Explainer(trained_model, dataset), np.random.default_rng(0)
    whole, facts, pattern = model.executor, model.packed.knowledge, model.packed.interactions
    best = recommend(EmbeddingScorer(*model.ranking_vectors()), np.arange(30), 1, dataset.positives())
    falls: dict[str, list[float]] = {"past": [], "random past": [], "fact": [], "random fact": []}
    for user, item in best[["user", "item"]].to_numpy():
        x = explainer(int(user), int(item))

        def without(knowledge: Any = None, interactions: Any = None, x: Explanation = x) -> float:
            masks = {model.relation_types: knowledge, (INTERACTED_BY,): interactions}
            model.executor = whole.drop({etypes: mask for etypes, mask in masks.items() if mask is not None})
            users, items = model.ranking_vectors()
            model.executor = whole
            return x.score - float(users[x.user] @ items[x.item])

        for prefix, row in (("", 0), ("random ", None)):
            past = x.past_items.iloc[random.integers(len(x.past_items)) if row is None else row]
            fact = x.facts.iloc[random.integers(len(x.facts)) if row is None else row]
            dropped = (pattern.rows == user) & (pattern.cols == past["item"])
            falls[f"{prefix}past"].append(without(interactions=~dropped))
            edge = (facts.pairs.rows == item) & (facts.relation == fact["relation"])
            falls[f"{prefix}fact"].append(without(knowledge=~(edge & (facts.pairs.cols == fact["entity"]))))
    means = {kind: np.mean(values) for kind, values in falls.items()}
    assert means["past"] > 1.5 * max(means["random past"], 0.005), means
    assert means["fact"] > 1.5 * max(means["random fact"], 0.005), means


def test_the_rank_is_that_of_the_recommendation_list(dataset: Dataset, trained_model: HAKG) -> None:
    explainer = Explainer(trained_model, dataset)
    lists = recommend(EmbeddingScorer(*trained_model.ranking_vectors()), np.arange(5), 60, dataset.positives())
    for user, rank, item in lists.loc[[0, 17, 70], ["user", "rank", "item"]].to_numpy():
        x = explainer(int(user), int(item))
        assert (x.rank, x.n_ranked) == (rank, (lists["user"] == user).sum())
    known = dataset.pairs("test")[0]
    assert explainer(*known.tolist()).n_ranked == (lists["user"] == known[0]).sum() + 1


# --- components ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ItemToItem:
    """A linear term: a tenth for each past item."""

    trace: Trace
    name: str = "item to item"

    def terms(self, user: int, item: int) -> Terms:
        past = self.trace.past_items(user).numpy()
        from_user = pd.DataFrame({"via": "similar", "item": past, "contribution": 0.1})
        from_item = pd.DataFrame({"via": ["similar"], "relation": -1, "node": -1, "contribution": 0.1 * len(past)})
        return Terms(0.1 * len(past), from_user, from_item)


def test_the_linear_term_is_a_component_with_a_weight_for_each_past_item(dataset: Dataset, graph: Any) -> None:
    model = untrained(graph, score="inner", linear_weight=3.0, linear_l2=20.0)
    found = Explainer(model, dataset)(7, 31)
    assert list(found.components["component"])[-1] == "linear item-item term"
    assert float(found.components["contribution"].iloc[-1]) != 0.0
    weights = 3.0 * model.terms.linear_left @ model.terms.linear_right[31]
    by_item = found.past_items.set_index("item")["linear"]
    assert np.allclose(by_item, weights[torch.tensor(by_item.index)].numpy())
    assert set(found.other_terms["via"]) == {"linear"}
    assert set(found.other_terms["node"]) == set(by_item.index)


def test_another_component_gets_its_own_column_and_terms(dataset: Dataset, graph: Any) -> None:
    model = untrained(graph)
    breakdown = HAKGBreakdown(model)
    plain = Explainer(model, dataset)(7, 31)
    more = Explainer(model, dataset, [*breakdown.components, ItemToItem(breakdown.trace)])(7, 31)
    n = len(more.past_items)
    assert list(more.components["component"])[2:] == ["item to item"]
    assert (more.past_items["similar"] == 0.1).all()
    assert np.allclose(more.past_items["contribution"], plain.past_items["contribution"] + 0.1)
    assert more.other_terms["contribution"].tolist() == [pytest.approx(0.1 * n)]
    # The score is still the model's, which lacks the term.
    assert more.rounding == pytest.approx(dict.fromkeys(("components", "user_side", "item_side"), -0.1 * n))
    assert json.loads(json.dumps(more.to_dict()))["other_terms"][0]["via"] == "similar"


def test_what_cannot_be_explained_is_refused(dataset: Dataset, graph: Any) -> None:
    with pytest.raises(ConfigError, match="Linear"):
        Explainer(torch.nn.Linear(2, 2), dataset)
    smaller = dataclasses.replace(dataset, entities=pd.concat([dataset.entities, dataset.entities.tail(1)]))
    with pytest.raises(DataError, match="Give the data set that the model was trained on"):
        Explainer(untrained(graph), smaller)
    explainer = Explainer(untrained(graph), dataset)
    for user, item, message in ((60, 0, "no user 60"), (-1, 0, "no user -1"), (0, 50, "no item 50")):
        with pytest.raises(DataError, match=message):
            explainer(user, item)


# --- the command --------------------------------------------------------------------------------------------------


def explained(place: Path, *options: object) -> dict[str, Any]:
    result = hakg("explain", place / "R", "--user", 3, "--item", 1, "--device", "cpu", "--json", "-", *options)
    assert result.exit_code == 0, result.output
    about: dict[str, Any] = json.loads(result.stdout)
    return about


def test_the_command_says_what_python_says(trained: Path) -> None:
    dataset = load_dataset(trained / "D")
    x = explain(load_model(trained / "R", dataset), dataset, 3, 1)
    about = explained(trained, "--top", 2)
    assert {key: about[key] for key in x.to_dict()} == json.loads(json.dumps(x.to_dict(2)))
    assert about["data"]["digest"] == dataset.digest
    assert [len(about[name]["rows"]) for name in ("past_items", "users")] == [2, 2]
    others = about["past_items"]["others"]
    assert others["count"] == len(x.past_items) - 2
    for way in ("knowledge", "collaborative", "linear"):
        assert others[way] == pytest.approx(x.past_items[way].iloc[2:].sum())
    shown = sum(row["contribution"] for row in about["past_items"]["rows"])
    assert shown + others["contribution"] + about["user_own"]["contribution"] == pytest.approx(x.score, abs=1e-5)
    assert about["components"][0]["share"] == pytest.approx(about["components"][0]["contribution"] / x.score)


def test_the_text_names_everything_and_its_columns_are_whole(trained: Path) -> None:
    result = hakg("explain", trained / "R", "--user", 3, "--item", 1, "--top", 2)
    assert result.exit_code == 0, result.output
    about = explained(trained, "--top", 2)
    text = result.stdout
    assert text.startswith(
        f"User 3, item 1: score {about['score']:.4f}, rank {about['rank']} of {about['ranked_items']} items"
    )
    for title in (
        "part of the score",
        "past item",
        "facts of the item",
        "users of the item",
        "rest of the item's side",
    ):
        assert sum(line.startswith(title) for line in text.splitlines()) == 1
    assert f"{about['past_items']['others']['count']} others" in text
    assert "Gate: collaborative embeddings of the past items weigh" in text
    assert "paths over a shared user" in text
    fact = about["facts"]["rows"][0]
    assert f"--{fact['relation']}-> {fact['entity_name']}" in text


def test_users_and_items_are_introduced_once() -> None:
    assert introduced("User", "196") == "User 196"
    assert introduced("User", "User 7 (user_7)") == "User 7 (user_7)"
    assert introduced("item", "Item 3") == "Item 3"


def test_relations_point_from_head_to_tail(dataset: Dataset, graph: Any) -> None:
    """Explaining with inverse edges: facts of an item that is the tail of a triple read the other way round."""
    from hakg_dgl.cli.explain import _fact, _path

    label = {"id": "x", "name": "X"}
    assert _fact({"relation": "r", "inverse": False, "entity_id": "x", "entity_name": "X"}) == "--r-> X (x)"
    assert _fact({"relation": "r", "inverse": True, "entity_id": "x", "entity_name": "X"}) == "<-r-- X (x)"
    path = {"past_item": label, "entity": {"id": "e", "name": "e"}, "past_fact": {"relation": "r", "inverse": True}}
    assert _path({**path, "item_fact": {"relation": "q", "inverse": False}}) == "X (x) <-r-- e <-q-- the item"
    assert _path({**path, "item_fact": {"relation": "q", "inverse": True}}) == "X (x) <-r-- e --q-> the item"
    assert _path({"past_item": label, "user": {"id": "9", "name": "9"}}) == "X (x) - user 9 - the item"


def test_bad_input_is_refused(work: Path) -> None:
    for options, message in (
        (("--user", "nobody", "--item", 1), "there is no user with the id 'nobody'"),
        (("--user", 3, "--item", "nothing"), "there is no item with the id 'nothing'"),
        (("--user", 3, "--item", 1, "--picture", "why.txt"), "'why.txt' must end with one of .svg, .png, .pdf"),
    ):
        result = hakg("explain", "R", *options)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr
    trained = hakg("train", "D", "--out", "P", "--set", "kind=popularity")
    assert trained.exit_code == 0, trained.output
    result = hakg("explain", "P", "--user", 3, "--item", 1)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "model 'popularity' does not take its scores apart; the models that do: hakg" in result.stderr


# --- the picture --------------------------------------------------------------------------------------------------


def test_pictures_name_items_and_are_the_same_each_time(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")
    for name in ("a/why.svg", "b/why.svg", "why.png"):
        explained(trained, "--picture", tmp_path / name)
    svg = (tmp_path / "a/why.svg").read_text()
    assert svg == (tmp_path / "b/why.svg").read_text()
    assert "Past items" in svg
    assert "the user" in svg
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "why.png"]


def test_the_picture_draws_paths_items_and_rest(dataset: Dataset, graph: Any) -> None:
    pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")
    from hakg_dgl.figures.explanation import draw

    explainer = Explainer(untrained(graph), dataset)
    user, item = next(
        (u, i) for u in range(60) for i in range(50) if explainer(u, i).path_totals["entity"][0] > 2
    )  # fmt: skip
    x = explainer(user, item)
    bars, whole, network = draw(x, items=3, paths=2).axes
    labels = [[label.get_text() for label in axes.get_yticklabels()] for axes in (bars, whole)]
    assert labels[0] == dataset.items["name"].iloc[x.past_items["item"].head(3)].tolist()
    assert labels[1] == ["these 3", f"{len(x.past_items) - 3} others", "the user's own", "whole score"]
    assert len(network.lines) > 2
    texts = {text.get_text() for text in network.texts}
    row: Any = x.paths[x.paths["via"] == "entity"].groupby(["past_item", "node"])["contribution"].sum().idxmax()
    names = [dataset.items["name"].iloc[number] for number in (row[0], item)]
    assert set(names) <= texts
    entity = dataset.entities["name"].iloc[row[1]]
    assert any(text.startswith(entity) for text in texts), texts


@pytest.mark.parametrize("settings", [{"score": "inner", "linear_weight": 3.0, "linear_l2": 20.0}, {"layers": 1}])
def test_the_bars_of_the_picture_are_the_whole_score(dataset: Dataset, graph: Any, settings: dict[str, Any]) -> None:
    """All ways of the past items, the linear one among them, and the user's own parameters, with their signs."""
    pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")
    from hakg_dgl.figures.explanation import draw

    x = Explainer(untrained(graph, **settings), dataset)(7, 31)
    bars, whole, _ = draw(x, items=4).axes
    width = {c.get_label(): [bar.get_width() for bar in c] for c in whole.containers}
    ways = ["knowledge", "collaborative", *(["linear"] if "linear_weight" in settings else [])]
    assert list(width) == [*ways, "own parameters"]
    assert sum(values[-1] for values in width.values()) == pytest.approx(x.score, abs=1e-9)
    above = [sum(values[row] for values in width.values()) for row in range(len(whole.get_yticks()) - 1)]
    assert sum(above) == pytest.approx(x.score, abs=1e-9)
    each = np.array([[bar.get_width() for bar in c] for c in bars.containers]).sum(0)
    assert np.allclose(each, x.past_items["contribution"].head(4))
    assert [text.get_text() for text in whole.texts][-1] == f"{x.score:.3f}"


def test_bars_begin_where_the_part_of_the_same_sign_before_them_ends() -> None:
    pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")
    from matplotlib.figure import Figure

    from hakg_dgl.figures.explanation import _stacked

    axes = Figure().subplots()
    _stacked(axes, pd.DataFrame({"a": [1.0, -1.0], "b": [-2.0, 2.0], "c": [3.0, -3.0]}), ["x", "y"])
    spans = [[(bar.get_x(), bar.get_x() + bar.get_width()) for bar in c] for c in axes.containers]
    assert spans == [[(0, 1), (0, -1)], [(0, -2), (0, 2)], [(1, 4), (-1, -4)]]


def test_a_user_without_items_and_an_item_without_facts_can_be_drawn(dataset: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")
    from hakg_dgl.figures.explanation import draw, save_picture

    cold = with_interactions(
        dataclasses.replace(dataset, triples=dataset.triples[(dataset.triples[["head", "tail"]] != 1).all(axis=1)]),
        dataset.interactions[dataset.interactions["user"] != 0],
    )
    x = Explainer(untrained(build_graph(cold)), cold)(0, 1)
    save_picture(x, tmp_path / "why.png")
    bars, whole, network = draw(x).axes
    assert bars.get_title() == "No past items"
    assert [label.get_text() for label in whole.get_yticklabels()] == ["the user's own", "whole score"]
    assert [text.get_text() for text in network.texts] == ["no shared entity or user"]


def test_where_no_entity_is_shared_the_picture_shows_users(dataset: Dataset) -> None:
    pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")
    from hakg_dgl.figures.explanation import draw

    bare = dataclasses.replace(dataset, triples=dataset.triples.head(1))
    explainer = Explainer(untrained(build_graph(bare)), bare)
    item = int(np.bincount(bare.pairs("train")[:, 1]).argmax())
    x = explainer(0, item)
    network = draw(x, paths=3).axes[2]
    assert network.get_title().startswith("Strongest paths over shared users")
    node = x.paths.loc[x.paths["via"] == "user", "node"].iloc[0]
    assert bare.users["name"].iloc[node] in {text.get_text() for text in network.texts}


# --- entities without names ---------------------------------------------------------------------------------------


def without_entity_names(dataset: Dataset) -> Dataset:
    names = dataset.entities["name"].where(np.arange(dataset.n_entities) < dataset.n_items)
    return dataclasses.replace(
        dataset, entities=dataset.entities.assign(name=names.fillna(dataset.entities["original_id"]))
    )


def test_an_entity_is_told_by_the_items_that_have_it_those_most_seen_first(dataset: Dataset) -> None:
    shared = SharedItems(dataset)
    triples, names = dataset.triples, dataset.items["name"]
    seen = np.bincount(dataset.pairs("train")[:, 1], minlength=dataset.n_items)
    for entity in (dataset.n_items, dataset.n_items + 9, dataset.n_entities - 1):
        ends = [triples.loc[triples[a] == entity, b] for a, b in (("tail", "head"), ("head", "tail"))]
        expected = {item for item in pd.concat(ends) if item < dataset.n_items}
        found = shared.items(entity)
        assert set(found) == expected
        assert (np.diff(seen[found]) <= 0).all()
        if len(found) > 3:
            assert shared.listed(entity) == f"{'; '.join(names.iloc[found[:2]])}; {len(found) - 2} more"
            assert found[0] not in shared.items(entity, [found[0]])
    # Of a relation held in both directions the one from the item is named; of a dotted name the last part.
    fact = triples[(triples["head"] < dataset.n_items) & (triples["tail"] >= dataset.n_items)].iloc[[0]]
    relations = dataset.relations.assign(name=[f"film.{name}" for name in dataset.relations["name"]])
    back = fact.rename(columns={"head": "tail", "tail": "head"}).assign(relation=len(relations))
    twice = dataclasses.replace(
        dataset,
        triples=pd.concat([fact, back])[triples.columns],
        relations=pd.concat([relations, relations.head(1).assign(name="film.inverse")], ignore_index=True),
    )
    name = dataset.relations["name"].iloc[fact["relation"].item()]
    entity, item = fact["tail"].item(), fact["head"].item()
    assert SharedItems(twice).described(entity) == f"{name}: {names.iloc[item]}"
    assert SharedItems(twice).described(dataset.n_entities - 1) == ""


def test_entities_without_names_are_shown_with_items_that_have_them(dataset: Dataset, graph: Any) -> None:
    """In tables and the picture; and that there are no names is said."""
    pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")
    from hakg_dgl.cli.explain import _sections

    from hakg_dgl.figures.explanation import draw

    bare = without_entity_names(dataset)
    explainer = Explainer(untrained(graph), bare)
    entity = max(range(bare.n_items, bare.n_entities), key=lambda node: len(explainer.shared.items(node)))
    item = int(explainer.shared.items(entity)[0])
    x = next(x for x in (explainer(user, item) for user in range(60)) if x.path_totals["entity"][0] > 2)
    about = x.to_dict(50)
    row = next(row for row in about["facts"]["rows"] if row["entity_id"] == bare.entities["original_id"][entity])
    others = explainer.shared.items(entity, [item])
    assert row["also_of"] == {"items": len(others), "names": bare.items["name"].iloc[others[:2]].tolist()}
    text = "\n".join(_sections(about))
    assert (
        f"The data set names none of these entities: there are ids such as {about['facts']['rows'][0]['entity_id']}"
        in text
    )
    assert explainer.shared.listed(entity, [item]) in text
    assert "names none" not in "\n".join(_sections(Explainer(untrained(graph), dataset)(x.user, item).to_dict(50)))
    texts = [text.get_text() for text in draw(x).axes[2].texts]
    assert any(re.search(r"\nof [0-9]+ items", text) for text in texts), texts


@pytest.mark.filterwarnings("error")
def test_names_are_drawn_as_they_are(dataset: Dataset, graph: Any, tmp_path: Path) -> None:
    """No mathematics between dollars, no control characters, which XML forbids, no warning about scripts."""
    pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")
    from hakg_dgl.figures.explanation import save_picture

    names = [f"$a_1$ \x0b\x00 <&> 漢 {number}" for number in range(dataset.n_items)]
    named = dataclasses.replace(dataset, items=dataset.items.assign(name=names))
    save_picture(Explainer(untrained(graph), named)(7, 31), tmp_path / "why.svg")
    texts = [element.text for element in ElementTree.parse(tmp_path / "why.svg").iter() if element.text]
    assert "$a_1$ ?? <&> 漢 31" in texts


def test_without_matplotlib_the_rest_still_works(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # what an import of a missing package meets
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = hakg("explain", "R", "--user", 3, "--item", 1, "--picture", "why.svg")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "pip install matplotlib, or leave --picture out" in result.stderr
    assert not Path("why.svg").exists()
    assert hakg("explain", "R", "--user", 3, "--item", 1).exit_code == 0


def test_shares_of_a_score_near_zero_are_left_out(trained: Path) -> None:
    dataset = load_dataset(trained / "D")
    x = explain(load_model(trained / "R", dataset), dataset, 3, 1)
    largest = max(x.components["contribution"].abs().max(), x.past_items["contribution"].abs().max())
    small = dataclasses.replace(x, score=float(largest) / 100)
    assert small.share(largest) is None
    assert small.to_dict()["components"][0]["share"] is None
    assert x.share(x.score) == 1
    text = "\n".join(_sections(small.to_dict()))
    assert "Shares are left out" in text
    assert "%" not in text.replace(f"weigh {small.to_dict()['gate']['collaborative_weight']:.0%}", "")
    assert "Shares" not in "\n".join(_sections(x.to_dict()))
