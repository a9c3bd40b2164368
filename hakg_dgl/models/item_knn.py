"""Nearest neighbours among items.

Sarwar, Karypis, Konstan and Riedl, "Item-based collaborative filtering recommendation algorithms", WWW 2001;
Deshpande and Karypis, "Item-based top-N recommendation algorithms", ACM TOIS 22(1), 2004.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.graph.matrices import interaction_matrix
from hakg_dgl.models.explanation import Breakdown
from hakg_dgl.models.recommender import Abilities, ClosedFormRecommender, NoSettings, Sections, require_tensors
from hakg_dgl.models.score_sums import LinearBreakdown
from hakg_dgl.ranking.fold_in import FoldedUsers, FoldIn, rows_fold_in
from hakg_dgl.ranking.topk import Scorer, masked_topk
from hakg_dgl.settings.run import NumericSettings
from hakg_dgl.settings.section import Range, Section
from hakg_dgl.settings.training import SelectionSettings

Similarity: TypeAlias = Literal["cosine", "jaccard"]


class ItemSimilarity:
    r"""Similarity of every pair of items, by rows.

    With the numbers :math:`c_{ij}` of users of both items, :math:`c_i` of each, and shrinkage :math:`h`:

    .. math:: s_{ij} = \frac{c_{ij}}{\sqrt{c_i c_j} + h} \quad\text{(cosine)}, \qquad
              s_{ij} = \frac{c_{ij}}{c_i + c_j - c_{ij} + h} \quad\text{(jaccard)}

    It is a :class:`~hakg_dgl.ranking.topk.Scorer` whose users are items, so that the neighbours are its top-k: neither
    an item itself nor one without a common user is a candidate.

    Parameters
    ----------
    interactions
        ``[n_users, n_items]``, ones.
    similarity
        ``cosine`` or ``jaccard``.
    shrinkage
        h, 0 or more; it draws the similarity of rare items towards 0.
    between
        Called before each block of rows; what it raises ends the computation.
    """

    def __init__(
        self,
        interactions: sparse.csr_matrix,
        similarity: Similarity,
        shrinkage: float,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self._between = between
        self.n_users: int = interactions.shape[1]
        self.n_items: int = self.n_users
        self.similarity = similarity
        self.shrinkage: float = shrinkage
        self._interactions, self._by_item = interactions, interactions.T.tocsr()
        self._counts = np.diff(self._by_item.indptr).astype(np.float64)

    def scores(self, users: Tensor) -> Tensor:
        """Float64 ``[B, n_items]`` of the items ``[B]``; ``-inf`` where there is no candidate."""
        self._between()
        rows = users.cpu().numpy()
        common = (self._by_item[rows] @ self._interactions).toarray()
        own, other = self._counts[rows, None], self._counts[None]
        size = np.sqrt(own * other) if self.similarity == "cosine" else own + other - common
        common[np.arange(len(rows)), rows] = 0.0
        values = np.full_like(common, -np.inf)
        np.divide(common, size + self.shrinkage, out=values, where=common > 0)
        return torch.from_numpy(values)


@dataclass(frozen=True)
class ItemKNNSettings(Section):
    """Settings of item neighbours; every number of neighbours is tried with every shrinkage.

    Attributes
    ----------
    neighbours
        Neighbours kept for each item; of several numbers the one that selects best is kept.
    shrinkage
        h, which draws the similarity of rare items towards 0; of several the one that selects best is kept.
    similarity
        Which similarity.
    """

    neighbours: Annotated[tuple[int, ...], Range(1, 100_000)] = (10, 20, 50, 100, 200, 500, 1000)
    shrinkage: Annotated[tuple[float, ...], Range(0.0, 1e6)] = (0.0, 5.0, 10.0, 20.0, 50.0)
    similarity: Similarity = "cosine"


class ItemKNN(ClosedFormRecommender):
    r"""Item neighbours: :math:`\mathrm{score}(u, j) = \sum_{i \in I_u \cap N(j)} s_{ij}`.

    :math:`I_u` are the user's items, :math:`N(j)` the ``neighbours`` items most similar to j (of those equal as
    computed, lower ids). That is the neighbourhood of the item scored, as in Sarwar et al.; Deshpande and Karypis take
    those of the user's items, see docs/baselines.md. Computed by blocks, on the CPU.

    Parameters are those of :class:`~hakg_dgl.models.recommender.Recommender`.
    """

    name = "item-knn"
    citation = r"""
