"""What every model of the registry must do: train, resume, rank, be saved and read, and all that it declares."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hakg_dgl.cli.explain import _sections
from small_demo import read_by, small_demo, small_settings
from torch import Tensor

from hakg_dgl import RunFolder, Settings, load_fold_in, load_model, load_scorer, make_trainer, model_class, model_names
from hakg_dgl.data.id_files import NewUsers
from hakg_dgl.errors import ConfigError
from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.insight.explain import Explainer
from hakg_dgl.insight.export import export
from hakg_dgl.models.recommender import ClosedFormRecommender, GradientRecommender
from hakg_dgl.ranking.evaluation import evaluate
from hakg_dgl.ranking.fold_in import AboutUsers
from hakg_dgl.studies.benchmark_references import citation, keys
from hakg_dgl.training.progress import Progress
from hakg_dgl.training.trainee import Trainee, build_model

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAMES = model_names()
BY_GRADIENTS = [name for name in NAMES if issubclass(model_class(name), GradientRecommender)]
CLOSED_FORMS = [name for name in NAMES if issubclass(model_class(name), ClosedFormRecommender)]
DEMO = small_demo()
FEW: dict[str, Any] = {"neighbours": [5, 20], "shrinkage": [0.0], "ease_l2": [20.0, 200.0]}
every_model = pytest.mark.parametrize("name", NAMES)
by_gradients = pytest.mark.parametrize("name", BY_GRADIENTS)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))]


def settings_of(name: str, **overrides: Any) -> Settings:
    return small_settings(name, **(read_by(name, FEW) | overrides))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs by name, each trained once, with a refit."""
    trained: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in trained:
            trained[name] = tmp_path_factory.mktemp(name) / "run"
            make_trainer(DEMO, settings_of(name, refit=True), run=trained[name]).fit()
        return trained[name]

    return get


def scores_of(scorer: Any) -> Tensor:
    return torch.as_tensor(scorer.scores(torch.arange(scorer.n_users))).double()


class Stop(Exception):
    """Raised in the middle of training."""


@every_model
def test_settings_come_back_from_text(name: str) -> None:
    settings = Settings(name)
    assert Settings.from_dict(tomllib.loads(settings.to_toml())) == settings
    model = settings.model_class
    assert model.name == name
    assert settings.idle() == []
    for preset in model.presets:
        Settings.resolve(preset=preset, overrides={"kind": name})
    assert set(model.space) <= set(settings.by_section())
    for variant in model.variants:
        assert settings.replace(variant.overrides).kind == name


@every_model
def test_its_paper_can_be_cited_as_its_file_names_it(name: str) -> None:
    text = citation(name)
    assert citation(f"{name}:bpr") == text
    if name in ("popularity", "facts-profile"):
        assert text == ""
        return
    assert text.count("{") == text.count("}")
    (key,), (title,) = keys(name), re.findall(r"^  title = \{\{(.+)\}\}", text.replace("\n    ", " "), re.MULTILINE)
    assert re.fullmatch(r"[a-z]+\d{4}[a-z0-9]+", key)
    assert key.startswith(text.partition("author = {")[2].partition(" and ")[0].split()[-1].strip("},").lower())
    source = sys.modules[getattr(model_class(name), "beside", model_class(name)).__module__].__doc__ or ""
    named = " ".join(source.split()).casefold()
    if name != "hakg":  # whose file names no title
        assert title.replace("{\\'e}", "é").casefold() in named
        assert re.findall(r"\d{4}", key)[0] in named


@every_model
def test_it_is_better_than_chance_on_the_demo(name: str, runs: Any) -> None:
    scorer = load_scorer(runs(name), DEMO)
    assert (scorer.n_users, scorer.n_items) == (DEMO.n_users, DEMO.n_items)
    # 20 of the items that a user does not have, drawn at random, hold this share of those in the test split.
    chance = 20 / (DEMO.n_items - len(DEMO.pairs("train", "valid")) / DEMO.n_users)
    assert evaluate(scorer, DEMO, ks=(20,)).metrics["recall@20"] > chance


@by_gradients
@pytest.mark.parametrize("device", DEVICES)
def test_the_loss_is_finite_and_falls(name: str, device: str) -> None:
    seen: list[Progress] = []
    make_trainer(DEMO, settings_of(name, epochs=8, device=device), on_progress=seen.append).fit()
    losses = [progress.loss for progress in seen if progress.step == progress.steps]
    assert len(losses) == 8
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]


@by_gradients
def test_every_parameter_gets_a_gradient(name: str) -> None:
    settings = settings_of(name)
    trainee = Trainee(DEMO, settings, torch.device("cpu"), ("train",))
    for each in trainee.passes:
        each.loss(*next(iter(each.batches))).backward()
    for parameter_name, parameter in trainee.model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert bool(parameter.grad.isfinite().all()), parameter_name
        assert float(parameter.grad.abs().max()) > 0, parameter_name


