r"""Vectors and scores of new users, computed from their items alone, without training.

A trained model gives every user a vector that is made of the user's parameters and of what propagation gathers from
the user's items. A new user has the second part only. docs/recommending.md defines it for every model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from hakg_dgl.data.id_files import NewUsers
from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.ranking.topk import IdArray, Scorer, checked_ids, id_tensor


@dataclass(frozen=True, eq=False)
class AboutUsers:
    """What is known of users beside their items.

    Attributes
    ----------
    known
        int64 ``[n]``: the number of the trained user that each one is, -1 for those who are new.
    facts
        Name of a relation of users -> the entities that they have by it, packed: ``indptr`` int64 ``[n + 1]`` and
        ``entities`` int64 ``[m]``, those of user u being ``entities[indptr[u]:indptr[u + 1]]``.
    """

    known: Tensor
    facts: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def of(self, users: Tensor) -> AboutUsers:
        """That of some users ``[k]``, in their order; they are users 0..k-1 then."""
        return AboutUsers(self.known[users], {name: lists_of(*lists, users) for name, lists in self.facts.items()})

    def to(self, device: torch.device) -> AboutUsers:
        """The same on a device."""
        facts = {name: (indptr.to(device), rows.to(device)) for name, (indptr, rows) in self.facts.items()}
        return AboutUsers(self.known.to(device), facts)


class FoldedUsers(NamedTuple):
    """Users by their items, ``items[indptr[u]:indptr[u + 1]]``, and what else is known of them."""

    indptr: Tensor
    items: Tensor
    about: AboutUsers


def about_users(new: NewUsers) -> AboutUsers | None:
    """What is known of users of a file beside their items; None if all are new and without attributes."""
    if not len(new.known) or (not new.facts and not (new.known >= 0).any()):
        return None
    facts = {name: (id_tensor(indptr), id_tensor(rows)) for name, (indptr, rows) in new.facts.items()}
    return AboutUsers(id_tensor(new.known), facts)


def folded_users(new: NewUsers) -> FoldedUsers:
    """The users of a file with all that is known of them."""
    about = about_users(new) or AboutUsers(torch.full((len(new),), -1))
    return FoldedUsers(id_tensor(new.indptr), id_tensor(new.items), about)


class UserPart(Protocol):
    """Some columns of a user's vector, as a function of the user's items."""

    @property
    def width(self) -> int:
        """The number of columns."""

    def __call__(self, indptr: Tensor, items: Tensor) -> Tensor:
        """``[n, width]`` of n users whose items are ``items[indptr[u]:indptr[u + 1]]``."""


class InformedPart(UserPart, Protocol):
    """Columns that also depend on who a user is, and on facts about the user."""

    def informed(self, indptr: Tensor, items: Tensor, about: AboutUsers) -> Tensor:
        """``[n, width]``; ConfigError if the model does not read facts of users."""


class FoldIn(Protocol):
    """Scores a trained model gives to users that it has not seen."""

    @property
    def n_items(self) -> int:
        """Number of items; their ids are 0..n_items-1."""

    def scorer(self, indptr: IdArray, items: IdArray, about: AboutUsers | None = None) -> Scorer:
        """A scorer whose users 0..n-1 are those with the items ``items[indptr[u]:indptr[u + 1]]``.

        ``about`` says which of them the model was trained on, whose own parameters then count too, and what is known
        of them; ConfigError if there are facts and the model does not read facts of users.
        """


@dataclass(frozen=True)
class SumOfUnitMeans:
    r"""The part of a user's vector that HAKG's propagation gathers.

    .. math:: u = \sum_{l=1}^{L} \frac{m^{(l)}}{\|m^{(l)}\|}, \qquad
              m^{(l)} = \frac{1}{|I_u|} \sum_{i \in I_u} f_i^{(l-1)}

    This is :meth:`hakg_dgl.HAKG.propagate` for a user with parameters of zero, and with the items' values of the
    trained graph. The vector of a user without items is zero.

    Attributes
    ----------
    layers
        The fused items :math:`f^{(l)}`, ``[n_items, d]`` each, l = 0..L-1.
    unit
        Whether to divide u by its norm, for scores that are cosines.
    floor
        The least divisor: rows are divided by their L2 norm, or by this where it is larger.
    """

    layers: Sequence[Tensor]
    unit: bool
    floor: float = 1e-12

    @property
    def width(self) -> int:
        """The dimension d."""
        return self.layers[0].shape[1]

    def __call__(self, indptr: Tensor, items: Tensor) -> Tensor:
        """Vectors ``[n, d]`` of the users."""
        means = [_pooled(layer, indptr, items, "mean") for layer in self.layers]
        total = torch.stack([F.normalize(mean, dim=1, eps=self.floor) for mean in means]).sum(0)
        return F.normalize(total, dim=1, eps=self.floor) if self.unit else total


@dataclass(frozen=True)
class SumOfRows:
    r"""The sum of rows of the user's items, :math:`|I_u|^{-p} \sum_{i \in I_u} t_i`: any linear item-item term.

    Attributes
    ----------
    table
        The rows t, ``[n_items, width]``.
    power
        The power p: 0 for the sum, 1/2 for LightGCN's normalisation, 1 for the mean.
    """

    table: Tensor
    power: float = 0.0

    @property
    def width(self) -> int:
        """The number of columns of the table."""
        return self.table.shape[1]

    def __call__(self, indptr: Tensor, items: Tensor) -> Tensor:
        """Sums ``[n, width]``; zero for a user without items."""
        total = _pooled(self.table, indptr, items, "sum")
        if not self.power:
            return total
        return total * indptr.diff().clamp_min(1).to(total.dtype).pow(-self.power).unsqueeze(1)


@dataclass(frozen=True, eq=False)
class WithOwnRows:
    """A part to which trained users add a row of their own.

    Attributes
    ----------
    part
        By the users' items.
    own
        ``[n_users, width]``.
    """

    part: UserPart
    own: Tensor

    @property
    def width(self) -> int:
        """That of the part."""
        return self.part.width

    def __call__(self, indptr: Tensor, items: Tensor) -> Tensor:
        """``[n, width]`` of new users."""
        return self.part(indptr, items)

    def informed(self, indptr: Tensor, items: Tensor, about: AboutUsers) -> Tensor:
        """The same, and the rows of those who are known."""
        return self(indptr, items) + own_rows(self.own, about.known)


def own_rows(table: Tensor, known: Tensor) -> Tensor:
    """Rows ``[n, d]`` of a table of trained users by their numbers ``[n]``; zero where that is -1."""
    return table.detach()[known.clamp_min(0)] * (known >= 0).to(table.dtype).unsqueeze(1)


@dataclass(frozen=True)
class Ones:
    """A column of ones, for a bias of items.

    Attributes
    ----------
    dtype
        Of the column.
    """

    dtype: torch.dtype = torch.float32

    @property
    def width(self) -> int:
        """One."""
        return 1

    def __call__(self, indptr: Tensor, items: Tensor) -> Tensor:
        """``[n, 1]``."""
        return torch.ones(len(indptr) - 1, 1, dtype=self.dtype, device=indptr.device)


class EmbeddingFoldIn:
    """Folds users into a model that ranks by inner products.

    Parameters
    ----------
    parts
        The parts that the user vectors consist of, column after column.
    item_vectors
        The second of the model's ``ranking_vectors()``, ``[n_items, d]``.

    Raises
    ------
    ConfigError
        If the parts have another number of columns than the item vectors.
    """

    def __init__(self, parts: Sequence[UserPart], item_vectors: Tensor) -> None:
        widths = [part.width for part in parts]
        if sum(widths) != item_vectors.shape[1]:
            raise ConfigError(
                f"the parts of a new user's vector have {' + '.join(map(str, widths))} columns, the item vectors "
                f"{item_vectors.shape[1]}: give one part for each term of the score"
            )
        self.parts: list[UserPart] = list(parts)
        self.item_vectors: Tensor = item_vectors.detach()

    @property
    def n_items(self) -> int:
        """The number of items."""
        return len(self.item_vectors)

    @torch.no_grad()
    def fold_in(self, indptr: IdArray, items: IdArray, about: AboutUsers | None = None) -> Tensor:
        """Vectors of users by their items.

        Parameters
        ----------
        indptr, items
            int64: the items of user u are ``items[indptr[u]:indptr[u + 1]]``, each once, in any order.
        about
            Who they are, and facts about them; by default they are new and nothing is known.

        Returns
        -------
        Tensor
            ``[n, d]`` on the device of the item vectors; their inner products with these are the scores.

        Raises
        ------
        DataError
            If an item does not exist, or the lists do not fit together.
        """
        bounds, rows = checked_lists(indptr, items, self.n_items)
        return self._vectors(bounds, rows, about)

    def scorer(self, indptr: IdArray, items: IdArray, about: AboutUsers | None = None) -> Scorer:
        """A scorer of these users; vectors are made block by block, so any number of users fits in memory."""
        if about is not None and about.facts and not any(getattr(part, "reads_facts", False) for part in self.parts):
            raise facts_not_read()
        return _FoldedScorer(self, *checked_lists(indptr, items, self.n_items), about)

    def _vectors(self, indptr: Tensor, items: Tensor, about: AboutUsers | None) -> Tensor:
        device = self.item_vectors.device
        indptr, items = indptr.to(device), items.to(device)
        if about is None:
            return torch.cat([part(indptr, items) for part in self.parts], dim=1)
        about = about.to(device)
        found = [
            part.informed(indptr, items, about) if hasattr(part, "informed") else part(indptr, items)
            for part in self.parts
        ]
        return torch.cat(found, dim=1)


class _FoldedScorer:
    """Scores of folded-in users (a :class:`~hakg_dgl.ranking.topk.Scorer`)."""

    def __init__(self, fold: EmbeddingFoldIn, indptr: Tensor, items: Tensor, about: AboutUsers | None) -> None:
        self._fold, self._indptr, self._items, self._about = fold, indptr, items, about

    @property
    def n_users(self) -> int:
        return len(self._indptr) - 1

    @property
    def n_items(self) -> int:
        return self._fold.n_items

    @property
    def item_vectors(self) -> Tensor:
        return self._fold.item_vectors

    @torch.no_grad()
    def scores(self, users: Tensor) -> Tensor:
        return self.vectors_of(users) @ self.item_vectors.T

    @torch.no_grad()
    def vectors_of(self, users: Tensor) -> Tensor:
        users = users.cpu()
        indptr, items = lists_of(self._indptr, self._items, users)
        about = None if self._about is None else self._about.of(users)
        return self._fold._vectors(indptr, items, about)


@dataclass(frozen=True)
class ScorerFoldIn:
    """Folds users into a model that computes its scores from the users' items anyway.

    Attributes
    ----------
    n_items
        Number of items.
    make
        A function of ``indptr`` and ``items``, int64 tensors on the CPU, that returns the scorer of those users.
    """

    n_items: int
    make: Callable[[Tensor, Tensor], Scorer]

    def scorer(self, indptr: IdArray, items: IdArray, about: AboutUsers | None = None) -> Scorer:
        """A scorer of these users; who they are does not matter, since all that counts is their items.

        Raises
        ------
        DataError
            If an item does not exist, or the lists do not fit together.
        ConfigError
            If facts of users are given.
        """
        if about is not None and about.facts:
            raise facts_not_read()
        return self.make(*checked_lists(indptr, items, self.n_items))


def facts_not_read() -> ConfigError:
    """The error for facts of users that are given to a model without such facts."""
    return ConfigError(
        "the model does not read facts of users: leave their attributes out, or train hakg on a data set with facts of "
        "users"
    )


def rows_fold_in(n_items: int, make: Callable[[sparse.csr_matrix], Scorer]) -> ScorerFoldIn:
    """Fold users into a model that scores from rows of interactions; new rows take the place of the data set's.

    Parameters
    ----------
    n_items
        Number of items.
    make
        A function of float64 ones ``[n, n_items]`` that returns the scorer of those users.
    """

    def of_lists(indptr: Tensor, items: Tensor) -> Scorer:
        ones, shape = np.ones(len(items)), (len(indptr) - 1, n_items)
        return make(sparse.csr_matrix((ones, items.numpy(), indptr.numpy()), shape=shape))

    return ScorerFoldIn(n_items, of_lists)


def checked_lists(indptr: IdArray, items: IdArray, n_items: int) -> tuple[Tensor, Tensor]:
    """Packed lists as int64 tensors on the CPU; DataError if they are not such lists of items 0..n_items-1.

    Each list is ascending, so that the order of a user's items does not change a bit of what is made of them.
    """
    bounds, rows = id_tensor(indptr).cpu(), checked_ids(items, n_items, "item").cpu()
    if bounds.ndim != 1 or not len(bounds) or int(bounds[0]) != 0 or int(bounds[-1]) != len(rows):
        ends = f"{int(bounds[0])} to {int(bounds[-1])}" if bounds.numel() else "empty"
        raise DataError(
            f"indptr is {ends}, and there are {len(rows)} items",
            remedy="It must go from 0 to the number of items; Dataset.positives has such lists.",
        )
    if bool((bounds.diff() < 0).any()):
        raise DataError("indptr goes down", remedy="It must not go down; Dataset.positives has such lists.")
    owners = torch.repeat_interleave(bounds.diff())
    return bounds, (owners * n_items + rows).sort().values - owners * n_items


def lists_of(indptr: Tensor, items: Tensor, users: Tensor) -> tuple[Tensor, Tensor]:
    """The packed lists of some users, in their order."""
    starts = indptr[users]
    degrees = indptr[users + 1] - starts
    bounds = F.pad(degrees.cumsum(0), (1, 0))
    rows = torch.repeat_interleave(degrees)
    return bounds, items[torch.arange(len(rows)) + (starts - bounds[:-1])[rows]]


def _pooled(table: Tensor, indptr: Tensor, items: Tensor, mode: str) -> Tensor:
    """Sum or mean of the rows of each user's items; zero where there are none."""
    if not len(items):  # which embedding_bag refuses
        return table.new_zeros(len(indptr) - 1, table.shape[1])
    return F.embedding_bag(items, table, indptr, mode=mode, include_last_offset=True)
