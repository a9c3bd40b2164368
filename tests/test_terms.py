"""The closed-form terms of HAKG's score and how their weights are chosen."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_demo import small_demo, small_settings
from torch import Tensor

from hakg_dgl import Trainer, cold_items, load_model
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.graph.matrices import fact_matrix, interaction_matrix
from hakg_dgl.models.hakg import HAKG
from hakg_dgl.models.hakg.objective import Objective
from hakg_dgl.models.hakg.terms import new_items, spread
from hakg_dgl.ranking.evaluation import Evaluator
from hakg_dgl.ranking.topk import Scorer
from hakg_dgl.training.selection import Selection
from hakg_dgl.training.trainee import build_model

DEMO = small_demo()
WHOLE: dict[str, Any] = {"linear_rank": 1000, "facts_rank": 1000, "dtype": "float64"}


def with_new_items(dataset: Dataset, items: list[int]) -> Dataset:
    """The same, with all interactions of some items in validation."""
    table = dataset.interactions.copy()
    table.loc[table["item"].isin(items), "split"] = "valid"
    return dataclasses.replace(dataset, interactions=table)


NEW = [2, 11, 23, 30, 41, 47]
RENEWED = with_new_items(DEMO, NEW)


def model_of(dataset: Dataset = DEMO, **settings: Any) -> HAKG:
    model = build_model(dataset, small_settings(**(WHOLE | settings)), torch.device("cpu"), ("train",))
    assert isinstance(model, HAKG)
    return model


def scores(model: HAKG) -> Tensor:
    user, item = model.ranking_vectors()
    return user @ item.T


class ByValue:
    """A judge that likes one value of one setting, told by the scores."""

    def __init__(self, wanted: Tensor) -> None:
        self.wanted = wanted

    def worth(self, scorer: Scorer) -> float:
        return -float((scorer.scores(torch.arange(scorer.n_users)) - self.wanted).square().mean())

    def worth_of_new_items(self, scorer: Scorer) -> float | None:
        return self.worth(scorer)


def test_the_term_over_facts_is_ridge_regression_on_them() -> None:
    """U D Uᵀ is F (FᵀF + λI)⁻¹ Fᵀ, here by dense solution."""
    model = model_of(linear_weight=0.0, facts_l2=7.0)
    plain = scores(model)
    chosen = {"facts_weight": 0.5, "facts_l2": 7.0, "new_items_weight": 0.0, "new_items_bias": 0.0}
    model.set_terms(chosen)
    facts, x = fact_matrix(model.graph).toarray(), interaction_matrix(model.graph).toarray()
    kernel = facts @ np.linalg.solve(facts.T @ facts + 7.0 * np.eye(facts.shape[1]), facts.T)
    expected = (x / np.sqrt(x.sum(1, keepdims=True).clip(1))) @ kernel
    added = scores(model) - plain
    assert torch.allclose(added, torch.from_numpy(expected) * float(model.terms.weights[1]))
    # The weight is in standard deviations of the rest.
    assert float(added.std(correction=0)) == pytest.approx(0.5 * float(plain.std(correction=0)), rel=0.05)


def test_items_without_interactions_have_a_weight_and_a_bias_of_their_own() -> None:
    model = model_of(RENEWED, linear_weight=0.0)
    assert cold_items(RENEWED, "valid").tolist() == NEW
    plain = scores(model)
    chosen = {"facts_weight": 0.0, "facts_l2": 7.0, "new_items_weight": 0.5, "new_items_bias": 0.0}
    model.set_terms(chosen)
    new, old = NEW, np.setdiff1d(np.arange(DEMO.n_items), NEW)
    assert torch.equal(scores(model)[:, old], plain[:, old])
    assert float((scores(model) - plain)[:, new].abs().max()) > 0
    before = scores(model)
    model.set_terms({**chosen, "new_items_bias": 2.0})
    added = scores(model) - before
    assert torch.equal(added[:, old], torch.zeros_like(added[:, old]))
    base = model.score_vectors(model.propagate())
    assert torch.allclose(added[:, new], torch.full_like(added[:, new], 2.0 * spread(*base)))


@pytest.mark.parametrize("wanted", [
    {"linear_weight": 16.0, "linear_l2": 50.0, "linear_exponent": 0.0},
    {"linear_weight": 8.0, "linear_l2": 200.0, "linear_exponent": 0.25},
    {"facts_weight": 0.2, "facts_l2": 30.0}, {"facts_weight": 0.0},
], ids=str)  # fmt: skip
def test_the_values_that_rank_best_are_chosen(wanted: dict[str, float]) -> None:
    model = model_of(linear_weight=[4.0, 8.0, 16.0] if "linear_weight" in wanted else 0.0)
    model.set_terms({**model.terms.first_choice(), **wanted})
    target = scores(model)
    fresh = model_of(linear_weight=[4.0, 8.0, 16.0] if "linear_weight" in wanted else 0.0)
    chosen = fresh.choose(ByValue(target))
    assert {key: chosen[key] for key in wanted} == wanted
    assert torch.allclose(scores(fresh), target)


class Recorder:
    """A judge that keeps what it is shown, and likes what comes later."""

    def __init__(self, model: HAKG) -> None:
        self.model, self.errors, self.alone = model, [0.0], 0

    def worth(self, scorer: Scorer) -> float:
        users = torch.arange(scorer.n_users)
        exact = torch.cat([self.now()[part] for part in users.split(7)])
        shown = torch.cat([scorer.scores(part) for part in users.split(7)])
        self.errors.append(float((shown - exact).abs().max()))
        return float(len(self.errors))

    def worth_of_new_items(self, scorer: Scorer) -> float | None:
        shown, new = scorer.scores(torch.arange(scorer.n_users)), torch.tensor(NEW)
        self.errors.append(float((shown[:, new] - self.now()[:, new]).abs().max()))
        self.alone += int(shown.isinf().sum(1).unique() == scorer.n_items - len(NEW))
        return float(len(self.errors))

    def now(self) -> Tensor:
        """What the model scores with the weights and factors that it has at this moment."""
        model = self.model
        learned = model.score_vectors(model.propagate())
        user, item = model.terms.columns(new_items(model.graph), learned, model.past_sums)
        return (user @ item.T).detach()


@pytest.mark.parametrize("kept", [0, 500, 1 << 25])
def test_what_is_judged_is_the_score_that_the_model_then_has(kept: int, monkeypatch: Any) -> None:
    """Whether the scores of a term are kept, kept in part, or computed each time."""
    monkeypatch.setattr("hakg_dgl.models.hakg.choice.KEPT_SCORES", kept)
    model = model_of(RENEWED)
    recorder = Recorder(model)
    model.choose(recorder)
    assert len(recorder.errors) > 20
    assert recorder.alone == len(model.settings.facts_l2) + len(model.settings.new_items_weight)
    assert max(recorder.errors) < 1e-10


def test_a_choice_is_taken_over_by_another_model() -> None:
    model, other = model_of(RENEWED), model_of(RENEWED)
    chosen = model.choose(Selection(RENEWED, small_settings().training))
    other.take(chosen)
    assert torch.equal(scores(model), scores(other))


def test_new_items_are_judged_where_enough_users_have_chosen_one() -> None:
    training = small_settings().training
    assert Selection(DEMO, training).worth_of_new_items(model_of().scorer()) is None
    judged = Selection(RENEWED, training).worth_of_new_items(model_of(RENEWED).scorer())
    alone = Evaluator(RENEWED, "valid", (20,), candidates=np.array(NEW))(model_of(RENEWED).scorer())
    assert judged == alone.metrics[training.select_by]


def test_facts_order_new_items_where_too_few_users_have_chosen_one_to_tell() -> None:
    model = model_of()
    selection = Selection(DEMO, small_settings().training)
    assert selection.worth_of_new_items(model.scorer()) is None
    chosen = model.choose(selection)
    assert chosen["new_items_weight"] == 0.2  # the middle of the setting's list
    assert chosen["new_items_bias"] <= 0.0


def test_new_items_are_listed_after_training_and_are_not_without_the_term(tmp_path: Path) -> None:
    """In the demo facts say what users like; half the relevant interactions are with new items here."""
    settings = small_settings(epochs=12, patience=12)
    result = Trainer(RENEWED, settings, run=tmp_path / "run").fit()
    assert result["chosen"]["new_items_weight"] > 0
    groups = Evaluator(RENEWED, "valid", groups=True)
    without = Trainer(RENEWED, settings.replace({"facts_weight": 0.0}))
    without.fit()
    listed = [
        next(row for row in (groups(model.scorer()).groups or {})["item_popularity"] if row["group"] == "cold")
        for model in (load_model(tmp_path / "run", RENEWED), without.model)
    ]
    assert listed[0]["recall@20"] > listed[1]["recall@20"] + 0.1


def test_without_both_terms_there_is_nothing_to_choose_or_save() -> None:
    model = model_of(linear_weight=0.0, facts_weight=0.0)
    assert model.choose(Selection(DEMO, small_settings().training)) == {}
    assert not any(name.startswith("terms.") for name in model.state_dict())
    assert model.learned_scorer(model.scorer()) is None


def test_the_learned_part_of_a_scorer_is_what_propagation_gives() -> None:
    model = model_of()
    model.prepare()
    learned = model.learned_scorer(model.scorer())
    assert learned is not None
    with torch.no_grad():
        user, item = model.score_vectors(model.propagate())
    users = torch.arange(5)
    torch.testing.assert_close(learned.scores(users), user[:5] @ item.T)


def test_a_data_set_without_facts_has_no_term_over_them() -> None:
    bare = dataclasses.replace(DEMO, triples=DEMO.triples.head(0))
    model = model_of(bare)
    assert model.terms.facts.shape == (DEMO.n_items, 0)
    assert set(model.choose(Selection(bare, small_settings().training))) == {
        "linear_weight",
        "linear_l2",
        "linear_exponent",
    }


def test_the_choice_is_made_again_where_a_finished_search_goes_on(tmp_path: Path) -> None:
    """More epochs after a choice give what they would have given at once."""
    short, long = small_settings(epochs=3), small_settings(epochs=6)
    Trainer(DEMO, short, run=tmp_path / "run").fit()
    resumed = Trainer(DEMO, long, run=tmp_path / "run").fit(resume=True)
    whole = Trainer(DEMO, long, run=tmp_path / "whole").fit()
    assert resumed["metrics"] == whole["metrics"]
    assert resumed["chosen"] == whole["chosen"]


def test_new_items_are_judged_by_those_who_chose_one_however_many_users_there_are(monkeypatch: Any) -> None:
    monkeypatch.setattr("hakg_dgl.training.selection.JUDGES", 3)
    monkeypatch.setattr("hakg_dgl.training.selection.FEW", 1)
    one = with_new_items(DEMO, [NEW[0]])
    choosers = np.unique(one.pairs("valid")[one.pairs("valid")[:, 1] == NEW[0], 0])
    assert len(choosers) >= 1
    judged = Selection(one, small_settings().training)
    assert judged.worth_of_new_items(model_of(one).scorer()) is not None
    assert judged.worth(model_of(one).scorer()) >= 0


def test_new_items_have_a_damping_of_their_own() -> None:
    class OfNewItems:
        """Likes large scores of new items, and nothing else."""

        def worth(self, scorer: Scorer) -> float:
            return 1.0

        def worth_of_new_items(self, scorer: Scorer) -> float | None:
            return float(scorer.scores(torch.arange(scorer.n_users))[:, NEW].std())

    model = model_of(RENEWED, linear_weight=0.0, new_items_weight=[0.4], new_items_bias=[0.0])
    chosen = model.choose(OfNewItems())
    assert chosen["facts_weight"] == 0.0
    assert chosen["new_items_weight"] == 0.4
    worth = {}
    for l2 in model.settings.facts_l2:
        other = model_of(RENEWED, linear_weight=0.0)
        other.set_terms({**chosen, "new_items_l2": l2})
        worth[l2] = OfNewItems().worth_of_new_items(other.scorer())
    assert chosen["new_items_l2"] == max(worth, key=lambda l2: worth[l2])


def test_nothing_trains_the_collaborative_embeddings_of_new_items_and_nothing_reads_them() -> None:
    """They are no candidates of the softmax, and the score of a new item is that of its facts."""
    model = model_of(RENEWED, candidates=10, linear_weight=0.0)
    assert model.settings.score == "inner"
    before = scores(model)
    with torch.no_grad():
        model.item[NEW] += 1.0
    assert torch.equal(scores(model), before)
    random = {name: torch.Generator().manual_seed(3) for name in ("dropout", "negatives", "angle")}
    objective = Objective(model, random)
    users, positives = torch.from_numpy(RENEWED.pairs("train")[:64]).T
    objective.ranking_loss(model.propagate(), users, positives).backward()
    assert model.item.grad is not None
    known = [item for item in range(RENEWED.n_items) if item not in NEW]
    assert not model.item.grad[NEW].any()
    assert model.item.grad[known].any(1).sum() > 20


def test_the_softmax_draws_among_items_with_interactions() -> None:
    """A user's vector is pushed away from none of the new ones."""
    for candidates in (10, 10_000):
        model = model_of(RENEWED, candidates=candidates, linear_weight=0.0)
        objective = Objective(model, {name: torch.Generator().manual_seed(1) for name in ("dropout", "negatives")})
        users, positives = torch.from_numpy(RENEWED.pairs("train")[:64]).T
        embeddings = model.propagate()
        item = embeddings.entity.clone()
        item[NEW] = 100.0
        changed = dataclasses.replace(embeddings, entity=item)
        losses = []
        for one in (embeddings, changed):
            objective.generators["negatives"].manual_seed(1)
            losses.append(objective.ranking_loss(one, users, positives))
        assert torch.equal(*losses)


def test_new_items_that_nobody_wants_are_not_put_above_others() -> None:
    """Whatever weight ranks them best among themselves, the full ranking loses nothing to speak of."""

    class OfKnownItems:
        """Likes lists without new items."""

        def worth(self, scorer: Scorer) -> float:
            best = scorer.scores(torch.arange(scorer.n_users)).topk(5).indices
            return 1.0 - float(torch.isin(best, torch.tensor(NEW)).double().mean())

        def worth_of_new_items(self, scorer: Scorer) -> float | None:
            return 1.0

    model, judge = model_of(RENEWED, new_items_weight=[3.0], linear_weight=0.0), OfKnownItems()
    chosen = model.choose(judge)
    assert chosen["new_items_weight"] == 3.0
    assert chosen["new_items_bias"] < 0.0
    assert judge.worth(model.scorer()) >= 0.998
    model.set_terms({**chosen, "new_items_bias": 0.0})
    assert judge.worth(model.scorer()) < 0.9
