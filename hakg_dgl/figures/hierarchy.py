"""Where entities and items lie, whether they are ordered from the origin outwards, and by which relations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.hierarchy import attribute_tree, relation_table
from hakg_dgl.data.synthetic import planted_depth
from hakg_dgl.figures.style import BLUE, GREY, INK, ORANGE, PALE, new_figure, plain, plain_relation, styled
from hakg_dgl.geometry.cones import cone_excess, cone_points
from hakg_dgl.models.positions import Positions
from hakg_dgl.randomness import numpy_generator

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

# --- relations that order -------------------------------------------------------------------------------------------


def child_edges(dataset: Dataset) -> pd.DataFrame:
    """Edges from what stands lower to what stands higher, of the relations that seem hierarchical.

    Such are the relations that ``hakg info`` marks (:func:`~hakg_dgl.data.hierarchy.relation_table`; the attribute is
    the parent, whichever end of the triple it is), and those that order attributes
    (:func:`~hakg_dgl.data.hierarchy.attribute_tree`).

    Returns
    -------
    DataFrame
        ``child``, ``parent`` (entities), ``relation`` (int64), each row once.
    """
    triples = dataset.triples
    head, relation, tail = (triples[column].to_numpy() for column in ("head", "relation", "tail"))
    mixed = (head < dataset.n_items) != (tail < dataset.n_items)
    kept = mixed & relation_table(dataset.facts, dataset.relations["name"])["hierarchical"].to_numpy()[relation]
    of_items = pd.DataFrame(
        {
            "child": np.minimum(head, tail)[kept],  # items have the lower numbers
            "parent": np.maximum(head, tail)[kept],
            "relation": relation[kept],
        }
    )
    edges = pd.concat([of_items, attribute_tree(dataset.facts)])
    distinct: pd.DataFrame = edges.drop_duplicates(["child", "parent"], ignore_index=True)
    return distinct


def relation_order(dataset: Dataset, where: Positions) -> pd.DataFrame:
    """The relations' estimated hierarchy beside what the model made of it.

    Parameters
    ----------
    dataset
        For the triples.
    where
        Where the entities lie.

    Returns
    -------
    DataFrame
        :func:`~hakg_dgl.data.hierarchy.relation_table` with two more columns. ``attribute_closer`` is the share of the
        relation's pairs whose attribute is closer to the origin than what is below it, ``in_cone`` the share in which
        that lies in the attribute's entailment cone, where the angle loss vanishes. Pairs are the triples of an item
        and an attribute and those of :func:`~hakg_dgl.data.hierarchy.attribute_tree`; NaN without any. ``hierarchical``
        also marks the relations of the latter.
    """
    triples, distance, tree = dataset.triples, where.entity_distance, attribute_tree(dataset.facts)
    head, tail = triples["head"].to_numpy(), triples["tail"].to_numpy()
    mixed = (head < dataset.n_items) != (tail < dataset.n_items)
    below = np.append(np.minimum(head, tail)[mixed], tree["child"].to_numpy(np.int64))
    above = np.append(np.maximum(head, tail)[mixed], tree["parent"].to_numpy(np.int64))
    relation = np.append(triples["relation"].to_numpy()[mixed], tree["relation"].to_numpy(np.int64))
    found = {"attribute_closer": distance[above] < distance[below], "in_cone": _in_cone(where, above, below)}
    shares = pd.DataFrame(found).astype(float).groupby(relation).mean()
    table = relation_table(dataset.facts, dataset.relations["name"]).join(shares, on="relation")
    return table.assign(hierarchical=table["hierarchical"] | table["orders_attributes"])


def _in_cone(where: Positions, apex: Int64, point: Int64) -> NDArray[np.bool_]:
    """Whether points lie in the entailment cones of apexes as the angle loss sees them; both are entities ``[n]``."""
    vectors = torch.from_numpy(where.entity)
    squared, dot = vectors.square().sum(1), edge_products(vectors, apex, point)
    ends = cone_points(squared[torch.from_numpy(apex)], squared[torch.from_numpy(point)], dot, rule=where.rule)
    return (cone_excess(*ends, rule=where.rule, aperture=where.aperture) == 0.0).numpy()


def edge_products(points: Tensor, start: Int64, end: Int64, *, block: int = 100_000) -> Tensor:
    """Inner products of points ``[n, d]`` along edges ``[m]``, in blocks: float64 ``[m]``."""
    cuts = range(0, len(start), block)
    parts = [(points[start[i : i + block]] * points[end[i : i + block]]).sum(1) for i in cuts]
    return torch.cat(parts) if parts else points.new_empty(0)


@styled
def relations_figure(order: pd.DataFrame, *, most: int = 20) -> Any:
    """Bars of the hierarchy score and of the shares of triples that the model orders; the largest relations first.

    Parameters
    ----------
    order
        From :func:`relation_order`.
    most
        Relations shown.

    Returns
    -------
    matplotlib.figure.Figure
    """
    shown = order.sort_values(["triples", "relation"], ascending=[False, True]).head(most)
    figure, axes = new_figure(9.6, 1.5 + 0.24 * len(shown), 1, 3, like={"sharey": True})
    places = np.arange(len(shown))
    colours = np.where(shown["hierarchical"], BLUE, PALE)
    left = axes[0, 0]
    left.barh(places, shown["hierarchy"], color=colours, edgecolor=GREY, linewidth=0.5, height=0.7)
    names = [f"{plain_relation(name)} ({n:,})" for name, n in zip(shown["name"], shown["triples"], strict=True)]
    left.set_yticks(places, names)
    left.set(xlim=(0, 1), xlabel="Krackhardt score (1: no cycles)", title="Estimated from the graph:\nfree of cycles")
    left.set_ylim(len(shown) - 0.4, -0.6)
    panels = {
        "attribute_closer": "attribute closer to the\norigin than what is below",
        "in_cone": "what is below is\nin the attribute's cone",
    }
    for panel, (column, title) in zip(axes[0, 1:], panels.items(), strict=True):
        panel.barh(places, shown[column], color=colours, edgecolor=GREY, linewidth=0.5, height=0.7)
        panel.set(xlim=(0, 1), xlabel="share of pairs", title=f"Learned: {title}")
        for place, value, hierarchical in zip(places, shown[column], shown["hierarchical"], strict=True):
            within = value > 0.8  # else beside the bar
            panel.annotate(
                "no such pairs" if np.isnan(value) else f"{value:.0%}", (0.0 if np.isnan(value) else value, place),
                xytext=(-3 if within else 3, 0), textcoords="offset points", va="center", fontsize=7,
                ha="right" if within else "left", color="white" if within and hierarchical else INK,
            )  # fmt: skip
    _legend_of_bars(figure)
    return figure


def _legend_of_bars(figure: Any) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=BLUE, edgecolor=GREY, label="estimated as hierarchical"),
        Patch(facecolor=PALE, edgecolor=GREY, label="not"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)


# --- the planted tree -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DepthAgreement:
    """How depth in a known tree and distance to the origin agree.

    Attributes
    ----------
    spearman
        Spearman's rank correlation over all nodes of the tree; 1 if deeper always is farther out.
    attributes
        The same over the nodes that are no item.
    highest, highest_attributes
        The most that both can be: nodes of one depth tie, their distances do not.
    levels
        A row a depth: ``depth``, ``nodes``, ``median``, ``low``, ``high`` (the quartiles) of the distance.
    distance, depth
        Of every node, ``[n]``.
    values, geometry
        Whose distances they are.
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

    A data set is the demo if it is called so and its entities have the original ids of the tree's nodes.
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
        Where the entities lie.
    tree
        ``entity`` and ``depth``.
    n_items
        Entities below this are items.
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


def rank_correlation(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Spearman's rank correlation, ties with their mean rank; NaN where either side is constant or shorter than 2."""
    if len(x) < 2 or (x == x[0]).all() or (y == y[0]).all():
        return float("nan")
    return float(spearmanr(x, y).statistic)


@styled
def depth_figure(agreements: dict[str, DepthAgreement]) -> Any:
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
