"""``hakg ablate`` makes the publication's study on a data set."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from .failures import Failure, after_interrupt
from .report import shown, table
from .study_options import SeedsCommand, runs_bar, seeds_option, training_options


@click.command(
    "ablate",
    cls=SeedsCommand,
    epilog="\b\nExamples:\n"
    "  hakg ablate data/demo --out studies/demo --epochs 30\n"
    "  hakg ablate data/last-fm --out studies/last-fm --preset paper --seeds 1 2 3 4 5 --workers 4\n"
    "  hakg ablate data/demo --out studies/demo --only full --only no-gate\n",
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the study.")
@seeds_option
@click.option(
    "--only", multiple=True, metavar="NAME", help="Train this variant only; repeatable; see docs/ablation.md."
)
@training_options
def ablate_command(
    data: Path, out: Path, seeds: tuple[int, ...] | None, only: tuple[str, ...], preset: str | None,
    config: Path | None, assignments: tuple[str, ...], workers: int, threads: int | None, resamples: int,
    **settings_given: Any,
) -> None:  # fmt: skip
    """Compare the model without each of its parts.

    It is also trained with one to four layers and in both formulations, over several seeds. OUT holds the study: a run
    for each variant and seed, tables (report.md, .tex, .csv, .json) and figures. Give the same command again to
    continue it; the settings may then be left out. Checkpoints are selected on the validation split; the tables show
    the test split.
    """
    from hakg_dgl.data.dataset import load_dataset
    from hakg_dgl.models.settings import Settings
    from hakg_dgl.studies.ablation import AblationStudy

    given = [f"{key}={value}" for key, value in settings_given.items() if value is not None]
    settings = None
    if preset or config or assignments or given:
        settings = Settings.resolve(preset=preset or "default", file=config, overrides=[*assignments, *given])
    study = AblationStudy(out, load_dataset(data), settings, seeds=seeds, data_path=data)
    after_interrupt(f"Continue with: hakg ablate {shlex.quote(str(data))} --out {shlex.quote(str(out))}")
    with runs_bar() as progress:
        report = study.run(only, workers=workers, threads=threads, resamples=resamples, on_progress=progress)
    for note in report["notes"]:
        click.echo(shown(note))
    for found in report["tables"].values():
        click.echo(f"\n{table(_rows(found, report['metrics']))}")
    click.echo(f"\nWrote {out}: report.md, .tex, .csv and .json, {len(report['runs'])} runs")
    if report["failed"]:
        reasons = "\n".join(f"  {run['variant']}, seed {run['seed']}: {run['reason']}" for run in report["failed"])
        raise Failure(f"{len(report['failed'])} runs failed; the same command tries them again:\n{reasons}")


def _rows(found: dict[str, Any], metrics: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each model: means, and their differences from the full model, with corrected p values."""
    apart = {(row["group"], row["metric"]): row for row in found["differences"]}
    for group in found["groups"]:
        row: dict[str, Any] = {"model": group["label"], "runs": len(group["runs"])}
        for metric in metrics:
            own = apart.get((group["label"], metric), {"mean": None, "p_bootstrap_holm": None})
            row |= {metric: group["metrics"][metric]["mean"], f"d {metric}": own["mean"]}
            row[f"p {metric}"] = own["p_bootstrap_holm"]
        yield row
