"""How well a model orders the pairs of each relation, as a table and a picture beside estimates from the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hakg_dgl.data.dataset import Dataset, Int64
from hakg_dgl.data.hierarchy import attribute_tree, relation_table
from hakg_dgl.figures.style import BLUE, GREY, INK, PALE, new_figure, plain_relation, styled
from hakg_dgl.geometry.cones import cone_excess, cone_points
from hakg_dgl.models.positions import Positions


def relation_order(dataset: Dataset, where: Positions) -> pd.DataFrame:
    """The hierarchy of each relation as estimated from the graph, and how well the model orders its pairs.

    Parameters
    ----------
    dataset
        The data set with the triples.
    where
        Positions of the entities.

    Returns
    -------
    DataFrame
        :func:`~hakg_dgl.data.hierarchy.relation_table` with two more columns. ``attribute_closer`` is the share of the
        relation's pairs in which the attribute is closer to the origin than the entity below it. ``in_cone`` is the
        share in which that entity lies in the attribute's entailment cone, where the angle loss is zero. Pairs are the
        triples of an item and an attribute, and those of :func:`~hakg_dgl.data.hierarchy.attribute_tree`. Shares are
        NaN without any pairs. ``hierarchical`` also marks the relations of the attribute tree.
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
    """Whether points lie in the cones of apexes that the angle loss compares; both are numbers of entities ``[n]``."""
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
    """Bars of the hierarchy score and of the shares of pairs that the model orders; the largest relations come first.

    Parameters
    ----------
    order
        The table of :func:`relation_order`.
    most
        The largest number of relations to show.

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
