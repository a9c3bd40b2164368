"""A benchmark as text: rows of cells for any table, Markdown and LaTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hakg_dgl.ranking.comparison import Comparison
from hakg_dgl.ranking.comparison_text import (
    Row,
    differences_heading,
    differences_rows,
    heading,
    latex_table,
    latex_text,
    markdown_table,
    markdown_text,
)
from hakg_dgl.studies.benchmark_circumstances import PROTOCOL, cost_rows, data_rows, machine_lines
from hakg_dgl.studies.benchmark_results import caption, results, results_latex, results_markdown

FIGURE_CAPTION = "NDCG@20 on the test split over the seconds of one training with the best settings."
NEAR_AN_END = 0.01
"""Share of a range within which a best setting counts as at its end."""
SPACE_REMARK = (
    "Where what was best lies at an end of its range, a wider one may be better still. "
    "Among values joined by + every training chooses by itself."
)
COST_REMARK = "Of what is finished, added up over processes; training is that of all runs."
TEXT_COLUMNS = (
    "model",
    "loss",
    "group",
    "metric",
    "reason",
    "best settings",
    "setting",
    "searched",
    "data",
    "split",
    "digest",
)
HOW_TO_READ = (
    "In the rankings, p is that of the difference in NDCG@20 from the best model (bootstrap over users, Holm's "
    "correction). Tail is Recall@20 of the rarest items that together have a third of the interactions, cold that of "
    "the items without interactions before the test, both in the ranking of all items. Seconds are those of one "
    "training with the best settings, refit included. MiB is the peak memory of its process, Python and data included, "
    "or of the GPU. Parameters are what gradients change, numbers all that the trained model keeps."
)

BEYOND_REMARK = (
    "MAP and AUC measure accuracy too. Diversity, novelty and coverage tell what kind of lists a model makes; more is "
    "not better in itself."
)


def ranking_rows(data: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row for each model that has a finished run, the best first."""
    spread = _spread(data["comparison"])
    rows = []
    for row in data["ranking"]:
        if row["rank"] is not None:
            p = row["p"].get("ndcg@20")
            rows.append(
                {
                    "rank": str(row["rank"]),
                    "model": row["model"],
                    "NDCG@20": f"{row['metrics']['ndcg@20']:.4f}{spread.get((row['model'], 'ndcg@20'), '')}",
                    "p": "–" if p is None else "<0.0001" if p < 1e-4 else f"{p:.4f}",
                    "Recall@20": f"{row['metrics']['recall@20']:.4f}{spread.get((row['model'], 'recall@20'), '')}",
                    "tail": _number(row["tail"]),
                    "cold": _number(row["cold"]),
                    "seconds": _seconds(row["seconds"]),
                    "MiB": "–" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 2**20:,.0f}",
                    "parameters": f"{row['parameters']:,}",
                    "numbers": f"{row['stored']:,}",
                    "loss": row["loss"],
                    "runs": str(len(row["runs"])),
                }
            )
    return rows


