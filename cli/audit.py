"""``hakg audit`` tells what the facts of a data set are worth to a model."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from hakg_dgl.models.registry import model_names

from .failures import Failure, after_interrupt
from .files import write_json
from .report import shown, table
from .study_options import SeedsCommand, runs_bar, seeds_option, training_options


@click.command(
    "audit",
    cls=SeedsCommand,
    epilog="\b\nExamples:\n"
    "  hakg audit data/demo --out studies/demo-facts --epochs 30\n"
    "  hakg audit data/last-fm --out studies/last-fm-facts --model kgat --seeds 1 2 3 4 5 --workers 4\n"
    "  hakg audit data/demo --out studies/demo-facts --only none --only shuffled\n",
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the study.")
@click.option("--model", "kind", type=click.Choice(model_names()), help="Model that is trained; hakg by default.")
@seeds_option
@click.option(
    "--only", multiple=True, metavar="NAME", help="Train on these facts and the true ones only; repeatable; see "
    "docs/knowledge.md.",
)  # fmt: skip
@training_options
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def audit_command(
    data: Path, out: Path, seeds: tuple[int, ...] | None, only: tuple[str, ...], preset: str | None,
    config: Path | None, assignments: tuple[str, ...], workers: int, threads: int | None, resamples: int,
    as_json: bool, **settings_given: Any,
) -> None:  # fmt: skip
    """Tell what the facts of DATA are worth to a model.

    It is trained on the true facts, on none, on facts with shuffled tails, and on 75, 50 and 25 percent of the true
    ones, over several seeds. OUT holds the study: a run for each of them and each seed, the report (report.md and
    report.json) and a figure. Give the same command again to continue it; the settings may then be left out.
    Checkpoints are selected on the validation split; the report shows the test split.
    """
    from hakg_dgl.data.dataset import load_dataset
    from hakg_dgl.models.settings import Settings
    from hakg_dgl.studies.audit import AuditStudy

    given = [f"{key}={value}" for key, value in settings_given.items() if value is not None]
    settings = None
    if preset or config or assignments or given:
        settings = Settings.resolve(preset=preset or "default", file=config, overrides=[*assignments, *given])
    study = AuditStudy(out, load_dataset(data), settings, seeds=seeds, data_path=data)
    after_interrupt(f"Continue with: hakg audit {shlex.quote(str(data))} --out {shlex.quote(str(out))}")
    with runs_bar() as progress:
        report = study.run(only, workers=workers, threads=threads, resamples=resamples, on_progress=progress)
    if as_json:
        write_json(report, Path("-"))
    else:
        _show(report, out)
    if report["failed"]:
        reasons = "\n".join(f"  {run['facts']}, seed {run['seed']}: {run['reason']}" for run in report["failed"])
        raise Failure(f"{len(report['failed'])} runs failed; the same command tries them again:\n{reasons}")


def _show(report: dict[str, Any], out: Path) -> None:
    """Print the sentence, and a table for each segment."""
    click.echo(f"{shown(report['verdict'])}\n")
    for note in report["notes"]:
        click.echo(shown(note))
    for segment in report["segments"].values():
        click.echo(f"\n{shown(segment['label'].capitalize())}: {shown(segment['sentence'])}")
        click.echo(table(_rows(segment, report["metrics"])))
    click.echo(f"\nWrote {out}: report.md and .json, {len(report['runs'])} runs")


def _rows(segment: dict[str, Any], metrics: list[str]) -> Iterator[dict[str, Any]]:
    """A row for each kind of facts: means, their differences from those with the true facts, p values, and KGER."""
    found = segment["comparison"]
    apart = {(row["group"], row["metric"]): row for row in found["differences"]}
    used = {(row["facts"], row["metric"]): row for row in segment["utilisation"]}
    for group in found["groups"]:
        row: dict[str, Any] = {"facts": group["label"], "runs": len(group["runs"])}
        for metric in metrics:
            key = (group["label"], metric)
            own = apart.get(key, {"mean": None, "p_test_holm": None})
            row |= {metric: group["metrics"][metric]["mean"], f"d {metric}": own["mean"]}
            row |= {f"p {metric}": own["p_test_holm"], f"KGER {metric}": used.get(key, {"kger": None})["kger"]}
        yield row
