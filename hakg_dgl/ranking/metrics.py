"""Ranking metrics of one list per user, each a short function of where the hits are.

Every metric takes ``hits``, a bool tensor ``[n_users, width]`` whose column ``r`` says whether the item at rank
``r + 1`` is relevant (places left empty because too few candidates remained count as misses), and ``n_relevant``, an
integer tensor ``[n_users]`` with the number of relevant items of each user, in the list or not. ``k`` is the length of
the lists, the width of ``hits`` by default; a longer list has misses in its further places, which need no memory. The
answer is one float64 a user, ``[n_users]``. Users with no relevant item have no recall and no NDCG (``nan``); an
evaluation leaves them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor


class Metric(Protocol):
    """A function of hits, numbers of relevant items and the length of the lists; the module says what they are."""

    def __call__(self, hits: Tensor, n_relevant: Tensor, k: int | None = None) -> Tensor:
        """One value a user."""


def recall(hits: Tensor, n_relevant: Tensor, k: int | None = None) -> Tensor:
    """Share of the user's relevant items that are in the list: ``|hits| / n_relevant``.

    The denominator is the number of relevant items even where that exceeds ``k``.
    """
    return hits.sum(1, dtype=torch.float64) / n_relevant


def precision(hits: Tensor, n_relevant: Tensor, k: int | None = None) -> Tensor:
    """Share of the ``k`` places that hold a relevant item: ``|hits| / k``, also where fewer than ``k`` are filled."""
    return hits.sum(1, dtype=torch.float64) / (k or hits.shape[1])


def hit_ratio(hits: Tensor, n_relevant: Tensor, k: int | None = None) -> Tensor:
    """1 where at least one of the ``k`` items is relevant, else 0."""
    return hits.any(1).double()


def reciprocal_rank(hits: Tensor, n_relevant: Tensor, k: int | None = None) -> Tensor:
    """``1 / rank`` of the first relevant item, 0 where none is among the ``k``; its mean over users is MRR at ``k``."""
    ranks = torch.arange(1, hits.shape[1] + 1, dtype=torch.float64, device=hits.device)
    return (hits / ranks).amax(1)


def ndcg(hits: Tensor, n_relevant: Tensor, k: int | None = None) -> Tensor:
    r"""Normalised discounted cumulative gain with binary relevance.

    .. math:: \mathrm{NDCG} = \frac{\sum_{r=1}^{k} \mathrm{hit}_r / \log_2(r + 1)}
                                   {\sum_{r=1}^{\min(k, n)} 1 / \log_2(r + 1)}

    The ideal list holds ``min(k, n_relevant)`` relevant items, so a perfect list scores 1 for every user
    (Järvelin and Kekäläinen, ACM TOIS 20(4), 2002).
    """
    width = hits.shape[1]
    ideal_hits = n_relevant.clamp(max=k or width)
    places = max(width, int(ideal_hits.max())) if len(ideal_hits) else width
    discounts = torch.arange(2, places + 2, dtype=torch.float64, device=hits.device).log2().reciprocal()
    ideal = torch.cat([discounts.new_zeros(1), discounts.cumsum(0)])[ideal_hits]
    return (hits * discounts[:width]).sum(1) / ideal


def average_precision(hits: Tensor, n_relevant: Tensor, k: int | None = None) -> Tensor:
    r"""Average precision; its mean over users is MAP at ``k``.

    .. math:: \mathrm{AP} = \frac{1}{n} \sum_{r=1}^{k} \mathrm{hit}_r \cdot \frac{\sum_{s \le r} \mathrm{hit}_s}{r}

    The denominator is the number of relevant items even where that exceeds ``k``, as in trec_eval's ``map_cut``
    (Buckley and Voorhees, SIGIR 2000).
    """
    ranks = torch.arange(1, hits.shape[1] + 1, dtype=torch.float64, device=hits.device)
    return (hits * (hits.cumsum(1) / ranks)).sum(1) / n_relevant


METRICS: Mapping[str, Metric] = MappingProxyType(
    {"recall": recall, "ndcg": ndcg, "precision": precision, "hit": hit_ratio, "mrr": reciprocal_rank}
)
"""The metrics that every evaluation reports, by the name they carry there (``recall@20`` and so on)."""

HIT_METRICS: Mapping[str, Metric] = MappingProxyType({**METRICS, "map": average_precision})
"""All metrics that are functions of the hits alone; those beyond :data:`METRICS` are reported where asked for."""
