"""One HTML page with all there is to say about a run; the page fetches nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hakg_dgl.figures.ablation_section import ablation_section
from hakg_dgl.figures.markup import page
from hakg_dgl.figures.pictures import Picture, pictures
from hakg_dgl.figures.report_examples import example_lists
from hakg_dgl.figures.report_tables import circumstances, data_tables, metric_tables, setting_tables
from hakg_dgl.figures.style import inline_svg, require_matplotlib
from hakg_dgl.figures.subject import Subject

_HEADLINE = ("recall@20", "ndcg@20", "hit@20")
_HIERARCHY = ("disk", "depth", "popularity", "relations")


def report_page(
    subject: Subject,
    *,
    notes: Iterable[str] = (),
    ablation: str | Path | None = None,
    examples: int = 3,
    begin: Callable[[str], None] = lambda step: None,
) -> str:
    """The page as text.

    Parameters
    ----------
    subject
        The run.
    notes
        Remarks about the numbers, for the top of the page.
    ablation
        Folder of a study by ``hakg ablate`` on the same data set; the page shows its results.
    examples
        Number of users to show recommendations for.
    begin
        A function that is called with the name of each step when the step begins.

    Raises
    ------
    MissingDependencyError
        If Matplotlib is missing.
    DataError
        If the study cannot be read, or is on another data set.
    """
    require_matplotlib()
    study = None if ablation is None else ablation_section(ablation, subject.dataset)
    begin("pictures")
    drawn = {picture.name: _inline(picture) for picture in pictures(subject)}
    hierarchy = [name for name in _HIERARCHY if name in drawn]
    sections = {
        "Data": True,
        "Settings": True,
        "Training": True,
        "Metrics": True,
        "Ablation": study is not None,
        "Hierarchy": bool(hierarchy),
        "Examples": True,
    }
    begin("tables")
    tables = {
        "data": data_tables(subject.dataset),
        "settings": setting_tables(subject.settings),
        "circumstances": circumstances(subject.folder),
        "metrics": metric_tables(subject.evaluations),
    }
    begin("examples")
    return page(
        "report.html.jinja",
        title=f"{subject.dataset.name}: run {subject.folder.path.resolve().name} ({subject.settings.kind})",
        lead=_lead(subject),
        notes=list(notes),
        headline=_headline(subject),
        sections=[name for name, shown in sections.items() if shown],
        pictures={"curves": None, "groups": None, **drawn},
        hierarchy=hierarchy,
        study=study,
        examples=example_lists(subject, examples),
        **tables,
    )


def _lead(subject: Subject) -> str:
    counts = subject.dataset
    return (
        f"{counts.n_users:,} users, {counts.n_items:,} items, {counts.n_entities:,} entities, "
        f"{counts.n_relations:,} relations. Model {subject.settings.kind}."
    )


def _headline(subject: Subject) -> dict[str, str]:
    """Metrics that stand large at the top; empty if there is no split to measure on."""
    if not subject.evaluations:
        return {}
    first = subject.evaluations["model"]
    return {f"{name}, {first.split}": f"{first.metrics[name]:.4f}" for name in _HEADLINE}


def _inline(picture: Picture) -> dict[str, Any]:
    svg = Markup(inline_svg(picture.figure, picture.name))
    return {"name": picture.name, "title": picture.title, "caption": picture.caption, "svg": svg}
