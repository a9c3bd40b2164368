"""Starting the processes of a training on this machine, and ending all of them when one ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from hakg_dgl.distributed.lost import LOST_EXIT
from hakg_dgl.distributed.starter import STARTED_BY

GRACE = 10.0
"""Seconds that the others have to end by themselves after one has."""
HUNG = -1000
"""What stands for the exit code of a process that did not end by itself."""
_PAUSE = 0.1


class Launched:
    """Processes that run one command, told by their environment which of them they are, as torchrun does.

    The first one writes to this process's output; what others write is kept for the message if they fail.

    Parameters
    ----------
    command
        What each of them runs.
    size
        Number of processes, at least 1.
    environment
        What they inherit.
    """

    def __init__(self, command: Sequence[str], size: int, environment: Mapping[str, str] = os.environ) -> None:
        self._logs = tempfile.TemporaryDirectory(prefix="hakg-processes-")
        threads = str(max(1, (os.cpu_count() or 1) // size))
        common = {"OMP_NUM_THREADS": threads, **environment, "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
        common |= {STARTED_BY: str(os.getpid())}
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        self._hung: list[int] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(size):
                own = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                with self._log(rank).open("wb") as log:
                    self.processes.append(self.start(command, own, log if rank else None))
        except BaseException:  # interrupted, or the system has no room for another process
            self.close()
            raise

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], log: IO[bytes] | None
    ) -> subprocess.Popen[bytes]:
        """Start one process, which writes to ``log``, or to what this one writes to."""
        where: dict[str, Any] = {} if log is None else {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        return subprocess.Popen(command, env=environment, start_new_session=True, **where)

    def _log(self, rank: int) -> Path:
        return Path(self._logs.name) / f"{rank}.log"

    def wait(self) -> tuple[int, int]:
        """Wait until all have ended; the process that the others ended for and its exit code, (0, 0) if none failed.

        A negative code is that of the signal that ended it, :data:`HUNG` that of one that had to be ended here. When
        one fails, the others have :data:`GRACE` seconds.
        """
        deadline = float("inf")
        while any(process.poll() is None for process in self.processes):
            if deadline == float("inf") and any(process.poll() for process in self.processes):
                deadline = time.monotonic() + GRACE
            if time.monotonic() > deadline:
                self._hung = self._hung or [n for n, process in enumerate(self.processes) if process.poll() is None]
                self.end()
            time.sleep(_PAUSE)
        return self._cause()

    def _cause(self) -> tuple[int, int]:
        ended = {rank: process.poll() or 0 for rank, process in enumerate(self.processes) if rank not in self._hung}
        killed = [(rank, code) for rank, code in ended.items() if code < 0]
        failed = [(rank, code) for rank, code in ended.items() if code > 0 and code != LOST_EXIT]
        hung = [(rank, HUNG) for rank in self._hung]
        lost = [(rank, code) for rank, code in ended.items() if code == LOST_EXIT]  # they end because of another
        return next(iter(killed + failed + hung + lost), (0, 0))

    def last_words(self, rank: int) -> str:
        """The end of what a process other than the first wrote."""
        return self._log(rank).read_text(errors="replace")[-2000:].strip() if rank else ""

    def signal(self, number: int) -> None:
        """Pass a signal on to all that run."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def end(self) -> None:
        """End all that run."""
        self.signal(signal.SIGKILL)

    def close(self) -> None:
        """End all that run, and remove what they wrote."""
        self.end()
        for process in self.processes:
            process.wait()
        self._logs.cleanup()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
