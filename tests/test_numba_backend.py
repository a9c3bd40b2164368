"""Numba's kernels against the dense evaluation by vectors and against PyTorch's operators, values and gradients.

Slow since the kernels are compiled, once for each precision: seconds at the first run, a part of one later.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from dense import DTYPES, RULES, Graph, empty_graph, error, gradients, make_rule, odd_graph, random_table
from hypothesis import given, settings
from hypothesis import strategies as st
from test_aggregation import BOUND, EDGE_BOUND, check_gradients, compare, with_gradients
from torch import Tensor

from hakg_dgl.errors import ConfigError
from hakg_dgl.graph.packed import KnowledgePattern, SparsePattern
from hakg_dgl.kernels import aggregation
from hakg_dgl.kernels.aggregation import relation_transitive_mean
from hakg_dgl.kernels.choice import NUMBA_FROM_EDGES, choose_backend, explain_backend
from hakg_dgl.kernels.interface import CompiledBackend, FusedBackend
from hakg_dgl.layers.dropout import drop_and_normalise
from hakg_dgl.layers.losses import AngleLoss

pytest.importorskip("numba", reason="needs Numba: pip install 'hakg_dgl[fast]'")
pytestmark = pytest.mark.slow

NUMBA, TORCH = choose_backend("numba"), choose_backend("torch")
HYPERBOLIC = [rule for rule in RULES if rule[1] == "poincare"]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
rules = pytest.mark.parametrize(("formulation", "geometry", "c"), HYPERBOLIC)
quick = settings(max_examples=12, deadline=None, derandomize=True)


@pytest.fixture(autouse=True, scope="module")
def few_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def large_graph(n_edges: int = 3000) -> KnowledgePattern:
    """More than one block of edges a piece, some heads with hundreds, many with none."""
    draw = torch.Generator().manual_seed(3)
    ends = (torch.rand(n_edges, 2, generator=draw).square() * 400).long()
    triples = torch.stack([ends[:, 0], torch.randint(0, 5, (n_edges,), generator=draw), ends[:, 1]], 1)
    return Graph(torch.empty(0, 2).long(), triples, 1, 1, 400, 5).packed().knowledge


@rules
@dtypes
@pytest.mark.parametrize("reach", [1.0, 4.0], ids=["interior", "edge"])
def test_means_and_gradients_are_those_of_vectors(
    formulation: str, geometry: str, c: float, dtype: torch.dtype, reach: float
) -> None:
    graph, rule = odd_graph(), make_rule(formulation, geometry, c, dtype)
    # A row of zeros and a clipped one make a point at the clip's very limit, where gradients jump: inside alone.
    entity = random_table(14, 5, dtype, 1, reach=reach, zero=reach == 1.0) / c**0.5
    relation = random_table(22, 5, dtype, 2, reach=reach, zero=reach == 1.0) / c**0.5
    bound = (BOUND if reach == 1.0 else EDGE_BOUND)[dtype]
    compare(NUMBA, graph.packed().knowledge, graph.edges(), entity, relation, rule, bound, as_rough=0.0)


@pytest.mark.parametrize("formulation", ["released", "paper"])
@dtypes
@pytest.mark.parametrize("dim", [5, 16, 67])
@pytest.mark.parametrize("reach", [1.5, 4.0], ids=["interior", "edge"])
def test_many_blocks_and_pieces(formulation: str, dtype: torch.dtype, dim: int, reach: float) -> None:
    """At the edge most heads with hundreds of edges are outer ones."""
    knowledge, rule = large_graph(), make_rule(formulation, "poincare", 1.0, dtype)
    edges = torch.stack([knowledge.pairs.rows, knowledge.relation, knowledge.pairs.cols], 1)
    entity = random_table(400, dim, dtype, 1, reach=reach, zero=reach < 2.0)
    relation = random_table(10, dim, dtype, 2, zero=reach < 2.0)
    compare(NUMBA, knowledge, edges, entity, relation, rule, EDGE_BOUND[dtype], as_rough=0.0)


@pytest.mark.parametrize("reach", [1.5, 4.0], ids=["interior", "edge"])
def test_any_number_of_threads_gives_the_same_bits(reach: float) -> None:
    knowledge, rule = large_graph(), make_rule("paper", "poincare", 1.0, torch.float32)
    entity, relation = random_table(400, 16, torch.float32, 1, reach=reach), random_table(10, 16, torch.float32, 2)
    mask = torch.rand(400, 16, generator=torch.Generator().manual_seed(1)) < 0.9

    def layer(e: Tensor, w: Tensor) -> Tensor:
        assert isinstance(NUMBA, CompiledBackend)
        return NUMBA.normalised(relation_transitive_mean(NUMBA, knowledge, e, w, rule), mask)

    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(with_gradients(layer, entity, relation))
    torch.set_num_threads(1)
    for first, second, third in zip(*results, strict=True):
        assert torch.equal(first, second)
        assert torch.equal(first, third)


@given(st.integers(0, 2**31), st.integers(0, 14), st.floats(0.0, 1.0), st.sampled_from(HYPERBOLIC), st.integers(1, 6))
@quick
def test_kept_edges_of_some_heads(
    seed: int, n_heads: int, share: float, names: tuple[str, str, float], dim: int
) -> None:
    graph, rule = odd_graph(seed % 7, n_triples=seed % 40), make_rule(*names, torch.float64)
    knowledge = graph.packed().knowledge
    mask = torch.rand(knowledge.n_edges, generator=torch.Generator().manual_seed(seed)) < share
    ends = torch.stack([knowledge.pairs.rows, knowledge.relation, knowledge.pairs.cols], 1)
    left = ends[mask & (ends[:, 0] < n_heads)]
    entity, relation = random_table(14, dim, torch.float64, seed), random_table(22, dim, torch.float64, seed + 1)
    compare(NUMBA, knowledge.keep(mask, n_heads), left, entity, relation, rule, 1e-10)


@rules
@pytest.mark.parametrize("n_relations", [0, 2])
def test_no_edges(formulation: str, geometry: str, c: float, n_relations: int) -> None:
    knowledge, rule = empty_graph(n_relations).packed().knowledge, make_rule(formulation, geometry, c, torch.float32)
    entity = random_table(4, 3, torch.float32, 1).requires_grad_()
    relation = random_table(max(1, 2 * n_relations), 3, torch.float32, 2).requires_grad_()
    mean = relation_transitive_mean(NUMBA, knowledge, entity, relation, rule)
    assert torch.equal(mean, torch.zeros(4, 3))
    assert all(torch.equal(g, torch.zeros_like(g)) for g in torch.autograd.grad(mean.sum(), (entity, relation)))


@rules
@dtypes
@pytest.mark.parametrize("outer", [True, False])
def test_opposite_points_at_the_edge_leave_everything_finite(
    formulation: str, geometry: str, c: float, dtype: torch.dtype, outer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the guards of the tables' own type too: no head is an outer one in half of the cases."""
    if not outer:
        monkeypatch.setattr(aggregation, "VECTORS_BEYOND", dict.fromkeys(DTYPES, 2.0))
    values = torch.tensor([0.0, 1e-20, 1e-13, 0.4, -0.4, 1.5, -1.5, 1.8, 4.0, -4.0, 9.0, -9.0, 12.0, -20.0, 1e3])
    n = len(values)
    heads, tails = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    triples = torch.stack([heads.reshape(-1), (heads + tails).reshape(-1) % n, tails.reshape(-1)], 1)
    knowledge = Graph(torch.empty(0, 2).long(), triples, 1, 1, n, n).packed().knowledge
    entity = torch.stack([values, torch.zeros(n)], 1).to(dtype).requires_grad_()
    relation = torch.cat([entity.detach(), -entity.detach()]).requires_grad_()
    mean = relation_transitive_mean(NUMBA, knowledge, entity, relation, make_rule(formulation, geometry, c, dtype))
    assert mean.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(mean.sum(), (entity, relation)))


