"""Rates, determinism, and rows of unit length."""

import math

import pytest
import torch
from dense import DTYPES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.nn import functional as F

from hakg_dgl.geometry.guards import ROW_NORM_FLOOR
from hakg_dgl.layers.dropout import draw_mask, drop_and_normalise

quick = settings(max_examples=50, deadline=None, derandomize=True)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- masks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1e-3, 0.1, 0.25, 0.5, 0.9, 0.999])
def test_rates_mean_what_they_say(rate):
    """Within five standard deviations of a binomial count, and half a level of 2^-16."""
    n = 400_000
    dropped = int((~draw_mask(n, rate, generator())).sum())
    assert abs(dropped - n * rate) < 5.0 * math.sqrt(n * rate * (1.0 - rate)) + n * 2.0**-17


def test_entries_are_independent_of_their_neighbours():
    """Four entries come from each 64-bit draw: none must follow from another."""
    kept = draw_mask(400_000, 0.5, generator(1)).double() - 0.5
    for lag in (1, 2, 3, 4, 5, 8):
        correlation = float((kept[lag:] * kept[:-lag]).mean() / 0.25)
        assert abs(correlation) < 5.0 / math.sqrt(400_000)
    by_place = kept.view(-1, 4).mean(0)
    assert (by_place.abs() < 5.0 * 0.5 / math.sqrt(100_000)).all()


@given(st.integers(0, 40), st.floats(0.0, 1.0, exclude_max=True), st.integers(0, 2**63 - 1))
@quick
def test_masks_follow_from_the_generator_alone(n, rate, seed):
    one, other = draw_mask(n, rate, generator(seed)), draw_mask(n, rate, generator(seed))
    if rate == 0.0:
        assert one is None
        assert other is None
        return
    assert one.dtype == torch.bool
    assert one.shape == (n,)
    assert torch.equal(one, other)


def test_draws_of_one_generator_differ_and_rate_zero_draws_nothing():
    source, fresh = generator(), generator()
    assert not torch.equal(draw_mask(1000, 0.5, source), draw_mask(1000, 0.5, source))
    assert draw_mask(1000, 0.0, fresh) is None
    assert torch.equal(fresh.get_state(), generator().get_state())
    before = torch.get_rng_state()
    draw_mask(1000, 0.5, fresh)
    assert torch.equal(torch.get_rng_state(), before)  # the global stream is left alone


@pytest.mark.parametrize("rate", [0.99999, 1.0 - 1e-6, 1.0 - 1e-12])
def test_rates_next_to_one_keep_one_in_65536(rate):
    kept = int(draw_mask(4_000_000, rate, generator()).sum())
    expected = 4_000_000 / 65536
    assert abs(kept - expected) < 5.0 * math.sqrt(expected)


def test_rates_next_to_zero_keep_all():
    assert draw_mask(100_000, 1e-7, generator()).all()


# --- rows ---------------------------------------------------------------------------------------------------------


def rows(dtype, n=50, d=7):
    return torch.randn(n, d, generator=generator(3), dtype=torch.float64).to(dtype)


@dtypes
def test_without_generator_or_rate_rows_are_normalised_only(dtype):
    x = rows(dtype)
    expected = F.normalize(x, dim=1, eps=ROW_NORM_FLOOR)
    torch.testing.assert_close(drop_and_normalise(x, 0.5, None), expected)
    torch.testing.assert_close(drop_and_normalise(x, 0.0, generator()), expected)


@dtypes
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_rows_are_dropped_by_the_mask_then_normalised(dtype, rate):
    """Dropout's factor 1 / (1 - rate) cancels, so scaling the survivors first changes nothing."""
    x = rows(dtype).requires_grad_()
    ours = drop_and_normalise(x, rate, generator(4))
    mask = draw_mask(x.numel(), rate, generator(4)).view(x.shape)
    assert not mask.all()
    theirs = F.normalize(x * mask / (1.0 - rate), dim=1, eps=ROW_NORM_FLOOR)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs)
    weights = rows(dtype, n=50)[torch.randperm(50, generator=generator(5))]
    (ours,) = torch.autograd.grad((ours * weights).sum(), x)
    (theirs,) = torch.autograd.grad((theirs * weights).sum(), x)
    torch.testing.assert_close(ours, theirs)


@dtypes
def test_rows_without_anything_left_are_zero(dtype):
    """Zero rows, and rows of which every coordinate is dropped, with gradients that stay finite."""
    x = rows(dtype, d=1)
    x[7] = 0.0
    x.requires_grad_()
    result = drop_and_normalise(x, 0.5, generator(6))
    mask = draw_mask(50, 0.5, generator(6))
    assert not mask.all()
    assert (result[~mask] == 0.0).all()
    assert result[7] == 0.0
    lengths = result.detach().norm(dim=1)
    mask[7] = False
    torch.testing.assert_close(lengths[mask], torch.ones_like(lengths[mask]))
    (gradient,) = torch.autograd.grad(result.sum(), x)
    assert gradient.isfinite().all()
    assert (gradient[~draw_mask(50, 0.5, generator(6))] == 0.0).all()


def test_gradients_by_finite_differences():
    x = rows(torch.float64, n=3, d=4).requires_grad_()
    assert gradcheck(lambda y: drop_and_normalise(y, 0.3, generator(1)), (x,))
    assert gradcheck(lambda y: drop_and_normalise(y, 0.0, None), (x,))


def test_inputs_are_left_alone():
    x = rows(torch.float32)
    before = x.clone()
    drop_and_normalise(x, 0.5, generator())
    assert torch.equal(x, before)
