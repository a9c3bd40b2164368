"""A page for each public module, filled from the docstrings by mkdocstrings, and one for the public names."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import site_links

ROOT = site_links.ROOT


def api_pages() -> dict[str, str]:
    """Markdown of every page of the API, by path in the site."""
    pages = {"api/index.md": _public_names()}
    for package in _packages():
        pages[_page(package)] = _package_page(package)
        pages |= {_page(module): _directive(module) for module in _modules(package)}
    return pages


def entries() -> list[Any]:
    """What the navigation says of them: a section for each package, with its modules."""
    sections = [
        {package: [_page(package), *({m.rpartition(".")[2]: _page(m)} for m in _modules(package))]}
        for package in _packages()
    ]
    return ["api/index.md", *sections]


def has_page(path: str) -> bool:
    """Whether a file of the repository is a module of the API."""
    private = any(part.startswith("_") and part != "__init__.py" for part in path.split("/"))
    return path.startswith("hakg_dgl/") and path.endswith(".py") and not private


def page_of(path: str) -> str:
    """The page of a module, from its path in the repository."""
    return _page(site_links.module_name(path))


def anchor_of(path: str, text: str) -> str:
    """Anchor of what a link's text names, such as `` `Network.sent_by_users` ``; the module's where it is private."""
    module = site_links.module_name(path)
    name = re.match(r"`([\w.]+)", text)
    found = _qualified(ROOT / path, name[1].split(".")) if name else None
    return f"{module}.{found}" if found else module


def _page(module: str) -> str:
    file = module.replace(".", "/")
    if (ROOT / file).is_dir():
        return f"api/{file}/index.md"
    return f"api/{file}_.md" if file.endswith("/index") else f"api/{file}.md"  # index.md is the package's


@functools.cache
def _packages() -> list[str]:
    found = sorted((ROOT / "hakg_dgl").rglob("__init__.py"))
    return [site_links.module_name(path.relative_to(ROOT).as_posix()) for path in found]


def _modules(package: str) -> list[str]:
    folder = ROOT / package.replace(".", "/")
    return [f"{package}.{file.stem}" for file in sorted(folder.glob("*.py")) if not file.stem.startswith("_")]


def _directive(name: str, members: str = "") -> str:
    """What mkdocstrings replaces by the documentation of a module."""
    chosen = f"      members: {members}\n" if members else ""
    return f"::: {name}\n    options:\n      heading_level: 1\n{chosen}"


def _package_page(package: str) -> str:
    """What a package says of itself, its own functions and classes, and a table of its modules."""
    body = _tree(ROOT / package.replace(".", "/") / "__init__.py").body
    own = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    members = [name for name in own if not name.startswith("_")]
    below = [p for p in _packages() if p.rpartition(".")[0] == package]
    rows = [_row(module, package) for module in [*below, *_modules(package)]]
    table = "\n".join(["| module | what it is for |", "|---|---|", *rows])
    return f"{_directive(package, str(members) if members else 'false')}\n{table}\n"


def _row(module: str, package: str) -> str:
    file = module.replace(".", "/")
    path = ROOT / file / "__init__.py" if (ROOT / file).is_dir() else ROOT / f"{file}.py"
    return f"| [`{module.removeprefix(package + '.')}`][{module}] | {_summary(ast.get_docstring(_tree(path)))} |"


def _public_names() -> str:
    """The page of the names that ``import hakg_dgl`` gives."""
    import hakg_dgl

    rows = []
    for name in hakg_dgl.__all__:
        item = getattr(hakg_dgl, name)
        if isinstance(item, type) or callable(item):
            rows.append(f"| [`{name}`][{item.__module__}.{item.__qualname__}] | {_summary(item.__doc__)} |")
        else:
            rows.append(f"| `{name}` | `{item}` |")
    head = "# Public names\n\n[Python](../python-api.md) shows them at work. `import hakg_dgl` gives these:\n"
    return "\n".join([head, "| name | what it is |", "|---|---|", *rows]) + "\n"


def _summary(docstring: str | None) -> str:
    """First paragraph of a docstring, for a cell of a table."""
    first = " ".join((docstring or "").strip().partition("\n\n")[0].split())
    first = re.sub(r":math:`([^`]+)`", r"$`\1`$", first)
    first = re.sub(r":\w+:`~?(?:[\w.]+\.)?([^`]+)`", r"`\1`", first)
    return re.sub(r" ?\[\d+\]_", "", first).replace("``", "`").replace("|", r"\|")


@functools.cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _qualified(file: Path, name: list[str]) -> str | None:
    """Dotted name, within its module, of the first public definition that ends with ``name``."""
    for found in _definitions(_tree(file).body, ()):
        if list(found[-len(name) :]) == name and not any(part.startswith("_") for part in found):
            return ".".join(found)
    return None


def _definitions(body: list[ast.stmt], outer: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """What the API shows: functions, classes and assigned names, each with a docstring."""
    for node, following in zip_longest(body, body[1:]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(node):
            yield (*outer, node.name)
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node.body, (*outer, node.name))
        elif isinstance(node, ast.Assign | ast.AnnAssign) and _is_text(following):
            assigned = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((*outer, target.id) for target in assigned if isinstance(target, ast.Name))


def _is_text(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
