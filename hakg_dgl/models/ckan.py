"""CKAN: users and items as sets of entities that spread through the facts.

Wang, Lin, Tan, Chen and Liu, "CKAN: Collaborative Knowledge-aware Attentive Network for Recommender Systems", SIGIR
2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hakg_dgl.graph.packed import Grouping, KnowledgePattern, SparsePattern
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.kernels.edge_softmax import edge_softmax
from hakg_dgl.kernels.interface import SparseBackend
from hakg_dgl.kernels.products import rows_of, sum_over_columns, weighted_sum_over_columns
from hakg_dgl.layers.losses import batch_rows
from hakg_dgl.layers.triple_sets import (
    Ids,
    TripleSets,
    Words,
    draws,
    mixed,
    on,
    picked,
    salts_of_sets,
    triple_sets,
    words_of_facts,
)
from hakg_dgl.models.drawn_neighbours import DrawnNeighbours
from hakg_dgl.models.explanation import Breakdown
from hakg_dgl.models.ranking_loss import NEGATIVES, PointwiseRankingLossSettings, RankingLoss, idle_ranking_settings
from hakg_dgl.models.recommender import Abilities, Axis, Pass, Sections, interaction_batches
from hakg_dgl.models.score_sums import ItemSum, SummedBreakdown, UserSum, edges_of, wide
from hakg_dgl.randomness import stream_seed
from hakg_dgl.ranking.fold_in import EmbeddingFoldIn, FoldedUsers, FoldIn
from hakg_dgl.settings.run import GradientRunSettings
from hakg_dgl.settings.section import Range, Section
from hakg_dgl.settings.training import TrainingSettings

Aggregator: TypeAlias = Literal["sum", "pool", "concat"]
PUBLISHED = {
    "layers": 3,
    "user_set": 8,
    "item_set": 64,
    "aggregator": "concat",
    "ranking_loss": "cross-entropy",
    "weight_decay": 1e-5,
    "lr": 2e-3,
    "batch_size": 2048,
    "epochs": 20,
    "select_by": "recall@20",
}
"""The defaults of the authors' code."""
_SIZE = Range(1, 1_000_000)
_COUNT = Range(1, 10_000_000)


@dataclass(frozen=True)
class CKANSettings(Section):
    """Settings of CKAN.

    Attributes
    ----------
    dim, layers
        Width d of the vectors and number L of hops.
    user_set, item_set
        Triples drawn for a user and for an item at each hop.
    aggregator
        How the vectors of all hops are joined: ``sum``, the largest of each coordinate (``pool``), or ``concat``.
    """

    dim: Annotated[int, Range(1, 4096)] = 64
    layers: Annotated[int, Range(1, 16)] = 1
    user_set: Annotated[int, _SIZE] = 32
    item_set: Annotated[int, _SIZE] = 64
    aggregator: Aggregator = "sum"


@dataclass(frozen=True)
class CKANTrainingSettings(TrainingSettings):
    """Training that does well on validation; docs/models.md says what was searched."""

    lr: Annotated[float, Range(1e-8, 100.0)] = 5e-3
    batch_size: Annotated[int, _COUNT] = 4096
    epochs: Annotated[int, _COUNT] = 500
    eval_every: Annotated[int, _COUNT] = 5
    patience: Annotated[int, _COUNT] = 8


@dataclass(frozen=True)
class _Spread:
    """Sets of entities, and the triples around them."""

    members: SparsePattern
    triples: TripleSets


