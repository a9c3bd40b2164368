"""HAKG: parameters, propagation over the heterograph, and scores.

Du et al., "HAKG: Hierarchy-Aware Knowledge Gated Network for Recommendation", SIGIR 2022 (arXiv 2204.04959).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hakg_dgl.errors import ConfigError
from hakg_dgl.geometry.guards import ROW_NORM_FLOOR, ball_margin
from hakg_dgl.geometry.message import MessageRule
from hakg_dgl.graph.dgl_graph import to_dgl
from hakg_dgl.graph.heterograph import HeteroGraph, as_heterograph
from hakg_dgl.graph.packed import PackedGraph
from hakg_dgl.kernels.interface import FusedBackend, choose_backend
from hakg_dgl.layers.aggregators import Aggregator, PackedAggregator
from hakg_dgl.layers.dropout import draw_mask, drop_and_normalise
from hakg_dgl.layers.embeddings import Embeddings
from hakg_dgl.layers.item_item import item_item_factors
from hakg_dgl.models.settings import ModelSettings
from hakg_dgl.randomness import torch_generator


class HAKG(nn.Module):
    """Hierarchy-aware knowledge gated network.

    The linear item-item term of its score is no parameter: :meth:`fit_linear_term` solves for it.

    All parameters are tangent vectors at the origin of the Poincaré ball, Xavier-uniform, each drawn from a random
    stream of its own.

    Parameters
    ----------
    graph
        From :func:`~hakg_dgl.build_graph`, or a DGL heterograph from :func:`~hakg_dgl.build_heterograph`.
    settings
        See :class:`~hakg_dgl.models.settings.ModelSettings`.
    seed
        Of the initialisation.
    dtype
        ``torch.float32`` or ``torch.float64``.

    Raises
    ------
    ConfigError
        If the kernels do not run on the graph's device, or ``precision="bf16"`` is to be combined with float64.
    MissingDependencyError
        If the library of the kernels cannot be imported.

    Examples
    --------
    >>> model = HAKG(build_graph(dataset), ModelSettings(dim=32))
    >>> embeddings = model.propagate()
    """

    linear_left: Tensor
    linear_right: Tensor

    def __init__(
        self,
        graph: Any,
        settings: ModelSettings | None = None,
        *,
        seed: int = 2020,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.settings = s = settings or ModelSettings()
        self.graph: HeteroGraph = as_heterograph(graph)
        packed = self.graph.packed
        if s.precision == "bf16" and dtype == torch.float64:
            raise ConfigError("precision = 'bf16' halves float32 tables, but dtype = 'float64': leave one of them out")
        self.rule = MessageRule(s.formulation, s.geometry, s.curvature, ball_margin(dtype))
        self.aggregator = self._choose_aggregator()

        def parameter(name: str, rows: int, cols: int = s.dim) -> nn.Parameter:
            values = torch.empty(rows, cols, dtype=dtype)
            nn.init.xavier_uniform_(values, generator=torch_generator(seed, f"init:{name}"))
            return nn.Parameter(values)

        self.user = parameter("user", packed.n_users)
        self.entity = parameter("entity", packed.n_entities)
        self.relation = parameter("relation", max(1, 2 * packed.n_relations))
        if s.dual_item_embeddings:
            self.item = parameter("item", packed.n_items)
        if s.dual_item_embeddings and s.gate:
            self.gate_item = nn.ParameterList(parameter(f"gate_item_{i}", s.dim) for i in range(s.layers))
            self.gate_entity = nn.ParameterList(parameter(f"gate_entity_{i}", s.dim) for i in range(s.layers))
        if s.linear_weight > 0.0:
            rank = min(s.linear_rank, packed.n_users, packed.n_items)
            for name in ("linear_left", "linear_right"):
                self.register_buffer(name, torch.zeros(packed.n_items, rank, dtype=dtype))

    def _choose_aggregator(self) -> Aggregator:
        self._gate: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = _mixed_by_gate
        if self.settings.kernels != "readable":
            backend = choose_backend(self.settings.kernels, self.graph.device)
            if isinstance(backend, FusedBackend):
                self._gate = backend.gated_items
            return PackedAggregator(self.packed, backend, self.rule, bfloat16=self.settings.precision == "bf16")
        from hakg_dgl.layers.updates import ReadableAggregator

        return ReadableAggregator(to_dgl(self.graph), self.packed, list(self.graph.relation_types), self.rule)

    @property
    def packed(self) -> PackedGraph:
        """Packed views of the graph."""
        return self.graph.packed

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self.user.device

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
        knowledge = entity[: self.graph.n_items]
        if item is None:
            return knowledge
        if not self.settings.gate:
            return (item + knowledge) / 2.0
        return self._gate(item, knowledge, self.gate_item[layer], self.gate_entity[layer])

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

    def sent_by_users(self, user: Tensor) -> Tensor:
        r"""What a user sends to each of its items, ``[n_users, d]``: ``user`` divided by :math:`|N_u|^\alpha`."""
        return self._shared_out(user, self.packed.interactions.row_degree)

    def _shared_out(self, values: Tensor, degree: Tensor) -> Tensor:
        exponent = self.settings.degree_exponent
        if exponent == 0.0:
            return values
        return values * degree.clamp_min(1).to(values.dtype).pow(-exponent).unsqueeze(1)

    def layer(
        self, number: int, aggregator: Aggregator, user: Tensor, entity: Tensor, item: Tensor | None, n_heads: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """One propagation from the incoming values, before dropout, normalisation and residual.

        Returns user ``[n_users, d]``, entity ``[n_heads, d]`` and item ``[n_items, d]`` (or None).
        """
        new_entity = aggregator.entities(entity, self.relation, n_heads)
        new_item = None
        if item is not None:
            new_item = aggregator.item_sum(self.sent_by_users(user))
            if self.settings.formulation == "paper":
                new_item = new_item * self._inverse_degree("col")
        new_user = aggregator.user_sum(self.sent_by_items(number, entity, item)) * self._inverse_degree("row")
        return new_user, new_entity, new_item

    def _inverse_degree(self, side: str) -> Tensor:
        pattern = self.packed.interactions
        degree = pattern.row_degree if side == "row" else pattern.col_degree
        # In float32 even for float64, as in the released code; the normalisation after the layer makes it immaterial.
        return degree.clamp_min(1).float().reciprocal().to(self.user.dtype).unsqueeze(1)

    def propagate(self, *, all_entities: bool = False, dropout: torch.Generator | None = None) -> Embeddings:
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
        aggregator = self.aggregator if dropout is None else self._drop_edges(dropout)
        user, entity = self.user, self.entity
        item = self.item if s.dual_item_embeddings else None
        kept = packed.n_entities if all_entities else packed.n_items
        sums: list[Tensor | None] = [user, entity[:kept], item]
        for number in range(s.layers):
            n_heads = kept if number == s.layers - 1 else packed.n_entities
            outputs = self.layer(number, aggregator, user, entity, item, n_heads)
            user, entity, item = (  # type: ignore[assignment]
                None if x is None else drop_and_normalise(x, s.message_dropout, dropout) for x in outputs
            )
            for i, output in enumerate((user, entity[:kept], item)):
                total = sums[i]
                sums[i] = None if total is None or output is None else total + output
        user_sum, entity_sum, item_sum = sums
        assert user_sum is not None
        assert entity_sum is not None
        return Embeddings(user_sum, entity_sum, item_sum)

    def _drop_edges(self, generator: torch.Generator) -> Aggregator:
        s = self.settings
        kg_mask = draw_mask(self.packed.knowledge.n_edges, s.kg_edge_dropout, generator)
        interaction_mask = draw_mask(self.packed.interactions.n_edges, s.interaction_dropout, generator)
        return self.aggregator.drop(kg_mask, interaction_mask, 1.0 / (1.0 - s.interaction_dropout))

    def score_vectors(self, embeddings: Embeddings) -> tuple[Tensor, Tensor]:
        """User ``[n_users, d]`` and item ``[n_items, d]`` vectors whose inner products are the learned score.

        ``score = "fused"``: cosine(u, e_i + v_i). ``"separate"``: cos(u, e_i) + cos(u, v_i). ``"inner"``: the inner
        product of u with the mean of e_i and v_i. Without dual item embeddings v_i is left out. Differentiable.
        """
        user, entity, item = embeddings.user, embeddings.entity[: self.graph.n_items], embeddings.item
        if self.settings.score == "inner":
            return user, entity if item is None else (entity + item) / 2.0
        user = _normalise(user)
        if item is None:
            return user, _normalise(entity)
        if self.settings.score == "fused":
            return user, _normalise(entity + item)
        return user, _normalise(entity) + _normalise(item)

    @property
    def n_learned_columns(self) -> int:
        """Columns of :meth:`ranking_vectors` that come from parameters; those of the linear term follow."""
        return self.settings.dim

    @torch.no_grad()
    def fit_linear_term(self) -> None:
        """Solve for the linear item-item term of the score on the graph's interactions; until then it is zero."""
        s = self.settings
        if s.linear_weight > 0.0:
            left, right = item_item_factors(self.packed.interactions, s.linear_l2, s.linear_rank)
            self.linear_left.copy_(left)
            self.linear_right.copy_(right)

    @torch.no_grad()
    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        r"""User ``[n_users, d + r]`` and item ``[n_items, d + r]`` vectors whose inner products rank as the model does.

        The first d columns are those of :meth:`score_vectors`. The last r are those of the linear item-item term
        :math:`w \sum_{j \in N_u} B_{ji}` (Steck 2019) of :meth:`fit_linear_term`; r is 0 without that term.
        """
        user, item = self.score_vectors(self.propagate())
        if self.settings.linear_weight == 0.0:
            return user, item
        linear = self.settings.linear_weight * self.aggregator.user_sum(self.linear_left)
        return torch.cat([user, linear], dim=1), torch.cat([item, self.linear_right], dim=1)


def _mixed_by_gate(item: Tensor, knowledge: Tensor, gate_item: Tensor, gate_entity: Tensor) -> Tensor:
    return torch.lerp(knowledge, item, torch.sigmoid(item @ gate_item.T + knowledge @ gate_entity.T))


def _normalise(x: Tensor) -> Tensor:
    return F.normalize(x, dim=1, eps=ROW_NORM_FLOOR)
