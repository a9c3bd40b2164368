"""The softmax over the edges of a row against the dense one, values and gradients, padded too."""

import pytest
import torch
from dense import DTYPES, error, odd_graph
from torch.autograd import gradcheck
from with_dgl import needs_dgl

from hakg_dgl.graph.packed import SparsePattern
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.kernels.edge_softmax import edge_softmax

backends = pytest.mark.parametrize("backend", ["torch", pytest.param("dgl", marks=needs_dgl)])


def dense_shares(pattern, logits):
    rows = torch.nn.functional.one_hot(pattern.rows, pattern.n_rows).bool()
    table = torch.where(rows, logits[:, None], -torch.inf)
    shares = torch.softmax(table, 0)[torch.arange(len(logits)), pattern.rows]
    return torch.where(torch.isnan(shares), 0.0, shares)


@backends
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reach", [1.0, 300.0])
def test_shares_and_gradients_are_the_dense_ones(backend, dtype, reach):
    """Logits far apart too, whose powers would overflow."""
    pattern = odd_graph().packed().knowledge.pairs
    draw = torch.Generator().manual_seed(1)
    logits, upstream = (torch.randn(pattern.n_edges, generator=draw).to(dtype) for _ in range(2))
    logits = (reach * logits).requires_grad_()
    ours, theirs = edge_softmax(choose_backend(backend), pattern, logits), dense_shares(pattern, logits)
    bound = 64 * torch.finfo(dtype).eps
    assert error(ours, theirs) < bound
    a, b = (torch.autograd.grad((shares * upstream).sum(), logits)[0] for shares in (ours, theirs))
    assert float((a - b).abs().max()) < bound  # of numbers near one, though what is left of them may be tiny
    sums = torch.zeros(pattern.n_rows, dtype=dtype).index_add(0, pattern.rows, ours.detach())
    assert error(sums, (pattern.row_degree > 0).to(dtype)) < bound


@backends
def test_gradients_by_differences(backend):
    pattern = SparsePattern.from_pairs(torch.tensor([0, 0, 0, 2]), torch.tensor([1, 1, 0, 2]), 4, 3)
    logits = torch.tensor([0.3, -1.0, 2.0, 0.7], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda z: edge_softmax(choose_backend(backend), pattern, z), (logits,))


def test_dropped_edges_of_a_padded_pattern_take_no_part():
    pattern = odd_graph().packed().knowledge.pairs
    draw = torch.Generator().manual_seed(2)
    mask = torch.rand(pattern.n_edges, generator=draw) < 0.5
    logits = torch.where(mask, torch.randn(pattern.n_edges, generator=draw).double(), 1e4)  # the dropped ones are huge
    backend, shares = choose_backend("torch"), []
    for padded in (False, True):
        kept = pattern.keep(mask, padded=padded)
        numbers = mask.nonzero().squeeze(1)
        order = torch.cat([numbers, (~mask).nonzero().squeeze(1)]) if padded else numbers
        shares.append(_padded_sum(backend, kept, logits[order]))
    n = int(mask.sum())
    assert torch.equal(shares[1][:n], shares[0])
    assert not shares[1][n:].any()


def _padded_sum(backend, pattern, logits):
    """PyTorch's own sums read all edges, so those behind the bounds are cut off and zeros put in their place."""
    n = int(pattern.by_row.indptr[-1])
    cut = SparsePattern(pattern.n_rows, pattern.n_cols, pattern.by_row, pattern.rows[:n], pattern.cols[:n])
    return torch.cat([edge_softmax(backend, cut, logits[:n]), logits.new_zeros(len(logits) - n)])


def test_no_edges_have_no_shares():
    pattern = SparsePattern.from_pairs(torch.empty(0).long(), torch.empty(0).long(), 3, 2)
    assert edge_softmax(choose_backend("torch"), pattern, torch.empty(0)).tolist() == []
