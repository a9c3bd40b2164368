"""KGAT: graph attention over interactions and facts as one graph.

Wang, He, Cao, Liu and Chua, "KGAT: Knowledge Graph Attention Network for Recommendation", KDD 2019 (arXiv 1905.07854).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hakg_dgl.geometry.guards import ROW_NORM_FLOOR
from hakg_dgl.graph.edge_types import EdgeType
from hakg_dgl.graph.heterograph import INTERACTED_BY, INTERACTS, HeteroGraph
from hakg_dgl.graph.packed import Grouping, KnowledgePattern, SparsePattern, join_edges
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.kernels.edge_softmax import edge_softmax
from hakg_dgl.kernels.interface import SparseBackend
from hakg_dgl.kernels.products import edge_dot, weighted_sum_over_columns
from hakg_dgl.layers.dropout import draw_mask
from hakg_dgl.layers.losses import batch_rows
from hakg_dgl.layers.transr import project_by_relation, transr_loss
from hakg_dgl.layers.triples import TripleBatches, Triples
from hakg_dgl.models.explanation import Breakdown
from hakg_dgl.models.optimizer import adam
from hakg_dgl.models.ranking_loss import NEGATIVES, RankingLoss, RankingLossSettings, idle_ranking_settings
from hakg_dgl.models.recommender import (
    Abilities,
    Axis,
    GradientRecommender,
    Pass,
    Sections,
    interaction_batches,
    model_with_new_items,
)
from hakg_dgl.models.score_sums import ItemSum, SummedBreakdown, UserSum, edges_of, wide
from hakg_dgl.ranking.fold_in import AboutUsers, EmbeddingFoldIn, FoldedUsers, FoldIn, own_rows
from hakg_dgl.settings.run import GradientRunSettings
from hakg_dgl.settings.section import Range, Section, TrainingOnly
from hakg_dgl.settings.training import TrainingSettings

DROPOUT = "dropout"
LEAK = 0.2
"""Slope of LeakyReLU below 0: TensorFlow's, in which the authors' code is written; the paper gives none."""
EDGES_PER_BLOCK = 1 << 18
"""Edges whose attention is computed at once."""
PUBLISHED = {
    "ranking_loss": "bpr",
    "weight_decay": 1e-5,
    "fact_decay": 1e-5,
    "fact_batch_size": 2048,
    "lr": 1e-4,
    "batch_size": 1024,
    "select_by": "recall@20",
}
"""The publication's settings, which were the same for its three data sets but for vectors trained before."""
_RATE = Range(0.0, 1.0, open_high=True)
_COUNT = Range(1, 10_000_000)


@dataclass(frozen=True)
class KGATSettings(Section):
    """Settings of KGAT.

    Attributes
    ----------
    dim, relation_dim
        Width of the vectors of nodes and of the spaces of relations.
    layer_widths
        Width of what each layer gives, in order.
    message_dropout
        Share of layer output coordinates dropped in a training step.
    """

    dim: Annotated[int, Range(1, 4096)] = 64
    relation_dim: Annotated[int, Range(1, 4096)] = 64
    layer_widths: Annotated[tuple[int, ...], Range(1, 4096)] = (64, 32, 16)
    message_dropout: Annotated[float, _RATE, TrainingOnly()] = 0.1


@dataclass(frozen=True)
class KGATLossSettings(RankingLossSettings):
    """Settings of KGAT's losses.

    Attributes
    ----------
    fact_batch_size
        Triples a step of the pass over facts.
    fact_decay
        Weight of the L2 term of the nodes in a batch of facts.
    """

    fact_batch_size: Annotated[int, _COUNT] = 4096
    fact_decay: Annotated[float, Range(0.0, 1e3)] = 1e-3


@dataclass(frozen=True)
class KGATTrainingSettings(TrainingSettings):
    """Training that does well on validation; docs/models.md says what was searched."""

    batch_size: Annotated[int, _COUNT] = 4096
    epochs: Annotated[int, _COUNT] = 500
    eval_every: Annotated[int, _COUNT] = 5
    patience: Annotated[int, _COUNT] = 8


