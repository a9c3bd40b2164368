"""The threads of a study's processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from hakg_dgl.studies.threads import on_threads, threads_each


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("workers", "given", "each"), [(1, None, None), (1, 3, 3), (2, None, 2), (3, None, 1), (8, None, 1), (8, 5, 5)]
)
def test_workers_share_the_threads_that_there_are(workers: int, given: int | None, each: int | None) -> None:
    assert threads_each(workers, given) == each


def test_the_number_of_threads_is_as_before_after_the_block() -> None:
    with on_threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 4
    with on_threads(None):
        assert torch.get_num_threads() == 4
        torch.set_num_threads(1)
    assert torch.get_num_threads() == 4
    with pytest.raises(KeyboardInterrupt), on_threads(3):
        raise KeyboardInterrupt
    assert torch.get_num_threads() == 4
