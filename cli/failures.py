"""Errors as a few lines on stderr and an exit code: 2 for bad input, 130 or 143 for a signal."""

from __future__ import annotations

import errno
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import IO, Any

import click

from hakg_dgl.distributed.lost import LOST_EXIT, LostProcessError
from hakg_dgl.distributed.starter import quiet
from hakg_dgl.errors import HakgError

_AFTER_INTERRUPT = "hakg_dgl.after_interrupt"
NOTHING = "Nothing was written."
"""What to print when a command is interrupted that has said nothing else."""


class Failure(click.ClickException):
    """An error the user can fix: ``Error: ...`` and exit code 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it to stderr."""
        click.echo(f"Error: {self.message}", file=file, err=file is None)


class Lost(Failure):
    """Another process of a training is gone, which has its own message: exit code 3."""

    exit_code = LOST_EXIT


class Terminated(KeyboardInterrupt):
    """SIGTERM, which schedulers send; the command ends as with Ctrl-C, but with exit code 143."""


class HakgGroup(click.Group):
    """A group whose commands end with a message instead of a traceback; ``HAKG_DEBUG=1`` shows that too."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and translate what it raises."""
        try:
            with _handled({signal.SIGTERM: _terminate}):
                return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            if not quiet():
                advice = ctx.meta.get(_AFTER_INTERRUPT, NOTHING)
                click.echo(f"\nInterrupted. {advice() if callable(advice) else advice}", err=True)
            ctx.exit(143 if isinstance(stop, Terminated) else 130)
        except Exception as error:
            message = explain(error, ctx.invoked_subcommand)
            if message is None:
                raise
            if os.environ.get("HAKG_DEBUG", "0") not in ("", "0"):
                traceback.print_exc()
            raise (Lost if isinstance(error, LostProcessError) else Failure)(_printable(message)) from error


def after_interrupt(advice: str | Callable[[], str]) -> None:
    """Say what to print when the running command is interrupted, or what gives it then."""
    click.get_current_context().meta[_AFTER_INTERRUPT] = advice


@contextmanager
def stopping_gently(ask: Callable[[], None]) -> Iterator[None]:
    """Have the first Ctrl-C or SIGTERM call ``ask``; the work must then raise KeyboardInterrupt soon.

    The second signal raises it at once.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        # Not by print or echo: the signal may have come in the middle of one.
        if not quiet():
            os.write(2, b"\nStopping after this step; a second signal stops at once.\n")
        ask()

    try:
        with _handled({signal.SIGINT: handle, signal.SIGTERM: handle}):
            yield
    except KeyboardInterrupt as stop:
        if received == [signal.SIGTERM]:
            raise Terminated from stop
        raise


@contextmanager
def _handled(handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]]) -> Iterator[None]:
    """Handle signals in this way within the block, in the main thread only; ignored signals (nohup) stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = {number: handler for number, handler in handlers.items() if signal.getsignal(number) != signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in heard.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def explain(error: Exception, command: str | None = None) -> str | None:
    """The message for an error that a user can fix; None for errors of click, and for bugs.

    Parameters
    ----------
    error
        What a command raised.
    command
        Its name: what to do without enough memory depends on it.
    """
    if isinstance(error, HakgError):
        return str(error)
    if isinstance(error, (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError)):
        return None
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError":  # PyTorch's, which is not imported here
        return f"the device has too little memory: {_first_line(text)}\n{_smaller(command)}, or add --device cpu."
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in text):
        return f"out of memory{': ' + _first_line(text) if text else ''}\n{_smaller(command)}."
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        reason = os.strerror(error.errno) if error.errno else text  # pyarrow's own text is about its buffers
        return f"{place}{reason}{_REMEDIES.get(error.errno or 0, '')}"
    return None


def _smaller(command: str | None) -> str:
    """A sentence that says how the command takes less memory."""
    return _SMALLER.get(command or "", "Close other programs, or use a machine with more memory")


_SMALLER = {
    **dict.fromkeys(
        ("train", "tune", "ablate", "audit"), "Lower the settings batch_size, negatives or dim (--set dim=32)"
    ),
    "evaluate": "Ask for shorter lists (--k), and leave the groups out (--no-groups)",
    "compare": "Ask for metrics of shorter lists (--metric recall@20), and compare fewer runs at once",
    "recommend": "Ask for shorter lists (--k), or for fewer users at once (--user)",
}
_REMEDIES = {
    errno.ENOSPC: "\nFree some space, or choose another place; nothing half-written was left.",
    errno.EDQUOT: "\nFree some space, or choose another place; nothing half-written was left.",
    errno.EACCES: "\nYou may not read or write there: choose another place, or change its permissions.",
    errno.EPERM: "\nYou may not read or write there: choose another place, or change its permissions.",
    errno.EROFS: "\nNothing can be written there: choose another place.",
}


def _printable(text: str) -> str:
    """The text without control characters, which the content of a file may have brought into a message."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
