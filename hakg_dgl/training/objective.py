"""What a training step minimises: both losses on a batch, with negatives and dropout from their own random streams."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hakg_dgl.data.dataset import Dataset, attribute_tree, hierarchical_relations
from hakg_dgl.errors import ConfigError
from hakg_dgl.graph.packed import SparsePattern
from hakg_dgl.kernels.interface import choose_backend
from hakg_dgl.layers.embeddings import Embeddings
from hakg_dgl.layers.losses import (
    AngleLoss,
    contrastive_loss,
    item_attribute_pairs,
    softmax_loss,
    with_attribute_pairs,
)
from hakg_dgl.layers.sampling import NegativeSampler
from hakg_dgl.models.hakg import HAKG
from hakg_dgl.models.settings import LossSettings, Settings
from hakg_dgl.randomness import torch_generator

STREAMS = ("batches", "negatives", "dropout", "angle")
"""Random streams of training, apart from those of the initialisation."""


def relation_ids(dataset: Dataset, names: tuple[str, ...]) -> Tensor | None:
    """Relations the angle loss uses: None for ``("all",)``, an estimate for ``("auto",)``, else those named.

    Raises
    ------
    ConfigError
        If a name is not a relation of the data set.
    """
    if names == ("all",):
        return None
    if names == ("auto",):
        return torch.tensor(hierarchical_relations(dataset), dtype=torch.int64)
    # Names win over original ids: those are what `hakg info` shows.
    columns = (dataset.relations["original_id"], dataset.relations["name"])
    known = {name: index for column in columns for index, name in enumerate(column)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            f"hierarchical_relations names {', '.join(map(repr, unknown))}, which the data set lacks; "
            f"it has {', '.join(map(repr, dataset.relations['name'][:20]))}"
        )
    return torch.tensor([known[name] for name in names], dtype=torch.int64)


def _angle_direction(settings: Settings) -> Literal["both", "attribute"]:
    if settings.loss.angle_direction == "auto":
        return "both" if settings.model.formulation == "released" else "attribute"
    return settings.loss.angle_direction


def _angle_pairs(model: HAKG, dataset: Dataset, loss: LossSettings) -> SparsePattern:
    relations = relation_ids(dataset, loss.hierarchical_relations)
    pairs = item_attribute_pairs(model.packed.knowledge, dataset.n_items, relations)
    if loss.angle_pairs == "items" or loss.angle_weight == 0.0:
        return pairs
    named = loss.hierarchical_relations not in (("all",), ("auto",))
    tree = attribute_tree(dataset, relations.tolist() if named and relations is not None else None)
    if not len(tree):
        return pairs
    children, parents = (torch.tensor(tree[end].to_numpy(), dtype=torch.int64) for end in ("child", "parent"))
    return with_attribute_pairs(pairs, children, parents)


class Objective:
    """The loss of a batch.

    Parameters
    ----------
    model
        The model being trained.
    dataset
        For the negatives (items a user has none of ``splits`` with) and the names of relations.
    settings
        Its loss section, and the seed.
    splits
        Whose interactions are trained on.
    """

    def __init__(self, model: HAKG, dataset: Dataset, settings: Settings, splits: tuple[str, ...]) -> None:
        self.model, self.settings = model, settings.loss
        loss, device = settings.loss, model.device
        kernels = settings.model.kernels
        self.backend = choose_backend("auto" if kernels == "readable" else kernels, device)
        self.generators = {name: torch_generator(settings.run.seed, name, device) for name in STREAMS}
        indptr, items = (torch.tensor(a, dtype=torch.int64, device=device) for a in dataset.positives(*splits))
        self.known, self.longest = (indptr, items), int(indptr.diff().max())
        self.sampler = NegativeSampler(*dataset.positives(*splits), dataset.n_items, device=device)
        self.angle = AngleLoss(
            _angle_pairs(model, dataset, loss),
            model.rule,
            direction=_angle_direction(settings),
            aperture=loss.aperture,
            dropout=loss.angle_dropout,
            mask=loss.angle_mask,
        )

    def __call__(self, users: Tensor, positives: Tensor) -> Tensor:
        """Loss of a batch, int64 ``[batch]`` each: a scalar, differentiable in the model's parameters."""
        embeddings = self.model.propagate(dropout=self.generators["dropout"])
        total = self.ranking_loss(embeddings, users, positives)
        if self.settings.gate_l2 > 0.0:
            for matrix in self.model.gate_matrices():
                total = total + self.settings.gate_l2 * matrix.square().sum()
        if self.settings.angle_weight > 0.0:
            angle = self.angle(self.backend, self.model.entity, self.generators["angle"])
            total = total + self.settings.angle_weight * angle
        return total

    def ranking_loss(self, embeddings: Embeddings, users: Tensor, positives: Tensor) -> Tensor:
        """The part of the loss that ranks, from the embeddings after propagation: a scalar."""
        loss, generator = self.settings, self.generators["negatives"]
        if loss.ranking_loss == "hinge":
            negatives = self.sampler.sample(users, loss.negatives, generator)
            return contrastive_loss(self.backend, embeddings, users, positives, negatives, loss.margin)
        user, item = self.model.score_vectors(embeddings)
        candidates = None
        if loss.candidates < len(item):
            order = torch.randperm(len(item), generator=generator, device=generator.device)
            candidates = order[: loss.candidates].sort().values
        return softmax_loss(
            user, item, users, positives, self.known,
            longest=self.longest, candidates=candidates, temperature=loss.temperature, backend=self.backend,
        )  # fmt: skip
