"""``hakg benchmark`` tunes, trains and ranks the models on data sets."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .failures import Failure, after_interrupt
from .files import ResultPath, write_json
from .progress import bar
from .report import shown, table

if TYPE_CHECKING:
    from hakg_dgl import BenchmarkProgress


@click.command(
    "benchmark",
    epilog="\b\nExamples:\n"
    "  hakg benchmark data/demo --out studies/demo --models popularity,ease,bpr-mf,hakg --trials 10\n"
    "  hakg benchmark data/ml-100k data/music --out studies/field --models all --set ranking_loss=softmax\n"
    "  hakg benchmark data/demo --out studies/losses --models kgin,kgin:bpr,hakg,hakg:hinge\n"
    "  hakg benchmark data/demo --out studies/demo\n",
)
@click.argument("data", metavar="DATA...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the study.")
@click.option(
    "--models",
    metavar="all|NAME,...",
    help="Models to rank (docs/models.md); NAME:LOSS or all:LOSS for another ranking loss.  [default: all]",
)
@click.option(
    "--trials", type=click.IntRange(0),
    help="Trials of the search for each model's settings; 0 leaves them.  [default: 20, or no limit with --time]",
)  # fmt: skip
@click.option(
    "--time", "seconds", type=click.FloatRange(0, min_open=True), help="Begin no trial of a model after SECONDS."
)
@click.option(
    "--seeds", type=click.IntRange(1, 1000), help="Number of seeds to train the best settings with.  [default: 3]"
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="One setting of all models that read it; repeatable.",
)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Number of processes.")
@click.option("--threads", type=click.IntRange(1), help="Threads of each worker.  [default: all, shared out]")
@click.option(
    "--json", "json_file", type=ResultPath(dash=True), metavar="FILE", help="Also write the report there; - prints it."
)
def benchmark_command(
    data: tuple[Path, ...], out: Path, models: str | None, trials: int | None, seconds: float | None,
    seeds: int | None, assignments: tuple[str, ...], workers: int, threads: int | None, json_file: Path | None,
) -> None:  # fmt: skip
    """Tune, train and rank models on each DATA.

    Each model is tuned with the same budget on the validation split, trained with several seeds, and measured once a
    run on the test split. OUT holds the study: report.md, .tex, .json and .html, a figure, and everything trained.
    Give the same command again to continue it; all but DATA and --out may then be left out.
    """
    from hakg_dgl.data.dataset import load_dataset
    from hakg_dgl.settings.toml import parse_assignments
    from hakg_dgl.studies.benchmark import BenchmarkStudy

    names = None if models is None else [name.strip() for name in models.split(",") if name.strip()]
    overrides = parse_assignments(assignments) if assignments else None
    study = BenchmarkStudy(
        out, [load_dataset(path) for path in data], names, overrides=overrides, trials=trials, seconds=seconds,
        seeds=seeds, data_paths=data,
    )  # fmt: skip
    after_interrupt(f"Continue with: {shlex.join(['hakg', 'benchmark', *map(str, data), '--out', str(out)])}")
    with _steps_bar() as progress:
        report = study.run(workers=workers, threads=threads, on_progress=progress)
    if json_file is not None:
        write_json(report, json_file)
    if str(json_file) != "-":
        _show(report, out)
    rows = [(row, found["name"]) for found in report["datasets"] for row in found["ranking"]]
    failed = [f"  {row['model']} on {name}: {row['reason']}" for row, name in rows if row["reason"] is not None]
    if failed:
        reasons = "\n".join(failed)
        raise Failure(f"{len(failed)} of {len(rows)} models failed; the same command tries them again:\n{reasons}")


def _show(report: dict[str, Any], out: Path) -> None:
    """Print the notes, a table for each data set, and what the study took."""
    from hakg_dgl.studies.benchmark_circumstances import machine_lines

    for note in report["notes"]:
        click.echo(shown(note))
    for found in report["datasets"]:
        rows = [_row(row) for row in found["ranking"] if row["rank"] is not None]
        if rows:
            click.echo(f"\n{shown(found['name'])}\n{table(rows)}")
    click.echo(f"\n{machine_lines(report)[0]}")
    click.echo(f"Wrote {out}: report.md, .tex, .json and .html, and the models' papers in references.bib")


def _row(row: dict[str, Any]) -> dict[str, Any]:
    memory = row["memory_bytes"]
    return {
        "rank": row["rank"],
        "model": row["model"],
        **row["metrics"],
        "p ndcg@20": row["p"].get("ndcg@20"),
        "tail": row["tail"],
        "cold": row["cold"],
        "seconds": row["seconds"],
        "MiB": None if memory is None else round(memory / 2**20),
        "parameters": row["parameters"],
        "loss": row["loss"],
        "runs": len(row["runs"]),
    }


@contextmanager
def _steps_bar() -> Iterator[Callable[[BenchmarkProgress], None]]:
    """Show a bar over tunings and runs, with what each process is doing."""
    with bar(desc="preparing", unit="step") as shown_bar:

        def report(progress: BenchmarkProgress) -> None:
            shown_bar.total = progress.total
            shown_bar.set_description_str("; ".join(progress.running) or "reporting", refresh=False)
            shown_bar.update(progress.done - shown_bar.n)

        yield report
