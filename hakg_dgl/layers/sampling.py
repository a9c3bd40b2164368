"""Training batches and their negatives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.kernels.interface import LossBackend, SparseBackend, Taken

IdArray: TypeAlias = "Tensor | NDArray[Any]"

BITS_PER_PAIR = 64
"""Size of the membership filter: at most 1 in 64 of its bits is set, and it takes 8 to 16 bytes a training pair."""

WIDE = 1 << 62
"""Below which numbers are drawn that stand for a rank among few."""


class NegativeSampler:
    """Draws items uniformly from those that a user does not have.

    A draw from all items is kept unless the user has the item; then it is drawn once more, and if the user has that
    one too, it is replaced by one of the user's negatives picked by its rank among them. Each of the three is uniform
    over the user's negatives, so the result is too, in bounded time however many items a user has.

    Whether a user has an item is looked up in a bitset over the pairs ``user * n_items + item``, folded where it would
    outgrow the training pairs themselves; what a folded bitset flags is confirmed by binary search. So neither time
    nor memory (about 32 bytes a training pair) depends on ``n_users * n_items``.

    A user who has every item has no negatives: their draws are uniform over all items.

    Parameters
    ----------
    indptr
        ``[n_users + 1]`` int64.
    items
        ``[n_pairs]`` int64: the items of user ``u`` are ``items[indptr[u]:indptr[u + 1]]``, ascending, each once.
    n_items
        Size of the catalogue.
    device
        Where the tables lie and the samples are made.
    backend
        Who looks up what a user has on a GPU; by default PyTorch's operators.

    Raises
    ------
    DataError
        If an item is not in the catalogue, or the items of a user are not ascending and distinct.
    """

    def __init__(
        self, indptr: IdArray, items: IdArray, n_items: int, *, device: torch.device | str = "cpu",
        backend: SparseBackend | None = None,
    ) -> None:  # fmt: skip
        self.backend: SparseBackend | None = backend
        self.n_items: int = int(n_items)
        self.device: torch.device = torch.device(device)
        items, degrees = _ids(items).to(self.device), _ids(indptr).to(self.device).diff()
        if self.n_items < 1 or bool(((items < 0) | (items >= self.n_items)).any()):
            raise DataError(f"a catalogue of {self.n_items} items cannot hold items outside 0 to {self.n_items - 1}")
        keys = torch.repeat_interleave(degrees) * self.n_items + items
        if not bool((keys.diff() > 0).all()):
            raise DataError("the items of each user must be ascending and distinct")
        full = degrees == self.n_items
        keys, degrees = keys[~full.repeat_interleave(degrees)], degrees.masked_fill(full, 0)
        self._keys, self._n_negatives = keys, self.n_items - degrees
        self._first = degrees.cumsum(0) - degrees
        # The item at place j of a user has items[j] - j negatives below it; with the user in front these stay sorted.
        ranks = torch.arange(len(keys), device=self.device) - self._first.repeat_interleave(degrees)
        self._negatives_below = keys - ranks

        n_cells = len(degrees) * self.n_items
        n_bits = 1 << max(3, min(n_cells.bit_length(), (BITS_PER_PAIR * len(keys)).bit_length()))
        self._fold, self._is_folded = n_bits - 1, n_bits < n_cells
        slots = torch.unique(keys & self._fold)
        self._bits = torch.zeros(n_bits >> 3, dtype=torch.uint8, device=self.device)
        self._bits.scatter_add_(0, slots >> 3, (1 << (slots & 7)).to(torch.uint8))
        # 32-bit slots are twice as fast and nearly always enough.
        self._slot_dtype = torch.int32 if n_bits + self.n_items < 1 << 31 else torch.int64

    def sample(self, users: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """Draw ``k`` negatives for each user, independently and with replacement.

        Parameters
        ----------
        users
            ``[B]`` int64 on the sampler's device.
        k
            Number of negatives, at least 1.
        generator
            On the sampler's device; the same state gives the same sample.

        Returns
        -------
        Tensor
            ``[B, k]`` int64.

        Raises
        ------
        ConfigError
            If ``k`` is below 1.
        """
        if k < 1:
            raise ConfigError(f"the number of negatives is {k}; it must be at least 1")
        if self.device.type == "cuda":
            return self._sample_in_fixed_shapes(users, k, generator)
        drawn = self._draw((len(users), k), generator)
        taken = self._taken(users, drawn)
        again = self._draw((len(taken), 1), generator)
        users = users[taken // k]
        still = self._taken(users, again)
        again.view(-1)[still] = self._draw_by_rank(users[still], generator).to(again.dtype)
        drawn.view(-1)[taken] = again.view(-1)
        return drawn.long()

    def _sample_in_fixed_shapes(self, users: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """All three draws for every place. More work, but nothing that waits to hear from a GPU how many it needs."""
        drawn, again = self._draw((len(users), k), generator), self._draw((len(users), k), generator)
        if isinstance(self.backend, LossBackend):
            wide = torch.randint(WIDE, (len(users), k), generator=generator, device=self.device)
            return self.backend.pick_negatives(self._taken_items, users, drawn, again, wide)
        ranked = self._draw_by_rank(users.unsqueeze(1).expand(-1, k), generator)
        last = torch.where(self._is_taken(users, again), ranked, again)
        return torch.where(self._is_taken(users, drawn), last, drawn).long()

    @property
    def _taken_items(self) -> Taken:
        below, first = self._negatives_below, self._first
        return Taken(self._bits, self._keys, below, first, self._n_negatives, self._fold, self._is_folded, self.n_items)

    def _draw(self, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        return torch.randint(self.n_items, shape, generator=generator, device=self.device, dtype=self._slot_dtype)

    def _taken(self, users: Tensor, drawn: Tensor) -> Tensor:
        """Places in the flattened ``drawn`` ``[B, k]`` that hold an item of its row's user."""
        places, starts = self._flags(users, drawn).nonzero().flatten(), users * self.n_items
        if self._is_folded and len(places):
            flagged = starts[places // drawn.shape[1]] + drawn.view(-1)[places]
            found = torch.searchsorted(self._keys, flagged).clamp_(max=len(self._keys) - 1)
            places = places[self._keys[found] == flagged]
        return places

    def _is_taken(self, users: Tensor, drawn: Tensor) -> Tensor:
        """Bool, of the shape of ``drawn`` ``[B, k]``: whether it is an item of its row's user."""
        taken = self._flags(users, drawn).view(drawn.shape).bool()
        if self._is_folded and len(self._keys):
            keys = (users * self.n_items).unsqueeze(1) + drawn
            found = torch.searchsorted(self._keys, keys).clamp_(max=len(self._keys) - 1)
            taken &= self._keys[found] == keys
        return taken

    def _flags(self, users: Tensor, drawn: Tensor) -> Tensor:
        """uint8 ``[B * k]``: bits of the places of ``drawn`` ``[B, k]``."""
        slots = (users * self.n_items & self._fold).to(drawn.dtype)[:, None] + drawn & self._fold
        # index_select takes 32-bit indices at four times the speed of plain indexing.
        words = self._bits.index_select(0, (slots >> 3).view(-1))
        return words >> (slots & 7).to(torch.uint8).view(-1) & 1

    def _draw_by_rank(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """One negative for each user (any shape): the r-th smallest, r uniform below the number of their negatives."""
        return self._by_rank(users, torch.randint(WIDE, users.shape, generator=generator, device=self.device))

    def _by_rank(self, users: Tensor, wide: Tensor) -> Tensor:
        """The negative that each wide number (int64 below 2^62) stands for."""
        ranks = wide % self._n_negatives[users]  # uniform to within n_items / 2^62
        below = torch.searchsorted(self._negatives_below, users * self.n_items + ranks, right=True)
        return ranks + below - self._first[users]


def epoch_order(users: Tensor, generator: torch.Generator, positives_per_user: int = 1) -> Tensor:
    """A random order of pairs in which some pairs of a user stand side by side.

    The pairs of a user, in random order, are cut into as few pieces of at most ``positives_per_user`` pairs as there
    can be, whose lengths differ by one at most; the order of all pieces is uniform. With 1 it is that of all pairs.

    Parameters
    ----------
    users
        The user of each pair, int64 ``[n]``.
    generator
        On the device of ``users``; drawn from twice, and once with 1.
    positives_per_user
        At least 1.

    Returns
    -------
    Tensor
        A permutation of 0..n-1, int64 ``[n]``.
    """
    order = torch.randperm(len(users), generator=generator, device=users.device)
    if positives_per_user == 1 or not len(users):
        return order
    order = order[users[order].argsort(stable=True)]
    users = users[order]
    counts = users.bincount()
    place = torch.arange(len(users), device=users.device) - (counts.cumsum(0) - counts)[users]
    pieces = counts.add(positives_per_user - 1).div_(positives_per_user, rounding_mode="floor")
    piece = (pieces.cumsum(0) - pieces)[users] + place * pieces[users] // counts[users]
    drawn = torch.randperm(int(piece[-1]) + 1, generator=generator, device=users.device)
    return order[drawn[piece].argsort(stable=True)]


class EpochBatches:
    """Training pairs in a new random order each epoch, cut into batches; the last one may be short.

    The only state is the generator's: save ``generator.get_state()`` between epochs, set it again, and the remaining
    epochs are those of an uninterrupted run. Nothing else may draw from the generator.

    Parameters
    ----------
    pairs
        ``[n, 2]`` int64, user and item.
    batch_size
        At least 1.
    generator
        Orders the pairs; on ``device``.
    positives_per_user
        Pairs of a user that stand side by side, as :func:`epoch_order` has it.
    device
        Where the batches are made.

    Raises
    ------
    DataError
        If there is no pair.
    ConfigError
        If ``batch_size`` or ``positives_per_user`` is below 1.
    """

    def __init__(
        self,
        pairs: IdArray,
        batch_size: int,
        generator: torch.Generator,
        *,
        positives_per_user: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.pairs: Tensor = _ids(pairs).to(device)
        if self.pairs.ndim != 2 or self.pairs.shape[1] != 2 or not len(self.pairs):
            raise DataError(f"training pairs have shape {tuple(self.pairs.shape)}; [n, 2] with n >= 1 is needed")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
        if positives_per_user < 1:
            raise ConfigError(f"positives_per_user is {positives_per_user}; it must be at least 1")
        self.batch_size: int = batch_size
        self.positives_per_user: int = positives_per_user
        self.generator: torch.Generator = generator

    @property
    def largest(self) -> int:
        """Pairs of a full batch."""
        return min(self.batch_size, len(self.pairs))

    def __len__(self) -> int:
        return -(-len(self.pairs) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(users [B], items [B])``, int64; the order of the whole epoch is drawn at the first batch."""
        order = epoch_order(self.pairs[:, 0], self.generator, self.positives_per_user)
        for start in range(0, len(order), self.batch_size):
            users, items = self.pairs[order[start : start + self.batch_size]].unbind(1)
            yield users, items


def _ids(ids: IdArray) -> Tensor:
    return ids.long() if isinstance(ids, Tensor) else torch.from_numpy(np.array(ids, dtype=np.int64))
