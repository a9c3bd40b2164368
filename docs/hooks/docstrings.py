"""Docstrings as mkdocstrings reads them: roles and directives of reStructuredText become Markdown."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

_MATH_BLOCK = re.compile(r"^([ \t]*)\.\. math::[ \t]*(\S.*)?\n((?:[ \t]*\n|\1[ \t]+\S.*\n)*)", re.MULTILINE)
_CODE_BLOCK = re.compile(r"^([ \t]*)(\S.*)::\n\n((?:\1[ \t]+\S.*\n|[ \t]*\n)+)", re.MULTILINE)
_MATH = re.compile(r":math:`([^`]+)`")
_ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc|obj):`(~?)([^`]+)`")
_REFERENCES = re.compile(r"^\.\. \[(\d+)\] ((?:.*\n(?:[ \t]+\S.*\n)*))", re.MULTILINE)
_HEADING = re.compile(r"^([ \t]*)(Notes|References|See Also)\n[ \t]*-+[ \t]*$", re.MULTILINE)
_CITED = re.compile(r"\[(\d+)\]_")


class Docstrings(griffe.Extension):
    """Rewrites every docstring of a package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        """Rewrite them; names are looked up in what the loader has read."""
        self._loaded = loader.modules_collection
        self._rewrite(pkg)

    def _rewrite(self, item: griffe.Object) -> None:
        if item.docstring is not None:
            item.docstring.value = self.markdown(item.docstring.value, item)
        for member in item.members.values():
            if not member.is_alias:
                self._rewrite(member)  # type: ignore[arg-type]

    def markdown(self, text: str, item: griffe.Object) -> str:
        """The text of a docstring in Markdown, for the object that it describes."""
        text = _MATH_BLOCK.sub(_math_block, text + "\n")
        text = _CODE_BLOCK.sub(lambda m: f"{m[1]}{m[2]}:\n\n" + _fenced("python", m[3], m[1]), text)
        text = _HEADING.sub(r"\1**\2**\n", text)
        text = _REFERENCES.sub(lambda m: f"{m[1]}. {' '.join(m[2].split())}\n", text)
        text = _CITED.sub(r"\[\1\]", text)
        text = _MATH.sub(lambda m: f"$`{' '.join(m[1].split())}`$", text)
        return _ROLE.sub(lambda m: self._reference(m[1], " ".join(m[2].split()), item), text).rstrip("\n")

    def _reference(self, short: str, name: str, item: griffe.Object) -> str:
        shown = name.rpartition(".")[2] if short else name
        path = self._path_of(name, item)
        return f"[`{shown}`][{path}]" if path else f"`{shown}`"

    def _path_of(self, name: str, item: griffe.Object) -> str | None:
        """Where the named object is documented; None for what is private or of another package."""
        candidates = [name]
        scope: griffe.Object | None = item
        while scope is not None:
            candidates.append(f"{scope.path}.{name}")
            scope = scope.parent
        for candidate in candidates:
            found = self._shown(candidate)
            if found is not None and found.startswith("hakg_dgl") and "._" not in found:
                return found
        return None

    def _shown(self, path: str) -> str | None:
        """Path of an object that has a docstring, or else of what holds it."""
        try:
            found = self._loaded[path]
            while not found.has_docstring and found.parent is not None:
                found = found.parent
            return str(found.canonical_path)
        except (KeyError, griffe.AliasResolutionError, griffe.CyclicAliasError):
            return None


def _math_block(match: re.Match[str]) -> str:
    latex = "\n".join(filter(None, (match[2], textwrap.dedent(match[3]).strip())))
    return "\n" + _fenced("math", latex, match[1]) + "\n"


def _fenced(info: str, text: str, indent: str) -> str:
    body = textwrap.dedent(text).strip("\n")
    return textwrap.indent(f"```{info}\n{body}\n```\n", indent)
