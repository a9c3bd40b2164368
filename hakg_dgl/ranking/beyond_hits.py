"""Metrics that hits alone do not give: the area under the ROC curve, coverage, diversity and novelty.

docs/evaluation.md has them in a table. Lists are int64 ``[n_users, k]``, item ids, -1 where a place is empty; answers
are float64, one a user ``[n_users]`` unless it says otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

if TYPE_CHECKING:
    from hakg_dgl.data.dataset import Dataset

LIST_METRICS = ("diversity", "novelty", "coverage")
"""Metrics of a list of a length, such as ``diversity@20``."""
AUC = "auc"
"""The metric of the whole ranking, which has no length."""


class RankedPairs:
    r"""Area under the ROC curve of each user over all candidates, collected from blocks of scores as they are ranked.

    .. math:: \mathrm{AUC}_u = \frac{1}{|P_u|} \sum_{i \in P_u}
              \frac{|\{j \in N_u : s_j < s_i\}| + \frac12 |\{j \in N_u : s_j = s_i\}|}{|N_u|}

    P are the user's relevant items, N the candidates that are not relevant: the share of pairs of both that are ranked
    rightly (Hanley and McNeil, Radiology 143, 1982). A relevant item that is no candidate (masked, since another split
    has it too) counts as ranked last, and where all candidates are relevant each of them as ranked rightly.

    Parameters
    ----------
    users
        The users evaluated, ascending, ``[n]``.
    indptr, items
        Relevant items of the user at place p: ``items[indptr[p]:indptr[p + 1]]``; every user has one.
    """

    def __init__(self, users: NDArray[np.int64], indptr: NDArray[np.int64], items: NDArray[np.int64]) -> None:
        self._users, self._indptr, self._items = (torch.from_numpy(part) for part in (users, indptr, items))
        self.values: Tensor = torch.full((len(users),), torch.nan, dtype=torch.float64)

    def __call__(self, users: Tensor, scores: Tensor) -> None:
        """Take a block: users ``[B]`` and scores ``[B, n_items]``, ``-inf`` where an item is no candidate."""
        places = torch.searchsorted(self._users, users.cpu())
        starts = self._indptr[places]
        counts = self._indptr[places + 1] - starts
        rows = torch.arange(len(places)).repeat_interleave(counts)
        first = counts.cumsum(0) - counts
        items = self._items[torch.arange(len(rows)) + (starts - first)[rows]]
        # Relevant scores, a row a user, filled up with -inf as items that are no candidates are.
        width = int(counts.max())
        own = scores.new_full((len(places), width), -torch.inf)
        own[rows.to(scores.device), (torch.arange(len(rows)) - first[rows]).to(scores.device)] = scores[
            rows.to(scores.device), items.to(scores.device)
        ]
        ranked, own = scores.sort(dim=1).values, own.sort(dim=1).values
        left_out = (ranked == -torch.inf).sum(1, keepdim=True)
        filled = (own == -torch.inf).sum(1, keepdim=True)
        others = (ranked.shape[1] - left_out) - (width - filled)
        # Below and up to each relevant item: among all candidates, less those among the relevant ones.
        pairs = torch.zeros(own.shape, dtype=torch.float64, device=own.device)
        for right in (False, True):
            among_all = torch.searchsorted(ranked, own, right=right) - left_out
            pairs += 0.5 * (among_all - (torch.searchsorted(own, own, right=right) - filled)).double()
        shares = torch.where(others > 0, pairs / others.clamp_min(1), torch.ones_like(pairs))
        total = shares.masked_fill_(own == -torch.inf, 0.0).sum(1)
        self.values[places] = (total / counts.to(total.device)).cpu()


def coverage(items: Tensor, n_candidates: int) -> float:
    r"""Share of the candidates that are in the list of some user, one number for all lists.

    .. math:: |\bigcup_u L_u| / |\text{candidates}|

    (Herlocker et al., ACM TOIS 22(1), 2004, "catalog coverage".)
    """
    return len(torch.unique(items[items >= 0])) / max(1, n_candidates)


def self_information(counts: NDArray[np.int64], n_users: int) -> Tensor:
    r"""How surprising it is that a user has an item, in bits: :math:`-\log_2(\max(1, c_i) / n)`, float64 ``[n_items]``.

    c are the users who have the item. An item that nobody has counts as one that a single user has, since the
    logarithm of nothing is infinite.
    """
    return -torch.from_numpy(np.log2(np.maximum(counts, 1) / n_users))


def novelty(items: Tensor, information: Tensor) -> Tensor:
    """Mean self-information of the items of a list, 0 for an empty list.

    (Zhou et al., PNAS 107(10), 2010; "mean self-information" of Vargas and Castells, RecSys 2011.)

    Parameters
    ----------
    items
        Lists.
    information
        Of each item; see :func:`self_information`.
    """
    filled = items >= 0
    total = (information[items.clamp_min(0)] * filled).sum(1)
    return total / filled.sum(1).clamp_min(1)


def item_facts(dataset: Dataset) -> sparse.csr_matrix:
    """What is known of each item, rows of unit length (or zero), float64 ``[n_items, n_facts]``.

    A fact is the relation and the other end of a triple that the item is an end of, apart by direction; all weigh the
    same.
    """
    head, relation, tail = (dataset.triples[name].to_numpy() for name in ("head", "relation", "tail"))
    of_head, of_tail = head < dataset.n_items, tail < dataset.n_items
    items = np.concatenate([head[of_head], tail[of_tail]])
    n_entities, n_relations = dataset.n_entities, dataset.n_relations
    names = np.concatenate(
        [(relation * n_entities + tail)[of_head], ((relation + n_relations) * n_entities + head)[of_tail]]
    )
    facts, columns = np.unique(names, return_inverse=True)
    lengths = np.sqrt(np.bincount(items, minlength=dataset.n_items))
    shape = (dataset.n_items, len(facts))
    return sparse.csr_matrix((1.0 / lengths[items], (items, columns)), shape=shape)  # each triple occurs once


def diversity(items: Tensor, facts: sparse.csr_matrix) -> Tensor:
    r"""How unlike the items of a list are: the mean over its pairs of 1 less the cosine of their facts.

    .. math:: \mathrm{ILD} = \frac{2}{m (m - 1)} \sum_{i < j} (1 - \langle f_i, f_j \rangle)
              = 1 - \frac{\|\sum_i f_i\|^2 - \sum_i \|f_i\|^2}{m (m - 1)}

    for a list of m items; 0 for a list of one or none. An item without facts is like no other (intra-list diversity:
    Ziegler et al., WWW 2005; Vargas and Castells, RecSys 2011).

    Parameters
    ----------
    items
        Lists.
    facts
        Rows of unit length (or zero), as :func:`item_facts` gives them.
    """
    filled = (items >= 0).numpy()
    rows, listed = np.nonzero(filled)[0], items.numpy()[filled]
    lists = sparse.csr_matrix((np.ones(len(rows)), (rows, listed)), shape=(len(items), facts.shape[0]))
    total = lists @ facts
    known = np.asarray(facts.getnnz(axis=1) > 0, dtype=np.float64)  # squared lengths
    alike = np.asarray(total.multiply(total).sum(1)).ravel() - lists @ known
    m = filled.sum(1)
    return torch.from_numpy(np.where(m > 1, 1.0 - alike / np.maximum(1, m * (m - 1)), 0.0))
