"""Progress on stderr: bars on a terminal, plain lines elsewhere, nothing with ``--quiet``."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .progress_lines import Lines

if TYPE_CHECKING:
    from hakg_dgl import Progress

T = TypeVar("T")
_QUIET = "hakg_dgl.quiet"


def quiet_option(command: Any) -> Any:
    """Add the option ``--quiet`` to a command that may take long."""
    return click.option(
        "--quiet", is_flag=True, expose_value=False, callback=_be_quiet, help="Show no progress on standard error."
    )(command)


def _be_quiet(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[_QUIET] = value


def is_quiet(ctx: click.Context | None) -> bool:
    """Whether the command was given ``--quiet``."""
    return ctx is not None and bool(ctx.meta.get(_QUIET))


def bar(
    iterable: Iterable[T] | None = None, *, desc: str = "", total: int | None = None, unit: str = "", initial: int = 0,
    **looks: Any,
) -> Any:  # fmt: skip
    """A tqdm bar on a terminal, otherwise lines with the same methods; ``looks`` are options for the bar alone."""
    quiet = is_quiet(click.get_current_context(silent=True))
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        return Lines(iterable, desc=desc, total=total, unit=unit, initial=initial, quiet=quiet)
    from tqdm import tqdm

    return tqdm(
        iterable, desc=desc or None, total=total, unit=unit or "it", initial=initial, file=sys.stderr,
        dynamic_ncols=True, leave=False, **looks,
    )  # fmt: skip


def say(text: str) -> None:
    """Write a line on stderr, above the bars."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


@contextmanager
def stages(total: int) -> Iterator[Callable[[str], None]]:
    """A bar over the named steps of a command; call the result when a step begins."""
    with bar(desc="starting", bar_format="{desc}, {elapsed}") as shown:
        names: list[str] = []

        def begin(name: str) -> None:
            names.append(name)
            shown.set_description_str(f"[{len(names)}/{total}] {name}")

        yield begin


@contextmanager
def downloads() -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar for each file; ``hakg_dgl.fetch`` calls the result with a name, bytes so far and bytes in all."""
    bars: dict[str, Any] = {}

    def report(name: str, done: int, total: int | None) -> None:
        if name not in bars:
            bars[name] = bar(desc=name, initial=done, unit="B", unit_scale=True, unit_divisor=1024)
        bars[name].total = total
        bars[name].update(done - bars[name].n)

    try:
        yield report
    finally:
        for shown in bars.values():
            shown.close()


@contextmanager
def epochs(select_by: str) -> Iterator[Callable[[Progress], None]]:
    """A bar over the steps of all epochs, or a line an epoch.

    Both show the last loss, and the last and the best value of the metric that selects.
    """
    with bar(desc="preparing", unit="step") as shown:
        notes: dict[str, str] = {}

        def report(progress: Progress) -> None:
            done = (progress.epoch - 1) * progress.steps + progress.step
            phase = "refit" if progress.refit else "epoch"
            if shown.total is None or not shown.desc.startswith(phase):
                # Neither preparations nor, on resuming, earlier epochs count for the speed.
                shown.unpause()
                shown.initial = shown.n = done - 1
            shown.total = progress.epochs * progress.steps
            _note(notes, progress, select_by)
            shown.set_description_str(f"{phase} {progress.epoch}/{progress.epochs}", refresh=False)
            shown.set_postfix(notes, refresh=False)
            shown.update(done - shown.n)
            if isinstance(shown, Lines) and progress.step == progress.steps:
                shown.write()

        yield report


def _note(notes: dict[str, str], progress: Progress, select_by: str) -> None:
    """Update loss and metric with the values of a step or an epoch."""
    if not math.isnan(progress.loss):  # a model in closed form has no loss
        notes["loss"] = f"{progress.loss:.4f}"
    if progress.metrics:
        notes[select_by] = f"{progress.metrics[select_by]:.4f}"
    if progress.best:
        notes["best"] = f"{notes[select_by]} (epoch {progress.epoch})"
