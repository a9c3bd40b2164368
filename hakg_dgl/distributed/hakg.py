"""HAKG in several processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from hakg_dgl.distributed.batches import SharedSampler
from hakg_dgl.distributed.edges import ReceivedEdges, knowledge_of, received_edges
from hakg_dgl.distributed.gathering import gathered_rows
from hakg_dgl.distributed.halo import Halo
from hakg_dgl.distributed.ranks import rows_everywhere, sum_over_ranks
from hakg_dgl.distributed.scores import BatchScores
from hakg_dgl.distributed.shard import Shard
from hakg_dgl.errors import ConfigError
from hakg_dgl.geometry.guards import ROW_NORM_FLOOR
from hakg_dgl.graph.heterograph import HeteroGraph, graph_from_arrays
from hakg_dgl.graph.packed import KnowledgePattern, SparsePattern
from hakg_dgl.kernels.aggregation import relation_transitive_mean
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.kernels.interface import SparseBackend
from hakg_dgl.layers.dropout import draw_mask, drop_and_normalise
from hakg_dgl.layers.embeddings import Embeddings
from hakg_dgl.layers.losses import AngleLoss
from hakg_dgl.models.hakg.network import Network
from hakg_dgl.models.hakg.objective import angle_direction, angle_pairs, drawn_candidates, why_no_angles
from hakg_dgl.models.hakg.terms import PROVISIONAL, ClosedTerms, sampled_users, weighed
from hakg_dgl.models.settings import Settings

PAIRS_PER_PIECE = 1 << 22
"""Pairs of the angle loss that are told at once."""
TERMS_OF_ITEMS = ("terms.linear_left", "terms.linear_right", "terms.facts")
"""Tensors of the closed-form terms that have a row an item."""


class Masks(NamedTuple):
    """Which edges of a step are kept, None for all, and how many times a kept interaction counts."""

    facts: Tensor | None
    at_users: Tensor | None
    at_items: Tensor | None
    worth: float = 1.0


class HAKGShard(Shard):
    """See :class:`~hakg_dgl.models.hakg.HAKG`; own items are the first of the own entities."""

    @property
    def network(self) -> Network:
        """The model, whose user, entity and item parameters are those of own rows."""
        return cast(Network, self.model)

    @classmethod
    def refuse(cls, settings: Settings) -> None:
        """Raise ConfigError for masks an edge and bfloat16."""
        s, loss = settings.model, settings.loss
        if s.precision == "bf16":
            raise ConfigError("precision = 'bf16' does not run in several processes yet; set precision = 'float32'")
        if loss.angle_weight > 0.0 and loss.angle_dropout > 0.0 and loss.angle_mask == "edge":
            raise ConfigError("angle_mask = 'edge' does not run in several processes yet; set angle_mask = 'step'")

    @property
    def row_types(self) -> Mapping[str, str]:
        """Those of parameters, and the factors of the closed-form terms."""
        return {**self.node_types, **dict.fromkeys(TERMS_OF_ITEMS, "item")}

    @property
    def learned_width(self) -> int | None:
        """See :meth:`Shard.learned_width`."""
        terms = self.network.terms
        return self.network.settings.dim if terms.linear_left.shape[1] or terms.facts.shape[1] else None

    def warnings(self) -> list[str]:
        """Why the angle loss does nothing though it has a weight."""
        return [] if self.why_no_angles is None else [self.why_no_angles]

    def prepare(self) -> None:
        """Edges that end at own nodes, candidates and what users have of them, and own pairs of the angle loss."""
        network, packed = self.network, self.network.packed
        n_items = packed.n_items
        kernels = network.settings.kernels
        self.backend: SparseBackend = choose_backend("auto" if kernels == "readable" else kernels, network.device)
        users, items = ("user", packed.interactions.rows), ("item", packed.interactions.cols)
        pair = users[1] * n_items + items[1]
        self.to_users: ReceivedEdges = received_edges(self.ranks, self.ownership, users, items, pair)
        self.to_items: ReceivedEdges = received_edges(self.ranks, self.ownership, items, users, pair)
        self._prepare_facts()
        self.sent: list[Tensor | None] = [
            None if share is None else share[self.own[name]].unsqueeze(1)
            for name, share in (("user", network.share(packed.interactions.row_degree)),
                                ("item", network.share(packed.interactions.col_degree)))
        ]  # fmt: skip
        self.mean_of_users: Tensor = network.inverse_degree("row")[self.own["user"]].unsqueeze(1)
        self.mean_of_items: Tensor = network.inverse_degree("col")[self.own["item"]].unsqueeze(1)
        self._prepare_candidates(packed.interactions)
        self.row_degree: Tensor = packed.interactions.row_degree[self.own["user"]]
        self._prepare_angle(self._angle_pairs())

    def _prepare_facts(self) -> None:
        """The edges of facts, and of facts and links of users: all between nodes of one table, own ones the first."""
        types, whole = self.network.relation_types, self.network.packed.knowledge
        self.fact_ends: tuple[str, ...] = ("entity",)
        if types:
            joined = self.network.graph.joined(types, one_table=True)
            self.fact_ends, whole = joined.receivers, joined.pattern
        node_type, n = self.ownership.join(self.fact_ends), whole.pairs.n_rows
        heads, tails = whole.pairs.rows, whole.pairs.cols
        number = (whole.relation * n + heads) * n + tails
        ends = (node_type, heads), (node_type, tails)
        self.to_entities: ReceivedEdges = received_edges(self.ranks, self.ownership, *ends, number)
        self.knowledge: KnowledgePattern = knowledge_of(self.to_entities, whole)

    def _prepare_candidates(self, interactions: SparsePattern) -> None:
        """The items that positives compete with, and which of the own ones users have."""
        network = self.network
        if network.loss.ranking_loss == "hinge":
            pairs = torch.stack([interactions.rows, interactions.cols], 1)
            self.sampler: SharedSampler = SharedSampler(self.ranks, self.ownership, pairs)
        chosen = self.ownership.owners["item"][interactions.cols] == self.ranks.rank
        degree = interactions.rows[chosen].bincount(minlength=interactions.n_rows)
        self.known: tuple[Tensor, Tensor] = (
            torch.cat([degree.new_zeros(1), degree.cumsum(0)]),
            interactions.cols[chosen],
        )
        has_some = torch.zeros(interactions.n_cols, dtype=torch.uint8, device=network.device)
        has_some[self.known[1]] = 1
        has_some = self.ranks.max(has_some).bool()
        self.pool: Tensor | None = None if bool(has_some.all()) else has_some.nonzero().flatten()
        self.known_items: Tensor = has_some[self.own["item"]].unsqueeze(1).to(network.dtype)

    def _angle_pairs(self) -> Tensor:
        """The pairs of the angle loss whose child is an own entity, int64 ``[2, n]``, found by the first process."""
        network, loss = self.network, self.network.loss
        self.why_no_angles: str | None = None
        device, owner = network.device, self.ownership.owners["entity"]
        if loss.angle_weight == 0.0:
            return torch.empty(2, 0, dtype=torch.int64, device=device)
        graph = self._facts_of_all()
        pieces = None
        if graph is not None:
            pairs = angle_pairs(graph, loss)
            words = b"" if pairs.n_edges else why_no_angles(graph, loss).encode()
            ends = torch.stack([pairs.rows, pairs.cols]).cpu()
            pieces = iter([{"pairs": piece.contiguous()} for piece in torch.split(ends, PAIRS_PER_PIECE, 1)])
            self.ranks.from_first(words)
        else:
            words = self.ranks.from_first(None)
        self.why_no_angles = words.decode() or None
        found = [torch.empty(2, 0, dtype=torch.int64, device=device)]
        for piece in self.ranks.pieces_from_first(pieces):
            ends = piece["pairs"].to(device)
            found.append(ends[:, owner[ends[0]] == self.ranks.rank])
        return torch.cat(found, 1)

    def _facts_of_all(self) -> HeteroGraph | None:
        """The facts of all processes as a graph without interactions, in the first one."""
        graph = self.network.graph
        triples = graph.triples()
        own = triples[self.ownership.owners["entity"][triples[:, 0]] == self.ranks.rank]
        gathered = gathered_rows(self.ranks, own)
        if gathered is None:
            return None
        head, relation, tail = gathered.unbind(1)
        order = (relation * graph.n_entities + head) * graph.n_entities + tail
        names = [name for _, name, _ in graph.relation_types[: graph.n_relations]]
        return graph_from_arrays(
            triples.new_empty(0, 2), gathered[order.argsort()], names,
            n_users=graph.n_users, n_items=graph.n_items, n_entities=graph.n_entities, names=graph.names,
        )  # fmt: skip

    def _prepare_angle(self, pairs: Tensor) -> None:
        places = self.ownership.places["entity"]
        rows, cols = pairs
        order = places[rows].argsort(stable=True)
        self.angle_halo: Halo = Halo(self.ranks, self.ownership, "entity", cols)
        n_own = len(self.own["entity"])
        own = SparsePattern.from_pairs(
            places[rows[order]], self.angle_halo.columns(cols[order]), n_own, len(self.angle_halo)
        )
        self.n_angles: int = int(self.ranks.sum(torch.tensor(own.n_edges)))
        self.angle_share: float = own.n_edges / max(1, self.n_angles)
        loss = self.network.loss
        direction = angle_direction(self.network.settings.formulation, loss)
        self.angle: AngleLoss = AngleLoss(
            own, self.network.rule, direction, loss.aperture, loss.angle_dropout, loss.angle_mask
        )

    def cut(self) -> None:
        """Keep own rows, of the terms too, which have no columns yet."""
        super().cut()
        self.install({})

    def install(self, tensors: Mapping[str, Tensor]) -> None:
        """Take terms whose factors have a row for each own item, by the names of :class:`ClosedTerms`."""
        network, n_own = self.network, len(self.own["item"])
        widths = [tensors[name].shape[1] if name in tensors else 0 for name in ("linear_left", "facts")]
        terms = ClosedTerms(network.settings, n_own, (widths[0], widths[1]), network.dtype, network.device)
        terms.load_state_dict(dict(tensors))
        network.terms = terms

    @torch.no_grad()
    def learned(self) -> tuple[Tensor, Tensor]:
        """Own rows of what :meth:`Network.score_vectors` makes of an evaluation's embeddings."""
        return self.network.score_vectors(self.propagate(dropout=False), self.known_items)

    @torch.no_grad()
    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """See :meth:`Network.ranking_vectors`."""
        terms, learned = self.network.terms, self.learned()
        if int(terms.stage) == PROVISIONAL:
            return weighed(terms, self._new(), learned, self._past, terms.first_choice(), self._spread)
        return terms.columns(self._new(), learned, self._past)

    def weigh(self, chosen: Mapping[str, float]) -> None:
        """Set the weights of the terms to a choice, for the learned part as it is."""
        weighed(self.network.terms, self._new(), self.learned(), self._past, chosen, self._spread)

    def _new(self) -> Tensor:
        """Which own items have no interactions."""
        return self.known_items.flatten() == 0

    def _past(self, table: Tensor, power: float) -> Tensor:
        """See :meth:`Network.past_sums`: own rows of items become own rows of users."""
        sums = self.to_users.sums(self.backend, table)
        return sums if power == 0.0 else sums * self.row_degree.clamp_min(1).to(table.dtype).pow(-power).unsqueeze(1)

    def _spread(self, user: Tensor, item: Tensor) -> float:
        """See :func:`~hakg_dgl.models.hakg.terms.spread`; own rows of all users and items."""
        owner, place = self.ownership.owners["user"], self.ownership.places["user"]
        n_items = len(self.ownership.owners["item"])
        sampled = sampled_users(len(owner), n_items).to(user.device)
        slots = (owner[sampled] == self.ranks.rank).nonzero().flatten()
        rows = rows_everywhere(self.ranks, user, place[sampled[slots]], slots, len(sampled))
        scores, count = (rows @ item.T).double(), len(sampled) * n_items
        mean = self.ranks.sum(scores.sum()) / count
        return math.sqrt(float(self.ranks.sum((scores - mean).square().sum())) / count)

    def loss(self, users: Tensor, positives: Tensor) -> Tensor:
        """See :meth:`Shard.loss`."""
        network, settings = self.network, self.network.loss
        total = self.ranking_loss(self.propagate(), users, positives)
        if settings.gate_l2 > 0.0:
            for matrix in network.gate_matrices():
                total = total + self.once(settings.gate_l2 * matrix.square().sum())
        if settings.angle_weight > 0.0 and self.n_angles:
            table = self.angle_halo.table(network.entity)
            angle = self.angle(self.backend, table, self.random["angle"]) * self.angle_share
            if not self.angle.pairs.n_edges and self.angle.dropout > 0.0:  # as the others draw
                torch.rand(table.shape[1], generator=self.random["angle"], device=table.device)
            # All processes have to go backwards through the exchange, also those without a pair.
            total = total + settings.angle_weight * sum_over_ranks(self.ranks, angle + 0.0 * table.sum())
        return total

    def ranking_loss(self, embeddings: Embeddings, users: Tensor, positives: Tensor) -> Tensor:
        """The part of the loss that ranks, from own embeddings."""
        settings = self.network.loss
        if settings.ranking_loss == "hinge":
            negatives = self.sampler.sample(users, settings.negatives, self.random["negatives"])
            return self._hinge(embeddings, users, positives, negatives)
        user, item = self.network.score_vectors(embeddings, self.known_items)
        scores = BatchScores(self.ranks, self.ownership, self.backend, user, users)
        n_items = len(self.ownership.owners["item"])
        candidates = drawn_candidates(settings.candidates, n_items, self.pool, self.random["negatives"])
        return scores.softmax(item, positives, self.known, candidates, settings.temperature)

    def _hinge(self, embeddings: Embeddings, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """:func:`~hakg_dgl.layers.losses.contrastive_loss`."""
        user = F.normalize(embeddings.user, dim=1, eps=ROW_NORM_FLOOR)
        scores = BatchScores(self.ranks, self.ownership, self.backend, user, users)
        tables = [embeddings.entity] if embeddings.item is None else [embeddings.entity, embeddings.item]
        missing, excess = user.new_full((len(users),), float(len(tables))), user.new_zeros(len(users))
        for table in tables:
            unit = F.normalize(table, dim=1, eps=ROW_NORM_FLOOR)
            missing = missing - scores.of(unit, positives)
            excess = excess + scores.excess(unit, negatives, self.network.loss.margin)
        return (missing.clamp_min(0.0) + excess).mean()

    def propagate(self, *, dropout: bool = True) -> Embeddings:
        """Embeddings of own users and items of a training step; see :meth:`Network.propagate`."""
        network, s, own, n_items = self.network, self.network.settings, self.own, len(self.own["item"])
        chance, masks = None, Masks(None, None, None)
        if dropout:
            chance = self.dropout
            chance.begin(self.step)
            facts = self.to_entities.ids if network.relation_types else self.to_entities.ids[:0]
            relations = draw_mask(len(facts), s.kg_edge_dropout, chance, facts)
            masks = Masks(relations, *self._draw_interactions(), 1.0 / (1.0 - s.interaction_dropout))
        user, entity, item = network.user, network.entity, network.item if s.dual_item_embeddings else None
        sums: list[Tensor | None] = [user, entity[:n_items], item]
        for number in range(s.layers):
            n_heads = n_items if number == s.layers - 1 else len(own["entity"])
            outputs = self._layer(number, (user, entity, item), n_heads, masks)
            rows = (own["user"], own["entity"][:n_heads], own["item"])
            user, entity, item = (  # type: ignore[assignment]
                None if x is None else drop_and_normalise(x, s.message_dropout, chance, ids)
                for x, ids in zip(outputs, rows, strict=True)
            )
            for i, output in enumerate((user, entity[:n_items], item)):
                total = sums[i]
                sums[i] = None if total is None or output is None else total + output
        assert sums[0] is not None
        assert sums[1] is not None
        return Embeddings(sums[0], sums[1], sums[2])

    def _draw_interactions(self) -> tuple[Tensor | None, Tensor | None]:
        """Which interactions are kept, among those that end at own users and at own items: one use of chance."""
        rate, use = self.network.settings.interaction_dropout, self.dropout.use
        at_users = draw_mask(len(self.to_users.ids), rate, self.dropout, self.to_users.ids)
        after, self.dropout.use = self.dropout.use, use
        at_items = draw_mask(len(self.to_items.ids), rate, self.dropout, self.to_items.ids)
        self.dropout.use = after
        return at_users, at_items

    def _layer(
        self,
        number: int,
        values: tuple[Tensor, Tensor, Tensor | None],
        n_heads: int,
        masks: Masks,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See :meth:`Network.layer`."""
        network, s = self.network, self.network.settings
        user, entity, item = values
        relations, at_users, at_items, worth = masks
        of_user, of_item = self.sent
        fused = network.fused_items(number, entity[: len(self.own["item"])], item)
        fused = fused if of_item is None else fused * of_item
        new_user = self.to_users.sums(self.backend, fused, at_users) * worth * self.mean_of_users
        new_item = None
        if s.dual_item_embeddings:
            sent = user if of_user is None else user * of_user
            new_item = self.to_items.sums(self.backend, sent, at_items) * worth
            new_item = new_item * self.mean_of_items if s.formulation == "paper" else new_item
        if not network.relation_types:
            return new_user, torch.zeros_like(entity[:n_heads]), new_item
        means = self._means_over_facts({"user": user, "entity": entity}, n_heads, relations)
        if "user" in means:
            new_user = new_user + means["user"]
        return new_user, means.get("entity", torch.zeros_like(entity))[:n_heads], new_item

    def _means_over_facts(self, values: Mapping[str, Tensor], n_heads: int, mask: Tensor | None) -> dict[str, Tensor]:
        """Means of the messages along facts: of entities (the first ``n_heads`` own ones), and of users with facts."""
        network, pattern, ends = self.network, self.knowledge, self.fact_ends
        n_rows = n_heads if ends == ("entity",) else pattern.pairs.n_rows
        if mask is not None or n_rows != pattern.pairs.n_rows:
            pattern = pattern.keep(mask, n_rows)
        own = values[ends[0]] if len(ends) == 1 else torch.cat([values[end] for end in ends])
        table = self.to_entities.halo.table(own)
        means = relation_transitive_mean(self.backend, pattern, table, network.relation, network.rule)
        sizes = [n_rows] if len(ends) == 1 else [len(values[end]) for end in ends]
        return dict(zip(ends, torch.split(means, sizes), strict=True))