class CKAN(DrawnNeighbours):
    r"""Scores :math:`\langle e_u, e_i \rangle` of vectors that are made of sets of entities.

    A user is the set of the user's items, an item the set of items that its users have too. Around a set lie, hop after
    hop, the triples whose heads are its members, or the tails of the hop before. A hop gives

    .. math:: o^{(l)} = \sum_{(h, r, t)} \frac{\exp \pi(h, r)}{\sum \exp \pi(h', r')} e_t, \qquad
              \pi(h, r) = \sigma(W_3 \mathrm{ReLU}(W_2 \mathrm{ReLU}(W_1 [e_h, e_r])))

    and the vector joins the mean :math:`o^{(0)}` of the members with that of all hops (Wang et al., eqs. 3-13). To an
    item's vector its own entity is added; with ``concat``, where both sides need as many parts, it takes the place of
    the mean. So it is in the released code, which like this one joins without the matrix and the nonlinearity of the
    paper. Users have no parameters of their own: new users are what they would have been in training.

    The sets are drawn once, from a hash of the seed and the members, so that nothing of them is saved. As published
    they are drawn with replacement; here first a head, then one of its triples, so that hubs do not fill them, where
    the released code draws among all triples of all heads. Facts are followed both ways. The set of an item is
    ``item_set`` draws of a user of it and an item of that user; the item alone where it has no users, with draws that
    are hashed from its facts, so that a new item is what it would have been in training. The paper's
    first members are all of an item's set. :math:`\pi` is computed once for each head and relation, however many
    sets have it. Facts and links of users take no part.

    Parameters are those of :class:`~hakg_dgl.models.recommender.Recommender`.
    """

    name = "ckan"
    citation = r"""
@inproceedings{wang2020ckan,
  author = {Ze Wang and Guangyan Lin and Huobin Tan and Qinghong Chen and Xiyang Liu},
  title = {{CKAN: Collaborative Knowledge-aware Attentive Network for Recommender Systems}},
  booktitle = {Proceedings of the 43rd International ACM SIGIR Conference on Research and Development in Information
    Retrieval},
  year = {2020},
  pages = {219--228},
  doi = {10.1145/3397271.3401141}
}
"""
    sections = Sections(CKANSettings, PointwiseRankingLossSettings, CKANTrainingSettings, GradientRunSettings)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"published": PUBLISHED}
    space: ClassVar[Mapping[str, Any]] = {
        "lr": {"low": 3e-4, "high": 1e-2, "log": True},
        "weight_decay": {"low": 1e-4, "high": 1.0, "log": True},
        "layers": {"low": 1, "high": 3},
        "user_set": {"low": 8, "high": 64, "log": True},
        "item_set": {"low": 8, "high": 64, "log": True},
        "aggregator": ["sum", "pool", "concat"],
    }
    abilities = Abilities(facts=True, vectors=True, folds_in_users=True, new_items=True, explains=True)
    streams = (NEGATIVES,)

    @classmethod
    def idle_settings(cls, values: Mapping[str, Any]) -> Mapping[str, str]:
        """Settings of the softmax beside another loss."""
        return idle_ranking_settings(values)

    def build(self) -> None:
        """Vectors of entities and relations, and the layers of the attention."""
        graph, dim = self.graph, self.settings.dim
        self.entity: torch.nn.Parameter = self.parameter("entity", graph.n_entities, dim)
        self.relation: torch.nn.Parameter = self.parameter("relation", max(1, 2 * graph.n_relations), dim)
        self.of_head: torch.nn.Parameter = self.parameter("attention:head", dim, dim)
        self.of_relation: torch.nn.Parameter = self.parameter("attention:relation", dim, dim)
        self.hidden: torch.nn.Parameter = self.parameter("attention:hidden", dim, dim)
        self.weigh: torch.nn.Parameter = self.parameter("attention:weight", 1, dim)
        self.graph_moved()

    def graph_moved(self) -> None:
        """Draw the sets for the graph's device, where they are the same as on any other."""
        self.backend: SparseBackend = choose_backend("auto", self.graph.device)
        self.knowledge: KnowledgePattern = self.known_facts()
        indptr, items = (x.cpu().numpy() for x in self.graph.positives())
        of_users = self.spread(indptr, items, self.settings.user_set, users=True)
        of_items = self.spread(*self._items_beside(indptr, items), self.settings.item_set, users=False)
        self.of_users, self.of_items = _with_pairs_in_common(of_users, of_items, len(self.relation))
        self.heads, self.head = torch.unique(self.of_users.triples.pair_head, return_inverse=True)

    def spread(self, indptr: Ids, items: Ids, size: int, *, users: bool) -> _Spread:
        """The triples around sets of items, ``items[indptr[s]:indptr[s + 1]]``, ascending."""
        knowledge, device = self.knowledge, self.device
        salts = salts_of_sets(indptr, items, stream_seed(self.run.seed, "sets:user" if users else "sets:item"))
        if not users:  # items that lie in the same sets shall not draw the same triples
            salts = mixed(salts + np.arange(len(salts)).astype(np.uint64))
            alone, of_facts = self._salts_by_facts()
            salts[alone] = of_facts
        triples = triple_sets(indptr, items, salts, knowledge, hops=self.settings.layers, size=size)
        rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        members = SparsePattern.from_pairs(on(rows, device), on(items, device), len(indptr) - 1, self.graph.n_entities)
        return _Spread(members, triples)

    def _salts_by_facts(self) -> tuple[Ids, Words]:
        """Items without users, and a word for each from the seed and its facts, whatever its number."""
        starts = self.knowledge.pairs.by_row.indptr.cpu().numpy()[: self.graph.n_items + 1]
        alone = np.flatnonzero(np.diff(self._by_item()[0].cpu().numpy()) == 0)
        words = words_of_facts(self.knowledge, np.arange(starts[-1]), self.graph.n_items)
        sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(words, dtype=np.uint64)])[starts]
        seed = np.uint64(stream_seed(self.run.seed, "sets:item"))
        return alone, mixed(np.diff(sums)[alone] + seed)

    def _items_beside(self, indptr: Ids, items: Ids) -> tuple[Ids, Ids]:
        """For each item the items drawn beside it, ascending; itself where it has no users."""
        n, size = self.graph.n_items, self.settings.item_set
        of_item, users = (x.cpu().numpy() for x in self._by_item())
        salts = mixed(np.arange(n, dtype=np.uint64) + np.uint64(stream_seed(self.run.seed, "items beside")))
        count = np.diff(of_item)
        rows = np.repeat(np.flatnonzero(count), size)
        of_user, of_other = (draws(salts[count > 0], which, size).reshape(-1) for which in (0, 1))
        user = users[of_item[rows] + picked(of_user, count[rows])]
        other = items[indptr[user] + picked(of_other, np.diff(indptr)[user])]
        alone = np.flatnonzero(count == 0)
        rows, other = np.concatenate([rows, alone]), np.concatenate([other, alone])
        order = np.lexsort((other, rows))
        return np.concatenate([[0], np.bincount(rows, minlength=n).cumsum()]), other[order]

    def _by_item(self) -> tuple[Tensor, Tensor]:
        """``indptr`` and users of each item, int64."""
        pattern = self.graph.packed.interactions
        return pattern.by_col.indptr, pattern.by_col.permute(pattern.rows)

    def attention(self, heads: Tensor, head: Tensor, relation: Tensor) -> Tensor:
        r"""The logits :math:`\pi(h, r)` ``[n]`` of pairs of a head and a relation.

        Parameters
        ----------
        heads
            The entities that are a head of any pair, int64 ``[m]``.
        head, relation
            Of each pair, int64 ``[n]``; the head by its place among ``heads``.
        """
        from_head = batch_rows(self.backend, self.entity, heads) @ self.of_head.T
        from_relation = self.relation @ self.of_relation.T
        first = F.relu(batch_rows(self.backend, from_head, head) + batch_rows(self.backend, from_relation, relation))
        return torch.sigmoid(F.relu(first @ self.hidden.T) @ self.weigh.T).squeeze(1)

    def logits_of(self, spread: _Spread) -> Tensor:
        """:meth:`attention` of the pairs of a spread, ``[n_pairs]``."""
        heads, head = torch.unique(spread.triples.pair_head, return_inverse=True)
        return self.attention(heads, head, spread.triples.pair_relation)

    def vectors_of(self, spread: _Spread, logits: Tensor) -> list[Tensor]:
        """The mean of the members and what each hop gives, ``[n_sets, d]`` each, by the logits of its pairs."""
        members, triples = spread.members, spread.triples
        count = members.row_degree.clamp_min(1).to(self.dtype).unsqueeze(1)
        parts = [sum_over_columns(self.backend, members, self.entity) / count]
        for pattern, by_pair, pair in triples.hops:
            shares = edge_softmax(self.backend, pattern, rows_of(self.backend, by_pair, pair, logits))
            parts.append(weighted_sum_over_columns(self.backend, pattern, shares, self.entity))
        return parts

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """The parts of a vector joined as :attr:`CKANSettings.aggregator` says."""
        if self.settings.aggregator == "concat":
            return torch.cat(list(parts), 1)
        stacked = torch.stack(list(parts))
        return stacked.sum(0) if self.settings.aggregator == "sum" else stacked.amax(0)

    def propagate(self) -> tuple[Tensor, Tensor]:
        """User ``[n_users, D]`` and item ``[n_items, D]`` vectors that are scored; D is d, or (L + 1) d."""
        logits = self.attention(self.heads, self.head, self.of_users.triples.pair_relation)
        of_users, of_items = (self.vectors_of(spread, logits) for spread in (self.of_users, self.of_items))
        own = self.entity[: self.graph.n_items]
        if self.settings.aggregator == "concat":
            of_items[0] = own
        else:
            of_items.append(own)
        return self.joined(of_users), self.joined(of_items)

    @torch.no_grad()
    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """The vectors of :meth:`propagate`, whose inner products rank."""
        return self.propagate()

    def axes(self) -> Mapping[str, tuple[Axis, ...]]:
        """Rows of entities and of relations."""
        relations = (*self.graph.relation_types, "none")[: len(self.relation)]
        return {**super().axes(), "relation": (relations,)}

    def passes(self, training: TrainingSettings, random: Mapping[str, torch.Generator]) -> Sequence[Pass]:
        """One pass over the interactions."""
        ranking = RankingLoss(self.graph, self.loss, random[NEGATIVES])

        def loss(users: Tensor, items: Tensor) -> Tensor:
            vectors = self.propagate()
            return ranking(*vectors, users, items, decayed=([vectors[0]], [self.entity]))

        return [Pass("interactions", interaction_batches(self.graph, training, random), loss)]

    @torch.no_grad()
    def fold_in(self) -> FoldIn:
        """New users as the sets of their items, which is what trained users are."""
        items = self.ranking_vectors()[1]
        return EmbeddingFoldIn([_UsersAsSets(self, items.shape[1])], items)

    def breakdown(self, folded: FoldedUsers | None = None) -> Breakdown:
        """The score by past items, and by facts of the item and the items beside it, with what is drawn around them."""
        return SummedBreakdown(self.graph, _Sums(self), folded)


