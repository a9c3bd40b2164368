"""The run that is served now, and how a newer one takes its place between two requests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from hakg_dgl.errors import HakgError
from hakg_dgl.serving.refusals import Refusal, later
from hakg_dgl.serving.served_run import ServedRun
from hakg_dgl.training.allocator import give_back_freed_memory

log: logging.Logger = logging.getLogger(__name__)


class CurrentRun:
    """Holds the run that answers.

    A request takes :attr:`run` once and is answered by it to its end. The old run goes when its last request is done.

    Parameters
    ----------
    read_run
        Reads the run from its folder, and raises HakgError or OSError if it is broken.
    pause
        Seconds between the beginnings of two reloads that :meth:`reload` allows.

    Attributes
    ----------
    run
        The run that answers.
    loaded_at
        When it was read, in seconds since 1970.
    reloading
        Whether another one is being read.
    reloads
        How many reloads were ``done`` and ``refused``.

    Raises
    ------
    HakgError, OSError
        If the run is broken.
    """

    def __init__(self, read_run: Callable[[], ServedRun], *, pause: float = 0.0) -> None:
        self._read_run, self._pause = read_run, pause
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hakg-reload")
        self.reloading = False
        self._begun = -float("inf")
        self.reloads: dict[str, int] = {"done": 0, "refused": 0}
        self.run = read_run()
        self.loaded_at = time.time()
        give_back_freed_memory()  # of what reading took

    async def reload(self, *, at_once: bool = False) -> ServedRun:
        """Read the run again; if it is whole it takes the place of the one that answered until now.

        Parameters
        ----------
        at_once
            Do not mind how recently the last reload began.

        Raises
        ------
        Refusal
            409 with the reason: the run is broken, and the earlier one goes on answering. 503: another reload is not
            done, or began just now.
        """
        if self.reloading:
            raise later("a reload is not done yet", "Wait for it.")
        if not at_once and time.monotonic() - self._begun < self._pause:
            raise later("a reload began just now", f"Wait {self._pause:g} seconds between two.")
        self.reloading, self._begun = True, time.monotonic()
        try:
            run = await asyncio.get_running_loop().run_in_executor(self._thread, self._read_run)
        except Exception as error:  # whatever it is, the earlier run goes on
            self.reloads["refused"] += 1
            if not isinstance(error, (HakgError, OSError, MemoryError)):
                log.exception("the newer run could not be read")
            reason = str(error) or type(error).__name__
            raise Refusal(409, f"the newer run is broken, so the earlier one goes on: {reason}") from error
        finally:
            self.reloading = False
        self.reloads["done"] += 1
        self.loaded_at = time.time()
        self.run = run
        self._thread.submit(give_back_freed_memory)
        return run

    def close(self) -> None:
        """Begin no reload any more; one that runs is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)
