"""The HTML page of a benchmark: one file that fetches nothing; Jinja escapes every value."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from hakg_dgl.studies.benchmark_circumstances import PROTOCOL, data_rows, machine_lines
from hakg_dgl.studies.benchmark_results import caption, results
from hakg_dgl.studies.benchmark_text import HOW_TO_READ, TEXT_COLUMNS, given, rank_rows, sections, title

_TEMPLATE = "benchmark.html.jinja"


def as_html(found: Mapping[str, Any], figure: bytes | None) -> str:
    """The report as a page; ``figure`` is the picture as SVG, if there is one."""
    environment = Environment(
        loader=PackageLoader("hakg_dgl.studies", ""),
        autoescape=True,
        finalize=_written,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE).render(
        title=title(found),
        notes=found["notes"],
        how_to_read=HOW_TO_READ,
        given=given(found),
        machine=machine_lines(found),
        results=results(found),
        caption=caption(found),
        protocol=PROTOCOL,
        data_rows=data_rows(found),
        figure=None if figure is None else base64.b64encode(figure).decode("ascii"),
        mean_ranks=rank_rows(found),
        datasets=[(data["name"], list(sections(data))) for data in found["datasets"]],
        text_columns=TEXT_COLUMNS,
    )


def _written(value: Any) -> Any:
    """A value with question marks in place of control characters; it is escaped after this."""
    if type(value) is not str:
        return value
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in value)
