"""Full-ranking evaluation: every item is ranked for every user, the user's known items are masked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.ranking.beyond_hits import (
    AUC,
    LIST_METRICS,
    RankedPairs,
    coverage,
    diversity,
    item_facts,
    novelty,
    self_information,
)
from hakg_dgl.ranking.metrics import HIT_METRICS, METRICS
from hakg_dgl.ranking.sampled import AmongSampled
from hakg_dgl.ranking.topk import IdArray, Scorer, checked_ids, masked_topk

if TYPE_CHECKING:
    from hakg_dgl.data.dataset import Dataset

IntArray = NDArray[np.int64]

DEFAULT_MASKS = {"train": (), "valid": ("train",), "test": ("train", "valid")}
"""Splits whose items are masked when a split is evaluated: all that come before it."""

USER_GROUPS = ("none", "few", "some", "many", "most")
ITEM_GROUPS = ("cold", "tail", "mid", "head")
NOVELTY_GROUPS = ("all", "warm", "cold")
ALSO = tuple(name for name in (*HIT_METRICS, AUC, *LIST_METRICS) if name not in METRICS)
"""Metrics that are computed where they are asked for."""
_USERS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Evaluation:
    """What a full-ranking evaluation found."""

    split: str
    """The split whose items are the relevant ones."""
    mask: tuple[str, ...]
    """The splits whose items were masked."""
    ks: tuple[int, ...]
    """The list lengths."""
    n_users: int
    """Users evaluated: those with a relevant item that were not excluded."""
    n_relevant: int
    """Relevant items of those users."""
    n_candidates: int
    """Items that are ranked."""
    n_masked_relevant: int
    """Relevant items that are masked too, since both splits hold them: no list can, so they count as missed."""
    metrics: dict[str, float]
    """``{"recall@20": ...}``: means over the users evaluated, but for ``coverage``, which all lists have in common."""
    groups: dict[str, list[dict[str, Any]]] | None = None
    """``user_activity``, ``item_popularity`` and ``item_novelty``, each a list of rows, if asked for."""
    per_user: pd.DataFrame | None = None
    """``user``, ``n_train``, ``n_relevant`` and a column a metric, if asked for."""
    n_sampled: int | None = None
    """Items that each user's relevant ones were ranked among, where they were sampled."""

    def to_dict(self) -> dict[str, Any]:
        """Everything but the per-user table, ready for JSON."""
        out: dict[str, Any] = {
            "split": self.split,
            "mask": list(self.mask),
            "ks": list(self.ks),
            "n_users": self.n_users,
            "n_relevant": self.n_relevant,
            "n_candidates": self.n_candidates,
            "n_masked_relevant": self.n_masked_relevant,
            "metrics": dict(self.metrics),
        }
        if self.n_sampled is not None:
            out["n_sampled"] = self.n_sampled
        if self.groups is not None:
            out["groups"] = self.groups
        return out


class Wanted(NamedTuple):
    """What the lists of an evaluation depend on beside the scorer, int64.

    Attributes
    ----------
    users
        Whose lists, ``[n]``.
    seen_indptr, seen_items
        What no list of a user may hold, packed by all users; None for nothing.
    candidates
        Items that are ranked; None for all.
    relevant_indptr, relevant_items
        Relevant items, packed by place among ``users``.
    """

    users: Tensor
    seen_indptr: Tensor | None
    seen_items: Tensor | None
    candidates: Tensor | None
    relevant_indptr: Tensor
    relevant_items: Tensor


