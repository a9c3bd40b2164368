"""The section of the report on a study by ``hakg ablate``: reads its numbers, makes tables and pictures anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import DataError, IntegrityError
from hakg_dgl.figures.markup import NumberText, table
from hakg_dgl.figures.style import inline_svg
from hakg_dgl.ranking.comparison import Comparison, Difference, Estimate, Group
from hakg_dgl.studies.ablation_figures import ablation_figure, depth_figure
from hakg_dgl.studies.ablation_report import TITLES

_AGAIN = "Give the folder that 'hakg ablate' wrote, or write its report again with the same command."


def ablation_section(study: str | Path, dataset: Dataset) -> dict[str, Any]:
    """Notes, tables and pictures of a study.

    Parameters
    ----------
    study
        The folder with ``report.json``.
    dataset
        The data set that the study must be on.

    Returns
    -------
    dict
        ``notes``, and ``parts``, each with ``title``, ``svg``, ``table`` and ``legend``; no parts if the study has
        nothing to compare yet.

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
        layers = int(report["settings"]["model"]["layers"])
        tables = {name: _compared(values) for name, values in report["tables"].items()}
        if digest != dataset.digest:
            raise IntegrityError(f"the study is on data set {report['data']['name']!r}, not on this one", path=file)
        parts = [_part(name, title, tables[name], layers) for name, title in TITLES.items() if name in tables]
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"is damaged, or is not a report of a study ({error!r})", path=file, remedy=_AGAIN) from error
    return {"notes": notes, "parts": parts}


def _part(name: str, title: str, found: Comparison, layers: int) -> dict[str, Any]:
    figure = ablation_figure(found) if name == "ablation" else depth_figure(found, layers)
    svg = Markup(inline_svg(figure, f"study-{name}"))
    return {"title": title, "svg": svg, "table": table(_rows(found)), "legend": _legend(found)}


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise DataError("there is no report of a study", path=file, remedy=_AGAIN)
    try:
        report = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot be read: {error}", path=file, remedy=_AGAIN) from error
    if not isinstance(report, dict):
        raise DataError("is not a JSON object", path=file, remedy=_AGAIN)
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
            row[f"Δ {metric} (p)"] = _difference(group.label == found.reference, difference)
        rows.append(row)
    return rows


def _difference(is_reference: bool, difference: Difference | None) -> str:
    if is_reference:
        return "reference"
    if difference is None:
        return NumberText("–")
    return f"{difference.mean:+.4f} ({difference.p_bootstrap_holm:.3f})"


def _legend(found: Comparison) -> str:
    return (
        f"{found.split.capitalize()} split, {found.n_users:,} users. In brackets: {found.level:.0%} intervals over "
        f"users. Δ: difference from {found.reference}, with the bootstrap's p corrected by Holm's method."
    )
