"""A model of one's own, as docs/extending.md describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

import hakg_dgl
from hakg_dgl.layers.losses import bpr_loss
from hakg_dgl.layers.sampling import NegativeSampler
from hakg_dgl.models.recommender import (
    Abilities,
    GradientRecommender,
    NoSettings,
    Pass,
    Sections,
    interaction_batches,
)
from hakg_dgl.settings.run import GradientRunSettings
from hakg_dgl.settings.section import Range, Section
from hakg_dgl.settings.training import TrainingSettings


@dataclass(frozen=True)
class ToySettings(Section):
    """Settings of the toy model, with their defaults and ranges."""

    dim: Annotated[int, Range(1, 512)] = 8


class Toy(GradientRecommender):
    """Matrix factorisation with a bias for each item."""

    name = "toy"
    sections = Sections(ToySettings, NoSettings, TrainingSettings, GradientRunSettings)
    space: ClassVar[Mapping[str, object]] = {"dim": [4, 8, 16]}
    abilities = Abilities(vectors=True)
    streams = ("negatives",)
    settings: ToySettings

    def build(self) -> None:
        self.user = self.parameter("user", self.graph.n_users, self.settings.dim)
        self.item = self.parameter("item", self.graph.n_items, self.settings.dim)
        self.bias = self.parameter("bias", self.graph.n_items, 1)

    def ranking_vectors(self) -> tuple[torch.Tensor, torch.Tensor]:
        ones = torch.ones_like(self.user[:, :1])
        return torch.cat([self.user, ones], 1), torch.cat([self.item, self.bias], 1)

    def passes(self, training: TrainingSettings, random: Mapping[str, torch.Generator]) -> Sequence[Pass]:
        sampler = NegativeSampler(*self.graph.positives(), self.graph.n_items, device=self.device)

        def loss(users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
            negatives = sampler.sample(users, 1, random["negatives"]).squeeze(1)
            user, item = self.ranking_vectors()
            return bpr_loss(user[users], item[items], item[negatives])

        return [Pass("interactions", interaction_batches(self.graph, training, random), loss)]


def main() -> float:
    """Train it by the package's trainer."""
    hakg_dgl.register_model(Toy)
    settings = hakg_dgl.Settings("toy").replace({"epochs": 1})
    trainer = hakg_dgl.make_trainer(hakg_dgl.preprocess(hakg_dgl.generate_demo()), settings)
    metrics: Mapping[str, float] = trainer.fit()["metrics"]["test"]
    return metrics["ndcg@20"]


if __name__ == "__main__":
    main()