class Evaluator:
    """Evaluates any number of scorers on one split; what depends on the data alone is prepared once.

    Parameters
    ----------
    dataset
        Interactions by split.
    split
        ``"test"``, ``"valid"`` or ``"train"``: its items are the relevant ones.
    ks
        List lengths, each at least 1. They may exceed the number of items: the places beyond count as misses.
    mask
        Splits: items that a user has in one of them are never recommended to that user. Default: ``train`` and
        ``valid`` for ``test``, ``train`` for ``valid``, none for ``train``.
    groups
        Also report by user activity, by item popularity, and for items with and without interactions before the split.
    per_user
        Also return the table of every user's metrics.
    exclude_users
        User ids ``[m]`` left out of the evaluation.
    candidates
        Item ids ``[m]`` that are ranked, for example :func:`cold_items`; other items are neither recommended nor
        relevant. Default: all.
    also
        Further metrics: names of :data:`ALSO`. Each costs time, ``auc`` the most: a sort of all scores.
    sampled
        Rank the relevant items of a user among as many other items, drawn uniformly from those that are neither
        relevant nor masked, instead of among all. The numbers are higher and may order models otherwise; see
        docs/evaluation.md.
    sample_seed
        Of that draw.
    keep_overlap
        Of the split ``test``: the pairs of ``dataset.test_overlap`` are relevant too. They are masked like all training
        pairs, and so always missed, as in the published evaluations.

    Raises
    ------
    ConfigError
        If a split, a ``k``, a metric or a number of sampled items is not one of those allowed, or the overlap is to be
        kept of another split than ``test``.
    DataError
        If no user has a relevant item, or an id does not exist.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str = "test",
        ks: Iterable[int] = (20,),
        *,
        mask: Sequence[str] | None = None,
        groups: bool = False,
        per_user: bool = False,
        exclude_users: IdArray | None = None,
        candidates: IdArray | None = None,
        also: Iterable[str] = (),
        sampled: int | None = None,
        sample_seed: int = 0,
        keep_overlap: bool = False,
    ) -> None:
        self.split: str = split
        self.ks: tuple[int, ...] = tuple(int(k) for k in ks)
        self.also: tuple[str, ...] = tuple(dict.fromkeys(also))
        self.sampled: int | None = sampled
        self.sample_seed: int = sample_seed
        self.mask: tuple[str, ...] = tuple(DEFAULT_MASKS.get(split, ()) if mask is None else mask)
        self._require_allowed(keep_overlap)
        self.n_users: int = int(dataset.n_users)
        self.n_items: int = int(dataset.n_items)
        self.groups: bool = groups
        self.per_user: bool = per_user
        self.candidates: Tensor | None = None
        if candidates is not None:
            self.candidates = torch.unique(checked_ids(candidates, self.n_items, "candidate item").cpu())
        self.n_candidates: int = self.n_items if self.candidates is None else len(self.candidates)
        self._find_relevant(*self._pairs(dataset, keep_overlap), exclude_users)
        self._find_masked(dataset)
        before = DEFAULT_MASKS[split]
        known = dataset.pairs(*before)[:, 1] if before else np.arange(self.n_items)
        self._known_items = np.bincount(known, minlength=self.n_items) > 0
        train_indptr, train_items = dataset.positives("train")
        self._user_counts: IntArray = np.diff(train_indptr)
        self._item_counts: IntArray = np.bincount(train_items, minlength=self.n_items)
        self._facts = item_facts(dataset) if "diversity" in self.also else None
        self._information: Tensor | None = None
        if "novelty" in self.also:
            before_indptr, before_items = dataset.positives(*(before or ("train",)))
            had = np.bincount(before_items, minlength=self.n_items)
            self._information = self_information(had, max(1, int((np.diff(before_indptr) > 0).sum())))

    def _require_allowed(self, keep_overlap: bool) -> None:
        """Raise ConfigError unless split, mask, list lengths, metrics and the number of sampled items are allowed."""
        if keep_overlap and self.split != "test":
            raise ConfigError(f"keep_overlap is for the split 'test'; {self.split!r} has no overlap to keep")
        for name in self.also:
            if name not in ALSO:
                raise ConfigError(f"there is no further metric {name!r}; choose from {', '.join(ALSO)}")
        if self.sampled is not None and self.sampled < 1:
            raise ConfigError(f"sampled is {self.sampled}; it is the number of items to rank among, at least 1")
        for name in (self.split, *self.mask):
            if name not in DEFAULT_MASKS:
                raise ConfigError(f"there is no split {name!r}; choose from {', '.join(DEFAULT_MASKS)}")
        if not self.ks or min(self.ks) < 1:
            raise ConfigError(f"k is {self.ks or 'missing'}; give list lengths of at least 1")

    def _pairs(self, dataset: Dataset, keep_overlap: bool) -> tuple[IntArray, IntArray]:
        """Users and items of the split, by user, then item; of candidates alone."""
        indptr, items = (np.asarray(a, dtype=np.int64) for a in dataset.positives(self.split))
        owners = np.repeat(np.arange(self.n_users), np.diff(indptr))
        if keep_overlap:
            overlap = dataset.test_overlap[["user", "item"]].to_numpy(dtype=np.int64)
            owners, items = np.unique(np.concatenate([np.stack([owners, items], 1), overlap]), axis=0).T
        if self.candidates is None:
            return owners, items
        chosen = np.isin(items, self.candidates.numpy())
        return owners[chosen], items[chosen]

    def _find_relevant(self, owners: IntArray, items: IntArray, exclude_users: IdArray | None) -> None:
        """Who is evaluated, and the items relevant to each, packed by place among them; rows and items ascend."""
        n_relevant = np.bincount(owners, minlength=self.n_users)
        wanted = n_relevant > 0
        if exclude_users is not None:
            wanted[checked_ids(exclude_users, self.n_users, "excluded user").cpu().numpy()] = False
        self.users: IntArray = np.flatnonzero(wanted)
        if not len(self.users) and self.candidates is not None:
            raise DataError(
                f"no user has one of the {self.n_candidates:,} candidate items in the {self.split!r} split",
                remedy="evaluate among all items, or on a split in which they occur",
            )
        if not len(self.users):
            raise DataError(
                f"no user has an item in the {self.split!r} split, so there is nothing to evaluate",
                remedy="evaluate another split, or preprocess again with a share for this one (--valid, --test)",
            )
        self.n_relevant: IntArray = n_relevant[self.users]
        self._relevant_indptr: IntArray = np.concatenate([[0], np.cumsum(self.n_relevant)]).astype(np.int64)
        self._relevant_row, self._relevant_item = (np.cumsum(wanted) - 1)[owners[wanted[owners]]], items[wanted[owners]]
        self._relevant_keys = torch.from_numpy(owners * self.n_items + items)

    def _find_masked(self, dataset: Dataset) -> None:
        """What is never recommended to whom, and how many relevant items are lost by it."""
        self._seen: tuple[Tensor, Tensor] | None = None
        self.n_masked_relevant: int = 0
        if self.mask:
            seen_indptr, seen_items = (np.array(a, dtype=np.int64) for a in dataset.positives(*self.mask))
            self._seen = torch.from_numpy(seen_indptr), torch.from_numpy(seen_items)
            seen_keys = np.repeat(np.arange(self.n_users), np.diff(seen_indptr)) * self.n_items + seen_items
            relevant = self.users[self._relevant_row] * self.n_items + self._relevant_item
            self.n_masked_relevant = int(_among(torch.from_numpy(relevant), torch.from_numpy(seen_keys)).sum())

    def __call__(self, scorer: Scorer) -> Evaluation:
        """Rank all items for every evaluated user and measure the lists.

        Raises
        ------
        DataError
            If the scorer's numbers of users and items are not the data set's.
        NumericalError
            If a score is NaN.
        """
        self.require_fits(scorer)
        if self.sampled is not None:
            scorer = self._among_sampled(scorer, self.sampled)
        pairs = RankedPairs(self.users, self._relevant_indptr, self._relevant_item) if AUC in self.also else None
        items, _ = masked_topk(scorer, self.users, self.longest, self._seen, self.candidates, watch=pairs)
        if self._seen is not None:  # stay on the scorer's device, for the next call
            self._seen = self._seen[0].to(items.device), self._seen[1].to(items.device)
        return self.of_lists(items.cpu(), pairs)

    def require_fits(self, scorer: Scorer) -> None:
        """Raise DataError unless the scorer has the users and items of the data set."""
        if (scorer.n_users, scorer.n_items) != (self.n_users, self.n_items):
            raise DataError(
                f"the scorer has {scorer.n_users} users and {scorer.n_items} items, "
                f"the data set {self.n_users} and {self.n_items}",
                remedy="use the data set that the model was trained on",
            )

    def wanted(self) -> Wanted:
        """What ranks the lists that :meth:`of_lists` measures."""
        indptr, items = self._seen or (None, None)
        relevant = torch.from_numpy(self._relevant_indptr), torch.from_numpy(self._relevant_item)
        return Wanted(torch.from_numpy(self.users), indptr, items, self.candidates, relevant[0], relevant[1])

    @property
    def longest(self) -> int:
        """Length of the lists that are measured; none is longer than the number of ranked items."""
        return min(max(self.ks), self.n_candidates)

    @property
    def seen(self) -> tuple[Tensor, Tensor] | None:
        """``indptr`` int64 ``[n_users + 1]`` and items: what no list of a user may hold; None for nothing."""
        return self._seen

    def of_lists(self, items: Tensor, pairs: RankedPairs | None = None) -> Evaluation:
        """Measure lists.

        Parameters
        ----------
        items
            Of :attr:`users`, int64 ``[n, longest]`` on the CPU; -1 where a place is empty.
        pairs
            What the ranking of all items was like, for the metric ``auc``.
        """
        hits = self._hits(items)
        n_relevant = torch.from_numpy(self.n_relevant)
        values = {
            f"{name}@{k}": metric(hits[:, :k], n_relevant, k)
            for k in self.ks
            for name, metric in HIT_METRICS.items()
            if name in METRICS or name in self.also
        }
        values |= self._beyond_hits(items)
        if pairs is not None:
            values[AUC] = pairs.values
        groups = None
        if self.groups:
            groups = {
                "user_activity": self._by_user_activity(values),
                "item_popularity": self._by_item_popularity(items.numpy(), hits.numpy()),
                "item_novelty": self._by_item_novelty(items, hits),
            }
        table = None
        if self.per_user:
            counts = {"user": self.users, "n_train": self._user_counts[self.users], "n_relevant": self.n_relevant}
            table = pd.DataFrame(counts | {name: value.numpy() for name, value in values.items()})
        return Evaluation(
            split=self.split,
            mask=self.mask,
            ks=self.ks,
            n_users=len(self.users),
            n_relevant=len(self._relevant_item),
            n_candidates=self.n_candidates,
            n_masked_relevant=self.n_masked_relevant,
            metrics={name: float(value.mean()) for name, value in values.items()} | self._of_all_lists(items),
            groups=groups,
            per_user=table,
            n_sampled=self.sampled,
        )

    def _among_sampled(self, scorer: Scorer, n: int) -> AmongSampled:
        """The scorer, for which most items are no candidates of a user."""
        counts = np.zeros(self.n_users, dtype=np.int64)
        counts[self.users] = self.n_relevant
        relevant = np.concatenate([[0], np.cumsum(counts)]), self._relevant_item
        return AmongSampled(scorer, relevant, self._seen, n, self.sample_seed, self.candidates)

    def _beyond_hits(self, items: Tensor) -> dict[str, Tensor]:
        """Metrics of each user's list that do not ask what is relevant."""
        values: dict[str, Tensor] = {}
        for k in self.ks:
            lists = items[:, :k]
            if self._facts is not None:
                parts = torch.split(lists, _USERS_AT_ONCE)
                values[f"diversity@{k}"] = torch.cat([diversity(part, self._facts) for part in parts])
            if self._information is not None:
                values[f"novelty@{k}"] = novelty(lists, self._information)
        return values

    def _of_all_lists(self, items: Tensor) -> dict[str, float]:
        """Metrics that all lists have in common."""
        ks = self.ks if "coverage" in self.also else ()
        return {f"coverage@{k}": coverage(items[:, :k], self.n_candidates) for k in ks}

    def _hits(self, items: Tensor) -> Tensor:
        """Whether each recommended item is relevant to its user, bool ``[n, k]``."""
        keys = torch.from_numpy(self.users)[:, None] * self.n_items + items
        return _among(keys, self._relevant_keys) & (items >= 0)

    def _by_user_activity(self, values: dict[str, Tensor]) -> list[dict[str, Any]]:
        counts, group = self._user_counts[self.users], equal_share_groups(self._user_counts, 4)[self.users]
        rows: list[dict[str, Any]] = []
        for g, name in enumerate(USER_GROUPS):
            member = group == g
            if member.any():
                bounds = {"min_train": int(counts[member].min()), "max_train": int(counts[member].max())}
                chosen = torch.from_numpy(member)
                means = {metric: float(value[chosen].mean()) for metric, value in values.items()}
                rows.append({"group": name, **bounds, "n_users": int(member.sum()), **means})
        return rows

    def _by_item_novelty(self, items: Tensor, hits: Tensor) -> list[dict[str, Any]]:
        """Metrics of the full ranking with the relevant items of a group: all, warm ones, cold ones."""
        known = torch.from_numpy(self._known_items)
        ranked = torch.ones(self.n_items, dtype=torch.bool)
        if self.candidates is not None:
            ranked = torch.zeros_like(ranked).index_fill_(0, self.candidates, True)
        members = dict(zip(NOVELTY_GROUPS, (ranked, ranked & known, ranked & ~known), strict=True))
        rows: list[dict[str, Any]] = []
        for name, member in members.items():
            relevant = member.numpy()[self._relevant_item]
            counts = torch.from_numpy(np.bincount(self._relevant_row[relevant], minlength=len(self.users)))
            chosen, listed = counts > 0, member[items.clamp_min(0)] & (items >= 0)
            row = {"group": name, "n_items": int(member.sum()), "n_users": int(chosen.sum())}
            row["n_relevant"] = int(counts.sum())
            for k in self.ks:
                found = (hits & listed)[chosen, :k]
                for metric in ("recall", "ndcg"):
                    value = METRICS[metric](found, counts[chosen], k)
                    row[f"{metric}@{k}"] = float(value.mean()) if len(value) else None
                row[f"share@{k}"] = int(listed[:, :k].sum()) / max(1, int((items[:, :k] >= 0).sum()))
            rows.append(row)
        return rows

    def _by_item_popularity(self, items: IntArray, hits: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """Recall within each group of ranked items, over the users for whom an item of the group is relevant."""
        counts, group = self._item_counts, equal_share_groups(self._item_counts, 3)
        ranked = np.ones(self.n_items, dtype=bool)
        if self.candidates is not None:
            ranked = np.isin(np.arange(self.n_items), self.candidates.numpy())
        n_groups, n_users = len(ITEM_GROUPS), len(self.users)
        cells = self._relevant_row * n_groups + group[self._relevant_item]
        relevant = np.bincount(cells, minlength=n_users * n_groups).reshape(n_users, n_groups)
        listed = np.where(items < 0, -1, group[items])
        rows: list[dict[str, Any]] = []
        for g, name in enumerate(ITEM_GROUPS):
            member, users = ranked & (group == g), relevant[:, g] > 0
            if not member.any():
                continue
            row: dict[str, Any] = {
                "group": name,
                "min_train": int(counts[member].min()),
                "max_train": int(counts[member].max()),
                "n_items": int(member.sum()),
                "n_users": int(users.sum()),
                "n_relevant": int(relevant[:, g].sum()),
            }
            for k in self.ks:
                of_group = listed[:, :k] == g
                found = (of_group & hits[:, :k]).sum(1)[users] / relevant[users, g]
                row[f"recall@{k}"] = float(found.mean()) if users.any() else None
                row[f"share@{k}"] = float(of_group.sum() / max(1, (listed[:, :k] >= 0).sum()))
            rows.append(row)
        return rows


def evaluate(
    scorer: Scorer,
    dataset: Dataset,
    *,
    split: str = "test",
    ks: Iterable[int] = (20,),
    mask: Sequence[str] | None = None,
    groups: bool = False,
    per_user: bool = False,
    exclude_users: IdArray | None = None,
    candidates: IdArray | None = None,
    also: Iterable[str] = (),
    sampled: int | None = None,
    sample_seed: int = 0,
    keep_overlap: bool = False,
) -> Evaluation:
    """Evaluate one scorer once; the parameters and errors are those of :class:`Evaluator`.

    Examples
    --------
    >>> evaluate(EmbeddingScorer(users, items), dataset, ks=(20, 40)).metrics["recall@20"]  # doctest: +SKIP
    """
    evaluator = Evaluator(
        dataset, split, ks, mask=mask, groups=groups, per_user=per_user, exclude_users=exclude_users,
        candidates=candidates, also=also, sampled=sampled, sample_seed=sample_seed, keep_overlap=keep_overlap,
    )  # fmt: skip
    return evaluator(scorer)


def cold_items(dataset: Dataset, split: str = "test") -> IntArray:
    """Items without an interaction before a split: in train, and for ``test`` in validation too; int64 ``[m]``.

    What a model knows of them comes from the knowledge graph alone. Ranked among themselves
    (``evaluate(..., candidates=cold_items(dataset))``) they show what it is worth there; among all items their scores
    compete with those of items that users have chosen.

    Raises
    ------
    ConfigError
        If the split is neither ``test`` nor ``valid``: nothing is before ``train``.
    """
    before = DEFAULT_MASKS.get(split, ())
    if not before:
        raise ConfigError(f"no items are cold before a split {split!r}; choose test or valid")
    known = dataset.pairs(*before)[:, 1]
    return np.flatnonzero(np.bincount(known, minlength=dataset.n_items) == 0)


def equal_share_groups(counts: IntArray, n_groups: int) -> IntArray:
    """Cut users or items, sorted by their number of interactions, into groups with equal shares of all interactions.

    Equal counts stay together and go to the group in which the middle of their share falls, so on coarse counts the
    shares are only nearly equal, and a group may be empty.

    Parameters
    ----------
    counts
        ``[n]`` int64, interactions of each.
    n_groups
        Number of groups among those with at least one interaction.

    Returns
    -------
    groups
        ``[n]`` int64: 0 for those with no interaction, 1 to ``n_groups`` by rising count for the others.
    """
    values, inverse, frequency = np.unique(counts, return_inverse=True, return_counts=True)
    weights = values * frequency
    middles = 2 * weights.cumsum() - weights  # in half interactions
    groups = np.where(values == 0, 0, 1 + middles * n_groups // max(1, 2 * weights.sum()))
    by_count: IntArray = groups[inverse]
    return by_count


def _among(keys: Tensor, ascending: Tensor) -> Tensor:
    """Whether each key is one of the ascending ones."""
    if not len(ascending):
        return torch.zeros_like(keys, dtype=torch.bool)
    return ascending[torch.searchsorted(ascending, keys).clamp_(max=len(ascending) - 1)] == keys
