"""The picture of entities and items in the Poincaré disk, with geodesic edges and entailment cones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hakg_dgl.data.dataset import Dataset, Int64
from hakg_dgl.data.shared_items import SharedItems, unnamed_entities
from hakg_dgl.figures.branches import Branches, child_edges, largest_branches
from hakg_dgl.figures.disk_layout import Layout, cone_outline, disk_layout, geodesics
from hakg_dgl.figures.style import CYCLE, GREY, INK, PALE, RASTER_ABOVE, new_figure, plain, styled
from hakg_dgl.models.positions import Float64, Positions

_EDGES_SHOWN = 1500
_DISTANCES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0, 50.0)


def shows_cones(where: Positions) -> bool:
    """Whether the picture can show the cones of the angle loss as they are.

    It can for two dimensions, if the loss compares the points of the picture. The released formulation takes the
    tangent vectors themselves for points of the ball, so its cones lie elsewhere; in flat space both are the same.
    """
    return where.entity.shape[1] <= 2 and (where.formulation == "paper" or not where.hyperbolic)


@styled
def disk_figure(where: Positions, dataset: Dataset) -> Any:
    """The picture of entities and items.

    Circles are attributes, dots are items, lines are the hierarchical triples, and colours are the largest branches.
    Cones are drawn at the branches' apexes if :func:`shows_cones` says so.

    Parameters
    ----------
    where
        Positions of the entities.
    dataset
        The data set, whose triples are the edges.

    Returns
    -------
    matplotlib.figure.Figure
    """
    layout, edges = disk_layout(where), child_edges(dataset)
    branches = largest_branches(edges, dataset.n_entities, dataset.n_items)
    figure, axes = new_figure(8.4, 6.0)
    panel, points = axes[0, 0], layout.points
    shown = np.zeros(dataset.n_entities, dtype=bool)
    shown[: dataset.n_items] = shown[edges["parent"]] = shown[edges["child"]] = True
    view = _frame(panel, points[shown], layout.hyperbolic)
    cones = shows_cones(where)
    if cones:
        _draw_cones(panel, points, branches, where.aperture, layout.hyperbolic)
    _draw_edges(panel, layout, edges, branches)
    _draw_points(panel, points, shown, branches, dataset)
    panel.set(xlim=view[0], ylim=view[1], aspect="equal")
    for side in panel.spines.values():
        side.set_visible(False)
    panel.set(xticks=[], yticks=[])
    place = "Poincaré disk" if layout.hyperbolic else "Plane"
    panel.set_title(f"{place}: {_of(where)}")
    _legend(figure, branches, dataset, cones)
    return figure


def _of(where: Positions) -> str:
    kind = "parameters" if where.values == "parameters" else "propagated embeddings"
    return f"knowledge {kind} ({where.entity.shape[1]} dimensions)"


def _frame(panel: Any, points: Float64, hyperbolic: bool) -> Float64:
    """Draw circles of equal distance and the edge of the disk; returns the view, low and high of x and of y."""
    from matplotlib.patches import Circle

    view = _view(points, hyperbolic)
    half = float(np.ptp(view[0])) / 2.0
    if hyperbolic:
        panel.add_patch(Circle((0, 0), 1.0, fill=False, edgecolor=INK, linewidth=1.2))
    marks = np.array(_DISTANCES)
    rings = np.tanh(marks / 2.0) if hyperbolic else marks
    last = 0.97 if hyperbolic else np.inf  # circles farther out would touch the edge
    labels = [_label_place(radius, view) for radius in rings]
    for i in [i for i, at in enumerate(labels) if at is not None and 0.2 * half < rings[i] < last][-3:]:
        panel.add_patch(Circle((0, 0), rings[i], fill=False, edgecolor=PALE, linewidth=0.8, linestyle=(0, (4, 3))))
        panel.annotate(
            f"d = {marks[i]:g}", labels[i], fontsize=7, color=INK, ha="center", va="center", zorder=7,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )  # fmt: skip
    panel.plot(0, 0, marker="+", color=INK, markersize=8, markeredgewidth=1.0, zorder=5)
    return view


def _view(points: Float64, hyperbolic: bool) -> Float64:
    """A square around the origin and all points, ``[2, 2]``; it is the whole disk if points come near its edge."""
    if hyperbolic and np.linalg.norm(points, axis=1).max(initial=0.0) > 0.8:
        return np.array([[-1.03, 1.03], [-1.03, 1.03]])
    low, high = points.min(0, initial=0.0), points.max(0, initial=0.0)
    half = 0.56 * max(float((high - low).max()), 1e-6)
    centre = (low + high) / 2.0
    return np.stack([centre - half, centre + half], axis=1)


def _label_place(radius: float, view: Float64) -> tuple[float, float] | None:
    """The place of a circle's label: its lowest point, or the first of three others that is in view, or None."""
    low, high = view[:, 0], view[:, 1]
    margin = 0.04 * (high - low)
    for place in ((0.0, -radius), (0.0, radius), (radius, 0.0), (-radius, 0.0)):
        if (low + margin < place).all() and (place < high - margin).all():
            return place
    return None


