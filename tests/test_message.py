"""The message by vectors: against geoopt, by hand, and its flat limit."""

import dataclasses
import math

import pytest
import torch
from dense import DTYPES, RULES, error, make_rule, on_one_thread
from geoopt.manifolds.stereographic import math as geoopt_math
from hypothesis import given, settings
from hypothesis import strategies as st

from hakg_dgl.geometry import guards

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

quick = settings(max_examples=30, deadline=None, derandomize=True)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
formulations = pytest.mark.parametrize("formulation", ["released", "paper"])


def vectors(dtype, count=3, rows=16, dim=5, reach=0.8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, rows, dim, generator=generator, dtype=torch.float64)
    lengths = reach * torch.rand(count, rows, 1, generator=generator, dtype=torch.float64)
    return list((drawn / drawn.norm(dim=2, keepdim=True) * lengths).to(dtype))


def geoopt_message(formulation, c, head, tail, relation):
    """The published definitions, composed of geoopt's functions; nothing is clipped."""
    k = torch.tensor(-c, dtype=head.dtype)
    x = geoopt_math.expmap0(head, k=k)
    if formulation == "released":
        moved = geoopt_math.mobius_add(geoopt_math.expmap(x, tail, k=k), geoopt_math.expmap(x, relation, k=k), k=k)
    else:
        moved = geoopt_math.mobius_add(geoopt_math.expmap0(tail, k=k), geoopt_math.expmap0(relation, k=k), k=k)
    return geoopt_math.logmap(x, moved, k=k)


@given(
    st.sampled_from(["released", "paper"]),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.floats(0.01, 0.5),
    st.integers(1, 8),
    st.integers(0, 2**31),
)
@quick
def test_messages_are_those_of_geoopt_where_nothing_is_clipped(formulation, c, reach, dim, seed):
    """Points of scaled norm up to tanh(0.5) move to scaled norms below 0.96; rounding grows by 1 / (1 - 0.96^2)^2."""
    head, tail, relation = (x / math.sqrt(c) for x in vectors(torch.float64, dim=dim, reach=reach, seed=seed))
    rule = make_rule(formulation, "poincare", c, torch.float64)
    expected = geoopt_message(formulation, c, head, tail, relation)
    assert error(rule.message(head, tail, relation), expected) < 1e-12


@dtypes
def test_flat_messages_by_hand(dtype):
    head, tail, relation = (torch.tensor([x], dtype=dtype) for x in ([1.0, 2.0], [10.0, -20.0], [100.0, 0.5]))
    released = make_rule("released", "euclidean", 1.0, dtype).message(head, tail, relation)
    paper = make_rule("paper", "euclidean", 1.0, dtype).message(head, tail, relation)
    assert released.tolist() == [[111.0, -17.5]]
    assert paper.tolist() == [[109.0, -21.5]]


@formulations
def test_flat_messages_are_the_limit_of_small_curvature(formulation):
    """The error is linear in c: ten times less curvature, ten times less difference."""
    head, tail, relation = vectors(torch.float64)
    flat = make_rule(formulation, "euclidean", 1.0, torch.float64).message(head, tail, relation)
    errors = [
        error(make_rule(formulation, "poincare", c, torch.float64).message(head, tail, relation), flat)
        for c in (1e-3, 1e-4, 1e-5)
    ]
    assert errors[0] < 2e-2
    assert errors[0] / errors[1] == pytest.approx(10.0, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(10.0, rel=0.05)


@formulations
def test_curvature_is_a_unit_of_length(formulation):
    """Vectors shortened by sqrt(c) on the ball of curvature -c send messages shortened by sqrt(c)."""
    head, tail, relation = vectors(torch.float64)
    unit = make_rule(formulation, "poincare", 1.0, torch.float64).message(head, tail, relation)
    for c in (0.25, 4.0):  # powers of two, so that scaling is exact
        root = math.sqrt(c)
        scaled = make_rule(formulation, "poincare", c, torch.float64).message(head / root, tail / root, relation / root)
        torch.testing.assert_close(scaled * root, unit, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(("formulation", "geometry", "c"), RULES)
@dtypes
def test_shapes_broadcast_and_dtypes_are_kept(formulation, geometry, c, dtype):
    rule = make_rule(formulation, geometry, c, dtype)
    head, tail, relation = vectors(dtype, rows=4)
    message = rule.message(head[:, None], tail[None], relation[0])
    assert message.shape == (4, 4, 5)
    assert message.dtype == dtype
    torch.testing.assert_close(message[1, 2], rule.message(head[1], tail[2], relation[0]))


@formulations
@dtypes
def test_a_neighbour_that_is_where_the_head_is_says_nothing_as_published(formulation, dtype):
    """log_x(y + 0) = 0 for y = x; the released code, with exp_x, moves the tail by the head once more."""
    rule = make_rule(formulation, "poincare", 1.0, dtype)
    (head,) = vectors(dtype, count=1)
    message = rule.message(head, head, torch.zeros_like(head))
    if formulation == "paper":
        assert message.abs().max() < 16.0 * torch.finfo(dtype).eps
    else:
        assert (message.norm(dim=1) >= 0.5 * head.norm(dim=1)).all()


@dtypes
def test_head_at_the_origin_by_hand(dtype):
    """x = 0: log_0(exp_0(t) + 0) = t in both formulations; along one line, artanh's add up."""
    zero = torch.zeros(1, 2, dtype=dtype)
    tail, relation = torch.tensor([[0.3, 0.0]], dtype=dtype), torch.tensor([[0.2, 0.0]], dtype=dtype)
    # In released units exp_0 at the base 0 has conformal factor 2, as everywhere else: the same map.
    for formulation in ("released", "paper"):
        rule = make_rule(formulation, "poincare", 1.0, dtype)
        torch.testing.assert_close(rule.message(zero, tail, zero), tail)
        torch.testing.assert_close(rule.message(zero, tail, relation), tail + relation)


@pytest.mark.parametrize("c", [0.5, 1.0, 2.0])
@dtypes
def test_points_stay_within_the_margin(dtype, c):
    rule = make_rule("released", "poincare", c, dtype)
    (tangent,) = vectors(dtype, count=1, reach=50.0)
    limit = (1.0 - guards.ball_margin(dtype)) / math.sqrt(c)
    lengths = rule.point(tangent).double().norm(dim=1)
    assert (lengths <= limit * (1.0 + 4.0 * torch.finfo(dtype).eps)).all()
    assert (lengths > 0.99 * limit).any()
    narrower = dataclasses.replace(rule, margin=0.5)
    assert (narrower.point(tangent).double().norm(dim=1) <= 0.5 / math.sqrt(c) * 1.001).all()
    torch.testing.assert_close(rule.scale(tangent.square().sum(1))[:, None] * tangent, rule.point(tangent))


@pytest.mark.parametrize(("formulation", "geometry", "c"), RULES)
@dtypes
def test_messages_and_gradients_are_finite_at_the_edge(formulation, geometry, c, dtype):
    """Long vectors in every place, opposite ones and zeros among them."""
    rule = make_rule(formulation, geometry, c, dtype)
    head, tail, relation = vectors(dtype, rows=40, reach=20.0)
    tail[:5], relation[5:10] = -head[:5], -tail[5:10]
    head[10:13], tail[12:15], relation[14:17] = 0.0, 0.0, 0.0
    ends = [x.requires_grad_() for x in (head, tail, relation)]
    message = rule.message(*ends)
    assert message.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(message.sum(), ends))
