"""Triton's relation-transitive aggregation against the dense evaluation by vectors, values and gradients.

On a GPU where there is one, else by Triton's interpreter. In float32 both evaluations round, so both are measured
against the same formulas in float64, with float32's margin.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from dense import dense_mean, error, gradients, make_rule, odd_graph, on_one_thread, random_table
from torch.autograd import gradcheck

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when kernels are defined
pytest.importorskip("triton", reason="Triton is not installed: python -m pip install 'triton>=3.4'")

from hakg_dgl.graph.packed import Grouping, KnowledgePattern, SparsePattern
from hakg_dgl.kernels.triton_kernels import aggregation
from hakg_dgl.kernels.triton_kernels.aggregation import relation_transitive_mean

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)


def with_gradients(function, entity, relation):
    entity, relation = (x.clone().to(DEVICE).requires_grad_() for x in (entity, relation))
    output = function(entity, relation)
    return [x.detach().cpu() for x in (output, *gradients(output.cpu(), entity, relation))]


def on_device(knowledge, dtype=torch.int64):
    """The same pattern on the device, with indices of another type."""

    def moved(grouping):
        return Grouping(*(None if x is None else x.to(DEVICE, dtype) for x in (grouping.indptr, grouping.order)))

    pairs = knowledge.pairs
    rows, cols = (x.to(DEVICE, dtype) for x in (pairs.rows, pairs.cols))
    there = KnowledgePattern(
        SparsePattern(pairs.n_rows, pairs.n_cols, moved(pairs.by_row), rows, cols),
        knowledge.relation.to(DEVICE, dtype),
        knowledge.n_relations,
    )
    there.pairs.by_col, there.by_relation = moved(pairs.by_col), moved(knowledge.by_relation)
    return there


def ends_of(knowledge):
    """Head, relation and tail of each edge, ``[n_edges, 3]``."""
    return torch.stack([knowledge.pairs.rows, knowledge.relation, knowledge.pairs.cols], 1).cpu()


def evaluate(knowledge, entity, relation, rule):
    return with_gradients(lambda e, w: relation_transitive_mean(knowledge, e, w, rule), entity, relation)


def dense(edges, entity, relation, rule, n_heads):
    """Values and gradients by vectors."""
    entity, relation = entity.clone().requires_grad_(), relation.clone().requires_grad_()
    output = dense_mean(edges, entity, relation, rule, n_heads)
    return [output.detach(), *gradients(output, entity, relation)]


def exact(knowledge, entity, relation, rule):
    """Values and gradients without float32's rounding."""
    return dense(ends_of(knowledge), entity.double(), relation.double(), rule, knowledge.pairs.n_rows)


def assert_close(ours, theirs, bound):
    found = [error(mine, other) for mine, other in zip(ours, theirs, strict=True)]
    assert max(found) < bound, found


def pattern_of(edges, n_heads, n_entities, n_relations):
    """Pattern of edges (head, relation, tail) as they are, without inverses."""
    edges = edges[torch.argsort(edges[:, 0] * n_relations + edges[:, 1], stable=True)]
    pairs = SparsePattern.from_pairs(edges[:, 0].contiguous(), edges[:, 2].contiguous(), n_heads, n_entities)
    return KnowledgePattern(pairs, edges[:, 1].contiguous(), n_relations)


@pytest.mark.parametrize(
    ("formulation", "geometry", "c", "dim", "index"),
    [
        ("released", "poincare", 1.0, 16, torch.int32),
        ("released", "poincare", 2.0, 64, torch.int64),
        ("paper", "poincare", 1.0, 20, torch.int32),
        ("paper", "poincare", 0.5, 256, torch.int64),
        ("released", "euclidean", 1.0, 20, torch.int64),
        ("paper", "euclidean", 1.0, 16, torch.int32),
    ],
)
def test_values_and_gradients(formulation, geometry, c, dim, index):
    """Entity 9 and relation 1 have no edges; there are self loops and parallel relations; a row of each is zero."""
    knowledge, rule = odd_graph(n_triples=12).packed().knowledge, make_rule(formulation, geometry, c, torch.float32)
    entity, relation = (random_table(n, dim, torch.float32, n) / c**0.5 for n in (14, 22))
    ours = evaluate(on_device(knowledge, index), entity, relation, rule)
    assert all(x.dtype == torch.float32 for x in ours)
    assert_close(ours, exact(knowledge, entity, relation, rule), 5e-6)


