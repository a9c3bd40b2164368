"""EASE, a linear model between items in closed form.

Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019 (arXiv 1905.03375).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from hakg_dgl.errors import ConfigError, NumericalError
from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.graph.matrices import interaction_matrix
from hakg_dgl.models.explanation import Breakdown
from hakg_dgl.models.inverse import positive_inverse
from hakg_dgl.models.recommender import Abilities, ClosedFormRecommender, NoSettings, Sections, require_tensors
from hakg_dgl.models.score_sums import LinearBreakdown
from hakg_dgl.ranking.fold_in import FoldedUsers, FoldIn, rows_fold_in
from hakg_dgl.ranking.topk import Scorer
from hakg_dgl.settings.run import NumericSettings
from hakg_dgl.settings.section import Range, Section
from hakg_dgl.settings.training import SelectionSettings


def ease_weights(gram: Tensor, l2: float, between: Callable[[], None] = lambda: None) -> Tensor:
    r"""The item weights B that minimise :math:`\|X - XB\|_F^2 + \lambda \|B\|_F^2` with a zero diagonal.

    :math:`P = (X^\top X + \lambda I)^{-1}`, by Cholesky, and :math:`B_{ij} = -P_{ij} / P_{jj}` for i ≠ j (Steck 2019,
    eq. 8).

    Parameters
    ----------
    gram
        :math:`X^\top X`, float64 ``[n_items, n_items]``; not changed.
    l2
        λ, above 0.
    between
        Called every second or so; what it raises ends the computation.

    Returns
    -------
    Tensor
        B, float64 ``[n_items, n_items]``.
    """
    shifted = gram.clone()
    shifted.diagonal().add_(l2)
    inverse = positive_inverse(shifted, between)
    weights = inverse.div_(-inverse.diagonal().clone())
    weights.fill_diagonal_(0.0)
    return weights


@dataclass(frozen=True)
class EASESettings(Section):
    """Settings of EASE.

    Attributes
    ----------
    ease_l2
        Weights of the L2 term; of several the one that selects best is kept.
    """

    ease_l2: Annotated[tuple[float, ...], Range(1e-3, 1e9)] = (25.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1600.0)


class EASE(ClosedFormRecommender):
    """A weight for every pair of items; see :func:`ease_weights`, which solves for them in float64.

    Parameters are those of :class:`~hakg_dgl.models.recommender.Recommender`.
    """

    name = "ease"
    citation = r"""
@inproceedings{steck2019ease,
  author = {Harald Steck},
  title = {{Embarrassingly Shallow Autoencoders for Sparse Data}},
  booktitle = {The World Wide Web Conference},
  year = {2019},
  pages = {3251--3257},
  doi = {10.1145/3308558.3313710},
  eprint = {1905.03375},
  archivePrefix = {arXiv}
}
"""
    sections = Sections(EASESettings, NoSettings, SelectionSettings, NumericSettings)
    space: ClassVar[Mapping[str, Any]] = {"ease_l2": {"low": 10.0, "high": 3000.0, "log": True}}
    abilities = Abilities(folds_in_users=True, explains=True)
    weights: Tensor

    def build(self) -> None:
        """No weights yet."""
        self.interactions: Any = interaction_matrix(self.graph)
        self.register_buffer("weights", torch.empty(0, 0, dtype=self.dtype, device=self.device))
        self._gram: Tensor | None = None

    def require_resources(self) -> None:
        """Raise ConfigError if the matrices of items by items do not fit into memory."""
        require_memory(self.graph.n_items, self.device)

    def candidates(self) -> list[dict[str, float]]:
        """Every weight of the L2 term."""
        return [{"ease_l2": l2} for l2 in self.settings.ease_l2]

    def solve(self, chosen: Mapping[str, float]) -> None:
        """Solve for the weights, ``[n_items, n_items]``; NumericalError if there is no finite solution."""
        if self._gram is None:
            gram = (self.interactions.T @ self.interactions).toarray()
            self._gram = torch.from_numpy(gram).to(self.device)
        try:
            self.weights = ease_weights(self._gram, chosen["ease_l2"], self.between_blocks).to(self.dtype)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise NumericalError(str(error).splitlines()[0]) from error

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take trained weights; ValueError if they are not those of a model on this graph."""
        n_items = self.graph.n_items
        require_tensors(tensors, {"weights": ((n_items, n_items), self.dtype)})
        self.weights = tensors["weights"].to(self.device)

    def scorer(self) -> Scorer:
        """Sums of the weights of a user's items."""
        return DenseItemScorer(self.interactions, self.weights)

    def fold_in(self) -> FoldIn:
        """New users by their rows of interactions, as those of the data set."""
        return rows_fold_in(self.graph.n_items, lambda rows: DenseItemScorer(rows, self.weights))

    def breakdown(self, folded: FoldedUsers | None = None) -> Breakdown:
        """The score by past items, whose weights add up to it."""
        return LinearBreakdown(self.graph, lambda items, item: self.weights[items.to(self.device), item], folded)

    def with_new_items(self, graph: HeteroGraph) -> EASE:
        """The model with further items that weigh nothing, as those without interactions do."""
        model = type(self)(graph, self.settings, self.loss, self.run)
        more = graph.n_items - self.graph.n_items
        model.weights = F.pad(self.weights, (0, more, 0, more))
        return model.eval()

    def remedies(self) -> str:
        """What regularises the solution."""
        return "ease_l2"


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
        self.n_users: int
        self.n_items: int
        self.n_users, self.n_items = interactions.shape
        self.interactions: Any = interactions
        self.weights: Tensor = weights

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


def require_memory(n_items: int, device: torch.device, name: str = "ease", matrices: int = MATRICES) -> None:
    """Raise ConfigError if the matrices of items by items do not fit; where free memory is unknown they do.

    Parameters
    ----------
    n_items, device
        How large they are, and where.
    name
        Of the model, for the message.
    matrices
        How many there are at once.
    """
    needed, free = matrices * 8 * n_items**2, free_memory(device)
    if free is not None and needed > free:
        raise ConfigError(
            f"model = {name!r} solves for {n_items:,} x {n_items:,} weights: its {matrices} matrices in float64 take "
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
