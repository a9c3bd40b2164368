"""Progress as plain lines, if standard error is not a terminal but a log file, a pipe or a scheduler's output."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

SECONDS_BETWEEN_LINES = 30.0
_MEBIBYTE = 1 << 20


class Lines:
    """The counterpart of a tqdm bar, with those methods of a bar that the commands call.

    A thread writes a line whenever none has been written for half a minute, so that a step which takes an hour is seen
    to be at work. Nothing is written in the first half minute, and nothing once the total is reached.

    Parameters
    ----------
    iterable
        What :meth:`__iter__` goes through, counting.
    desc
        What is going on.
    total
        The count at the end, if it is known.
    unit
        What is counted, in the singular; ``B`` for bytes. Nothing is counted without a unit.
    initial
        The count at the beginning.
    quiet
        Write nothing.
    """

    def __init__(
        self, iterable: Iterable[Any] | None = None, *, desc: str = "", total: int | None = None, unit: str = "",
        initial: int = 0, quiet: bool = False,
    ) -> None:  # fmt: skip
        self.iterable: Iterable[Any] | None = iterable
        self.desc: str = desc
        self.unit: str = unit
        self.initial: int = initial
        self.n: int = initial
        self.total: int | None = len(iterable) if total is None and isinstance(iterable, (list, tuple)) else total
        self.postfix: Mapping[str, object] = {}
        self._file = None if quiet else sys.stderr
        self._started = self._last = time.monotonic()
        self._closed = threading.Event()
        if self._file is not None:
            threading.Thread(target=self._write_regularly, daemon=True).start()

    def __enter__(self) -> Lines:
        """Return itself; the end of the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write no more lines."""
        self.close()

    def __iter__(self) -> Iterator[Any]:
        """Go through the iterable and count."""
        for value in self.iterable or ():
            yield value
            self.update(1)

    def close(self) -> None:
        """Write no more lines."""
        self._closed.set()

    def update(self, n: int) -> None:
        """Count ``n`` more."""
        self.n += n

    def unpause(self) -> None:
        """Do nothing; on a bar this method is about the speed, which lines do not show."""

    def set_description_str(self, desc: str, refresh: bool = True) -> None:
        """Change the text that says what is going on."""
        self.desc = desc

    def set_postfix(self, values: Mapping[str, object], refresh: bool = True) -> None:
        """Change the values that end a line."""
        self.postfix = dict(values)

    def write(self) -> None:
        """Write a line now."""
        if self._file is None or self._closed.is_set():
            return
        self._last = time.monotonic()
        with suppress(OSError, ValueError):  # whoever read stderr is gone: that ends no work
            print(self._line(), file=self._file, flush=True)

    def _line(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        values = [f"{name} {value}" for name, value in self.postfix.items()]
        count = [self._count()] if self.unit else []
        said = ", ".join([*count, *values, f"{minutes:02d}:{seconds:02d}"])
        return f"{self.desc}: {said}" if self.desc else said

    def _count(self) -> str:
        if self.unit == "B":
            done, total = f"{self.n / _MEBIBYTE:,.1f}", None if self.total is None else f"{self.total / _MEBIBYTE:,.1f}"
            unit = "MiB"
        else:
            done, total, unit = f"{self.n:,}", None if self.total is None else f"{self.total:,}", f"{self.unit}s"
        return f"{done} {unit}" if total is None else f"{done} of {total} {unit}"

    def _write_regularly(self) -> None:
        while not self._closed.wait(max(0.01, self._last + SECONDS_BETWEEN_LINES - time.monotonic())):
            due = time.monotonic() - self._last >= SECONDS_BETWEEN_LINES
            finished = self.total is not None and self.n >= self.total
            if due and finished:
                self._last = time.monotonic()
            elif due:
                self.write()
