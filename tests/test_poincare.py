"""Identities of the ball, agreement with geoopt and with 50-digit arithmetic, and behaviour at its edge and centre.

Tolerances are rounding bounds to first order, with ``eps`` the spacing of the dtype. Write ``a = sqrt(c)|x|`` and so
on. The quotient of Möbius addition has a denominator ``D = 1 + 2c<x,y> + c^2|x|^2|y|^2`` that may be as small as
``(1 - ab)^2``, while numerator and denominator carry absolute errors of a few eps: ``rounding_of_add`` is
``8 eps / D``. An error in ``y`` reaches ``x + y`` multiplied by the ratio of conformal factors, because left
translation is an isometry: ``(1 - |x+y|^2) / (1 - |y|^2)`` in scaled units. artanh multiplies by ``1 / (1 - u^2)``.
"""

import math
from typing import NamedTuple

import mpmath
import pytest
import torch
from geoopt.manifolds.stereographic import math as geoopt_math
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.autograd.functional import jacobian

from hakg_dgl.geometry import guards
from hakg_dgl.geometry.poincare import (
    conformal_factor,
    distance,
    distance_by_products,
    einstein_midpoint,
    expmap,
    expmap0,
    hyperboloid,
    logmap,
    logmap0,
    mobius_add,
    project,
)

CURVATURES = [0.3, 1.0, 2.5]
DTYPES = [torch.float32, torch.float64]
curvatures = pytest.mark.parametrize("c", CURVATURES)
wide_curvatures = pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
quick = settings(max_examples=25, deadline=None, derandomize=True)
CEILING = math.atanh(1.0 - guards.ARTANH_MARGIN)


class Setting(NamedTuple):
    """What a drawn example is made of; shrinks towards few dimensions and small norms."""

    seed: int
    dtype: torch.dtype
    c: float
    dim: int
    reach: float

    def points(self, count: int = 3, rows: int = 24) -> list[torch.Tensor]:
        """Points ``[rows, dim]`` of scaled norm up to ``reach``; the first row of the first is the origin."""
        generator = torch.Generator().manual_seed(self.seed)
        directions = torch.randn(count, rows, self.dim, generator=generator, dtype=torch.float64)
        radii = self.reach * torch.rand(count, rows, 1, generator=generator, dtype=torch.float64)
        radii[0, 0] = 0.0
        points = directions / directions.norm(dim=-1, keepdim=True) * radii / math.sqrt(self.c)
        return list(points.to(self.dtype))

    @property
    def eps(self) -> float:
        return torch.finfo(self.dtype).eps


examples = st.builds(
    Setting,
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from(DTYPES),
    c=st.sampled_from(CURVATURES),
    dim=st.integers(1, 16),
    reach=st.floats(1e-3, 0.95),
)


def gap_to_edge(x, c):
    """``1 - c|x|^2`` in float64, shape [...]."""
    return 1.0 - c * x.double().square().sum(-1)


def rounding_of_add(x, y, c):
    """Bound of the error of ``sqrt(c) |x + y|``: ``8 eps / D``, in float64."""
    eps, x, y = torch.finfo(x.dtype).eps, x.double(), y.double()
    return 8.0 * eps / (1.0 + 2.0 * c * (x * y).sum(-1) + c**2 * x.square().sum(-1) * y.square().sum(-1))


def exact_add(x, y, c):
    return mobius_add(x.double(), y.double(), c=c)


def assert_within(actual, expected, bound):
    """Rows of ``actual`` are within ``bound`` of those of ``expected`` (vectors by L2 norm)."""
    error = (actual.double() - expected.double()).abs()
    error = error.norm(dim=-1) if error.dim() > bound.dim() else error
    worst = (error / bound).argmax()
    assert (error <= bound).all(), f"row {worst}: error {error[worst]:.3g} exceeds the bound {bound[worst]:.3g}"


# --- identities ---------------------------------------------------------------------------------------------------


@given(examples)
@quick
def test_left_cancellation(example):
    c = example.c
    x, y, _ = example.points()
    z = mobius_add(x, y, c=c)
    carried = rounding_of_add(x, y, c) * gap_to_edge(y, c) / gap_to_edge(exact_add(x, y, c), c)
    assert_within(mobius_add(-x, z, c=c), y, (rounding_of_add(-x, z, c) + carried) / math.sqrt(c))


