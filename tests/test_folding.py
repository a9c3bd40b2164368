"""Trained users with newer purchases, and new users with facts, against the model's own propagation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense import odd_graph
from small_demo import small_demo, small_settings
from test_user_edges import graph_with_users

from hakg_dgl import HAKG, model_class, model_names
from hakg_dgl.errors import ConfigError
from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.models.hakg import HAKGSettings
from hakg_dgl.models.hakg.folding import PropagatedUsers
from hakg_dgl.ranking.fold_in import AboutUsers
from hakg_dgl.training.trainee import build_model

DEMO = small_demo()
FOLDING = [name for name in model_names() if model_class(name).abilities.folds_in_users]


def hakg_on(graph: HeteroGraph, **settings: Any) -> HAKG:
    return HAKG(graph, HAKGSettings(dim=6, layers=3, **settings), seed=3, dtype=torch.float64)


def own_lists(graph: HeteroGraph) -> tuple[torch.Tensor, torch.Tensor]:
    return graph.packed.interactions.by_row.indptr, graph.packed.interactions.cols


@pytest.mark.parametrize("formulation", ["released", "paper"])
@pytest.mark.parametrize("present", [(True, True), (True, False), (False, False)])
def test_a_trained_user_with_no_newer_item_has_the_trained_vector(formulation: Any, present: tuple[bool, bool]) -> None:
    graph = graph_with_users(facts=present[0], links=present[1]) if any(present) else odd_graph().heterograph()
    model = hakg_on(graph, formulation=formulation)
    model.set_terms({**model.terms.first_choice(), "facts_weight": 0.4})
    about = AboutUsers(torch.arange(graph.n_users))
    found = model.fold_in().fold_in(*own_lists(graph), about)
    torch.testing.assert_close(found, model.ranking_vectors()[0], rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", FOLDING)
def test_every_model_knows_its_users_again(name: str) -> None:
    model = build_model(DEMO, small_settings(name), torch.device("cpu"), ("train",))
    if hasattr(model, "solve"):
        model.solve(model.candidates()[0])
    lists = DEMO.positives("train")
    folded = model.fold_in().scorer(*lists, AboutUsers(torch.arange(DEMO.n_users)))
    trained, users = model.scorer(), torch.arange(0, DEMO.n_users, 7)
    torch.testing.assert_close(folded.scores(users), trained.scores(users), rtol=1e-5, atol=1e-5)


def test_facts_of_new_users_are_those_of_the_propagation() -> None:
    """A trained user without parameters is a new one: folded in by items and facts, it has the trained vector."""
    graph = graph_with_users(facts=True, links=False)
    model = hakg_on(graph)
    with torch.no_grad():
        model.user.zero_()
    facts = {}
    for source, name, end in graph.user_types:
        if source == "user" and end == "entity":
            owner, entity = graph.edges[source, name, end]
            order = torch.argsort(owner, stable=True)
            counts = torch.bincount(owner, minlength=graph.n_users)
            facts[name] = (torch.nn.functional.pad(counts.cumsum(0), (1, 0)), entity[order])
    assert facts
    about = AboutUsers(torch.full((graph.n_users,), -1), facts)
    fold = model.fold_in()
    found = fold.fold_in(*own_lists(graph), about)
    torch.testing.assert_close(found, model.ranking_vectors()[0], rtol=0, atol=1e-7)
    assert (found - fold.fold_in(*own_lists(graph))).abs().max() > 1e-3
    some = torch.tensor([2, 0])
    scores = fold.scorer(*own_lists(graph), about).scores(some)
    torch.testing.assert_close(scores, found[some] @ fold.item_vectors.T, rtol=0, atol=1e-7)


def test_facts_that_a_model_does_not_read_are_refused() -> None:
    about = AboutUsers(torch.tensor([-1]), {"lives_in": (torch.tensor([0, 1]), torch.tensor([0]))})
    with pytest.raises(ConfigError, match="trained without facts of users by 'lives_in'; it has these: none"):
        PropagatedUsers(hakg_on(odd_graph().heterograph())).edges(about)
    for name in ("lightgcn", "popularity"):
        model = build_model(DEMO, small_settings(name), torch.device("cpu"), ("train",))
        with pytest.raises(ConfigError, match="does not read facts of users"):
            model.fold_in().scorer(torch.tensor([0, 1]), torch.tensor([3]), about)
