"""The GPU benchmark runs from end to end at a tiny size, and refuses to measure what it cannot."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from dense import on_one_thread

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import gpu

from hakg_dgl.kernels.choice import explain_backend

FEW = ["--repeats", "1", "--threads", "1", "--naive-steps", "1", "--set", "batch_size=64", "negatives=4", "dim=8"]
one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)


def test_tiny_graphs_run_on_a_cpu_without_a_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--tiny", "--device", "cpu", "--json", str(tmp_path / "gpu.json"), *FEW, "layers=1"])
    out = capsys.readouterr().out
    assert "missed" not in out
    assert "default (softmax)" in out
    assert "(estimate) |" in out
    assert "- CUDA graphs are left out: the device is 'cpu'" in out
    saved = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["graph"] for row in saved["graphs"]] == list(gpu.GRAPHS)
    for row in saved["graphs"]:
        assert row["epoch_seconds"] == pytest.approx(row["step_seconds"] * row["steps_an_epoch"])
        assert row["default"]["step_seconds"] > 0
        for launches in (row["launches"], row["default"]["launches"]):
            assert launches["operators"] > 100
            assert launches["kernels"] == 0
            assert launches["bytes_estimate"] > 1e5
            assert launches["profiled"] is None
        assert row["captured"]["left_out"].startswith("the device is 'cpu'")
        assert row["naive"]["step_seconds"] > 0
        assert 0 < row["share_of_bandwidth"]["least"] < row["share_of_bandwidth"]["gathered"]
    assert saved["doctor"]["kernels"]["cpu"]["backend"] == explain_backend("cpu").name


def test_a_step_is_judged_at_the_size_it_is_about() -> None:
    row = {"graph": "last-fm", "step_seconds": 0.005, "epoch_seconds": 1.0, "peak_bytes": 1e9}
    row |= {"naive": {"left_out": "as asked"}, "share_of_bandwidth": {"least": 0.1, "gathered": 0.5}}
    row |= {"captured": {"left_out": "why"}}
    slow = row | {"step_seconds": 0.02}
    rows = [row, slow, slow | {"captured": {"step_seconds": 0.002}}, row | {"graph": "yelp2018"}]
    lines = gpu.summary(rows, tiny=False).splitlines()[2:]
    assert [line.split("|")[-2].strip() for line in lines] == ["must", "**missed**", "aim", ""]


def test_both_forms_of_a_step_and_both_objectives_are_shown() -> None:
    plain = {"step_seconds": 0.006, "peak_bytes": 1e9, "captured": {"left_out": "why"}}
    row = {"graph": "last-fm", **plain, "captured": {"step_seconds": 0.002}, "default": plain}
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in gpu.step_table([row]).splitlines()[2:]]
    assert found == [
        ["last-fm", "hinge", "6 ms", "2 ms", "3x", "1.00 GB"],
        ["last-fm", "default (softmax)", "6 ms", "left out", "", "1.00 GB"],
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        gpu.main([])
    assert stop.value.code == 2
    assert "no GPU" in capsys.readouterr().err


def test_large_graphs_are_not_for_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        gpu.main(["--device", "cpu"])
    assert stop.value.code == 2
    assert "--tiny" in capsys.readouterr().err
