"""What ``hakg doctor`` finds and shows."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from with_dgl import WHY_NOT

from hakg_dgl import doctor
from hakg_dgl.errors import MissingDependencyError
from hakg_dgl.kernels.choice import BackendChoice

cli = pytest.importorskip("hakg_dgl.cli", reason="python -m pip install -e .")


def shown(*options: str) -> str:
    result = CliRunner().invoke(cli.main, ["doctor", *options], prog_name="hakg")
    assert result.exit_code == 0, result.output
    return result.stdout


def test_versions_and_the_backend_of_the_cpu_are_those_here() -> None:
    found = doctor.examine()
    assert (
        found["versions"]["torch"] == torch.__version__.split("+")[0] or found["versions"]["torch"] == torch.__version__
    )
    assert found["versions"]["python"] == sys.version.split()[0]
    assert found["kernels"]["cpu"]["backend"] == ("torch" if find_spec("numba") is None else "numba")
    assert found["dgl"]["problem"] is None or WHY_NOT is not None
    assert found["cuda"]["available"] == torch.cuda.is_available() == ("cuda" in found["kernels"])
    graphs = found["cuda"]["graphs"]
    assert graphs["usable"] == (graphs["problem"] is None)
    assert found["cuda"]["available"] or graphs["problem"] == "there is no CUDA device"


def test_json_is_what_the_library_found() -> None:
    assert json.loads(shown("--json")) == doctor.examine()


def test_the_text_names_packages_and_kernels() -> None:
    text = shown()
    for word in ("python", "torch", "triton", "dgl", "DGL's kernels" if WHY_NOT is None else "DGL:", "kernels = auto"):
        assert word in text


def fake_gpu(monkeypatch: pytest.MonkeyPatch, choice: BackendChoice) -> None:
    properties = SimpleNamespace(name="A100", major=8, minor=0, total_memory=80 * 10**9)
    monkeypatch.setattr(torch.version, "cuda", "12.4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: properties)
    cpu = BackendChoice("torch", "always")
    monkeypatch.setattr(doctor, "explain_backend", lambda device: cpu if device == "cpu" else choice)
    monkeypatch.setattr(doctor, "_dgl", lambda: {"problem": None, "cuda": False, "shims": []})


def test_a_gpu_with_slow_kernels_gets_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpu(monkeypatch, BackendChoice("torch", "no Triton, and DGL is not built with CUDA", "pip install triton"))
    text = shown()
    assert "CUDA 12.4: A100, compute capability 8.0, 80 GB" in text
    assert "For faster kernels on cuda: pip install triton" in text
    assert "CUDA graphs: not here: kernels = 'torch', and CUDA graphs need kernels = 'triton'" in text


def test_a_gpu_with_the_fastest_kernels_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpu(monkeypatch, BackendChoice("triton", "Triton is installed: fused kernels"))
    assert doctor.examine()["advice"] == []
    assert "faster" not in shown()
    assert "CUDA graphs: used, unless cuda_graphs = false" in shown()


def test_a_gpu_that_is_not_found_is_told_from_a_build_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for built, part in (("12.4", "finds no device"), (None, "has no CUDA")):
        monkeypatch.setattr(torch.version, "cuda", built)
        assert any(part in line for line in doctor.examine()["advice"])


def test_a_missing_dgl_is_a_finding_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses:
        def find_spec(self, module: str, path: Any = None, target: Any = None) -> None:
            if module == "hakg_dgl.graph.dgl_gate":
                raise MissingDependencyError("DGL is not installed")

    monkeypatch.delitem(sys.modules, "hakg_dgl.graph.dgl_gate", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refuses(), *sys.meta_path])
    assert doctor.examine()["dgl"] == {"problem": "DGL is not installed", "cuda": False, "shims": []}
    text = shown()
    assert "DGL: cannot be used, see below" in text
    assert text.rstrip().split("\n\n")[-1].startswith("DGL is not installed")


@pytest.mark.parametrize("name", doctor.DISTRIBUTIONS)
def test_what_is_not_installed_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(distribution: str) -> str:
        if distribution == name:
            raise doctor.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor, "version", absent)
    assert doctor.examine()["versions"][name] is None
    assert "not installed" in next(line for line in shown().splitlines() if line.startswith(name))
