"""The inverse by blocks against LAPACK's, for every width of blocks."""

from __future__ import annotations

import pytest
import torch

from hakg_dgl.models import inverse
from hakg_dgl.models.inverse import positive_inverse


def positive(n: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(n + 3, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x.T @ x + torch.eye(n, dtype=torch.float64)


@pytest.mark.parametrize("width", [1, 5, 8, 23, 24, 100])
@pytest.mark.parametrize("n", [1, 23])
def test_the_inverse_is_that_of_a_general_solver(monkeypatch: pytest.MonkeyPatch, width: int, n: int) -> None:
    monkeypatch.setattr(inverse, "NARROWEST", width)
    monkeypatch.setattr(inverse, "WORK", 0.0)
    matrix, calls = positive(n), []
    found = positive_inverse(matrix.clone(), lambda: calls.append(None))
    torch.testing.assert_close(found, torch.linalg.inv(matrix), rtol=1e-10, atol=1e-13)
    assert torch.equal(found, found.T)
    assert len(calls) == 2 * -(-n // width)


def test_a_matrix_that_is_not_positive_definite_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inverse, "NARROWEST", 4)
    monkeypatch.setattr(inverse, "WORK", 0.0)
    matrix = positive(12)
    matrix[9, 9] = -1.0
    with pytest.raises(torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        positive_inverse(matrix, lambda: None)


def test_what_is_raised_between_blocks_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inverse, "NARROWEST", 4)
    monkeypatch.setattr(inverse, "WORK", 0.0)
    calls = []

    def stop() -> None:
        calls.append(None)
        if len(calls) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        positive_inverse(positive(12), stop)
    assert len(calls) == 5
