"""The ways to install: pyproject.toml, constraints.txt and environment.yml agree, and a wheel holds what it should."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

yaml = pytest.importorskip("yaml")
if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = PYPROJECT["project"]
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = [Requirement(line) for lines in PROJECT["optional-dependencies"].values() for line in lines]
CONSTRAINTS = [
    Requirement(line)
    for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
ENVIRONMENT: dict[str, Any] = yaml.safe_load((REPOSITORY / "environment.yml").read_text(encoding="utf-8"))
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
# Distributions whose module has another name.
MODULES = {
    "pyyaml": "yaml", "tomli-w": "tomli_w", "prometheus-client": "prometheus_client", "faiss-cpu": "faiss",
    "mlflow-skinny": "mlflow",
}  # fmt: skip


def pins_for(name: str, python: str) -> list[str]:
    """Versions that constraints.txt pins a distribution to on this Python (on Linux)."""
    markers = {"python_version": python, "sys_platform": "linux"}
    same = [pin for pin in CONSTRAINTS if canonicalize_name(pin.name) == canonicalize_name(name)]
    return [str(pin.specifier) for pin in same if pin.marker is None or pin.marker.evaluate(markers)]


def conda_specs() -> dict[str, str]:
    """Package -> version specification, from environment.yml."""
    matches = [re.fullmatch(r"(?:.*::)?([a-z0-9_-]+)(.*)", line) for line in ENVIRONMENT["dependencies"]]
    return {match[1]: match[2].strip() for match in matches if match}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("requirement", CORE + EXTRAS, ids=lambda requirement: requirement.name)
def test_constraints_pin_every_dependency_within_its_bounds(requirement: Requirement, python: str) -> None:
    if requirement.marker and not requirement.marker.evaluate({"python_version": python, "sys_platform": "linux"}):
        return
    pins = pins_for(requirement.name, python)
    assert len(pins) == 1, f"{requirement.name} on Python {python}: {pins}"
    assert pins[0].startswith("==")
    assert requirement.specifier.contains(Version(pins[0].removeprefix("==")))


def test_constraints_pin_nothing_twice() -> None:
    for python in PYTHONS:
        for name in {pin.name for pin in CONSTRAINTS}:
            assert len(pins_for(name, python)) <= 1, name


def test_dgl_is_asked_for_only_where_it_has_a_wheel() -> None:
    (dgl,) = [requirement for requirement in CORE if requirement.name == "dgl"]
    asked = {python for python in PYTHONS if dgl.marker is None or dgl.marker.evaluate({"python_version": python})}
    assert asked == {"3.10", "3.11", "3.12"}
    newest = re.search(r"_NEWEST_PYTHON = \((\d+), (\d+)\)", (REPOSITORY / "hakg_dgl/graph/dgl_gate.py").read_text())
    assert newest, "the gate names the newest Python with a wheel"
    assert max(asked, key=Version) == ".".join(newest.groups())
    assert all(SpecifierSet(PROJECT["requires-python"]).contains(python) for python in PYTHONS)


def test_triton_is_pinned_to_the_one_that_torch_brings() -> None:
    """A wheel of torch with CUDA needs one version of Triton; another pin would leave pip without a solution."""
    needed = [Requirement(line) for line in metadata.requires("torch") or []]
    exact = [str(requirement.specifier) for requirement in needed if requirement.name == "triton"]
    if not exact or f"=={metadata.version('torch').partition('+')[0]}" not in pins_for("torch", "3.11"):
        pytest.skip("a torch without CUDA, or another than the pinned one")
    assert exact == pins_for("triton", "3.11")


def lowest(spec: str) -> Version:
    """Lowest version that a conda specification allows, in the numbers that PEP 440 has a form for."""
    match = re.fullmatch(r"(?:>=|==?)(\d+(?:\.\d+)*).*", spec)
    assert match, f"{spec!r} has no lower bound"
    return Version(match[1])


def test_every_dependency_is_in_the_conda_environment_within_its_bounds() -> None:
    conda = conda_specs()
    for requirement in CORE:
        if requirement.marker and not requirement.marker.evaluate({"python_version": "3.11"}):
            continue
        name = CONDA_NAMES.get(requirement.name, requirement.name.lower())
        assert name in conda, f"environment.yml lacks {name}"
        assert requirement.specifier.contains(lowest(conda[name])), f"{name}{conda[name]} is outside {requirement}"


def test_the_conda_environment_is_the_cuda_build_of_dgl_and_installs_one_torch() -> None:
    conda = conda_specs()
    assert ENVIRONMENT["name"] == "hakg"
    assert "dglteam/label/th24_cu124" in ENVIRONMENT["channels"]
    assert conda["dgl"] == "=2.4.0.th24.cu124"
    assert (conda["pytorch"], conda["pytorch-cuda"], conda["python"]) == ("=2.4.0", "=12.4", "=3.11")
    assert SpecifierSet(PROJECT["requires-python"]).contains("3.11")
    # A pip section would resolve dependencies again, and put a second torch and dgl on top.
    assert not [entry for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict)]
    assert "pip install --no-deps -e ." in (REPOSITORY / "environment.yml").read_text(encoding="utf-8")


def sources_of(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*.py"))]


def imported_modules(path: Path) -> set[str]:
    """Top-level names of the absolute imports in a file, wherever they stand."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0]
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"hakg_dgl"}