@by_gradients
@pytest.mark.parametrize("moment", [(2, 1), (3, 4)])
def test_a_stopped_run_resumes_bit_by_bit(name: str, moment: tuple[int, int], runs: Any, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if (progress.epoch, progress.step) == moment and not progress.refit:
            raise Stop

    settings = settings_of(name, refit=True)
    with pytest.raises(Stop):
        make_trainer(DEMO, settings, run=tmp_path, on_progress=stop).fit()
    make_trainer(DEMO, settings, run=tmp_path).fit(resume=True)
    mine, whole = RunFolder(tmp_path), RunFolder(runs(name))
    (ours, _), (expected, _) = (folder.load_tensors(folder.model_file) for folder in (mine, whole))
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[key], expected[key]) for key in expected)
    assert mine.result["metrics"] == whole.result["metrics"]


@every_model
def test_the_same_seed_gives_the_same_run(name: str, runs: Any, tmp_path: Path) -> None:
    make_trainer(DEMO, settings_of(name, refit=True), run=tmp_path).fit()
    (ours, _), (expected, _) = (
        folder.load_tensors(folder.model_file) for folder in (RunFolder(tmp_path), RunFolder(runs(name)))
    )
    assert all(torch.equal(ours[key], expected[key]) for key in expected)


@every_model
def test_what_is_saved_ranks_as_what_was_trained(name: str, runs: Any) -> None:
    run = runs(name)
    assert evaluate(load_scorer(run, DEMO), DEMO).metrics == pytest.approx(RunFolder(run).result["metrics"]["test"])
    model = load_model(run, DEMO)
    assert not model.training
    tensors = model.tensors()
    other = build_model(DEMO, RunFolder(run).settings, torch.device("cpu"), ("train", "valid"))
    other.load_tensors({key: value.clone() for key, value in tensors.items()})
    assert torch.equal(scores_of(other.scorer()), scores_of(model.scorer()))
    for wrong in ({}, {**tensors, "another": torch.zeros(3)}, {**tensors, next(iter(tensors)): torch.zeros(3)}):
        with pytest.raises(ValueError, match="such as"):
            other.load_tensors(wrong)


@every_model
def test_vectors_rank_as_the_scorer_does_where_they_are_declared(name: str, runs: Any, tmp_path: Path) -> None:
    model = load_model(runs(name), DEMO)
    if not model.abilities.vectors:
        for use in (model.ranking_vectors, lambda: export(model, DEMO, tmp_path / "v")):
            with pytest.raises(ConfigError, match=re.escape(name)):
                use()
        return
    users, items = model.ranking_vectors()
    torch.testing.assert_close((users @ items.T).double(), scores_of(model.scorer()), rtol=1e-5, atol=1e-6)
    tables = model.vector_tables()
    assert torch.equal(tables["users"]["ranking"], users)
    assert torch.equal(tables["items"]["ranking"], items)
    assert export(model, DEMO, tmp_path / "v")["counts"]["users"] == DEMO.n_users


@every_model
def test_new_users_are_scored_by_their_items_where_that_is_declared(name: str, runs: Any) -> None:
    run = runs(name)
    if not model_class(name).abilities.folds_in_users:
        with pytest.raises(ConfigError, match=re.escape(name)):
            load_fold_in(run, DEMO)
        return
    fold = load_fold_in(run, DEMO)
    scores = scores_of(fold.scorer([0, 2, 2, 3], [4, 7, 9]))
    assert scores.shape == (3, DEMO.n_items)
    assert bool(scores.isfinite().all())
    assert torch.equal(scores, scores_of(load_fold_in(run, DEMO).scorer([0, 2, 2, 3], [7, 4, 9])))


@every_model
def test_a_trained_user_who_is_folded_in_with_the_own_items_is_the_same(name: str, runs: Any) -> None:
    if not model_class(name).abilities.folds_in_users:
        return
    about = AboutUsers(torch.arange(DEMO.n_users))
    folded = load_fold_in(runs(name), DEMO).scorer(*DEMO.positives("train", "valid"), about)
    expected = scores_of(load_scorer(runs(name), DEMO))
    torch.testing.assert_close(scores_of(folded), expected, rtol=1e-4, atol=1e-5)


@every_model
def test_explanations_add_up_where_they_are_declared(name: str, runs: Any) -> None:
    model = load_model(runs(name), DEMO)
    if not model.abilities.explains:
        with pytest.raises(ConfigError, match=re.escape(name)):
            Explainer(model, DEMO)
        return
    explainer, scores = Explainer(model, DEMO), scores_of(model.scorer())
    for user, item in ((0, 0), (7, 31), (59, 49)):
        explanation = explainer(user, item)
        assert explanation.score == pytest.approx(float(scores[user, item]), rel=1e-5, abs=1e-6)
        assert all(abs(rest) < 1e-5 for rest in explanation.rounding.values())
        assert len(explanation.past_items) == len(explainer.breakdown.past_items(user))
        if model.abilities.facts and isinstance(model, GradientRecommender):
            assert explanation.facts["contribution"].abs().max() > 0
        assert {*zip(explanation.facts["relation"], explanation.facts["entity"], strict=True)} <= facts_of(item)
        assert set(explanation.users["user"]) <= {u for u, i in DEMO.pairs("train", "valid").tolist() if i == item}
        about = explanation.to_dict(3)
        text = "\n".join(_sections(about))
        assert f"score {explanation.score:.4f}" in text
        json.dumps(about, allow_nan=False)
        check_what_is_said_of_facts(name, text)


