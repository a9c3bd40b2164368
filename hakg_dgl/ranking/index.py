r"""An approximate index over item vectors, for catalogues so large that scoring all items takes too long.

The index is an inverted file of FAISS (Douze et al., "The Faiss library", arXiv 2401.08281): items are put into lists
by the nearest of some centres, and a search looks through the lists of the centres nearest to the query. Inner products
become distances by one more column (Bachrach et al., "Speeding up the Xbox recommender system", RecSys 2014): with
:math:`M = \max_i \|x_i\|`,

.. math:: \|(q, 0) - (x_i, \sqrt{M^2 - \|x_i\|^2})\|^2 = \|q\|^2 + M^2 - 2 \langle q, x_i \rangle .
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from hakg_dgl.errors import ConfigError, MissingDependencyError
from hakg_dgl.randomness import numpy_generator
from hakg_dgl.ranking.topk import IdArray, UserItems, checked_ids, id_tensor, masked_topk

LEAST_RECALL = 0.95
"""Share of the exact hundred best items that an index is set to find, on a sample of users."""
SAMPLED = 256
"""Users of the sample; one half sets the index, the other half measures it."""
_CUT = 100
"""Length of the lists by which recall is measured."""
_PER_CENTRE = 64
"""Items per centre that the centres are computed from."""
_ROUNDS = 10
"""Rounds of the computation of centres."""
_ROWS_AT_ONCE = 1 << 16
_ENTRIES_AT_ONCE = 1 << 22
"""Entries of item vectors that are gathered at once."""


@runtime_checkable
class VectorScorer(Protocol):
    """A scorer whose scores are inner products, so that an index can take its place."""

    @property
    def n_users(self) -> int:
        """Number of users."""

    @property
    def n_items(self) -> int:
        """Number of items."""

    @property
    def item_vectors(self) -> Tensor:
        """``[n_items, d]``."""

    def scores(self, users: Tensor) -> Tensor:
        """Scores ``[B, n_items]``."""

    def vectors_of(self, users: Tensor) -> Tensor:
        """Vectors ``[B, d]`` of the users ``[B]``; their products with ``item_vectors`` are the scores."""


def faiss_is_there() -> bool:
    """Whether the extra ``index`` is installed."""
    try:
        import faiss  # noqa: F401
    except ImportError:
        return False
    return True


@dataclass(frozen=True)
class Measured:
    """How near an index comes to exact lists.

    Attributes
    ----------
    recall
        Mean share of the exact ``cut`` best items that the index finds, on users it was not set by.
    cut, users
        Length of the lists, and how many.
    """

    recall: float
    cut: int
    users: int


class ItemIndex:
    """Finds the items with the largest inner products among few of them.

    It searches as few lists as give :data:`LEAST_RECALL` on one half of a sample of users, all of them if need be; the
    other half measures it.

    Parameters
    ----------
    scorer
        Whose items are searched.
    least_recall
        What the index is set to, above 0 and at most 1.
    seed
        Of the sample and of the centres.

    Attributes
    ----------
    measured
        Recall against the exact lists.
    lists, probes
        The number of lists, and how many of them a search looks through.
    seconds
        That making it took.

    Raises
    ------
    MissingDependencyError
        If FAISS is not installed.
    ConfigError
        If the scorer's scores are no inner products, there is no user or item, or ``least_recall`` is out of range.
    """

    def __init__(self, scorer: VectorScorer, *, least_recall: float = LEAST_RECALL, seed: int = 0) -> None:
        if not isinstance(scorer, VectorScorer):
            raise ConfigError(
                "an index needs scores that are inner products of vectors, and those of this model are not; "
                "rank exactly (--index never)"
            )
        if not 0 < least_recall <= 1:
            raise ConfigError(f"least_recall = {least_recall!r} is not allowed; it is above 0 and at most 1")
        if not scorer.n_users or not scorer.n_items:
            raise ConfigError("an index needs at least one user and one item")
        began = time.perf_counter()
        self.n_items: int = scorer.n_items
        self._index = _filled(scorer.item_vectors, seed)
        self.lists: int = int(self._index.nlist)
        self.measured, self.probes = self._set(scorer, least_recall, numpy_generator(seed, "index sample"))
        self._index.nprobe = self.probes
        self.seconds: float = time.perf_counter() - began

    def about(self) -> dict[str, Any]:
        """What it is and how near it comes to exact lists, JSON values."""
        recall = {"recall": self.measured.recall, "cut": self.measured.cut, "users": self.measured.users}
        return {"lists": self.lists, "probes": self.probes, "seconds": round(self.seconds, 3), **recall}

    def search(self, vectors: Tensor, n: int) -> Tensor:
        """Items ``[B, n]`` (int64, on the CPU) for vectors ``[B, d]``, nearly best first; -1 where none was found."""
        rows = vectors.detach().to("cpu", torch.float32).numpy()
        padded = np.concatenate([rows, np.zeros((len(rows), 1), dtype=np.float32)], axis=1)
        return torch.from_numpy(self._index.search(padded, n)[1])

    @torch.no_grad()
    def _set(self, scorer: VectorScorer, least: float, draw: np.random.Generator) -> tuple[Measured, int]:
        users = draw.permutation(scorer.n_users)[:SAMPLED]
        setting, judging = (users[::2], users[1::2]) if len(users) > 1 else (users, users)
        cut, probes = min(_CUT, self.n_items), 1
        while True:
            self._index.nprobe = probes
            if probes >= self.lists or self._recall(scorer, setting, cut) >= least:
                break
            probes = min(self.lists, 2 * probes)
        return Measured(self._recall(scorer, judging, cut), cut, len(judging)), probes

    def _recall(self, scorer: VectorScorer, users: np.ndarray[Any, Any], cut: int) -> float:
        numbers = torch.from_numpy(users)
        exact = masked_topk(scorer, numbers, cut)[0].cpu()
        found = self.search(scorer.vectors_of(numbers), cut)
        hits = [len(np.intersect1d(a, b)) for a, b in zip(exact.numpy(), found.numpy(), strict=True)]
        return float(np.mean(hits)) / cut


def _filled(items: Tensor, seed: int) -> Any:
    """FAISS's index of all items."""
    try:
        import faiss
    except ImportError as error:
        raise MissingDependencyError(
            f"an index of items needs FAISS ({error}): pip install 'hakg_dgl[index]', or rank exactly (--index never)"
        ) from error
    faiss.omp_set_num_threads(torch.get_num_threads())
    rows = items.detach().to("cpu", torch.float32).contiguous().numpy()
    squares = np.einsum("nd,nd->n", rows, rows, dtype=np.float64)
    more = np.sqrt(np.maximum(squares.max() - squares, 0.0)).astype(np.float32)
    n_lists = max(1, min(int(4 * math.sqrt(len(rows))), len(rows) // _PER_CENTRE))
    quantizer = faiss.IndexFlatL2(rows.shape[1] + 1)
    index = faiss.IndexIVFFlat(quantizer, rows.shape[1] + 1, n_lists)
    index.cp.seed, index.cp.niter, index.cp.max_points_per_centroid = seed + 1, _ROUNDS, _PER_CENTRE
    index.cp.min_points_per_centroid = 1  # for its warnings, which go to stdout
    chosen = numpy_generator(seed, "index centres").permutation(len(rows))[: _PER_CENTRE * n_lists]
    index.train(np.concatenate([rows[chosen], more[chosen, None]], axis=1))
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        index.add(np.concatenate([rows[part], more[part, None]], axis=1))
    return index


@torch.no_grad()
def indexed_topk(
    index: ItemIndex, scorer: VectorScorer, users: IdArray, k: int, seen: UserItems | None = None
) -> tuple[Tensor, Tensor]:
    """The ``k`` best items of each user among those that an index finds, best first.

    So many items are asked for that ``k`` are left when seen ones are taken out. Scores are exact. A user for whom
    fewer are found than there are is ranked exactly.

    Parameters
    ----------
    index
        Over the items of the scorer.
    scorer, users, k, seen
        As for :func:`~hakg_dgl.ranking.topk.masked_topk`.

    Returns
    -------
    items, scores
        As those of ``masked_topk``.

    Raises
    ------
    ConfigError, DataError, NumericalError
        As ``masked_topk``.
    """
    if k < 1:
        raise ConfigError(f"k is {k}; it must be at least 1")
    todo, own = checked_ids(users, scorer.n_users, "user").cpu(), None
    counts = torch.zeros(len(todo), dtype=torch.int64)
    if seen is not None:
        own = id_tensor(seen[0]).cpu(), id_tensor(seen[1]).cpu()
        counts = own[0][todo + 1] - own[0][todo]
    width = min(k, scorer.n_items)
    wanted = min(scorer.n_items, width + int(counts.max())) if len(todo) else width
    block = max(1, _ENTRIES_AT_ONCE // (wanted * scorer.item_vectors.shape[1]))
    starts = range(0, max(1, len(todo)), block)
    parts = [_ranked(index, scorer, todo[start : start + block], width, wanted, own) for start in starts]
    items, scores = (torch.cat(rows) for rows in zip(*parts, strict=True))
    # NaN fails this comparison too, and exact ranking says what is wrong
    full = (scores > -torch.inf).sum(1).cpu() >= (scorer.n_items - counts).clamp_max(width)
    short = torch.nonzero(~full).flatten()
    if len(short):
        places = short.to(items.device)
        items[places], scores[places] = masked_topk(scorer, todo[short], k, seen)
    return items, scores


def _ranked(
    index: ItemIndex, scorer: VectorScorer, users: Tensor, width: int, wanted: int, seen: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Items and scores ``[B, width]`` of the best among ``wanted`` that the index finds; -1 and -inf where none is."""
    vectors = scorer.vectors_of(users)
    found = index.search(vectors, wanted)
    closed = found < 0
    if seen is not None:
        for row, user in enumerate(users.tolist()):
            closed[row] |= torch.isin(found[row], seen[1][seen[0][user] : seen[0][user + 1]])
    found, closed = found.to(vectors.device), closed.to(vectors.device)
    scores = torch.einsum("bd,bnd->bn", vectors, scorer.item_vectors[found.clamp_min(0)])
    scores = scores.masked_fill(closed, -torch.inf)
    found, order = found.sort(dim=1)  # by item, then stably by score: of equal scores the lower number comes first
    scores, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    items, scores = found.gather(1, order)[:, :width], scores[:, :width]
    return items.masked_fill(scores == -torch.inf, -1), scores