@pytest.mark.parametrize("dim", [1, 20, 128])
def test_few_edges_at_a_time_give_the_same(dim, monkeypatch):
    """As with Triton before 3.8."""
    knowledge, rule = odd_graph(n_triples=12).packed().knowledge, make_rule("paper", "poincare", 1.0, torch.float32)
    entity, relation = (random_table(n, dim, torch.float32, n) for n in (14, 22))
    monkeypatch.setattr(aggregation, "SPREADS", True)
    many = aggregation.tile_of_messages(dim, 20)
    monkeypatch.setattr(aggregation, "SPREADS", False)
    assert aggregation.tile_of_messages(dim, 20) != many or dim == 1
    assert_close(evaluate(on_device(knowledge), entity, relation, rule), exact(knowledge, entity, relation, rule), 5e-6)


@pytest.mark.parametrize("spreads", [False, True])
def test_tiles_are_powers_of_two_that_few_warps_hold(spreads, monkeypatch):
    monkeypatch.setattr(aggregation, "SPREADS", spreads)
    for dim in (1, 2, 3, 16, 20, 64, 100, 128, 256, 300, 512, 1024, 4096):
        for degree in (1, 100):
            tile = aggregation.tile_of_messages(dim, degree)
            assert dim <= tile.dims < 2 * dim
            assert all(n & (n - 1) == 0 for n in tile)
            assert 1 <= tile.warps <= 8
            assert tile.rows <= 32


@pytest.mark.parametrize(("formulation", "padded"), [("released", False), ("paper", True)])
def test_kept_edges_of_the_first_heads(formulation, padded):
    """Half of the edges, of the items alone, as the last layer has them in training."""
    packed, rule = odd_graph(1).packed(), make_rule(formulation, "poincare", 1.0, torch.float32)
    mask = torch.rand(packed.knowledge.n_edges, generator=torch.Generator().manual_seed(2)) < 0.5
    kept = packed.knowledge.keep(mask, packed.n_items)
    assert 0 < kept.n_edges < int(mask.sum())
    entity, relation = (random_table(n, 20, torch.float32, n) for n in (14, 22))
    ours = evaluate(on_device(packed.knowledge.keep(mask, packed.n_items, padded=padded)), entity, relation, rule)
    assert ours[0].shape == (packed.n_items, 20)
    assert_close(ours, exact(kept, entity, relation, rule), 5e-6)


@pytest.fixture(scope="module")
def hub():
    """Head 1 has very many edges, many of them equal, to two tails, nearly all of relation 0; heads 0 and 2 have none.

    The interpreter takes milliseconds an edge, so it is given fewer.
    """
    n = 1300 if DEVICE == "cuda" else 400
    generator = torch.Generator().manual_seed(3)
    tails = torch.randint(1, 3, (n,), generator=generator)
    relations = (torch.rand(n, generator=generator) < 0.02).long()
    edges = torch.stack([torch.ones_like(tails), relations, tails], 1)
    others = torch.tensor([[3, 1, 0], [3, 0, 3], [3, 0, 3], [4, 1, 5]])
    return pattern_of(torch.cat([edges, others]), n_heads=5, n_entities=7, n_relations=3)