@given(examples)
@quick
def test_the_origin_is_neutral_and_the_negative_is_the_inverse(example):
    c = example.c
    x, y, _ = example.points()
    zero = torch.zeros_like(x)
    assert_within(mobius_add(zero, y, c=c), y, 2.0 * example.eps * y.norm(dim=-1).double())
    assert_within(mobius_add(x, zero, c=c), x, 2.0 * example.eps * x.norm(dim=-1).double())
    assert_within(mobius_add(-x, x, c=c), zero, rounding_of_add(-x, x, c) / math.sqrt(c))


@given(examples)
@quick
def test_gyrations_are_rotations_and_addition_is_gyrocommutative(example):
    """gyr[x,y]v = -(x + y) + (x + (y + v)) keeps inner products, and x + y = gyr[x,y](y + x)."""
    c = example.c
    x, y, v = (p.double() for p in example._replace(dtype=torch.float64, reach=0.8 * example.reach).points())

    def gyr(w):
        return mobius_add(-mobius_add(x, y, c=c), mobius_add(x, mobius_add(y, w, c=c), c=c), c=c)

    # Scaled norms up to 0.76: each addition's 8 eps / D is at most 8 eps / (1 - 0.95^2)^2, carried over at most
    # a factor of (1 + 0.95)^2 / (1 - 0.95^2) by the next; three of them.
    bound = 3.0 * 8.0 * 2.3e-16 / (1.0 - 0.95**2) ** 2 * 39.0 / c
    both = mobius_add(y, x, c=c)
    torch.testing.assert_close((gyr(v) * gyr(both)).sum(-1), (v * both).sum(-1), rtol=0.0, atol=bound)
    torch.testing.assert_close(gyr(both), mobius_add(x, y, c=c), rtol=0.0, atol=bound * math.sqrt(c))
    torch.testing.assert_close(
        gyr(v), geoopt_math.gyration(x, y, v, k=torch.tensor(-c, dtype=x.dtype)), rtol=0.0, atol=bound * math.sqrt(c)
    )


@given(examples.filter(lambda e: e.reach <= 0.95), st.floats(1e-6, 4.5))
@quick
def test_exp_and_log_at_the_origin_are_inverse(example, longest):
    c, root = example.c, math.sqrt(example.c)
    y, _, v = example.points()
    assert_within(expmap0(logmap0(y, c=c), c=c), y, 8.0 * example.eps * y.norm(dim=-1).double() + 1e-300)
    v = v / example.reach * longest
    r = root * v.norm(dim=-1).double()
    # tanh's relative rounding, multiplied by artanh' = cosh^2.
    bound = 4.0 * example.eps * (r + r.tanh() * r.cosh().square()) / root
    assert_within(logmap0(expmap0(v, c=c), c=c), v, bound + 1e-300)


@given(examples)
@quick
def test_exp_undoes_log_at_any_base(example):
    c = example.c
    x, y, _ = example.points()
    u = exact_add(-x, y, c)
    carried = gap_to_edge(y, c) / gap_to_edge(u, c)
    bound = rounding_of_add(x, u.to(x.dtype), c) + carried * (rounding_of_add(-x, y, c) + 8.0 * example.eps)
    assert_within(expmap(logmap(y, x, c=c), x, c=c), y, bound / math.sqrt(c))


@given(examples, st.floats(1e-3, 3.0))
@quick
def test_log_undoes_exp_at_any_base(example, longest):
    c, root = example.c, math.sqrt(example.c)
    x, _, v = example.points()
    # Steps of hyperbolic length up to `longest` (artanh's ceiling is 6.1 in these units).
    v = v / example.reach * longest * gap_to_edge(x, c).to(x.dtype)[:, None]
    step = root * v.norm(dim=-1).double() / gap_to_edge(x, c)
    u = step.tanh()
    y = expmap(v, x, c=c)
    exact = expmap(v.double(), x.double(), c=c)
    carried = (1.0 - u.square()) / gap_to_edge(exact, c)
    direction = (v / guards.norm(v)).double() * u[:, None] / root
    error_of_u = rounding_of_add(-x, y, c) + carried * (rounding_of_add(x, direction.to(x.dtype), c) + 4 * example.eps)
    bound = gap_to_edge(x, c) / root * (error_of_u / (1.0 - u.square()) + 8.0 * example.eps * step)
    assert_within(logmap(y, x, c=c), v, bound)


