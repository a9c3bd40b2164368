"""Lists from blocks of items are those of all items at once."""

from __future__ import annotations

import pytest
import torch

from hakg_dgl.errors import NumericalError
from hakg_dgl.ranking.in_blocks import ListsSoFar
from hakg_dgl.ranking.topk import EmbeddingScorer, masked_topk

INDPTR, KNOWN = torch.tensor([0, 3, 3, 14, 16, 17]), torch.tensor([0, 5, 12, *range(2, 13), 1, 12, 7])


@pytest.mark.parametrize("size", [1, 4, 13, 20])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_lists_of_blocks_are_those_of_all_items(size: int, k: int) -> None:
    generator = torch.Generator().manual_seed(size)
    users, items = (torch.randint(-1, 2, (n, 2), generator=generator).double() for n in (5, 13))  # ties everywhere
    lists = ListsSoFar(users, k, (torch.repeat_interleave(INDPTR.diff()), KNOWN))
    for first in range(0, 13, size):
        lists.add(first, items[first : first + size])
    expected, scores = masked_topk(EmbeddingScorer(users, items), range(5), k, (INDPTR, KNOWN))
    assert torch.equal(lists.items, expected)
    assert torch.equal(lists.scores, scores)
    assert (lists.items[2] < 0).sum() == lists.items.shape[1] - min(k, 2)  # two items are left for user 2


def test_a_score_that_is_not_a_number_is_an_error() -> None:
    lists = ListsSoFar(torch.ones(2, 1), 3)
    lists.add(0, torch.ones(4, 1))
    with pytest.raises(NumericalError):
        lists.add(4, torch.full((1, 1), torch.nan))
