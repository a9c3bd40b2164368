"""A process of a training notices that another one hangs or cannot be reached, or that what started it is gone."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from hakg_dgl.distributed.lost import LOST_EXIT
from hakg_dgl.distributed.starter import orphaned, quiet

SILENCE = float(os.environ.get("HAKG_SILENCE", "40"))
"""Seconds without a sign of life after which a process counts as lost."""
_BEAT = 2.0
_ANSWER = timedelta(seconds=5)
_LAST_CALL = 10.0
"""Seconds that the end waits for a call of the store."""


class Watch:
    """Gives signs of life, and ends this process when another one, or what started it, gives none.

    Signs of life are numbers in the store of the group, which go up. A process that is stopped, swaps for minutes or
    is cut off from the network gives none, whatever it was doing; nor does the store, if its host is. A call of the
    store may then wait for ever, so one thread calls it and another one looks at the clock.

    Parameters
    ----------
    rank, size
        Which of how many this process is.
    silence
        Seconds without a sign of life that are too many.
    """

    def __init__(self, rank: int, size: int, silence: float = SILENCE) -> None:
        self.rank: int = rank
        self.size: int = size
        self.silence: float = silence
        self._seen = {other: time.monotonic() for other in range(size) if other != rank}
        self._over = threading.Event()
        self._threads: list[threading.Thread] = [
            threading.Thread(target=run, name="watch", daemon=True) for run in (self._give_signs, self._look)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Watch no longer.

        Waits for the threads: Python ends the process abnormally if one of them is in a call of the store at its end.
        """
        self._over.set()
        for thread in self._threads:
            thread.join(_LAST_CALL)

    def _give_signs(self) -> None:
        store: Any = None
        last, number = dict.fromkeys(self._seen, b""), 0
        while not self._over.wait(_BEAT):
            number += 1
            with suppress(RuntimeError, OSError, ValueError):  # the other thread notices what comes of it
                if store is None:
                    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
                    store = dist.TCPStore(host, port, is_master=False, timeout=_ANSWER)  # type: ignore[attr-defined]
                store.set(f"alive/{self.rank}", str(number))
                for other, before in last.items():
                    key = f"alive/{other}"
                    if store.check([key]) and (value := store.get(key)) != before:
                        last[other], self._seen[other] = value, time.monotonic()

    def _look(self) -> None:
        while not self._over.wait(_BEAT):
            if orphaned():
                self._end("what started this process is gone")
            silent = [other for other, when in self._seen.items() if time.monotonic() - when > self.silence]
            if silent:
                self._end(f"process {silent[0]} has given no sign of life for {self.silence:g} s")

    def _end(self, why: str) -> None:
        if self._over.is_set():
            return
        if not quiet():
            who = f"process {self.rank} of {self.size}"
            text = f"Error: {who} ends: {why}\nContinue with --resume; training goes on from the last saved state.\n"
            with suppress(OSError):
                os.write(sys.stderr.fileno(), text.encode())
        os._exit(LOST_EXIT)  # the main thread may wait for ever