def test_long_rows_are_cut_and_put_together(hub):
    """Of heads, of tails and of relations: at least 400, 180 and 380 edges, in pieces of 128."""
    rule = make_rule("paper", "poincare", 1.0, torch.float32)
    entity, relation = (random_table(n, 16, torch.float32, n) for n in (7, 3))
    assert aggregation.PIECE == 128
    ends = ends_of(hub)
    assert all(int(column.bincount().max()) >= least for column, least in zip(ends.T, (400, 380, 180), strict=True))
    ours = evaluate(on_device(hub), entity, relation, rule)
    assert_close(ours, exact(hub, entity, relation, rule), 5e-6)
    assert not ours[0][[0, 2]].any()
    assert not ours[1][6].any()
    assert not ours[2][2].any()


def test_the_same_bits_every_time(hub):
    """Sums of hundreds of numbers show their order; so do messages, of inner and of outer heads."""
    rule = make_rule("paper", "euclidean", 1.0, torch.float32)
    entity, relation = (random_table(n, 16, torch.float32, n) for n in (7, 3))
    runs = [evaluate(on_device(hub), entity, relation, rule) for _ in range(2)]
    knowledge, rule = odd_graph(n_triples=0).packed().knowledge, make_rule("released", "poincare", 1.0, torch.float32)
    entity, relation = random_table(14, 20, torch.float32, 1, reach=4.0), random_table(22, 20, torch.float32, 2)
    more = [evaluate(on_device(knowledge), entity, relation, rule) for _ in range(2)]
    for one, other in ((runs[0], runs[1]), (more[0], more[1])):
        assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize("formulation", ["released", "paper"])
def test_heads_at_the_edge_are_nearer_to_exact_than_by_vectors(formulation):
    """Entities up to tanh(4) = 0.999, beyond the clip; all their edges, those of inner and of outer heads."""
    knowledge, rule = odd_graph(n_triples=12).packed().knowledge, make_rule(formulation, "poincare", 1.0, torch.float32)
    entity = random_table(14, 20, torch.float32, 1, reach=4.0, zero=False)
    relation = random_table(22, 20, torch.float32, 2, zero=False)
    outer = entity.square().sum(1)[knowledge.pairs.rows] > aggregation.WIDEN_BEYOND.value
    assert 7 < int(outer.sum()) < knowledge.n_edges - 7
    ours, truth = evaluate(on_device(knowledge), entity, relation, rule), exact(knowledge, entity, relation, rule)
    by_vectors = dense(ends_of(knowledge), entity, relation, rule, 14)
    for mine, other, expected in zip(ours, by_vectors, truth, strict=True):
        assert error(mine, expected) < max(1e-5, error(other, expected))
    assert_close(ours, truth, 1e-4)


def test_everything_is_finite_with_opposite_points_at_the_edge():
    """Tails and relations cancelling each other, long vectors, zeros: in one dimension, where all are collinear."""
    values = torch.tensor([0.0, 1e-20, 0.4, -0.4, 1.5, 4.0, -4.0, -20.0, 1e3])
    n = len(values)
    heads, tails = (x.reshape(-1) for x in torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij"))
    edges = torch.cat([torch.stack([heads, (heads + tails + k) % (2 * n), tails], 1) for k in (0, n)])
    knowledge = on_device(pattern_of(edges, n, n, 2 * n))
    entity = torch.stack([values, torch.zeros(n)], 1)
    for formulation in ("released", "paper"):
        rule = make_rule(formulation, "poincare", 1.0, torch.float32)
        ours = evaluate(knowledge, entity, torch.cat([entity, -entity]), rule)
        assert all(x.isfinite().all() for x in ours)


def test_bfloat16_tables_are_summed_in_float32():
    """The error is that of rounding the result once."""
    knowledge, rule = odd_graph(n_triples=12).packed().knowledge, make_rule("paper", "poincare", 1.0, torch.float32)
    entity, relation = (random_table(n, 64, torch.float32, n).bfloat16().to(DEVICE) for n in (14, 22))
    ours = evaluate(on_device(knowledge), entity, relation, rule)
    assert all(x.dtype == torch.bfloat16 for x in ours)
    truth = with_gradients(
        lambda e, w: dense_mean(ends_of(knowledge).to(DEVICE), e.double(), w.double(), rule, 14).bfloat16(),
        entity, relation,
    )  # fmt: skip
    assert_close(ours, truth, 2**-8)


@pytest.mark.parametrize("formulation", ["released", "paper"])
def test_gradients_by_finite_differences(formulation):
    """A tiny graph with a self loop, parallel relations, an outer head and an entity without edges, in float64."""
    edges = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 2], [2, 0, 2]])
    knowledge, rule = on_device(pattern_of(edges, 3, 4, 2)), make_rule(formulation, "poincare", 1.0, torch.float64)
    entity = random_table(4, 2, torch.float64, 3, zero=False)
    entity[1] *= 2.5 / entity[1].norm()
    entity, relation = (
        x.to(DEVICE).requires_grad_() for x in (entity, random_table(2, 2, torch.float64, 4, zero=False))
    )
    assert gradcheck(
        lambda e, w: relation_transitive_mean(knowledge, e, w, rule), (entity, relation), eps=1e-7, fast_mode=True
    )


