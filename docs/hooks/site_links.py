"""Links and fences of Markdown pages: what leads out of docs/ in the repository leads to the site's page for it."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"(^[ ]*(```+).*?^[ ]*\2[ ]*$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_BADGE = re.compile(r"\[?!\[[^\]]*\]\(https?://[^)]*\)(?:\]\([^)]*\))?[ ]*\n?")


def targets(markdown: str, folder: str) -> Iterator[str]:
    """Paths in the repository that a page in ``folder`` links to."""
    for part in _prose(markdown):
        for match in _LINK.finditer(part):
            yield from targets(match[2], folder)  # a picture that is a link
            path, _ = _resolved(match[3], folder)
            if path is not None:
                yield path


def rewritten(markdown: str, folder: str, to_site: Callable[[str, str, str], str]) -> str:
    """The page with each link to a path in the repository replaced by ``to_site(path, anchor, text)``."""

    def replace(match: re.Match[str]) -> str:
        path, anchor = _resolved(match[3], folder)
        target = match[3] if path is None else to_site(path, anchor, match[2])
        return f"{match[1]}[{_LINK.sub(replace, match[2])}]({target})"

    return _outside_fences(markdown, lambda part: _LINK.sub(replace, part))


def without_badges(markdown: str) -> str:
    """The page without pictures of other hosts, which a reader's browser would ask for."""
    return _outside_fences(markdown, lambda part: _BADGE.sub("", part))


def plain_fences(markdown: str) -> str:
    """The page with only the language after a fence: `` ```python no-run `` is one for the tests."""
    return re.sub(r"^([ ]*```+)(\w+)[ ].*$", r"\1\2", markdown, flags=re.MULTILINE)


def anchor(heading: str, separator: str = "-") -> str:
    """Anchor of a heading, as forges make it: lower case, punctuation dropped, blanks to hyphens."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)


def module_name(path: str) -> str:
    """Dotted name of a module, from its path in the repository."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _prose(markdown: str) -> list[str]:
    return _FENCE.split(markdown)[::3]


def _outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    parts = _FENCE.split(markdown)
    parts[::3] = map(change, parts[::3])
    del parts[2::3]  # the fences alone, which the second group of the pattern gives
    return "".join(parts)


def _resolved(target: str, folder: str) -> tuple[str | None, str]:
    """A link's path in the repository, and its anchor; no path where it is to another host or within the page."""
    path, _, anchor = target.partition("#")
    if not path or re.match(r"[\w+.-]+:", path):
        return None, anchor
    return posixpath.normpath(posixpath.join(folder, path)), anchor
