"""New users folded in: against a dense evaluation, the model's own propagation, and the trained rankings."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dense import adjacency, dense_mean, odd_graph
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from small_demo import read_by, small_demo, small_settings
from torch import Tensor
from torch.nn import functional as F

from hakg_dgl import HAKG, load_fold_in, load_model, load_scorer, make_trainer, recommend
from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.models.hakg import HAKGSettings
from hakg_dgl.ranking.fold_in import EmbeddingFoldIn, SumOfRows, SumOfUnitMeans, lists_of
from hakg_dgl.training.loading import model_splits
from hakg_dgl.training.run_folder import RunFolder

DEMO = small_demo()
SWITCHES: list[dict[str, Any]] = [{}, {"gate": False}, {"dual_item_embeddings": False}, {"geometry": "euclidean"}]


def model_of(**settings: Any) -> HAKG:
    return HAKG(odd_graph().heterograph(), HAKGSettings(dim=6, **settings), seed=3, dtype=torch.float64)


def own_lists(model: HAKG) -> tuple[Tensor, Tensor]:
    return model.packed.interactions.by_row.indptr, model.packed.interactions.cols


def scorer_matrix(scorer: Any) -> Tensor:
    return torch.as_tensor(scorer.scores(torch.arange(scorer.n_users)))


# --- vectors ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def dense_vectors(model: HAKG, counts: Tensor) -> Tensor:
    """The definition with dense matrices: ``counts`` ``[n, n_items]`` says who has what."""
    graph, s = odd_graph(), model.settings
    links = adjacency(graph.interactions, graph.n_users, graph.n_items, torch.float64)
    user: Tensor = model.user
    entity: Tensor = model.entity
    item: Tensor | None = model.item if s.dual_item_embeddings else None
    total = torch.zeros(len(counts), s.dim, dtype=torch.float64)
    per_user, per_item = (links.sum(axis).clamp_min(1)[:, None] ** s.degree_exponent for axis in (1, 0))
    for layer in range(s.layers):
        fused = entity[: graph.n_items]
        if item is not None:
            gate = torch.full_like(fused, 0.5)
            if s.gate:
                gate = torch.sigmoid(item @ model.gate_item[layer].T + fused @ model.gate_entity[layer].T)
            fused = gate * item + (1 - gate) * fused
        fused = fused / per_item
        total += F.normalize(counts @ fused, dim=1)  # the length of a mean does not matter
        new_user = F.normalize(links @ fused, dim=1)
        new_item = None if item is None else F.normalize(links.T @ (user / per_user), dim=1)
        entity = F.normalize(dense_mean(graph.edges(), entity, model.relation, model.rule, graph.n_entities), dim=1)
        user, item = new_user, new_item
    return total


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
@pytest.mark.parametrize("formulation", ["released", "paper"])
@pytest.mark.parametrize("score", ["fused", "separate", "inner"])
def test_vectors_are_those_of_the_dense_definition(formulation: Any, score: Any, switch: dict[str, Any]) -> None:
    model = model_of(formulation=formulation, layers=3, score=score, linear_weight=0.0, facts_weight=0.0, **switch)
    draw = torch.Generator().manual_seed(1)
    counts = (torch.rand(9, model.graph.n_items, generator=draw) < 0.4).double()
    counts[4] = 0.0  # who has nothing
    user, item = counts.nonzero().unbind(1)
    indptr = F.pad(torch.bincount(user, minlength=9).cumsum(0), (1, 0))
    expected = dense_vectors(model, counts)
    if score != "inner":
        expected = F.normalize(expected, dim=1)
    found = model.fold_in().fold_in(indptr, item)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    assert not found[4].any()


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
@pytest.mark.parametrize("formulation", ["released", "paper"])
def test_with_the_own_items_and_the_parameters_the_trained_user_comes_out(
    formulation: Any, switch: dict[str, Any]
) -> None:
    model = model_of(formulation=formulation, layers=3, **switch)
    gathered = SumOfUnitMeans(model.fused_layers(), unit=False)(*own_lists(model))
    torch.testing.assert_close(gathered + model.user, model.propagate().user, rtol=0, atol=1e-11)


def test_the_linear_term_of_a_new_user_is_that_of_a_trained_one_with_the_same_items() -> None:
    model = model_of(linear_weight=2.0, linear_rank=4)
    model.set_terms({**model.terms.first_choice(), "facts_weight": 0.4, "new_items_weight": 0.3, "new_items_bias": 0.2})
    found, (users, items) = model.fold_in().fold_in(*own_lists(model)), model.ranking_vectors()
    assert found.shape == users.shape
    assert items.shape[1] > 6
    assert found[:, 6:].abs().max() > 0
    torch.testing.assert_close(found[:, 6:], users[:, 6:], rtol=0, atol=1e-11)


def test_parts_that_do_not_make_up_the_item_vectors_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"have 3 \+ 2 columns, the item vectors 6: give one part for each term"):
        EmbeddingFoldIn([SumOfRows(torch.ones(4, 3)), SumOfRows(torch.ones(4, 2))], torch.ones(4, 6))


@pytest.mark.parametrize(
    ("indptr", "items", "message"),
    [
        ([0, 2], [1, 4], "item 4 does not exist; ids are 0 to 3"),
        ([0, 2], [1, -1], "item -1 does not exist"),
        ([0, 3], [1, 2], "indptr is 0 to 3, and there are 2 items"),
        ([1, 2], [1, 2], "indptr is 1 to 2"),
        ([], [], "indptr is empty"),
        ([0, 2, 1, 2], [1, 2], "indptr goes down"),
    ],
)
def test_lists_that_are_none_are_refused(indptr: list[int], items: list[int], message: str) -> None:
    fold = EmbeddingFoldIn([SumOfRows(torch.eye(4))], torch.eye(4))
    for use in (fold.fold_in, fold.scorer):
        with pytest.raises(DataError, match=message):
            use(np.array(indptr, dtype=np.int64), np.array(items, dtype=np.int64))


@given(st.lists(st.lists(st.integers(0, 4), max_size=4), max_size=6), st.data())
def test_lists_of_some_users_are_theirs_in_their_order(lists: list[list[int]], data: st.DataObject) -> None:
    indptr = torch.tensor([0, *np.cumsum([len(row) for row in lists], dtype=np.int64)], dtype=torch.int64)
    items = torch.tensor([item for row in lists for item in row], dtype=torch.int64)
    chosen = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=6)) if lists else []
    bounds, found = lists_of(indptr, items, torch.tensor(chosen, dtype=torch.int64))
    assert [found[a:b].tolist() for a, b in pairwise(bounds)] == [lists[user] for user in chosen]


def test_a_weighted_sum_counts_the_users_items() -> None:
    table, lists = torch.tensor([[1.0], [2.0], [4.0]]), (torch.tensor([0, 2, 2, 3]), torch.tensor([0, 2, 1]))
    assert SumOfRows(table)(*lists).flatten().tolist() == [5.0, 0.0, 2.0]
    assert SumOfRows(table, 0.5)(*lists).flatten().tolist() == pytest.approx([5 / 2**0.5, 0.0, 2.0])
    assert SumOfRows(table, 1.0)(*lists).flatten().tolist() == [2.5, 0.0, 2.0]


# --- trained runs -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs by kind, each trained once."""
    runs: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in runs:
            runs[kind] = tmp_path_factory.mktemp(kind)
            few = {"neighbours": [20], "shrinkage": [0.0], "ease_l2": [20.0], "epochs": 8, "layers": 2}
            make_trainer(DEMO, small_settings(kind, **read_by(kind, few)), run=runs[kind]).fit()
        return runs[kind]

    return get


