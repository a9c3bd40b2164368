"""Scalars of the frame against 100-digit arithmetic, and messages by coordinates against messages by vectors."""

import math

import mpmath
import pytest
import torch
from dense import DTYPES, error, gradients, make_rule, on_one_thread
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from hakg_dgl.geometry import guards
from hakg_dgl.geometry.frame import (
    Gram,
    artanh_ratio,
    ball_scale,
    clip_factor,
    paper_coefficients,
    released_coefficients,
    tanh_ratio,
)
from hakg_dgl.geometry.poincare import expmap0, project

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

CURVATURES = [0.5, 1.0, 2.0]
quick = settings(max_examples=40, deadline=None, derandomize=True)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
curvatures = pytest.mark.parametrize("c", CURVATURES)
formulations = pytest.mark.parametrize("formulation", ["released", "paper"])


# --- the ratios ---------------------------------------------------------------------------------------------------


def exact_ratio(name, q):
    """The ratio and its slope at the exact value of a float: f/sqrt(q) and (f' - f/sqrt(q)) / 2q, which cancels."""
    with mpmath.workdps(100):
        q = mpmath.mpf(q)
        if q == 0:
            return 1.0, -1 / 3 if name == "tanh" else 1 / 3
        z = mpmath.sqrt(q)
        value, inside = (mpmath.tanh(z), 1 - mpmath.tanh(z) ** 2) if name == "tanh" else (mpmath.atanh(z), 1 / (1 - q))
        return float(value / z), float((inside - value / z) / (2 * q))


def values_and_slopes(function, q):
    q = q.clone().requires_grad_()
    value = function(q)
    return value.detach(), torch.autograd.grad(value.sum(), q)[0]


@pytest.mark.parametrize("name", ["tanh", "artanh"])
@dtypes
def test_ratios_and_their_slopes_agree_with_a_hundred_digits(name, dtype):
    """From subnormal squares to the edge, across the switch from the series to the closed form."""
    q = torch.cat([
        torch.tensor([0.0, 1e-40, 1e-31, 1e-29]),
        torch.logspace(-28, -4, 30, dtype=torch.float64),
        torch.linspace(1e-4, 0.05, 300, dtype=torch.float64),
        torch.linspace(0.05, 0.98 if name == "artanh" else 36.0, 60, dtype=torch.float64),
    ]).to(dtype)  # fmt: skip
    value, slope = values_and_slopes(tanh_ratio if name == "tanh" else artanh_ratio, q)
    expected = torch.tensor([exact_ratio(name, float(x)) for x in q], dtype=torch.float64)
    eps = torch.finfo(dtype).eps
    # artanh's relative condition by q is q / (1 - q) / (2 artanh z / z), below 30 at 0.98; tanh's below 1.
    conditioning = 4.0 if name == "tanh" else 120.0
    assert ((value.double() / expected[:, 0] - 1.0).abs() <= conditioning * eps).all()
    # The slope's own loss: cancellation leaves 2 eps / q (7e-6 at the switch in float32, 3e-13 in float64),
    # where it is about 1/3, and at the switch the series is no worse.
    switch = 2e-2 if dtype == torch.float32 else 1.5e-3
    bound = 4.0 * eps / q.double().clamp_min(switch) * 1.5 + conditioning * 20.0 * eps * expected[:, 1].abs()
    assert ((slope.double() - expected[:, 1]).abs() <= bound).all()


@dtypes
def test_ratios_beyond_their_guards(dtype):
    """tanh is constant from 15 on, artanh from 1 - 1e-5 on, so only the division by sqrt(q) moves."""
    q = torch.tensor([guards.TANH_LIMIT**2 * 1.01, 1e4], dtype=dtype)
    value, slope = values_and_slopes(tanh_ratio, q)
    torch.testing.assert_close(value, math.tanh(guards.TANH_LIMIT) * q.rsqrt())
    torch.testing.assert_close(slope, -0.5 * value / q)
    q = torch.tensor([1.0 - 1e-6, 1.0, 1.5], dtype=dtype)
    value, slope = values_and_slopes(artanh_ratio, q)
    ceiling = torch.tensor(1.0 - guards.ARTANH_MARGIN, dtype=dtype).atanh()
    torch.testing.assert_close(value, ceiling * q.rsqrt())
    torch.testing.assert_close(slope, -0.5 * value / q)


