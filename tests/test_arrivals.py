"""Models with new items: the last one is remembered, no other is held, and its memory goes back to the system."""

from __future__ import annotations

import platform
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from small_demo import small_demo

from hakg_dgl.data.new_items import new_items_of
from hakg_dgl.serving.arrivals import LastArrivals, table_of
from hakg_dgl.serving.names import Names
from hakg_dgl.training.allocator import give_back_freed_memory

pytest.importorskip("prometheus_client", reason="pip install 'hakg_dgl[serve]'")


class Made:
    """Takes memory."""

    def __init__(self, n: int) -> None:
        self.held = [np.ones(20_000) for _ in range(n)]


def rows(number: int) -> tuple[tuple[tuple[str, str], ...], ...]:
    return ((("item", f"new_{number}"),),)


def test_the_last_one_is_remembered_and_dropped_before_the_next_is_made() -> None:
    held: weakref.WeakSet[Made] = weakref.WeakSet()

    def make(given: object) -> Made:
        assert not len(held)
        made = Made(3)
        held.add(made)
        return made

    arrivals = LastArrivals(make)
    assert arrivals.of(rows(1)) is arrivals.of(rows(1))
    for number in range(5):
        assert len(arrivals.of(rows(number)).held) == 3
        assert len(held) == 1


def test_threads_make_one_at_a_time_and_get_what_they_asked_for() -> None:
    making: list[object] = []

    def make(given: object) -> object:
        making.append(given)
        time.sleep(0.002)
        assert making == [given]
        making.clear()
        return given

    arrivals = LastArrivals(make)
    with ThreadPoolExecutor(4) as pool:
        asked = [rows(number // 3) for number in range(60)]
        assert list(pool.map(arrivals.of, asked)) == asked


def test_an_error_is_not_remembered() -> None:
    def make(given: object) -> str:
        if not fine:
            raise ValueError("not now")
        return "made"

    arrivals, fine = LastArrivals(make), False
    with pytest.raises(ValueError, match="not now"):
        arrivals.of(rows(1))
    fine = True
    assert arrivals.of(rows(1)) == "made"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc, whose malloc this is about")
def test_freed_memory_goes_back_to_the_system() -> None:
    def resident() -> int:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4096

    kept, gone = [], []
    for _ in range(1000):  # gaps between what stays
        gone.append(np.ones(12_000))
        kept.append(np.ones(100))
    full = resident()
    gone.clear()
    give_back_freed_memory()
    assert full - resident() > 60e6
    assert len(kept) == 1000


def test_a_title_beside_a_name_is_a_column() -> None:
    table = table_of([(("item", "x"), ("name", "X"), ("title", "Sir"), ("made_by", "maker_1"))])
    assert table.columns.tolist() == ["item", "title", "made_by", "name"]
    found = new_items_of(table, small_demo())
    assert found.report["columns_without_a_relation_left_out"] == 1


def test_a_name_that_several_have_is_of_none() -> None:
    names = Names(pd.DataFrame({"original_id": ["a", "b", "c"], "name": ["One", "Two", "One"]}))
    assert (names.named("Two"), names.named("One"), names.named("Three")) == (1, None, None)