# --- distance -----------------------------------------------------------------------------------------------------


def distance_interval(x, y, c):
    """Lowest and highest distance that rounding of ``-x + y`` allows, artanh's ceiling included."""
    u, error = math.sqrt(c) * exact_add(-x, y, c).norm(dim=-1), rounding_of_add(-x, y, c)
    slack = 16.0 * torch.finfo(x.dtype).eps
    scale = 2.0 / math.sqrt(c)
    low, high = ((u + side * error).clamp(0.0, 1.0 - guards.ARTANH_MARGIN).atanh() * scale for side in (-1.0, 1.0))
    # artanh's argument itself is rounded once more, which matters near the ceiling.
    last = scale * torch.finfo(x.dtype).eps / (1.0 - (u + error).clamp_max(1.0 - guards.ARTANH_MARGIN).square())
    return low * (1.0 - slack) - last, high * (1.0 + slack) + last


@given(examples)
@quick
def test_distance_is_a_metric(example):
    c = example.c
    x, y, z = example.points()
    xy, yz, xz = (distance_interval(p, q, c) for p, q in ((x, y), (y, z), (x, z)))
    forward, backward = distance(x, y, c=c).double(), distance(y, x, c=c).double()
    assert forward.shape == x.shape[:-1]
    assert (forward >= 0.0).all()
    assert ((forward - backward).abs() <= xy[1] - xy[0]).all()
    widths = sum(high - low for low, high in (xy, yz, xz))
    assert (distance(x, z, c=c).double() <= forward + distance(y, z, c=c).double() + widths).all()
    assert (distance(x, x, c=c).double() <= distance_interval(x, x, c)[1]).all()