def _with_pairs_in_common(first: _Spread, second: _Spread, n_relations: int) -> tuple[_Spread, _Spread]:
    """The same sets, the pairs of both being numbered together, so that one attention serves both."""
    sets = first.triples, second.triples
    codes = [triples.pair_head * n_relations + triples.pair_relation for triples in sets]
    pairs, place = torch.unique(torch.cat(codes), return_inverse=True)
    found = []
    for spread, number in zip((first, second), place.split([len(code) for code in codes]), strict=True):
        hops = [(pattern, number[pair]) for pattern, _, pair in spread.triples.hops]
        grouped = tuple((pattern, Grouping.of(pair, len(pairs)), pair) for pattern, pair in hops)
        found.append(_Spread(spread.members, TripleSets(pairs // n_relations, pairs % n_relations, grouped)))
    return found[0], found[1]


@dataclass(frozen=True)
class _UsersAsSets:
    """Vectors of users by their items."""

    model: CKAN
    width: int

    def __call__(self, indptr: Tensor, items: Tensor) -> Tensor:
        spread = users_as_sets(self.model, indptr, items)
        return self.model.joined(self.model.vectors_of(spread, self.model.logits_of(spread)))


def users_as_sets(model: CKAN, indptr: Tensor, items: Tensor) -> _Spread:
    """The sets of users by their items, ``items[indptr[u]:indptr[u + 1]]``, in any order."""
    bounds, members = indptr.cpu().numpy(), items.cpu().numpy()
    order = np.lexsort((members, np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))))
    return model.spread(bounds, members[order], model.settings.user_set, users=True)


class _Sums:
    """User and item as sums (:class:`~hakg_dgl.models.score_sums.Sums`).

    A triple counts for the members of the set from which its head was reached: for its head in the first hop, and after
    that in equal parts for what each triple that reached the head counts for.
    """

    @torch.no_grad()
    def __init__(self, model: CKAN) -> None:
        self.model: CKAN = model
        self.entity: Tensor = wide(model.entity)
        self.of_items: Tensor = self._logits(model.of_items)

    @torch.no_grad()
    def _logits(self, spread: _Spread) -> Tensor:
        return wide(self.model.logits_of(spread))

    def of_user(self, items: Tensor, number: int, added: bool) -> UserSum:
        """By past items."""
        spread = users_as_sets(self.model, torch.tensor([0, len(items)]), items)
        members, parts, _ = self._around(spread, 0, self._logits(spread))
        own, rows = self._joined(parts.new_zeros(len(parts), parts.shape[2]), parts)
        return UserSum(own, {"knowledge": rows[torch.searchsorted(members, items)]})

    def of_item(self, item: int, user: Tensor) -> ItemSum:
        """By facts of the item itself, and by the items beside it; as a member of its own set it is its own."""
        members, parts, (head, relation, tail, values) = self._around(self.model.of_items, item, self.of_items)
        its, mine, concat = members == item, head == item, self.model.settings.aggregator == "concat"
        own = parts.new_zeros(len(parts) + (not concat), parts.shape[2])
        own[0] = parts[0, its].sum(0)
        parts[0, its] = 0.0
        if concat:  # which takes the item's own entity in place of the members
            parts[0] = 0.0
        own[0 if concat else -1] = self.entity[item]
        pair, place = torch.unique(relation[mine] * len(self.entity) + tail[mine], return_inverse=True)
        facts = parts.new_zeros(len(parts), len(pair), parts.shape[2])
        facts[1].index_add_(0, place, values[mine])
        parts[1, its] -= facts[1].sum(0)
        whole, rows = self._joined(own, torch.cat([facts, parts], 1))
        beside = members, rows[len(pair) :]
        return ItemSum(
            whole, pair // len(self.entity), pair % len(self.entity), rows[: len(pair)], others={"beside": beside}
        )

    def _around(self, spread: _Spread, row: int, logits: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Parts of a set.

        Returns
        -------
        tuple
            Its members, each once, ``[m]``; the part of each in the mean of the members and in all hops,
            ``[L + 1, m, d]``; and head, relation, tail and value ``[e, d]`` of the triples of the first hop.
        """
        triples, chosen = spread.triples, torch.tensor([row])
        members, count = torch.unique(
            edges_of(spread.members.by_row, spread.members.cols, chosen).sender, return_counts=True
        )
        parts = [self.entity[members] * (count.double() / count.sum().clamp_min(1)).unsqueeze(1)]
        reached, origin, first = members, torch.eye(len(members), dtype=torch.float64), None
        for pattern, _, pair in triples.hops:
            _, edge, tail = edges_of(pattern.by_row, pattern.cols, chosen)
            number = pair.cpu()[edge]
            head, relation = triples.pair_head.cpu()[number], triples.pair_relation.cpu()[number]
            values = logits[number].softmax(0).unsqueeze(1) * self.entity[tail]
            origin = origin[torch.searchsorted(reached, head)]
            parts.append(origin.T @ values)
            first = (head, relation, tail, values) if first is None else first
            reached, place, count = torch.unique(tail, return_inverse=True, return_counts=True)
            origin = origin.new_zeros(len(reached), len(members)).index_add(0, place, origin) / count.unsqueeze(1)
        assert first is not None
        return members, torch.stack(parts), first

    def _joined(self, own: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
        """What is joined to a vector ``[D]`` and its parts ``[n, D]``, from ``[K, d]`` and ``[k, n, d]``, k <= K."""
        aggregator = self.model.settings.aggregator
        if aggregator == "concat":
            return own.flatten(), parts.transpose(0, 1).flatten(1)
        if aggregator == "pool":  # each coordinate is that of one of them
            totals = own.index_add(0, torch.arange(len(parts)), parts.sum(1))
            largest = torch.zeros_like(own).scatter(0, totals.argmax(0, keepdim=True), 1.0)
            own, parts = own * largest, parts * largest[: len(parts), None]
        return own.sum(0), parts.sum(0)