def test_slopes_of_the_ratios_have_the_right_sign_for_finite_differences():
    q = torch.tensor([1e-3, 0.01, 0.3, 0.9], dtype=torch.float64, requires_grad=True)
    assert gradcheck(tanh_ratio, (q,))
    assert gradcheck(artanh_ratio, (q,), eps=1e-7)


# --- scales -------------------------------------------------------------------------------------------------------


def spread_rows(dtype, c, dim=4):
    """Vectors from 0 through subnormal squares to far beyond the clip."""
    generator = torch.Generator().manual_seed(4)
    lengths = torch.cat([torch.zeros(1), torch.logspace(-17, 3, 81, dtype=torch.float64)]) / math.sqrt(c)
    directions = torch.randn(len(lengths), dim, generator=generator, dtype=torch.float64)
    return (directions / directions.norm(dim=1, keepdim=True) * lengths[:, None]).to(dtype)


@curvatures
@dtypes
def test_ball_scale_is_the_projected_exponential_map(dtype, c):
    rows = spread_rows(dtype, c).requires_grad_()
    scaled = ball_scale(rows.square().sum(1, keepdim=True), c=c) * rows
    expected = project(expmap0(rows, c=c), c=c)
    eps = torch.finfo(dtype).eps
    # Squares below 1e-30 (norms below the floor 1e-15) are taken for 1e-30.
    assert ((scaled - expected).norm(dim=1) <= 16.0 * eps * expected.norm(dim=1) + 1e-15).all()
    limit = guards.max_norm(dtype, c=c)
    assert (scaled.double().norm(dim=1) <= limit * (1.0 + 4.0 * eps)).all()


@curvatures
@dtypes
def test_gradients_of_scales_are_finite_from_zero_to_far_outside(dtype, c):
    for function in (ball_scale, clip_factor):
        squared = spread_rows(dtype, c).square().sum(1).requires_grad_()
        (gradient,) = torch.autograd.grad(function(squared, c=c).sum(), squared)
        assert gradient.isfinite().all()
    # Against the vectors' own, for rows that neither floor nor overflow touch.
    rows = spread_rows(dtype, c)[40:].requires_grad_()
    ours = gradients(ball_scale(rows.square().sum(1, keepdim=True), c=c) * rows, rows)
    theirs = gradients(project(expmap0(rows, c=c), c=c), rows)
    for a, b in zip(ours[0], theirs[0], strict=True):
        assert error(a, b) < 64.0 * torch.finfo(dtype).eps


@curvatures
@dtypes
def test_clip_factor_is_what_project_multiplies_by(dtype, c):
    limit = guards.max_norm(dtype, c=c)
    rows = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.999999, 0.0], [1.000001, 0.0], [0.6, 0.8], [30.0, 40.0]]) * limit
    rows = rows.to(dtype)
    factor = clip_factor(rows.square().sum(1, keepdim=True), c=c)
    torch.testing.assert_close(factor * rows, project(rows, c=c), rtol=1e-6, atol=0.0)
    assert (factor[:2] == 1.0).all()
    assert (factor[3:4] <= 1.0).all()
    mine = clip_factor(torch.tensor([0.25], dtype=dtype), c=1.0, margin=0.75)
    torch.testing.assert_close(mine, torch.tensor([0.5], dtype=dtype))


# --- messages -----------------------------------------------------------------------------------------------------


def frame_message(rule, head, tail, relation):
    """The message ``a h + b t + c w`` with the rule's coefficients."""

    def dot(x, y):
        return (x * y).sum(1)

    gram = Gram(
        dot(head, head), dot(tail, tail), dot(relation, relation),
        dot(head, tail), dot(head, relation), dot(tail, relation),
    )  # fmt: skip
    a, b, c = rule.coefficients((rule.scale(gram.hh), rule.scale(gram.tt), rule.scale(gram.ww)), gram)
    return a[:, None] * head + b[:, None] * tail + c[:, None] * relation


