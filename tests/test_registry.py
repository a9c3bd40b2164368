"""Models of other packages: one installed from its folder trains by name, and wrong declarations are told apart."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_demo import small_demo

from hakg_dgl.errors import ConfigError, MissingDependencyError
from hakg_dgl.models import registry
from hakg_dgl.models.popularity import Popularity
from hakg_dgl.models.registry import model_class, model_names, register_model

REPOSITORY = Path(__file__).resolve().parents[1]
RUN_COMMANDS = """
import json, sys
from click.testing import CliRunner
from hakg_dgl.cli import main
results = [CliRunner().invoke(main, command, prog_name="hakg") for command in json.loads(sys.argv[1])]
print(json.dumps([[result.exit_code, result.output] for result in results]))
"""


def of_the_docs(language: str, holding: str) -> str:
    """The block of docs/extending.md in a language that holds some text."""
    text = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
    (block,) = (block for block in re.findall(rf"```{language}\n(.*?)```", text, re.S) if holding in block)
    return str(block)


def installed_toy(folder: Path) -> Path:
    """Where the package of docs/extending.md is installed, from a source folder, as pip does it."""
    code, _, _ = of_the_docs("python", "class Toy(").partition("\nfor model in")  # what follows registers and trains it
    (folder / "toy_package").mkdir(parents=True)
    (folder / "toy_package" / "__init__.py").write_text(code, encoding="utf-8")
    (folder / "pyproject.toml").write_text(of_the_docs("toml", "hakg_dgl.models"), encoding="utf-8")
    target = folder / "installed"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", target, folder], check=True, capture_output=True, text=True, timeout=300)
    return target


def declared(folder: Path, package: str, entries: str, source: str = "") -> None:
    """A package with its entry points, as an installer leaves it, on the path of this process."""
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text(source, encoding="utf-8")
    metadata = folder / f"{package}-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{entries}\n", encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that this process imports from; modules imported from it are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        path = getattr(sys.modules[name], "__file__", None) or ""
        if path.startswith(str(tmp_path)):
            del sys.modules[name]


def run_commands(folder: Path, path: list[Path], *commands: tuple[object, ...]) -> list[tuple[int, str]]:
    """Exit code and output of each command of hakg, one after the other in a process that imports from ``path``."""
    given = json.dumps([[str(word) for word in command] for command in commands])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(place) for place in [*path, REPOSITORY])}
    done = subprocess.run(
        [sys.executable, "-c", RUN_COMMANDS, given],
        capture_output=True, text=True, timeout=300, env=environment, cwd=folder, check=True,
    )  # fmt: skip
    return [(code, output) for code, output in json.loads(done.stdout.splitlines()[-1])]


@pytest.mark.slow
def test_a_model_of_another_package_trains_evaluates_and_lists_by_its_name(tmp_path: Path) -> None:
    site = installed_toy(tmp_path / "source")
    small_demo().save(tmp_path / "data")
    small = ("--set", "dim=4", "--set", "refit=false", "--epochs", 2, "--device", "cpu")
    told, *done, wrong = run_commands(
        tmp_path,
        [site],
        ("train", "--help"),
        ("train", "data", "--model", "toy", "--out", "run", *small),
        ("evaluate", "run"),
        ("recommend", "run", "--user", "user_0"),
        ("train", "data", "--out", "run", "--resume"),
        ("train", "data", "--model", "toy", "--out", "other", "--set", "margin=1"),
    )
    assert "toy" in told[1]
    assert [code for code, _ in done] == [0, 0, 0, 0], done
    assert json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))["metrics"]["test"]
    assert wrong[0] == 2
    assert re.search(r"toy.*margin.*dim", wrong[1], re.S)
    ((code, output),) = run_commands(tmp_path, [], ("evaluate", "run"))
    assert code == 2
    assert "no model 'toy'" in output
    assert "Install the package that has the model" in output


def test_names_are_known_without_importing_a_model(site: Path) -> None:
    declared(site, "broken_package", "broken = broken_package:Broken", "raise RuntimeError('imported')")
    assert "broken" in model_names()


def test_a_model_that_cannot_be_imported_says_which_package(site: Path) -> None:
    declared(site, "half_package", "half = half_package:Half\nlost = lost_package:Lost")
    for name, text in {"half": "half_package:Half", "lost": "lost_package:Lost"}.items():
        with pytest.raises(MissingDependencyError, match=rf"{name}.*{text}.*cannot be imported"):
            model_class(name)


def test_what_is_declared_must_be_a_model_of_that_name(site: Path) -> None:
    declared(
        site,
        "odd_package",
        "number = odd_package:number\nother = odd_package:Popularity",
        "from hakg_dgl.models.popularity import Popularity\nnumber = 3\n",
    )
    with pytest.raises(ConfigError, match=r"'number'.*not a subclass of.*Recommender"):
        model_class("number")
    with pytest.raises(ConfigError, match=r"'other'.*calls itself 'popularity'"):
        model_class("other")


def test_two_packages_with_one_name_are_refused_and_names_of_ours_stay_ours(site: Path) -> None:
    declared(site, "first_package", "twice = first_package:A\npopularity = first_package:A", "A = 1")
    declared(site, "second_package", "twice = second_package:A", "A = 1")
    with pytest.raises(ConfigError, match=r"several packages \(first_package:A, second_package:A\)"):
        model_class("twice")
    assert model_class("popularity") is Popularity
    assert model_names().count("popularity") == 1


def test_a_registered_model_is_known_and_none_of_ours_can_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", {})

    class Mine(Popularity):
        name = "mine"

    assert register_model(Mine) is Mine
    assert model_class("mine") is Mine
    assert model_names()[-1] == "mine"
    with pytest.raises(ConfigError, match="'popularity' already"):
        register_model(Popularity)


def test_an_unknown_name_lists_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"no model 'nosuch'.*hakg, popularity, item-knn"):
        model_class("nosuch")
