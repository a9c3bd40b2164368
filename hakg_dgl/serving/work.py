"""Work of requests in a few threads: so many at once, for so long, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from hakg_dgl.serving.bounds import Bounds
from hakg_dgl.serving.refusals import later

Result = TypeVar("Result")


class Workplace:
    """Threads for the work of requests.

    What is given up still counts as at work until its thread is done with it, so that the number is a true bound.

    Parameters
    ----------
    bounds
        ``threads``, ``at_work`` and ``work_seconds``.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.at_work = 0
        self._threads = ThreadPoolExecutor(bounds.threads, thread_name_prefix="hakg-serve")

    async def do(self, work: Callable[[], Result]) -> Result:
        """The result of some work, or its exception.

        Raises
        ------
        Refusal
            503: if too much is at work, or this took too long.
        """
        if self.at_work >= self.bounds.at_work:
            raise later(f"{self.at_work} requests are at work", "Try again in a moment, or run another server.")
        loop = asyncio.get_running_loop()
        self.at_work += 1
        future = self._threads.submit(work)
        future.add_done_callback(lambda _: self._tell(loop))
        waited = asyncio.wrap_future(future, loop=loop)
        done, _ = await asyncio.wait({waited}, timeout=self.bounds.work_seconds)
        if not done:
            future.cancel()
            waited.add_done_callback(_take)
            raise later(f"the answer took longer than {self.bounds.work_seconds:g} seconds", "Ask for less at once.")
        return waited.result()

    def close(self) -> None:
        """Begin nothing new; what runs is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _tell(self, loop: asyncio.AbstractEventLoop) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._left)

    def _left(self) -> None:
        self.at_work -= 1


def _take(future: Future[Any] | asyncio.Future[Any]) -> None:
    """Look at the result that nobody waits for any more, so that nobody complains that it was not looked at."""
    if not future.cancelled():
        future.exception()