def _draw_cones(panel: Any, points: Float64, branches: Branches, aperture: float, hyperbolic: bool) -> None:
    for number, apex in enumerate(branches.apexes):
        if np.any(points[apex]):
            outline = cone_outline(points[apex], aperture=aperture, hyperbolic=hyperbolic)
            panel.fill(*outline.T, color=CYCLE[number], alpha=0.05, linewidth=0)
            panel.plot(*outline.T, color=CYCLE[number], alpha=0.6, linewidth=0.9, zorder=4)
            panel.scatter(
                *points[apex], s=60, marker="D", color=CYCLE[number], edgecolors="white", linewidths=1.0, zorder=7
            )


def _draw_edges(panel: Any, layout: Layout, edges: pd.DataFrame, branches: Branches) -> None:
    from matplotlib.collections import LineCollection

    child, parent = edges["child"].to_numpy(), edges["parent"].to_numpy()
    inside = (branches.branch[child] == branches.branch[parent]) & (branches.branch[child] >= 0)
    for chosen, width, alpha in ((~inside, 0.4, 0.12), (inside, 0.6, 0.45)):
        some = np.flatnonzero(chosen)[:: max(1, -(-int(chosen.sum()) // _EDGES_SHOWN))]
        lines = geodesics(layout.points[parent[some]], layout.points[child[some]], hyperbolic=layout.hyperbolic)
        colours = _colours(np.where(inside, branches.branch[child], -1)[some])
        panel.add_collection(
            LineCollection(
                list(lines), colors=colours, linewidths=width, alpha=alpha, zorder=1, rasterized=len(lines) > 500
            )
        )


def _draw_points(panel: Any, points: Float64, shown: NDArray[np.bool_], branches: Branches, dataset: Dataset) -> None:
    """Draw points outside of branches first, so that they hide none of the others."""
    is_item = np.arange(len(points)) < dataset.n_items
    ring = 22.0 if (shown & ~is_item).sum() <= 400 else 8.0  # many large ones would hide all else
    for inside in (False, True):
        chosen = shown & ((branches.branch >= 0) == inside)
        colours, many = _colours(branches.branch), bool(chosen.sum() > RASTER_ABOVE)
        at, rest = chosen & is_item, chosen & ~is_item
        panel.scatter(*points[at].T, s=5, c=colours[at], alpha=0.75, linewidths=0, zorder=2 + inside, rasterized=many)
        panel.scatter(
            *points[rest].T, s=ring, facecolors="white", edgecolors=colours[rest], linewidths=1.0 if ring > 10 else 0.7,
            zorder=3 + inside, rasterized=many,
        )  # fmt: skip
    for number, root in enumerate(branches.roots):
        panel.scatter(
            *points[root], s=80, color=CYCLE[number], edgecolors="white", linewidths=1.2, zorder=6, marker="o"
        )


def _colours(branch: Int64) -> NDArray[np.str_]:
    return np.array([*CYCLE, "#b0b0b0"])[branch]


def _legend(figure: Any, branches: Branches, dataset: Dataset, cones: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    none: dict[str, Any] = {"linestyle": "none"}
    names, unnamed, shared = dataset.entities["name"], unnamed_entities(dataset), SharedItems(dataset)

    def label(root: int, items: int) -> str:
        hint = shared.described(root) if unnamed[root] else ""
        return f"{plain(names.iloc[root])} ({items:,} items)" + (f"\n{plain(hint, 34)}" if hint else "")

    handles: list[Any] = [
        Line2D([], [], marker="o", color=CYCLE[n], markersize=8, label=label(root, items), **none)
        for n, (root, items) in enumerate(zip(branches.roots.tolist(), branches.items.tolist(), strict=True))
    ]
    handles += [
        Line2D([], [], marker=".", color=GREY, markersize=5, label="item", **none),
        Line2D([], [], marker="o", color=GREY, markerfacecolor="white", markersize=5, label="attribute", **none),
        Line2D([], [], color=GREY, linewidth=0.8, label="hierarchical triple"),
        Line2D([], [], marker="+", color=INK, markersize=7, label="origin", **none),
    ]
    if cones:
        apex = "apex: most items of\nits branch directly below"
        handles += [
            Line2D([], [], marker="D", color=GREY, markersize=6, label=apex, **none),
            Patch(facecolor=GREY, alpha=0.3, label="its entailment cone"),
        ]
    figure.legend(handles=handles, loc="outside right upper", title="Largest branches", alignment="left")
