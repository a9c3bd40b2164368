"""Triton's losses against PyTorch's, in float64: on the GPU where there is one, else on a CPU by its interpreter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read where kernels are defined, so before they are imported
pytest.importorskip("triton", reason="Triton is not installed: python -m pip install 'triton>=3.4'")

from dense import error, gradients, make_rule, odd_graph, on_one_thread
from gpu_code import CAPABILITIES, compiled
from test_triton_backend import DEVICE, TORCH, TRITON, table

from hakg_dgl.kernels.interface import LossBackend
from hakg_dgl.kernels.triton_kernels import contrastive, products
from hakg_dgl.kernels.triton_kernels.angle import ends_of
from hakg_dgl.layers.embeddings import Embeddings
from hakg_dgl.layers.losses import AngleLoss, contrastive_loss, item_attribute_pairs, softmax_loss, sum_of_squares
from hakg_dgl.layers.sampling import NegativeSampler
from hakg_dgl.randomness import torch_generator

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)
CLOSE = 5e-6


def in_float64(*tables: torch.Tensor) -> list[torch.Tensor]:
    return [x.detach().double().requires_grad_() for x in tables]


def compare(ours: torch.Tensor, theirs: torch.Tensor, mine: Any, other: Any, close: float = CLOSE) -> None:
    """Values and gradients, the latter times a number that is not 1."""
    assert error(ours, theirs) < close
    for a, b in zip(gradients(3.0 * ours, *mine), gradients(3.0 * theirs, *other), strict=True):
        assert a.dtype == torch.float32
        assert error(a, b) < close


# --- angle --------------------------------------------------------------------------------------------------------


ANGLES = [
    ("released", "poincare", 0.5, "both", True, 5), ("paper", "poincare", 2.0, "both", True, 5),
    ("paper", "poincare", 1.0, "attribute", False, 5), ("paper", "euclidean", 1.0, "both", False, 5),
    ("released", "poincare", 1.0, "both", True, 96), ("paper", "poincare", 1.0, "both", False, 128),
]  # fmt: skip


@pytest.mark.parametrize(("formulation", "geometry", "c", "direction", "masked", "dim"), ANGLES)
def test_the_angle_loss_is_pytorchs(
    formulation: str, geometry: str, c: float, direction: Any, masked: bool, dim: int
) -> None:
    graph = odd_graph(n_triples=40)
    knowledge = graph.packed(str(DEVICE)).knowledge
    pairs = item_attribute_pairs(knowledge, graph.n_items)
    loss = AngleLoss(pairs, make_rule(formulation, geometry, c, torch.float32), direction)
    entity = (table(graph.n_entities, dim, torch.float32) * (0.6 / dim**0.5)).requires_grad_()
    with torch.no_grad():
        entity[0] = 0.0  # guards are the same
        entity[1] *= 20.0
    (reference,) = in_float64(entity)
    drawn = [torch_generator(1, "angle", DEVICE) if masked else None for _ in range(2)]
    compare(loss(TRITON, entity, drawn[0]), loss(TORCH, reference, drawn[1]), [entity], [reference], 1e-4)


def test_entities_in_many_pairs_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    from hakg_dgl.kernels.triton_kernels import angle

    graph = odd_graph(n_triples=60)
    pairs = item_attribute_pairs(graph.packed(str(DEVICE)).knowledge, graph.n_items)
    loss = AngleLoss(pairs, make_rule("paper", "poincare", 1.0, torch.float32))
    entity = (table(graph.n_entities, 5, torch.float32) * 0.3).requires_grad_()
    whole = gradients(loss(TRITON, entity, None), entity)[0]
    monkeypatch.setattr(angle, "PIECE", 4)
    ends = ends_of(pairs, len(entity))
    assert int(ends.by_entity.indptr.diff().max()) > 8
    assert error(gradients(loss(TRITON, entity, None), entity)[0], whole) < 1e-6
    assert sorted(ends.place.tolist()) == list(range(2 * pairs.n_edges))


# --- contrastive --------------------------------------------------------------------------------------------------


def contrast(n_pairs: int, n_negatives: int, dual: bool, dim: int = 12) -> Any:
    """Tables of rows of any length, one of them zero, and a batch in which users and items repeat."""
    tables = [(table(n, dim, torch.float32, n) * 0.7).requires_grad_() for n in (7, 20, 20)]
    with torch.no_grad():
        tables[0][2], tables[1][3] = 0.0, 0.0
    draw = torch.Generator().manual_seed(1)
    users, positives = torch.randint(7, (n_pairs,), generator=draw), torch.randint(15, (n_pairs,), generator=draw)
    drawn = torch.randint(15, (n_pairs, n_negatives), generator=draw)
    return tables if dual else tables[:2], [x.to(DEVICE) for x in (users, positives, drawn)]


def embedded(tables: list[torch.Tensor]) -> Embeddings:
    return Embeddings(tables[0], tables[1], tables[2] if len(tables) > 2 else None)


CONTRASTS = [(0.1, True, 12), (0.1, False, 12), (-1.5, True, 12), (2.0, True, 12), (0.05, True, 96), (0.05, True, 128)]


@pytest.mark.parametrize(("margin", "dual", "dim"), CONTRASTS)
def test_the_contrastive_loss_is_pytorchs(margin: float, dual: bool, dim: int) -> None:
    tables, batch = contrast(9, 35, dual, dim)
    reference = in_float64(*tables)
    ours = contrastive_loss(TRITON, embedded(tables), *batch, margin)
    compare(ours, contrastive_loss(TORCH, embedded(reference), *batch, margin), tables, reference)


@pytest.mark.parametrize("piece", [1, 3])
def test_items_drawn_often_are_cut(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tables, batch = contrast(6, 11, dual=True)
    reference = in_float64(*tables)
    monkeypatch.setattr(contrastive, "PIECE", piece)
    ours = contrastive_loss(TRITON, embedded(tables), *batch, 0.0)
    compare(ours, contrastive_loss(TORCH, embedded(reference), *batch, 0.0), tables, reference)


def test_squares_are_summed_at_once() -> None:
    tensors = [table(n, 3, torch.float32, n).requires_grad_() for n in (3, 5)]
    reference = in_float64(*tensors)
    compare(sum_of_squares(TRITON, tensors), sum_of_squares(TORCH, reference), tensors, reference)


# --- softmax ------------------------------------------------------------------------------------------------------


SOFTMAX = [(30, None, 12), (30, 9, 12), (300, None, 12), (60, 40, 12), (130, 90, 96), (20, None, 128), (70, 66, 200)]


@pytest.mark.parametrize(("n_items", "n_candidates", "dim"), SOFTMAX)
def test_the_softmax_is_pytorchs(n_items: int, n_candidates: int | None, dim: int) -> None:
    user, item = ((table(n, dim, torch.float32, n)).requires_grad_() for n in (5, n_items))
    draw = torch.Generator().manual_seed(2)
    has = torch.rand(5, n_items, generator=draw) < 0.3
    has[1] = True  # knows all
    has[2] = False
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), has.sum(1).cumsum(0)]).to(DEVICE)
    known = indptr, has.nonzero()[:, 1].to(DEVICE)
    users, positives = (torch.randint(n, (11,), generator=draw).to(DEVICE) for n in (5, n_items))
    chosen = None
    if n_candidates is not None:
        chosen = torch.randperm(n_items, generator=draw)[:n_candidates].sort().values.to(DEVICE)
    reference = in_float64(user, item)
    more: dict[str, Any] = {"candidates": chosen, "temperature": 0.5}
    ours = softmax_loss(user, item, users, positives, known, backend=TRITON, **more)
    theirs = softmax_loss(*reference, users, positives, known, backend=TORCH, **more)
    compare(ours, theirs, [user, item], reference)


def test_losses_in_float64_and_of_wide_tables_are_pytorchs_operators() -> None:
    assert isinstance(TRITON, LossBackend)
    assert not isinstance(TORCH, LossBackend)
    assert TRITON.computes_losses_of(torch.ones(1, 256))
    assert not TRITON.computes_losses_of(torch.ones(1, 257))
    assert not TRITON.computes_losses_of(torch.ones(1, 256, dtype=torch.float64))


# --- negatives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_users", [4, 300], ids=["whole bitset", "folded bitset"])
def test_the_same_negatives_are_picked(n_users: int) -> None:
    n_items = 8 if n_users == 4 else 5000
    lists = [[0, 1, 2, 3, 4, 6], [], list(range(n_items)), list(range(1, n_items, 2))] + [[5]] * (n_users - 4)
    indptr = torch.tensor([0, *torch.tensor([len(x) for x in lists]).cumsum(0).tolist()])
    items = torch.tensor([i for own in lists for i in own])
    found = []
    for backend in (TORCH, TRITON):
        sampler = NegativeSampler(indptr, items, n_items, device=DEVICE, backend=backend)
        assert sampler._is_folded == (n_users > 4)
        users = torch.tensor([0, 1, 2, 3, n_users - 1, 3], device=DEVICE)
        generator = torch_generator(0, "negatives", DEVICE)
        found.append((sampler._sample_in_fixed_shapes(users, 200, generator), generator.get_state()))
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)
    assert found[0][0].dtype == torch.int64


# --- compiled -----------------------------------------------------------------------------------------------------

COMPILE = """
from hakg_dgl.kernels.triton_kernels import angle, candidates, contrastive, grouped_rows, searching
from hakg_dgl.kernels.triton_kernels.products import tile_shape

