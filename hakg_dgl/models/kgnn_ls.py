"""KGNN-LS: items receive their facts as each user weighs relations, which label smoothness regularises.

Wang, Zhang, Zhang, Leskovec, Zhao, Li and Wang, "Knowledge-aware Graph Neural Networks with Label Smoothness
Regularization for Recommender Systems", KDD 2019 (arXiv 1905.04413).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.kernels.interface import SparseBackend
from hakg_dgl.layers.losses import batch_rows
from hakg_dgl.layers.neighbours import sampled_facts
from hakg_dgl.layers.sampling import NegativeSampler
from hakg_dgl.models.drawn_neighbours import DrawnNeighbours
from hakg_dgl.models.explanation import Breakdown
from hakg_dgl.models.ranking_loss import NEGATIVES, PointwiseRankingLossSettings, idle_ranking_settings
from hakg_dgl.models.recommender import Abilities, Axis, Pass, Sections, interaction_batches
from hakg_dgl.models.score_sums import ItemSum, SummedBreakdown, UserSum, wide
from hakg_dgl.randomness import numpy_generator
from hakg_dgl.ranking.fold_in import FoldedUsers
from hakg_dgl.ranking.topk import Scorer
from hakg_dgl.settings.run import GradientRunSettings
from hakg_dgl.settings.section import Range, Section
from hakg_dgl.settings.training import TrainingSettings

NUMBERS_PER_BLOCK = 1 << 21
"""Numbers of the vectors that items have for a block of users: 8 MiB of float32, which caches hold in part."""
PAIRS_IN_TABLE = 1 << 26
"""Pairs of a user and an item up to which a table of them says who has what, in 64 MiB; beyond, a search does."""
LABEL_FLOOR = 1e-6
"""Predicted labels are kept this far from 0 and 1, where the cross-entropy has no gradient to speak of."""
UNKNOWN = 0.5
"""The label of what has none: entities that are no items, and the item whose label is held out."""
PUBLISHED = {
    "dim": 32,
    "layers": 1,
    "sample_size": 16,
    "ranking_loss": "cross-entropy",
    "weight_decay": 1e-7,
    "label_weight": 1.0,
    "label_hops": 1,
    "lr": 2e-2,
    "batch_size": 65_536,
    "epochs": 10,
    "select_by": "recall@20",
}
"""What the authors' code has for their data set of films."""
_COUNT = Range(1, 10_000_000)


@dataclass(frozen=True)
class KGNNLSSettings(Section):
    """Settings of KGNN-LS.

    Attributes
    ---------
    dim, layers
        Width d of the vectors and number L of layers.
    sample_size
        The most facts that an entity receives, drawn once.
    """

    dim: Annotated[int, Range(1, 4096)] = 64
    layers: Annotated[int, Range(1, 4)] = 1
    sample_size: Annotated[int, Range(1, 1024)] = 8


@dataclass(frozen=True)
class KGNNLSLossSettings(PointwiseRankingLossSettings):
    """Settings of KGNN-LS's losses.

    Attributes
    ---------
    candidates
        Of the softmax. Items have other vectors for each user, so fewer than elsewhere.
    label_weight, label_hops
        Weight of the label smoothness, and over how many hops labels are propagated.
    """

    candidates: Annotated[int, Range(1, 10_000_000)] = 256
    label_weight: Annotated[float, Range(0.0, 1e3)] = 0.1
    label_hops: Annotated[int, Range(1, 4)] = 2


@dataclass(frozen=True)
class KGNNLSTrainingSettings(TrainingSettings):
    """Training that does well on validation; docs/models.md says what was searched."""

    lr: Annotated[float, Range(1e-8, 100.0)] = 5e-3
    batch_size: Annotated[int, _COUNT] = 4096
    epochs: Annotated[int, _COUNT] = 500
    eval_every: Annotated[int, _COUNT] = 5
    patience: Annotated[int, _COUNT] = 8


