"""What pyproject.toml cannot say: the long description is README.md without links that lead nowhere elsewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from setuptools import setup

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent
LINK = re.compile(r"(!?)\[((?:!\[[^\]]*\]\([^)]*\)|[^\[\]])*)\]\((?!\w+:|#)([^)\s]+)\)")


def long_description(readme: str, project: dict[str, Any]) -> str:
    """README.md as an index of packages shows it, where a relative link or picture would be broken.

    With a ``Source`` among the project's addresses they lead to the files there, as of this version's tag. Without one
    a link becomes its text, and a picture is left out.
    """
    source = project.get("urls", {}).get("Source", "").rstrip("/")

    def outside(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        text = LINK.sub(outside, text)
        if source:
            return f"{picture}[{text}]({source}/{'raw' if picture else 'blob'}/v{project['version']}/{target})"
        return "" if picture else text

    return LINK.sub(outside, readme)


if __name__ == "__main__":
    described = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    setup(
        long_description=long_description((ROOT / "README.md").read_text(encoding="utf-8"), described),
        long_description_content_type="text/markdown",
    )
