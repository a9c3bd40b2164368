"""The ranking loss that models share, against its formulas on the full score matrix."""

from __future__ import annotations

import pytest
import torch
from small_demo import small_demo
from torch import Tensor

from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.models.ranking_loss import RankingLoss, RankingLossSettings, idle_ranking_settings
from hakg_dgl.randomness import torch_generator

GRAPH = build_graph(small_demo())
USERS, POSITIVES = GRAPH.pairs()[::7].unbind(1)


def rows(seed: int, n: int) -> Tensor:
    return torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def formula(loss: RankingLoss, user: Tensor, item: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Mean loss of the batch without its L2 term, and the items that it draws."""
    scores = user @ item.T
    positive = scores[USERS, POSITIVES]
    if loss.settings.ranking_loss == "bpr":
        negatives = loss.sampler.sample(USERS, 1, torch_generator(5, "negatives")).squeeze(1)
        return -torch.log(torch.sigmoid(positive - scores[USERS, negatives])).mean(), [POSITIVES, negatives]
    has = torch.zeros(GRAPH.n_users, GRAPH.n_items, dtype=torch.bool)
    has[GRAPH.pairs().unbind(1)] = True
    others = (scores / loss.settings.temperature).masked_fill(has, -torch.inf)[USERS]
    logits = torch.cat([positive.unsqueeze(1) / loss.settings.temperature, others], 1)
    return -torch.log_softmax(logits, 1)[:, 0].mean(), [POSITIVES]


@pytest.mark.parametrize("kind", ["bpr", "softmax"])
@pytest.mark.parametrize("own_tables", [False, True])
def test_the_loss_is_the_formula(kind: str, own_tables: bool) -> None:
    settings = RankingLossSettings(ranking_loss=kind, temperature=0.7, weight_decay=0.3)  # type: ignore[arg-type]
    user, item, other = rows(0, GRAPH.n_users), rows(1, GRAPH.n_items), rows(2, GRAPH.n_items)
    loss = RankingLoss(GRAPH, settings, torch_generator(5, "negatives"))
    decayed = ([user], [item, other]) if own_tables else None
    found = loss(user, item, USERS, POSITIVES, decayed=decayed)
    expected, drawn = formula(loss, user, item)
    tables = [item, other] if own_tables else [item]
    squares = user[USERS].square().sum() + sum(table[ids].square().sum() for table in tables for ids in drawn)
    expected = expected + 0.3 * squares / (2 * len(USERS))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(found, [user, *tables]), torch.autograd.grad(expected, [user, *tables]), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_candidates_are_drawn_anew_each_step() -> None:
    settings = RankingLossSettings(candidates=10, weight_decay=0.0)
    user, item = rows(0, GRAPH.n_users), rows(1, GRAPH.n_items)
    loss = RankingLoss(GRAPH, settings, torch_generator(5, "negatives"))
    first, second = (loss(user, item, USERS, POSITIVES).item() for _ in range(2))
    assert first != second
    again = RankingLoss(GRAPH, settings, torch_generator(5, "negatives"))
    assert again(user, item, USERS, POSITIVES).item() == first


def test_settings_of_the_softmax_are_idle_beside_the_pairwise_loss() -> None:
    assert idle_ranking_settings({"ranking_loss": "softmax"}) == {}
    assert set(idle_ranking_settings({"ranking_loss": "bpr"})) == {"temperature", "candidates"}