@pytest.mark.parametrize("kind", ["popularity", "item-knn", "rp3beta", "ease"])
def test_what_scores_by_items_scores_a_user_the_same_folded_in(kind: str, trained: Any) -> None:
    run = trained(kind)
    folded = load_fold_in(run, DEMO).scorer(*DEMO.positives(*model_splits(RunFolder(run))))
    assert folded.n_users == DEMO.n_users
    torch.testing.assert_close(scorer_matrix(folded), scorer_matrix(load_scorer(run, DEMO)), rtol=1e-6, atol=1e-6)


def test_lightgcn_adds_the_same_for_each_item_of_a_user(trained: Any) -> None:
    """Its trained vectors are the folded-in ones, and what the users' own parameters add."""
    run = trained("lightgcn")
    fold, (users, items) = load_fold_in(run, DEMO), load_scorer_vectors(run)
    assert isinstance(fold, EmbeddingFoldIn)
    vectors = fold.fold_in(*DEMO.positives(*model_splits(RunFolder(run))))
    tensors, _ = RunFolder(run).load_tensors(RunFolder(run).model_file)
    torch.testing.assert_close(vectors + tensors["user"] / 3, users, rtol=0, atol=1e-6)  # 2 layers
    assert torch.equal(fold.item_vectors, items)


def load_scorer_vectors(run: Path) -> tuple[Tensor, Tensor]:
    scorer: Any = load_scorer(run, DEMO)
    return scorer.user_vectors, scorer.item_vectors


def test_matrix_factorisation_is_refused_by_name(trained: Any) -> None:
    with pytest.raises(ConfigError, match=r"model 'bpr-mf' .* new users need training"):
        load_fold_in(trained("bpr-mf"), DEMO)


def test_folding_in_a_trained_users_items_ranks_nearly_as_training_did(
    trained: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Spearman's correlation of all items' scores, user by user."""
    run = trained("hakg")
    users, items = load_model(run, DEMO).ranking_vectors()
    fold = load_fold_in(run, DEMO)
    assert isinstance(fold, EmbeddingFoldIn)
    folded = fold.fold_in(*DEMO.positives(*model_splits(RunFolder(run))))
    pairs = zip((users @ items.T).numpy(), (folded @ items.T).numpy(), strict=True)
    found = np.array([spearmanr(a, b).statistic for a, b in pairs])
    with capsys.disabled():
        print(f"\nSpearman of folded-in and trained scores: mean {found.mean():.4f}, least {found.min():.4f}")
    assert found.mean() > 0.95
    assert found.min() > 0.8


def test_recommending_to_a_new_user_from_python(trained: Any) -> None:
    fold = load_fold_in(trained("hakg"), DEMO)
    lists = np.array([0, 2, 3]), np.array([4, 7, 9])
    scorer = fold.scorer(*lists)
    table = recommend(scorer, np.array([1, 0]), 5, seen=lists)
    assert table["user"].tolist() == [1] * 5 + [0] * 5
    assert not {4, 7} & set(table.loc[table["user"] == 0, "item"])
    scores = scorer_matrix(scorer)
    torch.testing.assert_close(scorer.scores(torch.tensor([1])), scores[1:2])