@rules
def test_gradients_by_finite_differences(formulation: str, geometry: str, c: float) -> None:
    triples = torch.tensor([[0, 0, 1], [0, 1, 1], [2, 0, 2], [1, 1, 2]])
    knowledge = Graph(torch.empty(0, 2).long(), triples, 1, 1, 4, 2).packed().knowledge
    entity = random_table(4, 2, torch.float64, 3, zero=False).requires_grad_()
    relation = random_table(4, 2, torch.float64, 4, zero=False).requires_grad_()
    check_gradients(NUMBA, knowledge, entity, relation, make_rule(formulation, geometry, c, torch.float64))


@dtypes
def test_float32_functions_are_as_good_as_the_library(dtype: torch.dtype) -> None:
    import numpy as np
    from numba import njit

    from hakg_dgl.kernels.numba_kernels.numbers import arccosine, arcsine, exp, log

    @njit
    def both(x: np.ndarray, w: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
        for i in range(len(x)):
            y[i], z[i] = exp(x[i]), log(w[i])

    @njit
    def angles(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
        for i in range(len(x)):
            y[i], z[i] = arcsine(x[i]), arccosine(x[i])

    x = -np.geomspace(1e-6, 30.0, 2000).astype(torch.empty(0, dtype=dtype).numpy().dtype)
    y, z = np.empty_like(x), np.empty_like(x)
    w = np.exp(-x)
    both(x, w, y, z)
    eps = float(np.finfo(x.dtype).eps)
    np.testing.assert_allclose(y, np.exp(x.astype(np.float64)), rtol=40 * eps)
    np.testing.assert_allclose(z, np.log(w.astype(np.float64)), rtol=40 * eps, atol=4 * eps)
    x = np.concatenate([np.linspace(-1.0, 1.0, 2001), [-1.0 + 1e-6, 1e-7, 1.0 - 1e-6]]).astype(x.dtype)
    y, z = np.empty_like(x), np.empty_like(x)
    angles(x, y, z)
    np.testing.assert_allclose(y, np.arcsin(x.astype(np.float64)), rtol=4 * eps)
    np.testing.assert_allclose(z, np.arccos(x.astype(np.float64)), rtol=4 * eps, atol=4 * eps)


@dtypes
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_normalised_rows_are_those_of_pytorch(dtype: torch.dtype, rate: float) -> None:
    x = random_table(700, 7, dtype, 1, reach=3.0).requires_grad_()
    results = []
    for backend in (NUMBA, None):
        unit = drop_and_normalise(x, rate, torch.Generator().manual_seed(1), backend=backend)
        results.append((unit, *gradients(unit, x)))
    for ours, theirs in zip(*results, strict=True):
        assert error(ours, theirs) < BOUND[dtype]


def pairs_of(n_pairs: int = 4000, n_rows: int = 100, n_cols: int = 700) -> SparsePattern:
    """Pairs that repeat, rows and columns without any, rows that are columns too."""
    draw = torch.Generator().manual_seed(4)
    rows = torch.randint(0, n_rows - 10, (n_pairs,), generator=draw).sort().values
    return SparsePattern.from_pairs(rows, torch.randint(0, n_cols - 100, (n_pairs,), generator=draw), n_rows, n_cols)


@pytest.mark.parametrize(("formulation", "geometry", "c"), RULES)
@pytest.mark.parametrize("direction", ["both", "attribute"])
@dtypes
@pytest.mark.parametrize("reach", [0.4, 3.0], ids=["interior", "edge"])
def test_angle_losses_are_those_of_pytorch(
    formulation: str, geometry: str, c: float, direction: str, dtype: torch.dtype, reach: float
) -> None:
    """Apexes near the origin, whose cones are as wide as can be, and points at the edge of the ball included."""
    rule = make_rule(formulation, geometry, c, dtype)
    size = reach if formulation == "paper" or geometry == "euclidean" else min(reach, 0.9)
    entity = random_table(700, 9, dtype, 1, reach=size) / c**0.5
    entity[::7] *= 0.01
    entity.requires_grad_()
    loss = AngleLoss(pairs_of(), rule, direction, aperture=0.2)
    results = []
    for backend in (NUMBA, TORCH):
        total = loss(backend, entity, torch.Generator().manual_seed(2))
        results.append((total, *gradients(total, entity)))
    (ours, our_grad), (theirs, their_grad) = results
    assert ours.dtype == dtype
    assert error(ours, theirs) < (2e-5 if dtype == torch.float32 else 1e-12)
    assert error(our_grad, their_grad) < (2e-3 if dtype == torch.float32 else 1e-9)


@dtypes
@pytest.mark.parametrize("dropout", [0.0, 0.3, 0.999999])
def test_coordinates_that_a_step_leaves_out_have_no_gradient(dtype: torch.dtype, dropout: float) -> None:
    loss = AngleLoss(pairs_of(), make_rule("paper", "poincare", 1.0, dtype), dropout=dropout)
    entity = random_table(700, 33, dtype, 1, reach=0.5).requires_grad_()
    (ours,), (theirs,) = (
        gradients(loss(backend, entity, torch.Generator().manual_seed(2)), entity) for backend in (NUMBA, TORCH)
    )
    assert torch.equal(ours.any(0), theirs.any(0))
    assert error(ours, theirs) < (1e-4 if dtype == torch.float32 else 1e-11)


def test_threads_change_no_bit_of_an_angle_loss() -> None:
    entity, found = random_table(900, 33, torch.float32, 1, reach=2.0).requires_grad_(), []
    loss = AngleLoss(pairs_of(20000, 900, 900), make_rule("paper", "poincare", 1.0, torch.float32), "both")
    for n_threads in (1, 2, 5):
        torch.set_num_threads(n_threads)
        total = loss(NUMBA, entity, torch.Generator().manual_seed(2))
        found.append(torch.cat([total.reshape(1), gradients(total, entity)[0].flatten()]))
    torch.set_num_threads(1)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_auto_is_numba_where_there_are_many_messages() -> None:
    assert choose_backend("auto", n_messages=NUMBA_FROM_EDGES).name == "numba"
    assert choose_backend("auto", n_messages=NUMBA_FROM_EDGES - 1).name == choose_backend("auto").name == "torch"
    choice = explain_backend("cpu")
    assert (choice.name, choice.faster) == ("numba", None)
    assert f"{NUMBA_FROM_EDGES} edges" in choice.reason
    assert isinstance(NUMBA, CompiledBackend)
    assert not isinstance(NUMBA, FusedBackend)
    assert not isinstance(TORCH, CompiledBackend)
    with pytest.raises(ConfigError, match="runs on a CPU, not on 'cuda'"):
        choose_backend("numba", "cuda")


def test_missing_and_old_numba_are_named_when_asked_for_and_no_harm_otherwise() -> None:
    code = (
        "import sys, numba\nfrom hakg_dgl.kernels.choice import choose_backend, explain_backend\n"
        "from hakg_dgl.errors import *\n"
        "numba.__version__ = '0.59.1'\n"
        "try: choose_backend('numba')\nexcept MissingDependencyError as error: print(error)\n"
        "for name in [n for n in sys.modules if 'numba' in n]: del sys.modules[name]\n"
        "sys.modules['numba'] = None\n"
        "try: choose_backend('numba')\nexcept MissingDependencyError as error: print(error)\n"
        "print(choose_backend('auto', n_messages=10**6).name, explain_backend('cpu').faster)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True).stdout
    assert "needs Numba 0.60 or newer, this is 0.59.1" in out
    assert "kernels = 'numba' needs Numba, which cannot be imported" in out
    assert "torch python -m pip install 'numba>=0.60'" in out


def test_compiled_kernels_are_looked_for_by_their_sources() -> None:
    """A kernel's file alone would not tell Numba that a guard or a formula has changed."""
    from hakg_dgl.kernels.numba_kernels import aggregation, angle, coefficients
    from hakg_dgl.kernels.numba_kernels.numbers import stamp_of

    for module, names in (
        (aggregation, ("forward", "backward_of_heads", "backward_of_tails")),
        (angle, ("narrow", "products", "slopes", "gradient")),
    ):
        stamp = stamp_of(module.__file__, coefficients.__file__)
        for name in names:
            function = getattr(module, name).py_func
            enclosed = dict(zip(function.__code__.co_freevars, function.__closure__, strict=True))
            assert enclosed["stamp"].cell_contents == stamp
    assert stamp_of(angle.__file__) != stamp_of(aggregation.__file__) != stamp_of()
