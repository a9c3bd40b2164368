"""Entities and items in the Poincaré disk, with geodesic edges and entailment cones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.shared_items import SharedItems, unnamed_entities
from hakg_dgl.figures.hierarchy import Float64, Int64, child_edges
from hakg_dgl.figures.style import CYCLE, GREY, INK, PALE, RASTER_ABOVE, new_figure, plain, styled
from hakg_dgl.geometry.cones import APERTURE, euclidean_half_aperture, half_aperture
from hakg_dgl.geometry.poincare import expmap, logmap
from hakg_dgl.models.positions import Positions

_EDGES_SHOWN = 1500
_DISTANCES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0, 50.0)
_RAY = 12.0


@dataclass(frozen=True, eq=False)
class Layout:
    """Points of the plane for all entities.

    Attributes
    ----------
    points
        float64 ``[n_entities, 2]``: in the unit disk (curvature -1, which the ball of any curvature scales to) for a
        model of the ball, in flat space else. The distance to the origin is the model's own.
    exact
        Whether the model has two dimensions; else angles are those of a projection.
    hyperbolic
        Whether edges are geodesics of the disk.
    """

    points: Float64
    exact: bool
    hyperbolic: bool

    @property
    def caption(self) -> str:
        """How the picture came about, in a sentence."""
        if self.exact:
            return "The model has two dimensions: points lie where it puts them."
        return (
            "The distance to the origin is the model's own; the angle is that of the point's direction projected to "
            "the two principal components of all directions, so neighbours in the picture need not be neighbours."
        )


def disk_layout(where: Positions) -> Layout:
    r"""Put entities into the plane, keeping their distance to the origin.

    Two-dimensional models as they are, :math:`\sqrt c \exp_0(v)`. Of others the directions :math:`v/\|v\|` are
    projected to their first two principal components; the angle there is kept, and the radius is
    :math:`\tanh(\sqrt c\|v\|)` (in flat space :math:`\|v\|`).
    """
    length = np.linalg.norm(where.entity, axis=1, keepdims=True)
    directions = where.entity / np.maximum(length, 1e-300)
    dim = directions.shape[1]
    if dim > 2:
        directions = directions - directions.mean(axis=0)
        # Principal components by way of the small matrix [d, d]; the largest first.
        vectors = np.linalg.eigh(directions.T @ directions)[1][:, ::-1][:, :2]
        vectors = vectors * np.where(vectors[np.abs(vectors).argmax(0), [0, 1]] < 0, -1.0, 1.0)  # a sign of our own
        directions = directions @ vectors
        directions = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-300)
    elif dim == 1:
        directions = np.concatenate([directions, np.zeros_like(directions)], axis=1)
    radius = np.tanh(np.sqrt(where.curvature) * length) if where.hyperbolic else length
    return Layout(directions * radius, dim <= 2, where.hyperbolic)


def geodesics(start: Float64, end: Float64, *, hyperbolic: bool = True, steps: int = 16) -> Float64:
    r"""Points along the shortest lines between points of the unit disk.

    :math:`\gamma(t) = \exp_x(t \log_x(y))`; straight lines where not hyperbolic.

    Parameters
    ----------
    start, end
        float64 ``[n, 2]``.
    hyperbolic
        Whether the disk is the Poincaré disk.
    steps
        Points a line, at least 2.

    Returns
    -------
    Float64
        ``[n, steps, 2]``.
    """
    t = np.linspace(0.0, 1.0, steps)[None, :, None]
    if not hyperbolic:
        return start[:, None] * (1.0 - t) + end[:, None] * t
    x, y = torch.from_numpy(start)[:, None], torch.from_numpy(end)[:, None]
    lines: Float64 = expmap(torch.from_numpy(t) * logmap(y, x), x).numpy()
    return lines


def cone_outline(apex: Float64, *, aperture: float = APERTURE, hyperbolic: bool = True, steps: int = 48) -> Float64:
    r"""Outline of the entailment cone at an apex: two rays at the half aperture :math:`\psi` from its axis.

    The axis leads from the origin through the apex outwards; the rays are geodesics, drawn until they (nearly) meet
    the edge of the disk, and the arc of the edge between them closes the outline.

    Parameters
    ----------
    apex
        float64 ``[2]``, not the origin.
    aperture
        The constant K of the cones.
    hyperbolic
        Whether the disk is the Poincaré disk.
    steps
        Points a ray.

    Returns
    -------
    Float64
        ``[2 steps + steps, 2]``, a closed polygon without its last point repeated.
    """
    squared = torch.tensor(float(apex @ apex), dtype=torch.float64)
    opening = half_aperture if hyperbolic else euclidean_half_aperture
    psi, axis = float(opening(squared, aperture=aperture)), np.arctan2(apex[1], apex[0])
    turn = axis + np.array([[-psi], [psi]])
    directions = np.stack([np.cos(turn), np.sin(turn)], axis=-1)  # [2, 1, 2]
    along = np.linspace(0.0, 1.0, steps)[None, :, None] * directions
    if hyperbolic:
        base = torch.from_numpy(np.broadcast_to(apex, (2, steps, 2)).copy())
        # Ray lengths are hyperbolic: a tangent t at x goes to distance lambda_x |t|.
        rays = expmap(torch.from_numpy(along * _RAY * (1.0 - apex @ apex) / 2.0), base).numpy()
    else:
        rays = apex + along * 10.0
    first, second = rays
    ends = np.arctan2(first[-1, 1], first[-1, 0]), np.arctan2(second[-1, 1], second[-1, 0])
    sweep = ends[0] + np.linspace(0.0, 1.0, steps) * ((ends[1] - ends[0]) % (2.0 * np.pi))
    radius = np.linalg.norm(first[-1])
    arc = radius * np.stack([np.cos(sweep), np.sin(sweep)], axis=-1)
    return np.concatenate([first, arc, second[::-1]])


@dataclass(frozen=True, eq=False)
class Branches:
    """A few large branches of the hierarchy, to be told apart by colour.

    Attributes
    ----------
    roots
        The attributes at their top, int64 ``[k]``.
    branch
        The branch of every entity, int64 ``[n_entities]``: 0..k-1, and -1 for none or several.
    items
        Items below each root, int64 ``[k]``.
    apexes
        In each branch the attribute with most items directly below it, int64 ``[k]``: what the angle loss sees.
    """

    roots: Int64
    branch: Int64
    items: Int64
    apexes: Int64


def largest_branches(edges: pd.DataFrame, n_entities: int, n_items: int, *, most: int = 5, levels: int = 8) -> Branches:
    """Choose attributes with many items below them, none of which lies below another.

    One that has more than half of all items below it tells nothing apart, and is passed over.

    Parameters
    ----------
    edges
        ``child``, ``parent``, from :func:`~hakg_dgl.figures.hierarchy.child_edges`.
    n_entities, n_items
        Entities below ``n_items`` are items.
    most
        Branches at most.
    levels
        Edges followed upwards at most.
    """
    below = _descendants(edges, n_entities, levels)  # [n_entities, n_entities], row: what stands above
    count = np.diff(below[:, :n_items].tocsr().indptr)
    order = np.argsort(-count, kind="stable")
    candidates = [int(node) for node in order if node >= n_items and 0 < count[node] <= n_items / 2]
    roots: list[int] = []
    related = below + below.T
    for node in candidates[: 50 * most]:
        if not any(related[node, root] for root in roots):
            roots.append(node)
        if len(roots) == most:
            break
    member = below[roots].toarray() > 0 if roots else np.zeros((0, n_entities), dtype=bool)
    member[np.arange(len(roots)), roots] = True
    branch = np.where(member.sum(0) == 1, member.argmax(0) if roots else -1, -1).astype(np.int64)
    direct = edges.loc[edges["child"] < n_items, "parent"]
    held = np.bincount(direct.to_numpy(np.int64), minlength=n_entities)
    apexes = [int(np.where(branch == number, held, -1).argmax()) for number in range(len(roots))]
    return Branches(*(np.array(nodes, dtype=np.int64) for nodes in (roots, branch, count[roots], apexes)))


def _descendants(edges: pd.DataFrame, n: int, levels: int) -> Any:
    """Reachability from parents down to descendants, CSR of ones."""
    child, parent = edges["child"].to_numpy(np.int64), edges["parent"].to_numpy(np.int64)
    step = sparse.csr_matrix((np.ones(len(edges), dtype=np.int32), (parent, child)), shape=(n, n))
    reach = frontier = step
    for _ in range(levels - 1):
        frontier = (frontier @ step).sign()  # counts of paths would grow without bound
        if not frontier.nnz:
            break
        reach = (reach + frontier).sign()
    return reach


@styled
def disk_figure(where: Positions, dataset: Dataset, *, aperture: float = APERTURE, cones: bool = True) -> Any:
    """The picture: circles are attributes, dots items, lines the hierarchical triples, colours the largest branches.

    Cones are drawn at the branches' apexes in models of two dimensions, where they can be seen as they are.

    Parameters
    ----------
    where
        Where the entities lie.
    dataset
        For edges and names.
    aperture
        The constant K of the cones.
    cones
        Whether to draw them.

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
    if cones and layout.exact:
        _draw_cones(panel, points, branches, aperture, layout.hyperbolic)
    _draw_edges(panel, layout, edges, branches)
    _draw_points(panel, points, shown, branches, dataset)
    panel.set(xlim=view[0], ylim=view[1], aspect="equal")
    for side in panel.spines.values():
        side.set_visible(False)
    panel.set(xticks=[], yticks=[])
    place = "Poincaré disk" if layout.hyperbolic else "Plane"
    panel.set_title(f"{place}: {_of(where)}")
    _legend(figure, branches, dataset, cones and layout.exact)
    return figure


def _of(where: Positions) -> str:
    kind = "parameters" if where.values == "parameters" else "propagated embeddings"
    return f"knowledge {kind} ({where.entity.shape[1]} dimensions)"


def _frame(panel: Any, points: Float64, hyperbolic: bool) -> Float64:
    """Circles of equal distance, and the edge of the disk where it is near; the view, low and high of x and of y."""
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
    """A square around the origin and all points, ``[2, 2]``; the whole disk where they come near its edge."""
    if hyperbolic and np.linalg.norm(points, axis=1).max(initial=0.0) > 0.8:
        return np.array([[-1.03, 1.03], [-1.03, 1.03]])
    low, high = points.min(0, initial=0.0), points.max(0, initial=0.0)
    half = 0.56 * max(float((high - low).max()), 1e-6)
    centre = (low + high) / 2.0
    return np.stack([centre - half, centre + half], axis=1)


def _label_place(radius: float, view: Float64) -> tuple[float, float] | None:
    """Where a circle's label stands: at its lowest point, or the first that can be seen of the others; None: none."""
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
    """Unbranched points first, so that they hide none of the others."""
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
