"""Negatives: exact, uniform, reproducible; batches: every pair once an epoch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.layers import sampling
from hakg_dgl.layers.sampling import EpochBatches, NegativeSampler, epoch_order


def packed(known):
    """CSR lists of a boolean matrix [n_users, n_items]."""
    return np.r_[0, known.sum(1).cumsum()], np.nonzero(known)[1]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@st.composite
def matrices(draw):
    n_users, n_items = draw(st.integers(1, 20)), draw(st.integers(1, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return rng.random((n_users, n_items)) < rng.choice([0, 0.02, 0.5, 0.95, 1], (n_users, 1))


@settings(max_examples=150, deadline=None)
@given(matrices(), st.integers(1, 40), st.integers(0, 2**62), st.sampled_from([1, 2, 64]))
def test_never_draws_an_item_the_user_has(known, k, seed, bits_per_pair):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "BITS_PER_PAIR", bits_per_pair)  # few bits: the folded bitset flags many in error
        sampler = NegativeSampler(*packed(known), known.shape[1])
    users = torch.randint(len(known), (17,), generator=generator(seed))
    drawn = sampler.sample(users, k, generator(seed))
    assert drawn.shape == (17, k)
    assert drawn.dtype == torch.int64
    assert 0 <= drawn.min() <= drawn.max() < known.shape[1]
    has_negatives = ~known.all(1)[users]
    assert not (known[users[:, None], drawn] & has_negatives[:, None]).any()


@pytest.mark.parametrize("bits_per_pair", [1, 64])
def test_draws_are_uniform_over_the_negatives(bits_per_pair, monkeypatch):
    monkeypatch.setattr(sampling, "BITS_PER_PAIR", bits_per_pair)
    n_items, n_draws = 50, 40_000
    known = np.zeros((5, n_items), dtype=bool)  # user 0 has nothing, user 4 everything
    known[1, [0, 1, 2, 30, 49]] = True
    known[2, 5:45] = True
    known[3] = ~np.isin(np.arange(n_items), [0, 17])
    known[4] = True
    sampler = NegativeSampler(*packed(known), n_items)
    assert sampler._is_folded == (bits_per_pair == 1)
    drawn = sampler.sample(torch.arange(5).repeat(4), n_draws // 4, generator(1)).view(4, 5, -1)
    for user in range(5):
        counts = np.bincount(drawn[:, user].flatten().numpy(), minlength=n_items)
        allowed = ~known[user] if user < 4 else known[user]
        assert counts[~allowed].sum() == 0
        assert counts.sum() == n_draws
        assert chisquare(counts[allowed]).pvalue > 1e-3


def test_draws_are_independent_of_each_other():
    known = np.zeros((1, 4), dtype=bool)
    known[0, 1] = True
    pairs = NegativeSampler(*packed(known), 4).sample(torch.zeros(30_000, dtype=torch.int64), 2, generator(2))
    counts = np.bincount((pairs[:, 0] * 4 + pairs[:, 1]).numpy(), minlength=16).reshape(4, 4)[[0, 2, 3]][:, [0, 2, 3]]
    assert chisquare(counts.flatten()).pvalue > 1e-3


def test_same_generator_state_same_sample():
    known = np.random.default_rng(0).random((30, 40)) < 0.5
    users = torch.arange(30)
    first, second = (NegativeSampler(*packed(known), 40).sample(users, 8, generator(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, NegativeSampler(*packed(known), 40).sample(users, 8, generator(4)))


def test_wide_catalogues_leave_32_bits_behind():
    n_items = 3_000_000_000
    sampler = NegativeSampler(np.array([0, 2, 3]), np.array([0, n_items - 1, 7]), n_items)
    drawn = sampler.sample(torch.tensor([0, 1]), 2_000, generator())
    assert drawn.max() > 2**31
    sampler = NegativeSampler(np.array([0, 0]), np.array([], dtype=np.int64), 5)
    assert sampler.sample(torch.tensor([0]), 100, generator()).unique().tolist() == [0, 1, 2, 3, 4]


def test_bad_tables():
    with pytest.raises(DataError, match="ascending"):
        NegativeSampler(np.array([0, 2]), np.array([2, 1]), 5)
    with pytest.raises(DataError, match="ascending"):
        NegativeSampler(np.array([0, 2]), np.array([1, 1]), 5)
    with pytest.raises(DataError, match="outside 0 to 4"):
        NegativeSampler(np.array([0, 1]), np.array([5]), 5)
    with pytest.raises(ConfigError, match="at least 1"):
        NegativeSampler(np.array([0, 1]), np.array([4]), 5).sample(torch.tensor([0]), 0, generator())


def test_an_epoch_holds_every_pair_once():
    pairs = np.stack([np.arange(23), np.arange(23) * 7], 1)
    batches = EpochBatches(pairs, 5, generator())
    epochs = [list(batches) for _ in range(2)]
    for epoch in epochs:
        assert [len(users) for users, _ in epoch] == [5, 5, 5, 5, 3]
        assert len(epoch) == len(batches)
        users, items = (torch.cat(column) for column in zip(*epoch, strict=True))
        assert torch.equal(items, users * 7)
        assert torch.equal(users.sort().values, torch.arange(23))
    assert not torch.equal(epochs[0][0][0], epochs[1][0][0])


def test_batches_resume_between_epochs():
    pairs = np.arange(40).reshape(20, 2)
    whole = EpochBatches(pairs, 6, generator(5))
    list(whole)
    state = whole.generator.get_state()
    expected = [users.tolist() for users, _ in whole]
    resumed = generator()
    resumed.set_state(state)
    assert [users.tolist() for users, _ in EpochBatches(pairs, 6, resumed)] == expected


@given(
    counts=st.lists(st.integers(0, 40), max_size=12),
    together=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_order_of_an_epoch_keeps_pieces_of_a_user_together(counts, together, seed):
    users = torch.repeat_interleave(torch.tensor(counts, dtype=torch.int64))
    users = users[torch.randperm(len(users), generator=generator(seed))]
    order = epoch_order(users, generator(seed), together)
    assert torch.equal(order.sort().values, torch.arange(len(users)))
    found = torch.unique_consecutive(users[order], return_counts=True)
    for user, count in enumerate(counts):
        runs = found[1][found[0] == user]
        assert len(runs) <= -(-count // together)  # neighbouring pieces of a user look like one
        assert len(runs) < 2 or int(runs.min()) >= count // -(-count // together)


def test_pieces_and_what_is_in_them_are_drawn_uniformly():
    users = torch.tensor([0] * 4 + [1] * 3)
    orders = torch.stack([epoch_order(users, random, 2) for random in [generator(3)] for _ in range(6000)])
    # Each pair is as often at each of the seven places as any other, but for chance: 6000 / 7, five deviations.
    share = torch.stack([(orders == pair).double().mean(0) for pair in range(7)])
    first = share[:4].sum(0)
    assert (share[:4] - first / 4).abs().max() < 5 * (0.15 * 0.85 / 6000) ** 0.5
    assert (share[4:] - (1 - first) / 3).abs().max() < 5 * (0.15 * 0.85 / 6000) ** 0.5
    partners = {tuple(sorted(order.tolist()[:2])) for order in orders[(users[orders[:, :2]] == 0).all(1)]}
    assert partners == {(a, b) for a in range(4) for b in range(a + 1, 4)}


def test_with_one_positive_a_user_the_order_is_a_permutation_and_nothing_else():
    users = torch.arange(30) % 4
    assert torch.equal(epoch_order(users, generator(2)), torch.randperm(30, generator=generator(2)))


def test_bad_batches():
    with pytest.raises(DataError, match="pairs"):
        EpochBatches(np.empty((0, 2)), 4, generator())
    with pytest.raises(ConfigError, match="batch_size is 0"):
        EpochBatches(np.ones((3, 2)), 0, generator())
    with pytest.raises(ConfigError, match="positives_per_user is 0"):
        EpochBatches(np.ones((3, 2)), 2, generator(), positives_per_user=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_sampling_on_cuda():
    known = np.random.default_rng(0).random((300, 200)) < np.linspace(0, 0.99, 300)[:, None]
    sampler = NegativeSampler(*packed(known), 200, device="cuda")
    users = torch.arange(300, device="cuda")
    drawn, again = (sampler.sample(users, 50, torch.Generator("cuda").manual_seed(1)) for _ in range(2))
    assert torch.equal(drawn, again)
    assert not known[users.cpu()[:, None], drawn.cpu()].any()
    batches = EpochBatches(np.ones((10, 2)), 4, torch.Generator("cuda").manual_seed(1), device="cuda")
    assert sum(len(users) for users, _ in batches) == 10
