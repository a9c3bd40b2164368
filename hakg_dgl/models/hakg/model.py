"""HAKG as a model of the registry.

Du et al., "HAKG: Hierarchy-Aware Knowledge Gated Network for Recommendation", SIGIR 2022 (arXiv 2204.04959).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.models.explanation import Breakdown
from hakg_dgl.models.hakg.explanation import HAKGBreakdown
from hakg_dgl.models.hakg.folding import PropagatedUsers
from hakg_dgl.models.hakg.network import Network
from hakg_dgl.models.hakg.objective import STREAMS, Objective, angle_loss_warnings
from hakg_dgl.models.hakg.settings import (
    HINGE_SPACE,
    PRESETS,
    SPACE,
    VARIANTS,
    HAKGLossSettings,
    HAKGSettings,
    HAKGTrainingSettings,
    idle_settings,
)
from hakg_dgl.models.hakg.terms import POWER
from hakg_dgl.models.positions import Float64, Positions, require_values
from hakg_dgl.models.recommender import (
    Abilities,
    Axis,
    Judge,
    Pass,
    Sections,
    Variant,
    copy_with_new_items,
    interaction_batches,
)
from hakg_dgl.ranking.fold_in import EmbeddingFoldIn, FoldedUsers, Ones, SumOfRows, UserPart
from hakg_dgl.ranking.topk import EmbeddingScorer, Scorer
from hakg_dgl.settings.run import RecordedRunSettings
from hakg_dgl.settings.training import TrainingSettings


class HAKG(Network):
    """Hierarchy-aware knowledge gated network; :class:`~hakg_dgl.models.hakg.network.Network` computes it.

    The linear item-item term of its score is not a parameter: :meth:`prepare` solves for it.

    Parameters
    ----------
    graph
        From :func:`~hakg_dgl.graph.heterograph.build_graph`, or a DGL heterograph from
        :func:`~hakg_dgl.build_heterograph`.
    settings, loss, run, updates
        As for :class:`~hakg_dgl.models.recommender.Recommender`.

    Raises
    ------
    ConfigError
        If the kernels do not run on the graph's device, an edge type of the graph has no update function, or
        ``precision = "bf16"`` is to be combined with float64.
    MissingDependencyError
        If the library of the kernels cannot be imported.

    Examples
    --------
    >>> model = HAKG(build_heterograph(dataset), HAKGSettings(dim=32))
    >>> embeddings = model.propagate()
    """

    name = "hakg"
    sections = Sections(HAKGSettings, HAKGLossSettings, HAKGTrainingSettings, RecordedRunSettings)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    space: ClassVar[Mapping[str, Any]] = SPACE
    variants: ClassVar[tuple[Variant, ...]] = VARIANTS
    abilities = Abilities(
        facts=True,
        vectors=True,
        folds_in_users=True,
        new_items=True,
        explains=True,
        positions=True,
        records_steps=True,
        own_edge_types=True,
        distributed=True,
    )
    streams = STREAMS

    @classmethod
    def search_space(cls, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """That of the ranking loss."""
        return HINGE_SPACE if settings["ranking_loss"] == "hinge" else SPACE

    @classmethod
    def idle_settings(cls, values: Mapping[str, Any]) -> Mapping[str, str]:
        """Settings of the other ranking loss, and of parts that are switched off."""
        return idle_settings(values)

    # --- training ----------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Solve for the closed-form terms on the graph; until then they are zero."""
        self.fit_terms()

    def choose(self, judge: Judge) -> dict[str, float]:
        """Weights and λ of the closed-form terms; see :mod:`hakg_dgl.models.hakg.terms`."""
        return self.choose_terms(judge)

    def take(self, chosen: Mapping[str, float]) -> None:
        """Solve for the closed-form terms of a choice."""
        self.set_terms(chosen)

    def passes(self, training: TrainingSettings, random: Mapping[str, torch.Generator]) -> Sequence[Pass]:
        """One pass over the interactions."""
        return [Pass("interactions", interaction_batches(self.graph, training, random), Objective(self, random))]

    def axes(self) -> Mapping[str, tuple[Axis, ...]]:
        """Rows of users, items, entities and relations."""
        return {**super().axes(), "relation": ((*self.graph.relation_types, *self.graph.user_types) or (None,),)}

    def warnings(self) -> list[str]:
        """Why the angle loss does nothing though it has a weight; empty where it does something."""
        return angle_loss_warnings(self)

    def remedies(self) -> str:
        """What tames the angle loss."""
        weight = self.loss.angle_weight
        return f"lower angle_weight (now {weight:g})" if weight > 0.0 else ""

    # --- ranking -----------------------------------------------------------------------------------------------------

    def learned_scorer(self, scorer: Scorer) -> Scorer | None:
        """The score without its closed-form terms, None where there are none."""
        if not (self.terms.linear_left.shape[1] or self.terms.facts.shape[1]):
            return None
        assert isinstance(scorer, EmbeddingScorer)
        learned = self.settings.dim
        return EmbeddingScorer(scorer.user_vectors[:, :learned], scorer.item_vectors[:, :learned])

    def fold_in(self) -> EmbeddingFoldIn:
        """New users by the aggregation of the trained graph's items, and of facts where they are given."""
        return EmbeddingFoldIn(self.user_parts(), self.ranking_vectors()[1])

    def user_parts(self) -> list[UserPart]:
        """What a new user's vector consists of, in the order of :meth:`ranking_vectors`: a part a term of the score."""
        self.settle()
        parts: list[UserPart] = [PropagatedUsers(self)]
        if self.terms.linear_left.shape[1]:
            parts.append(SumOfRows(self.terms.weights[0] * self.terms.linear_left))
        if self.terms.facts.shape[1]:
            parts += [SumOfRows(self.terms.facts, POWER), Ones(self.dtype)]
        return parts

    @torch.no_grad()
    def with_new_items(self, graph: HeteroGraph) -> HAKG:
        """The model with further items; their facts pass messages as all facts do, and the terms know them by theirs.

        The spectrum of the facts is that of the larger graph; λ and all weights of the closed-form terms stay.
        """
        self.settle()
        model = type(self)(graph, self.settings, self.loss, self.run, updates=self.own_updates)
        of_items, of_facts = ("item", "terms.linear_left", "terms.linear_right"), ("terms.facts", "terms.new_scale")
        copy_with_new_items(self, model, items=of_items, entities=("entity",), without=of_facts)
        if self.terms.facts.shape[1]:
            model.terms.solve_facts(*self.terms.damping.tolist())
            model.terms.forget()
        return model.eval()

    # --- insight -----------------------------------------------------------------------------------------------------

    def breakdown(self, folded: FoldedUsers | None = None) -> Breakdown:
        """The score as a sum over edges; see :mod:`hakg_dgl.models.hakg.explanation`."""
        return HAKGBreakdown(self, folded)

    @torch.no_grad()
    def positions(self, values: str = "parameters") -> Positions:
        """Where entities and items lie; ConfigError for other values than ``parameters`` and ``output``."""
        require_values(values)
        s = self.settings
        entity: Tensor
        item: Tensor | None
        if values == "parameters":
            entity, item = self.entity, self.item if s.dual_item_embeddings else None
        else:
            output = self.propagate(all_entities=True)
            entity, item = output.entity, output.item
        places = _array(entity), None if item is None else _array(item)
        return Positions(*places, s.geometry, s.curvature, values, s.formulation, self.loss.aperture, self.rule.margin)

    @torch.no_grad()
    def vector_tables(self) -> dict[str, dict[str, Tensor]]:
        """Ranking vectors, parameters and propagated embeddings of users, items, entities and relations."""
        found = super().vector_tables()
        embeddings = self.propagate(all_entities=True)
        found["users"] |= {"parameters": self.user, "propagated": embeddings.user}
        found["entities"] = {"parameters": self.entity, "propagated": embeddings.entity}
        found["relations"] = {"parameters": self.relation[: 2 * self.graph.n_relations]}
        if embeddings.item is not None:
            found["items"] |= {"collaborative_parameters": self.item, "collaborative_propagated": embeddings.item}
        return found

    def about_vectors(self) -> dict[str, Any]:
        """How they rank, and the ball that they are tangent to."""
        s = self.settings
        return {"score": s.score, "formulation": s.formulation, "curvature": s.curvature}


def _array(tensor: Tensor) -> Float64:
    values: Float64 = tensor.detach().cpu().double().numpy()
    return values
