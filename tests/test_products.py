"""Sparse products of every backend against dense matrices, values and gradients."""

import pytest
import torch
from dense import DTYPES, adjacency, error, gradients, incidence, odd_graph, on_one_thread
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from with_dgl import BACKENDS_HERE, backend_objects

from hakg_dgl.errors import ConfigError
from hakg_dgl.graph.packed import Grouping, SparsePattern
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.kernels.products import (
    edge_dot,
    grouped_in_fixed_shapes,
    rows_of,
    sum_by_group,
    sum_of_groups,
    sum_over_columns,
    sum_over_rows,
    transposed_sum,
    weighted_sum_over_columns,
)

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

quick = settings(max_examples=40, deadline=None, derandomize=True)
backends = pytest.mark.parametrize("backend", backend_objects())
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def pattern_of(pairs, n_rows, n_cols):
    ends = torch.tensor(sorted(pairs, key=lambda pair: pair[0]), dtype=torch.int64).view(-1, 2)
    return SparsePattern.from_pairs(ends[:, 0].contiguous(), ends[:, 1].contiguous(), n_rows, n_cols)


def assert_close(actual, expected):
    """Sums of a few products of numbers near one: a few eps apart."""
    assert actual.dtype == expected.dtype
    assert error(actual, expected) < 32.0 * torch.finfo(expected.dtype).eps


def check(backend, pattern, dtype, dim=5):
    """All products over the pattern, and their gradients, against dense ones."""
    rows, cols, n_rows, n_cols = pattern.rows, pattern.cols, pattern.n_rows, pattern.n_cols
    x, y = random(n_rows, dim, dtype=dtype, seed=1), random(n_cols, dim, dtype=dtype, seed=2)
    weights = random(pattern.n_edges, dtype=dtype, seed=3)
    matrix = adjacency(torch.stack([rows, cols], 1), n_rows, n_cols, dtype)
    weighted = torch.zeros_like(matrix).index_put((rows, cols), weights, accumulate=True)

    assert_close(backend.dot(pattern.by_row, cols, x, y), (x @ y.T)[rows, cols])
    assert_close(backend.weighted_sum(pattern.by_row, cols, weights, y), weighted @ y)
    assert_close(backend.weighted_sum(pattern.by_row, cols, None, y), matrix @ y)
    assert_close(transposed_sum(backend, pattern, weights, x), weighted.T @ x)
    assert_close(transposed_sum(backend, pattern, None, x), matrix.T @ x)

    x.requires_grad_(), y.requires_grad_(), weights.requires_grad_()
    weighted = torch.zeros_like(matrix).index_put((rows, cols), weights, accumulate=True)
    messages = random(pattern.n_edges, dim, dtype=dtype, seed=4).requires_grad_()
    matrix_of_rows, matrix_of_cols = incidence(rows, n_rows, dtype), incidence(cols, n_cols, dtype)
    for ours, theirs in (
        (edge_dot(backend, pattern, x, y), (x @ y.T)[rows, cols]),
        (sum_over_columns(backend, pattern, y), matrix @ y),
        (sum_over_rows(backend, pattern, x), matrix.T @ x),
        (weighted_sum_over_columns(backend, pattern, weights, y), weighted @ y),
        (sum_of_groups(backend, pattern.by_row, rows, messages), matrix_of_rows @ messages),
        (sum_of_groups(backend, pattern.by_col, cols, messages), matrix_of_cols @ messages),
    ):
        assert_close(ours, theirs)
        inputs = (x, y, weights, messages)
        for a, b in zip(gradients(ours, *inputs), gradients(theirs, *inputs), strict=True):
            assert_close(a, b)


@backends
@dtypes
@pytest.mark.parametrize("seed", range(2))
def test_products_over_odd_graphs(backend, dtype, seed):
    packed = odd_graph(seed).packed()
    check(backend, packed.interactions, dtype)
    check(backend, packed.knowledge.pairs, dtype)
    check(backend, packed.knowledge.keep(None, packed.n_items).pairs, dtype)


@given(
    st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
        lambda shape: st.tuples(
            st.just(shape),
            st.lists(st.tuples(st.integers(0, shape[0] - 1), st.integers(0, shape[1] - 1)), max_size=40),
        )
    ),
    st.sampled_from([1, 3, 8]),
)
@quick
def test_products_over_any_pattern(example, dim):
    (n_rows, n_cols), pairs = example
    for name in BACKENDS_HERE:
        check(choose_backend(name), pattern_of(pairs, n_rows, n_cols), torch.float64, dim)


@backends
@dtypes
def test_more_edges_than_cells(backend, dtype):
    """PyTorch's sampled product cuts a pattern of more edges than the matrix has cells."""
    pairs = [(row, col) for row in (0, 2) for col in (1, 1, 1, 0, 1, 2, 2)]
    check(backend, pattern_of(pairs, 3, 3), dtype)
    check(backend, pattern_of([(0, 0)] * 9, 1, 1), dtype)
    check(backend, pattern_of([(0, 0)] * 4, 2, 2), dtype)  # just as many


@backends
def test_repeated_and_unsorted_columns_within_a_row(backend):
    check(backend, pattern_of([(0, 7), (0, 2), (0, 7), (3, 1), (3, 0), (3, 1)], 4, 9), torch.float64)


@backends
@dtypes
def test_no_edges(backend, dtype):
    check(backend, pattern_of([], 3, 4), dtype)


