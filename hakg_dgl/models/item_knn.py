"""Nearest neighbours among items.

Sarwar, Karypis, Konstan and Riedl, "Item-based collaborative filtering recommendation algorithms", WWW 2001;
Deshpande and Karypis, "Item-based top-N recommendation algorithms", ACM TOIS 22(1), 2004.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from hakg_dgl.models.closed_form import interaction_matrix, require_shapes
from hakg_dgl.models.settings import Settings, Similarity
from hakg_dgl.ranking.topk import masked_topk

if TYPE_CHECKING:
    from hakg_dgl.data.dataset import Dataset


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
    """

    def __init__(self, interactions: sparse.csr_matrix, similarity: Similarity, shrinkage: float) -> None:
        self.n_users = self.n_items = interactions.shape[1]
        self.similarity, self.shrinkage = similarity, shrinkage
        self._interactions, self._by_item = interactions, interactions.T.tocsr()
        self._counts = np.diff(self._by_item.indptr).astype(np.float64)

    def scores(self, users: Tensor) -> Tensor:
        """Float64 ``[B, n_items]`` of the items ``[B]``; ``-inf`` where there is no candidate."""
        rows = users.cpu().numpy()
        common = (self._by_item[rows] @ self._interactions).toarray()
        own, other = self._counts[rows, None], self._counts[None]
        size = np.sqrt(own * other) if self.similarity == "cosine" else own + other - common
        common[np.arange(len(rows)), rows] = 0.0
        values = np.full_like(common, -np.inf)
        np.divide(common, size + self.shrinkage, out=values, where=common > 0)
        return torch.from_numpy(values)


class ItemKNN:
    r"""Item neighbours: :math:`\mathrm{score}(u, j) = \sum_{i \in I_u \cap N(j)} s_{ij}`.

    :math:`I_u` are the user's items, :math:`N(j)` the ``neighbours`` items most similar to j (of those
    equal as computed, lower ids). That is the neighbourhood of the item scored, as in Sarwar et al.; Deshpande and
    Karypis take those of the user's items, see docs/baselines.md. See
    :class:`~hakg_dgl.models.closed_form.ClosedForm`; computed by blocks, on the CPU.

    Parameters
    ----------
    dataset, splits
        Whose interactions are used.
    settings
        Its ``neighbours``, ``shrinkage`` and ``similarity``, and the numeric type of scores.
    device
        Not used.
    """

    def __init__(self, dataset: Dataset, splits: tuple[str, ...], settings: Settings, device: torch.device) -> None:
        self.settings, self.interactions = settings.baseline, interaction_matrix(dataset, splits)
        self._dtype = np.dtype(settings.run.dtype)
        self._found: tuple[float, Tensor, Tensor] | None = None

    def candidates(self) -> list[dict[str, float]]:
        """Every shrinkage with every number of neighbours."""
        pairs = itertools.product(self.settings.shrinkage, self.settings.neighbours)
        return [{"neighbours": neighbours, "shrinkage": shrinkage} for shrinkage, neighbours in pairs]

    def fit(self, chosen: Mapping[str, float]) -> dict[str, Tensor]:
        """The similarities kept, as a CSR matrix ``[n_items, n_items]`` whose row j holds the neighbours of item j.

        ``indptr`` int64 ``[n_items + 1]``, ``indices`` int64 ``[n]``, ``values`` ``[n]``, best first in each row.
        """
        items, values = (part[:, : int(chosen["neighbours"])] for part in self._widest(chosen["shrinkage"]))
        kept = items >= 0
        indptr = torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(1).cumsum(0)])
        numbers = values[kept].numpy().astype(self._dtype)
        return {"indptr": indptr, "indices": items[kept], "values": torch.from_numpy(numbers)}

    def _widest(self, shrinkage: float) -> tuple[Tensor, Tensor]:
        """The most neighbours that may be asked for and their similarities, best first, kept for the next choice."""
        if self._found is None or self._found[0] != shrinkage:
            similarity = ItemSimilarity(self.interactions, self.settings.similarity, shrinkage)
            width = min(similarity.n_items, max(self.settings.neighbours))
            self._found = shrinkage, *masked_topk(similarity, torch.arange(similarity.n_items), width)
        return self._found[1:]

    def scorer(self, tensors: Mapping[str, Tensor]) -> NeighbourScorer:
        """The scorer of these neighbours."""
        n_items, n = self.interactions.shape[1], len(tensors["values"])
        require_shapes(tensors, indptr=(n_items + 1,), indices=(n,), values=(n,))
        values, indices, indptr = (tensors[name].numpy() for name in ("values", "indices", "indptr"))
        rows = sparse.csr_matrix((values, indices, indptr), shape=(n_items, n_items))
        rows.check_format()
        return NeighbourScorer(self.interactions.astype(values.dtype), rows.T.tocsr())


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
        self.n_users, self.n_items = interactions.shape
        self.interactions, self.weights = interactions, weights

    def scores(self, users: Tensor) -> Tensor:
        """``[B, n_items]`` of the users ``[B]``, in the type of the weights."""
        product: Any = self.interactions[users.cpu().numpy()] @ self.weights
        return torch.from_numpy(product.toarray())
