"""Adam makes the steps of PyTorch's, bit by bit, and loads nothing of PyTorch's compiler."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import Tensor, nn

from hakg_dgl.models.optimizer import Adam, adam


def trained(optimizer: type[torch.optim.Adam], steps: int) -> tuple[list[Tensor], torch.optim.Adam]:
    draw = torch.Generator().manual_seed(3)
    parameters = [nn.Parameter(torch.randn(5, 4, generator=draw)), nn.Parameter(torch.randn(7, generator=draw))]
    mine = optimizer(parameters, lr=0.01, fused=True)
    for step in range(steps):
        mine.zero_grad(set_to_none=True)
        loss = torch.stack([(p.square() * (step + 1.0)).sum() for p in parameters]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        mine.step()
        mine.param_groups[0]["lr"] = 0.02 / (step + 1)
    return [p.detach() for p in parameters], mine


def test_steps_and_states_are_those_of_pytorch() -> None:
    (mine, mine_by), (theirs, theirs_by) = trained(Adam, 5), trained(torch.optim.Adam, 5)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    mine_state, their_state = mine_by.state_dict(), theirs_by.state_dict()
    assert mine_state["param_groups"] == their_state["param_groups"]
    for number, slots in their_state["state"].items():
        assert {name: value.tolist() for name, value in slots.items()} == {
            name: value.tolist() for name, value in mine_state["state"][number].items()
        }
    _, fresh = trained(Adam, 0)
    fresh.load_state_dict(their_state)
    assert fresh.state_dict()["state"][0]["exp_avg"].tolist() == their_state["state"][0]["exp_avg"].tolist()


def test_a_step_makes_no_graph() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = adam(iter([parameter]), 0.1, torch.device("cpu"))
    parameter.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert parameter.grad_fn is None
    assert torch.is_grad_enabled()


def test_nothing_of_the_compiler_is_loaded() -> None:
    code = """
import sys, torch
from hakg_dgl.models.optimizer import adam
parameter = torch.nn.Parameter(torch.ones(2))
optimizer = adam(iter([parameter]), 0.1, torch.device("cpu"))
optimizer.zero_grad()
parameter.sum().backward()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