@pytest.mark.parametrize(("n_heads", "n_edges"), [(0, 0), (3, 0)])
def test_nothing_to_add_up(n_heads, n_edges):
    knowledge = on_device(pattern_of(torch.empty(n_edges, 3, dtype=torch.int64), n_heads, 4, 2))
    rule = make_rule("released", "poincare", 1.0, torch.float32)
    entity, relation = (random_table(n, 16, torch.float32, n) for n in (4, 2))
    ours = evaluate(knowledge, entity, relation, rule)
    assert [x.shape for x in ours] == [(n_heads, 16), (4, 16), (2, 16)]
    assert not any(x.any() for x in ours)


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU: counts how often the CPU waits for it")
def test_nothing_is_read_back_from_the_device(hub):
    rule, knowledge = make_rule("released", "poincare", 1.0, torch.float32), on_device(hub)
    entity, relation = (random_table(n, 16, torch.float32, n).cuda().requires_grad_() for n in (7, 3))
    relation_transitive_mean(knowledge, entity, relation, rule).sum().backward()  # compiles
    again = on_device(hub)
    torch.cuda.set_sync_debug_mode("error")
    try:
        relation_transitive_mean(again, entity, relation, rule).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


COMPILE = """
import triton.language as tl
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from hakg_dgl.kernels.triton_kernels import aggregation

kernels = [aggregation._forward_kernel, aggregation._backward_kernel, aggregation._spread_kernel]
kernels += [aggregation._outer_forward_kernel, aggregation._outer_backward_kernel]
integers = dict.fromkeys(("indptr", "order", "cols", "relations", "heads", "others", "first", "piece_row"), "*i64")
integers |= dict.fromkeys(("outer", "n_outer"), "*i32") | dict.fromkeys(("n_rows", "n_started", "dim"), "i32")
for dim in (16, 64, 128):
    tile = aggregation.tile_of_messages(dim, 20)
    constants = dict(
        WIDEN=True, CURVATURE=1.0, PAPER=False, FLAT=False, LIMIT=0.996,
        PIECE=128, ROWS=tile.rows, DIMS=tile.dims, SUM=tl.float32,
    )
    for kernel in kernels:
        used = {name: value for name, value in constants.items() if name in kernel.arg_names}
        signature = {name: "constexpr" if name in used else integers.get(name, "*fp32") for name in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=signature, constexprs=used)
        assert compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": tile.warps}).asm["cubin"]
"""


@pytest.mark.slow
@pytest.mark.skipif(DEVICE == "cuda", reason="the other tests compile")
def test_kernels_compile_for_a_gpu_that_is_not_there(tmp_path):
    """The interpreter accepts what the compiler does not."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = [str(Path(__file__).resolve().parents[1]), environment.get("PYTHONPATH", "")]
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    run = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
