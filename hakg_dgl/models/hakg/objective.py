"""What a step of HAKG minimises: both losses on a batch, with negatives and dropout from their own random streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from hakg_dgl.data.hierarchy import Triples, attribute_tree, hierarchical_relations
from hakg_dgl.errors import ConfigError
from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.graph.packed import SparsePattern
from hakg_dgl.kernels.interface import SparseBackend
from hakg_dgl.layers.embeddings import Embeddings
from hakg_dgl.layers.losses import (
    AngleLoss,
    contrastive_loss,
    item_attribute_pairs,
    softmax_loss,
    sum_of_squares,
    with_attribute_pairs,
)
from hakg_dgl.layers.sampling import NegativeSampler
from hakg_dgl.models.hakg.network import Network
from hakg_dgl.models.hakg.settings import HAKGLossSettings

STREAMS = ("negatives", "dropout", "angle")
"""Random streams of a step, apart from the order of batches and those of the initialisation."""


def facts_of(graph: HeteroGraph) -> Triples:
    """The triples of a graph between entities, as :mod:`~hakg_dgl.data.hierarchy` takes them."""
    head, relation, tail = graph.triples().cpu().numpy().T
    return Triples(head, relation, tail, graph.n_items, graph.n_entities, graph.n_relations)


def relation_ids(graph: HeteroGraph, names: tuple[str, ...]) -> Tensor | None:
    """Relations the angle loss uses: None for ``("all",)``, an estimate for ``("auto",)``, else those named.

    Raises
    ------
    ConfigError
        If a name is not a relation of the graph.
    """
    if names == ("all",):
        return None
    if names == ("auto",):
        return torch.tensor(hierarchical_relations(facts_of(graph)), dtype=torch.int64)
    unknown = [name for name in names if name not in graph.names]
    if unknown:
        shown = {number: name for name, number in graph.names.items()}  # names come after original ids
        raise ConfigError(
            f"hierarchical_relations names {', '.join(map(repr, unknown))}, which the data set lacks; "
            f"it has {', '.join(map(repr, list(shown.values())[:20]))}"
        )
    return torch.tensor([graph.names[name] for name in names], dtype=torch.int64)


def angle_direction(formulation: str, loss: HAKGLossSettings) -> Literal["both", "attribute"]:
    """The direction of the angle loss, ``auto`` being that of the formulation."""
    if loss.angle_direction == "auto":
        return "both" if formulation == "released" else "attribute"
    return loss.angle_direction


def angle_pairs(graph: HeteroGraph, loss: HAKGLossSettings) -> SparsePattern:
    """The pairs of a child and its parent that the angle loss orders."""
    relations = relation_ids(graph, loss.hierarchical_relations)
    pairs = item_attribute_pairs(graph.packed.knowledge, graph.n_items, relations)
    if loss.angle_pairs == "items" or loss.angle_weight == 0.0:
        return pairs
    named = loss.hierarchical_relations not in (("all",), ("auto",))
    tree = attribute_tree(facts_of(graph), relations.tolist() if named and relations is not None else None)
    if not len(tree):
        return pairs
    children, parents = (torch.tensor(tree[end].to_numpy(), dtype=torch.int64) for end in ("child", "parent"))
    return with_attribute_pairs(pairs, children, parents)


class Objective:
    """The loss of a batch.

    Parameters
    ----------
    network
        What is trained.
    random
        A generator for each of :data:`STREAMS`, on the network's device.
    """

    def __init__(self, network: Network, random: Mapping[str, torch.Generator]) -> None:
        self.network: Network = network
        self.generators: Mapping[str, torch.Generator] = random
        self.settings: HAKGLossSettings = network.loss
        graph = network.graph
        self.backend: SparseBackend = network.backend
        indptr, items = graph.positives()
        self.known: tuple[Tensor, Tensor] = (indptr, items)
        self.longest: int = int(indptr.diff().max())
        self.sampler: NegativeSampler = NegativeSampler(
            indptr, items, graph.n_items, device=network.device, backend=self.backend
        )
        # Items without interactions are no candidates: they would be negatives of everyone, whatever their facts say.
        self.pool: Tensor | None = (
            None if network.known_items is None else network.known_items.flatten().nonzero().flatten()
        )
        loss = self.settings
        self.angle: AngleLoss = AngleLoss(
            angle_pairs(graph, loss),
            network.rule,
            direction=angle_direction(network.settings.formulation, loss),
            aperture=loss.aperture,
            dropout=loss.angle_dropout,
            mask=loss.angle_mask,
        )

    def __call__(self, users: Tensor, positives: Tensor) -> Tensor:
        """Loss of a batch, int64 ``[batch]`` each: a scalar, differentiable in the network's parameters."""
        embeddings = self.network.propagate(dropout=self.generators["dropout"])
        total = self.ranking_loss(embeddings, users, positives)
        matrices = self.network.gate_matrices()
        if self.settings.gate_l2 > 0.0 and matrices:
            total = total + self.settings.gate_l2 * sum_of_squares(self.backend, matrices)
        if self.settings.angle_weight > 0.0:
            angle = self.angle(self.backend, self.network.entity, self.generators["angle"])
            total = total + self.settings.angle_weight * angle
        return total

    def ranking_loss(self, embeddings: Embeddings, users: Tensor, positives: Tensor) -> Tensor:
        """The part of the loss that ranks, from the embeddings after propagation: a scalar."""
        loss, generator = self.settings, self.generators["negatives"]
        if loss.ranking_loss == "hinge":
            negatives = self.sampler.sample(users, loss.negatives, generator)
            return contrastive_loss(self.backend, embeddings, users, positives, negatives, loss.margin)
        user, item = self.network.score_vectors(embeddings)
        return softmax_loss(
            user, item, users, positives, self.known,
            longest=self.longest, candidates=self.draw_candidates(), temperature=loss.temperature, backend=self.backend,
        )  # fmt: skip

    def draw_candidates(self) -> Tensor | None:
        """The items that the positives of a step compete with, int64 ``[m]``, ascending; None for all items."""
        n_items = self.network.graph.n_items
        return drawn_candidates(self.settings.candidates, n_items, self.pool, self.generators["negatives"])


def drawn_candidates(n: int, n_items: int, pool: Tensor | None, generator: torch.Generator) -> Tensor | None:
    """Some of the items of a pool (int64; None: all), drawn without replacement: all of it where it has no more."""
    n_pool = n_items if pool is None else len(pool)
    if n >= n_pool:
        return pool
    chosen = torch.randperm(n_pool, generator=generator, device=generator.device)[:n].sort().values
    return chosen if pool is None else pool[chosen]


def angle_loss_warnings(network: Network) -> list[str]:
    """Why the angle loss does nothing though it has a weight, in a text; empty where it does something."""
    loss: Any = network.loss
    if loss.angle_weight == 0.0 or angle_pairs(network.graph, loss).n_edges:
        return []
    return [why_no_angles(network.graph, loss)]


def why_no_angles(graph: HeteroGraph, loss: HAKGLossSettings) -> str:
    """What to say where the angle loss has no pairs."""
    names = loss.hierarchical_relations
    chosen = relation_ids(graph, names)
    why = f"no triple of hierarchical_relations = {list(names)} joins an item and an entity that is not an item"
    if chosen is not None and not len(chosen):
        why = f"hierarchical_relations = {list(names)} finds no hierarchical relation in the data set"
    return f"The angle loss is off: {why}; name other relations (hakg info DATA lists them), or set angle_weight = 0"