def beyond_rows(data: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row for each model that has a finished run, in the order of the ranking: metrics that do not decide it."""
    shown = [row for row in data["ranking"] if row["rank"] is not None and row["beyond"]]
    columns = dict.fromkeys(metric for row in shown for metric in row["beyond"])
    return [
        {"model": row["model"]} | {metric: _number(row["beyond"].get(metric)) for metric in columns} for row in shown
    ]


def failed_rows(data: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row for each model that failed or is not finished, with the reason."""
    return [
        {"model": row["model"], "reason": " ".join(row["reason"].split())}
        for row in data["ranking"]
        if row["reason"] is not None
    ]


def tuning_rows(data: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row for each model whose settings were searched: trials, seconds, and what was best."""
    rows = []
    for row in data["ranking"]:
        if (tuning := row["tuning"]) is not None:
            trials = {state: count for state, count in tuning["trials"].items() if count and state != "repeated"}
            rows.append(
                {
                    "model": row["model"],
                    "trials": ", ".join(f"{count} {state}" for state, count in trials.items()),
                    "seconds": _seconds(tuning["seconds"]),
                    f"best {tuning['metric']} on validation": f"{tuning['value']:.4f}",
                    "best settings": ", ".join(f"{key} {_setting(v)}" for key, v in tuning["settings"].items()),
                }
            )
    return rows


def space_rows(data: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row for each setting of each model that was searched: its range, what was best, whether at an end of it."""
    rows = []
    for row in data["ranking"]:
        for key, dimension in (row["searched"] or {}).items():
            best = None if row["tuning"] is None else row["tuning"]["settings"].get(key)
            rows.append(
                {
                    "model": row["model"],
                    "setting": key,
                    "searched": _range(dimension),
                    "best": "–" if best is None else _setting(best),
                    "at an end": "yes" if _at_an_end(best, dimension) else "",
                }
            )
    return rows


def _range(dimension: Any) -> str:
    """A dimension of a search space: a range, or values."""
    if not isinstance(dimension, Mapping):
        return ", ".join(map(_setting, dimension))
    return f"{_setting(dimension['low'])} to {_setting(dimension['high'])}" + (", log" * bool(dimension.get("log")))


def _at_an_end(best: Any, dimension: Any) -> bool:
    """Whether a number lies within a hundredth of a range, or of its logarithm, from one of its ends, or beyond it."""
    if not isinstance(dimension, Mapping) or isinstance(best, bool) or not isinstance(best, (int, float)):
        return False
    low, best, high = (float(value) for value in (dimension["low"], best, dimension["high"]))
    if not low < best < high:
        return True
    if dimension.get("log"):
        low, best, high = math.log(low), math.log(best), math.log(high)
    return bool(min(best - low, high - best) <= NEAR_AN_END * (high - low))


def rank_rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row for each model that is ranked on all of several data sets: its mean rank, and that on each."""
    return [
        {"model": row["model"], "mean rank": f"{row['mean_rank']:.2f}"}
        | {name: str(rank) for name, rank in row["ranks"].items()}
        for row in found["mean_ranks"]
    ]


def sections(data: Mapping[str, Any]) -> Iterator[tuple[str, str, Sequence[Row]]]:
    """Title, remark and rows of each table on a data set."""
    comparison: Comparison | None = data["comparison"]
    if rows := ranking_rows(data):
        yield "Ranking", "" if comparison is None else heading(comparison), rows
    if rows := beyond_rows(data):
        yield "Beyond the ranking", BEYOND_REMARK, rows
    if rows := failed_rows(data):
        yield "Failed or not finished", "The same command tries these again.", rows
    if comparison is not None:
        yield "Differences from the best", differences_heading(comparison), differences_rows(comparison)
    if rows := tuning_rows(data):
        yield "Tuning", "The best of many validation metrics flatters; the ranking shows the test split.", rows
    if rows := space_rows(data):
        yield "Search spaces", SPACE_REMARK, rows
    if rows := cost_rows(data):
        yield "Cost", COST_REMARK, rows


def as_markdown(found: Mapping[str, Any], figure: str | None) -> str:
    """The report for people; ``figure`` is the name of the picture beside it, if there is one."""
    parts = [f"# {markdown_text(title(found))}", *map(markdown_text, [*found["notes"], HOW_TO_READ]), _given(found)]
    parts += map(markdown_text, machine_lines(found))
    if (table := results(found)) is not None:
        marks = "The best of a column is bold, the second in italics"
        parts += ["## Results", markdown_text(caption(found, marks)), results_markdown(table)]
    if figure is not None:
        parts.append(f"![Quality over training time]({figure})")
    parts += ["## Data sets and protocol", markdown_text(PROTOCOL), markdown_table(data_rows(found), TEXT_COLUMNS)]
    if found["mean_ranks"]:
        parts += ["## All data sets", markdown_table(rank_rows(found), TEXT_COLUMNS)]
    for data in found["datasets"]:
        parts.append(f"## {markdown_text(data['name'])}")
        for name, remark, rows in sections(data):
            parts += [f"### {name}", *([markdown_text(remark)] if remark else []), markdown_table(rows, TEXT_COLUMNS)]
    return "\n\n".join(parts) + "\n"


def as_latex(found: Mapping[str, Any], figure: str | None) -> str:
    """The tables for LaTeX (packages booktabs, adjustbox, graphicx), with captions and labels; the first is for papers.

    ``figure`` is the name of the picture beside it without its ending, if there is one.
    """
    parts = ["% needs \\usepackage{booktabs,adjustbox,graphicx}; the papers are in references.bib"]
    parts += map(latex_text, [*found["notes"], HOW_TO_READ, *machine_lines(found)])
    if (table := results(found)) is not None:
        parts.append(_float(latex_text(caption(found)).replace("†", "$^\\dagger$"), "results", results_latex(table)))
    if figure is not None:
        lines = ["\\begin{figure}[htbp]", "\\centering", f"\\includegraphics[width=\\linewidth]{{{figure}}}"]
        lines += [f"\\caption{{{FIGURE_CAPTION}}}", "\\label{fig:benchmark}", "\\end{figure}"]
        parts.append("\n".join(lines))
    parts.append(_float(latex_text(f"Data sets. {PROTOCOL}"), "data", latex_table(data_rows(found), TEXT_COLUMNS)))
    if found["mean_ranks"]:
        parts.append(_float("Ranks on all data sets.", "ranks", latex_table(rank_rows(found), TEXT_COLUMNS)))
    for place, data in enumerate(found["datasets"], 1):
        for name, remark, rows in sections(data):
            text = latex_text(f"{data['name']}: {name}. {remark}".rstrip())
            label = f"{place}-{name.lower().replace(' ', '-')}"
            parts.append(_float(text, label, _with_room(latex_table(rows, TEXT_COLUMNS), rows)))
    return "\n\n".join(part.replace("–", "--") for part in parts) + "\n"


def _float(caption_text: str, label: str, tabular: str) -> str:
    """A table that LaTeX places, no wider than a line."""
    lines = ["\\begin{table}[htbp]", "\\centering", f"\\caption{{{caption_text}}}", f"\\label{{tab:benchmark-{label}}}"]
    lines += ["\\begin{adjustbox}{max width=\\linewidth}", tabular, "\\end{adjustbox}", "\\end{table}"]
    return "\n".join(lines)


def _with_room(tabular: str, rows: Sequence[Row]) -> str:
    """A table whose last column breaks its lines, if it holds sentences."""
    if list(rows[0])[-1] not in ("best settings", "reason"):
        return tabular
    return re.sub(r"l\}", r"p{0.5\\linewidth}}", tabular, count=1)


def title(found: Mapping[str, Any]) -> str:
    """What the report is on."""
    return f"Benchmark on {', '.join(data['name'] for data in found['datasets'])}"


def given(found: Mapping[str, Any]) -> dict[str, str]:
    """What the benchmark was made with, as texts."""
    budget, overrides = found["budget"], found["overrides"]
    shown = {"trials": budget["trials"], "seconds of tuning": budget["seconds"], "seeds": found["seeds"]}
    return {name: f"{value:g}" for name, value in shown.items() if value is not None} | {
        key: _setting(value) for key, value in overrides.items()
    }


def _given(found: Mapping[str, Any]) -> str:
    return "Given: " + markdown_text(", ".join(f"{name} {value}" for name, value in given(found).items())) + "."


def _spread(comparison: Comparison | None) -> dict[tuple[str, str], str]:
    """Model and metric -> the standard deviation over runs, of models with several."""
    if comparison is None:
        return {}
    return {
        (group.label, metric): f" ± {estimate.sd:.4f}"
        for group in comparison.groups
        for metric, estimate in group.metrics.items()
        if estimate.sd is not None
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _seconds(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.2f}"


def _setting(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "+".join(map(_setting, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)
