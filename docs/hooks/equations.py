"""Equations as MathML, made while the site is built: browsers draw it without a script, a font or another host."""

from __future__ import annotations

import re
from typing import Any
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.util import AtomicString

# The converter leaves a named bracket after these as it is, but it takes the character.
_SIZES = r"(\\[Bb]igg?[lr]?)"
_BRACKETS = {"langle": "⟨", "rangle": "⟩"}


def mathml(latex: str, *, block: bool) -> str:
    """MathML of an equation in LaTeX.

    Raises
    ------
    ValueError
        If something of it is left as LaTeX, which a reader would see.
    """
    for name, character in _BRACKETS.items():
        latex = re.sub(rf"{_SIZES}\s*\\{name}", rf"\1{character}", latex)
    text = convert(latex, display="block" if block else "inline")
    left = re.findall(r"\\\w+", text)
    if left:
        raise ValueError(f"no MathML for {', '.join(left)} in the equation {latex.strip()}")
    return text


def fence(source: str, *_: Any, **__: Any) -> str:
    """A block ``math``, as pymdownx.superfences asks for it."""
    return f'<div class="equation">{mathml(source, block=True)}</div>'


class _Inline(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[str | Element, int, int]:
        stashed = self.md.htmlStash.store(mathml(m[1], block=False))
        return AtomicString(stashed), m.start(0), m.end(0)


class Equations(Extension):
    """Equations within a line, written as on a forge: a dollar and a backtick on either side."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Look for them before code, which also has backticks."""
        md.inlinePatterns.register(_Inline(r"\$`([^`]+)`\$", md), "equation", 195)