@given(examples)
@quick
def test_distance_by_products_is_the_distance(example):
    """Rounding of the inner products is that of a squared difference; neighbours lose it, so they are left out."""
    c = example.c
    x, y, _ = (p.double() for p in example.points())
    products = x.square().sum(-1), y.square().sum(-1), (x * y).sum(-1)
    far = (x - y).norm(dim=-1) > 1e-3
    torch.testing.assert_close(
        distance_by_products(*products, c=c)[far], distance(x, y, c=c)[far], rtol=1e-8, atol=1e-9
    )
    same = products[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(distance_by_products(same, products[0], products[0], c=c).sum(), same)
    assert gradient.isfinite().all()


@given(examples)
@quick
def test_the_hyperboloid_holds_the_same_points(example):
    c = example.c
    x, y, _ = (p.double() for p in example._replace(reach=0.9 * example.reach).points())
    u, v = hyperboloid(x, c=c), hyperboloid(y, c=c)
    inner = (u[..., 1:] * v[..., 1:]).sum(-1) - u[..., 0] * v[..., 0]
    torch.testing.assert_close(-c * inner, torch.cosh(math.sqrt(c) * distance(x, y, c=c)), rtol=1e-7, atol=1e-9)


@given(examples)
@quick
def test_the_midpoint_is_in_the_middle(example):
    """Of equal weights it is at half the distance from both; of one weight alone it is that point."""
    c = example.c
    x, y, _ = (p.double() for p in example._replace(reach=0.9 * example.reach).points())
    middle = einstein_midpoint(hyperboloid(x, c=c) + hyperboloid(y, c=c), c=c)
    half = distance(x, y, c=c) / 2.0
    for end in (x, y):
        torch.testing.assert_close(distance(end, middle, c=c), half, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(einstein_midpoint(0.3 * hyperboloid(x, c=c), c=c), x, rtol=1e-9, atol=1e-10)


@given(examples)
@quick
def test_distance_is_kept_by_left_translation_and_measures_tangents(example):
    c = example.c
    x, y, z = (p.double() for p in example._replace(reach=0.8 * example.reach).points())
    moved = distance(mobius_add(z, x, c=c), mobius_add(z, y, c=c), c=c)
    # Points within 0.76 move to within 0.97: 8 eps / (1 - 0.97^2)^2 of rounding in u, 1 / (1 - 0.97^2) by artanh.
    atol = 4.0 * 8.0 * 2.3e-16 / (1.0 - 0.97**2) ** 3 / math.sqrt(c)
    torch.testing.assert_close(moved, distance(x, y, c=c), rtol=0.0, atol=atol)
    tangent = logmap(y, x, c=c)
    torch.testing.assert_close(
        (conformal_factor(x, c=c) * tangent.norm(dim=-1, keepdim=True)).squeeze(-1),
        distance(x, y, c=c),
        rtol=1e-13,
        atol=1e-14,
    )
    torch.testing.assert_close(
        2.0 * logmap0(x, c=c).norm(dim=-1), distance(torch.zeros_like(x), x, c=c), rtol=1e-12, atol=1e-14
    )


@curvatures
@dtypes
def test_distance_stops_at_the_ceiling_of_artanh(dtype, c):
    """No distance exceeds 2 artanh(1 - 1e-5) / sqrt(c), about 12.2 / sqrt(c), and there the gradient vanishes."""
    x = project(torch.tensor([[3.0, 4.0]], dtype=dtype) * 10.0 / math.sqrt(c), c=c).requires_grad_()
    far = distance(x, -x.detach(), c=c)
    ceiling = 2.0 * CEILING / math.sqrt(c)
    # Rounding of 1 - 1e-5 moves artanh by eps / 2e-5.
    assert far.item() == pytest.approx(ceiling, abs=2.0 / math.sqrt(c) * torch.finfo(dtype).eps / 1.9e-5)
    assert torch.autograd.grad(far.sum(), x)[0].eq(0.0).all()
    truth = 4.0 * math.atanh(1.0 - guards.ball_margin(dtype)) / math.sqrt(c)
    assert truth > ceiling


# --- fifty digits near the edge -----------------------------------------------------------------------------------


class Exact:
    """The functions in 50-digit arithmetic on the exact values of one row each; unguarded."""

    def __init__(self, c: float) -> None:
        self.c = mpmath.mpf(c)

    @staticmethod
    def dot(x, y):
        return mpmath.fsum(a * b for a, b in zip(x, y, strict=True))

    def norm(self, x):
        return mpmath.sqrt(self.dot(x, x))

    def factor(self, x):
        return 2 / (1 - self.c * self.dot(x, x))

    def mobius_add(self, x, y):
        c, xx, yy, xy = self.c, self.dot(x, x), self.dot(y, y), self.dot(x, y)
        below = 1 + 2 * c * xy + c**2 * xx * yy
        return [((1 + 2 * c * xy + c * yy) * a + (1 - c * xx) * b) / below for a, b in zip(x, y, strict=True)]

    def expmap(self, v, x):
        length, root = self.norm(v), mpmath.sqrt(self.c)
        step = mpmath.tanh(root * self.factor(x) * length / 2) / (root * length)
        return self.mobius_add(x, [step * a for a in v])

    def logmap(self, y, x):
        u = self.mobius_add([-a for a in x], y)
        length, root = self.norm(u), mpmath.sqrt(self.c)
        return [2 / (root * self.factor(x)) * mpmath.atanh(root * length) / length * a for a in u]

    def distance(self, x, y):
        """The arcosh form, independent of Möbius addition."""
        c, gap = self.c, [a - b for a, b in zip(x, y, strict=True)]
        ratio = self.dot(gap, gap) / ((1 - c * self.dot(x, x)) * (1 - c * self.dot(y, y)))
        return mpmath.acosh(1 + 2 * c * ratio) / mpmath.sqrt(c)

    def rows(self, name: str, *tensors: torch.Tensor) -> torch.Tensor:
        """The named function row by row, rounded to float64."""
        with mpmath.workdps(50):
            rows = zip(*([[mpmath.mpf(v) for v in row] for row in t.double().tolist()] for t in tensors), strict=True)
            results = [getattr(self, name)(*row) for row in rows]
            if isinstance(results[0], list):
                return torch.tensor([[float(v) for v in r] for r in results], dtype=torch.float64)
            return torch.tensor([float(r) for r in results], dtype=torch.float64)


def edge_pairs(dtype, c, separations, rows=3):
    """Points of scaled norm 1 - 1e-3 to 1 - margin, and for each separation others that far (Euclidean) from them."""
    generator = torch.Generator().manual_seed(7)
    margin = guards.ball_margin(dtype)
    depth = torch.logspace(math.log10(max(1e-3, margin)), math.log10(margin), rows, dtype=torch.float64)[:, None]
    x = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    x = x / x.norm(dim=-1, keepdim=True) * (1.0 - depth) / math.sqrt(c)
    ys = []
    for separation in separations:
        away = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
        y = x + separation / math.sqrt(c) * away / away.norm(dim=-1, keepdim=True)
        ys.append(y / y.norm(dim=-1, keepdim=True) * x.norm(dim=-1, keepdim=True))
    x, y = x.repeat(len(separations), 1).to(dtype), torch.cat(ys).to(dtype)
    return project(x, c=c), project(y, c=c)


@curvatures
@dtypes
def test_addition_near_the_edge_agrees_with_fifty_digits(dtype, c):
    x, y = edge_pairs(dtype, c, [1e-4, 1e-2, 0.5, 2.0])
    exact = Exact(c)
    for left in (x, -x):
        bound = rounding_of_add(left, y, c) / math.sqrt(c)
        assert_within(mobius_add(left, y, c=c), exact.rows("mobius_add", left, y), bound)


@curvatures
@dtypes
def test_distance_near_the_edge_agrees_with_fifty_digits(dtype, c):
    x, y = edge_pairs(dtype, c, [0.0, 1e-4, 1e-2, 0.5, 2.0])
    expected = Exact(c).rows("distance", x, y)
    low, high = distance_interval(x, y, c)
    actual = distance(x, y, c=c).double()
    ceiling = 2.0 * CEILING / math.sqrt(c)
    # The interval must hold both the exact value (or the ceiling) and the computed one.
    assert ((expected.clamp_max(ceiling) >= low) & (expected.clamp_max(ceiling) <= high)).all()
    assert ((actual >= low) & (actual <= high)).all()


@curvatures
@dtypes
def test_exp_and_log_near_the_edge_agree_with_fifty_digits(dtype, c):
    eps, root, exact = torch.finfo(dtype).eps, math.sqrt(c), Exact(c)
    x, y = edge_pairs(dtype, c, [1e-2 if dtype == torch.float32 else 1e-5])
    gap = gap_to_edge(x, c)

    u = root * exact_add(-x, y, c).norm(dim=-1)
    assert (u < 0.9999).all()  # artanh's clamp does not act
    # 1 - c|x|^2 has relative error eps / gap.
    bound = gap / root * (rounding_of_add(-x, y, c) / (1.0 - u.square()) + u.atanh() * 4.0 * eps / gap)
    assert_within(logmap(y, x, c=c), exact.rows("logmap", y, x), bound)

    generator = torch.Generator().manual_seed(11)
    v = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    v = (v / v.norm(dim=-1, keepdim=True) * gap[:, None] / root).to(dtype)  # steps of about unit length
    expected = exact.rows("expmap", v, x)
    u = (root * v.norm(dim=-1).double() / gap).tanh()
    carried = gap_to_edge(expected, c) / (1.0 - u.square())
    direction = (v.double() / v.double().norm(dim=-1, keepdim=True) * u[:, None] / root).to(dtype)
    bound = rounding_of_add(x, direction, c) + carried * 4.0 * eps / gap
    assert_within(expmap(v, x, c=c), expected, bound / root)


def neighbours_at_the_edge(dtype, c):
    """Error of the distance of close points at the edge, and their conformal factors."""
    x, y = edge_pairs(dtype, c, [0.0, 1e-4, 1e-3] if dtype == torch.float32 else [0.0, 1e-8, 1e-6], rows=16)
    expected = Exact(c).rows("distance", x, y)
    assert (math.sqrt(c) * expected < 0.25).all()
    error = (distance(x, y, c=c).double() - expected).abs()
    return error, 2.0 / gap_to_edge(x, c), 2.0 / gap_to_edge(y, c)


@curvatures
@dtypes
def test_error_of_neighbours_is_bounded_by_the_product_of_conformal_factors(dtype, c):
    """Error 8 eps / D in u = -x + y, multiplied by 2 artanh'(u) = 2 / (1 - u^2), and D (1 - u^2) = 4 / (lx ly).

    To first order 4 eps lx ly; a twentieth more holds the second, as the first is below 0.03 here.
    """
    error, factor_x, factor_y = neighbours_at_the_edge(dtype, c)
    first_order = 4.0 * torch.finfo(dtype).eps * factor_x * factor_y
    assert (first_order < 0.031).all()
    assert (error <= 1.05 * first_order / math.sqrt(c)).all()


@curvatures
@dtypes
def test_error_of_neighbours_exceeds_their_conditioning(dtype, c):
    """The price of the released code's order of operations, which the recorded reference numbers depend on.

    Rounding the two points themselves moves their distance by eps (lx + ly) / 2, and (1-c|x|^2) s + c|s|^2 x over
    (1-c|x|^2)(1-c|y|^2) + c|s|^2 with s = y - x would stay near that. Who reorders the quotient sees this test fail.
    """
    error, factor_x, factor_y = neighbours_at_the_edge(dtype, c)
    assert (error > 4.0 * torch.finfo(dtype).eps * (factor_x + factor_y) / math.sqrt(c)).any()


# --- geoopt -------------------------------------------------------------------------------------------------------


@given(examples)
@quick
def test_agrees_with_geoopt_where_no_guard_acts(example):
    """Both evaluate the same formulas, so they may differ by twice the rounding bounds at most."""
    c, root, dtype = example.c, math.sqrt(example.c), example.dtype
    k = torch.tensor(-c, dtype=dtype)
    x, y, v = (p[1:] for p in example._replace(reach=0.9 * example.reach).points())
    add, eps = rounding_of_add(x, y, c), example.eps
    u = root * exact_add(-x, y, c).norm(dim=-1)
    assert (u < 1.0 - 2.0 * guards.ARTANH_MARGIN).all()

    assert_within(mobius_add(x, y, c=c), geoopt_math.mobius_add(x, y, k=k), 2.0 * add / root)
    factor = conformal_factor(x, c=c).squeeze(-1)
    relative = 4.0 * eps / gap_to_edge(x, c)
    assert_within(factor, geoopt_math.lambda_x(x, k=k), relative * factor.double())

    # geoopt's artanh is a difference of logarithms: absolute error of a few eps, and eps / (1 - u^2) by its argument.
    error = (2.0 * rounding_of_add(-x, y, c) + 8.0 * eps) / (1.0 - u.square())
    assert_within(distance(x, y, c=c), geoopt_math.dist(x, y, k=k), 2.0 / root * error)
    # Where |u| is near 0, its direction is lost with it, not its length: the same bound holds.
    log_bound = gap_to_edge(x, c) / root * (error + 2.0 * u.atanh() * relative)
    assert_within(logmap(y, x, c=c), geoopt_math.logmap(x, y, k=k), log_bound)
    a = root * y.norm(dim=-1).double()
    assert_within(logmap0(y, c=c), geoopt_math.logmap0(y, k=k), 8.0 * eps / (1.0 - a.square()) / root)

    assert_within(expmap0(v, c=c), geoopt_math.expmap0(v, k=k), 8.0 * eps * v.norm(dim=-1).double())
    expected = expmap(v.double(), x.double(), c=c)
    t = (root * v.norm(dim=-1).double() / gap_to_edge(x, c)).tanh()
    step = (v / guards.norm(v)).double() * t[:, None] / root
    carried = gap_to_edge(expected, c) / (1.0 - t.square()).clamp_min(eps)
    moved = rounding_of_add(x, step.to(dtype), c) + carried * relative
    assert_within(expmap(v, x, c=c), geoopt_math.expmap(x, v, k=k), 2.0 * moved / root)


# --- project ------------------------------------------------------------------------------------------------------


@given(examples, st.floats(0.5, 1e4))
@quick
def test_project_stays_in_the_ball_and_leaves_the_inside_alone(example, scale):
    c, eps = example.c, example.eps
    points = torch.cat(example.points()) / example.reach * scale
    limit = guards.max_norm(example.dtype, c=c)
    projected = project(points, c=c)
    assert projected.dtype == points.dtype
    assert projected.shape == points.shape
    lengths = projected.double().norm(dim=-1)
    # Length, quotient and product round once each, the length's own sum a few times more.
    slack = 1.0 + 4.0 * eps
    assert (lengths <= limit * slack).all()
    assert (gap_to_edge(projected, c) > guards.ball_margin(example.dtype)).all()
    inside = points.double().norm(dim=-1) < limit / slack
    assert torch.equal(projected[inside], points[inside])
    outside = points.double().norm(dim=-1) > limit * slack
    assert (lengths[outside] >= limit / slack).all()
    directions = torch.nn.functional.cosine_similarity(projected.double(), points.double())
    assert (directions[lengths > 0] > 1.0 - 4.0 * eps).all()


@given(examples)
@quick
def test_project_is_idempotent_to_the_last_bits(example):
    once = project(torch.cat(example.points()) / example.reach * 5.0, c=example.c)
    torch.testing.assert_close(project(once, c=example.c), once, rtol=4.0 * example.eps, atol=0.0)


@dtypes
def test_project_takes_another_margin(dtype):
    points = torch.tensor([[0.0, 5.0], [0.0, 0.7], [0.0, 0.8]], dtype=dtype)
    expected = torch.tensor([[0.0, 0.75], [0.0, 0.7], [0.0, 0.75]], dtype=dtype)
    torch.testing.assert_close(project(points, margin=0.25), expected)
    torch.testing.assert_close(project(points / 2.0, c=4.0, margin=0.25), expected / 2.0)


@dtypes
def test_project_gradient_is_the_identity_inside_and_tangential_outside(dtype):
    x = torch.tensor([[0.3, 0.4], [3.0, 4.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad((project(x) * torch.tensor([1.0, 2.0], dtype=dtype)).sum(), x)
    limit = guards.max_norm(dtype, c=1.0)
    # d(limit x/|x|) = limit (I - n n^T) / |x|, with n = (0.6, 0.8).
    tangential = limit / 5.0 * torch.tensor([1.0 - 2.2 * 0.6, 2.0 - 2.2 * 0.8], dtype=dtype)
    expected = torch.stack([torch.tensor([1.0, 2.0], dtype=dtype), tangential, torch.tensor([1.0, 2.0], dtype=dtype)])
    torch.testing.assert_close(gradient, expected)


@dtypes
def test_vectors_whose_squares_overflow_keep_their_direction(dtype):
    """The others of the batch keep every bit of value and gradient."""
    huge = torch.finfo(dtype).max
    points = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [1e-30, 0.0]], dtype=dtype)
    rows = torch.cat([points, torch.tensor([[0.6, -0.8], [0.0, 1.0]], dtype=dtype) * (huge / 4.0)])
    limit = guards.max_norm(dtype, c=1.0)
    expected = torch.tensor([[0.6, -0.8], [0.0, 1.0]], dtype=dtype)
    torch.testing.assert_close(project(rows)[4:], limit * expected)
    torch.testing.assert_close(expmap0(rows)[4:], expected)
    torch.testing.assert_close(guards.norm(rows)[4:], torch.full((2, 1), huge / 4.0, dtype=dtype))
    for function in (project, expmap0, guards.norm):
        alone, beside = points.clone().requires_grad_(), rows.clone().requires_grad_()
        values, among = function(alone), function(beside)
        assert torch.equal(values, among[:4])
        weights = torch.linspace(1.0, 2.0, among.numel(), dtype=dtype).view(among.shape)
        (gradient,) = torch.autograd.grad((values * weights[:4]).sum(), alone)
        (gradients,) = torch.autograd.grad((among * weights).sum(), beside)
        assert torch.equal(gradient, gradients[:4])
        assert gradients.isfinite().all()


def test_infinity_stays_visible():
    infinite = torch.tensor([[math.inf, 0.0]])
    for function in (project, expmap0, guards.norm):
        assert not function(infinite).isfinite().all()


def test_nan_is_passed_on_rather_than_repaired():
    x = torch.tensor([[math.nan, 0.1]])
    inside = torch.tensor([[0.1, 0.2]])
    for result in (project(x), expmap0(x), logmap0(x), mobius_add(x, inside), expmap(x, inside), logmap(inside, x)):
        assert result.isnan().any()


# --- shapes and gradients -----------------------------------------------------------------------------------------

FUNCTIONS = {
    "mobius_add": mobius_add,
    "expmap": expmap,
    "logmap": logmap,
    "distance": distance,
    "expmap0": lambda a, b, c: expmap0(a, c=c) + 0.0 * b,
    "logmap0": lambda a, b, c: logmap0(a, c=c) + 0.0 * b,
    "conformal_factor": lambda a, b, c: conformal_factor(a, c=c) + 0.0 * b,
    "project": lambda a, b, c: project(a, c=c) + 0.0 * b,
}
functions = pytest.mark.parametrize("name", FUNCTIONS)


@functions
@dtypes
def test_leading_axes_broadcast_and_dtypes_are_kept(name, dtype):
    generator = torch.Generator().manual_seed(0)
    x = 0.3 * torch.rand(4, 1, 3, generator=generator, dtype=dtype)
    y = 0.3 * torch.rand(5, 3, generator=generator, dtype=dtype)
    result = FUNCTIONS[name](x, y, c=1.0)
    assert result.dtype == dtype
    assert result.shape == ((4, 5) if name == "distance" else (4, 5, 3))
    one = FUNCTIONS[name](x[2, 0], y[3], c=1.0)
    torch.testing.assert_close(result[2, 3], one)


def special_rows(dtype, c, dim=6):
    """Origin, subnormal and tiny vectors, an inner point, edge points (one the other's neighbour), huge vectors."""
    generator = torch.Generator().manual_seed(3)
    units = torch.randn(4, dim, generator=generator, dtype=torch.float64)
    units = (units / units.norm(dim=-1, keepdim=True)).to(dtype)
    edge = project(units * 5.0 / math.sqrt(c), c=c)
    neighbour = project(edge[:1] * (1.0 + 4.0 * torch.finfo(dtype).eps), c=c)
    small = [units[:1] * size for size in (0.0, 1e-40, 1e-20, 1e-15, 1e-7)]
    return torch.cat([*small, units[:1] * 0.4 / math.sqrt(c), edge, -edge[:2], neighbour, units[:2] * 1e4])


@functions
@wide_curvatures
@dtypes
def test_values_and_gradients_are_finite_everywhere(name, dtype, c):
    """Every pair of special rows, huge ones as tangents, and as points only where a point may be anything."""
    rows = special_rows(dtype, c)
    first = rows if name in ("expmap", "expmap0", "project") else rows[:-2]
    second = rows[:-2]
    a = first.repeat_interleave(len(second), 0).requires_grad_()
    b = second.repeat(len(first), 1).requires_grad_()
    result = FUNCTIONS[name](a, b, c=c)
    assert result.isfinite().all()
    gradients = torch.autograd.grad(result.sum(), (a, b))
    assert all(g.isfinite().all() for g in gradients)
    if name.startswith(("expmap", "project")):
        on_ball = project(result, c=c).double().norm(dim=-1) * math.sqrt(c)
        assert (on_ball < 1.0).all()


@functions
@curvatures
def test_gradients_are_those_of_the_function(name, c):
    """Finite differences in float64, the conformal factor's share included."""
    generator = torch.Generator().manual_seed(1)
    a, b = (0.5 * torch.rand(3, 4, generator=generator, dtype=torch.float64) / math.sqrt(c) for _ in range(2))
    assert gradcheck(lambda p, q: FUNCTIONS[name](p, q, c=c), (a.requires_grad_(), b.requires_grad_()))


@curvatures
@dtypes
def test_derivatives_at_the_base_point_are_the_identity(dtype, c):
    """exp_x and log_x have derivative I at v = 0 and y = x, where the guards floor a norm of 0."""
    x = torch.tensor([0.2, -0.3, 0.1], dtype=dtype) / math.sqrt(c)
    zero, identity = torch.zeros_like(x), torch.eye(3, dtype=dtype)
    torch.testing.assert_close(jacobian(lambda v: expmap0(v, c=c), zero), identity)
    torch.testing.assert_close(jacobian(lambda v: logmap0(v, c=c), zero), identity)
    torch.testing.assert_close(jacobian(lambda v: expmap(v, x, c=c), zero), identity)
    torch.testing.assert_close(jacobian(lambda y: logmap(y, zero, c=c), zero), identity)
    torch.testing.assert_close(jacobian(lambda y: logmap(y, x, c=c), x), identity)