@dataclass(frozen=True)
class _Reached:
    """Entities that items receive in all layers.

    Attributes
    ----------
    heads
        int64, whose vectors each layer gives, the last layer first.
    own, of_tails
        Of the heads of the first layer: W e + b ``[m, d]``, and W e of what they receive ``[m, K, d]``.
    """

    heads: list[Tensor]
    own: Tensor
    of_tails: Tensor


class KGNNLS(DrawnNeighbours):
    r"""Scores :math:`\langle u, v_i^u \rangle`, the vector of an item being another one for each user.

    .. math:: \pi_u(h, r) = \frac{\exp \langle u, e_r \rangle}{\sum_{(r', t) \in N_h} \exp \langle u, e_{r'} \rangle},
              \qquad
              v_h^{(l)} = \sigma\Bigl(W_l \Bigl(v_h^{(l-1)} + \sum_{(r, t) \in N_h} \pi_u(h, r)\, v_t^{(l-1)}\Bigr) +
              b_l\Bigr)

    with tanh in the last layer and ReLU before (Wang et al., eqs. 1-3, normalised for each head as in the released
    code). Label smoothness propagates labels, 1 for the items that a user has and 0 for other items, along the same
    weights to an item whose own label is held out, and takes the cross-entropy of what arrives (eqs. 7-9).

    The released code unrolls neighbours to L hops for each pair, and labels as far, so that with L = 1 nothing
    arrives where items have no items as neighbours; here ``label_hops`` says how far. Other items are those without a
    label there, and a logistic function is applied to predicted labels, which are probabilities already. It draws
    neighbours with replacement; here each is taken once, from the seed alone, so that nothing of them is saved.

    Ranking all items for many users needs no pairs. In the first layer the vectors of neighbours are the same for all
    users, so :math:`W_1 e_t` is computed once, and what a block of users adds is one product of a matrix users x
    neighbours with another, neighbours x d, for each item. The softmax over candidates in training is computed that
    way too; it keeps a number for each user of a batch, candidate and coordinate. Facts and links of users take no
    part.

    Parameters are those of :class:`~hakg_dgl.models.recommender.Recommender`.
    """

    name = "kgnn-ls"
    citation = r"""
@inproceedings{wang2019kgnnls,
  author = {Hongwei Wang and Fuzheng Zhang and Mengdi Zhang and Jure Leskovec and Miao Zhao and Wenjie Li and
    Zhongyuan Wang},
  title = {{Knowledge-aware Graph Neural Networks with Label Smoothness Regularization for Recommender Systems}},
  booktitle = {Proceedings of the 25th ACM SIGKDD Conference on Knowledge Discovery and Data Mining},
  year = {2019},
  pages = {968--977},
  doi = {10.1145/3292500.3330836},
  eprint = {1905.04413},
  archivePrefix = {arXiv}
}
"""
    sections = Sections(KGNNLSSettings, KGNNLSLossSettings, KGNNLSTrainingSettings, GradientRunSettings)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"published": PUBLISHED}
    space: ClassVar[Mapping[str, Any]] = {
        "lr": {"low": 3e-4, "high": 1e-2, "log": True},
        "weight_decay": {"low": 1e-4, "high": 1.0, "log": True},
        "sample_size": {"low": 4, "high": 16, "log": True},
        "label_weight": {"low": 1e-2, "high": 1.0, "log": True},
    }
    abilities = Abilities(facts=True, new_items=True, explains=True)
    streams = (NEGATIVES,)

    @classmethod
    def idle_settings(cls, values: Mapping[str, Any]) -> Mapping[str, str]:
        """Settings of the softmax beside another loss, and of labels without a weight."""
        idle = idle_ranking_settings(values)
        if values["label_weight"] == 0.0:
            idle["label_hops"] = "with label_weight above 0"
        return idle

    def build(self) -> None:
        """Vectors of users, entities and relations, and the layers."""
        graph, dim = self.graph, self.settings.dim
        self.user: nn.Parameter = self.parameter("user", graph.n_users, dim)
        self.entity: nn.Parameter = self.parameter("entity", graph.n_entities, dim)
        self.relation: nn.Parameter = self.parameter("relation", max(1, 2 * graph.n_relations), dim)
        self.layers: nn.ModuleList = nn.ModuleList()
        for number in range(self.settings.layers):
            linear = nn.Linear(dim, dim, dtype=self.dtype, device=self.device)
            linear.weight = self.parameter(f"layer:{number}", dim, dim)
            nn.init.zeros_(linear.bias)
            self.layers.append(linear)
        self.graph_moved()

    def graph_moved(self) -> None:
        """Draw the neighbours for the graph's device, where they are the same as on any other."""
        knowledge, size = self.known_facts(), self.settings.sample_size
        self.backend: SparseBackend = choose_backend("auto", self.graph.device)
        drawn = sampled_facts(knowledge, size, numpy_generator(self.run.seed, "neighbours"), self.new_items)
        kept = knowledge.keep(drawn, self.graph.n_entities)
        width = max(1, int(kept.pairs.row_degree.max()))
        place = torch.arange(kept.n_edges, device=self.device) - kept.pairs.by_row.indptr[kept.pairs.rows]
        # Tables of n_entities x the most neighbours of one; places beyond an entity's own hold entity and relation 0.
        self.tail, self.tail_relation = (place.new_zeros(self.graph.n_entities, width) for _ in range(2))
        self.tail[kept.pairs.rows, place], self.tail_relation[kept.pairs.rows, place] = kept.pairs.cols, kept.relation
        self.n_tails: Tensor = kept.pairs.row_degree
        indptr, items = self.graph.positives()
        owners = torch.repeat_interleave(indptr.diff())
        self.owned: Tensor = owners * self.graph.n_items + items  # ascending
        n_pairs = self.graph.n_users * self.graph.n_items
        self.is_owned: Tensor | None = None
        if n_pairs <= PAIRS_IN_TABLE:
            self.is_owned = torch.zeros(n_pairs, dtype=torch.bool, device=self.device).index_fill(0, self.owned, True)

    # --- vectors of items for users -----------------------------------------------------------------------------------

    def shares(self, logits: Tensor, heads: Tensor) -> Tensor:
        """Softmax over the neighbours of heads, zero beyond them.

        Parameters
        ---------
        logits
            ``[..., n_relations]``, or of each neighbour ``[..., K]``, K being the columns of :attr:`tail`.
        heads
            int64 ``[...]``.
        """
        beyond = torch.arange(self.tail.shape[1], device=heads.device) >= self.n_tails[heads].unsqueeze(-1)
        held = logits.masked_fill(beyond, -torch.inf)
        top = held.detach().amax(-1, keepdim=True).clamp_min(torch.finfo(held.dtype).min)
        powers = torch.exp(held - top)
        return powers / powers.sum(-1, keepdim=True).clamp_min(torch.finfo(held.dtype).tiny)

    def grid(self, users: Tensor, items: Tensor, reached: _Reached | None = None) -> Tensor:
        """Vectors ``[n, m, d]`` of items, int64 ``[m]``, for users given by their vectors ``[n, d]``.

        ``reached`` is :meth:`reached` of the items, which is the same for all users.
        """
        reached = reached or self.reached(items)
        by_relation = users @ self.relation.T
        values, known = users.new_zeros(0), items
        for number, (linear, heads) in enumerate(zip(self.layers, reversed(reached.heads), strict=True)):
            tails, relations = self.tail[heads], self.tail_relation[heads]
            logits = batch_rows(self.backend, by_relation.T, relations.flatten()).T
            weights = self.shares(logits.view(len(users), *tails.shape), heads)
            if number == 0:
                received = torch.bmm(weights.transpose(0, 1), reached.of_tails).transpose(0, 1)
                values = received + reached.own
            else:
                # Places of heads and tails among the entities of the layer before, which are sorted.
                own, ends = (torch.searchsorted(known, ids) for ids in (heads, tails))
                received = values.index_select(1, own)
                for place in range(tails.shape[1]):
                    received = received + weights[:, :, place, None] * values.index_select(1, ends[:, place])
                values = linear(received)
            values, known = self._activated(values, number), heads
        return values

    def reached(self, items: Tensor) -> _Reached:
        """What all users see alike of items, int64 ``[m]``: W e is computed once for each entity."""
        needed = [items]
        for _ in self.layers[1:]:
            needed.append(torch.unique(torch.cat([needed[-1], self.tail[needed[-1]].flatten()])))
        heads, tails = needed[-1], self.tail[needed[-1]]
        entities, place = torch.unique(torch.cat([heads, tails.flatten()]), return_inverse=True)
        linear = self.layers[0]
        assert isinstance(linear, nn.Linear)
        moved = batch_rows(self.backend, self.entity, entities) @ linear.weight.T
        own, of_tails = (batch_rows(self.backend, moved, ids) for ids in place.split([len(heads), tails.numel()]))
        return _Reached(needed, own + linear.bias, of_tails.view(*tails.shape, -1))

    def of_pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """Vectors ``[n, d]`` of items, int64 ``[n]``, each for the user beside it, given by vectors ``[n, d]``."""
        by_relation = users @ self.relation.T
        hops = [items.unsqueeze(1)]  # [n, K ** hop]
        for _ in self.layers:
            hops.append(self.tail[hops[-1]].flatten(1))
        values = [batch_rows(self.backend, self.entity, hop.flatten()).view(*hop.shape, -1) for hop in hops]
        for number, linear in enumerate(self.layers):
            after = []
            for heads, own, ends in zip(hops, values, values[1:], strict=False):
                weights = self._shares_of_pairs(by_relation, heads)
                received = (weights.unsqueeze(-1) * ends.view(*weights.shape, -1)).sum(2)
                after.append(self._activated(linear(own + received), number))
            values = after
        return values[0].squeeze(1)

    def _shares_of_pairs(self, by_relation: Tensor, heads: Tensor) -> Tensor:
        """Shares ``[n, h, K]`` of the neighbours of heads, int64 ``[n, h]``, from ``[n, n_relations]``."""
        relations = self.tail_relation[heads]
        logits = by_relation.gather(1, relations.flatten(1)).view(relations.shape)
        return self.shares(logits, heads)

    def _activated(self, values: Tensor, number: int) -> Tensor:
        return torch.tanh(values) if number == len(self.layers) - 1 else torch.relu(values)

    def _user_blocks(self, n_users: int, items: Tensor) -> Iterator[slice]:
        """Blocks of users whose vectors of all entities that are needed fit."""
        entities = len(items) if len(self.layers) == 1 else self.graph.n_entities
        size = max(1, NUMBERS_PER_BLOCK // max(1, entities * self.settings.dim))
        return (slice(start, start + size) for start in range(0, n_users, size))

    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores ``[n, m]`` of items, int64 ``[m]``, for users given by vectors ``[n, d]``; differentiable."""
        blocks, reached = (users[block] for block in self._user_blocks(len(users), items)), self.reached(items)
        return torch.cat([torch.einsum("nmd,nd->nm", self.grid(block, items, reached), block) for block in blocks])

    def scorer(self) -> Scorer:
        """Scores of all items for a block of users."""
        return _ItemsOfUsers(self)

    def breakdown(self, folded: FoldedUsers | None = None) -> Breakdown:
        """The score by the facts drawn for the item, as the user weighs them, with what activations multiply by."""
        return SummedBreakdown(self.graph, _Sums(self), folded)

    # --- losses -------------------------------------------------------------------------------------------------------

    def axes(self) -> Mapping[str, tuple[Axis, ...]]:
        """Rows of nodes and of relations."""
        relations = (*self.graph.relation_types, "none")[: len(self.relation)]
        return {**super().axes(), "relation": (relations,)}

    def passes(self, training: TrainingSettings, random: Mapping[str, torch.Generator]) -> Sequence[Pass]:
        """One pass over the interactions."""
        graph, settings = self.graph, self.loss
        indptr, items = graph.positives()
        sampler = NegativeSampler(indptr, items, graph.n_items, device=graph.device)

        def loss(users: Tensor, positives: Tensor) -> Tensor:
            negatives = sampler.sample(users, 1, random[NEGATIVES]).squeeze(1)
            own = batch_rows(self.backend, self.user, users)
            near = (own * self.of_pairs(own, positives)).sum(1)
            drawn = [positives]
            if settings.ranking_loss == "softmax":
                total = self._softmax(users, near, random[NEGATIVES])
            else:
                drawn.append(negatives)
                far = (own * self.of_pairs(own, negatives)).sum(1)
                pairwise = settings.ranking_loss == "bpr"
                total = -F.logsigmoid(near - far) if pairwise else -(F.logsigmoid(near) + F.logsigmoid(-far)) / 2
                total = total.mean()
            total = total + self._decay(own, drawn)
            if settings.label_weight:
                total = total + settings.label_weight * self.label_loss(users, positives, negatives)
            return total

        return [Pass("interactions", interaction_batches(graph, training, random), loss)]

    def _softmax(self, users: Tensor, near: Tensor, generator: torch.Generator) -> Tensor:
        """Cross-entropy of positives with scores ``[batch]`` among candidates that their users do not have."""
        n_items, temperature = self.graph.n_items, float(self.loss.temperature)
        order = torch.randperm(n_items, generator=generator, device=users.device)
        candidates = order[: self.loss.candidates].sort().values
        distinct, row = torch.unique(users, return_inverse=True)
        scores = self.scores(batch_rows(self.backend, self.user, distinct), candidates)
        has = self.has(distinct.unsqueeze(1), candidates.unsqueeze(0))
        rivals = (scores / temperature).masked_fill(has, torch.finfo(scores.dtype).min).logsumexp(1)
        rivals = rivals + math.log(n_items / len(candidates))
        return F.softplus(batch_rows(self.backend, rivals.unsqueeze(1), row).squeeze(1) - near / temperature).mean()

    def _decay(self, own: Tensor, drawn: Sequence[Tensor]) -> Tensor:
        """The L2 term of a batch: of the vectors of its users and of its items."""
        squares = own.square().sum()
        for items in drawn:
            squares = squares + batch_rows(self.backend, self.entity, items).square().sum()
        return float(self.loss.weight_decay) * squares / (2 * len(own))

    def has(self, users: Tensor, entities: Tensor) -> Tensor:
        """Whether users have entities as items, bool; int64 ids of shapes that broadcast."""
        n_items = self.graph.n_items
        keys = users * n_items + entities.clamp_max(n_items - 1)
        if self.is_owned is not None:
            return self.is_owned[keys] & (entities < n_items)
        places = torch.searchsorted(self.owned, keys).clamp_max(len(self.owned) - 1)
        return (self.owned[places] == keys) & (entities < n_items)

    def predicted_labels(self, users: Tensor, items: Tensor) -> Tensor:
        """What label propagation says of items whose label is held out, ``[n]``, for users and items int64 ``[n]``."""
        by_relation = batch_rows(self.backend, self.user, users) @ self.relation.T
        hops = [items.unsqueeze(1)]
        for _ in range(self.loss.label_hops):
            hops.append(self.tail[hops[-1]].flatten(1))
        found = self._labels(users, items, hops[-1], None)
        for heads in reversed(hops[:-1]):
            weights = self._shares_of_pairs(by_relation, heads)
            arrived = (weights * found.view(weights.shape)).sum(2)
            arrived = torch.where(self.n_tails[heads] > 0, arrived, UNKNOWN)
            found = self._labels(users, items, heads, arrived)
        return found.squeeze(1)

    def _labels(self, users: Tensor, held_out: Tensor, entities: Tensor, arrived: Tensor | None) -> Tensor:
        """Labels ``[n, k]`` of entities: their own, or where they have none what has arrived."""
        given = self.has(users.unsqueeze(1), entities).to(self.dtype)
        unlabelled = (entities >= self.graph.n_items) | (entities == held_out.unsqueeze(1))
        return torch.where(unlabelled, torch.full_like(given, UNKNOWN) if arrived is None else arrived, given)

    def label_loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Cross-entropy of the predicted labels of pairs, int64 ``[batch]`` each: a scalar."""
        near, far = (
            self.predicted_labels(users, items).clamp(LABEL_FLOOR, 1.0 - LABEL_FLOOR)
            for items in (positives, negatives)
        )
        return -(near.log() + (1.0 - far).log()).mean() / 2


class _ItemsOfUsers:
    """Scores of all items (a :class:`~hakg_dgl.ranking.topk.Scorer`)."""

    def __init__(self, model: KGNNLS) -> None:
        self.model = model
        self.n_users, self.n_items = model.graph.n_users, model.graph.n_items

    @torch.no_grad()
    def scores(self, users: Tensor) -> Tensor:
        model = self.model
        return model.scores(model.user[users.to(model.device)], torch.arange(self.n_items, device=model.device))


class _Sums:
    """User and item as sums (:class:`~hakg_dgl.models.score_sums.Sums`)."""

    def __init__(self, model: KGNNLS) -> None:
        self.model: KGNNLS = model
        self.relation: Tensor = wide(model.relation)
        self.maps: list[tuple[Tensor, Tensor]] = [(wide(x.weight), wide(x.bias)) for x in model.layers]  # type: ignore[arg-type]

    def of_user(self, items: Tensor, number: int, added: bool) -> UserSum:
        """The user's parameters alone."""
        return UserSum(wide(self.model.user[number]), {})

    def of_item(self, item: int, user: Tensor) -> ItemSum:
        """By facts that were drawn."""
        heads, count = torch.tensor([item]), int(self.model.n_tails[item])
        tails, relations = (table[item, :count].cpu() for table in (self.model.tail, self.model.tail_relation))
        shares = self._shares(heads, user)[0, :count, None]
        own, parts = wide(self.model.entity[item]), torch.zeros(count, len(user), dtype=torch.float64)
        for number in range(len(self.maps)):
            sent = parts + shares * self._values(tails, user, number)
            weight, bias = self.maps[number]
            factor = self._factor(weight @ (own + sent.sum(0)) + bias, number)
            own, parts = factor * (weight @ own + bias), factor * (sent @ weight.T)
        return ItemSum(own, relations, tails, parts)

    def _shares(self, heads: Tensor, user: Tensor) -> Tensor:
        """How the user weighs the facts of heads, ``[n, K]``."""
        model, heads = self.model, heads.to(self.model.device)
        logits = (self.relation @ user).to(model.device)[model.tail_relation[heads]]
        return wide(model.shares(logits, heads))

    def _values(self, entities: Tensor, user: Tensor, layers: int) -> Tensor:
        """Vectors ``[n, d]`` of entities for the user after some layers."""
        if not layers:
            return wide(self.model.entity[entities.to(self.model.device)])
        tails = self.model.tail[entities.to(self.model.device)].cpu()
        own, ends = (self._values(ids, user, layers - 1) for ids in (entities, tails.flatten()))
        received = (self._shares(entities, user).unsqueeze(2) * ends.view(*tails.shape, len(user))).sum(1)
        weight, bias = self.maps[layers - 1]
        return self.model._activated((own + received) @ weight.T + bias, layers - 1)

    def _factor(self, values: Tensor, number: int) -> Tensor:
        """What the activation of a layer multiplies each of its values by."""
        return torch.where(values == 0.0, 1.0, self.model._activated(values, number) / values)
