import math

import pytest
import torch
from torch.autograd import gradcheck

from hakg_dgl.geometry import guards

DTYPES = [torch.float32, torch.float64]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])


def test_constants_are_those_of_the_reference_numbers():
    assert guards.NORM_FLOOR == 1e-15
    assert guards.SQUARED_NORM_FLOOR == 1e-30
    assert guards.ROW_NORM_FLOOR == 1e-12
    assert guards.ARTANH_MARGIN == 1e-5
    assert guards.TANH_LIMIT == 15.0
    assert guards.ANGLE_MARGIN == 1e-6
    assert guards.ball_margin(torch.float32) == 4e-3
    assert guards.ball_margin(torch.float64) == 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_other_types_are_refused_with_the_remedy(dtype):
    with pytest.raises(TypeError, match=rf"float32 or float64, not {dtype}; convert"):
        guards.ball_margin(dtype)


@dtypes
@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_max_norm_is_inside_the_ball(dtype, c):
    limit = guards.max_norm(dtype, c=c)
    assert limit * math.sqrt(c) == pytest.approx(1.0 - guards.ball_margin(dtype), rel=1e-15)
    assert c * torch.tensor(limit, dtype=dtype).square() < 1.0
    assert guards.max_norm(dtype, c=c, margin=0.5) * math.sqrt(c) == pytest.approx(0.5, rel=1e-15)


def values_and_gradient(function, values, dtype):
    x = torch.tensor(values, dtype=dtype, requires_grad=True)
    y = function(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.dtype == dtype
    return y.detach(), gradient


@dtypes
def test_artanh_is_exact_inside_and_finite_outside(dtype):
    inside = [-0.9999, -0.5, 0.0, 1e-8, 0.3, 0.9999]
    y, gradient = values_and_gradient(guards.artanh, inside, dtype)
    x = torch.tensor(inside, dtype=dtype)
    assert torch.equal(y, torch.atanh(x))
    # 1 - x^2 cancels: its relative rounding error is eps / (1 - 0.9999^2) at worst.
    rtol = torch.finfo(dtype).eps / 1.9e-4
    torch.testing.assert_close(gradient, 1.0 / ((1.0 - x) * (1.0 + x)), rtol=rtol, atol=0.0)

    y, gradient = values_and_gradient(guards.artanh, [-math.inf, -2.0, -1.0, 1.0, 2.0, math.inf], dtype)
    ceiling = math.atanh(1.0 - 1e-5)
    # The clamp's own rounding moves artanh by eps / 2e-5.
    torch.testing.assert_close(
        y, torch.tensor([-ceiling] * 3 + [ceiling] * 3, dtype=dtype), rtol=0.0, atol=torch.finfo(dtype).eps / 2e-5
    )
    assert (gradient == 0.0).all()


@dtypes
def test_tanh_is_exact_inside_and_flat_outside(dtype):
    inside = [-14.9, -1.0, 0.0, 1e-30, 0.5, 14.9]
    y, gradient = values_and_gradient(guards.tanh, inside, dtype)
    assert torch.equal(y, torch.tanh(torch.tensor(inside, dtype=dtype)))
    torch.testing.assert_close(gradient, 1.0 - y.square())
    y, gradient = values_and_gradient(guards.tanh, [-math.inf, -1e30, 15.1, 1e30, math.inf], dtype)
    assert torch.equal(y.abs(), torch.full((5,), 15.0, dtype=dtype).tanh())
    assert (gradient == 0.0).all()


@dtypes
def test_norm_keeps_its_axis_and_has_gradient_zero_at_zero(dtype):
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-17, 0.0]], dtype=dtype, requires_grad=True)
    length = guards.norm(x)
    assert length.shape == (3, 1)
    torch.testing.assert_close(length, torch.tensor([[5.0], [1e-15], [1e-15]], dtype=dtype), rtol=1e-6, atol=0.0)
    (gradient,) = torch.autograd.grad(length.sum(), x)
    torch.testing.assert_close(gradient, torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, 0.0]], dtype=dtype))


@dtypes
def test_sqrt_floored_bears_what_rounding_leaves_below_zero(dtype):
    y, gradient = values_and_gradient(guards.sqrt_floored, [-1e-7, 0.0, 1e-31, 0.25, 4.0], dtype)
    torch.testing.assert_close(y, torch.tensor([1e-15, 1e-15, 1e-15, 0.5, 2.0], dtype=dtype), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(gradient, torch.tensor([0.0, 0.0, 0.0, 1.0, 0.25], dtype=dtype))


@pytest.mark.parametrize("function", [guards.artanh, guards.tanh, guards.norm])
def test_nan_is_passed_on_rather_than_repaired(function):
    assert function(torch.tensor([[math.nan, 0.5]])).isnan().any()


@pytest.mark.parametrize("function", [guards.artanh, guards.tanh, guards.norm, guards.sqrt_floored])
def test_gradients_are_those_of_the_function(function):
    x = torch.linspace(0.05, 0.95, 6, dtype=torch.float64).reshape(2, 3).requires_grad_()
    assert gradcheck(function, (x,))
