"""``hakg tune`` searches for settings on a data set; ``hakg train`` takes the best ones."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from hakg_dgl.models.registry import model_names
from hakg_dgl.settings.run import Device

from .failures import after_interrupt
from .progress import bar
from .report import table

if TYPE_CHECKING:
    from hakg_dgl import StudyProgress


@click.command(
    "tune",
    epilog="\b\nExamples:\n"
    "  hakg tune data/demo --out studies/demo --trials 20\n"
    "  hakg tune data/last-fm --out studies/last-fm --search space.toml --set epochs=100 --workers 4 --time 36000\n"
    "  hakg train data/demo --out runs/best --config studies/demo/best.toml\n",
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the study.")
@click.option(
    "--search", type=click.Path(path_type=Path), metavar="FILE.toml", help="What to search; see docs/tuning.md."
)
@click.option(
    "--trials",
    type=click.IntRange(1),
    help="Number of trials in the whole study.  [default: 50, or no limit with --time]",
)
@click.option("--time", "seconds", type=click.FloatRange(0, min_open=True), help="Begin no trial after SECONDS.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Number of processes.")
@click.option("--threads", type=click.IntRange(1), help="Threads of each worker.  [default: all, shared out]")
@click.option(
    "--model", "kind", type=click.Choice(model_names()), help="Model whose settings are searched; hakg by default."
)
@click.option("--preset", metavar="NAME", help="Named settings that stay fixed, to start from.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file of fixed settings, on top of the preset.")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="One fixed setting, on top of both; repeatable."
)
@click.option("--epochs", type=int, help="Most epochs of a trial; the same as --set epochs=N.")
@click.option("--seed", type=int, help="Seed of the search and of every trial.")
@click.option("--device", type=click.Choice(get_args(Device)), help="auto: a GPU if there is one.")
@click.option("--prune/--no-prune", default=None, help="Stop trials early that fall behind.  [default: prune]")
def tune_command(
    data: Path, out: Path, search: Path | None, trials: int | None, seconds: float | None, workers: int,
    threads: int | None, preset: str | None, config: Path | None, assignments: tuple[str, ...], prune: bool | None,
    **settings_given: Any,
) -> None:  # fmt: skip
    """Search for the settings that validate best on DATA.

    OUT holds the study: give the same command again to continue it, here or at the same time elsewhere. The settings
    and the search space may then be left out. The test split is not looked at.
    """
    from hakg_dgl.data.dataset import load_dataset
    from hakg_dgl.models.settings import Settings
    from hakg_dgl.studies.search_space import SearchSpace
    from hakg_dgl.studies.tuning import Study
    from hakg_dgl.studies.tuning_report import ranked

    given = [f"{key}={value}" for key, value in settings_given.items() if value is not None]
    settings = None
    if preset or config or assignments or given:
        settings = Settings.resolve(preset=preset or "default", file=config, overrides=[*assignments, *given])
    space = None if search is None else SearchSpace.load(search, settings)
    study = Study(out, load_dataset(data), settings, space, data_path=data, prune=prune)
    if trials is None and seconds is None:
        trials = 50
    after_interrupt(f"Continue with: hakg tune {shlex.quote(str(data))} --out {shlex.quote(str(out))}")
    with _trials_bar(study.settings.training.select_by) as progress:
        report = study.run(trials, seconds=seconds, workers=workers, threads=threads, on_progress=progress)
    best = ranked(report)[:5]
    columns = {"trial": "number", report["metric"]: "value", "epoch": "epoch"}
    rows = ({name: trial[key] for name, key in columns.items()} | trial["settings"] for trial in best)
    counts = ", ".join(f"{count} {state}" for state, count in report["counts"].items() if count)
    click.echo(f"{report['metric']} on the validation split; trials: {counts or 'none'}")
    if best:
        several = f" with {len(report['commands'])} seeds" if len(report["commands"]) > 1 else ""
        commands = "\n".join(f"  {command}" for command in report["commands"])
        click.echo(f"\n{table(rows)}\n\nTrain the best{several}:\n{commands}")
    click.echo(f"\nWrote {out}: report.md, report.json{', best.toml' if best else ''}")


@contextmanager
def _trials_bar(select_by: str) -> Iterator[Callable[[StudyProgress], None]]:
    """Show a bar over the trials, with the best value so far and the epoch of the trial that runs here."""
    with bar(desc="preparing", unit="trial") as shown:

        def report(progress: StudyProgress) -> None:
            if shown.total is None:  # trials of earlier calls do not count for the speed
                shown.unpause()
                shown.initial = shown.n = progress.done
            shown.total = progress.total
            epoch = "" if progress.epoch is None else f", epoch {progress.epoch}"
            shown.set_description_str(f"{progress.running} running{epoch}", refresh=False)
            if progress.best is not None:
                shown.set_postfix({f"best {select_by}": f"{progress.best:.4f}"}, refresh=False)
            shown.update(progress.done - shown.n)

        yield report
