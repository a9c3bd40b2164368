"""Leading singular values and vectors of sparse matrices, by each way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from hakg_dgl.layers import spectrum
from hakg_dgl.layers.spectrum import Matrix, leading, way

CPU = torch.device("cpu")
R = 16


def matrix_of(n_rows: int, n_cols: int, rank: int | None = None) -> sparse.csr_matrix:
    """Of a slowly falling spectrum, or of few directions."""
    made: sparse.csr_matrix = sparse.random(n_rows, n_cols, 0.05, format="csr", random_state=0, dtype=np.float64)
    if rank is not None:
        made = sparse.hstack([made[:, :rank], sparse.csr_matrix((n_rows, n_cols - rank))]).tocsr()
    made.sort_indices()
    return made


def by_blocks(made: sparse.csr_matrix, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, torch.Tensor]:
    monkeypatch.setattr(spectrum, "DENSE_UP_TO", 0)
    monkeypatch.setattr(spectrum, "ARPACK_UP_TO", 0.0)
    return leading(Matrix.of(made, CPU), R)


@pytest.mark.parametrize(("n_rows", "n_cols"), [(300, 420), (420, 300), (40, 30)])
@pytest.mark.parametrize("basis_bytes", [1 << 30, 0], ids=["one basis", "restarts"])
def test_blocks_find_the_directions_of_a_full_decomposition(
    n_rows: int, n_cols: int, basis_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a basis of 96 vectors at most, or with restarts, or in one that holds all."""
    made = matrix_of(n_rows, n_cols)
    monkeypatch.setattr(spectrum, "BASIS_BYTES", basis_bytes)
    squared, vectors = by_blocks(made, monkeypatch)
    _, values, right = np.linalg.svd(made.toarray())
    np.testing.assert_allclose(squared.numpy(), values[:R] ** 2, rtol=1e-9)
    shares = torch.from_numpy(right[:R].copy()) @ vectors
    torch.testing.assert_close(shares.abs(), torch.eye(R, dtype=torch.float64), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize(("n_rows", "n_cols"), [(300, 420), (420, 300)])
def test_blocks_of_fewer_directions_than_asked_for(n_rows: int, n_cols: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = matrix_of(n_rows, n_cols, rank=5)
    squared, vectors = by_blocks(made, monkeypatch)
    values = np.linalg.svd(made.toarray(), compute_uv=False)
    np.testing.assert_allclose(squared[:5].numpy(), values[:5] ** 2, rtol=1e-9)
    assert float(squared[5:].max()) < 1e-9
    torch.testing.assert_close(vectors[:, :5].T @ vectors[:, :5], torch.eye(5, dtype=torch.float64))


def test_a_gram_matrix_in_stripes_is_that_of_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU decomposes at once."""
    made = matrix_of(70, 50)
    monkeypatch.setattr(spectrum, "_STRIPE", 16)
    torch.testing.assert_close(spectrum._dense_gram(Matrix.of(made, CPU)), torch.from_numpy((made.T @ made).toarray()))


def test_the_way_depends_on_size_and_device() -> None:
    assert way(2048, 8, CPU) == way(2048, 8, torch.device("cuda")) == way(3000, 3000, CPU) == "dense"
    assert way(23_566, 256, CPU) == "arpack"
    assert way(48_123, 512, CPU) == way(23_566, 256, torch.device("cuda")) == "blocks"
