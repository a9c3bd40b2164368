"""The documentation's site: its navigation, what its hooks make of pages, and the site as it is built."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from browser import browser, opened, requests  # noqa: F401 (a fixture)
from test_docs import DOCS, PAGES, ROOT, anchors, blocks, links, prose

import hakg_dgl

yaml = pytest.importorskip("yaml")
sys.path.insert(0, str(ROOT / "docs" / "hooks"))
import api_pages  # noqa: E402
import command_pages  # noqa: E402
import notebook_pages  # noqa: E402
import site_links  # noqa: E402

CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def pages_below(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    below = entry.values() if isinstance(entry, dict) else entry
    return [page for part in below for page in pages_below(part)]


# --- navigation ---------------------------------------------------------------------------------------------------


def test_the_navigation_names_every_page_once() -> None:
    named = pages_below(CONFIG["nav"])
    assert len(set(named)) == len(named)
    assert {page.name for page in DOCS} <= set(named)
    missing = {page for page in named if not page.startswith("made:")} - {page.name for page in DOCS}
    assert missing == {
        "overview.md", "file-formats.md", "changelog.md", "contributing.md", "security.md", "code-of-conduct.md"
    }  # fmt: skip


def test_the_index_has_the_sections_of_the_navigation() -> None:
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## ([\w-]+).*\n((?:(?!## ).*\n)*)", text, re.MULTILINE))
    own = {page.name for page in DOCS}
    for entry in CONFIG["nav"][1:]:
        ((title, below),) = entry.items()
        listed = set(re.findall(r"\]\(([\w-]+\.md)\)", sections[title]))
        assert listed == own & set(pages_below(below)), title


def test_nothing_is_asked_of_other_hosts_by_the_configuration() -> None:
    assert CONFIG["theme"]["font"] is False
    assert CONFIG["extra"]["polyfills"] == ["search-iframe-worker.js"]
    assert (ROOT / "docs" / "search-iframe-worker.js").is_file()
    assert set(CONFIG["validation"].values()) == {"warn"}


# --- links and fences ---------------------------------------------------------------------------------------------

PAGE = """[a](b.md#c) ![p](images/p.png) [`f`](../hakg_dgl/x.py) [host](https://example.org/a) [here](#there)
```python no-run
[a](b.md)
```
[a [1]](../CHANGELOG.md)
"""


def test_links_outside_code_are_resolved_against_the_pages_folder() -> None:
    assert list(site_links.targets(PAGE, "docs")) == [
        "docs/b.md", "docs/images/p.png", "hakg_dgl/x.py", "CHANGELOG.md"
    ]  # fmt: skip
    told: list[tuple[str, str, str]] = []

    def to_site(*link: str) -> str:
        told.append(link)  # type: ignore[arg-type]
        return "there"

    changed = site_links.rewritten(PAGE, "docs", to_site)
    assert told[0] == ("docs/b.md", "c", "a")
    assert told[2] == ("hakg_dgl/x.py", "", "`f`")
    assert changed.count("(there)") == 4
    assert "```python no-run\n[a](b.md)\n```\n" in changed
    assert "(https://example.org/a) [here](#there)" in changed


def test_a_picture_that_is_a_link_is_resolved_twice() -> None:
    page = "[![a](docs/p.png)](docs/tour.md) ![c](https://example.org/p.png)"
    changed = site_links.rewritten(page, "", lambda path, *_: path.removeprefix("docs/"))
    assert changed == "[![a](p.png)](tour.md) ![c](https://example.org/p.png)"
    assert set(site_links.targets(page, "")) == {"docs/p.png", "docs/tour.md"}


def test_a_fence_keeps_its_language_alone() -> None:
    assert site_links.plain_fences("```python no-run\nx = 1  # a\n```\n  ````toml hakg\n") == (
        "```python\nx = 1  # a\n```\n  ````toml\n"
    )


def test_pictures_of_other_hosts_are_left_out() -> None:
    text = "# A\n\n[![ci](https://ci.example/b.svg)](https://ci.example)\n![own](docs/p.png)\n"
    assert site_links.without_badges(text) == "# A\n\n![own](docs/p.png)\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_anchors_are_those_of_a_forge(page: Path) -> None:
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    assert {site_links.anchor(heading) for heading in headings} == anchors(page)


def test_links_to_code_lead_to_what_they_name() -> None:
    """Every link of a page to a module leads to the name in its text, where the API shows it."""
    found = {
        api_pages.anchor_of(path, text)
        for page in DOCS
        for text, target in links(page)
        if api_pages.has_page(path := os.path.normpath(f"docs/{target.partition('#')[0]}"))
    }
    assert "hakg_dgl.models.hakg.network.Network.updates" in found
    assert api_pages.page_of("hakg_dgl/models/hakg/network.py") == "api/hakg_dgl/models/hakg/network.md"
    assert api_pages.page_of("hakg_dgl/models/hakg/__init__.py") == "api/hakg_dgl/models/hakg/index.md"
    assert api_pages.anchor_of("hakg_dgl/geometry/poincare.py", "the module") == "hakg_dgl.geometry.poincare"


# --- made pages ---------------------------------------------------------------------------------------------------


def test_a_commands_page_has_every_option_and_its_example() -> None:
    from hakg_dgl.cli import main

    pages = command_pages.command_pages()
    assert set(pages) == {"commands/index.md", *(f"commands/{name}.md" for name in main.commands)}
    for name, command in main.commands.items():
        page = pages[f"commands/{name}.md"]
        assert f"(commands/{name}.md)".replace("commands/", "") in pages["commands/index.md"]
        for parameter in command.params:
            for option in [o for o in parameter.opts if o.startswith("--")]:
                assert f"`{option}`" in page, f"{name} {option}"
    assert "hakg train data/demo --out runs/demo --resume" in pages["commands/train.md"]


def test_every_public_module_has_a_page_and_an_entry() -> None:
    modules = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "hakg_dgl").rglob("*.py"))]
    expected = [api_pages.page_of(path) for path in modules if api_pages.has_page(path)]
    assert len(set(expected)) == len(expected)
    assert set(api_pages.api_pages()) == {"api/index.md", *expected} == set(pages_below(api_pages.entries()))


NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "source": ["# A title\n", "\n", "Where $x < 1$, `$y`:\n", "$$\\frac{a}{b}$$\n"]},
        {
            "cell_type": "code",
            "source": "print(1)",
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": ["\x1b[1m1\x1b[0m\n"]},
                {"output_type": "display_data", "data": {"image/png": "iVBO\nRw==\n", "text/plain": "<Figure>"}},
                {
                    "output_type": "execute_result",
                    "data": {"text/html": "<style>b</style><table border=1><tr style='a'></table>"},
                },
                {"output_type": "execute_result", "data": {"text/html": "<script></script>", "text/plain": "kept"}},
            ],
        },
        {"cell_type": "code", "source": "", "outputs": []},
    ]
}


def test_a_notebooks_page_has_its_text_code_and_outputs(tmp_path: Path) -> None:
    file = tmp_path / "first.ipynb"
    file.write_text(json.dumps(NOTEBOOK), encoding="utf-8")
    page = notebook_pages.page(file)
    assert page.startswith('# A title\n\n<p class="notebook"><a href="first.ipynb" download>')
    assert "Where $`x < 1`$, `$y`:" in page
    assert "```math\n\\frac{a}{b}\n```" in page
    assert "```python\nprint(1)\n```" in page
    assert "```text\n1\n```" in page
    assert '<img class="output" alt="&lt;Figure&gt;" src="data:image/png;base64,iVBORw==">' in page
    assert '<div class="output"><table><tr></table></div>' in page
    assert "<script>" not in page
    assert "kept" in page


# --- equations and docstrings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_equation_becomes_mathml(page: Path) -> None:
    pytest.importorskip("latex2mathml", reason="python -m pip install -e .[docs]")
    import equations

    for latex in re.findall(r"\$`([^`]+)`\$", prose(page)):
        assert equations.mathml(latex, block=False).startswith("<math")
    for block in blocks(page):
        if block.info == "math":
            assert 'display="block"' in equations.fence(block.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_equations_are_written_so_that_the_site_has_them_too(page: Path) -> None:
    """A forge also knows ``$x$`` and ``$$x$$``, which the site would show as they are written."""
    code = r"\$`[^`]+`\$|`[^`]*`"
    left = [line for line in re.sub(code, "", prose(page)).splitlines() if "$" in line]
    assert not left, "write an equation as $`x`$, or as a block math"


def test_an_equation_with_an_unknown_command_is_an_error() -> None:
    pytest.importorskip("latex2mathml", reason="python -m pip install -e .[docs]")
    import equations

    assert "⟨" in equations.mathml(r"\big\langle x \big\rangle", block=False)
    with pytest.raises(ValueError, match="nonsense"):
        equations.mathml(r"\nonsense{x}", block=True)


def test_docstrings_become_markdown() -> None:
    griffe = pytest.importorskip("griffe", reason="python -m pip install -e .[docs]")
    import docstrings

    loader = griffe.GriffeLoader(
        search_paths=[str(ROOT)], extensions=griffe.Extensions(docstrings.Docstrings()), allow_inspection=False
    )
    module = loader.load("hakg_dgl")["geometry.poincare"]
    assert "```math\n\\frac" in module["mobius_add"].docstring.value
    assert "[`mobius_add`][hakg_dgl.geometry.poincare.mobius_add]" in module["project"].docstring.value
    assert r"$`\lambda_x = 2 / (1 - c \|x\|^2)`$" in module["conformal_factor"].docstring.value
    assert "**References**\n\n1. Ganea" in module.docstring.value
    assert ".. [" not in module.docstring.value


# --- the site -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site: that in the folder HAKG_SITE, or one built here, where a warning is an error."""
    if "HAKG_SITE" in os.environ:
        return Path(os.environ["HAKG_SITE"]).resolve()
    for name in ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers.python", "latex2mathml"):
        pytest.importorskip(name, reason="python -m pip install -e .[docs]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def html(site: Path) -> dict[str, str]:
    """Every page's HTML, by its path in the site."""
    found = {file.relative_to(site).as_posix(): file.read_text(encoding="utf-8") for file in site.rglob("*.html")}
    return {name: text for name, text in found.items() if name != "404.html"}


@pytest.mark.slow
def test_the_site_has_the_pages_the_commands_and_the_search(site: Path, html: dict[str, str]) -> None:
    from hakg_dgl.cli import main

    assert {f"{page.stem}.html" for page in DOCS} - {"README.html"} <= set(html)
    assert {f"commands/{name}.html" for name in main.commands} <= set(html)
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert {entry["location"].partition("#")[0] for entry in index["docs"]} >= {"model.html", "commands/train.html"}
    assert (site / "search" / "search_index.js").read_text(encoding="utf-8").startswith("var __index = {")
    assert '<math xmlns="http://www.w3.org/1998/Math/MathML"' in html["model.html"]


@pytest.mark.slow
def test_the_api_reference_has_every_public_name(html: dict[str, str]) -> None:
    pages = [text for name, text in html.items() if name.startswith("api/")]
    api = {anchor for text in pages for anchor in re.findall(r' id="([^"]+)"', text)}
    for name in hakg_dgl.__all__:
        item = getattr(hakg_dgl, name)
        if callable(item):
            assert f"{item.__module__}.{item.__qualname__}" in api, name


@pytest.mark.slow
def test_every_link_and_anchor_of_the_site_leads_somewhere(site: Path, html: dict[str, str]) -> None:
    ids = {name: set(re.findall(r'\bid="?([^" >]+)', text)) for name, text in html.items()}
    broken = set()
    for name, text in html.items():
        for target in re.findall(r'\b(?:href|src)="([^"]*)"', text):
            path, _, anchor = unquote(target).partition("#")
            if re.match(r"[\w+.-]+:", target) or target in ("", "#", "javascript:void(0)"):
                continue
            file = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
            exists = (site / file).exists()
            if not exists or (anchor and file in ids and anchor not in ids[file] and not anchor.startswith("__")):
                broken.add((name, target))
    assert not broken


@pytest.mark.slow
def test_scripts_styles_fonts_and_pictures_are_the_sites_own(site: Path, html: dict[str, str]) -> None:
    for name, text in html.items():
        asked = re.findall(r'<(?:script|img|iframe|source|video)\b[^>]*\bsrc="?([^" >]+)', text)
        asked += re.findall(r'<link\b[^>]*\bhref="?([^" >]+)', text)
        assert [address for address in asked if re.match(r"(?:https?:)?//", address)] == [], name
        assert 'class="mermaid"' not in text, f"{name}: the theme asks another host for what draws such a block"
    for style in site.rglob("*.css"):
        found = re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//[^)\"']*", style.read_text(encoding="utf-8"))
        assert not found, style.name


@pytest.mark.slow
def test_the_search_works_from_the_disk_and_asks_no_host(browser: Any, site: Path) -> None:  # noqa: F811
    page = opened(browser, site / "index.html")
    page.execute_script("document.querySelector('label[for=__search]').click()")
    field = page.find_element("css selector", "input.md-search__input")
    page.execute_script("arguments[0].focus()", field)
    field.send_keys("Möbius addition")
    found: list[str] = []
    until = time.monotonic() + 60
    while not found and time.monotonic() < until:
        time.sleep(0.2)
        results = page.find_elements("css selector", "a.md-search-result__link")
        found = [result.get_attribute("href") for result in results]
    assert any("geometry/poincare.html" in address for address in found), found
    assert {address.partition(":")[0] for address in requests(browser)} <= {"file", "about", "blob"}
