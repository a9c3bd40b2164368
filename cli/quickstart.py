"""``hakg quickstart`` goes from tables to lists and a report."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hakg_dgl.models.registry import model_names

from .failures import after_interrupt, stopping_gently
from .preprocess import notes_of, read_given_tables, table_options, tell_columns
from .progress import epochs as epochs_bar
from .progress import say
from .report import counted, number_of, shown, sizes, table
from .runs import list_length

if TYPE_CHECKING:
    from hakg_dgl.quickstart import QuickResult

_OF_PREPROCESS = (
    "min_user_interactions", "min_item_interactions", "rating_threshold", "drop_unlinked", "split", "valid", "test",
    "seed",
)  # fmt: skip


@table_options(*_OF_PREPROCESS)
@click.command(
    "quickstart",
    epilog="\b\nExamples:\n"
    "  hakg quickstart --interactions orders.csv --items catalog.csv --out shop\n"
    "  hakg quickstart --interactions 'orders-*.csv' --items catalog.csv --user-col customer --item-col sku \\\n"
    "      --timestamp-col bought_at --split temporal --out shop\n",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for everything, new or empty.",
)
@click.option("--model", "kind", type=click.Choice(model_names()), help="Which model; hakg by default.")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A setting of training, by name; repeatable."
)
@click.option("--epochs", type=int, help="Most epochs; the same as --set epochs=N.")
@click.option("--k", type=list_length(), default=20, show_default=True, help="Length of the lists.")
@click.option("--resume", is_flag=True, help="Go on in OUT, where a quick start was stopped.")
def quickstart_command(
    out: Path, kind: str | None, assignments: tuple[str, ...], epochs: int | None, k: int, resume: bool, **options: Any
) -> None:
    """Go from an order log and a catalogue to lists and a report.

    Writes the data set (OUT/data), the trained model (OUT/run), its metrics (OUT/evaluation.json), a list for every
    user (OUT/lists.csv) and a page to look at (OUT/report.html). What takes part in each step, and more options, are
    those of hakg preprocess, train, evaluate, recommend and report. docs/shop.md goes through an example.
    """
    from hakg_dgl.data.preprocess import PreprocessOptions
    from hakg_dgl.models.settings import Settings
    from hakg_dgl.quickstart import quickstart

    given = [*assignments, *([f"kind={kind}"] if kind else []), *([] if epochs is None else [f"epochs={epochs}"])]
    settings = Settings.resolve(preset="default", overrides=given)
    preparing = PreprocessOptions(**{name: options.pop(name) for name in _OF_PREPROCESS})
    after_interrupt("Give the same command with --resume to go on.")
    with epochs_bar(settings.training.select_by) as progress:
        stop = _Stop()
        with stopping_gently(stop.ask):
            done = quickstart(
                lambda: read_given_tables(options), out, preparing, settings, k=k, resume=resume,
                begin=lambda step: stop.check(say, step), on_progress=progress, on_trainer=stop.take,
            )  # fmt: skip
    _tell(done)


class _Stop:
    """A signal that is passed on to the trainer, or ends the work before the next step."""

    def __init__(self) -> None:
        self.asked = False
        self.trainer: Any = None

    def take(self, trainer: Any) -> None:
        """Know the trainer."""
        self.trainer = trainer
        for warning in trainer.warnings:
            say(warning)

    def ask(self) -> None:
        """Stop soon."""
        self.asked = True
        if self.trainer is not None:
            self.trainer.interrupt()

    def check(self, tell: Any, step: str) -> None:
        """Stop, or begin a step."""
        if self.asked:
            raise KeyboardInterrupt
        tell(step)


def _tell(done: QuickResult) -> None:
    from hakg_dgl.training.run_folder import RunFolder

    folder, dataset = done.folder, done.dataset
    click.echo(f"{shown(dataset.name)}: {sizes(dataset.counts)}")
    tell_columns(dataset)
    for line in [*notes_of(dataset), *counted(dataset.report)]:
        click.echo(f"  {line}")
    if done.metrics is not None:
        names = next(iter(done.metrics.values()))
        rows = ({"metric": name, **{who: values[name] for who, values in done.metrics.items()}} for name in names)
        click.echo("\n" + table(rows))
    for note in done.notes:
        click.echo(f"Note: {note}", err=True)
    click.echo(
        f"\nWrote {folder.lists}: {number_of(done.rows, 'rows')}, {number_of(dataset.n_users, 'users')}"
        + (f"\nWrote {folder.report}: open it in a browser" if folder.report.exists() else "")
        + "\nNext:"
    )
    run, data = shlex.quote(str(folder.run)), shlex.quote(str(folder.data))
    user, item = (shlex.quote(each) for each in _first_row(done))
    able = RunFolder(folder.run).settings.model_class.abilities
    for command, what, possible in (
        (f"info {data}", "what the data set holds", True),
        (f"recommend {run} --user {user} --k 5", "a list; also with conditions, and for new users", True),
        (f"recommend {run} --similar-to {item} --k 5", "similar items", able.vectors),
        (f"explain {run} --user {user} --item {item}", "why an item is in the list", able.explains),
        (f"serve {run}", "answers over HTTP, and a page to look at", True),
        (f"update {run} --interactions ORDERS --items CATALOG --out RUN2", "when the log has grown", True),
    ):
        if possible:
            click.echo(f"  hakg {command}   # {what}")


def _first_row(done: QuickResult) -> tuple[str, str]:
    """A user and an item of the user's list, by their ids."""
    with done.folder.lists.open(encoding="utf-8", newline="") as lists:
        for row in csv.DictReader(lists):
            return row["user"], row["item"]
    return str(done.dataset.users["original_id"].iloc[0]), "ITEM"
