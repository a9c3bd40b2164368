"""Ranking metrics of one list per user, each a short function of where the hits are.

Every metric takes ``hits``, a bool tensor ``[n_users, k]`` whose column ``r`` says whether the item at rank ``r + 1``
is relevant (places left empty because too few candidates remained count as misses), and ``n_relevant``, an integer
tensor ``[n_users]`` with the number of relevant items of each user, in the list or not. The answer is one float64 a
user, ``[n_users]``. Users with no relevant item have no recall and no NDCG (``nan``); an evaluation leaves them out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

Metric = Callable[[Tensor, Tensor], Tensor]


def recall(hits: Tensor, n_relevant: Tensor) -> Tensor:
    """Share of the user's relevant items that are in the list: ``|hits| / n_relevant``.

    The denominator is the number of relevant items even where that exceeds ``k``.
    """
    return hits.sum(1, dtype=torch.float64) / n_relevant


def precision(hits: Tensor, n_relevant: Tensor) -> Tensor:
    """Share of the ``k`` places that hold a relevant item: ``|hits| / k``, also where fewer than ``k`` are filled."""
    return hits.sum(1, dtype=torch.float64) / hits.shape[1]


def hit_ratio(hits: Tensor, n_relevant: Tensor) -> Tensor:
    """1 where at least one of the ``k`` items is relevant, else 0."""
    return hits.any(1).double()


def reciprocal_rank(hits: Tensor, n_relevant: Tensor) -> Tensor:
    """``1 / rank`` of the first relevant item, 0 where none is among the ``k``; its mean over users is MRR at ``k``."""
    ranks = torch.arange(1, hits.shape[1] + 1, dtype=torch.float64, device=hits.device)
    return (hits / ranks).amax(1)


def ndcg(hits: Tensor, n_relevant: Tensor) -> Tensor:
    r"""Normalised discounted cumulative gain with binary relevance.

    .. math:: \mathrm{NDCG} = \frac{\sum_{r=1}^{k} \mathrm{hit}_r / \log_2(r + 1)}
                                   {\sum_{r=1}^{\min(k, n)} 1 / \log_2(r + 1)}

    The ideal list holds ``min(k, n_relevant)`` relevant items, so a perfect list scores 1 for every user
    (Järvelin and Kekäläinen, ACM TOIS 20(4), 2002).
    """
    k = hits.shape[1]
    discounts = torch.arange(2, k + 2, dtype=torch.float64, device=hits.device).log2().reciprocal()
    ideal = torch.cat([discounts.new_zeros(1), discounts.cumsum(0)])[n_relevant.clamp(max=k)]
    return (hits * discounts).sum(1) / ideal


METRICS: Mapping[str, Metric] = MappingProxyType(
    {"recall": recall, "ndcg": ndcg, "precision": precision, "hit": hit_ratio, "mrr": reciprocal_rank}
)
"""The metrics an evaluation reports, by the name they carry there (``recall@20`` and so on)."""
