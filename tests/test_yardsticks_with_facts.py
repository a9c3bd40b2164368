"""The yardsticks that read facts: the profile, EASE with side information, and models with the profile beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_demo import small_demo, small_settings

from hakg_dgl import load_model, make_trainer, model_names
from hakg_dgl.errors import ConfigError
from hakg_dgl.graph.matrices import fact_matrix, interaction_matrix
from hakg_dgl.models.beside_facts import EASEBesideFacts
from hakg_dgl.models.ease_facts import EASEFacts
from hakg_dgl.models.facts_profile import FactsProfile
from hakg_dgl.models.recommender import Recommender
from hakg_dgl.training.trainee import build_model

DEMO = small_demo()
BESIDE = [name for name in model_names() if name.endswith("+facts")]
EVERYONE = torch.arange(DEMO.n_users)
Dense = np.ndarray


def model_of(kind: str, **settings: object) -> Recommender:
    return build_model(DEMO, small_settings(kind, **settings), torch.device("cpu"), ("train",))


def dense(model: Recommender) -> tuple[Dense, Dense]:
    return interaction_matrix(model.graph).toarray(), fact_matrix(model.graph).toarray()


def ease(gram: Dense, l2: float) -> Dense:
    """EASE by its Lagrangian, column by column, not by the inverse of the whole."""
    n = len(gram)
    found = np.zeros((n, n))
    for column in range(n):
        others = np.delete(np.arange(n), column)
        a = gram[np.ix_(others, others)] + l2 * np.eye(n - 1)
        found[others, column] = np.linalg.solve(a, gram[others, column])
    return found


def test_the_profile_is_a_sum_of_likenesses() -> None:
    model = model_of("facts-profile")
    assert isinstance(model, FactsProfile)
    model.solve({})
    x, facts = dense(model)
    assert np.allclose(model.scorer().scores(EVERYONE), x @ (facts @ facts.T))


def test_collective_ease_is_ease_on_interactions_and_facts() -> None:
    model = model_of("ease-facts", dtype="float64")
    assert isinstance(model, EASEFacts)
    model.solve({"ease_l2": 20.0, "facts_weight": 3.0})
    x, facts = dense(model)
    stacked = np.vstack([x, 3.0 * facts.T])
    assert np.allclose(model.weights.numpy(), ease(stacked.T @ stacked, 20.0))
    assert np.allclose(model.scorer().scores(EVERYONE), x @ model.weights.numpy())


def test_additive_ease_is_the_sum_of_two() -> None:
    model = model_of("ease-facts", side_information="additive", dtype="float64")
    assert isinstance(model, EASEFacts)
    x, facts = dense(model)
    for chosen in model.candidates()[:4]:  # solutions are kept between them
        model.solve(chosen)
        of_facts = ease(facts @ facts.T, chosen["facts_l2"])
        expected = ease(x.T @ x, chosen["ease_l2"]) + chosen["facts_weight"] * of_facts
        assert np.allclose(model.weights.numpy(), expected)


def test_both_kinds_of_side_information_try_what_they_read() -> None:
    collective, additive = (EASEFacts(model_of("ease-facts").graph, s) for s in (None, None))
    assert {frozenset(chosen) for chosen in collective.candidates()} == {frozenset(("ease_l2", "facts_weight"))}
    settings = small_settings("ease-facts", side_information="additive").model
    additive = EASEFacts(collective.graph, settings)
    assert len(additive.candidates()) == 2 * 3 * 3
    assert small_settings("ease-facts", facts_l2=[5.0]).idle()
    assert not small_settings("ease-facts", side_information="additive", facts_l2=[5.0]).idle()


@pytest.mark.parametrize(
    "kind", ["ease+facts", "item-knn+facts", "rp3beta+facts", "bpr-mf+facts", "lightgcn+facts", "hgcf+facts"]
)
def test_the_profile_beside_a_model_is_weighed_in_standard_deviations(kind: str) -> None:
    settings = small_settings(kind, facts_weight=[0.3])
    trainer = make_trainer(DEMO, settings)
    result = trainer.fit()
    assert result["chosen"] == {"facts_weight": 0.3}
    base = make_trainer(DEMO, small_settings(kind.removesuffix("+facts")))
    base.fit()
    x, facts = dense(trainer.model)
    alone, profile = base.model.scorer().scores(EVERYONE).double().numpy(), x @ (facts @ facts.T)
    expected = alone + 0.3 * alone.std() / profile.std() * profile
    assert np.allclose(trainer.model.scorer().scores(EVERYONE).double().numpy(), expected, atol=1e-5)


def test_the_weight_that_selects_best_is_kept(tmp_path: Path) -> None:
    settings = small_settings("ease+facts", ease_l2=[20.0])
    result = make_trainer(DEMO, settings, run=tmp_path / "run").fit()
    by_weight = {}
    for weight in settings.model.facts_weight:
        found = make_trainer(DEMO, settings.replace({"facts_weight": weight})).fit()
        by_weight[weight] = found["metrics"]["valid"]["ndcg@20"]
    assert by_weight[result["chosen"]["facts_weight"]] == max(by_weight.values())
    assert result["metrics"]["valid"]["ndcg@20"] == max(by_weight.values())
    model = load_model(tmp_path / "run", DEMO)
    assert isinstance(model, EASEBesideFacts)
    assert float(model.facts_multiplier) > 0


def test_they_say_what_they_do_not_read() -> None:
    with pytest.raises(ConfigError, match="ease_l2"):
        small_settings("facts-profile", ease_l2=[3.0])
