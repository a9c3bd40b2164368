"""The table of a benchmark that goes into a paper: models by data sets, the best and what differs from it marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from hakg_dgl.ranking.comparison import Comparison
from hakg_dgl.ranking.comparison_text import latex_text, markdown_text
from hakg_dgl.studies.benchmark_references import keys

LEVEL = 0.05
"""Corrected p below which a difference is marked."""
METRICS = {"recall@20": "Recall@20", "ndcg@20": "NDCG@20"}


@dataclass(frozen=True)
class Cell:
    """A mean in the table.

    Attributes
    ----------
    text
        The mean and, over several runs, the standard deviation; a dash where there is none.
    best, second
        Whether it is the largest of its column, or the next one.
    differs
        Whether the model differs in this metric from the best one by NDCG@20, users resampled.
    """

    text: str
    best: bool = False
    second: bool = False
    differs: bool = False


@dataclass(frozen=True)
class Results:
    """The table.

    Attributes
    ----------
    datasets
        Names, each with a column for each of :data:`METRICS`.
    rows
        Names of models with their cells; the best by mean NDCG@20 ranks first.
    """

    datasets: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]

    @property
    def columns(self) -> list[str]:
        """Headings of all columns but that of the models."""
        if len(self.datasets) == 1:
            return list(METRICS.values())
        return [f"{name} {metric}" for name in self.datasets for metric in METRICS.values()]


def results(found: Mapping[str, Any]) -> Results | None:
    """The table of a report of :func:`~hakg_dgl.studies.benchmark_report.summary`; None while nothing is ranked."""
    ranks: dict[str, list[int]] = {}
    cells: list[dict[str, Cell]] = []
    for data in found["datasets"]:
        ranked = [row for row in data["ranking"] if row["rank"] is not None]
        for row in ranked:
            ranks.setdefault(row["model"], []).append(row["rank"])
        cells += [_column(ranked, metric, data["comparison"]) for metric in METRICS]
    if not ranks:
        return None
    n = len(found["datasets"])
    order = sorted(ranks, key=lambda model: (-len(ranks[model]) if n > 1 else 0, fmean(ranks[model]), model))
    rows = tuple((model, tuple(column.get(model, Cell("–")) for column in cells)) for model in order)
    return Results(tuple(data["name"] for data in found["datasets"]), rows)


def caption(found: Mapping[str, Any], marks: str = "The best of a column is bold, the second underlined") -> str:
    """What the table shows and what its marks mean."""
    seeds = found["seeds"]
    of = "one run" if seeds == 1 else f"{seeds} runs (mean ± standard deviation; models in closed form once)"
    return (
        f"Recall@20 and NDCG@20 on the test split, full ranking, {of}. {marks}. † differs from the model with the best "
        f"NDCG@20, p < {LEVEL} (paired bootstrap over users, corrected by Holm's method)."
    )


def results_markdown(table: Results) -> str:
    """The table for Markdown: the best in bold, the second in italics."""
    head = ["model", *table.columns]
    lines = [[markdown_text(name) for name in head], ["---", *["---:"] * len(table.columns)]]
    for model, cells in table.rows:
        lines.append([markdown_text(model), *(_marked(cell, "**{}**", "*{}*", "{}†") for cell in cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def results_latex(table: Results) -> str:
    r"""The table for LaTeX (package booktabs): the best in bold, the second underlined, models with ``\cite``."""
    lines = [f"\\begin{{tabular}}{{l{'rr' * len(table.datasets)}}}", "\\toprule"]
    if len(table.datasets) > 1:
        groups = [f"\\multicolumn{{2}}{{c}}{{{latex_text(name)}}}" for name in table.datasets]
        rules = [f"\\cmidrule(lr){{{2 * place + 2}-{2 * place + 3}}}" for place in range(len(table.datasets))]
        lines += [f" & {' & '.join(groups)} \\\\", " ".join(rules)]
    lines += [" & ".join(["model", *[*METRICS.values()] * len(table.datasets)]) + " \\\\", "\\midrule"]
    for model, cells in table.rows:
        cited = f"~\\cite{{{','.join(keys(model))}}}" if keys(model) else ""
        shown = [_marked(cell, "\\textbf{{{}}}", "\\underline{{{}}}", "{}$^\\dagger$") for cell in cells]
        lines.append(" & ".join([latex_text(model) + cited, *shown]).replace("±", "$\\pm$") + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])


def _column(ranked: Sequence[Mapping[str, Any]], metric: str, comparison: Comparison | None) -> dict[str, Cell]:
    """Cells by model."""
    spread = {} if comparison is None else {group.label: group.metrics[metric].sd for group in comparison.groups}
    different = set()
    if comparison is not None:
        different = {x.group for x in comparison.differences if x.metric == metric and x.p_bootstrap_holm < LEVEL}
    values = sorted({round(row["metrics"][metric], 4) for row in ranked}, reverse=True)
    cells = {}
    for row in ranked:
        model, value = row["model"], round(row["metrics"][metric], 4)
        deviation = spread.get(model)
        text = f"{value:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")
        cells[model] = Cell(text, value == values[0], value in values[1:2], model in different)
    return cells


def _marked(cell: Cell, best: str, second: str, differs: str) -> str:
    text = best.format(cell.text) if cell.best else second.format(cell.text) if cell.second else cell.text
    return differs.format(text) if cell.differs else text
