"""Models that draw the facts of entities once: what was drawn in training stays where new items come."""

from __future__ import annotations

from abc import ABC

from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.graph.packed import KnowledgePattern
from hakg_dgl.layers.neighbours import facts_but_to
from hakg_dgl.models.recommender import GradientRecommender, model_with_new_items


class DrawnNeighbours(GradientRecommender, ABC):
    """A model whose parameters with a row a node are ``user`` and ``entity``, and which draws from :meth:`known_facts`.

    New items have facts, and nobody has drawn them: all that was trained on remains exactly as it was.

    Attributes
    ----------
    first_new_item
        Where the items begin that came without training; None if all were trained on.
    """

    first_new_item: int | None = None

    @property
    def new_items(self) -> range:
        """Numbers of the items that came without training."""
        n_items = self.graph.n_items
        return range(n_items if self.first_new_item is None else self.first_new_item, n_items)

    def known_facts(self) -> KnowledgePattern:
        """The facts that draws are made from: none of them leads to a new item."""
        return facts_but_to(self.graph.packed.knowledge, self.new_items)

    def with_new_items(self, graph: HeteroGraph) -> DrawnNeighbours:
        """The model with further items, which receive their facts; what was drawn for others stays."""
        model = model_with_new_items(self, graph, entities=("entity",))
        model.first_new_item = self.graph.n_items if self.first_new_item is None else self.first_new_item
        model.graph_moved()
        return model
