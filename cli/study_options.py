"""What the commands of studies over several seeds share: options, and the bar over their runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from hakg_dgl.settings.run import Device

from .progress import bar

if TYPE_CHECKING:
    from hakg_dgl.studies.progress import RunsProgress


def _seeds(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Whole numbers, separated by commas or blanks."""
    if value is None:
        return None
    words = value.replace(",", " ").split()
    if not words or not all(map(_is_seed, words)):
        raise click.BadParameter(f"{value!r}: write whole numbers, such as 2020 2021 2022", ctx, param)
    return tuple(map(int, words))


class SeedsCommand(click.Command):
    """A command that takes ``--seeds 1 2 3`` as well as ``--seeds 1,2,3``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join the numbers after ``--seeds`` to one value, and parse the arguments."""
        if "--seeds" in args:
            start = args.index("--seeds") + 1
            numbers = list(takewhile(_is_seed, args[start:]))
            if numbers:
                args = [*args[:start], ",".join(numbers), *args[start + len(numbers) :]]
        return super().parse_args(ctx, args)


def _is_seed(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) <= 19


def seeds_option(command: Any) -> Any:
    """Add the option ``--seeds`` to a :class:`SeedsCommand`."""
    return click.option(
        "--seeds", callback=_seeds, metavar="N N ...", help="Seeds to train with.  [default: 2020 2021 2022]"
    )(command)


def training_options(command: Any) -> Any:
    """Add the options for what is trained, by how many processes, and for the bootstrap of the report."""
    for option in reversed(_TRAINING_OPTIONS):
        command = option(command)
    return command


_TRAINING_OPTIONS = (
    click.option("--preset", metavar="NAME", help="Named settings of the model, to start from."),
    click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings, on top of the preset."),
    click.option(
        "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="One setting, on top of both; repeatable."
    ),
    click.option("--epochs", type=int, help="Most epochs of a run; the same as --set epochs=N."),
    click.option("--device", type=click.Choice(get_args(Device)), help="auto: a GPU if there is one."),
    click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Number of processes."),
    click.option("--threads", type=click.IntRange(1), help="Threads of each worker.  [default: all, shared out]"),
    click.option(
        "--resamples",
        type=click.IntRange(100, 1_000_000),
        default=10_000,
        show_default=True,
        help="Resamples of the bootstrap.",
    ),
)


@contextmanager
def runs_bar() -> Iterator[Callable[[RunsProgress], None]]:
    """Show a bar over the runs, with the epoch of the run that trains here."""
    with bar(desc="preparing", unit="run") as shown_bar:

        def report(progress: RunsProgress) -> None:
            shown_bar.total = progress.total
            running = "" if progress.running is None else f"{progress.running}, epoch {progress.epoch}"
            shown_bar.set_description_str(running or "training", refresh=False)
            shown_bar.update(progress.done - shown_bar.n)

        yield report
