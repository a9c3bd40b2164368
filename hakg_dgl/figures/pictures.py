"""All pictures of a run, with their captions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hakg_dgl.figures.curves import curves_figure
from hakg_dgl.figures.depth import depth_agreement, planted_depth_figure
from hakg_dgl.figures.disk import disk_figure, shows_cones
from hakg_dgl.figures.disk_layout import disk_layout
from hakg_dgl.figures.groups import groups_figure
from hakg_dgl.figures.popularity import popularity_figure, popularity_fits
from hakg_dgl.figures.relations import relation_order, relations_figure
from hakg_dgl.figures.style import plain_relation, require_matplotlib
from hakg_dgl.figures.subject import Subject
from hakg_dgl.models.positions import Positions

NAMES = ("disk", "popularity", "relations", "depth", "curves", "groups")
"""Names of all pictures; a run has some of them."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture with its title and caption.

    Attributes
    ----------
    name
        The name of its files, without an ending.
    title, caption
        Texts that say what it shows and how to read it, with the numbers behind it.
    figure
        The figure of Matplotlib.
    """

    name: str
    title: str
    caption: str
    figure: Any


def pictures(subject: Subject, beside: Mapping[str, Positions] | None = None) -> Iterator[Picture]:
    """Draw the pictures that a run has, one after the other; baselines have only curves and groups.

    Parameters
    ----------
    subject
        The run.
    beside
        Positions of further models of the same data set by name, for the picture of the planted tree.

    Raises
    ------
    MissingDependencyError
        If Matplotlib is missing.
    """
    require_matplotlib()
    if subject.positions is not None:
        yield from _hierarchy(subject, subject.positions, dict(beside or {}))
    lines = subject.folder.metrics
    if lines:
        select_by = subject.settings.training.select_by
        yield Picture(
            "curves", "Loss and metrics by epoch", _curves_caption(subject),
            curves_figure(lines, best_epoch=subject.best_epoch, select_by=select_by),
        )  # fmt: skip
    if subject.evaluations:
        first = subject.evaluations["model"]
        caption = (
            f"{first.split.capitalize()} split, {first.n_users:,} users. Below each group: its range of training "
            "interactions and its size. Groups have nearly equal shares of all training interactions."
        )
        yield Picture("groups", "Groups of users and items", caption, groups_figure(subject.evaluations))


def _hierarchy(subject: Subject, where: Positions, beside: dict[str, Positions]) -> Iterator[Picture]:
    dataset, layout = subject.dataset, disk_layout(where)
    place = "Poincaré disk" if where.hyperbolic else "plane"
    caption = f"{layout.caption} Each colour is an attribute with many items, and all that is below it alone."
    if shows_cones(where):
        caption += f" Cones have K = {where.aperture:g}."
    elif layout.exact:
        caption += " The released angle loss compares the tangent vectors, not these points, so no cones are drawn."
    yield Picture("disk", f"Entities and items in the {place}", caption, disk_figure(where, dataset))
    yield Picture(
        "popularity", "Distance to the origin and popularity", _popularity_caption(where, subject),
        popularity_figure(where, dataset),
    )  # fmt: skip
    if dataset.n_relations:
        order = relation_order(dataset, where)
        yield Picture("relations", "Relations", _relations_caption(order), relations_figure(order))
    if subject.tree is not None:
        every = {subject.folder.path.name: where, **beside}
        yield _planted_depth(every, subject.tree, dataset.n_items)


def _planted_depth(every: dict[str, Positions], tree: pd.DataFrame, n_items: int) -> Picture:
    found = {f"{name} ({_geometry(of)})": depth_agreement(of, tree, n_items) for name, of in every.items()}
    texts = [
        f"{name}: Spearman {agreement.spearman:+.3f} of at most {agreement.highest:+.3f}, "
        f"attributes alone {agreement.attributes:+.3f} of {agreement.highest_attributes:+.3f}, "
        "median distances from the root to the items "
        + ", ".join(f"{median:.2f}" for median in agreement.levels["median"])
        for name, agreement in found.items()
    ]
    caption = f"The demo's tree is known. A model that has found it puts deeper nodes farther out. {'; '.join(texts)}."
    return Picture("depth", "Depth in the planted tree", caption, planted_depth_figure(found))


def _relations_caption(order: pd.DataFrame) -> str:
    largest = order[order["attribute_closer"].notna()].nlargest(5, "triples")
    columns = (largest[column] for column in ("name", "attribute_closer", "in_cone"))
    shares = [
        f"{plain_relation(name)} {closer:.1%} and {inside:.1%}" for name, closer, inside in zip(*columns, strict=True)
    ]
    return (
        "On the left is Krackhardt's score of each relation, as in hakg info, with the number of triples; the largest "
        "relations come first. The shares of pairs with the attribute closer to the origin, and of pairs with the "
        f"lower entity in the attribute's cone, are: {'; '.join(shares) or 'no such pairs'}."
    )


def _geometry(where: Positions) -> str:
    return "Poincaré ball" if where.hyperbolic else "Euclidean space"


def _popularity_caption(where: Positions, subject: Subject) -> str:
    fits = popularity_fits(where, subject.dataset)
    texts = [f"{name}: {fit}" if fit else f"{name}: too few items for a trend" for name, fit in fits.items()]
    return "A point is an item; the line is the exponential trend. " + "; ".join(texts) + "."


def _curves_caption(subject: Subject) -> str:
    caption = "" if subject.best_epoch is None else f"Epoch {subject.best_epoch} was kept, the best"
    caption += f" by {subject.settings.training.select_by}. " if caption else ""
    if any("refit" in line for line in subject.folder.metrics):
        caption += "In the shaded part the model was trained again on train and validation, for as many epochs."
    return caption.strip()
