"""Agreement with the released code: forward values, losses and gradients on recorded inputs.

Runs over every ``*.npz`` in the folder named by ``HAKG_REFERENCE_DIR``. Errors are relative to the largest entry of
the array and bounded by 1e-9 in float64 and 1e-4 in float32, for the readable path and every fast path.

Near the edge of the ball float32 rounding errors grow by the squared conformal factor, those of the recorded arrays
too. Where a recorded float32 gradient is further than the bound from its exact values (the same formulas in float64
with float32's guards), ours must be as near to it as it is to those. Values and losses have no such exception.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from with_dgl import BACKENDS_HERE

from hakg_dgl.geometry.guards import ball_margin
from hakg_dgl.graph.heterograph import graph_from_arrays
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.layers.embeddings import Embeddings
from hakg_dgl.layers.losses import AngleLoss, contrastive_loss, item_attribute_pairs
from hakg_dgl.models.hakg import HAKG, HAKGSettings

SHARED = Path(os.environ.get("HAKG_SHARED_DIR", Path(__file__).resolve().parents[2] / "shared"))
FOLDER = Path(os.environ.get("HAKG_REFERENCE_DIR", SHARED / "reference"))
FILES = sorted(FOLDER.glob("*.npz")) if FOLDER.is_dir() else []
BOUND = {"f64": 1e-9, "f32": 1e-4}
DTYPE = {"f64": torch.float64, "f32": torch.float32}
PATHS = ("readable", *BACKENDS_HERE)

pytestmark = pytest.mark.skipif(not FILES, reason=f"no reference files (*.npz) in {FOLDER}; see HAKG_REFERENCE_DIR")


def build(z: dict[str, np.ndarray], path: str, dtype: torch.dtype, margin: float | None = None) -> HAKG:
    """A model that holds the recorded parameters."""
    r = int(z["n_relations"])
    graph = graph_from_arrays(
        torch.tensor(z["interactions"]),
        torch.tensor(z["triples"]),
        [f"r{i}" for i in range(r)],
        n_users=int(z["n_users"]),
        n_items=int(z["n_items"]),
        n_entities=int(z["n_entities"]),
    )
    settings = HAKGSettings(
        formulation="released",
        dim=int(z["dim"]),
        layers=int(z["layers"]),
        score="fused",
        linear_weight=0.0,
        facts_weight=0.0,
        degree_exponent=0.0,
        kernels=path,  # type: ignore[arg-type]
    )
    model = HAKG(graph, settings, dtype=dtype)
    if margin is not None:
        model.rule = type(model.rule)("released", "poincare", 1.0, margin)
    values = {"user": z["param_user"], "entity": z["param_entity"], "relation": z["param_relation"]}
    values["item"] = z["param_item_cf"]
    for i in range(int(z["layers"])):
        values[f"gate_item.{i}"] = z[f"param_gate_item_{i}"]
        values[f"gate_entity.{i}"] = z[f"param_gate_entity_{i}"]
    model.load_state_dict({name: torch.tensor(value).to(dtype) for name, value in values.items()})
    return model


def evaluate(z: dict[str, np.ndarray], model: HAKG) -> dict[str, Tensor]:
    """Everything that the reference records, by its names."""
    backend = choose_backend("torch")
    out: dict[str, Tensor] = {}
    n = model.graph.n_entities
    user, entity, item = model.layer(0, model.executor, model.user, model.entity, model.item, n)
    assert item is not None
    out |= {"kg_aggregate": entity.detach()}
    out |= {"layer0_user": user.detach(), "layer0_entity": entity.detach(), "layer0_item_cf_sum": item.detach()}
    full = model.propagate(all_entities=True)
    assert full.item is not None
    out |= {"out_user": full.user.detach(), "out_entity": full.entity.detach(), "out_item_cf": full.item.detach()}
    embeddings: Embeddings = model.propagate()
    batch = (torch.tensor(z[f"batch_{name}"]) for name in ("users", "pos", "neg"))
    contrastive = contrastive_loss(backend, embeddings, *batch, float(z["margin"]))
    pairs = item_attribute_pairs(model.packed.knowledge, model.graph.n_items)
    angle = float(z["angle_weight"]) * AngleLoss(pairs, model.rule)(backend, model.entity, None)
    (contrastive + angle).backward()
    out |= {"loss_contrastive": contrastive.detach(), "loss_angle": angle.detach()}
    names = {"item": "item_cf"}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        out[f"grad_{names.get(name, name.replace('.', '_'))}"] = parameter.grad
    vectors = model.ranking_vectors()
    out["score"] = vectors[0] @ vectors[1].T
    return out


@cache
def recorded(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as z:
        return dict(z)


@cache
def exact(path: Path) -> dict[str, Tensor]:
    """What float32 arithmetic would give without rounding: float64 with float32's guards."""
    return evaluate(recorded(path), build(recorded(path), "readable", torch.float64, ball_margin(torch.float32)))


def error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to the largest entry."""
    ours, theirs = ours.double(), theirs.double().reshape(ours.shape)
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-300))


def cases() -> Iterator[tuple[Path, str, str]]:
    for file in FILES:
        for kernels in PATHS:
            for precision in BOUND:
                yield pytest.param(file, kernels, precision, id=f"{file.stem}-{kernels}-{precision}")  # type: ignore[misc]


@pytest.mark.parametrize(("file", "kernels", "precision"), list(cases()))
def test_agrees_with_the_released_code(file: Path, kernels: str, precision: str) -> None:
    z = recorded(file)
    ours = evaluate(z, build(z, kernels, DTYPE[precision]))
    checked, failures = 0, []
    for name, value in ours.items():
        key = f"{name}_{precision}"
        if key not in z:
            continue
        checked += 1
        theirs = torch.from_numpy(z[key])
        bound, found = BOUND[precision], error(value, theirs)
        if precision == "f32" and name.startswith("grad_"):
            bound = max(bound, error(theirs, exact(file)[name]))
        if not found <= bound:
            failures.append(f"{name}: {found:.2e} > {bound:.2e}")
    assert checked >= 19
    assert not failures, ", ".join(failures)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@pytest.mark.parametrize("precision", BOUND)
def test_numba_agrees_with_the_released_code(file: Path, precision: str) -> None:
    """In float32 Numba adds up in float64 what rounding would spoil, so it is measured against the exact values."""
    pytest.importorskip("numba", reason="needs Numba: pip install 'hakg_dgl[fast]'")
    z = recorded(file)
    ours = evaluate(z, build(z, "numba", DTYPE[precision]))
    theirs = exact(file) if precision == "f32" else {name: torch.from_numpy(z[f"{name}_f64"]) for name in ours}
    assert {name: found for name in ours if (found := error(ours[name], theirs[name])) > BOUND[precision]} == {}
