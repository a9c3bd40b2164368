"""What is handed out: the source archive, the wheel that is built from it, the long description, the conda recipe."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import jinja2
import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from test_packaging import CONDA_NAMES, CORE, EXTRAS, PROJECT, PYPROJECT, REPOSITORY

from setup import long_description

yaml = pytest.importorskip("yaml")

ARCHIVE = f"{PROJECT['name']}-{PROJECT['version']}"


# --- the source archive and the wheel -----------------------------------------------------------------------------


def everything_committed() -> list[str]:
    """Files under version control, and new ones that are not ignored."""
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if (REPOSITORY / name).is_file()]


def build(kind: str, source: Path, target: Path) -> Path:
    """Build an ``sdist`` or a ``wheel`` of a folder by the backend that pyproject.toml names."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(target)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True, text=True, timeout=300)
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    for name in everything_committed():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def unpacked(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(build("sdist", copy, tmp_path_factory.mktemp("sdist"))) as archive:
        archive.extractall(target, filter="data")
    return target / ARCHIVE


@pytest.mark.slow
def test_the_source_archive_holds_every_committed_file(copy: Path, unpacked: Path) -> None:
    packed = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    made = {name for name in packed if name in {"PKG-INFO", "setup.cfg"} or ".egg-info/" in name}
    assert packed - made == set(everything_committed()), "see MANIFEST.in"


@pytest.mark.slow
def test_the_wheel_of_the_source_archive_is_that_of_the_repository(copy: Path, unpacked: Path, tmp_path: Path) -> None:
    wheels = []
    for name, source in {"repository": copy, "archive": unpacked}.items():
        (tmp_path / name).mkdir()
        with zipfile.ZipFile(build("wheel", source, tmp_path / name)) as wheel:
            wheels.append({file.filename: file.CRC for file in wheel.infolist()})
    assert wheels[0] == wheels[1]
    assert {"hakg_dgl/py.typed", "hakg_dgl/cli/__init__.py", "hakg_dgl/datasets/last-fm.toml"} <= set(wheels[0])
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheels[0])


# --- the long description -----------------------------------------------------------------------------------------


def test_the_long_description_is_the_readme_without_links_that_lead_nowhere() -> None:
    described = long_description((REPOSITORY / "README.md").read_text(encoding="utf-8"), PROJECT)
    targets = re.findall(r"\]\(([^)\s]+)", described)
    assert targets, "the paper, at least"
    assert [target for target in targets if not re.match(r"https?://|#", target)] == []
    assert "hakg preprocess demo" in described or "make demo" in described
    assert "<img" not in described, "a picture by HTML would be broken; write it as ![text](file)"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, "[paper](https://x.example/p), docs, file and  and  [top](#top)"),
        (
            "https://x.example/h/",
            "[paper](https://x.example/p), [docs](https://x.example/h/blob/v1/docs/a.md#b), "
            "[file](https://x.example/h/blob/v1/F) and ![picture](https://x.example/h/raw/v1/docs/a.png) and "
            "[![inner](https://x.example/h/raw/v1/i.png)](https://x.example/h/blob/v1/docs/a.md) [top](#top)",
        ),
    ],
)
def test_relative_links_lead_to_the_source_if_there_is_one(source: str | None, expected: str) -> None:
    readme = (
        "[paper](https://x.example/p), [docs](docs/a.md#b), [file](F) and ![picture](docs/a.png) and "
        "[![inner](i.png)](docs/a.md) [top](#top)"
    )
    urls = {"Paper": "https://x.example/p"} | ({"Source": source} if source else {})
    assert long_description(readme, {"version": "1", "urls": urls}) == expected


def test_addresses_of_the_project_are_those_of_its_citation() -> None:
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    for name, url in PROJECT["urls"].items():
        assert url in citation, f"{name}: give CITATION.cff the same address"


# --- the conda recipe ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    """The recipe with its variables filled in, as rattler-build does."""
    text = (REPOSITORY / "conda-recipe" / "recipe.yaml").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        variable_start_string="${{", variable_end_string="}}", undefined=jinja2.StrictUndefined
    )
    filled = environment.from_string(text).render(**yaml.safe_load(text)["context"], PYTHON="python")
    loaded: dict[str, Any] = yaml.safe_load(filled)
    return loaded


def as_conda(requirement: Requirement) -> str:
    """A requirement as the recipe writes it; its order of the bounds is that of pyproject.toml."""
    names = CONDA_NAMES | {"prometheus-client": "prometheus_client"}
    bounds = ",".join(sorted((str(bound) for bound in requirement.specifier), reverse=True))
    return f"{names.get(requirement.name, requirement.name)} {bounds}"


def test_the_recipe_is_of_this_project(recipe: dict[str, Any]) -> None:
    assert recipe["package"] == {"name": PROJECT["name"], "version": PROJECT["version"]}
    assert recipe["source"] == {"path": f"../dist/{ARCHIVE}.tar.gz"}
    assert recipe["build"]["python"]["entry_points"] == [
        f"{key} = {value}" for key, value in PROJECT["scripts"].items()
    ]
    assert recipe["about"]["summary"] == PROJECT["description"]
    assert recipe["about"]["license"] == PROJECT["license"]
    assert [recipe["about"]["license_file"]] == PROJECT["license-files"]


def test_the_recipe_asks_for_what_the_project_asks_for(recipe: dict[str, Any]) -> None:
    python = f"python {PROJECT['requires-python']}"
    needs = recipe["requirements"]
    core = {as_conda(requirement) for requirement in CORE if requirement.name != "dgl"}
    assert set(needs["run"]) == core | {python}
    backend = {as_conda(Requirement(line)) for line in PYPROJECT["build-system"]["requires"]}
    assert set(needs["host"]) == backend | {python, "pip"}
    for_tests = {Requirement(line).name for line in PROJECT["optional-dependencies"]["test"]}
    offered = {requirement for requirement in EXTRAS if requirement.name in for_tests or not requirement.marker}
    offered_names = {as_conda(requirement) for requirement in offered}
    constrained = set(needs["run_constraints"])
    assert constrained - {as_conda(requirement) for requirement in CORE} <= offered_names
    for extra in ("plot", "tensorboard", "tune", "serve", "rdf", "index"):
        asked = {as_conda(Requirement(line)) for line in PROJECT["optional-dependencies"][extra]}
        assert asked <= constrained, extra


def test_the_recipe_tests_the_command(recipe: dict[str, Any]) -> None:
    (imports, commands) = recipe["tests"]
    assert imports["python"]["imports"] == ["hakg_dgl", "hakg_dgl.cli"]
    used = {line.split()[1] for line in commands["script"]}
    assert {"--version", "doctor", "preprocess", "train", "evaluate"} <= used


# --- the version --------------------------------------------------------------------------------------------------


def test_the_version_is_one_and_the_change_log_begins_with_it() -> None:
    newest = re.search(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert Version(newest[1].strip("[]")) == Version(PROJECT["version"])
