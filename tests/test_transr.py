"""TransR against the formula, a triple at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from hakg_dgl.layers.transr import project_by_relation, transr_distance, transr_loss

RELATION = torch.tensor([2, 0, 0, 3, 2, 2, 0])  # relation 1 has no triple


def rows(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_rows_are_projected_by_the_matrix_of_their_relation() -> None:
    values, matrices = rows(0, 7, 5), rows(1, 4, 3, 5)
    found = project_by_relation(values, RELATION, matrices)
    expected = torch.stack([matrices[r] @ x for x, r in zip(values, RELATION.tolist(), strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(lambda x, w: project_by_relation(x, RELATION, w), (values, matrices))


def test_distance_and_loss_are_those_of_the_publication() -> None:
    head, tail, false = (rows(seed, 7, 5) for seed in range(3))
    translations, matrices = rows(3, 4, 3), rows(4, 4, 3, 5)

    def distance(h: Tensor, r: int, t: Tensor) -> Tensor:
        return (matrices[r] @ h + translations[r] - matrices[r] @ t).square().sum()

    true = torch.stack([distance(*triple) for triple in zip(head, RELATION.tolist(), tail, strict=True)])
    wrong = torch.stack([distance(*triple) for triple in zip(head, RELATION.tolist(), false, strict=True)])
    found = transr_distance(head, RELATION, tail, translations, matrices)
    torch.testing.assert_close(found, true, rtol=1e-12, atol=1e-12)
    loss = transr_loss(head, RELATION, tail, false, translations, matrices)
    expected = -torch.log(torch.sigmoid(wrong - true)).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    everything = (head, tail, false, translations, matrices)
    for ours, theirs in zip(
        torch.autograd.grad(loss, everything), torch.autograd.grad(expected, everything), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
