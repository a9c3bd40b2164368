"""Progress bars: to stderr, and only where that is a terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from hakg_dgl import Progress

T = TypeVar("T")


def bar(iterable: Iterable[T] | None = None, **options: Any) -> Any:
    """A tqdm bar (``disable=None``: silent where stderr is no terminal)."""
    from tqdm import tqdm

    return tqdm(iterable, file=sys.stderr, disable=None, dynamic_ncols=True, leave=False, **options)


def say(text: str) -> None:
    """A line on stderr, above the bars."""
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
    """One bar a file, as ``hakg_dgl.fetch`` calls it: name, bytes so far, bytes in all."""
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
    """A bar over the steps of all epochs, with the last loss, and the last and best of the metric that selects."""
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
            if not math.isnan(progress.loss):  # which a model in closed form has none of
                notes["loss"] = f"{progress.loss:.4f}"
            if progress.metrics:
                notes[select_by] = f"{progress.metrics[select_by]:.4f}"
            if progress.best:
                notes["best"] = f"{notes[select_by]} (epoch {progress.epoch})"
            shown.set_description_str(f"{phase} {progress.epoch}/{progress.epochs}", refresh=False)
            shown.set_postfix(notes, refresh=False)
            shown.update(done - shown.n)

        yield report