def collaborative_knowledge(graph: HeteroGraph) -> KnowledgePattern:
    """Interactions and facts, each in both directions, between one table of nodes: users, then entities.

    Relations 0 and 1 are the interactions as users and as items receive them, the others those of the graph in their
    order; items are the first entities.
    """
    user, item = graph.edges[INTERACTS]
    edges: dict[EdgeType, tuple[Tensor, Tensor]] = {
        ("entity", "interacted_by", "user"): (item, user),
        ("user", "interacts", "entity"): (user, item),
    }
    edges |= {etype: graph.edges[etype] for etype in graph.relation_types}
    return join_edges(edges, graph.n_nodes, one_table=True).pattern


class KGAT(GradientRecommender):
    r"""Nodes that gather their neighbours by attention; users, items and entities are nodes of one graph.

    .. math:: \pi(h, r, t) = (W_r e_t)^\top \tanh(W_r e_h + e_r), \qquad
              e_{N_h} = \sum_{(r, t) \in N_h} \mathrm{softmax}_{(r, t)}(\pi(h, r, t))\, e_t

    .. math:: e_h' = \mathrm{LeakyReLU}(W_1 (e_h + e_{N_h}) + b_1) + \mathrm{LeakyReLU}(W_2 (e_h \odot e_{N_h}) + b_2)

    (Wang et al., eqs. 3-5 and 8.) The score is the inner product of what a user and an item have in all layers, one
    after the other, each but the first divided by its length (the released code; eq. 11 does not say so). An epoch
    makes a pass over the interactions with the ranking loss, then one over all triples, interactions among them, with
    TransR's :math:`-\ln \sigma(g(h, r, t') - g(h, r, t))` (eq. 2), each with an optimizer of its own. Attention is
    computed from the vectors of layer 0 once an epoch, before it begins, and no gradient goes through it, as in the
    released code; a trained model ranks with that of its final vectors. The published runs begin with vectors of a
    trained matrix factorisation; here they are drawn. Facts and links of users take no part.

    Parameters are those of :class:`~hakg_dgl.models.recommender.Recommender`.
    """

    name = "kgat"
    citation = r"""
@inproceedings{wang2019kgat,
  author = {Xiang Wang and Xiangnan He and Yixin Cao and Meng Liu and Tat-Seng Chua},
  title = {{KGAT: Knowledge Graph Attention Network for Recommendation}},
  booktitle = {Proceedings of the 25th ACM SIGKDD Conference on Knowledge Discovery and Data Mining},
  year = {2019},
  pages = {950--958},
  doi = {10.1145/3292500.3330989},
  eprint = {1905.07854},
  archivePrefix = {arXiv}
}
"""
    sections = Sections(KGATSettings, KGATLossSettings, KGATTrainingSettings, GradientRunSettings)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"published": PUBLISHED}
    space: ClassVar[Mapping[str, Any]] = {
        "lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "weight_decay": {"low": 1e-4, "high": 1.0, "log": True},
        "message_dropout": {"low": 0.0, "high": 0.5},
    }
    abilities = Abilities(facts=True, vectors=True, folds_in_users=True, new_items=True, explains=True)
    streams = (NEGATIVES, "facts", DROPOUT)
    attention: Tensor

    @classmethod
    def idle_settings(cls, values: Mapping[str, Any]) -> Mapping[str, str]:
        """Settings of the other ranking loss."""
        return idle_ranking_settings(values)

    def axes(self) -> Mapping[str, tuple[Axis, ...]]:
        """Rows of nodes and of relations, the two directions of interactions first."""
        relations = (INTERACTED_BY, INTERACTS, *self.graph.relation_types)
        return {**super().axes(), "relation": (relations,), "matrices": (relations,)}

    def build(self) -> None:
        """Vectors of nodes and relations, matrices of relations and of layers."""
        graph, settings = self.graph, self.settings
        self.graph_moved()
        self.user: nn.Parameter = self.parameter("user", graph.n_users, settings.dim)
        self.entity: nn.Parameter = self.parameter("entity", graph.n_entities, settings.dim)
        n_relations = self.edges.n_relations
        self.relation: nn.Parameter = self.parameter("relation", n_relations, settings.relation_dim)
        drawn = [self.parameter(f"matrix:{r}", settings.relation_dim, settings.dim) for r in range(n_relations)]
        self.matrices: nn.Parameter = nn.Parameter(torch.stack([matrix.detach() for matrix in drawn]))
        self.sums: nn.ModuleList = nn.ModuleList()
        self.products: nn.ModuleList = nn.ModuleList()
        before = settings.dim
        for number, width in enumerate(settings.layer_widths):
            self.sums.append(self._linear(f"sum:{number}", before, width))
            self.products.append(self._linear(f"product:{number}", before, width))
            before = width
        self.register_buffer("attention", self.attend())

    def _linear(self, name: str, before: int, width: int) -> nn.Linear:
        """A linear map with a Xavier-uniform matrix from a stream of its own, and zero bias."""
        linear = nn.Linear(before, width, dtype=self.dtype, device=self.device)
        linear.weight = self.parameter(name, width, before)
        nn.init.zeros_(linear.bias)
        return linear

    def graph_moved(self) -> None:
        """Join interactions and facts, and choose the kernels for their device."""
        self.edges: KnowledgePattern = collaborative_knowledge(self.graph)
        # The last layer is read for users and items alone, which are the first nodes.
        self.last_edges: KnowledgePattern = self.edges.keep(None, self.graph.n_users + self.graph.n_items)
        self.backend: SparseBackend = choose_backend("auto", self.graph.device)

    @torch.no_grad()
    def attend(self) -> Tensor:
        """Each edge's share of attention at the node that receives it, ``[n_edges]``, by the vectors as they are."""
        nodes, pairs, logits = torch.cat([self.user, self.entity]), self.edges.pairs, []
        for start in range(0, self.edges.n_edges, EDGES_PER_BLOCK):
            block = slice(start, start + EDGES_PER_BLOCK)
            relation = self.edges.relation[block]
            head, tail = (
                project_by_relation(nodes.index_select(0, ends[block]), relation, self.matrices)
                for ends in (pairs.rows, pairs.cols)
            )
            logits.append((tail * torch.tanh(head + self.relation.index_select(0, relation))).sum(1))
        return edge_softmax(self.backend, pairs, torch.cat(logits))

    def begin_epoch(self, number: int) -> None:
        """Renew the attention, which stays as it is during an epoch."""
        self.attention.copy_(self.attend())

    def propagate(self, attention: Tensor, dropout: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Vectors that are scored.

        Parameters
        ----------
        attention
            Of each edge, ``[n_edges]``.
        dropout
            Switches dropout on.

        Returns
        -------
        tuple of Tensor
            Users ``[n_users, d]`` and items ``[n_items, d]``, d being the sum of the widths of all layers.
        """
        scored = self.last_edges.pairs.n_rows
        first, *after = self.node_layers(attention, dropout)
        found = [first[:scored], *(F.normalize(nodes[:scored], dim=1, eps=ROW_NORM_FLOOR) for nodes in after)]
        whole = torch.cat(found, 1)
        return whole[: self.graph.n_users], whole[self.graph.n_users :]

    def node_layers(self, attention: Tensor, dropout: torch.Generator | None = None) -> Iterator[Tensor]:
        """Users and entities of layers 0..L, ``[n_nodes, width]`` each; of the last layer those that are scored."""
        nodes = torch.cat([self.user, self.entity])
        yield nodes
        for number in range(len(self.sums)):
            pattern = (self.last_edges if number == len(self.sums) - 1 else self.edges).pairs
            weights = attention[: pattern.n_edges]  # edges are sorted by the node that receives
            gathered = weighted_sum_over_columns(self.backend, pattern, weights, nodes)
            nodes = self._dropped(self.layer(number, nodes[: len(gathered)], gathered), dropout)
            yield nodes

    def layer(self, number: int, nodes: Tensor, gathered: Tensor) -> Tensor:
        """What layer ``number``, counted from 0, makes of nodes and what they gathered, ``[n, width]`` each."""
        of_sum, of_product = self.sums[number], self.products[number]
        return F.leaky_relu(of_sum(nodes + gathered), LEAK) + F.leaky_relu(of_product(nodes * gathered), LEAK)

    def _dropped(self, values: Tensor, dropout: torch.Generator | None) -> Tensor:
        rate = self.settings.message_dropout
        mask = None if dropout is None else draw_mask(values.numel(), rate, dropout)
        return values if mask is None else values * mask.view(values.shape) / (1.0 - rate)

    @torch.no_grad()
    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """The vectors of :meth:`propagate` with the attention of the vectors as they are."""
        return self.propagate(self.attend())

    def optimizers(self, lr: float) -> dict[str, torch.optim.Optimizer]:
        """One for each pass, as the gradients of the two differ in size."""
        return {name: adam(self.parameters(), lr, self.device) for name in ("interactions", "facts")}

    def passes(self, training: TrainingSettings, random: Mapping[str, torch.Generator]) -> Sequence[Pass]:
        """A pass over the interactions, then one over all triples."""
        ranking = RankingLoss(self.graph, self.loss, random[NEGATIVES])
        pairs, relation = self.edges.pairs, self.edges.relation
        triples = Triples(pairs.rows, relation, pairs.cols, pairs.n_rows, self.edges.n_relations)

        def of_interactions(users: Tensor, items: Tensor) -> Tensor:
            vectors = self.propagate(self.attention, random[DROPOUT])
            return ranking(*vectors, users, items, decayed=([self.user], [self.entity]))

        def of_facts(numbers: Tensor) -> Tensor:
            false = triples.false_tails(numbers, random["facts"]).squeeze(1)
            return self.loss_of_facts(*triples.of(numbers), false)

        batches = TripleBatches(len(triples), self.loss.fact_batch_size, random["batches"])
        return [
            Pass("interactions", interaction_batches(self.graph, training, random), of_interactions, "interactions"),
            Pass("facts", batches, of_facts, "facts"),
        ]

    def loss_of_facts(self, head: Tensor, relation: Tensor, tail: Tensor, false: Tensor) -> Tensor:
        """Loss of a batch of triples and false tails, numbers of nodes, int64 ``[batch]`` each: a scalar."""
        nodes, weight = torch.cat([self.user, self.entity]), float(self.loss.fact_decay)
        heads, tails, others = (batch_rows(self.backend, nodes, numbers) for numbers in (head, tail, false))
        total = transr_loss(heads, relation, tails, others, self.relation, self.matrices)
        squares = heads.square().sum() + tails.square().sum() + others.square().sum()
        return total + weight * squares / (2 * len(head))

    @torch.no_grad()
    def with_new_items(self, graph: HeteroGraph) -> KGAT:
        """The model with further items; attention at them weighs facts by relation and tail, and is renewed."""
        model = model_with_new_items(self, graph, entities=("entity",), without=("attention",))
        model.attention.copy_(model.attend())
        return model

    @torch.no_grad()
    def fold_in(self) -> FoldIn:
        """New users, zero parameters of theirs being propagated through their items as the trained graph has them."""
        attention, n_users, n_items = self.attend(), self.graph.n_users, self.graph.n_items
        layers = [nodes[n_users : n_users + n_items].clone() for nodes in self.node_layers(attention)]
        return EmbeddingFoldIn([_UsersInGraph(self, layers[:-1])], self.ranking_vectors()[1])

    def breakdown(self, folded: FoldedUsers | None = None) -> Breakdown:
        """The score by past items, and by facts and users of the item, attention, slopes and lengths being fixed."""
        return SummedBreakdown(self.graph, _Sums(self), folded)


@dataclass(frozen=True)
class _UsersInGraph:
    """What propagation makes of users, zero or trained, by the items that enter each layer."""

    model: KGAT
    layers: Sequence[Tensor]

    @property
    def width(self) -> int:
        return sum((self.model.settings.dim, *self.model.settings.layer_widths))

    def __call__(self, indptr: Tensor, items: Tensor) -> Tensor:
        return self._from(self.layers[0].new_zeros(len(indptr) - 1, self.model.settings.dim), indptr, items)

    def informed(self, indptr: Tensor, items: Tensor, about: AboutUsers) -> Tensor:
        return self._from(own_rows(self.model.user, about.known), indptr, items)

    def _from(self, own: Tensor, indptr: Tensor, items: Tensor) -> Tensor:
        model, rows = self.model, torch.repeat_interleave(indptr.diff())
        pattern = SparsePattern(len(own), len(self.layers[0]), Grouping(indptr, None), rows, items)
        # Users receive along the first relation.
        head = torch.tanh(own @ model.matrices[0].T + model.relation[0])
        tail = self.layers[0] @ model.matrices[0].T
        shares = edge_softmax(model.backend, pattern, edge_dot(model.backend, pattern, head, tail))
        found, user = [own], own
        for number, layer in enumerate(self.layers):
            user = model.layer(number, user, weighted_sum_over_columns(model.backend, pattern, shares, layer))
            found.append(F.normalize(user, dim=1, eps=ROW_NORM_FLOOR))
        return torch.cat(found, 1)


class _Sums:
    """User and item as sums (:class:`~hakg_dgl.models.score_sums.Sums`)."""

    @torch.no_grad()
    def __init__(self, model: KGAT) -> None:
        attention = model.attend()
        self.attention: Tensor = attention.cpu()
        self.layers: list[Tensor] = [nodes.detach().cpu() for nodes in model.node_layers(attention)]
        self.n_users: int = model.graph.n_users
        self.edges: KnowledgePattern = model.edges
        self.maps: list[tuple[Tensor, ...]] = [
            tuple(wide(parameter) for linear in pair for parameter in linear.parameters())
            for pair in zip(model.sums, model.products, strict=True)
        ]
        self.matrix, self.moved = wide(model.matrices[0]), wide(model.relation[0])

    def of_user(self, items: Tensor, number: int, added: bool) -> UserSum:
        """By past items."""
        own = wide(self.layers[0][number]) if number >= 0 else torch.zeros(self.layers[0].shape[1]).double()
        senders = items + self.n_users
        tails = wide(self.layers[0][senders]) @ self.matrix.T
        shares = (tails @ torch.tanh(self.matrix @ own + self.moved)).softmax(0)
        own, parts = self._propagated(own, senders, shares)
        return UserSum(own, {"interactions": parts})

    def of_item(self, item: int, user: Tensor) -> ItemSum:
        """By facts and users."""
        node = item + self.n_users
        _, edge, sender = edges_of(self.edges.pairs.by_row, self.edges.pairs.cols, torch.tensor([node]))
        own, parts = self._propagated(wide(self.layers[0][node]), sender, wide(self.attention[edge]))
        users, facts = (mask.nonzero().squeeze(1) for mask in (sender < self.n_users, sender >= self.n_users))
        relation = self.edges.relation.cpu()[edge[facts]] - 2  # behind the two directions of interactions
        return ItemSum(own, relation, sender[facts] - self.n_users, parts[facts], sender[users], parts[users])

    def _propagated(self, own: Tensor, senders: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """All layers of a node, one after the other: what is there without edges, ``[D]``, and by edge, ``[n, D]``."""
        part = torch.zeros(len(senders), len(own), dtype=torch.float64)
        owns, parts = [own], [part]
        for layer, (w_sum, b_sum, w_product, b_product) in zip(self.layers, self.maps, strict=False):
            sent, node = shares.unsqueeze(1) * wide(layer[senders]), own + part.sum(0)
            gathered = sent.sum(0)
            of_sum = _slope(w_sum @ (node + gathered) + b_sum)
            of_product = _slope(w_product @ (node * gathered) + b_product)
            own = of_sum * (w_sum @ own + b_sum) + of_product * b_product
            part = of_sum * ((part + sent) @ w_sum.T) + of_product * ((node * sent) @ w_product.T)
            length = torch.linalg.vector_norm(own + part.sum(0)).clamp_min(ROW_NORM_FLOOR)
            owns.append(own / length)
            parts.append(part / length)
        return torch.cat(owns), torch.cat(parts, 1)


def _slope(values: Tensor) -> Tensor:
    """What LeakyReLU multiplies each of the values by."""
    return torch.where(values > 0, torch.ones_like(values), LEAK)
