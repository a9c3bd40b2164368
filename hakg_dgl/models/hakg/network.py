"""HAKG's network: parameters, propagation over the heterograph, and scores.

Du et al., "HAKG: Hierarchy-Aware Knowledge Gated Network for Recommendation", SIGIR 2022 (arXiv 2204.04959).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hakg_dgl.errors import ConfigError
from hakg_dgl.geometry.guards import ROW_NORM_FLOOR, ball_margin
from hakg_dgl.geometry.message import MessageRule
from hakg_dgl.graph.heterograph import INTERACTED_BY, INTERACTS, EdgeType
from hakg_dgl.graph.packed import PackedGraph, SparsePattern
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.kernels.interface import FusedBackend
from hakg_dgl.kernels.propagation import Chance as StepChance
from hakg_dgl.kernels.propagation import Propagation, Start, Weights
from hakg_dgl.layers.dropout import Chance, draw_mask, draw_words, drop_and_normalise
from hakg_dgl.layers.embeddings import Embeddings
from hakg_dgl.layers.execution import Executor, Masks
from hakg_dgl.layers.executors import make_executor
from hakg_dgl.layers.packed_executor import PackedExecutor
from hakg_dgl.layers.propagation_form import propagation_form
from hakg_dgl.layers.updates import Copy, RelationTransitive, Silent, UpdateFunction, Updates, require_functions
from hakg_dgl.models.hakg.choice import Chooser
from hakg_dgl.models.hakg.terms import PROVISIONAL, ClosedTerms, install, new_items, weighed
from hakg_dgl.models.recommender import GradientRecommender, Judge
from hakg_dgl.randomness import CounterStream


class LayerInputs(NamedTuple):
    """What enters a layer: what items send to users ``[n_items, d]``, and users and entities, a row a node."""

    sent: Tensor
    user: Tensor
    entity: Tensor


class CopyScales(NamedTuple):
    """What copies along interactions are multiplied by where they are sent and where they are received, if at all."""

    user_sent: Tensor | None
    item_sent: Tensor | None
    user_mean: Tensor
    item_mean: Tensor | None


class Network(GradientRecommender):
    """Parameters, propagation and scores of :class:`~hakg_dgl.models.hakg.HAKG`.

    All parameters are tangent vectors at the origin of the Poincaré ball, Xavier-uniform, each drawn from a random
    stream of its own. Parameters and errors are those of HAKG.
    """

    def build(self) -> None:
        """Make parameters, the buffers of the linear term, and what runs the layers."""
        s, graph = self.settings, self.graph
        if s.precision == "bf16" and self.dtype == torch.float64:
            raise ConfigError("precision = 'bf16' halves float32 tables, but dtype = 'float64': leave one of them out")
        self.rule: MessageRule = MessageRule(s.formulation, s.geometry, s.curvature, ball_margin(self.dtype))
        known = (*graph.relation_types, *graph.user_types)
        self.relation_types: tuple[EdgeType, ...] = tuple(etype for etype in known if etype not in self.own_updates)
        self.executor = self._choose_executor()
        self._scales: tuple[SparsePattern, CopyScales] | None = None
        self._form: tuple[Executor, Propagation | None] | None = None
        self.user: nn.Parameter = self.parameter("user", graph.n_users, s.dim)
        self.entity: nn.Parameter = self.parameter("entity", graph.n_entities, s.dim)
        self.relation: nn.Parameter = self.parameter("relation", max(1, len(known)), s.dim)
        if s.dual_item_embeddings:
            self.item: nn.Parameter = self.parameter("item", graph.n_items, s.dim)
        if s.dual_item_embeddings and s.gate:
            self.gate_item, self.gate_entity = (
                nn.ParameterList(self.parameter(f"{name}_{layer}", s.dim, s.dim) for layer in range(s.layers))
                for name in ("gate_item", "gate_entity")
            )
        self.terms: ClosedTerms = ClosedTerms.of(s, graph, self.dtype)
        received = any(end == "item" for _, _, end in self.own_updates)
        self._has_new_items = not received and bool((self.packed.interactions.col_degree == 0).any())
        require_functions(graph, self.updates())

    def _choose_executor(self) -> Executor:
        kernels, device = self.settings.kernels, self.graph.device
        counted = kernels != "readable" and device.type == "cpu"  # elsewhere the choice does not depend on it
        n_messages = self.packed.knowledge.n_edges if counted else 0
        backend = choose_backend("auto" if kernels == "readable" else kernels, device, n_messages=n_messages)
        self.backend = backend
        self._gate: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = _mixed_by_gate
        if kernels != "readable" and isinstance(backend, FusedBackend):
            self._gate = backend.gated_items
        bfloat16 = self.settings.precision == "bf16"
        return make_executor(self.graph, kernels, bfloat16=bfloat16, n_messages=n_messages)

    def graph_moved(self) -> None:
        """Choose the kernels for the device that the graph was moved to."""
        self.executor = self._choose_executor()

    @property
    def packed(self) -> PackedGraph:
        """Packed views of the graph."""
        return self.graph.packed

    @property
    def known_items(self) -> Tensor | None:
        """1 for items with interactions, 0 for others, ``[n_items, 1]``; None if all count as having some.

        All do where edge types of the caller's own send to items, since these train what interactions do otherwise.
        """
        if not self._has_new_items:
            return None
        return (self.packed.interactions.col_degree > 0).to(self.dtype).unsqueeze(1)

    def gate_matrices(self) -> list[nn.Parameter]:
        """A_l and B_l of all layers, ``[d, d]`` each; empty without a gate."""
        if not (self.settings.dual_item_embeddings and self.settings.gate):
            return []
        return [*self.gate_item, *self.gate_entity]

    def fused_items(self, layer: int, entity: Tensor, item: Tensor | None) -> Tensor:
        r"""What users receive from items, ``[n_items, d]`` (HAKG eqs. 8-9).

        :math:`g_i v_i + (1 - g_i) e_i` with :math:`g_i = \sigma(A_l v_i + B_l e_i)`; the mean of both without the gate,
        :math:`e_i` without dual item embeddings.

        Parameters
        ----------
        layer
            Which pair of gate matrices, counted from 0.
        entity, item
            The layer's incoming knowledge ``[>= n_items, d]`` and collaborative ``[n_items, d]`` embeddings.
        """
        knowledge = self._of_items(entity)
        if item is None:
            return knowledge
        if not self.settings.gate:
            return (item + knowledge) / 2.0
        return self._gate(item, knowledge, self.gate_item[layer], self.gate_entity[layer])

    def _of_items(self, entity: Tensor) -> Tensor:
        """The rows of items; a table of these alone is not cut, as the cut's gradient would be another table."""
        return entity if len(entity) == self.graph.n_items else entity[: self.graph.n_items]

    def sent_by_items(self, layer: int, entity: Tensor, item: Tensor | None) -> Tensor:
        r"""What an item sends to each of its users, ``[n_items, d]``.

        :meth:`fused_items` divided by :math:`|N_i|^\alpha` with the number of the item's users in the graph and the
        setting ``degree_exponent`` α.

        Parameters
        ----------
        layer, entity, item
            As for :meth:`fused_items`.
        """
        return self._shared_out(self.fused_items(layer, entity, item), self.packed.interactions.col_degree)

    def _shared_out(self, values: Tensor, degree: Tensor) -> Tensor:
        scale = self.share(degree)
        return values if scale is None else values * scale.unsqueeze(1)

    def share(self, degree: Tensor) -> Tensor | None:
        r"""What nodes of these degrees multiply their messages by, :math:`|N|^{-\alpha}`; None for ones."""
        exponent = self.settings.degree_exponent
        return None if exponent == 0.0 else degree.clamp_min(1).to(self.user.dtype).pow(-exponent)

    def updates(self, worth: float = 1.0) -> dict[EdgeType, UpdateFunction]:
        """The layer: an update function for every edge type (HAKG eqs. 4-9).

        Parameters
        ----------
        worth
            How many times an interaction counts.
        """
        scales = self._copy_scales()
        to_items: UpdateFunction = Silent()
        if self.settings.dual_item_embeddings:
            to_items = Copy(scales.user_sent, scales.item_mean, worth)
        to_users = Copy(scales.item_sent, scales.user_mean, worth)
        numbers = {etype: n for n, etype in enumerate((*self.graph.relation_types, *self.graph.user_types))}
        relations: dict[EdgeType, UpdateFunction] = {
            etype: RelationTransitive(self.relation, numbers[etype], self.rule) for etype in self.relation_types
        }
        return {**relations, INTERACTS: to_items, INTERACTED_BY: to_users, **self.own_updates}

    def _copy_scales(self) -> CopyScales:
        """Made once for a graph on a device."""
        pattern, dtype = self.packed.interactions, self.user.dtype
        if self._scales is None or self._scales[0] is not pattern or self._scales[1].user_mean.dtype != dtype:
            mean = self.inverse_degree("col") if self.settings.formulation == "paper" else None
            user, item = self.share(pattern.row_degree), self.share(pattern.col_degree)
            self._scales = pattern, CopyScales(user, item, self.inverse_degree("row"), mean)
        return self._scales[1]

    def layer(
        self,
        number: int,
        executor: Executor,
        user: Tensor,
        entity: Tensor,
        item: Tensor | None,
        n_heads: int,
        updates: Updates | None = None,
        knowledge: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """One propagation from the incoming values, before dropout, normalisation and residual.

        ``updates`` is :meth:`updates` unless given, ``knowledge`` the items' rows of ``entity``.
        Returns user ``[n_users, d]``, entity ``[n_heads, d]`` and item
        ``[n_items, d]`` (or None).
        """
        knowledge = entity if knowledge is None else knowledge
        received = executor.run(
            self.updates() if updates is None else updates,
            {"entity": entity, "user": user, "item": lambda: self.fused_items(number, knowledge, item)},
            {"entity": n_heads},
        )
        new_entity = received.get("entity")
        if new_entity is None:
            new_entity = torch.zeros_like(entity[:n_heads])
        return received["user"], new_entity, received.get("item")

    def inverse_degree(self, side: str) -> Tensor:
        """What sums over interactions are multiplied by to be means, ``[n_users]`` (``"row"``) or ``[n_items]``."""
        pattern = self.packed.interactions
        degree = pattern.row_degree if side == "row" else pattern.col_degree
        # In float32 even for float64, as in the released code; the normalisation after the layer makes it immaterial.
        return degree.clamp_min(1).float().reciprocal().to(self.user.dtype)

    def propagate(self, *, all_entities: bool = False, dropout: Chance | None = None) -> Embeddings:
        """Run all layers and sum their normalised outputs onto the parameters.

        Parameters
        ----------
        all_entities
            Return embeddings of all entities, not of the items alone (which is what scores and losses read).
        dropout
            Generator of the edge and message dropout of a training step; None switches dropout off.

        Returns
        -------
        Embeddings
            Differentiable in the parameters.
        """
        s, packed = self.settings, self.packed
        at_once = self._propagate_at_once(packed.n_entities if all_entities else packed.n_items, dropout)
        if at_once is not None:
            return at_once
        executor, updates = self.executor, self.updates()
        if dropout is not None:
            executor = self.executor.drop(self._draw_masks(dropout))
            updates = self.updates(worth=1.0 / (1.0 - s.interaction_dropout))
        user, entity = self.user, self.entity
        item = self.item if s.dual_item_embeddings else None
        kept = packed.n_entities if all_entities else packed.n_items
        # One slice a layer for all that reads it: each would have a gradient as large as the whole table.
        first = entity[:kept]
        sums: list[Tensor | None] = [user, first, item]
        for number in range(s.layers):
            n_heads = kept if number == s.layers - 1 else packed.n_entities
            outputs = self.layer(number, executor, user, entity, item, n_heads, updates, first)
            user, entity, item = (  # type: ignore[assignment]
                None if x is None else drop_and_normalise(x, s.message_dropout, dropout, backend=self.backend)
                for x in outputs
            )
            first = entity[:kept]
            for i, output in enumerate((user, first, item)):
                total = sums[i]
                sums[i] = None if total is None or output is None else total + output
        user_sum, entity_sum, item_sum = sums
        assert user_sum is not None
        assert entity_sum is not None
        return Embeddings(user_sum, entity_sum, item_sum)

    def _propagate_at_once(self, kept: int, dropout: Chance | None) -> Embeddings | None:
        """:meth:`propagate` by a backend that runs all layers, which this executor and this graph may not have."""
        s = self.settings
        backend = self.executor.all_layers if isinstance(self.executor, PackedExecutor) else None
        if backend is None or isinstance(dropout, CounterStream):
            return None
        if self._form is None or self._form[0] is not self.executor:
            form = propagation_form(self.graph, self.updates())
            self._form = self.executor, form if form is not None and backend.propagates(form) else None
        form = self._form[1]
        if form is None:
            return None
        pairs = zip(self.gate_item, self.gate_entity, strict=True) if self.gate_matrices() else ()
        found = backend.propagate(
            form, Start(self.user, self.entity, self.item if s.dual_item_embeddings else None),
            Weights(self.relation, list(pairs)), n_layers=s.layers, n_heads=kept,
            factor=1.0 if dropout is None else 1.0 / (1.0 - s.interaction_dropout),
            chance=None if dropout is None else self._draw(form, kept, dropout),
        )  # fmt: skip
        return Embeddings(found.user, found.entity, found.item)

    def _draw(self, form: Propagation, kept: int, generator: torch.Generator) -> StepChance:
        """What a training step keeps, drawn in the order in which layers one by one would draw it."""
        s, packed = self.settings, self.packed
        uses = [(form.knowledge.n_edges, s.kg_edge_dropout), (form.interactions.n_edges, s.interaction_dropout)]
        for number in range(s.layers):
            heads = kept if number == s.layers - 1 else packed.n_entities
            sizes = packed.n_users, heads, packed.n_items if s.dual_item_embeddings else 0
            uses += [(n * s.dim, s.message_dropout) for n in sizes]
        words, starts, limits = draw_words(uses, generator)
        return StepChance(words, tuple(starts), (limits[0], limits[1], limits[2]))

    def _draw_masks(self, generator: Chance) -> Masks:
        """Which edges a training step keeps."""
        s, relations = self.settings, self.relation_types
        n_edges = self.graph.joined(relations, one_table=True).pattern.n_edges if relations else 0
        drawn = {
            relations: draw_mask(n_edges, s.kg_edge_dropout, generator),
            (INTERACTED_BY,): draw_mask(self.packed.interactions.n_edges, s.interaction_dropout, generator),
        }
        return {edge_types: mask for edge_types, mask in drawn.items() if mask is not None}

    def score_vectors(self, embeddings: Embeddings, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """User ``[n_users, d]`` and item ``[n_items, d]`` vectors whose inner products are the learned score.

        ``score = "fused"``: cosine(u, e_i + v_i). ``"separate"``: cos(u, e_i) + cos(u, v_i). ``"inner"``: the inner
        product of u with the mean of e_i and v_i, where v_i is zero for items without interactions: nothing trains it.
        Without dual item embeddings v_i is left out. Differentiable. ``known`` is :attr:`known_items` of the items
        that the embeddings are of, by default that of all.
        """
        user, entity, item = embeddings.user, self._of_items(embeddings.entity), embeddings.item
        if self.settings.score == "inner":
            if item is None:
                return user, entity
            known = self.known_items if known is None else known
            item = item if known is None else item * known
            return user, (entity + item) / 2.0
        user = _normalise(user)
        if item is None:
            return user, _normalise(entity)
        if self.settings.score == "fused":
            return user, _normalise(entity + item)
        return user, _normalise(entity) + _normalise(item)

    def fused_layers(self) -> list[Tensor]:
        """What users receive from items in each layer, ``[n_items, d]`` each, without dropout (HAKG eqs. 8-9)."""
        return [layer.sent for layer in self.layer_inputs()]

    @torch.no_grad()
    def layer_inputs(self) -> list[LayerInputs]:
        """What enters each layer, without dropout."""
        user, entity = self.user.detach(), self.entity.detach()
        item = self.item.detach() if self.settings.dual_item_embeddings else None
        found = [LayerInputs(self.sent_by_items(0, entity, item), user, entity)]
        for number in range(self.settings.layers - 1):
            outputs = self.layer(number, self.executor, user, entity, item, self.graph.n_entities)
            user, entity, item = (  # type: ignore[assignment]
                None if x is None else drop_and_normalise(x, 0.0, None) for x in outputs
            )
            found.append(LayerInputs(self.sent_by_items(number + 1, entity, item), user, entity))
        return found

    @torch.no_grad()
    def fit_terms(self) -> None:
        """Solve for the closed-form terms on the graph, with the middle of their settings; until then they are zero."""
        self.terms.solve(self.graph, self.terms.first_choice())
        self.terms.stage.fill_(PROVISIONAL)
        self.terms.forget()

    @torch.no_grad()
    def choose_terms(self, judge: Judge) -> dict[str, float]:
        """Choose weights and λ of the closed-form terms for the learned part as it is."""
        learned = self.score_vectors(self.propagate())
        return Chooser(self.terms, self.graph, learned, self.past_sums, judge)()

    @torch.no_grad()
    def set_terms(self, chosen: Mapping[str, float]) -> None:
        """Solve for the closed-form terms of a choice; weights are those of the learned part as it is."""
        install(self.terms, self.graph, self.score_vectors(self.propagate()), self.past_sums, chosen)
        self.terms.forget()

    def settle(self) -> None:
        """Have provisional weights of the closed-form terms follow the learned part as it is."""
        if int(self.terms.stage) == PROVISIONAL:
            self.ranking_vectors()

    def past_sums(self, table: Tensor, power: float) -> Tensor:
        r"""Rows of items summed over each user's items and divided by :math:`|N_u|` to a power, ``[n_users, k]``."""
        degree = self.packed.interactions.row_degree
        scale = None if power == 0.0 else degree.clamp_min(1).to(table.dtype).pow(-power)
        updates: dict[EdgeType, UpdateFunction] = {etype: Silent() for etype in self.graph.canonical_etypes}
        return self.executor.run({**updates, INTERACTED_BY: Copy(None, scale)}, {"item": table})["user"]

    @torch.no_grad()
    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        r"""User and item vectors ``[n, d + r + s]`` whose inner products rank as the model does.

        The first d columns are those of :meth:`score_vectors`, then come those of the closed-form terms
        (:mod:`hakg_dgl.models.hakg.terms`), which the settings may switch off.
        """
        learned, stage = self.score_vectors(self.propagate()), int(self.terms.stage)
        if stage == PROVISIONAL:
            return weighed(self.terms, new_items(self.graph), learned, self.past_sums, self.terms.first_choice())
        return self.terms.columns(new_items(self.graph), learned, self.past_sums)

    @torch.no_grad()
    def likeness_vectors(self) -> tuple[Tensor, Tensor]:
        """Those that rank, but for items without the bias of new ones, and with the facts of all of them.

        The bias says that an item is new, and the weights of the facts, where they are 0, that facts do not rank; new
        items have nothing else that is like what others have.
        """
        users, items = self.ranking_vectors()
        width = self.terms.facts.shape[1]
        if not width:
            return users, items
        return users, torch.cat([items[:, : -width - 1], self.terms.facts], dim=1)


def _mixed_by_gate(item: Tensor, knowledge: Tensor, gate_item: Tensor, gate_entity: Tensor) -> Tensor:
    return torch.lerp(knowledge, item, torch.sigmoid(item @ gate_item.T + knowledge @ gate_entity.T))


def _normalise(x: Tensor) -> Tensor:
    return F.normalize(x, dim=1, eps=ROW_NORM_FLOOR)