@backends
def test_tables_need_not_be_contiguous(backend):
    pattern = odd_graph().packed().interactions
    x, y = random(5, pattern.n_rows).T, random(pattern.n_cols, 10)[:, ::2]
    weights = random(2 * pattern.n_edges)[::2]
    rows, cols = pattern.rows, pattern.cols
    assert_close(backend.dot(pattern.by_row, cols, x, y), (x @ y.T)[rows, cols])
    matrix = torch.zeros(len(x), len(y), dtype=x.dtype).index_put((rows, cols), weights, accumulate=True)
    assert_close(backend.weighted_sum(pattern.by_row, cols, weights, y), matrix @ y)
    x.requires_grad_(), y.requires_grad_()
    expanded = torch.ones((), dtype=x.dtype)  # the gradient of a plain sum has stride zero
    ours = torch.autograd.grad(edge_dot(backend, pattern, x, y).sum() * expanded, (x, y))
    theirs = torch.autograd.grad((x @ y.T)[rows, cols].sum(), (x, y))
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b)
    (ours,) = torch.autograd.grad(sum_over_columns(backend, pattern, y).sum(), y)
    assert_close(ours, pattern.col_degree.to(y.dtype)[:, None].expand_as(y))


@backends
def test_gradients_are_those_of_the_products(backend):
    pattern = pattern_of([(0, 1), (0, 1), (1, 0), (3, 2)], 4, 3)
    x, y = random(4, 2, seed=1).requires_grad_(), random(3, 2, seed=2).requires_grad_()
    assert gradcheck(lambda a, b: edge_dot(backend, pattern, a, b), (x, y))
    assert gradcheck(lambda b: sum_over_columns(backend, pattern, b), (y,))
    assert gradcheck(lambda a: sum_over_rows(backend, pattern, a), (x,))


@backends
def test_inputs_are_left_alone(backend):
    pattern = odd_graph().packed().interactions
    x, y = random(pattern.n_rows, 3, seed=1), random(pattern.n_cols, 3, seed=2)
    weights = random(pattern.n_edges)
    copies = [tensor.clone() for tensor in (x, y, weights, pattern.cols, pattern.by_row.indptr)]
    backend.dot(pattern.by_row, pattern.cols, x, y)
    backend.weighted_sum(pattern.by_row, pattern.cols, weights, y)
    for before, after in zip(copies, (x, y, weights, pattern.cols, pattern.by_row.indptr), strict=True):
        assert torch.equal(before, after)


@backends
def test_groups_in_row_order_are_read_by_their_bounds_alone(backend):
    """A grouping's order is that of the edges it came from; products read what was permuted already."""
    pattern = odd_graph().packed().interactions
    x = random(pattern.n_rows, 3)
    by_col = pattern.by_col
    ordered = by_col.permute(pattern.rows)
    expected = backend.weighted_sum(Grouping(by_col.indptr, None), ordered, None, x)
    assert torch.equal(backend.weighted_sum(by_col, ordered, None, x), expected)


def test_backends_are_chosen_by_name():
    assert choose_backend("auto").name == choose_backend().name == "torch"
    assert [choose_backend(name).name for name in BACKENDS_HERE] == list(BACKENDS_HERE)
    with pytest.raises(
        ConfigError, match=r"no kernel backend 'cuda'; the backends are auto, torch, dgl, numba, triton"
    ):
        choose_backend("cuda")


@quick
@given(st.lists(st.integers(0, 6), max_size=20), st.integers(7, 9))
def test_ids_are_grouped_in_fixed_shapes_as_elsewhere(ids, n_groups):
    ids = torch.tensor(ids, dtype=torch.int64)
    ours, plain = grouped_in_fixed_shapes(ids, n_groups), Grouping.of(ids, n_groups)
    assert ours.indptr.tolist() == plain.indptr.tolist()
    assert ours.indptr.dtype == ours.order.dtype == torch.int64
    assert ours.order.tolist() == plain.order.tolist()


@dtypes
@backends
@pytest.mark.parametrize("shape", [(7,), (7, 3)], ids=["numbers", "rows"])
def test_rows_and_their_gradient_are_those_of_index_select(backend, dtype, shape):
    """Ids in no order, some twice, some not at all; and, sorted, without an order of their own."""
    table, ids = random(*shape, dtype=dtype).requires_grad_(), torch.tensor([4, 0, 4, 6, 4, 1, 0])
    sorted_ids = ids.sort().values
    for chosen, grouping in (
        (ids, grouped_in_fixed_shapes(ids, 7)),
        (sorted_ids, Grouping(grouped_in_fixed_shapes(sorted_ids, 7).indptr, None)),
        (ids[:0], grouped_in_fixed_shapes(ids[:0], 7)),
    ):
        ours, plain = rows_of(backend, grouping, chosen, table), table.index_select(0, chosen)
        assert torch.equal(ours, plain)
        upstream = random(*plain.shape, dtype=dtype, seed=5)
        (mine,), (theirs,) = (torch.autograd.grad(rows, table, upstream) for rows in (ours, plain))
        assert mine.shape == table.shape
        assert_close(mine, theirs)


@backends
def test_groups_of_nothing_sum_to_zero(backend):
    none = torch.empty(0, dtype=torch.int64)
    total = sum_by_group(backend, grouped_in_fixed_shapes(none, 3), torch.empty(0, 2))
    assert total.tolist() == [[0.0, 0.0]] * 3
