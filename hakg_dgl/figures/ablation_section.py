"""The results of a study by ``hakg ablate`` for the report: its numbers are read, tables and pictures made anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import DataError, IntegrityError
from hakg_dgl.figures.markup import Markup, element, escaped, table
from hakg_dgl.figures.style import inline_svg
from hakg_dgl.ranking.comparison import Comparison, Difference, Estimate, Group
from hakg_dgl.studies.ablation_figures import ablation_figure, depth_figure
from hakg_dgl.studies.ablation_report import TITLES

_AGAIN = "Give the folder that 'hakg ablate' wrote, or write its report again with the same command."


def ablation_section(study: str | Path, dataset: Dataset) -> list[Markup]:
    """Notes, tables and pictures of a study.

    Parameters
    ----------
    study
        Folder with ``report.json``.
    dataset
        The study must be on this data set.

    Raises
    ------
    DataError
        If there is no report, or it is damaged.
    IntegrityError
        If the study is on another data set.
    """
    file = Path(study) / "report.json"
    report = _read(file)
    try:
        digest, notes = report["data"]["digest"], [str(note) for note in report["notes"]]
        layers, tables = (
            int(report["settings"]["model"]["layers"]),
            {k: _compared(v) for k, v in report["tables"].items()},
        )
        if digest != dataset.digest:
            raise IntegrityError(f"the study is on data set {report['data']['name']!r}, not on this one", path=file)
        parts = [element("p", note) for note in notes]
        for name, title in TITLES.items():
            if name in tables:
                found = tables[name]
                figure = ablation_figure(found) if name == "ablation" else depth_figure(found, layers)
                svg = Markup(inline_svg(figure, f"study-{name}"))
                parts += [element("h3", title), element("figure", svg), table(_rows(found)), _legend(found)]
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"is damaged, or no report of a study ({error!r})", path=file, remedy=_AGAIN) from error
    return parts if tables else [*parts, element("p", "The study has nothing to compare yet.")]


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise DataError("there is no report of a study", path=file, remedy=_AGAIN)
    try:
        report = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot be read: {error}", path=file, remedy=_AGAIN) from error
    if not isinstance(report, dict):
        raise DataError("is no JSON object", path=file, remedy=_AGAIN)
    return report


def _compared(values: dict[str, Any]) -> Comparison:
    groups = tuple(
        Group(group["label"], group["runs"], {name: Estimate(**of) for name, of in group["metrics"].items()})
        for group in values["groups"]
    )
    differences = tuple(Difference(**difference) for difference in values["differences"])
    lists = {name: tuple(values[name]) for name in ("metrics", "mask", "notes")}
    return Comparison(**values | lists | {"groups": groups, "differences": differences})


def _rows(found: Comparison) -> list[dict[str, Any]]:
    apart = {(difference.group, difference.metric): difference for difference in found.differences}
    rows = []
    for group in found.groups:
        row: dict[str, Any] = {"model": group.label, "runs": len(group.runs)}
        for metric in found.metrics:
            estimate, difference = group.metrics[metric], apart.get((group.label, metric))
            row[metric] = f"{estimate.mean:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"
            row[f"Δ {metric} (p)"] = (
                "reference"
                if group.label == found.reference
                else Markup("–")
                if difference is None
                else f"{difference.mean:+.4f} ({difference.p_bootstrap_holm:.3f})"
            )
        rows.append(row)
    return rows


def _legend(found: Comparison) -> Markup:
    text = (
        f"{found.split.capitalize()} split, {found.n_users:,} users. In brackets: {found.level:.0%} intervals over "
        f"users. Δ: difference from {found.reference}, with the bootstrap's p corrected by Holm's method."
    )
    return element("p", escaped(text), class_="soft")
