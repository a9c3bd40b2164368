"""What the site has beside docs/*.md: the API, every command, notebooks, and the files that pages link to."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any

import api_pages
import command_pages
import equations
import notebook_pages
import site_links
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = site_links.ROOT
OTHERS = {
    "README.md": "overview.md",
    "datasets/README.md": "file-formats.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
}
"""Path in the repository -> path in the site, of pages that lie outside docs/."""
_AT_HOME = {site: repository for repository, site in OTHERS.items()}
_LANGUAGES = {".py": "python", ".toml": "toml", ".yml": "yaml", ".json": "json"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add what a text file of settings cannot hold: functions, and the entries of made pages."""
    config.markdown_extensions.append(equations.Equations())
    config.mdx_configs["toc"] = {"permalink": True, "slugify": site_links.anchor}
    fence = {"name": "math", "class": "equation", "format": equations.fence}
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}
    config.nav = nav_with(config.nav or [], _made_entries())
    return config


def nav_with(nav: list[Any], made: dict[str, list[Any]]) -> list[Any]:
    """The navigation with each entry such as ``made:api`` replaced by those pages; left out where there are none."""
    filled: list[Any] = []
    for entry in nav:
        if not isinstance(entry, dict):
            filled.append(entry)
            continue
        ((title, below),) = entry.items()
        if isinstance(below, list):
            below = nav_with(below, made)
        elif below.startswith("made:"):
            below = made[below]
        if below:
            filled.append({title: below})
    return filled


def _made_entries() -> dict[str, list[Any]]:
    return {
        "made:notebooks": [f"notebooks/{name}.md" for name in notebook_pages.notebooks()],
        "made:commands": ["commands/index.md", *({name: f"commands/{name}.md"} for name in command_pages.names())],
        "made:api": api_pages.entries(),
    }


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    made = {site: _read(path) for path, site in OTHERS.items()}
    made |= {f"notebooks/{name}.md": text for name, text in notebook_pages.notebooks().items()}
    made |= command_pages.command_pages()
    made |= api_pages.api_pages()
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    for path in sorted(_linked(files)):
        files.append(File.generated(config, _source(path), content=_listing(path), inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links into those of the site, and marks of code blocks that only the tests read into plain ones."""

    if page.is_homepage:
        page.meta["hide"] = ["navigation"]  # beside it there would be its own name alone

    def to_site(path: str, anchor: str, text: str) -> str:
        site, anchor = _site(path, anchor, text)
        link = posixpath.relpath(site, posixpath.dirname(page.file.src_uri) or ".")
        return f"{link}#{anchor}" if anchor else link

    plain = site_links.plain_fences(site_links.without_badges(markdown))
    return site_links.rewritten(plain, _folder(page.file.src_uri), to_site)


def _folder(site: str) -> str:
    """Folder in the repository that the relative links of a page start from."""
    return posixpath.dirname(_AT_HOME.get(site, f"docs/{site}"))


def _site(path: str, anchor: str, text: str) -> tuple[str, str]:
    """Path in the site, and anchor, of a path in the repository."""
    if path in OTHERS:
        return OTHERS[path], anchor
    if path.startswith("docs/") and not path.endswith(".py"):
        return path.removeprefix("docs/").replace(".ipynb", ".md"), anchor
    if api_pages.has_page(path):
        return api_pages.page_of(path), api_pages.anchor_of(path, text)
    return _source(path), anchor


def _linked(files: Files) -> set[str]:
    """Files of the repository that pages link to, and that have no page otherwise."""
    pages = [file for file in files.documentation_pages() if not file.src_uri.startswith(("api/", "commands/"))]
    found = {path for file in pages for path in site_links.targets(file.content_string, _folder(file.src_uri))}
    return {path for path in found if _site(path, "", "")[0] == _source(path) and (ROOT / path).is_file()}


def _source(path: str) -> str:
    return f"source/{path}.md"


def _listing(path: str) -> str:
    """A file of the repository as a page."""
    return f"# {path}\n\n````{_LANGUAGES.get(Path(path).suffix, 'text')}\n{_read(path)}````\n"


def _read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")
