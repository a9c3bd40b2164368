"""The files for visitors: they parse, agree with the project, and link to what is there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from test_docs import anchors, links

yaml = pytest.importorskip("yaml")
if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def parsed(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_citation_is_of_this_version_and_of_the_paper() -> None:
    citation = parsed("CITATION.cff")
    assert [citation[key] for key in ("title", "version", "license")] == [
        PROJECT[key] for key in ("name", "version", "license")
    ]
    assert "2204.04959" in citation["references"][0]["url"]


def test_the_workflow_runs_everything_on_each_python() -> None:
    job = parsed(".github/workflows/ci.yml")["jobs"]["run"]
    assert job["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12"]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]


@pytest.mark.parametrize("name", ["bug.yml", "idea.yml"])
def test_issue_forms_ask_for_something(name: str) -> None:
    form = parsed(f".github/ISSUE_TEMPLATE/{name}")
    assert any(field.get("validations", {}).get("required") for field in form["body"])
    assert len({field["id"] for field in form["body"]}) == len(form["body"])


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"])
def test_links_and_files_that_are_named_exist(name: str) -> None:
    page = ROOT / name
    for _, target in links(page):
        file, _, anchor = target.partition("#")
        assert (ROOT / file).exists(), target
        assert not anchor or anchor in anchors(ROOT / file), target
    named = re.findall(r"(?:hakg_dgl|tests|docs)/[\w/.-]*\w", page.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []
