"""Triton's kernels against PyTorch's: on the GPU where there is one, else on a CPU by Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read where kernels are defined, so before they are imported
pytest.importorskip("triton", reason="Triton is not installed: python -m pip install 'triton>=3.4'")

from dense import DTYPES, empty_graph, error, gradients, make_rule, odd_graph, on_one_thread, random_table
from gpu_code import CAPABILITIES, compiled
from small_demo import small_demo, small_settings

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
from hakg_dgl.data.random_graphs import generate_like
from hakg_dgl.errors import ConfigError, MissingDependencyError
from hakg_dgl.graph.edge_types import INTERACTED_BY, INTERACTS
from hakg_dgl.graph.packed import Grouping, PackedGraph, SparsePattern
from hakg_dgl.kernels import choice
from hakg_dgl.kernels.choice import choose_backend, explain_backend
from hakg_dgl.kernels.interface import FusedBackend
from hakg_dgl.kernels.precision import in_bfloat16, rounded
from hakg_dgl.kernels.products import edge_dot, sum_over_columns, sum_over_rows
from hakg_dgl.kernels.torch_backend import TorchBackend
from hakg_dgl.kernels.triton_backend import TritonBackend
from hakg_dgl.kernels.triton_kernels import gate, products
from hakg_dgl.layers import losses, spectrum
from hakg_dgl.layers.losses import COUNT_FLOOR, hinge_over_negatives
from hakg_dgl.layers.packed_executor import PackedExecutor
from hakg_dgl.layers.sampling import NegativeSampler
from hakg_dgl.layers.updates import Copy, RelationTransitive
from hakg_dgl.models.hakg import HAKG, HAKGSettings
from hakg_dgl.randomness import torch_generator
from hakg_dgl.training.trainer import Trainer

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CLOSE = {torch.float32: 2e-6, torch.float64: 1e-14}
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
TORCH, TRITON = TorchBackend(), TritonBackend(DEVICE)


def table(rows: int, dim: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, dim, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE)


def rows_of(*degrees: int, n_cols: int = 50, more: int = 0) -> SparsePattern:
    """Rows of these degrees with random columns, and ``more`` places beyond their bounds."""
    degree = torch.tensor(degrees)
    indptr = torch.cat([degree.new_zeros(1), degree.cumsum(0)])
    rows = torch.repeat_interleave(torch.arange(len(degrees)), degree)
    generator = torch.Generator().manual_seed(sum(degrees))
    cols = torch.randint(n_cols, (int(indptr[-1]) + more,), generator=generator)
    return SparsePattern(len(degrees), n_cols, Grouping(indptr.to(DEVICE), None), rows.to(DEVICE), cols.to(DEVICE))


# --- sparse products ----------------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("dim", [1, 20, 64])
def test_products_are_pytorchs(dtype: torch.dtype, dim: int) -> None:
    pattern = rows_of(0, 3, 700, 256, 257, 0, 16)
    x, y = table(pattern.n_rows, dim, dtype, 1), table(pattern.n_cols, dim, dtype, 2)
    weights = table(pattern.n_edges, 1, dtype, 3).squeeze(1)
    weights[::3] = 0.0
    for weighting in (weights, None):
        ours, theirs = (b.weighted_sum(pattern.by_row, pattern.cols, weighting, y) for b in (TRITON, TORCH))
        assert ours.dtype == dtype
        assert error(ours, theirs) < CLOSE[dtype]
    ours, theirs = (backend.dot(pattern.by_row, pattern.cols, x, y) for backend in (TRITON, TORCH))
    assert error(ours, theirs) < CLOSE[dtype]


def test_gradients_of_products_are_pytorchs() -> None:
    pattern = odd_graph().packed(DEVICE).knowledge.pairs
    x, y = (table(n, 5, torch.float64, n).requires_grad_() for n in (pattern.n_rows, pattern.n_cols + 0))
    for product, inputs in ((edge_dot, (x, y)), (sum_over_columns, (y,)), (sum_over_rows, (x,))):
        ours, theirs = (product(backend, pattern, *inputs) for backend in (TRITON, TORCH))  # type: ignore[operator]
        assert error(ours, theirs) < 1e-14
        for a, b in zip(gradients(ours, *inputs), gradients(theirs, *inputs), strict=True):
            assert error(a, b) < 1e-14


def test_long_rows_are_cut_without_changing_what_they_sum() -> None:
    pattern = rows_of(1, 40, 0, 39, 8, 90)
    y, x = table(50, 8, torch.float32), table(6, 8, torch.float32, 1)
    whole, whole_dot = (products.weighted_sum(pattern.by_row, pattern.cols, None, y, piece=512),
                        products.dot(pattern.by_row, pattern.cols, x, y, piece=512))  # fmt: skip
    for piece in (8, 13, 40):
        assert error(products.weighted_sum(pattern.by_row, pattern.cols, None, y, piece=piece), whole) < 1e-6
        assert torch.equal(products.dot(pattern.by_row, pattern.cols, x, y, piece=piece), whole_dot)


def test_edges_beyond_the_bounds_are_not_read() -> None:
    pattern, padded = rows_of(3, 0, 30), rows_of(3, 0, 30, more=20)
    padded.cols[: pattern.n_edges] = pattern.cols
    padded.cols[pattern.n_edges :] = 1 << 40
    x, y = table(3, 4, torch.float32, 1), table(50, 4, torch.float32, 2)
    ours, theirs = (products.weighted_sum(p.by_row, p.cols, None, y, piece=8) for p in (padded, pattern))
    assert torch.equal(ours, theirs)
    found = products.dot(padded.by_row, padded.cols, x, y, piece=8)
    assert torch.equal(found[: pattern.n_edges], products.dot(pattern.by_row, pattern.cols, x, y, piece=8))
    assert not found[pattern.n_edges :].any()


def test_edges_of_weight_zero_are_not_read() -> None:
    pattern = rows_of(4)
    y = table(50, 4, torch.float32)
    weights = torch.tensor([1.0, 0.0, 2.0, 0.0], device=DEVICE)
    expected = y[pattern.cols[0]] + 2.0 * y[pattern.cols[2]]
    y[pattern.cols[1]] = torch.nan
    assert error(products.weighted_sum(pattern.by_row, pattern.cols, weights, y)[0], expected) < 1e-6


def test_bfloat16_tables_are_summed_in_float32() -> None:
    pattern = rows_of(300, 2)
    y, x = table(50, 16, torch.float32), table(2, 16, torch.float32, 1)
    for ours, theirs in (
        (TRITON.weighted_sum(pattern.by_row, pattern.cols, None, y.bfloat16()),
         TORCH.weighted_sum(pattern.by_row, pattern.cols, None, rounded(y))),
        (TRITON.dot(pattern.by_row, pattern.cols, x, y.bfloat16()),
         TORCH.dot(pattern.by_row, pattern.cols, x, rounded(y))),
    ):  # fmt: skip
        assert ours.dtype == torch.float32
        assert error(ours, theirs) < 1e-6


def test_ids_of_32_bits_and_odd_strides_will_do() -> None:
    pattern = rows_of(5, 9)
    y = table(8, 50, torch.float32).T
    ours = products.weighted_sum(pattern.by_row, pattern.cols.int(), None, y)
    assert error(ours, TORCH.weighted_sum(pattern.by_row, pattern.cols, None, y.contiguous())) < 1e-6


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_nothing_to_sum(shape: tuple[int, int]) -> None:
    empty = SparsePattern.from_pairs(*torch.empty(2, 0, dtype=torch.int64, device=DEVICE), shape[0], 4)
    y = torch.ones(4, shape[1], device=DEVICE)
    assert TRITON.weighted_sum(empty.by_row, empty.cols, None, y).shape == shape
    assert TRITON.dot(empty.by_row, empty.cols, y.new_ones(shape), y).shape == (0,)


def test_the_same_bits_every_time() -> None:
    pattern = rows_of(600, 1, 300)
    y = table(50, 20, torch.float32)
    once, again = (TRITON.weighted_sum(pattern.by_row, pattern.cols, None, y) for _ in range(2))
    assert torch.equal(once, again)


# --- negatives and gate -------------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("margin", [0.1, -1.5, 2.0], ids=["some", "all", "none"])
def test_the_hinge_is_pytorchs(dtype: torch.dtype, margin: float) -> None:
    x, z = (F.normalize(table(n, 12, dtype, n), dim=1).requires_grad_() for n in (9, 30))
    drawn = torch.randint(20, (9, 50), generator=torch.Generator().manual_seed(1)).to(DEVICE)  # items 20.. never
    ours, theirs = (hinge_over_negatives(backend, x, z, drawn, margin) for backend in (TRITON, TORCH))
    assert error(ours, theirs) < CLOSE[dtype]
    for a, b in zip(gradients(ours, x, z), gradients(theirs, x, z), strict=True):
        assert error(a, b) < CLOSE[dtype]


def test_negatives_are_grouped_once_for_both_tables_and_anew_for_others() -> None:
    backend = TritonBackend(DEVICE)
    drawn = torch.tensor([[3, 1], [1, 1]], device=DEVICE)
    grouped = backend._by_item(drawn, 5)
    assert grouped.indptr.tolist() == [0, 0, 3, 3, 4, 4]
    assert (grouped.place.tolist(), grouped.row.tolist()) == ([1, 2, 3, 0], [0, 1, 1, 0])
    assert backend._by_item(drawn, 5) is grouped
    assert len(backend._by_item(drawn, 6).indptr) == 7
    changed = backend._by_item(drawn.zero_(), 6)
    assert changed.indptr.tolist() == [0, 4, 4, 4, 4, 4, 4]
    assert backend._by_item(drawn.clone(), 6) is not changed


@dtypes
@pytest.mark.parametrize(("n_items", "dim"), [(70, 5), (33, 64), (3, 96), (33, 128), (2, 150), (0, 5)])
def test_the_gate_is_pytorchs(dtype: torch.dtype, n_items: int, dim: int) -> None:
    tensors = [table(n, dim, dtype, seed).requires_grad_() for seed, n in enumerate((n_items, n_items, dim, dim))]
    item, entity, a, b = tensors
    ours = gate.gated_items(item, entity, a, b)
    theirs = torch.lerp(entity, item, torch.sigmoid(item @ a.T + entity @ b.T))
    assert error(ours, theirs) < 2 * CLOSE[dtype]
    for mine, other in zip(gradients(ours, *tensors), gradients(theirs, *tensors), strict=True):
        assert error(mine, other) < 4 * CLOSE[dtype]


def test_singular_vectors_by_triton_are_those_of_a_full_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = torch.rand(24, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    dense[dense < 0.6] = 0.0
    rows, cols = dense.nonzero().to(DEVICE).unbind(1)
    monkeypatch.setattr(spectrum, "choose_backend", lambda name, device: TRITON)
    monkeypatch.setattr(spectrum, "way", lambda n, r, device: "blocks")
    pattern = SparsePattern.from_pairs(rows, cols, *dense.shape)
    squared, vectors = spectrum.leading(spectrum.Matrix(pattern, dense.to(DEVICE)[rows, cols]), 3)
    _, values, right = torch.linalg.svd(dense)
    torch.testing.assert_close(squared.cpu(), values[:3].square())
    torch.testing.assert_close((right[:3] @ vectors.cpu()).abs(), torch.eye(3, dtype=torch.float64))


# --- patterns of fixed shape --------------------------------------------------------------------------------------


def kept_pairs(pattern: SparsePattern) -> list[list[int]]:
    n = int(pattern.by_row.indptr[-1])
    return torch.stack([pattern.rows, pattern.cols], 1)[:n].tolist()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_padded_patterns_hold_the_same_edges_within_their_bounds(share: float) -> None:
    packed = odd_graph().packed()
    knowledge, n = packed.knowledge, packed.knowledge.n_edges
    mask = torch.rand(n, generator=torch.Generator().manual_seed(1)) < share
    exact, padded = (knowledge.keep(mask, packed.n_items, padded=flag) for flag in (False, True))
    assert kept_pairs(padded.pairs) == kept_pairs(exact.pairs)
    kept = exact.n_edges
    assert padded.relation[:kept].tolist() == exact.relation.tolist()
    assert len(padded.relation) == len(padded.pairs.cols) == n
    for ours, theirs in (
        (padded.pairs.by_row, exact.pairs.by_row),
        (padded.pairs.by_col, exact.pairs.by_col),
        (padded.by_relation, exact.by_relation),
    ):
        assert ours.indptr.tolist() == theirs.indptr.tolist()
        values = torch.arange(n)
        assert ours.permute(values)[:kept].tolist() == theirs.permute(values[:kept]).tolist()
        assert torch.equal(ours.restore(ours.permute(values)), values)


class Fixed(torch.utils._python_dispatch.TorchDispatchMode):
    """Refuses what a step on a GPU must not do, if it is to be recorded as a graph and to come out the same each time.

    That is operators whose result's shape (or value, on the host) depends on the data, which wait for the GPU; tensors
    made of Python's data or on another device, which are copied there; and sums that are added up atomically.
    """

    waits = (
        "nonzero",
        "_local_scalar_dense",
        "bincount",
        "masked_select",
        "unique",
        "_unique",
        "repeat_interleave.Tensor",
    )
    copies = ("lift_fresh", "from_file", "pin_memory")
    adds = ("index_add", "scatter_add", "scatter_reduce", "index_reduce", "put", "histc", "grid_sample")
    adds = (*adds, "embedding_dense_backward", "_embedding_bag_backward", "_embedding_bag_dense_backward")

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        named = named or {}
        name = operator.name().removeprefix("aten::")
        sized = named.get("output_size") is not None
        assert sized or not name.startswith(self.waits), f"{name} waits for the device"
        booleans = [x for x in (arguments[1] if name.startswith("index.") else ()) if x is not None]
        assert all(x.dtype not in (torch.bool, torch.uint8) for x in booleans), "indexing by a mask waits"
        assert not name.startswith(self.copies), f"{name} copies from the host"
        result = operator(*arguments, **named)
        if name in ("_to_copy", "copy_"):
            assert result.device == arguments[name == "copy_"].device, f"{name} copies from another device"
        if name.startswith(("index_put", "_index_put_impl")):
            assert not (arguments[3:4] or [named.get("accumulate", False)])[0], f"{name} adds atomically"
        else:
            assert not name.startswith(self.adds), f"{name} adds atomically"
        if name.startswith("cumsum"):
            assert not result.is_floating_point(), "a floating-point cumsum is not the same each time"
        return result


def test_the_guard_against_waiting_sees_what_waits() -> None:
    mask = torch.tensor([True, False])
    for waits in (lambda: mask.nonzero(), lambda: bool(mask.any()), lambda: mask[mask], lambda: mask.sum().item()):
        with pytest.raises(AssertionError, match="waits"), Fixed():
            waits()


def test_the_guard_sees_copies_and_atomic_sums() -> None:
    x, ids = torch.ones(3, 2, device=DEVICE, requires_grad=True), torch.tensor([0, 0, 2], device=DEVICE)
    for copies in (lambda: torch.tensor([1, 2], device=DEVICE), lambda: torch.tensor(1.0), lambda: x.new_tensor([3.0])):
        with pytest.raises(AssertionError, match="copies"), Fixed():
            copies()
    plain = x.detach()
    for adds in (
        lambda: x.index_select(0, ids).sum().backward(),
        lambda: x[ids].sum().backward(),
        lambda: F.embedding(ids, x).sum().backward(),
        lambda: torch.gather(x, 0, ids.unsqueeze(1)).sum().backward(),
        lambda: F.embedding_bag(ids.view(1, 3), x, mode="sum").sum().backward(),
        lambda: plain.clone().index_add_(0, ids, plain),
        lambda: plain.clone().scatter_add_(0, ids.unsqueeze(1), plain),
        lambda: plain.index_put((ids,), plain, accumulate=True),
    ):
        with pytest.raises(AssertionError, match="atomically"), Fixed():
            adds()
    with Fixed():
        plain.index_put((ids,), plain)
        F.embedding_bag(ids.view(1, 3), plain, mode="sum")


@pytest.fixture(scope="module")
def tiny() -> Dataset:
    """The interpreter takes about a millisecond for each row and each step of a loop."""
    sizes = {"users": 6, "items": 6, "entities": 10, "relations": 2, "triples": 14, "train": 16, "test": 2}
    return preprocess(generate_like(sizes), PreprocessOptions(valid=0.0))


def train_settings(**more: Any) -> Any:
    few = {"layers": 2, "dim": 4, "negatives": 4, "batch_size": 8, "epochs": 1, "protocol": "published"}
    return small_settings(**few | {"device": DEVICE.type} | more)


STEPS: list[dict[str, Any]] = [
    {"ranking_loss": "hinge", "formulation": "released", "score": "fused"},
    {"ranking_loss": "hinge", "angle_mask": "edge"},
    {"ranking_loss": "softmax"},
    {"ranking_loss": "softmax", "candidates": 3, "score": "separate", "gate": False},
    {"ranking_loss": "softmax", "candidates": 3, "geometry": "euclidean", "dual_item_embeddings": False},
    {"ranking_loss": "softmax", "precision": "bf16", "kg_edge_dropout": 0.0, "interaction_dropout": 0.0},
]


@pytest.mark.parametrize("settings", STEPS, ids=str)
def test_a_step_waits_for_nothing_copies_nothing_and_adds_in_order(
    settings: dict[str, Any], tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What CUDA graphs and reproducible results need of every operator in a step."""
    monkeypatch.setattr(losses, "in_fixed_shapes", lambda on: True)  # as on CUDA
    trainer = Trainer(tiny, train_settings(kernels="triton", layers=1, **settings))
    users, positives = next(iter(trainer.trainee.passes[0].batches))
    trainer.trainee.passes[0].loss(users, positives).backward()  # the first step sorts what all later ones use
    trainer.trainee.optimizers["all"].step()
    monkeypatch.setattr(NegativeSampler, "sample", NegativeSampler._sample_in_fixed_shapes)  # as on CUDA
    # The interpreter itself reads its arguments back; what surrounds the kernels must not.
    run = {owner: owner.run for owner in _kernels()}
    for kernel, inner in run.items():
        monkeypatch.setattr(kernel, "run", _unguarded(inner))
    with Fixed():
        loss = trainer.trainee.passes[0].loss(users, positives)
        loss.backward()
        trainer.trainee.optimizers["all"].step()
    assert loss.isfinite()