@inproceedings{sarwar2001itemknn,
  author = {Badrul Sarwar and George Karypis and Joseph Konstan and John Riedl},
  title = {{Item-based Collaborative Filtering Recommendation Algorithms}},
  booktitle = {Proceedings of the 10th International Conference on World Wide Web},
  year = {2001},
  pages = {285--295},
  doi = {10.1145/371920.372071}
}
"""
    sections = Sections(ItemKNNSettings, NoSettings, SelectionSettings, NumericSettings)
    space: ClassVar[Mapping[str, Any]] = {
        "neighbours": {"low": 5, "high": 1000, "log": True},
        "shrinkage": {"low": 0.0, "high": 200.0},
        "similarity": ["cosine", "jaccard"],
    }
    abilities = Abilities(folds_in_users=True, explains=True)
    indptr: Tensor
    indices: Tensor
    values: Tensor

    def build(self) -> None:
        """No neighbours yet."""
        self.interactions: Any = interaction_matrix(self.graph)
        self._found: tuple[float, Tensor, Tensor] | None = None
        self.register_buffer("indptr", torch.zeros(self.graph.n_items + 1, dtype=torch.int64))
        self.register_buffer("indices", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("values", torch.zeros(0, dtype=self.dtype))

    def candidates(self) -> list[dict[str, float]]:
        """Every shrinkage with every number of neighbours."""
        pairs = itertools.product(self.settings.shrinkage, self.settings.neighbours)
        return [{"neighbours": neighbours, "shrinkage": shrinkage} for shrinkage, neighbours in pairs]

    def solve(self, chosen: Mapping[str, float]) -> None:
        """Keep the neighbours as a CSR matrix ``[n_items, n_items]``; row j holds those of item j, best first."""
        self._keep(*self._widest(chosen["shrinkage"]), int(chosen["neighbours"]))

    def _keep(self, items: Tensor, values: Tensor, neighbours: int) -> None:
        """Keep the first neighbours of each row, ``[n_items, width]`` best first, where there are as many."""
        items, values = items[:, :neighbours], values[:, :neighbours]
        kept = items >= 0
        self.indptr = torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(1).cumsum(0)])
        self.indices, self.values = items[kept], values[kept].to(self.dtype)

    def _widest(self, choice: float) -> tuple[Tensor, Tensor]:
        """The most neighbours that may be asked for and their similarities, best first, kept for the next choice."""
        if self._found is None or self._found[0] != choice:
            similarity = self._similarity(choice)
            width = min(similarity.n_items, max(self.settings.neighbours))
            self._found = choice, *masked_topk(similarity, torch.arange(similarity.n_items), width)
        return self._found[1:]

    def _similarity(self, choice: float) -> Scorer:
        """What finds the neighbours of items, for a shrinkage."""
        return ItemSimilarity(self.interactions, self.settings.similarity, choice, self.between_blocks)

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take trained neighbours; ValueError if they are not those of a model on this graph."""
        n_items, n = self.graph.n_items, tensors["values"].numel() if "values" in tensors else 0
        ids = torch.int64
        require_tensors(
            tensors, {"indptr": ((n_items + 1,), ids), "indices": ((n,), ids), "values": ((n,), self.dtype)}
        )
        self.indptr, self.indices, self.values = tensors["indptr"], tensors["indices"], tensors["values"]
        self._weights()

    def _weights(self) -> sparse.csr_matrix:
        """Row i: what having item i adds to the scores. ValueError if the neighbours are not a CSR matrix."""
        values, indices, indptr = (part.cpu().numpy() for part in (self.values, self.indices, self.indptr))
        rows = sparse.csr_matrix((values, indices, indptr), shape=(self.graph.n_items,) * 2)
        rows.check_format()
        return rows.T.tocsr()

    def scorer(self) -> Scorer:
        """Sums of the similarities of a user's items to their neighbours."""
        return NeighbourScorer(self.interactions, self._weights())

    def fold_in(self) -> FoldIn:
        """New users by their rows of interactions, as those of the data set."""
        weights = self._weights()
        return rows_fold_in(self.graph.n_items, lambda rows: NeighbourScorer(rows, weights))

    def breakdown(self, folded: FoldedUsers | None = None) -> Breakdown:
        """The score by past items, of which the item's neighbours add something."""

        def of(items: Tensor, item: int) -> Tensor:
            near = slice(int(self.indptr[item]), int(self.indptr[item + 1]))
            weights = self.values.new_zeros(self.graph.n_items).index_copy_(0, self.indices[near], self.values[near])
            return weights[items.to(weights.device)]

        return LinearBreakdown(self.graph, of, folded)

    def with_new_items(self, graph: HeteroGraph) -> ItemKNN:
        """The model with further items that have no neighbours and are none, like those without interactions."""
        model = type(self)(graph, self.settings, self.loss, self.run)
        ends = self.indptr[-1:].expand(graph.n_items - self.graph.n_items)
        model.indptr, model.indices, model.values = torch.cat([self.indptr, ends]), self.indices, self.values
        return model.eval()

    def remedies(self) -> str:
        """What regularises the similarities."""
        return "shrinkage"


class NeighbourScorer:
    """Scores by a sparse matrix between items: a user's row of interactions times it.

    Parameters
    ----------
    interactions
        ``[n_users, n_items]``.
    weights
        ``[n_items, n_items]``: row i is what having item i adds to the scores.
    """

    def __init__(self, interactions: sparse.csr_matrix, weights: sparse.csr_matrix) -> None:
        self.n_users: int
        self.n_items: int
        self.n_users, self.n_items = interactions.shape
        self.interactions: Any = interactions.astype(weights.dtype)
        self.weights: Any = weights

    def scores(self, users: Tensor) -> Tensor:
        """``[B, n_items]`` of the users ``[B]``, in the type of the weights."""
        product: Any = self.interactions[users.cpu().numpy()] @ self.weights
        return torch.from_numpy(product.toarray())
