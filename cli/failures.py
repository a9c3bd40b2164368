"""What goes wrong, in one or a few lines on stderr and an exit code: 2 for bad input, 130 for an interruption."""

from __future__ import annotations

import errno
import os
import traceback
from typing import IO, Any

import click

from hakg_dgl.errors import HakgError

_AFTER_INTERRUPT = "hakg_dgl.after_interrupt"


class Failure(click.ClickException):
    """An error the user can mend: ``Error: ...`` and exit code 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it to stderr."""
        click.echo(f"Error: {self.message}", file=file, err=file is None)


class HakgGroup(click.Group):
    """A group whose commands end with a message instead of a traceback; ``HAKG_DEBUG=1`` shows that too."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and translate what it raises."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo(f"\nInterrupted. {ctx.meta.get(_AFTER_INTERRUPT, 'Nothing was written.')}", err=True)
            ctx.exit(130)
        except Exception as error:
            message = explain(error)
            if message is None:
                raise
            if os.environ.get("HAKG_DEBUG", "0") not in ("", "0"):
                traceback.print_exc()
            raise Failure(message) from error


def after_interrupt(advice: str) -> None:
    """Say what to print when the running command is interrupted."""
    click.get_current_context().meta[_AFTER_INTERRUPT] = advice


def explain(error: Exception) -> str | None:
    """The message for an error that a user can mend; None for click's own and for mistakes of ours."""
    if isinstance(error, HakgError):
        return str(error)
    if isinstance(error, (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError)):
        return None
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError":  # PyTorch's, which is not imported here
        return f"the device has too little memory: {_first_line(text)}\n{_SMALLER}, or add --device cpu."
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in text):
        return f"out of memory{': ' + _first_line(text) if text else ''}\n{_SMALLER}."
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        reason = os.strerror(error.errno) if error.errno else text  # pyarrow's own text is about its buffers
        return f"{place}{reason}{_REMEDIES.get(error.errno or 0, '')}"
    return None


_SMALLER = "Lower the settings batch_size, negatives or dim (--set dim=32)"
_REMEDIES = {
    errno.ENOSPC: "\nFree some space, or choose another place; nothing half-written was left.",
    errno.EDQUOT: "\nFree some space, or choose another place; nothing half-written was left.",
    errno.EACCES: "\nYou may not read or write there: choose another place, or change its permissions.",
    errno.EPERM: "\nYou may not read or write there: choose another place, or change its permissions.",
    errno.EROFS: "\nNothing can be written there: choose another place.",
}


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
