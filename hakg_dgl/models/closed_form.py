"""What models have in common that are solved for in one go, once for each of the settings tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.topk import Scorer
from hakg_dgl.ranking.yardsticks import PopularityScorer

if TYPE_CHECKING:
    from hakg_dgl.data.dataset import Dataset


class ClosedForm(Protocol):
    """A model of the interactions in some splits of a data set, for one choice of settings after the other."""

    def candidates(self) -> list[dict[str, float]]:
        """The choices to try, by setting; at least one, empty where there is nothing to choose."""
        ...

    def fit(self, chosen: Mapping[str, float]) -> dict[str, Tensor]:
        """The tensors that make the model, for one of the candidates."""
        ...

    def scorer(self, tensors: Mapping[str, Tensor]) -> Scorer:
        """A scorer from the tensors of :meth:`fit`; KeyError or ValueError if they are not such."""
        ...


class Popularity:
    """The number of interactions of each item, the same for every user; see :class:`ClosedForm`.

    Parameters
    ----------
    dataset, splits
        Where the interactions are counted.
    settings
        Not read.
    device
        Not used.
    """

    def __init__(self, dataset: Dataset, splits: tuple[str, ...], settings: Settings, device: torch.device) -> None:
        self._scorer = PopularityScorer(dataset, splits)

    def candidates(self) -> list[dict[str, float]]:
        """One, empty."""
        return [{}]

    def fit(self, chosen: Mapping[str, float]) -> dict[str, Tensor]:
        """``popularity``: float64 ``[n_items]``, the counts, with fractions that order equal ones."""
        return {"popularity": self._scorer.popularity}

    def scorer(self, tensors: Mapping[str, Tensor]) -> PopularityScorer:
        """The scorer of these counts."""
        require_shapes(tensors, popularity=(self._scorer.n_items,))
        self._scorer.popularity = tensors["popularity"]
        return self._scorer


def interaction_matrix(dataset: Dataset, splits: tuple[str, ...]) -> sparse.csr_matrix:
    """The interactions of some splits as a matrix of ones, float64 ``[n_users, n_items]``, columns ascending."""
    indptr, items = dataset.positives(*splits)
    return sparse.csr_matrix((np.ones(len(items)), items, indptr), shape=(dataset.n_users, dataset.n_items))


def require_shapes(tensors: Mapping[str, Tensor], **shapes: tuple[int, ...]) -> None:
    """Raise ValueError if the tensors are not exactly those named, of these shapes."""
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != shapes:
        raise ValueError(f"it holds tensors {found} instead of {shapes}")