DIM = 128
small, usual, large = tile_shape(DIM, 512), tile_shape(DIM), tile_shape(DIM, 2048)

def tile(shape):
    return {"ROWS": shape.rows, "DIMS": shape.dims}

build(grouped_rows._rows_kernel, "*i64 *i64 *fp32 *fp32 *fp32 i32", warps=small.warps, **tile(small))
build(angle._gram_kernel, "*i64 *i64 *fp32 *fp32 *fp32 i32 i32", warps=usual.warps, DROPOUT=0.5, MASKED=True,
      **tile(usual))
build(angle._ends_kernel, "*i64 *i64 *i64 *fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *i64 *i64 i32 i32 i32", warps=usual.warps,
      DROPOUT=0.5, MASKED=True, PIECE=256, **tile(usual))
for shape in (tile_shape(64, 2048), large):
    build(contrastive._contrast_kernel, "*fp32 *fp32 *fp32 *i64 *i64 *fp32 *fp32 *fp32 *i8 *fp32 i32 i32 fp32",
          warps=4 * shape.warps, MARGIN=0.7, COUNT_FLOOR=1e-5, TABLES=2, **tile(shape))
build(contrastive._items_kernel, "*i64 *i64 *i32 *fp32 *i8 *fp32 *fp32 *fp32 i32 i32 i32 i32 i32",
      warps=2 * small.warps, TABLES=2, PIECE=256, **tile(small))
