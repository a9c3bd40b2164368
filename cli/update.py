"""``hakg update`` goes on from a run when its log has grown."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from hakg_dgl.settings.run import Device

from .failures import Failure, after_interrupt, stopping_gently
from .preprocess import read_given_tables, table_options
from .progress import epochs as epochs_bar
from .progress import say, stages
from .report import counted, number_of, shown, sizes, table
from .runs import open_run

if TYPE_CHECKING:
    from hakg_dgl.data.growth import Growth


@table_options("seed", without=("name", "split_col"))
@click.command(
    "update",
    epilog="\b\nExamples:\n"
    "  hakg update runs/shop --interactions orders.csv --items catalog.csv --out runs/shop-2\n"
    "  hakg update runs/shop --interactions orders-today.csv --added --out runs/shop-2 --data-out data/shop-2\n",
)
@click.argument("run", type=click.Path(path_type=Path, file_okay=False))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the new run.")
@click.option(
    "--data-out", type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the grown data set (default OUT-data, beside OUT); replaced if it holds one.",
)  # fmt: skip
@click.option("--added", is_flag=True, help="--interactions holds only what is new; otherwise it is the whole log.")
@click.option(
    "--split", type=click.Choice(["random", "temporal", "temporal-global"]),
    help="Which new interactions are held out (default: the latest, where there are timestamps; by cuts in time where "
    "RUN's data set was split so).",
)  # fmt: skip
@click.option(
    "--valid", type=float, default=0.1, show_default=True, help="Share of the new interactions for validation."
)
@click.option("--test", type=float, default=0.2, show_default=True, help="Share of the new interactions for testing.")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A setting to change, by name; repeatable."
)
@click.option("--epochs", type=int, help="Most epochs; the same as --set epochs=N.")
@click.option("--device", type=click.Choice(get_args(Device)), help="auto: a GPU if there is one.")
@click.option("--data", type=click.Path(path_type=Path), help="The data set of RUN, if it has moved since training.")
@click.option("--overwrite", is_flag=True, help="Replace the run in OUT; that run is lost.")
def update_command(
    run: Path, out: Path, data_out: Path | None, added: bool, split: str | None, valid: float, test: float, seed: int,
    assignments: tuple[str, ...], epochs: int | None, device: str | None, data: Path | None, overwrite: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Go on from RUN with a grown log, new items, new users.

    What RUN knows keeps its number; new users, items and facts are added, and training goes on from its vectors. All
    earlier interactions train, and parts of the new ones validate and test. OUT is a run as any other: an interrupted
    update is continued by hakg train --resume.
    """
    from hakg_dgl.data.dataset import refuse_foreign
    from hakg_dgl.data.growth import GrowthOptions, grow
    from hakg_dgl.training.run_folder import RunFolder
    from hakg_dgl.training.update import make_updater, settings_for_update

    growing = GrowthOptions(added=added, split=split, valid=valid, test=test, seed=seed)
    place = data_out or out.with_name(out.name + "-data")
    if out.resolve() == run.resolve():
        raise Failure(f"{out}: is the run itself; give another folder for the updated one")
    _refuse_occupied(RunFolder(out), overwrite)
    refuse_foreign(place)
    with stages(3) as begin:
        begin("loading")
        opened = open_run(run, data)
        given = {"epochs": epochs, "device": device}
        overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
        settings = settings_for_update(run, [*assignments, *overrides])
        begin("reading")
        raw = read_given_tables(options)
        begin("growing")
        growth = grow(opened.dataset, raw, growing)
        _refuse_same_place(place, opened.folder.data_path, data)
        growth.dataset.save(place)
    _tell(growth, place)
    with epochs_bar(settings.training.select_by) as progress:
        updater = make_updater(
            run, opened.dataset, growth, settings, out=out, data_path=place, on_progress=progress
        )  # fmt: skip
        again = f"hakg train {shlex.quote(str(place))} --out {shlex.quote(str(out))} --resume"
        after_interrupt(f"Continue with: {again}")
        for warning in updater.warnings:
            say(warning)
        with stopping_gently(updater.interrupt):
            result = updater.fit()
    splits = {name: values for name, values in result["metrics"].items() if values}
    names = dict.fromkeys(name for values in splits.values() for name in values)
    rows = ({"metric": name, **{split: values.get(name) for split, values in splits.items()}} for name in names)
    click.echo("\n" + table(rows, ["metric", *splits]))
    click.echo(
        f"\nBest of {result['epochs_run']}: {result['best_epoch']} ({result['stopped']}), "
        f"{result['seconds']:,.1f} s on {result['device']}\n"
        f"Wrote {out}. Next: hakg recommend {shlex.quote(str(out))} --out lists.csv"
    )


def _refuse_occupied(folder: Any, overwrite: bool) -> None:
    if not folder.path.exists():
        return
    if not folder.exists() and folder.holds_other_files():
        raise Failure(f"{folder.path}: holds something else than a run; choose another folder, or empty it yourself")
    if folder.exists() and not overwrite:
        raise Failure(
            f"{folder.path}: holds a run already\nAdd --overwrite to replace it, or choose another folder; "
            "hakg train --resume continues an update that was stopped."
        )


def _refuse_same_place(place: Path, noted: Path | None, data: Path | None) -> None:
    """The run that is updated still needs its data set."""
    earlier = data or noted
    if earlier is not None and earlier.resolve() == place.resolve():
        raise Failure(f"{place}: is the data set of the run itself; give another folder (--data-out)")


def _tell(growth: Growth, place: Path) -> None:
    counts = growth.dataset.counts
    click.echo(f"{shown(growth.dataset.name)}: {sizes(counts)}")
    for line in counted(growth.dataset.report):
        click.echo(f"  {line}")
    if counts["valid"] < 100:
        click.echo(f"  remark: {number_of(counts['valid'], 'interactions')} to validate on is little; see --valid")
    click.echo(f"Wrote {place}")
