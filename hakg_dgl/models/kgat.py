"""KGAT: graph attention over interactions and facts as one graph.

Wang, He, Cao, Liu and Chua, "KGAT: Knowledge Graph Attention Network for Recommendation", KDD 2019 (arXiv 1905.07854).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hakg_dgl.geometry.guards import ROW_NORM_FLOOR
from hakg_dgl.graph.edge_types import EdgeType
from hakg_dgl.graph.heterograph import INTERACTED_BY, INTERACTS, HeteroGraph
from hakg_dgl.graph.packed import KnowledgePattern, join_edges
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.kernels.edge_softmax import edge_softmax
from hakg_dgl.kernels.interface import SparseBackend
from hakg_dgl.kernels.products import weighted_sum_over_columns
from hakg_dgl.layers.dropout import draw_mask
from hakg_dgl.layers.losses import batch_rows
from hakg_dgl.layers.transr import project_by_relation, transr_loss
from hakg_dgl.layers.triples import TripleBatches, Triples
from hakg_dgl.models.ranking_loss import NEGATIVES, RankingLoss, RankingLossSettings, idle_ranking_settings
from hakg_dgl.models.recommender import Abilities, Axis, GradientRecommender, Pass, Sections, adam, interaction_batches
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
    released code; a trained model ranks with that of its final vectors. The released code begins with vectors of a
    trained matrix factorisation unless told not to; here they are drawn. Facts and links of users take no part.

    Parameters are those of :class:`~hakg_dgl.models.recommender.Recommender`.
    """

    name = "kgat"
    sections = Sections(KGATSettings, KGATLossSettings, KGATTrainingSettings, GradientRunSettings)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"published": PUBLISHED}
    space: ClassVar[Mapping[str, Any]] = {
        "lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "weight_decay": {"low": 1e-4, "high": 1.0, "log": True},
        "message_dropout": {"low": 0.0, "high": 0.5},
    }
    abilities = Abilities(facts=True, vectors=True)
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
        nodes, scored = torch.cat([self.user, self.entity]), self.last_edges.pairs.n_rows
        found = [nodes[:scored]]
        for number, (of_sum, of_product) in enumerate(zip(self.sums, self.products, strict=True), 1):
            last = number == len(self.sums)
            pattern = self.last_edges.pairs if last else self.edges.pairs
            weights = attention[: pattern.n_edges]  # edges are sorted by the node that receives
            gathered = weighted_sum_over_columns(self.backend, pattern, weights, nodes)
            nodes = nodes[: len(gathered)]
            nodes = F.leaky_relu(of_sum(nodes + gathered), LEAK) + F.leaky_relu(of_product(nodes * gathered), LEAK)
            nodes = self._dropped(nodes, dropout)
            found.append(F.normalize(nodes[:scored], dim=1, eps=ROW_NORM_FLOOR))
        whole = torch.cat(found, 1)
        return whole[: self.graph.n_users], whole[self.graph.n_users :]

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
