"""``--processes``: the same command in several processes of this machine, which train together."""

from __future__ import annotations

import signal
import sys

import click

from .failures import Failure, stopping_gently
from .several import arguments

TO_GO_ON = "Continue with --resume: training goes on from the last saved state, with any number of processes."


def in_processes(size: int, *, what: str = "the training", advice: str = TO_GO_ON) -> None:
    """Run the command that is running in several processes; returns when all have ended well.

    It has to be one of :class:`~.several.KeepsArguments`. ``what`` ends with one of them, and ``advice`` is what to do.

    Raises
    ------
    Failure
        If one of them failed; which, and how.
    KeyboardInterrupt
        If this process was asked to stop, when the others have saved where they stand.
    """
    from hakg_dgl.distributed.launch import Launched
    from hakg_dgl.distributed.lost import LOST_EXIT

    launched = Launched([sys.executable, "-m", "hakg_dgl.cli", *arguments(click.get_current_context())], size)
    stopped: list[int] = []

    def stop() -> None:
        stopped.append(1)
        launched.signal(signal.SIGTERM)

    try:
        with stopping_gently(stop):
            rank, code = launched.wait()
            if stopped and code:
                raise KeyboardInterrupt
        if rank == 0 and code > 0 and code != LOST_EXIT:  # it has said why
            click.get_current_context().exit(code)
        if code:
            raise Failure(f"{_message(launched.last_words(rank), rank, code, size, what)}\n{advice}")
    finally:
        launched.close()


def _message(words: str, rank: int, code: int, size: int, what: str) -> str:
    from hakg_dgl.distributed.launch import HUNG
    from hakg_dgl.distributed.lost import LOST_EXIT

    how = f"was ended by {signal.Signals(-code).name}" if HUNG < code < 0 else f"ended with exit code {code}"
    how = "did not answer any more and was ended" if code == HUNG else how
    how = "has lost the others and ended" if code == LOST_EXIT else how
    said = f": {words.removeprefix('Error: ')}" if words and code > 0 else ""
    return f"process {rank} of {size} {how}, and with it {what}{said}"
