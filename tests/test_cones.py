"""Entailment cones against direct 50-digit evaluation, against hyperbolic geometry, and at the centre and the edge."""

import itertools
import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from hakg_dgl.geometry import guards
from hakg_dgl.geometry.cones import APERTURE, cone_angle, euclidean_cone_angle, euclidean_half_aperture, half_aperture
from hakg_dgl.geometry.poincare import conformal_factor, expmap, logmap, project

DTYPES = [torch.float32, torch.float64]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
quick = settings(max_examples=25, deadline=None, derandomize=True)
M = guards.ANGLE_MARGIN
WIDEST = (math.sqrt(1.0 + 4.0 * APERTURE**2) - 1.0) / (2.0 * APERTURE)
"""Norm at which K (1 - r^2) / r = 1; apexes closer to the origin have the widest cone. 0.0990 for K = 0.1."""

# Rounding of an angle near pi/2 and of 1 - 1e-6 inside arcsin, which sqrt(2e-6) divides.
ROUNDING = {dtype: 4.0 * torch.finfo(dtype).eps / math.sqrt(2e-6) for dtype in DTYPES}


def points(seed, rows, dim, low, high, dtype=torch.float64):
    """Points of norm in [low, high], uniform in the norm."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    radius = low + (high - low) * torch.rand(rows, 1, generator=generator, dtype=torch.float64)
    return (x / x.norm(dim=-1, keepdim=True) * radius).to(dtype)


def gram(x, y):
    return x.square().sum(-1), y.square().sum(-1), (x * y).sum(-1)


def angle_between(x, y):
    return cone_angle(*gram(x, y))


def aperture_of(x):
    return half_aperture(x.square().sum(-1))


pairs = st.tuples(st.integers(0, 2**31), st.integers(2, 12), st.floats(0.01, 0.99))


# --- half aperture ------------------------------------------------------------------------------------------------


def test_half_aperture_by_hand():
    # K (1 - r^2) / r at r = 0.5: 0.1 * 0.75 / 0.5 = 0.15.
    assert half_aperture(torch.tensor(0.25, dtype=torch.float64)).item() == pytest.approx(math.asin(0.15), rel=1e-15)
    # K = 0.2 doubles the sine.
    assert half_aperture(torch.tensor(0.25, dtype=torch.float64), aperture=0.2).item() == pytest.approx(math.asin(0.3))


@dtypes
def test_half_aperture_agrees_with_fifty_digits(dtype):
    eps = torch.finfo(dtype).eps
    radii = torch.cat([torch.linspace(WIDEST + 1e-3, 0.9, 12), 1.0 - torch.logspace(-1, -6, 8)]).to(dtype)
    xx = radii.square()
    with mpmath.workdps(50):
        sines = [mpmath.mpf(APERTURE) * (1 - mpmath.mpf(v)) / mpmath.sqrt(v) for v in map(mpmath.mpf, xx.tolist())]
        expected = torch.tensor([float(mpmath.asin(s)) for s in sines], dtype=torch.float64)
    # 1 - xx is exact for the given xx beyond 1/2; the sine carries a few eps, multiplied by arcsin' = 1 / cos.
    bound = 4.0 * eps * (expected.tan() + expected)
    assert ((half_aperture(xx).double() - expected).abs() <= bound).all()


@dtypes
def test_half_aperture_never_grows_with_the_norm_and_is_widest_near_the_origin(dtype):
    radii = torch.linspace(0.0, 1.2, 500, dtype=dtype)
    psi = half_aperture(radii.square())
    assert (psi.diff() <= 0.0).all()
    assert (psi > 0.0).all()
    # The clamp at 1 - 1e-6 costs sqrt(2e-6) of pi / 2; rounding of 1 - 1e-6 moves that by eps / sqrt(2e-6).
    widest = torch.full_like(psi, math.asin(1.0 - M))
    near = radii < WIDEST - 1e-4
    torch.testing.assert_close(psi[near], widest[near], rtol=0.0, atol=ROUNDING[dtype])
    assert (psi[radii > WIDEST + 1e-4] < widest[0]).all()
    # Parameters are not bound to the ball: from the edge on, the narrowest cone, K * 1e-6.
    beyond = psi[radii >= 1.0]
    torch.testing.assert_close(beyond, torch.full_like(beyond, APERTURE * M), rtol=0.06, atol=0.0)


# --- angle --------------------------------------------------------------------------------------------------------


def test_angle_by_hand():
    x = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
    outward, inward = torch.tensor([[0.8, 0.0]]).double(), torch.tensor([[0.2, 0.0]]).double()
    # The denominators are 0.09 and 0.135: adding 1e-6 turns cosines of +-1 by sqrt(2e-6 / 0.09) at most.
    assert angle_between(x, outward).item() == pytest.approx(0.0, abs=5e-3)
    assert angle_between(x, inward).item() == pytest.approx(math.pi, abs=5e-3)
    # For the apex (r, 0) and the point (0, r), equation 28 of Ganea et al. reads
    # -r^2 (1 + r^2) / (r * r sqrt(2) * sqrt(1 + r^4)).
    y = torch.tensor([[0.0, 0.5]], dtype=torch.float64)
    cosine = -0.25 * 1.25 / (0.25 * math.sqrt(2.0) * math.sqrt(1.0625))
    # 1e-6 in the denominator changes the cosine by a relative 1e-6 / 0.364.
    assert angle_between(x, y).item() == pytest.approx(math.acos(cosine), abs=1e-5)


def exact_cosine(xx, yy, xy, *, guarded):
    """Equation 28 in mpmath for exact Gram entries, with the guards of the formulation or with none."""
    gap, radicand = mpmath.sqrt(max(xx + yy - 2 * xy, 0)), 1 + xx * yy - 2 * xy
    radicand = max(radicand, mpmath.mpf(M)) if guarded else radicand
    below = mpmath.sqrt(xx) * gap * mpmath.sqrt(radicand) + (mpmath.mpf(M) if guarded else 0)
    return (xy * (1 + xx) - xx * (1 + yy)) / below, gap, radicand, below


@dtypes
@pytest.mark.parametrize(("low", "high"), [(0.05, 0.5), (0.5, 0.95), (0.95, 0.99999), (0.9, 1.5)])
def test_angle_agrees_with_fifty_digits(dtype, low, high):
    """The guarded equation on the exact Gram entries, up to the edge and beyond (parameters may leave the ball)."""
    eps = torch.finfo(dtype).eps
    x, y = points(1, 16, 4, low, high, dtype), points(2, 16, 4, low, high, dtype)
    y[:4] = x[:4] + 1e-2 * y[:4]
    entries = gram(x, y)
    actual = cone_angle(*entries).tolist()
    with mpmath.workdps(50):
        for k, row in enumerate(zip(*(e.tolist() for e in entries), strict=True)):
            xx, yy, xy = map(mpmath.mpf, row)
            cosine, gap, radicand, below = exact_cosine(xx, yy, xy, guarded=True)
            # A few eps in the numerator's terms, in gap^2 (terms xx, yy, 2xy) and in the radicand (terms 1, xx yy).
            size = 1 + xx * yy + 2 * abs(xy)
            share = (xx + yy) / gap**2 / 2 + (size / radicand / 2 if radicand > M else 0) + 1
            slack = 4 * eps * (abs(xy) * (1 + xx) + xx * (1 + yy)) / below + 4 * eps * abs(cosine) * share + 2 * eps
            low_angle, high_angle = (
                mpmath.acos(min(max(cosine + side * slack, M - 1), 1 - M) + side * eps) for side in (1, -1)
            )
            last = 4 * eps
            assert low_angle - last <= actual[k] <= high_angle + last, (k, actual[k], low_angle, high_angle)


@given(pairs)
@quick
def test_angle_is_that_of_the_geodesic_with_the_axis(pair):
    """The ball is conformal: the angle is the Euclidean one between x and log_x(y), another route altogether."""
    seed, dim, reach = pair
    x, y = points(seed, 32, dim, 0.3 * reach, reach), points(seed + 1, 32, dim, 0.3 * reach, reach)
    xx, yy, xy = gram(x, y)
    below = (xx * (xx + yy - 2.0 * xy) * (1.0 + xx * yy - 2.0 * xy)).sqrt()
    expected = torch.nn.functional.cosine_similarity(x, logmap(y, x))
    # The 1e-6 in the denominator turns the cosine by a relative 1e-6 / denominator, the clamp by 1e-6.
    bound = M * (1.0 + 1.0 / below) + 1e-9 / below
    assert ((angle_between(x, y).cos() - expected).abs() <= bound).all()


@given(pairs, st.sampled_from(DTYPES))
@quick
def test_angle_is_in_range_everywhere(pair, dtype):
    seed, dim, reach = pair
    x, y = points(seed, 32, dim, 0.0, 1.5 * reach, dtype), points(seed + 1, 32, dim, 0.0, 1.5 * reach, dtype)
    x[0], y[1], y[2], y[3] = 0.0, 0.0, x[2], -x[3]
    angle = angle_between(x, y)
    assert angle.dtype == dtype
    assert angle.shape == x.shape[:-1]
    assert ((angle >= 0.0) & (angle <= math.pi)).all()


# --- the two angles of a pair -------------------------------------------------------------------------------------


def exact_angle(x, y):
    """Angle at apex x from the exact values, in float64 rounding of a 50-digit result; no guard."""
    with mpmath.workdps(50):
        a, b = ([mpmath.mpf(v) for v in row] for row in (x.tolist(), y.tolist()))
        entries = (mpmath.fsum(p * q for p, q in zip(u, w, strict=True)) for u, w in ((a, a), (b, b), (a, b)))
        return mpmath.acos(exact_cosine(*entries, guarded=False)[0])


@pytest.mark.parametrize(("low", "high"), [(1e-3, 0.09), (0.1, 0.9), (0.9, 0.9999)])
def test_the_two_angles_of_a_pair_exceed_pi(low, high):
    """Pi minus them are angles of the hyperbolic triangle 0, x, y, whose sum is less than pi: exactly, by 50 digits."""
    x, y = points(3, 20, 3, low, high), points(4, 20, 3, low, high)
    y[:5] = x[:5] * 1.05 + 1e-4 * y[:5]  # nearly in line with the origin
    for p, q in zip(x, y, strict=True):
        at_x, at_y = exact_angle(p, q), exact_angle(q, p)
        assert at_x + at_y >= mpmath.pi
        # And the whole angle sum, with the angle at the origin, is below pi.
        at_origin = math.acos(min(1.0, (p @ q / (p.norm() * q.norm())).item()))
        assert (mpmath.pi - at_x) + (mpmath.pi - at_y) + at_origin < mpmath.pi + 1e-7


@given(pairs)
@quick
def test_the_computed_angles_of_a_pair_reach_pi_up_to_the_guards(pair):
    seed, dim, reach = pair
    x, y = points(seed, 64, dim, 0.2 * reach, reach), points(seed + 1, 64, dim, 0.2 * reach, reach)
    total = angle_between(x, y) + angle_between(y, x)
    xx, yy, xy = gram(x, y)
    common = ((xx + yy - 2.0 * xy) * (1.0 + xx * yy - 2.0 * xy)).sqrt()
    # Each cosine is off by a relative 1e-6 / denominator, and an angle by sqrt(2 * that) at worst, near 0 and pi.
    slack = sum((2.0 * (M + (M + 1e-9) / (s.sqrt() * common))).sqrt() for s in (xx, yy))
    assert (total >= math.pi - slack).all()


def both_hinges(x, y):
    at_x = (angle_between(x, y) - aperture_of(x)).relu()
    at_y = (angle_between(y, x) - aperture_of(y)).relu()
    return at_x, at_y


@given(st.integers(0, 2**31), st.integers(2, 12), st.floats(WIDEST, 0.999), st.floats(0.0, 0.999))
@quick
def test_both_hinges_vanish_only_when_both_norms_are_under_a_tenth(seed, dim, longer, shorter):
    """With the larger norm at 0.0990 or more, one hinge is active: their sum is at least pi - psi(x) - psi(y)."""
    x, y = points(seed, 256, dim, longer, longer), points(seed + 1, 256, dim, min(shorter, longer), longer)
    at_x, at_y = both_hinges(x, y)
    assert (torch.maximum(at_x, at_y) > 0.0).all()


@given(st.integers(0, 2**31), st.integers(1, 12), st.floats(1e-9, 1.0), st.sampled_from(DTYPES))
@quick
def test_one_hinge_of_a_pair_is_always_active(seed, dim, reach, dtype):
    """Both numerators of the angle cannot be positive, so one angle is pi/2 or more, and psi stays 1.4e-3 below."""
    x, y = points(seed, 256, dim, 0.0, reach, dtype), points(seed + 1, 256, dim, 0.0, reach, dtype)
    x[0], y[1], y[2], y[3] = 0.0, 0.0, x[2], -x[3]
    at_x, at_y = both_hinges(x, y)
    assert (torch.maximum(at_x, at_y) >= math.pi / 2 - math.asin(1.0 - M) - ROUNDING[dtype]).all()


def test_the_hinges_of_a_pair_outside_the_tenth_have_a_floor():
    """What the loss costs at least, whatever the directions: it falls only as norms shrink, so it shrinks norms."""
    radii = torch.linspace(0.15, 0.95, 9, dtype=torch.float64)
    generator = torch.Generator().manual_seed(5)
    least = []
    for radius in radii:
        x, y = (torch.randn(4000, 2, generator=generator, dtype=torch.float64) for _ in range(2))
        x, y = (radius * p / p.norm(dim=-1, keepdim=True) for p in (x, y))
        at_x, at_y = both_hinges(x, y)
        floor = math.pi - 2.0 * aperture_of(x[:1]).item()
        # Neighbours at 4000 random pairs are 1e-4 apart or more: the guards move angles by 1e-2 at most.
        assert (at_x + at_y >= floor - 2e-2).all()
        least.append((at_x + at_y).min().item())
    assert all(inner < outer for inner, outer in itertools.pairwise(least))


def test_under_a_tenth_the_hinges_come_arbitrarily_close_to_vanishing():
    """Two neighbours across the axis, in the limit of a flat triangle: both angles tend to pi / 2."""
    x, y = torch.tensor([[0.09, 1e-3]], dtype=torch.float64), torch.tensor([[0.09, -1e-3]], dtype=torch.float64)
    near = sum(both_hinges(x, y)).item()
    assert 0.0 < near < 0.05
    x, y = 5.0 * x, 5.0 * y
    assert sum(both_hinges(x, y)).item() > 2.0


# --- cones --------------------------------------------------------------------------------------------------------


def within_cone(apex, seed):
    """Points in the cone of each apex: exp of directions off the axis by less than the half aperture."""
    generator = torch.Generator().manual_seed(seed)
    axis = apex / apex.norm(dim=-1, keepdim=True)
    aside = torch.randn(apex.shape, generator=generator, dtype=apex.dtype)
    aside = aside - (aside * axis).sum(-1, keepdim=True) * axis
    aside = aside / aside.norm(dim=-1, keepdim=True)
    share, length = (torch.rand(len(apex), 1, generator=generator, dtype=apex.dtype) for _ in range(2))
    turn = 0.98 * share * aperture_of(apex)[:, None]
    direction = turn.cos() * axis + turn.sin() * aside
    return expmap((0.2 + length) * direction / conformal_factor(apex), apex)


@given(st.integers(0, 2**31), st.integers(2, 8))
@quick
def test_cones_are_nested(seed, dim):
    """y in the cone of x and z in that of y imply z in that of x (Ganea et al., transitivity)."""
    x = points(seed, 64, dim, WIDEST + 0.02, 0.7)
    y = within_cone(x, seed + 1)
    z = within_cone(y, seed + 2)
    # Near 0 the guards raise an angle to sqrt(2e-6 / denominator) at most; points are 0.02 and more apart.
    slack = 2e-2
    assert (angle_between(x, y) <= aperture_of(x) + slack).all()
    assert (angle_between(x, z) <= aperture_of(x) + slack).all()
    inside = angle_between(x, y) <= aperture_of(x)
    assert inside.double().mean() > 0.7


# --- flat space ---------------------------------------------------------------------------------------------------


def test_euclidean_cones_by_hand():
    x = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
    assert euclidean_half_aperture(torch.tensor(0.25).double()).item() == pytest.approx(math.asin(0.2), rel=1e-15)
    assert euclidean_half_aperture(torch.tensor(0.0).double()).item() == pytest.approx(math.asin(1.0 - M), rel=1e-6)
    for y, angle in (([1.0, 0.0], 0.0), ([0.5, 3.0], math.pi / 2), ([1.0, 0.5], math.pi / 4), ([0.0, 0.0], math.pi)):
        actual = euclidean_cone_angle(*gram(x, torch.tensor([y], dtype=torch.float64)))
        # The smallest denominator is 0.25: 1e-6 turns a cosine of +-1 by sqrt(2 (1e-6 + 4e-6)) at most.
        assert actual.item() == pytest.approx(angle, abs=math.sqrt(1e-5))


@given(pairs)
@quick
def test_euclidean_angle_is_that_between_the_directions(pair):
    seed, dim, reach = pair
    x, y = points(seed, 32, dim, reach, 9.0 * reach), points(seed + 1, 32, dim, reach, 9.0 * reach)
    xx, yy, xy = gram(x, y)
    below = (xx * (xx + yy - 2.0 * xy)).sqrt()
    expected = torch.nn.functional.cosine_similarity(x, y - x)
    actual = euclidean_cone_angle(xx, yy, xy)
    assert ((actual.cos() - expected).abs() <= M * (1.0 + 1.0 / below) + 1e-9 / below).all()
    # Flat triangles have angle sum pi, so here too the two angles of a pair sum to pi or more.
    slack = sum((2.0 * (M + (M + 1e-9) / (s * (xx + yy - 2.0 * xy)).sqrt())).sqrt() for s in (xx, yy))
    assert (actual + euclidean_cone_angle(yy, xx, xy) >= math.pi - slack).all()


@given(pairs)
@quick
def test_cones_become_euclidean_near_the_origin(pair):
    """Scaling points by s and the aperture with them, hyperbolic cones tend to Euclidean ones like s^2."""
    seed, dim, _ = pair
    x, y = points(seed, 32, dim, 0.5, 1.0), points(seed + 1, 32, dim, 0.5, 1.0)
    scale = 0.05
    entries, small = gram(x, y), gram(scale * x, scale * y)
    psi = half_aperture(small[0], aperture=APERTURE * scale)
    torch.testing.assert_close(psi, euclidean_half_aperture(entries[0]), rtol=2.0 * scale**2, atol=0.0)
    flat, curved = euclidean_cone_angle(*entries), cone_angle(*small)
    away = entries[0] + entries[1] - 2.0 * entries[2] > 0.01
    # Beside s^2, the 1e-6 in the denominator counts 1 / s^2 times as much: 1e-6 / (s^2 * 0.05), in the cosine.
    assert ((flat.cos() - curved.cos()).abs()[away] <= 4.0 * scale**2 + 2.0 * M / (scale**2 * 0.05)).all()


# --- gradients ----------------------------------------------------------------------------------------------------


def test_gradients_are_those_of_the_functions():
    x, y = points(6, 5, 3, 0.2, 0.8).requires_grad_(), points(7, 5, 3, 0.2, 0.8).requires_grad_()
    assert gradcheck(angle_between, (x, y))
    assert gradcheck(aperture_of, (x,))
    assert gradcheck(lambda p, q: euclidean_cone_angle(*gram(p, q)), (x, y))
    assert gradcheck(lambda p: euclidean_half_aperture(p.square().sum(-1)), (x,))


@dtypes
@pytest.mark.parametrize(
    ("angle_of", "psi_of"), [(cone_angle, half_aperture), (euclidean_cone_angle, euclidean_half_aperture)]
)
def test_values_and_gradients_are_finite_everywhere(dtype, angle_of, psi_of):
    """Apex at 0, point at 0, apex equal to the point, opposite, neighbours, edge of the ball, outside of it."""
    unit = points(8, 3, 6, 1.0, 1.0, dtype)
    eps = torch.finfo(dtype).eps
    small = [unit[:1] * s for s in (0.0, 1e-40, 1e-20, 1e-15, 1e-10, 1e-6, 1e-3)]
    large = [unit * s for s in (0.09, WIDEST, 0.5, 1.0 - 1e-6, 1.0, 1.0 + 1e-6, 3.6, 1e3)]
    rows = torch.cat([*small, *large, project(unit), -unit[:1], unit[:1] * (0.5 + eps), project(unit) * (1.0 - eps)])
    x = rows.repeat_interleave(len(rows), 0).requires_grad_()
    y = rows.repeat(len(rows), 1).requires_grad_()
    angle, psi = angle_of(*gram(x, y)), psi_of(x.square().sum(-1))
    assert angle.isfinite().all()
    assert psi.isfinite().all()
    gradients = torch.autograd.grad((angle - psi).relu().sum(), (x, y))
    assert all(g.isfinite().all() for g in gradients)


@dtypes
def test_gradients_vanish_where_the_guards_act(dtype):
    xx = torch.tensor([0.0, 1e-4, 0.9999999, 1.0, 2.0], dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(half_aperture(xx).sum(), xx)
    assert (gradient[:2] == 0.0).all()
    # Beyond 1 - 1e-6 the squared norm is held, so an apex outside the ball is not drawn back by psi.
    assert (gradient[2:] == 0.0).all()
