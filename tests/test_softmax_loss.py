"""The softmax over candidates against its definition, and the linear item-item term against EASE."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from small_demo import small_demo, small_settings
from torch import Tensor

from hakg_dgl.graph.packed import SparsePattern
from hakg_dgl.layers import losses, spectrum
from hakg_dgl.layers.item_item import fact_spectrum, item_item_factors
from hakg_dgl.layers.losses import softmax_loss
from hakg_dgl.models.ease import ease_weights
from hakg_dgl.models.hakg.choice import climb
from hakg_dgl.ranking.evaluation import evaluate
from hakg_dgl.ranking.topk import EmbeddingScorer
from hakg_dgl.training.loading import load_model
from hakg_dgl.training.trainee import build_model
from hakg_dgl.training.trainer import Trainer


def dense_softmax(
    user: Tensor, item: Tensor, users: Tensor, positives: Tensor, has: Tensor, candidates: Tensor, temperature: float
) -> Tensor:
    """The definition, pair by pair."""
    total = user.new_zeros(())
    for u, i in zip(users.tolist(), positives.tolist(), strict=True):
        rivals = [j for j in candidates.tolist() if not has[u, j]]
        gaps = torch.stack([((item[j] - item[i]) @ user[u]) / temperature for j in rivals]) if rivals else user[:0, 0]
        total = total + torch.log1p(len(item) / len(candidates) * gaps.exp().sum())
    return total / len(users)


def csr(has: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([torch.zeros(1, dtype=torch.int64), has.sum(1).cumsum(0)]), has.nonzero()[:, 1]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 9), st.integers(2, 12), st.integers(1, 30), st.booleans(),
    st.sampled_from([0.1, 1.0, 3.0]), st.integers(1, 40), st.booleans(),
)  # fmt: skip
def test_softmax_is_its_definition_in_value_and_gradient(
    seed: int, n_users: int, n_items: int, batch: int, sampled: bool, temperature: float, block: int, fixed: bool
) -> None:
    draw = torch.Generator().manual_seed(seed)
    user = torch.randn(n_users, 3, generator=draw, dtype=torch.float64).requires_grad_()
    item = torch.randn(n_items, 3, generator=draw, dtype=torch.float64).requires_grad_()
    has = torch.rand(n_users, n_items, generator=draw) < 0.4
    users = torch.randint(n_users, (batch,), generator=draw)
    positives = torch.randint(n_items, (batch,), generator=draw)
    has[users, positives] = True
    candidates = torch.randperm(n_items, generator=draw)[: max(1, n_items // 2)].sort().values if sampled else None
    before = losses.SCORES_PER_BLOCK, losses.FIXED_PER_BLOCK
    losses.SCORES_PER_BLOCK = losses.FIXED_PER_BLOCK = block
    usual, losses.in_fixed_shapes = losses.in_fixed_shapes, lambda on: fixed  # as on CUDA, if so
    try:
        loss = softmax_loss(user, item, users, positives, csr(has), candidates=candidates, temperature=temperature)
    finally:
        losses.SCORES_PER_BLOCK, losses.FIXED_PER_BLOCK = before
        losses.in_fixed_shapes = usual
    among = torch.arange(n_items) if candidates is None else candidates
    expected = dense_softmax(user, item, users, positives, has, among, temperature)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    mine = torch.autograd.grad(2.5 * loss, (user, item))
    theirs = torch.autograd.grad(2.5 * expected, (user, item), allow_unused=True)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=1e-9, atol=1e-12)


def test_a_user_who_knows_every_candidate_costs_nothing() -> None:
    user, item = torch.ones(1, 2, requires_grad=True), torch.ones(3, 2, requires_grad=True)
    loss = softmax_loss(user, item, torch.tensor([0, 0]), torch.tensor([0, 1]), csr(torch.ones(1, 3, dtype=torch.bool)))
    loss.backward()
    assert loss.item() == 0.0
    assert user.grad is not None
    assert not user.grad.any()


def test_a_sample_estimates_the_sum_over_all_items() -> None:
    """Averaged over many samples, the sum that the logarithm is taken of is that over all items."""
    draw = torch.Generator().manual_seed(7)
    user, item = torch.randn(1, 4, generator=draw), torch.randn(40, 4, generator=draw)
    has = torch.zeros(1, 40, dtype=torch.bool)
    has[0, 3] = True
    pair = (torch.tensor([0]), torch.tensor([3]), csr(has))
    whole = math.expm1(softmax_loss(user, item, *pair).item())
    samples = [
        math.expm1(softmax_loss(user, item, *pair, candidates=torch.randperm(40, generator=draw)[:10]).item())
        for _ in range(3000)
    ]
    # Candidates that are the positive itself count for nothing, as in the whole sum.
    assert np.mean(samples) == pytest.approx(whole, rel=0.05)


def pattern(has: Tensor) -> SparsePattern:
    rows, cols = has.nonzero().unbind(1)
    return SparsePattern.from_pairs(rows, cols, *has.shape)


@pytest.mark.parametrize(("n_users", "n_items"), [(30, 12), (12, 30), (1, 5), (20, 20)])
def test_with_all_singular_vectors_the_linear_term_is_ease(n_users: int, n_items: int) -> None:
    has = torch.rand(n_users, n_items, generator=torch.Generator().manual_seed(n_items)) < 0.3
    has[:, 0] = False  # an item without interaction
    left, right = item_item_factors(pattern(has), 7.0, 100)
    mine = left @ right.T
    x = has.double()
    expected = ease_weights(x.T @ x, 7.0)
    off = ~torch.eye(n_items, dtype=torch.bool)
    torch.testing.assert_close(mine[off], expected[off], rtol=1e-8, atol=1e-10)
    assert not left[0].any()


@pytest.mark.parametrize(("n_users", "n_items"), [(30, 12), (12, 30)])
def test_with_an_exponent_it_is_ease_on_evened_interactions(n_users: int, n_items: int) -> None:
    has = torch.rand(n_users, n_items, generator=torch.Generator().manual_seed(n_items)) < 0.3
    has[:, 0] = False  # an item without interaction
    left, right = item_item_factors(pattern(has), 7.0, 100, 0.25)
    x = has.double()
    quiet = x.sum(1, keepdim=True).clamp(min=1.0) ** -0.25
    sent = x.sum(0).clamp(min=1.0) ** -0.25
    evened = quiet * x * sent
    evened *= (x.sum() / evened.square().sum()).sqrt()
    expected = (sent * x.sum() / (x.sum(0) @ sent)).unsqueeze(1) * ease_weights(evened.T @ evened, 7.0)
    off = ~torch.eye(n_items, dtype=torch.bool)
    torch.testing.assert_close((left @ right.T)[off], expected[off], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("start", "expected"), [(4.0, 8.0), (16.0, 8.0), (1.0, 8.0), (8.0, 8.0)])
def test_a_climb_ends_at_the_top_from_either_side(start: float, expected: float) -> None:
    seen: list[float] = []

    def worth(value: float) -> float:
        seen.append(value)
        return -abs(value - 8.0)

    assert climb((16.0, 1.0, 2.0, 4.0, 8.0), start, worth) == (expected, 0.0)
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("arpack_up_to", [2e9, 0.0], ids=["arpack", "blocks"])
def test_the_leading_singular_vectors_are_the_same_by_all_ways(
    arpack_up_to: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    has = torch.rand(60, 50, generator=torch.Generator().manual_seed(3)) < 0.2
    left, right = item_item_factors(pattern(has), 5.0, 8)
    monkeypatch.setattr(spectrum, "DENSE_UP_TO", 10)
    monkeypatch.setattr(spectrum, "ARPACK_UP_TO", arpack_up_to)
    other_left, other_right = item_item_factors(pattern(has), 5.0, 8)
    torch.testing.assert_close(left @ right.T, other_left @ other_right.T, rtol=1e-6, atol=1e-9)


def test_without_interactions_the_linear_term_is_zero() -> None:
    left, right = item_item_factors(pattern(torch.zeros(3, 4, dtype=torch.bool)), 1.0, 2)
    assert left.shape == right.shape == (4, 2)
    assert not left.any()


def test_ranking_vectors_are_the_learned_score_plus_the_linear_term() -> None:
    dataset = small_demo()
    chosen = small_settings(linear_weight=3.0, linear_l2=10.0, linear_rank=1000, facts_weight=0.0, dtype="float64")
    model = build_model(dataset, chosen, torch.device("cpu"), ("train",))
    plain_user, plain_item = model.score_vectors(model.propagate())
    user, item = model.ranking_vectors()
    torch.testing.assert_close(user @ item.T, plain_user @ plain_item.T)  # not solved for: zero
    model.fit_terms()
    user, item = model.ranking_vectors()
    indptr, items = (torch.tensor(a) for a in dataset.positives("train"))
    x = torch.zeros(dataset.n_users, dataset.n_items, dtype=torch.float64)
    x[torch.repeat_interleave(indptr.diff()), items] = 1.0
    expected = (plain_user @ plain_item.T) + 3.0 * (x @ ease_weights(x.T @ x, 10.0))
    unseen = x == 0
    torch.testing.assert_close((user @ item.T)[unseen], expected[unseen])


def test_a_trained_run_keeps_its_linear_term(tmp_path: Path) -> None:
    dataset = small_demo()
    trainer = Trainer(dataset, small_settings(linear_weight=3.0, refit=True), run=tmp_path / "run")
    result = trainer.fit()
    model = load_model(tmp_path / "run", dataset)
    assert model.terms.linear_left.any()
    metrics = evaluate(EmbeddingScorer(*model.ranking_vectors()), dataset).metrics
    assert metrics == result["metrics"]["test"]
    assert "terms.linear_left" not in dict(model.named_parameters())


def test_spectra_with_repeated_values_are_the_same_every_time() -> None:
    """Each fact of exactly three items gives the same singular value, of which the rank takes a part."""
    n_items = 6600
    facts = sparse.csr_matrix((np.ones(n_items), (np.arange(n_items), np.arange(n_items) // 3)))
    first, again = (fact_spectrum(facts, 64, torch.device("cpu")) for _ in range(2))
    assert torch.equal(first.vectors, again.vectors)
    assert torch.allclose(first.squared, torch.full_like(first.squared, 3.0))


def test_a_spectrum_of_fewer_directions_than_asked_for() -> None:
    """Five facts in all, on more rows and columns than are solved for at once."""
    rng = np.random.default_rng(0)
    dense = np.zeros((2600, 2500))
    dense[:, :5] = rng.random((2600, 5))
    found = fact_spectrum(sparse.csr_matrix(dense), 16, torch.device("cpu"))
    expected = np.linalg.svd(dense[:, :5], compute_uv=False) ** 2
    assert np.allclose(found.squared[:5], expected)
    assert float(found.squared[5:].abs().max()) < 1e-6
    u = found.vectors[:, :5].numpy()
    assert np.allclose(u @ (u.T @ dense), dense)


def test_one_item_has_a_spectrum() -> None:
    found = fact_spectrum(sparse.csr_matrix(np.ones((1, 1))), 8, torch.device("cpu"))
    assert found.vectors.abs().tolist() == [[1.0]]
