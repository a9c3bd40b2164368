"""A pool of processes: each makes one call of a function after another, until all calls are made."""

from __future__ import annotations

import gc
import multiprocessing
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from hakg_dgl.errors import HakgError

POLL, PATIENCE = 0.5, 30.0
"""Seconds between reports, and until a process that was asked to stop is killed."""


@dataclass(frozen=True)
class Ended:
    """A call that is over.

    Attributes
    ----------
    number
        The place of the call among all calls, from 0.
    value
        What the function returned, None if it did not return.
    error
        What the function raised, None if it raised nothing.
    killed
        Whether its process was ended by a signal in the middle of the call.
    """

    number: int
    value: Any = None
    error: Exception | None = None
    killed: bool = False


def run_calls(
    work: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    *,
    shared: tuple[Any, ...] = (),
    workers: int,
    fresh: bool = False,
    ended: Callable[[Ended], None],
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Make calls of a function in new processes, and return when all calls are over.

    The processes are started by ``spawn``. When the caller is interrupted, or ``ended`` or ``tick`` raises, the
    processes are asked to stop: a KeyboardInterrupt is raised in the function. They do not hear Ctrl-C themselves. A
    process that was killed is replaced as long as calls are waiting.

    Parameters
    ----------
    work
        A function at the top level of a module.
    calls
        The arguments of each call, after those that are shared. Calls begin in this order.
    shared
        The first arguments of every call; they are sent to each process once.
    workers
        The largest number of processes.
    fresh
        Whether each call gets a new process, which holds no memory of earlier calls.
    ended
        Called in this process when a call is over. An error of the function arrives here as a plain exception with
        its message; it stops nothing by itself.
    tick
        Called in this process every half second or more often.
    """
    waiting = deque(enumerate(calls))
    with _Pool(work, shared) as pool:
        busy = {connection: _hand_out(connection, waiting) for connection in pool.start(min(workers, len(calls)))}
        while busy:
            for connection in [ready for ready in wait(list(busy), POLL) if isinstance(ready, Connection)]:
                ended(pool.received(connection, busy.pop(connection)))
                if fresh:
                    pool.end(connection)
                if waiting:
                    free = pool.start(1)[0] if pool.has_ended(connection) else connection
                    busy[free] = _hand_out(free, waiting)
            tick()


def orphaned() -> bool:
    """Whether this process was started by another process that has ended since."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


class _Pool:
    """The processes, each with a connection, from ``with`` to the end of all of them."""

    def __init__(self, work: Callable[..., Any], shared: tuple[Any, ...]) -> None:
        self._first = (work, shared)
        self._processes: dict[Connection, SpawnProcess] = {}

    def __enter__(self) -> _Pool:
        return self

    def start(self, count: int) -> list[Connection]:
        """Start processes, and send them the function and what all of its calls share."""
        context = multiprocessing.get_context("spawn")
        connections = []
        with _signals_held_back():
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs,), daemon=True)
                process.start()
                theirs.close()
                self._processes[ours] = process
                connections.append(ours)
        # Only now, so that the processes load their modules side by side, and that Ctrl-C is heard again.
        for connection in connections:
            _send(connection, self._first)
        return connections

    def received(self, connection: Connection, number: int) -> Ended:
        """What became of the call that a process was at, when its connection has something to say or has ended."""
        with suppress(EOFError, OSError):
            value, error = connection.recv()
            return Ended(number, value, error)
        process = self._processes[connection]
        process.join(PATIENCE)
        if process.exitcode is None or process.exitcode <= 0:
            return Ended(number, killed=True)
        return Ended(
            number,
            error=RuntimeError(f"a worker ended with exit code {process.exitcode}; its own message stands above"),
        )

    def has_ended(self, connection: Connection) -> bool:
        """Whether the process behind a connection has ended."""
        return not self._processes[connection].is_alive()

    def end(self, connection: Connection) -> None:
        """Have a process end that is at no call."""
        connection.close()
        process = self._processes[connection]
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()

    def __exit__(self, *error: object) -> None:
        """Ask all processes to stop, and kill those that do not."""
        for connection, process in self._processes.items():
            process.terminate()
            connection.close()
        for process in self._processes.values():
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()


def _hand_out(connection: Connection, waiting: deque[tuple[int, tuple[Any, ...]]]) -> int:
    """Send the next call to a process, and return its number."""
    number, call = waiting.popleft()
    _send(connection, call)
    return number


def _send(connection: Connection, message: Any) -> None:
    """Send a message; that a process ended before it is noticed when its answer is awaited."""
    with suppress(ConnectionError):
        connection.send(message)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back to the end of the block, so that no process is left half started.

    The processes that are started in the block have Ctrl-C blocked from their first moment on.
    """
    if threading.current_thread() is not threading.main_thread():  # other threads are never interrupted
        yield
        return
    resource_tracker.ensure_running()  # the first process would start it, which unblocks SIGINT again
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
    for again in received:
        signal.raise_signal(again)


def _serve(connection: Connection) -> None:
    """Make the calls that the parent sends, to the end of the connection; SIGTERM ends the call and the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        gc.disable()  # importing what the function needs makes next to no garbage, and looking for it takes long
        work, shared = connection.recv()
        gc.enable()
        while True:
            call = connection.recv()
            connection.send(_outcome(work, (*shared, *call)))
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would print a traceback


def _outcome(work: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, Exception | None]:
    try:
        return work(*arguments), None
    except Exception as error:
        return None, _plain(error)


def _plain(error: Exception) -> Exception:
    """An exception with the same message that every process can rebuild, which is not so of every class."""
    if isinstance(error, HakgError):
        return HakgError(str(error))
    if isinstance(error, MemoryError):
        return MemoryError(str(error))
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror, error.filename)
    return RuntimeError("a worker failed:\n" + "".join(traceback.format_exception(error)))