@pytest.mark.parametrize("path", sources_of("hakg_dgl", "cli"), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_import_is_a_declared_dependency(path: Path) -> None:
    declared = {
        MODULES.get(canonicalize_name(requirement.name), requirement.name)
        for requirement in CORE + EXTRAS
        if requirement.name not in {"pytest", "hypothesis", "geoopt", "pytrec-eval-terrier", "mpmath"}
    }
    assert imported_modules(path) <= declared


def test_every_package_is_listed() -> None:
    folders = [("hakg_dgl", REPOSITORY / "hakg_dgl"), ("hakg_dgl.cli", REPOSITORY / "cli")]
    found = {
        ".".join((name, *path.parent.relative_to(folder).parts))
        for name, folder in folders
        for path in folder.rglob("__init__.py")
    }
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == found | {"hakg_dgl.datasets"}


PACKED = {"hakg_dgl": "hakg_dgl", "cli": "hakg_dgl/cli", "datasets": "hakg_dgl/datasets"}  # folder -> where it goes


def committed_files() -> list[str]:
    """Files under version control, and new ones that are not ignored."""
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *PACKED]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if (REPOSITORY / name).is_file()]


@pytest.fixture(scope="session")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in a wheel built from a copy, so that no build folder is left in the checkout."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in PACKED:
        shutil.copytree(REPOSITORY / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "-w", target, source], check=True, capture_output=True, text=True, timeout=300)
    (wheel,) = target.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


@pytest.mark.slow
def test_the_wheel_holds_every_committed_file_of_its_folders_and_no_other(wheel_names: list[str]) -> None:
    parts = [name.split("/", 1) for name in committed_files()]
    expected = {f"{PACKED[folder]}/{rest}" for folder, rest in parts}
    packed = {name for name in wheel_names if ".dist-info/" not in name}
    assert packed == expected


@pytest.mark.slow
def test_the_wheel_has_one_package_the_command_and_the_licence(wheel_names: list[str]) -> None:
    assert {name.split("/")[0] for name in wheel_names} == {"hakg_dgl", f"hakg_dgl-{PROJECT['version']}.dist-info"}
    assert PROJECT["scripts"] == {"hakg": "hakg_dgl.cli:main"}
    described = [name for name in wheel_names if ".dist-info/" in name]
    assert any(name.endswith("entry_points.txt") for name in described)
    assert any(name.endswith("/LICENSE") for name in described)
