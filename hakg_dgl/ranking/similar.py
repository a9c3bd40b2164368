"""Items that are like an item, and users that are like a user, by the cosines of a model's vectors."""

from __future__ import annotations

from typing import Protocol

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from hakg_dgl.errors import ConfigError
from hakg_dgl.ranking.lists import recommend
from hakg_dgl.ranking.topk import EmbeddingScorer, IdArray, Scorer, UserItems


class ModelWithVectors(Protocol):
    """A model that has vectors of users and items."""

    def likeness_vectors(self) -> tuple[Tensor, Tensor]:
        """User ``[n_users, d]`` and item ``[n_items, d']`` vectors whose cosines tell likeness."""


class Similarity:
    """The likeness of items, and of users: the cosine of their vectors.

    The vectors are computed once, so that one object answers many questions.

    Parameters
    ----------
    model
        A trained model; its vectors are those of
        :meth:`~hakg_dgl.models.recommender.Recommender.likeness_vectors`.

    Raises
    ------
    ConfigError
        If the model has no vectors.

    Examples
    --------
    >>> similarity = Similarity(load_model("run", dataset))
    >>> similarity.items([3], k=5)
    """

    def __init__(self, model: ModelWithVectors) -> None:
        try:
            users, items = model.likeness_vectors()
        except ConfigError as error:
            raise ConfigError(
                f"{error}, so it has no similar items or users; take a model with vectors, such as hakg"
            ) from error
        self._of_users, self._of_items = _cosines(users), _cosines(items)

    @property
    def item_scorer(self) -> Scorer:
        """Cosines of all items with an item, whose number stands where a scorer has that of a user."""
        return self._of_items

    @property
    def user_scorer(self) -> Scorer:
        """Cosines of all users with a user; the users stand where a scorer has items."""
        return self._of_users

    def items(self, items: IdArray, k: int = 20, candidates: IdArray | None = None) -> pd.DataFrame:
        """The ``k`` items that are most like each of some items, most alike first, never the item itself.

        Parameters
        ----------
        items
            Numbers of items ``[n]``, int64.
        k
            Length of the lists.
        candidates
            Items that may be listed ``[m]``; all of them by default.

        Returns
        -------
        pandas.DataFrame
            ``item`` and ``similar`` (int64, numbers of items), ``rank`` (int64, from 1), ``score`` (the cosine, -1 to
            1), in the order of ``items``; of equal cosines the lower number comes first.

        Raises
        ------
        ConfigError
            If ``k`` is below 1.
        DataError
            If an item does not exist.
        """
        return _listed(self._of_items, items, k, candidates, "item")

    def users(self, users: IdArray, k: int = 20, candidates: IdArray | None = None) -> pd.DataFrame:
        """The ``k`` users that are most like each of some users; like :meth:`items`, with the column ``user``."""
        return _listed(self._of_users, users, k, candidates, "user")


@torch.no_grad()
def similar_items(
    model: ModelWithVectors, items: IdArray, k: int = 20, candidates: IdArray | None = None
) -> pd.DataFrame:
    """The items that are most like some items; see :meth:`Similarity.items`, and :class:`Similarity` for errors."""
    return Similarity(model).items(items, k, candidates)


@torch.no_grad()
def similar_users(
    model: ModelWithVectors, users: IdArray, k: int = 20, candidates: IdArray | None = None
) -> pd.DataFrame:
    """The users that are most like some users; see :meth:`Similarity.users`, and :class:`Similarity` for errors."""
    return Similarity(model).users(users, k, candidates)


def oneself(n: int) -> UserItems:
    """Lists in which each of n has itself, to leave it out as an item that is known."""
    return torch.arange(n + 1), torch.arange(n)


def _cosines(vectors: Tensor) -> EmbeddingScorer:
    unit = F.normalize(vectors.detach(), dim=1)
    return EmbeddingScorer(unit, unit)


def _listed(scorer: Scorer, asked: IdArray, k: int, candidates: IdArray | None, what: str) -> pd.DataFrame:
    found = recommend(scorer, asked, k, oneself(scorer.n_items), candidates)
    columns = {"user": what, "item": "similar"}
    return found.rename(columns=columns)[[what, "rank", "similar", "score"]]