build(contrastive._finish_kernel, "*fp32 *fp32 *i64 *fp32 *fp32 *fp32 i32 i32 i32", warps=1, PIECE=256, DIMS=DIM)
for dims in (64, DIM):
    scores = {"SAMPLED": True, "CHUNK": candidates.CHUNK, "DIMS": dims}
    scores |= {"warps": candidates.WARPS, "stages": candidates.STAGES}
    build(candidates._scored_kernel, "*fp32 *fp32 *i64 *i64 *i32 *fp32 *fp32 *fp32 i32 i32 i32 i32 i32 fp32",
          PAIRS=candidates.OWN, ITEMS=candidates.OTHER, **scores)
    build(candidates._candidates_kernel, "*fp32 *fp32 *i64 *i64 *i32 *fp32 *fp32 *fp32 i32 i32 i32 i32 fp32",
          PAIRS=candidates.OTHER, ITEMS=candidates.OWN, **scores)
build(candidates._joined_kernel, "*fp32 *fp32 *i64 *i64 " + 7 * "*fp32 " + "i32 i32 fp32 fp32 fp32", warps=1,
      PARTS=candidates.PARTS, DIMS=DIM)
build(candidates._items_kernel, "*fp32 *i64 *i64 *i64 *i64 *fp32 *fp32 *fp32 *fp32 i32 i32 fp32", warps=small.warps,
      SAMPLED=True, STEPS=15, **tile(small))
for flat, mapped in ((False, True), (False, False), (True, False)):
    build(angle._slopes_kernel, "*fp32 *fp32 i32 fp32", warps=4, CURVATURE=1.0, LIMIT=0.996,
          APERTURE=0.1, FLAT=flat, MAPPED=mapped, BOTH=True, PAIRS=128)
build(searching._pick_kernel, "*i64 *i32 *i32 *i64 *u8 *i64 *i64 *i64 *i64 *i64 i32 i32 i32 i32", warps=4,
      FOLD=(1 << 27) - 1, FOLDED=True, STEPS=21, BLOCK=256)
build(candidates._known_kernel, "*i64 *i64 *i64 *i64 *i32 i32 i32", warps=4, SAMPLED=True, STEPS=15, BLOCK=64)
"""


@pytest.mark.slow
def test_losses_compile_for_a_gpu_without_one_and_fit_into_registers(tmp_path: Path) -> None:
    found = compiled(COMPILE, tmp_path)
    assert len(found) == 18 * len(CAPABILITIES)
    assert [each for each in found if each.stack] == []


def test_pieces_are_those_of_the_other_sums() -> None:
    assert contrastive.PIECE == products.PIECE
