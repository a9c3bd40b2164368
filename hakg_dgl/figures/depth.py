"""Whether depth in a known tree and distance to the origin agree: numbers and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hakg_dgl.data.dataset import Dataset, Int64
from hakg_dgl.data.synthetic import planted_depth
from hakg_dgl.figures.correlation import rank_correlation
from hakg_dgl.figures.style import BLUE, INK, ORANGE, new_figure, plain, styled
from hakg_dgl.models.positions import Float64, Positions
from hakg_dgl.randomness import numpy_generator


@dataclass(frozen=True, eq=False)
class DepthAgreement:
    """How depth in a known tree and distance to the origin agree.

    Attributes
    ----------
    spearman
        Spearman's rank correlation over all nodes of the tree; 1 if deeper always is farther out.
    attributes
        The same over the nodes that are not items.
    highest, highest_attributes
        The largest values that both can have; they are below 1, because nodes of one depth tie and distances do not.
    levels
        A row for each depth: ``depth``, ``nodes``, and the quartiles ``low``, ``median`` and ``high`` of the distance.
    distance, depth
        Distance and depth of every node, ``[n]``.
    values, geometry
        Values and geometry of the positions, see :class:`~hakg_dgl.models.positions.Positions`.
    """

    spearman: float
    attributes: float
    highest: float
    highest_attributes: float
    levels: pd.DataFrame
    distance: Float64
    depth: Int64
    values: str
    geometry: str


def known_tree(dataset: Dataset) -> pd.DataFrame | None:
    """The tree that was planted in the demo (:func:`~hakg_dgl.data.synthetic.planted_depth`); None for other data.

    A data set is the demo if its name is ``demo`` and its entities have the original ids of the tree's nodes.
    """
    tree = planted_depth()
    if dataset.name != "demo" or dataset.n_entities <= int(tree["entity"].max()):
        return None
    ids = pd.concat([dataset.items["original_id"], dataset.entities["original_id"].iloc[dataset.n_items :]])
    same = (ids.iloc[tree["entity"]].to_numpy() == tree["original_id"].to_numpy()).all()
    return tree if same else None


def depth_agreement(where: Positions, tree: pd.DataFrame, n_items: int) -> DepthAgreement:
    """Compare depth in a tree with distance to the origin.

    Parameters
    ----------
    where
        Positions of the entities.
    tree
        The tree, with columns ``entity`` and ``depth``.
    n_items
        The number of items; entities with smaller numbers are items.
    """
    entity, depth = tree["entity"].to_numpy(np.int64), tree["depth"].to_numpy(np.int64)
    distance = where.entity_distance[entity]
    attribute = entity >= n_items
    grouped = pd.DataFrame({"depth": depth, "distance": distance}).groupby("depth")["distance"]
    quartiles = grouped.quantile(np.array([0.25, 0.5, 0.75])).unstack().set_axis(["low", "median", "high"], axis=1)
    levels = quartiles.assign(nodes=grouped.size()).reset_index()
    highest, highest_attributes = (
        rank_correlation(np.sort(some), np.arange(len(some))) for some in (depth, depth[attribute])
    )
    return DepthAgreement(
        rank_correlation(depth, distance),
        rank_correlation(depth[attribute], distance[attribute]),
        highest,
        highest_attributes,
        levels,
        distance,
        depth,
        where.values,
        where.geometry,
    )


@styled
def planted_depth_figure(agreements: dict[str, DepthAgreement]) -> Any:
    """Distance to the origin by depth in the planted tree, a panel for each of the named agreements.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = new_figure(4.2 * len(agreements), 3.6, 1, len(agreements))
    for panel, (name, found) in zip(axes[0], agreements.items(), strict=True):
        spread = numpy_generator(0, "figure").uniform(-0.28, 0.28, len(found.depth))  # so that points do not hide
        last = found.depth == found.depth.max()
        panel.scatter((found.depth + spread)[~last], found.distance[~last], s=7, color=ORANGE, label="attributes")
        panel.scatter(
            (found.depth + spread)[last], found.distance[last], s=4, color=BLUE, alpha=0.45, linewidths=0, label="items"
        )
        panel.plot(found.levels["depth"], found.levels["median"], color=INK, marker="D", markersize=4, label="median")
        panel.set(
            title=f"{plain(name, 60)}\nSpearman {found.spearman:+.2f} (at most {found.highest:+.2f})\n"
            f"attributes alone {found.attributes:+.2f} (at most {found.highest_attributes:+.2f})",
            xlabel="depth in the planted tree (0: root)",
            ylabel="distance to the origin" + ("" if found.geometry == "poincare" else " (Euclidean)"),
            xticks=found.levels["depth"],
        )
        panel.set_ylim(bottom=0.0)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure
