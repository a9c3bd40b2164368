"""EASE, a linear model between items in closed form.

Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019 (arXiv 1905.03375).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from hakg_dgl.errors import ConfigError
from hakg_dgl.models.closed_form import interaction_matrix, require_shapes
from hakg_dgl.models.settings import Settings

if TYPE_CHECKING:
    from hakg_dgl.data.dataset import Dataset


def ease_weights(gram: Tensor, l2: float) -> Tensor:
    r"""The item weights B that minimise :math:`\|X - XB\|_F^2 + \lambda \|B\|_F^2` with a zero diagonal.

    :math:`P = (X^\top X + \lambda I)^{-1}`, by Cholesky, and :math:`B_{ij} = -P_{ij} / P_{jj}` for i ≠ j (Steck 2019,
    eq. 8).

    Parameters
    ----------
    gram
        :math:`X^\top X`, float64 ``[n_items, n_items]``; not changed.
    l2
        λ, above 0.

    Returns
    -------
    Tensor
        B, float64 ``[n_items, n_items]``.
    """
    shifted = gram.clone()
    shifted.diagonal().add_(l2)
    torch.linalg.cholesky(shifted, out=shifted)
    inverse = torch.cholesky_inverse(shifted)
    weights = inverse.div_(-inverse.diagonal().clone())
    weights.fill_diagonal_(0.0)
    return weights


class EASE:
    """See :func:`ease_weights` and :class:`~hakg_dgl.models.closed_form.ClosedForm`.

    Parameters
    ----------
    dataset, splits
        Whose interactions are used.
    settings
        Its ``ease_l2``, and the numeric type that weights are kept and scores are made in; they are solved for in
        float64.
    device
        Where they are solved for, and where scores are made.
    """

    def __init__(self, dataset: Dataset, splits: tuple[str, ...], settings: Settings, device: torch.device) -> None:
        self.settings, self.device = settings.baseline, device
        self.dtype: torch.dtype = getattr(torch, settings.run.dtype)
        self.interactions = interaction_matrix(dataset, splits)
        self._gram: Tensor | None = None

    def candidates(self) -> list[dict[str, float]]:
        """Every weight of the L2 term."""
        return [{"ease_l2": l2} for l2 in self.settings.ease_l2]

    def fit(self, chosen: Mapping[str, float]) -> dict[str, Tensor]:
        """``weights``: B, ``[n_items, n_items]``."""
        if self._gram is None:
            gram = (self.interactions.T @ self.interactions).toarray()
            self._gram = torch.from_numpy(gram).to(self.device)
        return {"weights": ease_weights(self._gram, chosen["ease_l2"]).to(self.dtype)}

    def scorer(self, tensors: Mapping[str, Tensor]) -> DenseItemScorer:
        """The scorer of these weights."""
        n_items = self.interactions.shape[1]
        require_shapes(tensors, weights=(n_items, n_items))
        return DenseItemScorer(self.interactions, tensors["weights"].to(self.device))


class DenseItemScorer:
    """Scores by a dense matrix between items: the sum of its rows over the user's items.

    Parameters
    ----------
    interactions
        ``[n_users, n_items]``, ones.
    weights
        ``[n_items, n_items]``: row i is what having item i adds to the scores.
    """

    def __init__(self, interactions: sparse.csr_matrix, weights: Tensor) -> None:
        self.n_users, self.n_items = interactions.shape
        self.interactions, self.weights = interactions, weights

    def scores(self, users: Tensor) -> Tensor:
        """``[B, n_items]`` of the users ``[B]``, on the device of the weights."""
        rows = self.interactions[users.cpu().numpy()]
        if not rows.nnz:
            return self.weights.new_zeros(rows.shape)
        items, indptr = (torch.from_numpy(part).long().to(self.weights.device) for part in (rows.indices, rows.indptr))
        return F.embedding_bag(items, self.weights, indptr, mode="sum", include_last_offset=True)


MATRICES = 4
"""Matrices of items by items in float64 that a search holds at once: XᵀX, the factor, its inverse, and two of weights
in float32 (the new ones and the best)."""


def require_memory(n_items: int, device: torch.device) -> None:
    """Raise ConfigError if the matrices of items by items do not fit; where free memory is unknown they do."""
    needed, free = MATRICES * 8 * n_items**2, free_memory(device)
    if free is not None and needed > free:
        raise ConfigError(
            f"model = 'ease' solves for {n_items:,} x {n_items:,} weights: its {MATRICES} matrices in float64 take "
            f"{needed / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free ({device.type}).\n"
            "Train another model (--model item-knn keeps few weights an item), preprocess with a larger "
            "--min-item-interactions, or use a machine with more memory."
        )


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be taken, within the limit of the control group where there is one; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int(group.joinpath(f"memory.{name}").read_text(encoding="ascii")) for name in ("max", "current"))
        stat = dict(line.split() for line in group.joinpath("memory.stat").read_text(encoding="ascii").splitlines())
        return min(free, limit - used + int(stat["file"]))  # cached files make room
    except (OSError, KeyError, ValueError):  # no such group, or "max": no limit
        return free
