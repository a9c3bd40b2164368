"""The workplace bounds what is at work, for how long, and counts what was given up until it is done."""

from __future__ import annotations

import asyncio
import threading

import pytest

from hakg_dgl.errors import ConfigError
from hakg_dgl.serving.bounds import Bounds
from hakg_dgl.serving.refusals import Refusal
from hakg_dgl.serving.work import Workplace


def test_results_and_exceptions_come_back_from_another_thread() -> None:
    async def run() -> None:
        work = Workplace(Bounds())
        assert await work.do(threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await work.do(lambda: 1 // 0)
        await asyncio.sleep(0)
        assert work.at_work == 0
        work.close()

    asyncio.run(run())


def test_what_is_too_much_or_too_slow_is_told_to_come_later() -> None:
    release = threading.Event()

    async def run() -> None:
        work = Workplace(Bounds(threads=1, at_work=3, work_seconds=0.1))
        tasks = [asyncio.ensure_future(work.do(release.wait)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Refusal, match="3 requests are at work") as refused:
            await work.do(int)
        assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, Refusal)
            assert "took longer than 0.1 seconds" in result.problem
        await asyncio.sleep(0)
        assert work.at_work == 1  # those that waited are gone, the one in the thread is not
        release.set()
        while work.at_work:
            await asyncio.sleep(0.01)
        assert await work.do(int) == 0
        work.close()

    asyncio.run(run())


def test_what_waits_when_it_is_closed_is_never_begun() -> None:
    release, begun = threading.Event(), list[int]()

    async def run() -> None:
        work = Workplace(Bounds(threads=1))
        first = asyncio.ensure_future(work.do(release.wait))
        others = [asyncio.ensure_future(work.do(lambda: begun.append(1))) for _ in range(5)]
        await asyncio.sleep(0)
        work.close()
        release.set()
        assert await first
        for other in others:
            other.cancel()

    asyncio.run(run())
    assert not begun


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_limits_are_numbers_above_zero(value: float) -> None:
    with pytest.raises(ConfigError, match="the limit work_seconds"):
        Bounds(work_seconds=value)