def triples(dtype, c, reach, dim, seed, rows=40):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(3, rows, dim, generator=generator, dtype=torch.float64)
    lengths = reach * torch.rand(3, rows, 1, generator=generator, dtype=torch.float64)
    return list((vectors / vectors.norm(dim=2, keepdim=True) * lengths / math.sqrt(c)).to(dtype))


@given(
    st.sampled_from(["released", "paper"]),
    st.sampled_from(["poincare", "euclidean"]),
    st.sampled_from(CURVATURES),
    st.sampled_from(DTYPES),
    st.integers(1, 9),
    st.floats(1e-3, 1.0),
    st.integers(0, 2**31),
)
@quick
def test_frame_messages_are_vector_messages(formulation, geometry, c, dtype, dim, reach, seed):
    """Values and gradients; points are within 0.77 of the unit ball, so rounding grows by few hundreds at most."""
    rule = make_rule(formulation, geometry, c, dtype)
    vectors = [x.requires_grad_() for x in triples(dtype, c, reach, dim, seed)]
    ours, theirs = frame_message(rule, *vectors), rule.message(*vectors)
    assert error(ours, theirs) < 1e3 * torch.finfo(dtype).eps
    for a, b in zip(gradients(ours, *vectors), gradients(theirs, *vectors), strict=True):
        assert error(a, b) < 1e4 * torch.finfo(dtype).eps


@formulations
@curvatures
@dtypes
def test_frame_messages_of_special_positions(formulation, c, dtype):
    """Zero vectors, head equal or opposite to tail, collinear vectors, and clipped points in all three places."""
    rule = make_rule(formulation, "poincare", c, dtype)
    zero, one, other = [0.0, 0.0, 0.0], [0.3, -0.2, 0.1], [0.1, 0.4, -0.2]
    negative, double, long = [-x for x in one], [2.0 * x for x in one], [7.0, 0.0, 1.0]
    rows = [
        (zero, zero, zero), (zero, one, zero), (zero, zero, one), (one, zero, zero), (zero, one, other),
        (one, one, zero), (one, one, other), (one, negative, other), (one, double, negative), (one, negative, one),
        (zero, long, other), (other, one, long),
    ]  # fmt: skip
    head, tail, relation = (torch.tensor(x, dtype=dtype) / math.sqrt(c) for x in zip(*rows, strict=True))
    head, tail, relation = (x.clone().requires_grad_() for x in (head, tail, relation))
    ours, theirs = frame_message(rule, head, tail, relation), rule.message(head, tail, relation)
    # A head outside would be left to the vectors; tails and relations at the edge are fine, with 1 / 0.004^2 rounding.
    bound = 1e-3 if dtype == torch.float32 else 1e-9
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() <= bound * b.norm().clamp_min(0.1)
    for gradient in gradients(ours, head, tail, relation):
        assert gradient.isfinite().all()


@formulations
@curvatures
def test_gradients_of_coefficients_are_those_of_the_functions(formulation, c):
    head, tail, relation = triples(torch.float64, c, 0.8, 3, seed=1, rows=3)

    def dot(x, y):
        return (x * y).sum(1)

    gram = [dot(head, head), dot(tail, tail), dot(relation, relation)]
    gram += [dot(head, tail), dot(head, relation), dot(tail, relation)]
    scales = [ball_scale(square, c=c) for square in gram[:3]]

    def coefficients(*inputs):
        if formulation == "released":
            return tuple(released_coefficients(inputs[0], Gram(*inputs[3:]), c=c))
        return tuple(paper_coefficients(*inputs[:3], Gram(*inputs[3:]), c=c))

    assert gradcheck(coefficients, [x.clone().requires_grad_() for x in (*scales, *gram)], eps=1e-7)
