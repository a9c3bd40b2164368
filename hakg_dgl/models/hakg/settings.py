"""HAKG's settings with their defaults, its presets, the space of a search, and the variants of an ablation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from hakg_dgl.errors import ConfigError
from hakg_dgl.models.recommender import Variant
from hakg_dgl.settings.run import Kernels
from hakg_dgl.settings.section import Range, Section, TrainingOnly
from hakg_dgl.settings.training import TrainingSettings

Formulation: TypeAlias = Literal["released", "paper"]
Geometry: TypeAlias = Literal["poincare", "euclidean"]
Score: TypeAlias = Literal["fused", "separate", "inner"]
RankingLoss: TypeAlias = Literal["hinge", "softmax"]
Precision: TypeAlias = Literal["float32", "bf16"]
AngleMask: TypeAlias = Literal["step", "edge"]
AngleDirection: TypeAlias = Literal["auto", "both", "attribute"]
AnglePairs: TypeAlias = Literal["items", "all"]

_RATE = Range(0.0, 1.0, open_high=True)


@dataclass(frozen=True)
class HAKGSettings(Section):
    """What HAKG computes from the graph.

    Attributes
    ----------
    formulation
        ``released`` (the authors' code) or ``paper`` (the published equations).
    dim, layers
        Embedding size d and number of propagation layers L.
    geometry
        ``poincare``, or ``euclidean`` for the ablation in which messages are translations ``e_t + w_r``.
    curvature
        c of the Poincaré ball of curvature -c.
    degree_exponent
        α: what is sent along an interaction is divided by the sender's number of interactions to the power α. 0 is the
        published mean, 0.5 the symmetric normalisation of LightGCN.
    gate
        Off: users aggregate the mean of both item embeddings instead of their gated sum.
    dual_item_embeddings
        Off: items have the knowledge embedding only.
    score
        ``fused``: cosine(u, e_i + v_i); ``separate``: cos(u, e_i) + cos(u, v_i), which is what the hinge trains;
        ``inner``: the inner product of u with the mean of e_i and v_i.
    linear_weight, linear_l2, linear_exponent, linear_rank
        Weight of the linear item-item term in the score (0: none), λ of its closed form, the power of degrees that
        interactions are divided by in it, and the singular vectors it uses; see
        :func:`~hakg_dgl.layers.item_item.item_item_factors`. Of several values the one that selects best is kept; until
        then it is the middle one, and the smallest power.
    facts_weight, facts_l2, facts_rank
        Weight of the term over facts in the score, in standard deviations of the other terms (0: none), λ that damps
        its rare directions and the singular vectors it uses; see :mod:`hakg_dgl.models.hakg.terms`. Of several values
        the one that selects best is kept; items without interactions have a λ of their own.
    new_items_weight, new_items_bias
        The weight of the term over facts for items without interactions, and what is added to their scores, both in
        standard deviations. Of several weights the one that ranks such items best among themselves is kept; of several
        biases the largest that costs the full ranking nothing to speak of.
    kg_edge_dropout, interaction_dropout, message_dropout
        Rates: the share of KG edges, of interactions and of layer output coordinates dropped in a training step.
    kernels
        ``auto`` picks the fastest that works here; ``readable`` runs one update function an edge type.
    precision
        ``bf16``: tables that propagation gathers rows of are bfloat16; sums, parameters and losses stay float32.
    """

    formulation: Formulation = "paper"
    dim: Annotated[int, Range(1, 4096)] = 128
    layers: Annotated[int, Range(1, 16)] = 2
    geometry: Geometry = "poincare"
    curvature: Annotated[float, Range(1e-4, 1e4)] = 1.0
    degree_exponent: Annotated[float, Range(0.0, 2.0)] = 0.25
    gate: bool = True
    dual_item_embeddings: bool = True
    score: Score = "inner"
    linear_weight: Annotated[tuple[float, ...], Range(0.0, 1e6)] = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    linear_l2: Annotated[tuple[float, ...], Range(1e-3, 1e9), TrainingOnly()] = (
        50.0,
        100.0,
        200.0,
        400.0,
        800.0,
        1600.0,
        3200.0,
    )
    linear_exponent: Annotated[tuple[float, ...], Range(0.0, 2.0), TrainingOnly()] = (0.0, 0.25)
    linear_rank: Annotated[int, Range(1, 4096), TrainingOnly()] = 256
    facts_weight: Annotated[tuple[float, ...], Range(0.0, 1e3)] = (
        0.0,
        0.02,
        0.05,
        0.1,
        0.15,
        0.2,
        0.3,
        0.4,
    )
    facts_l2: Annotated[tuple[float, ...], Range(1e-3, 1e9), TrainingOnly()] = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
    facts_rank: Annotated[int, Range(1, 4096), TrainingOnly()] = 512
    new_items_weight: Annotated[tuple[float, ...], Range(0.0, 1e3), TrainingOnly()] = (0.05, 0.1, 0.2, 0.4, 0.8)
    new_items_bias: Annotated[tuple[float, ...], Range(0.0, 1e3), TrainingOnly()] = (
        0.0,
        0.5,
        1.0,
        1.5,
        2.0,
        2.5,
        3.0,
        4.0,
    )
    kg_edge_dropout: Annotated[float, _RATE, TrainingOnly()] = 0.5
    interaction_dropout: Annotated[float, _RATE, TrainingOnly()] = 0.5
    message_dropout: Annotated[float, _RATE, TrainingOnly()] = 0.1
    kernels: Annotated[Kernels, TrainingOnly()] = "auto"
    precision: Annotated[Precision, TrainingOnly()] = "float32"

    @property
    def has_linear_term(self) -> bool:
        """Whether the score may have a linear item-item term."""
        return any(self.linear_weight)

    @property
    def has_facts_term(self) -> bool:
        """Whether the score may have a term over facts."""
        return any(self.facts_weight)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision == "bf16" and self.kernels == "readable":
            raise ConfigError(
                "precision = 'bf16' is not for kernels = 'readable', the reference: leave one of them out"
            )


@dataclass(frozen=True)
class HAKGLossSettings(Section):
    """HAKG's two losses.

    Attributes
    ----------
    ranking_loss
        ``softmax``: cross-entropy of each positive among the candidates, on the score; ``hinge``: the published
        contrastive loss with a margin, on both cosines.
    temperature, candidates
        Of the softmax: what scores are divided by, and the items a batch's positives compete with, drawn anew each
        step; all items where the catalogue has no more.
    negatives, margin
        Of the hinge: negatives per positive, and the cosine above which one counts.
    gate_l2
        Weight of the squares of the gate's matrices in the loss.
    angle_weight
        Weight of the angle loss; 0 switches it off.
    angle_pairs
        ``items``: items below their attributes, as published; ``all``: attributes below attributes too, where
        relations order them (:func:`~hakg_dgl.data.hierarchy.attribute_tree`).
    angle_direction
        ``both``: both directions of every item-attribute edge, as the released code has it; ``attribute``: only the
        attribute is an apex, as published; ``auto``: that of the formulation.
    angle_dropout
        Share of coordinates left out of the angle loss in a training step.
    angle_mask
        ``step`` draws the left-out coordinates once a step (fast), ``edge`` once an edge (the released code).
    aperture
        K of the cones.
    hierarchical_relations
        ``["all"]``, ``["auto"]`` (estimated from the graph) or names of relations the angle loss uses.
    """

    ranking_loss: RankingLoss = "softmax"
    temperature: Annotated[float, Range(1e-3, 1e3)] = 1.0
    candidates: Annotated[int, Range(1, 10_000_000)] = 16384
    negatives: Annotated[int, Range(1, 100_000)] = 200
    margin: Annotated[float, Range(-1.0, 1.0)] = 0.6
    gate_l2: Annotated[float, Range(0.0, 1e3)] = 1e-3
    angle_weight: Annotated[float, Range(0.0, 1e3)] = 0.1
    angle_pairs: AnglePairs = "all"
    angle_direction: AngleDirection = "auto"
    angle_dropout: Annotated[float, _RATE] = 0.5
    angle_mask: AngleMask = "step"
    aperture: Annotated[float, Range(1e-6, 1.0)] = 0.1
    hierarchical_relations: tuple[str, ...] = ("all",)


@dataclass(frozen=True)
class HAKGTrainingSettings(TrainingSettings):
    """The optimisation of HAKG: eight interactions of a user in a batch save its softmax half of a step and more."""

    positives_per_user: Annotated[int, Range(1, 10_000_000)] = 8


_HINGE = {
    "ranking_loss": "hinge",
    "linear_weight": 0.0,
    "facts_weight": 0.0,
    "dim": 64,
    "layers": 3,
    "lr": 1e-3,
    "refit": False,
}
_PLAIN = {
    "degree_exponent": 0.0, "gate_l2": 0.0, "angle_pairs": "items", "angle_weight": 0.005, "batch_size": 4096,
    "positives_per_user": 1,
}  # fmt: skip
_RELEASED = {**_HINGE, **_PLAIN, "formulation": "released", "score": "fused", "negatives": 200, "margin": 0.6}
_PUBLISHED = {**_RELEASED, "select_by": "recall@20", "epochs": 1000, "eval_every": 5, "patience": 20}
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "fast": {"lr": 4e-3, "patience": 6},
    "released": _RELEASED,
    "paper": {**_RELEASED, "formulation": "paper", "score": "separate"},
    "alibaba-ifashion": {**_PUBLISHED, "lr": 1e-4, "layers": 3, "negatives": 200, "margin": 0.6},
    "yelp2018": {**_PUBLISHED, "lr": 5e-4, "layers": 2, "negatives": 400, "margin": 0.8},
    "last-fm": {**_PUBLISHED, "lr": 1e-4, "layers": 3, "negatives": 400, "margin": 0.7},
}
"""Named settings: ``default``; ``fast``, half the epochs for half a percent of quality; ``released`` as the released
code was run on small data sets; ``paper``, the published equations and loss, scored by what that loss trains; the
published hyper-parameters of the three data sets of the publication (its section 5.1.4 and the released code's
scripts)."""

_OF_BOTH_LOSSES: dict[str, Any] = {
    "angle_weight": {"low": 1e-3, "high": 1.0, "log": True},
    "message_dropout": {"low": 0.0, "high": 0.5},
    "kg_edge_dropout": {"low": 0.0, "high": 0.8},
    "interaction_dropout": {"low": 0.0, "high": 0.8},
}
SPACE: dict[str, Any] = {
    "lr": {"low": 3e-4, "high": 1e-2, "log": True},
    "layers": {"low": 1, "high": 3},
    "temperature": {"low": 0.3, "high": 3.0, "log": True},
    "degree_exponent": {"low": 0.0, "high": 1.0},
    "gate_l2": {"low": 1e-5, "high": 1e-1, "log": True},
    **_OF_BOTH_LOSSES,
}
"""What is searched with the softmax; weights and λ of the closed-form terms are chosen in every training."""
HINGE_SPACE: dict[str, Any] = {
    "lr": {"low": 3e-4, "high": 1e-2, "log": True},
    "layers": {"low": 1, "high": 3},
    "margin": {"low": 0.3, "high": 0.9},
    "negatives": {"low": 50, "high": 400, "log": True},
    **_OF_BOTH_LOSSES,
}
"""What is searched with the hinge."""

VARIANTS = (
    Variant("euclidean", "without hyperbolic geometry", {"geometry": "euclidean"}),
    Variant("no-angle", "without the angle loss", {"angle_weight": 0.0}),
    Variant("no-gate", "without the gate", {"gate": False}),
    Variant("no-dual", "without dual item embeddings", {"dual_item_embeddings": False}),
    Variant("no-linear", "without the linear item-item term", {"linear_weight": 0.0}),
    Variant("no-facts-term", "without the term over facts", {"facts_weight": 0.0}),
    Variant("paper", "formulation of the paper", {"formulation": "paper"}),
    Variant("released", "formulation of the released code", {"formulation": "released"}),
    *(Variant(f"layers-{depth}", f"L = {depth}", {"layers": depth}, "depth") for depth in (1, 2, 3, 4)),
)
"""The full model without each of its parts, in both formulations, and by the number of layers."""


def idle_settings(values: Mapping[str, Any]) -> dict[str, str]:
    """Settings that others switch off, for settings as they are (key -> value): key -> when it would be read."""
    idle: dict[str, str] = {}
    if values["ranking_loss"] == "softmax":
        idle |= dict.fromkeys(("negatives", "margin"), "with ranking_loss = 'hinge'")
    else:
        idle |= dict.fromkeys(("temperature", "candidates"), "with ranking_loss = 'softmax'")
    if not any(values["facts_weight"]):
        of_facts = ("facts_l2", "facts_rank", "new_items_weight", "new_items_bias")
        idle |= dict.fromkeys(of_facts, "with a facts_weight above 0")
    if not any(values["linear_weight"]):
        idle |= dict.fromkeys(("linear_l2", "linear_exponent", "linear_rank"), "with a linear_weight above 0")
    if values["angle_weight"] == 0.0:
        of_angles = ("angle_pairs", "angle_direction", "angle_dropout", "angle_mask", "hierarchical_relations")
        idle |= dict.fromkeys(of_angles, "with an angle_weight above 0")
    elif values["angle_dropout"] == 0.0:
        idle["angle_mask"] = "with an angle_dropout above 0"
    if not values["dual_item_embeddings"]:
        idle["gate"] = "with dual_item_embeddings = true"
    if not (values["gate"] and values["dual_item_embeddings"]):
        idle["gate_l2"] = "with gate = true and dual_item_embeddings = true"
    if values["geometry"] == "euclidean":
        idle["curvature"] = "with geometry = 'poincare'"
    return idle