@pytest.mark.parametrize("kernels", ["triton", "torch"])
@pytest.mark.parametrize("settings", [*STEPS[:2], *STEPS[3:5]], ids=str)
def test_gradients_in_fixed_shapes_are_the_plain_ones(
    settings: dict[str, Any], kernels: str, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for fixed in (False, True):
        monkeypatch.setattr(losses, "in_fixed_shapes", lambda on, fixed=fixed: fixed)
        trainer = Trainer(tiny, train_settings(kernels=kernels, layers=1, dtype="float64", **settings))
        users, positives = next(iter(trainer.trainee.passes[0].batches))
        assert len(users.unique()) < len(users)  # or nothing would be added up
        found.append(gradients(trainer.trainee.passes[0].loss(users, positives), *trainer.model.parameters()))
    for ours, plain in zip(*found, strict=True):
        assert error(ours, plain) < 1e-13


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("settings", STEPS, ids=str)
def test_training_twice_gives_the_same_bits(settings: dict[str, Any]) -> None:
    demo = small_demo(valid=0.1)
    once, again = (Trainer(demo, small_settings(kernels="triton", device="cuda", **settings)) for _ in range(2))
    for trainer in (once, again):
        trainer.fit()
    for ours, theirs in zip(once.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def _kernels() -> list[Any]:
    modules = [module for name, module in sys.modules.items() if name.startswith("hakg_dgl.kernels.triton_kernels.")]
    found = {id(k): k for module in modules for k in vars(module).values() if type(k) is type(products._dot_kernel)}
    return list(found.values())


def _unguarded(run: Any) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        with torch.utils._python_dispatch._disable_current_modes():
            return run(*arguments, **named)

    return call


# --- negatives of fixed shape -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_users", [3, 400], ids=["whole bitset", "folded bitset"])
def test_negatives_of_fixed_shape_are_uniform_over_what_a_user_lacks(n_users: int) -> None:
    n_items = 8
    lists = [[0, 1, 2, 3, 4, 6], [], list(range(n_items))] + [[5]] * (n_users - 3)
    indptr = torch.tensor([0, *torch.tensor([len(x) for x in lists]).cumsum(0).tolist()])
    if n_users > 3:
        n_items = 5000
    sampler = NegativeSampler(indptr, torch.tensor([i for items in lists for i in items]), n_items)
    assert sampler._is_folded == (n_users > 3)
    users = torch.tensor([0, 1, 2])
    drawn = sampler._sample_in_fixed_shapes(users, 40_000, torch_generator(0, "negatives"))
    assert drawn.shape == (3, 40_000)
    assert drawn.dtype == torch.int64
    counts = torch.stack([torch.bincount(row, minlength=n_items) for row in drawn])
    allowed = torch.ones(n_items, dtype=torch.bool)
    allowed[torch.tensor(lists[0])] = False
    assert not counts[0][~allowed].any()
    expected = 40_000 / int(allowed.sum())
    assert float((counts[0][allowed] - expected).square().sum() / expected) < 1.3 * int(allowed.sum()) + 12
    assert int(counts[1].min()) >= 0


# --- the model ----------------------------------------------------------------------------------------------------


def step_of(dataset: Dataset, **settings: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of two steps, and the parameters after them."""
    trainer = Trainer(dataset, train_settings(**settings))
    losses = []
    for users, positives in list(trainer.trainee.passes[0].batches)[:2]:
        trainer.trainee.optimizers["all"].zero_grad()
        loss = trainer.trainee.passes[0].loss(users, positives)
        loss.backward()
        trainer.trainee.optimizers["all"].step()
        losses.append(float(loss.detach()))
    return losses, {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


@pytest.mark.parametrize("settings", [{"formulation": "released"}, {"formulation": "paper", "geometry": "euclidean"},
                                      {"formulation": "paper", "curvature": 0.5, "layers": 1}], ids=str)  # fmt: skip
def test_two_steps_train_as_with_pytorch(tiny: Dataset, settings: dict[str, Any]) -> None:
    ours, weights = step_of(tiny, kernels="triton", dtype="float64", **settings)
    theirs, expected = step_of(tiny, kernels="torch", dtype="float64", **settings)
    assert ours == pytest.approx(theirs, rel=1e-9)
    for name, value in expected.items():
        assert error(weights[name], value) < 1e-7, name  # Adam magnifies what is near zero


def test_two_steps_in_float32(tiny: Dataset) -> None:
    ours, weights = step_of(tiny, kernels="triton", layers=1)
    theirs, expected = step_of(tiny, kernels="torch", layers=1)
    assert ours == pytest.approx(theirs, rel=1e-5)
    for name, value in expected.items():
        close = (weights[name] - value).abs() < 1e-4
        assert float(close.double().mean()) > 0.999, name


# --- bfloat16 tables ----------------------------------------------------------------------------------------------


def propagated(kernels: str, precision: str, packed: PackedGraph) -> tuple[torch.Tensor, list[torch.Tensor]]:
    settings = HAKGSettings(dim=16, layers=1, kernels=kernels, precision=precision)  # type: ignore[arg-type]
    model = HAKG(packed, settings, seed=3).to(DEVICE)
    out = model.propagate(all_entities=True)
    assert out.item is not None
    joined = torch.cat([out.user, out.entity, out.item])
    return joined, gradients(joined, *model.parameters())


def test_bfloat16_changes_little_and_the_same_for_every_backend() -> None:
    packed = odd_graph(n_triples=12, n_relations=3).heterograph().to(DEVICE)
    full, full_gradients = propagated("torch", "float32", packed)
    half, half_gradients = propagated("torch", "bf16", packed)
    assert half.dtype == torch.float32
    assert 1e-5 < error(half, full) < 2e-2
    for a, b in zip(half_gradients, full_gradients, strict=True):
        assert error(a, b) < 5e-2
    ours, our_gradients = propagated("triton", "bf16", packed)
    assert ours.dtype == torch.float32
    assert error(ours, half) < 1e-5
    assert error(ours, full) > 1e-5
    for a, b in zip(our_gradients, half_gradients, strict=True):
        assert error(a, b) < 1e-2


def test_rounding_passes_the_gradient_and_rounds_to_bfloat16() -> None:
    x = table(5, 4, torch.float32).requires_grad_()
    y = rounded(x)
    assert torch.equal(y, x.bfloat16().float())
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.ones_like(x))


def test_tables_of_a_fused_backend_are_bfloat16_and_of_others_rounded() -> None:
    assert isinstance(in_bfloat16(TRITON), FusedBackend)
    assert not isinstance(in_bfloat16(TORCH), FusedBackend)
    pattern, y = rows_of(3, 2), table(50, 4, torch.float32)
    for backend in (TRITON, TORCH):
        found = in_bfloat16(backend).weighted_sum(pattern.by_row, pattern.cols, None, y)
        expected = TORCH.weighted_sum(pattern.by_row, pattern.cols, None, rounded(y))
        assert found.dtype == torch.float32
        assert error(found, expected) < 1e-6


def test_bfloat16_is_refused_where_it_makes_no_sense() -> None:
    with pytest.raises(ConfigError, match="precision = 'bf16' is not for kernels = 'readable'"):
        HAKGSettings(precision="bf16", kernels="readable")
    with pytest.raises(ConfigError, match="dtype = 'float64'"):
        HAKG(odd_graph().heterograph(), HAKGSettings(precision="bf16"), dtype=torch.float64)


# --- who computes -------------------------------------------------------------------------------------------------


def test_a_cpu_is_for_pytorch_and_the_reason_is_said() -> None:
    choice = explain_backend("cpu", n_messages=1000)
    assert (choice.name, choice.faster) == ("torch", None)
    assert "PyTorch" in choice.reason
    assert choose_backend("auto", "cpu").name == "torch"
    assert choose_backend("triton", DEVICE).name == "triton"
    assert isinstance(choose_backend("triton", DEVICE), FusedBackend)
    assert not isinstance(choose_backend("torch"), FusedBackend)


@pytest.mark.parametrize(
    ("capability", "triton_error", "dgl", "name", "reason", "faster"),
    [
        ((9, 0), None, True, "triton", "fused", None),
        ((7, 5), None, True, "dgl", "needs compute capability 8.0, this GPU has 7.5; DGL", None),
        ((7, 5), None, False, "torch", "DGL is not built with CUDA", None),
        (
            (9, 0),
            MissingDependencyError("no Triton\nInstall it"),
            True,
            "dgl",
            "no Triton; DGL is built",
            "pip install",
        ),
        ((9, 0), MissingDependencyError("no Triton\nInstall it"), False, "torch", "no Triton, and DGL", "pip install"),
    ],
)
def test_cuda_gets_the_fastest_that_is_there(
    capability: tuple[int, int], triton_error: Exception | None, dgl: bool, name: str, reason: str, faster: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(choice, "_dgl_has_cuda", lambda: dgl)
    if triton_error is not None:

        class Refuses:
            def find_spec(self, module: str, path: Any = None, target: Any = None) -> None:
                if module == "hakg_dgl.kernels.triton_backend":
                    raise triton_error

        monkeypatch.delitem(sys.modules, "hakg_dgl.kernels.triton_backend")
        monkeypatch.setattr(sys, "meta_path", [Refuses(), *sys.meta_path])
    chosen = explain_backend("cuda")
    assert chosen.name == name
    assert reason in chosen.reason
    assert (chosen.faster is None) == (faster is None)
    assert faster is None or faster in str(chosen.faster)


def run_without_interpreter(code: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)


def test_triton_on_a_cpu_and_missing_triton_are_named_when_asked_for() -> None:
    code = (
        "import sys\nfrom hakg_dgl.kernels.choice import choose_backend\nfrom hakg_dgl.errors import *\n"
        "try: choose_backend('triton', 'cpu')\nexcept ConfigError as error: print(error)\n"
        "import triton\n"
        "def forget(part):\n"
        "    for name in [n for n in sys.modules if part in n]: del sys.modules[name]\n"
        "forget('triton_')\ntriton.__version__ = '3.3.1'\n"
        "try: choose_backend('triton', 'cuda')\nexcept MissingDependencyError as error: print(error)\n"
        "forget('triton')\n"
        "sys.modules['triton'] = None\n"
        "try: choose_backend('triton', 'cuda')\nexcept MissingDependencyError as error: print(error)\n"
        "print(choose_backend('auto').name)\n"
    )
    result = run_without_interpreter(code)
    assert result.returncode == 0, result.stderr
    out = result.stdout
    assert "kernels = 'triton' runs on a CUDA device, not on 'cpu'" in out
    assert "kernels = 'triton' needs Triton, which cannot be imported" in out
    assert "pip install 'triton>=3.4'" in out
    assert "needs Triton 3.4 or newer, this is 3.3.1" in out
    assert out.endswith("torch\n")


COMPILE = """
import triton.language as tl
from hakg_dgl.kernels.triton_kernels import gate, negatives, products

DIM = 128
shape = products.tile_shape(DIM)
tile = {"ROWS": shape.rows, "DIMS": shape.dims, "warps": shape.warps}
for table in ("*fp32", "*bf16"):
    kinds = {"WEIGHTED": True, "PIECE": 256, "SUM": tl.float32}
    build(products._sum_kernel, f"*i64 *i64 *fp32 {table} *fp32 *fp32 *i64 *i64 i32 i32", **kinds, **tile)
build(products._dot_kernel, "*i64 *i32 *fp64 *fp64 *fp64 *i64 *i64 i32 i32", PIECE=256, SUM=tl.float64, **tile)
build(products.combine_kernel, "*fp32 *fp32 *i64 i32", DIMS=DIM, warps=1)
build(negatives._hinge_kernel, "*fp32 *fp32 *i64 *i8 *fp32 *fp32 *fp32 i32 i32",
      MARGIN=0.7, COUNT_FLOOR=1e-5, SUM=tl.float32, **tile)
for dim, pieced in ((64, True), (DIM, True), (DIM, False)):
    shape, types = gate.GateTile.of(dim), {"n_rows": "i32", "dim": "i32", "first": "*i32" if pieced else "*fp32"}
    tile = {"ROWS": gate.ROWS, "CHUNK": gate.CHUNK, "DIMS": shape.dims, "warps": shape.warps}
    build(gate.gate_gradient_kernel, types, PIECED=pieced, **tile)
    if pieced:
        build(gate.gate_kernel, types, SCALED=True, **tile)
"""


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_without_one_and_fit_into_registers(tmp_path: Path) -> None:
    """The interpreter runs what the compiler would refuse: types of loop variables, for example."""
    found = compiled(COMPILE, tmp_path)
    assert len(found) == 10 * len(CAPABILITIES)
    assert [each for each in found if each.stack] == []


def test_the_count_floor_is_that_of_the_loss() -> None:
    x = torch.eye(2, device=DEVICE)
    drawn = torch.zeros(2, 1, dtype=torch.int64, device=DEVICE)
    found = TRITON.hinge_over_negatives(x, x, drawn, 0.5, COUNT_FLOOR)
    assert found.tolist() == pytest.approx([0.5 / (1.0 + COUNT_FLOOR), 0.0])


def test_an_empty_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = empty_graph(n_relations=1).heterograph().to(DEVICE)
    rule = make_rule("paper", "poincare", 1.0, torch.float32)
    entity = random_table(4, 8, torch.float32, 0).to(DEVICE)
    relation = random_table(2, 8, torch.float32, 1).to(DEVICE)
    nothing = torch.empty(0, dtype=torch.bool, device=DEVICE)
    dropped = PackedExecutor(graph, TRITON).drop({graph.relation_types: nothing, (INTERACTED_BY,): nothing})
    updates = {etype: RelationTransitive(relation, n, rule) for n, etype in enumerate(graph.relation_types)}
    tables = {"entity": entity, "user": entity[:3], "item": entity[:2]}
    found = dropped.run({**updates, INTERACTS: Copy(), INTERACTED_BY: Copy()}, tables)
    assert {name: len(values) for name, values in found.items()} == {"entity": 4, "user": 3, "item": 2}
    assert not any(values.any() for values in found.values())
