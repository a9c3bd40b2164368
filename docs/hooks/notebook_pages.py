"""Notebooks as pages: their text, code and stored outputs; nothing is run while the site is built."""

from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path
from typing import Any

import site_links

FOLDER = site_links.ROOT / "docs" / "notebooks"
_PICTURES = ("image/svg+xml", "image/png", "image/jpeg")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


def notebooks() -> dict[str, str]:
    """Markdown of every notebook in docs/notebooks, by its name, in the order of the names."""
    return {file.stem: page(file) for file in sorted(FOLDER.glob("*.ipynb"))}


def page(file: Path) -> str:
    """Markdown of a notebook, with a link to the file itself after its heading."""
    cells = [_cell(cell) for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]]
    first, *others = [cell for cell in cells if cell]
    heading, _, below = first.partition("\n")
    link = f'<p class="notebook"><a href="{file.name}" download>The notebook itself</a></p>'
    return "\n\n".join([heading, link, below.strip(), *others]) + "\n"


def _cell(cell: dict[str, Any]) -> str:
    source = _text(cell["source"])
    if cell["cell_type"] == "markdown":
        return _equations(source).strip()
    if cell["cell_type"] != "code" or not source.strip():
        return ""
    return "\n\n".join([_block("python", source), *filter(None, map(_output, cell["outputs"]))])


def _output(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return _printed(_text(output["text"]))
    if output["output_type"] == "error":
        return _printed("\n".join(output["traceback"]))
    data = output["data"]
    for kind in _PICTURES:
        if kind in data:
            return _picture(kind, _text(data[kind]), _text(data.get("text/plain", "picture")))
    table = _text(data.get("text/html", ""))
    if table and "<script" not in table:
        return f'<div class="output">{_plain_table(table)}</div>'
    if "text/markdown" in data:
        return _equations(_text(data["text/markdown"]))
    return _printed(_text(data.get("text/plain", "")))


def _picture(kind: str, content: str, shown: str) -> str:
    encoded = content if kind != "image/svg+xml" else base64.b64encode(content.encode()).decode()
    source = f"data:{kind};base64,{''.join(encoded.split())}"
    return f'<img class="output" alt="{html.escape(shown)}" src="{source}">'


def _plain_table(table: str) -> str:
    """Without the look that pandas gives it, so that it has the site's."""
    table = re.sub(r"<style.*?</style>", "", table, flags=re.DOTALL)
    return re.sub(r"<(table|thead|tbody|tr)\b[^>]*>", r"<\1>", table)


def _printed(text: str) -> str:
    plain = re.sub(r"\x1b\[[\d;]*m", "", text).rstrip()
    return f'<div class="output" markdown>\n{_block("text", plain)}\n</div>' if plain else ""


def _block(language: str, text: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.strip(chr(10))}\n{fence}"


def _equations(markdown: str) -> str:
    """Dollars as notebooks write equations, in the form that the other pages have; not within code."""
    parts = _CODE.split(markdown)
    parts[::2] = map(_dollars, parts[::2])
    return "".join(parts)


def _dollars(text: str) -> str:
    text = re.sub(r"\$\$(.+?)\$\$", lambda m: f"\n```math\n{m[1].strip()}\n```\n", text, flags=re.DOTALL)
    return re.sub(r"(?<![\\$\w])\$(?![\s$`])([^$\n]+?)(?<!\s)\$(?![\w$])", r"$`\1`$", text)


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "".join(value)
