"""Several processes that work on one study."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from hakg_dgl.errors import HakgError

POLL, PATIENCE = 0.5, 30.0
"""Seconds between reports, and until a worker that was asked to stop is killed."""


def run_processes(
    workers: int, work: Callable[..., None], arguments: tuple[Any, ...], report: Callable[[], None]
) -> None:
    """Call a function in new processes, to the end of all of them.

    Interrupted, it asks them to stop: a KeyboardInterrupt is raised in the function.

    Parameters
    ----------
    workers
        Number of processes.
    work
        A function of a module, called with ``arguments`` in each.
    report
        Called every half second while one runs.

    Raises
    ------
    HakgError
        With the message of the first worker that ended with an error.
    """
    context = multiprocessing.get_context("spawn")
    started: list[tuple[SpawnProcess, Connection]] = []
    try:
        for _ in range(workers):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_process, args=(work, arguments, sender), daemon=True)
            process.start()
            sender.close()
            started.append((process, receiver))
        while alive := [process.sentinel for process, _ in started if process.is_alive()]:
            wait(alive, timeout=POLL)
            report()
    finally:
        for process, _ in started:
            process.terminate()
        for process, _ in started:
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()
    messages = [message for _, receiver in started if (message := _received(receiver))]
    if messages:
        raise HakgError(messages[0])
    codes = [process.exitcode for process, _ in started]
    if not any(code == 0 or (code is not None and code < 0) for code in codes):
        raise RuntimeError(f"all workers ended with an error (exit codes {codes}); their messages stand above")


def orphaned() -> bool:
    """Whether this process was started by one that is no more."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def _process(work: Callable[..., None], arguments: tuple[Any, ...], messages: Connection) -> None:
    """Do the work; a KeyboardInterrupt on SIGTERM, while Ctrl-C is for the parent to hear."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        work(*arguments)
    except HakgError as error:
        messages.send(str(error))
    except KeyboardInterrupt:
        pass


def _received(receiver: Connection) -> str | None:
    try:
        return str(receiver.recv()) if receiver.poll() else None
    except EOFError:
        return None
