"""A comparison as text: rows of cells for any table, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from hakg_dgl.ranking.comparison import Comparison, Estimate

Row = Mapping[str, str]

_TEXT_COLUMNS = {"group", "metric"}
_TESTS = {"t": "t-test", "wilcoxon": "Wilcoxon"}


def means_rows(comparison: Comparison) -> list[dict[str, str]]:
    """A row a group: its runs, and for each metric mean, standard deviation over runs, and interval."""
    return [
        {
            "group": group.label,
            "runs": str(len(group.runs)),
            **{
                name: cell
                for metric, estimate in group.metrics.items()
                for name, cell in (
                    (metric, _mean_and_sd(estimate)),
                    (f"{_percent(comparison)} of {metric}", _interval(estimate.low, estimate.high)),
                )
            },
        }
        for group in comparison.groups
    ]


def differences_rows(comparison: Comparison) -> list[dict[str, str]]:
    """A row a group and metric: how it differs from the reference, and whether by chance."""
    return [
        {
            "group": found.group,
            "metric": found.metric,
            "difference": f"{found.mean:+.4f}",
            _percent(comparison): _interval(found.low, found.high, "+"),
            "p bootstrap": _p(found.p_bootstrap_holm),
            f"p {_TESTS[comparison.test]}": _p(found.p_test_holm),
            "wins": f"{found.wins:,}",
            "ties": f"{found.ties:,}",
            "losses": f"{found.losses:,}",
        }
        for found in comparison.differences
    ]


def heading(comparison: Comparison) -> str:
    """What was measured."""
    masked = f"; items of {' and '.join(comparison.mask)} masked" if comparison.mask else ""
    return (
        f"{comparison.split}: {comparison.n_users:,} users{masked}. Mean ± standard deviation over runs; "
        f"{_percent(comparison)} intervals over users ({comparison.resamples:,} resamples, seed {comparison.seed})."
    )


def differences_heading(comparison: Comparison) -> str:
    """What the differences are from, and how their p values are corrected."""
    how = "" if comparison.reference_is == "named" else f", the best {comparison.metrics[0]}"
    n = len(comparison.differences)
    return (
        f"Differences from {comparison.reference}{how}, by user; p values corrected for "
        f"{n} comparison{'s' if n > 1 else ''} (Holm)."
    )


def to_markdown(comparison: Comparison) -> str:
    """Two Markdown tables with their headings; the notes stand first."""
    parts = [f"**Note:** {_escaped(note, _MARKDOWN)}" for note in comparison.notes]
    parts += [_escaped(heading(comparison), _MARKDOWN), markdown_table(means_rows(comparison))]
    if comparison.differences:
        parts += [_escaped(differences_heading(comparison), _MARKDOWN), markdown_table(differences_rows(comparison))]
    return "\n\n".join(parts) + "\n"


def to_latex(comparison: Comparison) -> str:
    """Two LaTeX tables (package booktabs) with their headings; the notes stand first."""
    parts = ["% needs \\usepackage{booktabs}"]
    parts += [f"\\textbf{{Note:}} {_escaped(note, _LATEX)}" for note in comparison.notes]
    parts += [_escaped(heading(comparison), _LATEX), latex_table(means_rows(comparison))]
    if comparison.differences:
        parts += [_escaped(differences_heading(comparison), _LATEX), latex_table(differences_rows(comparison))]
    return "\n\n".join(parts) + "\n"


_MARKDOWN = {letter: f"\\{letter}" for letter in "\\`*_[]<>|~#$"} | {"&": "&amp;"}
_LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}",
    ">": "\\textgreater{}", "|": "\\textbar{}", '"': "\\textquotedbl{}", "±": "$\\pm$",
    "[": "{[}", "*": "{*}",  # after the end of a row, LaTeX would take these for its options
}  # fmt: skip
_SIGNS = {"-": "$-$", "+": "$+$"}  # in text a minus is a hyphen


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is."""
    return _escaped(text, _MARKDOWN)


def latex_text(text: str) -> str:
    """Text that LaTeX shows as it is."""
    return _escaped(text, _LATEX).replace("--", "-{}-")  # which would be a dash


def markdown_table(rows: Sequence[Row], text_columns: Collection[str] = _TEXT_COLUMNS) -> str:
    """At least one row as a Markdown table; all but the text columns are aligned to the right."""
    lines = [[_escaped(cell, _MARKDOWN) for cell in line] for line in (rows[0], *(row.values() for row in rows))]
    lines.insert(1, ["---" if name in text_columns else "---:" for name in rows[0]])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def latex_table(rows: Sequence[Row], text_columns: Collection[str] = _TEXT_COLUMNS) -> str:
    """At least one row as a LaTeX table (package booktabs); all but the text columns are aligned to the right."""
    marks = {name: _LATEX if name in text_columns else _LATEX | _SIGNS for name in rows[0]}
    lines = [[_escaped(name, _LATEX) for name in marks]]
    lines += [[_escaped(row[name], marks[name]) for name in marks] for row in rows]
    head, *body = (f"{' & '.join(line)} \\\\" for line in lines)
    columns = "".join("l" if name in text_columns else "r" for name in marks)
    return "\n".join(
        [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", head, "\\midrule", *body, "\\bottomrule", "\\end{tabular}"]
    )


def _escaped(text: str, marks: Mapping[str, str]) -> str:
    """Text without control characters, and with the marks of a language taken literally."""
    return "".join(marks.get(letter, letter) if letter.isprintable() else "?" for letter in text)


def _mean_and_sd(estimate: Estimate) -> str:
    return f"{estimate.mean:.4f}" + ("" if estimate.sd is None else f" ± {estimate.sd:.4f}")


def _interval(low: float, high: float, sign: str = "") -> str:
    return f"{low:{sign}.4f} to {high:{sign}.4f}"


def _percent(comparison: Comparison) -> str:
    return f"{100 * comparison.level:g}%"


def _p(value: float) -> str:
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"
