"""How many operators a training step issues with the kernels that a GPU uses: each is a launch that takes its time.

The aim is 150. The bounds here are what a step takes today (docs/gpu.md), so that it can only become fewer.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read where kernels are defined, so before they are imported
pytest.importorskip("triton", reason="Triton is not installed: python -m pip install 'triton>=3.4'")

from dense import on_one_thread
from test_triton_backend import _kernels, train_settings

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
from hakg_dgl.data.random_graphs import generate_like
from hakg_dgl.layers import losses
from hakg_dgl.training.trainer import Trainer

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

NO_LAUNCH = (
    "view", "_unsafe_view", "slice.", "detach", "t.", "transpose", "unsqueeze", "squeeze", "expand", "select.", "alias",
    "empty", "new_empty", "as_strided", "split", "unbind", "permute", "_local_scalar_dense",
)  # fmt: skip
"""Operators that make views or reserve memory, by the beginning of their names."""
TODAY = {"hinge": 790, "softmax": 700}


class Launches(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts operators by name, but those that Triton's interpreter runs: of these, the kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()
        self.in_kernel = False

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        name = operator.name().removeprefix("aten::") + "."
        if not self.in_kernel and not name.startswith(NO_LAUNCH):
            self.operators[name] += 1
        return operator(*arguments, **(named or {}))

    def around(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """A kernel that counts as one."""

        def counted(*arguments: Any, **named: Any) -> Any:
            self.operators["triton"] += 1
            self.in_kernel = True
            try:
                return run(*arguments, **named)
            finally:
                self.in_kernel = False

        return counted


@pytest.fixture(scope="module")
def tiny() -> Dataset:
    sizes = {"users": 6, "items": 6, "entities": 10, "relations": 2, "triples": 14, "train": 16, "test": 2}
    return preprocess(generate_like(sizes), PreprocessOptions(valid=0.0))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    counter = Launches()
    for kernel in _kernels():
        monkeypatch.setattr(kernel, "run", counter.around(kernel.run))
    return counter


def test_views_are_no_launches_and_sums_are() -> None:
    with Launches() as counter:
        torch.zeros(2, 3).view(3, 2).t()[1:].sum()
    assert counter.operators == {"zeros.": 1, "sum.": 1}


@pytest.mark.slow  # Triton's interpreter
@pytest.mark.parametrize("objective", TODAY)
def test_a_step_issues_no_more_operators_than_today(
    objective: str, tiny: Dataset, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "in_fixed_shapes", lambda on: True)  # as on CUDA
    trainer = Trainer(tiny, train_settings(kernels="triton", ranking_loss=objective))
    loss, optimizer = trainer.trainee.passes[0].loss, trainer.trainee.optimizers["all"]
    users, positives = next(iter(trainer.trainee.passes[0].batches))
    loss(users, positives).backward()  # the first step sorts what all later ones use
    optimizer.step()
    launches.operators.clear()
    with launches:
        optimizer.zero_grad(set_to_none=True)
        loss(users, positives).backward()
        optimizer.step()
    assert launches.operators["triton"] > 20
    assert launches.operators.total() <= TODAY[objective], launches.operators.most_common()
