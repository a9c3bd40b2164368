"""The same seed, the same run: on any number of threads, and whatever setting of another stream is changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from small_demo import small_demo, small_settings
from torch import Tensor
from with_dgl import needs_dgl

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.preprocess import preprocess
from hakg_dgl.data.random_graphs import generate_like
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.layers.embeddings import Embeddings
from hakg_dgl.layers.losses import contrastive_loss
from hakg_dgl.models.bpr_mf import bpr_loss
from hakg_dgl.training.trainer import Trainer, make_trainer

SERIAL = 32_768
"""Numbers up to which PyTorch computes elementwise operations and sums on one thread."""
HINGE = {"ranking_loss": "hinge", "linear_weight": 0.0}


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# --- threads ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide() -> Dataset:
    """Rows enough for PyTorch to use several threads, edges few enough for their sums to stay on one."""
    counts = {"users": 700, "items": 600, "entities": 1500, "relations": 4, "triples": 6000, "train": 9000, "test": 900}
    return preprocess(generate_like(counts))


def trained(dataset: Dataset, n: int, set_threads: Callable[[int], None], **overrides: Any) -> tuple[Any, ...]:
    set_threads(n)
    settings = small_settings(**{"dim": 64, "batch_size": 2048, "epochs": 2, **overrides})
    trainer = make_trainer(dataset, settings)
    assert isinstance(trainer, Trainer)
    result = trainer.fit()
    return trainer.model.state_dict(), result["metrics"]


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        HINGE,
        {**HINGE, "formulation": "released", "layers": 2, "angle_mask": "edge"},
        pytest.param({**HINGE, "kernels": "dgl"}, marks=needs_dgl),
        {"kind": "bpr-mf"},
        {"kind": "lightgcn", "layers": 2},
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_threads_change_no_bit_of_what_is_trained(
    wide: Dataset, threads: Callable[[int], None], overrides: dict[str, Any]
) -> None:
    """Before gradients of gathered rows were added up in a fixed order, every weight differed."""
    assert 2 * wide.triples.shape[0] <= SERIAL < wide.n_items * 64
    weights, metrics = trained(wide, 1, threads, **overrides)
    others, other_metrics = trained(wide, 2, threads, **overrides)
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []
    assert other_metrics == metrics


def gradients(loss: Callable[..., Tensor], *tables: Tensor) -> tuple[Tensor, ...]:
    leaves = [table.clone().requires_grad_() for table in tables]
    return torch.autograd.grad(loss(*leaves), leaves)


@pytest.mark.parametrize("which", ["contrastive", "bpr"])
def test_gradients_of_rows_that_repeat_add_up_in_the_same_order(which: str, threads: Callable[[int], None]) -> None:
    chance = torch.Generator().manual_seed(1)
    user, item, entity = (torch.randn(50, 64, generator=chance) for _ in range(3))
    users, positives, others = (torch.randint(50, (4096,), generator=chance) for _ in range(3))
    backend = choose_backend("auto", torch.device("cpu"))

    def contrastive(user: Tensor, entity: Tensor, item: Tensor) -> Tensor:
        embeddings = Embeddings(user, entity, item)
        return contrastive_loss(backend, embeddings, users, positives, others.unsqueeze(1), 0.1)

    def bpr(user: Tensor, item: Tensor) -> Tensor:
        chosen = (user.index_select(0, users), item.index_select(0, positives), item.index_select(0, others))
        return bpr_loss(*chosen)

    found = []
    for n in (1, 2, 3):
        threads(n)
        found.append(
            gradients(contrastive, user, entity, item) if which == "contrastive" else gradients(bpr, user, item)
        )
    for others_ in found[1:]:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found[0], others_, strict=True))


# --- random streams -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo() -> Dataset:
    return small_demo()


def drawn(dataset: Dataset, **overrides: Any) -> dict[str, Any]:
    """What each random stream gave in two epochs: initial values, pairs in order, and where the others stand then."""
    trainer = Trainer(dataset, small_settings(epochs=2, **overrides))
    initial = {name: value.clone() for name, value in trainer.model.named_parameters()}
    pairs: list[Tensor] = []
    objective = trainer.trainee.passes[0].loss

    def noted(users: Tensor, positives: Tensor) -> Tensor:
        pairs.append(torch.stack([users, positives], dim=1))
        return objective(users, positives)

    trainer.trainee.passes = (dataclasses.replace(trainer.trainee.passes[0], loss=noted),)
    trainer.fit()
    stands = {name: objective.generators[name].get_state() for name in ("negatives", "dropout", "angle")}
    return {"initial": initial, "batches": torch.cat(pairs), **stands}


def same(stream: str, mine: Any, theirs: Any) -> bool:
    if stream != "initial":
        return torch.equal(mine, theirs)
    return all(torch.equal(mine[name], theirs[name]) for name in mine.keys() & theirs.keys())


ALL = {"initial", "batches", "negatives", "dropout", "angle"}


@pytest.mark.parametrize(
    ("base", "change", "changed"),
    [
        (HINGE, {"negatives": 7}, {"negatives"}),
        ({}, {"candidates": 20}, {"negatives"}),
        (HINGE, {"message_dropout": 0.0}, {"dropout"}),
        (HINGE, {"kg_edge_dropout": 0.0}, {"dropout"}),
        (HINGE, {"angle_dropout": 0.0}, {"angle"}),
        (HINGE, {"angle_weight": 0.0}, {"angle"}),
        (HINGE, {"batch_size": 100}, {"negatives", "dropout", "angle"}),
        (HINGE, {"dim": 16}, {"initial", "dropout", "angle"}),
        (HINGE, {"layers": 2}, {"dropout"}),
        (HINGE, {"gate": False}, set()),
        (HINGE, {"dual_item_embeddings": False}, {"dropout"}),
        (HINGE, {"lr": 0.5, "margin": 0.1, "formulation": "released"}, set()),
        ({}, HINGE, {"negatives"}),
        (HINGE, {"seed": 7}, ALL),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_a_setting_reshuffles_no_other_stream(
    demo: Dataset, base: dict[str, Any], change: dict[str, Any], changed: set[str]
) -> None:
    before, after = drawn(demo, **base), drawn(demo, **base | change)
    assert {stream for stream in ALL if not same(stream, before[stream], after[stream])} == changed


def test_splits_are_those_of_their_own_seed(demo: Dataset) -> None:
    Trainer(demo, small_settings(epochs=1, seed=3)).fit()
    assert small_demo().interactions.equals(demo.interactions)
    assert not small_demo(seed=3).interactions.equals(demo.interactions)
    smaller = small_demo(valid=0.2).interactions
    tests = [set(map(tuple, table.loc[table["split"] == "test", ["user", "item"]].to_numpy().tolist()))
             for table in (demo.interactions, smaller)]  # fmt: skip
    assert tests[0] == tests[1]
