"""The hyperboloid: identities over seeds, types and curvatures, and agreement with geoopt's Lorentz model."""

from __future__ import annotations

import math

import geoopt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hakg_dgl.geometry import lorentz
from hakg_dgl.geometry.guards import SINH_LIMIT

DIM = 5
any_seed, lengths = st.integers(0, 10_000), st.sampled_from([1e-6, 1e-3, 0.3, 2.0, 5.0])
types, curvatures = st.sampled_from([torch.float32, torch.float64]), st.sampled_from([0.25, 1.0, 2.0])
thirty = settings(max_examples=30, derandomize=True, deadline=None)


def tangents(seed: int, length: float, dtype: torch.dtype, n: int = 7) -> Tensor:
    """Vectors of about this length."""
    drawn = torch.randn(n, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (drawn / math.sqrt(DIM) * length).to(dtype)


def tolerance(dtype: torch.dtype) -> float:
    return 2e-4 if dtype == torch.float32 else 1e-9


def finite_gradients(value: Tensor, *inputs: Tensor) -> None:
    for gradient in torch.autograd.grad(value.sum(), inputs, retain_graph=True):
        assert bool(gradient.isfinite().all())


@given(any_seed, lengths, types, curvatures)
@thirty
def test_the_maps_at_the_origin_are_inverse_to_each_other(
    seed: int, length: float, dtype: torch.dtype, c: float
) -> None:
    v = tangents(seed, length, dtype).requires_grad_()
    x = lorentz.expmap0(v, c=c)
    back = lorentz.logmap0(x, c=c)
    assert x.dtype == back.dtype == dtype
    torch.testing.assert_close(back, v, rtol=tolerance(dtype), atol=tolerance(dtype) * length)
    finite_gradients(back, v)


@given(any_seed, lengths, types, curvatures)
@thirty
def test_images_lie_on_the_hyperboloid(seed: int, length: float, dtype: torch.dtype, c: float) -> None:
    x = lorentz.expmap0(tangents(seed, length, dtype), c=c)
    size = x[..., 0].square()  # rounding grows with what cancels
    assert bool(((lorentz.inner(x, x) + 1.0 / c).abs() <= 8 * torch.finfo(dtype).eps * size).all())
    assert bool((x[..., 0] > 0).all())


@given(any_seed, lengths, types, curvatures)
@thirty
def test_distance_is_a_distance(seed: int, length: float, dtype: torch.dtype, c: float) -> None:
    v = tangents(seed, length, dtype).requires_grad_()
    x, y, z = (lorentz.expmap0(part, c=c) for part in (v[:2], v[2:4], v[4:6]))
    near, far = lorentz.distance(x, y, c=c), lorentz.distance(x, z, c=c) + lorentz.distance(z, y, c=c)
    slack = tolerance(dtype) * (1.0 + length)
    torch.testing.assert_close(near, lorentz.distance(y, x, c=c))
    assert bool((near <= far + slack).all())
    origin = lorentz.expmap0(torch.zeros_like(v[:2]), c=c)
    torch.testing.assert_close(
        lorentz.distance(origin, x, c=c), v[:2].norm(dim=1), rtol=max(1e-8, tolerance(dtype)), atol=1e-12
    )
    finite_gradients(near, v)


@given(any_seed, lengths, types, curvatures)
@thirty
def test_a_point_has_no_distance_from_itself_and_a_finite_gradient(
    seed: int, length: float, dtype: torch.dtype, c: float
) -> None:
    v = tangents(seed, length, dtype).requires_grad_()
    x = lorentz.expmap0(v, c=c)
    apart = lorentz.distance(x, lorentz.expmap0(v.detach(), c=c), c=c)
    assert float(apart.detach().max()) < 1e-14
    finite_gradients(apart, v)
    finite_gradients(apart.square(), v)


@given(any_seed, types)
@thirty
def test_flipped_time_makes_the_plain_inner_product_lorentzian(seed: int, dtype: torch.dtype) -> None:
    x, y = (lorentz.expmap0(tangents(seed + shift, 0.7, dtype)) for shift in (0, 1))
    torch.testing.assert_close((lorentz.flip_time(x) * y).sum(-1), lorentz.inner(x, y))
    product = -torch.cosh(lorentz.distance(x, y))
    torch.testing.assert_close(lorentz.inner(x, y), product, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [0.0, 1e-30, 1e3, 1e15])
def test_extreme_tangent_vectors_stay_finite(dtype: torch.dtype, length: float) -> None:
    v = torch.tensor([[length, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    x = lorentz.expmap0(v)
    assert bool(x.isfinite().all())
    assert float(x.detach()[0, 0]) <= math.cosh(SINH_LIMIT) * 1.001
    origin = lorentz.expmap0(torch.zeros_like(v))
    apart = lorentz.distance(x, origin)
    assert bool(apart.isfinite().all())
    finite_gradients(apart + lorentz.logmap0(x).sum(-1), v)


@given(any_seed, st.sampled_from([0.3, 1.0, 3.0]), curvatures)
@thirty
def test_values_and_gradients_are_those_of_geoopt(seed: int, length: float, c: float) -> None:
    manifold = geoopt.Lorentz(k=torch.tensor(1.0 / c, dtype=torch.float64))  # geoopt's k is 1/c
    v = tangents(seed, length, torch.float64).requires_grad_()
    x = lorentz.expmap0(v, c=c)
    theirs = manifold.expmap0(torch.cat([torch.zeros_like(v[:, :1]), v], 1))
    torch.testing.assert_close(x, theirs, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(lorentz.logmap0(x, c=c), manifold.logmap0(x)[:, 1:], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(lorentz.inner(x[:3], x[3:6]), geoopt.manifolds.lorentz.math.inner(x[:3], x[3:6]))
    ours, expected = lorentz.distance(x[:3], x[3:6], c=c), manifold.dist(x[:3], x[3:6])
    torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-9)
    mine, other = (torch.autograd.grad(value.sum(), v, retain_graph=True)[0] for value in (ours, expected))
    torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


@given(any_seed, lengths, types, curvatures)
@thirty
def test_the_maps_at_a_point_are_inverse_to_each_other_and_those_of_geoopt(
    seed: int, length: float, dtype: torch.dtype, c: float
) -> None:
    length = min(length, 2.0)
    x, y = (lorentz.expmap0(tangents(seed + n, length, dtype), c=c).requires_grad_() for n in (0, 1))
    tangent = lorentz.logmap(x, y, c=c)
    error = 20 * tolerance(dtype) * max(1.0, float(y.detach().abs().max()) ** 2)
    assert torch.allclose(lorentz.expmap(x, tangent, c=c), y, atol=error)
    if dtype == torch.float64 and length > 0.1:
        theirs = geoopt.Lorentz(k=1.0 / c).logmap(x.detach(), y.detach())
        torch.testing.assert_close(tangent.detach(), theirs, rtol=1e-4, atol=1e-4)
    finite_gradients(tangent, x, y)


@given(any_seed, lengths, types, curvatures)
@thirty
def test_the_origin_is_neutral_and_sums_are_points(seed: int, length: float, dtype: torch.dtype, c: float) -> None:
    length = min(length, 2.0)
    x, y = (lorentz.expmap0(tangents(seed + n, length, dtype), c=c) for n in (0, 1))
    origin = lorentz.expmap0(torch.zeros_like(x[:, 1:]), c=c)
    error = 20 * tolerance(dtype) * max(1.0, float(x.abs().max()) ** 2)
    for total in (lorentz.add(x, origin, c=c), lorentz.add(origin, x, c=c)):
        torch.testing.assert_close(total, x, rtol=0, atol=error)
    total = lorentz.add(x, y, c=c).double()
    assert torch.allclose(lorentz.inner(total, total) * c, -torch.ones(len(x)).double(),
                          atol=error * float(total.abs().max()) ** 2)  # fmt: skip
    moved = lorentz.transport0(lorentz.logmap0(y, c=c), x, c=c)
    assert torch.allclose(lorentz.inner(moved, x), torch.zeros_like(x[:, 0]), atol=error)


def test_the_scale_of_the_logarithm_has_no_seam() -> None:
    excess = torch.tensor([0.0, lorentz.NEAR * 0.999, lorentz.NEAR * 1.001, 0.5], dtype=torch.float64)
    product = (-1.0 - excess).requires_grad_()
    scale = lorentz.log_scale(product)
    expected = torch.acosh(1.0 + excess[1:]) / ((1.0 + excess[1:]).square() - 1.0).sqrt()
    torch.testing.assert_close(scale[1:].detach(), expected, rtol=1e-11, atol=0)
    (gradient,) = torch.autograd.grad(scale.sum(), product)
    assert gradient[0] == 0 or float(gradient[0]) == pytest.approx(1 / 3)
    assert float(gradient[1]) == pytest.approx(float(gradient[2]), rel=1e-4)


@pytest.mark.parametrize("length", [0.0, 1e-12, 0.1, 0.88, 3.0, 6.0])
def test_what_is_received_keeps_its_digits_far_from_the_origin(length: float) -> None:
    drawn, found = tangents(3, 1.0, torch.float64, n=40), {}
    own, other = length * drawn[:20] / drawn[:20].norm(dim=1, keepdim=True), drawn[20:]
    for dtype in (torch.float32, torch.float64):
        leaf = own.to(dtype).requires_grad_()
        x, y = lorentz.expmap0(leaf), lorentz.expmap0(other.to(dtype))
        tangent = 0.5 * lorentz.logmap(x, y)
        plain = lorentz.inner(tangent, tangent).clamp_min(0.0).sqrt()
        if dtype == torch.float64:
            torch.testing.assert_close(lorentz.tangent_norm(x, tangent)[:, 0], plain, rtol=1e-7, atol=0)
        total = lorentz.logmap0(lorentz.add(x, lorentz.expmap(x, tangent)))
        gradient = torch.autograd.grad(total.square().sum(), leaf)[0]
        found[dtype] = total.detach().double(), gradient.double()
    for rough, exact in zip(*found.values(), strict=True):
        apart = (rough - exact).norm(dim=1)
        assert float(apart.max()) <= 5e-3 * float(exact.norm(dim=1).max())
