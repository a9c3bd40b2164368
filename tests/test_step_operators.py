"""How many operators a training step issues with the kernels that a GPU uses: each is a launch that takes its time.

The aim is 150. The bounds here are what a step takes today (docs/gpu.md), so that it can only become fewer. The same
count is what ``benchmarks/gpu.py`` prints.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read where kernels are defined, so before they are imported
pytest.importorskip("triton", reason="Triton is not installed: python -m pip install 'triton>=3.4'")

from dense import on_one_thread
from test_triton_backend import train_settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from launches import counting, estimate, whole_step

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
from hakg_dgl.data.random_graphs import generate_like
from hakg_dgl.graph.packed import Grouping
from hakg_dgl.kernels.triton_kernels import products
from hakg_dgl.layers import losses
from hakg_dgl.training.trainer import Trainer

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

TODAY = {"hinge": 85, "softmax": 85}


@pytest.fixture(scope="module")
def tiny() -> Dataset:
    sizes = {"users": 6, "items": 6, "entities": 10, "relations": 2, "triples": 14, "train": 16, "test": 2}
    return preprocess(generate_like(sizes), PreprocessOptions(valid=0.0))


def test_views_are_no_launches_and_sums_are() -> None:
    with counting() as found:
        torch.zeros(2, 3).view(3, 2).t()[1:].sum()
    assert found.operators == {"zeros": 1, "sum": 1}
    assert found.moved == {"zeros": 24, "sum": 12 + 4}


def test_a_kernel_is_one_launch_of_all_that_it_is_given() -> None:
    indptr, cols, y = torch.tensor([0, 2, 3]), torch.tensor([1, 0, 1]), torch.ones(2, 4)
    with counting() as found:
        out = products.weighted_sum(Grouping(indptr, None), cols, None, y)
    assert out.tolist() == [[2.0] * 4, [1.0] * 4]
    assert found.operators == {"triton _sum_kernel": 1}
    assert found.kernels == 1
    given = (indptr, cols, y, out)
    assert found.moved.total() == sum(x.numel() * x.element_size() for x in given)


def test_what_backward_passes_launch_is_put_down_to_the_line_of_the_forward_one() -> None:
    x = torch.ones(3, 2, requires_grad=True)
    with counting(places=True) as found:
        losses.bpr_loss(x, x, x).backward()
    assert found.places is not None
    assert found.places.total() == found.operators.total()
    assert {place.split(":")[0] for place in found.places} >= {"layers/losses.py", "backward of layers/losses.py"}


@pytest.mark.slow  # Triton's interpreter
@pytest.mark.parametrize(("objective", "dim"), [("hinge", 4), ("hinge", 128), ("softmax", 128)])
def test_a_step_issues_no_more_operators_than_today(objective: str, dim: int, tiny: Dataset) -> None:
    trainer = Trainer(tiny, train_settings(kernels="triton", ranking_loss=objective, dim=dim))
    launches = estimate(whole_step(trainer))
    assert launches.kernels > 20
    assert launches.operators.total() <= TODAY[objective], launches.operators.most_common()
