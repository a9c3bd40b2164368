"""Work of requests in a few threads: so many at once, for so long, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
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
        waited: asyncio.Future[Result] = loop.create_future()
        self.at_work += 1
        begun = self._threads.submit(self._work, work, loop, waited)
        timer = loop.call_later(self.bounds.work_seconds, self._give_up, begun, waited)
        try:
            return await waited
        finally:
            timer.cancel()

    def close(self) -> None:
        """Begin nothing new; what runs is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _work(
        self, work: Callable[[], Result], loop: asyncio.AbstractEventLoop, waited: asyncio.Future[Result]
    ) -> None:
        """In a thread: do it, and hand over what came of it by one call of the loop."""
        result: Result | None = None
        error: BaseException | None = None
        try:
            result = work()
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop is closed, so nobody waits
            loop.call_soon_threadsafe(self._left, waited, result, error)

    def _left(self, waited: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self.at_work -= 1
        if waited.done():  # given up
            return
        if error is None:
            waited.set_result(result)
        else:
            waited.set_exception(error)

    def _give_up(self, begun: Future[None], waited: asyncio.Future[Any]) -> None:
        if begun.cancel():  # no thread has it as yet
            self.at_work -= 1
        if not waited.done():
            seconds = self.bounds.work_seconds
            waited.set_exception(later(f"the answer took longer than {seconds:g} seconds", "Ask for less at once."))
