"""The Dockerfiles against the repository: what they copy is there, and they run as no administrator."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from hakg_dgl.cli import main
from packaging.specifiers import SpecifierSet
from test_packaging import PROJECT, REPOSITORY

DOCKERFILES = sorted((REPOSITORY / "docker").glob("*.Dockerfile"))
files = pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)


class Step(NamedTuple):
    """An instruction and the stage that it stands in."""

    stage: str
    name: str
    words: str


def steps(file: Path) -> list[Step]:
    text = re.sub(r"^\s*#.*\n", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    stage, found = "", []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip():
            name, _, words = line.strip().partition(" ")
            if name == "FROM":
                stage = words.partition(" AS ")[2] or "default"
            found.append(Step(stage, name, words.strip()))
    return found


def of(file: Path, name: str, stage: str | None = None) -> list[str]:
    return [step.words for step in steps(file) if step.name == name and stage in (None, step.stage)]


def copied_from_the_repository(file: Path) -> set[str]:
    return {word for words in of(file, "COPY") if not words.startswith("--from") for word in words.split()[:-1]}


def test_there_is_one_for_cpus_and_one_for_cuda() -> None:
    assert [file.name for file in DOCKERFILES] == ["cpu.Dockerfile", "cuda.Dockerfile"]


@files
def test_what_is_copied_exists_and_is_let_through(file: Path) -> None:
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines, "what is not named is left out"
    let_through = {line[1:] for line in lines if line.startswith("!")}
    copied = copied_from_the_repository(file)
    assert {name for name in copied if not (REPOSITORY / name).exists()} == set()
    assert copied == let_through
    assert not any(fnmatch("hakg_dgl/py.typed", line) for line in lines if line not in ("*", "") and line[0] != "!")


@files
def test_all_that_the_wheel_is_built_from_is_copied(file: Path) -> None:
    """The stage that builds has what tests/test_packaging.py builds its wheel from, and installs by the pins."""
    needed = {"pyproject.toml", "setup.py", "README.md", "LICENSE", "hakg_dgl", "cli", "datasets", "constraints.txt"}
    assert copied_from_the_repository(file) == needed
    (install,) = of(file, "RUN", "build")[1:]
    assert "-c constraints.txt" in install
    (extras,) = [words for words in of(file, "ARG", "build") if words.startswith("EXTRAS=")]
    assert set(extras.partition("=")[2].split(",")) <= set(PROJECT["optional-dependencies"])


@files
def test_the_base_has_a_python_that_the_project_allows(file: Path) -> None:
    bases = {words.partition(" AS ")[0] for words in of(file, "FROM")} - {"build", "command"}
    assert len(bases) == 1, "a virtual environment needs the same Python in both stages"
    version = re.fullmatch(r"python:(3\.\d+)-slim-\w+", bases.pop())
    assert version is not None
    assert SpecifierSet(PROJECT["requires-python"]).contains(version[1])
    assert f"Programming Language :: Python :: {version[1]}" in PROJECT["classifiers"]


@files
def test_the_command_runs_as_a_user_and_by_default(file: Path) -> None:
    assert of(file, "USER", "command") == ["1000"]
    (added,) = (words for words in of(file, "RUN", "command") if "useradd" in words)
    assert "--uid 1000 hakg" in added
    assert json.loads(of(file, "ENTRYPOINT")[0]) == list(PROJECT["scripts"])
    assert steps(file)[-1] == Step("default", "FROM", "command"), "the last stage is what is built by default"


@files
def test_the_service_is_checked_at_an_address_that_it_has(file: Path) -> None:
    serve = main.get_command(click.Context(main), "serve")
    assert serve is not None
    defaults = {option: parameter.default for parameter in serve.params for option in parameter.opts}
    (check,) = of(file, "HEALTHCHECK", "serve")
    address = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", check)
    assert address is not None
    assert of(file, "EXPOSE", "serve") == [address[1]] == [str(defaults["--port"])]
    assert f'"{address[2]}"' in (REPOSITORY / "hakg_dgl/serving/application.py").read_text(encoding="utf-8")
    name, *words = json.loads(of(file, "CMD", "serve")[0])
    assert name == "serve"
    assert {word for word in words if word.startswith("--")} <= set(defaults)
    compile(json.loads(check.partition("CMD ")[2])[2], "the health check", "exec")


@files
def test_no_index_of_packages_is_named(file: Path) -> None:
    addresses = re.findall(r"https?://[^\s'\"]+", file.read_text(encoding="utf-8"))
    assert [url for url in addresses if not url.startswith("http://127.0.0.1:")] == []
    assert not [words for words in of(file, "RUN") if "index-url" in words or "find-links" in words]