def check_what_is_said_of_facts(name: str, text: str) -> None:
    """A model that reads no facts is said not to, and has no empty tables of them."""
    of_facts = "facts of the item" in text, "paths over a shared entity" in text
    assert (f"Model '{name}' reads no facts." in text) is not model_class(name).abilities.facts
    assert of_facts == ((True, True) if model_class(name).abilities.facts and name != "ease-facts" else (False, False))
    assert ("The facts are in the weights between items" in text) is (name == "ease-facts")


def facts_of(item: int) -> set[tuple[int, int]]:
    """Relation and other end of all facts of an item, the relation being that of the inverse where it is the tail."""
    triples = DEMO.triples[["head", "relation", "tail"]].itertuples(index=False)
    both = [((h, r, t), (t, r + DEMO.n_relations, h)) for h, r, t in triples]
    return {(relation, end) for pair in both for start, relation, end in pair if start == item}


@every_model
@pytest.mark.parametrize(
    "shape",
    [
        {"layers": 3, "layer_widths": [6, 5]},
        {"layers": 2, "formulation": "paper", "aggregator": "pool", "sample_size": 3, "curvature": 0.5},
        {"layers": 2, "aggregator": "concat"},
    ],
)
def test_explanations_are_exact_for_parameters_and_layers_of_any_kind(name: str, shape: dict[str, Any]) -> None:
    if not (model_class(name).abilities.explains and name in BY_GRADIENTS):
        return
    settings = settings_of(name, dtype="float64", **read_by(name, shape))
    model = build_model(DEMO, settings, torch.device("cpu"), ("train",)).eval()
    assert isinstance(model, GradientRecommender)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.4, generator=draw)
    model.prepare()
    explainer, scores = Explainer(model, DEMO), scores_of(model.scorer())
    for user, item in ((0, 0), (7, 31), (59, 49)):
        explanation = explainer(user, item)
        assert explanation.score == pytest.approx(float(scores[user, item]), rel=1e-12)
        assert max(map(abs, explanation.rounding.values())) < 1e-9


@every_model
def test_explanations_of_users_who_are_folded_in_add_up(name: str, runs: Any) -> None:
    model = load_model(runs(name), DEMO)
    if not (model.abilities.explains and model.abilities.folds_in_users):
        return
    lists = np.array([0, 2, 2, 5]), np.array([4, 7, 1, 9, 30])
    users = NewUsers(pd.Index(["ann", "bob", "eve"]), *lists, known=np.array([-1, -1, 5]))
    explainer = Explainer(model, DEMO, new=users)
    scores = scores_of(model.fold_in().scorer(*lists, AboutUsers(torch.tensor([-1, -1, 5]))))
    for user in range(3):
        explanation = explainer(DEMO.n_users + user, 7)
        assert explanation.score == pytest.approx(float(scores[user, 7]), rel=1e-5, abs=1e-6)
        assert all(abs(rest) < 1e-5 for rest in explanation.rounding.values())
        assert sorted(explanation.past_items["item"]) == [[4, 7], [], [1, 9, 30]][user]
        check_what_is_said_of_facts(name, "\n".join(_sections(explanation.to_dict(3))))


@every_model
def test_positions_are_there_where_they_are_declared(name: str, runs: Any) -> None:
    model = load_model(runs(name), DEMO)
    if not model.abilities.positions:
        with pytest.raises(ConfigError, match=re.escape(name)):
            model.positions()
        return
    for values in ("parameters", "output"):
        where = model.positions(values)
        assert where.entity.shape[0] == DEMO.n_entities
        assert where.entity_distance.shape == (DEMO.n_entities,)
    with pytest.raises(ConfigError, match="elsewhere"):
        model.positions("elsewhere")


@every_model
def test_a_model_moves_with_its_graph(name: str) -> None:
    settings = settings_of(name)
    model = build_model(DEMO, settings, torch.device("cpu"), ("train",))
    graph = model.graph
    assert model.to("cpu") is model
    assert model.graph is graph, "nothing is made anew where nothing moves"


@every_model
def test_a_model_that_does_not_read_facts_is_the_same_without_them(name: str, runs: Any, tmp_path: Path) -> None:
    model = model_class(name)
    without = dataclasses.replace(DEMO, triples=DEMO.triples.head(1))
    make_trainer(without, settings_of(name, refit=True), run=tmp_path).fit()
    same = torch.equal(scores_of(load_scorer(tmp_path, without)), scores_of(load_scorer(runs(name), DEMO)))
    assert same is not model.abilities.facts


@every_model
def test_update_functions_of_ones_own_are_taken_or_refused(name: str) -> None:
    model, graph = model_class(name), build_graph(DEMO)
    updates = {("user", "interacts", "item"): lambda edges: edges.src["x"]}
    if model.abilities.own_edge_types:
        assert model(graph, updates=updates).own_updates == updates
        return
    with pytest.raises(ConfigError, match=re.escape(name)):
        model(graph, updates=updates)
