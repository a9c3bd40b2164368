"""Pictures: geometry of what is drawn, fits and correlations with known answers, files that repeat."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from bad_input import contents, hakg, refuse
from hypothesis import given
from hypothesis import strategies as st
from small_demo import small_demo, small_settings

from hakg_dgl import RunFolder, Trainer, load_dataset, preprocess
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.synthetic import generate_demo, planted_depth
from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.figures import disk, hierarchy
from hakg_dgl.figures.curves import curve_table, curves_figure, metric_names
from hakg_dgl.figures.disk import cone_outline, disk_figure, disk_layout, geodesics, largest_branches
from hakg_dgl.figures.hierarchy import (
    DepthAgreement,
    child_edges,
    depth_agreement,
    known_tree,
    relation_order,
    relations_figure,
)
from hakg_dgl.figures.pictures import NAMES, PAGE, draw_pictures, pictures
from hakg_dgl.figures.popularity import fit_popularity, item_popularity, popularity_fits
from hakg_dgl.figures.style import inline_svg, new_figure, plain_relation, save_figure, styled
from hakg_dgl.figures.subject import Subject
from hakg_dgl.geometry.cones import cone_angle, half_aperture
from hakg_dgl.geometry.poincare import distance, expmap0
from hakg_dgl.graph.packed import SparsePattern
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.layers.losses import AngleLoss
from hakg_dgl.models.positions import Positions

pytest.importorskip("matplotlib")


def at(entity: Any, item: Any = None, geometry: Any = "poincare", curvature: float = 1.0) -> Positions:
    return Positions(np.asarray(entity, dtype=np.float64), item, geometry, curvature, "parameters", "paper", 0.1)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return small_demo()


@pytest.fixture(scope="module")
def runs(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs ``hakg``, ``flat`` (Euclidean, two dimensions) and ``popularity`` on the small demo ``D``."""
    place = tmp_path_factory.mktemp("runs")
    dataset.save(place / "D")
    Trainer(dataset, small_settings(epochs=2), run=place / "hakg", data_path=place / "D").fit()
    flat = small_settings(epochs=1, geometry="euclidean", dim=2)
    Trainer(dataset, flat, run=place / "flat", data_path=place / "D").fit()
    assert hakg("train", place / "D", "--out", place / "popularity", "--set", "kind=popularity").exit_code == 0
    return place


@pytest.fixture
def subject(runs: Path) -> Subject:
    return Subject(RunFolder(runs / "hakg"), load_dataset(runs / "D"))


# --- distances and the plane ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curvature", [0.3, 1.0, 4.0])
def test_the_distance_to_the_origin_is_that_of_the_ball(curvature: float) -> None:
    tangent = torch.randn(50, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.7
    there = expmap0(tangent, c=curvature)
    expected = distance(torch.zeros_like(there), there, c=curvature)
    found = at(tangent.numpy(), curvature=curvature).entity_distance
    assert np.allclose(found, expected.numpy(), rtol=1e-6)
    assert np.allclose(at(tangent.numpy(), geometry="euclidean").entity_distance, tangent.norm(dim=1).numpy())


@pytest.mark.parametrize("curvature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("dim", [1, 2, 3, 16])
def test_the_layout_keeps_the_distance_to_the_origin(dim: int, curvature: float) -> None:
    tangent = np.random.default_rng(1).normal(size=(40, dim)) * 0.5
    tangent[7] = 0.0
    layout = disk_layout(at(tangent, curvature=curvature))
    assert layout.exact == (dim <= 2)
    assert layout.points.shape == (40, 2)
    assert np.allclose(2.0 * np.arctanh(np.linalg.norm(layout.points, axis=1)) / math.sqrt(curvature),
                       at(tangent, curvature=curvature).entity_distance)  # fmt: skip
    flat = disk_layout(at(tangent, geometry="euclidean"))
    assert np.allclose(np.linalg.norm(flat.points, axis=1), np.linalg.norm(tangent, axis=1))


def test_two_dimensions_are_shown_as_they_are() -> None:
    tangent = np.random.default_rng(2).normal(size=(20, 2)) * 0.4
    expected = expmap0(torch.from_numpy(tangent)).numpy()
    assert np.allclose(disk_layout(at(tangent)).points, expected)


def test_the_projection_keeps_clusters_of_directions_apart() -> None:
    centres = np.eye(8)[:3]
    tangent = np.repeat(centres, 30, axis=0) + np.random.default_rng(3).normal(size=(90, 8)) * 0.02
    angle = np.arctan2(*disk_layout(at(tangent)).points.T[::-1]).reshape(3, 30)
    spread = np.abs(np.exp(1j * angle).mean(axis=1))
    assert spread.min() > 0.95, "each cluster has one direction"
    middles = np.angle(np.exp(1j * angle).mean(axis=1))
    gaps = np.abs(np.angle(np.exp(1j * (middles[:, None] - middles))))[np.triu_indices(3, 1)]
    assert gaps.min() > 1.0


coordinate = st.floats(-0.6, 0.6)


@given(st.lists(st.tuples(coordinate, coordinate), min_size=2, max_size=2))
def test_edges_are_geodesics(ends: list[tuple[float, float]]) -> None:
    x, y = np.array([ends[0]]), np.array([ends[1]])
    line = torch.from_numpy(geodesics(x, y, steps=9)[0])
    assert np.allclose(line[0], x, atol=1e-9)
    assert np.allclose(line[-1], y, atol=1e-6)
    whole = float(distance(line[:1], line[-1:]))
    steps = distance(line[:-1], line[1:])
    assert float(steps.sum()) == pytest.approx(whole, abs=1e-5), "no way between the ends is shorter"
    assert torch.allclose(steps, torch.full_like(steps, whole / 8), atol=1e-5)


def test_flat_edges_are_straight() -> None:
    line = geodesics(np.array([[0.0, 1.0]]), np.array([[2.0, 3.0]]), hyperbolic=False, steps=3)
    assert line.tolist() == [[[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]]


@pytest.mark.parametrize("apex", [(0.5, 0.0), (-0.2, 0.3), (0.0, -0.6), (0.02, 0.05)])
@pytest.mark.parametrize("aperture", [0.1, 0.3])
def test_points_are_within_the_outline_exactly_if_they_are_in_the_cone(
    apex: tuple[float, float], aperture: float
) -> None:
    """The angle at the apex (geometry.cones) decides for random points; the outline has to agree."""
    from matplotlib.path import Path as Outline

    top = torch.tensor(apex, dtype=torch.float64)
    radius = torch.rand(400, generator=torch.Generator().manual_seed(4), dtype=torch.float64).sqrt() * 0.97
    turn = torch.rand(400, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 2 * math.pi
    points = torch.stack([radius * turn.cos(), radius * turn.sin()], dim=1)
    xx, psi = top.square().sum(), half_aperture(top.square().sum(), aperture=aperture)
    angle = cone_angle(xx.expand(400), points.square().sum(1), points @ top)
    clear = (angle - psi).abs() > 0.03  # the outline is a polygon
    inside = Outline(cone_outline(np.array(apex), aperture=aperture)).contains_points(points.numpy())
    assert clear.sum() > 300
    assert (inside == (angle <= psi).numpy())[clear.numpy()].all()
    assert 0 < inside.sum() < 400


# --- relations and branches -------------------------------------------------------------------------------------------


def test_edges_lead_from_the_lower_to_the_higher_end(dataset: Dataset) -> None:
    edges = child_edges(dataset)
    names = dataset.relations["name"].iloc[edges["relation"]].to_numpy()
    assert {"belongs_to", "subcategory_of"} <= set(names)
    depth = pd.Series(np.nan, index=range(dataset.n_entities))
    sizes = (1, 3, 9, 18)  # genres of each level of the small demo
    depth.iloc[: dataset.n_items + sum(sizes)] = np.repeat([4, 0, 1, 2, 3], [dataset.n_items, *sizes])
    for name in ("belongs_to", "subcategory_of"):
        some = edges[names == name]
        below, above = depth.iloc[some["child"]].to_numpy(), depth.iloc[some["parent"]].to_numpy()
        assert (below == above + 1).all(), name


def test_the_direction_of_the_triples_does_not_matter(dataset: Dataset) -> None:
    triples = dataset.triples
    turned = dataclasses.replace(dataset, triples=triples.rename(columns={"head": "tail", "tail": "head"}))
    key = ["child", "parent"]
    found, expected = (child_edges(of).sort_values(key)[key].to_numpy().tolist() for of in (turned, dataset))
    assert found == expected


def test_branches_are_large_and_lie_apart() -> None:
    """Items 0-9; 10 holds them all, 11 holds 0-3 by way of 13, 12 holds 4-6, 14 holds 2 alone."""
    edges = pd.DataFrame(
        [(i, 10) for i in range(10)]
        + [(i, 13) for i in range(4)]
        + [(13, 11)]
        + [(i, 12) for i in (4, 5, 6)]
        + [(2, 14)],
        columns=["child", "parent"],
    )
    found = largest_branches(edges, n_entities=15, n_items=10, most=2)
    assert found.roots.tolist() in ([11, 12], [13, 12])
    assert found.items.tolist() == [4, 3]
    assert found.branch[[0, 1, 2, 3]].tolist() == [0] * 4
    assert found.branch[[4, 5, 6]].tolist() == [1] * 3
    assert found.branch[[7, 8, 9, 10]].tolist() == [-1] * 4
    assert found.apexes.tolist() == [13, 12]


def test_cycles_and_no_edges_at_all_end() -> None:
    around = pd.DataFrame([(0, 3), (3, 4), (4, 3)], columns=["child", "parent"])
    assert largest_branches(around, 5, 2).items.tolist() == [1]
    nothing = largest_branches(pd.DataFrame({"child": [], "parent": []}, dtype=np.int64), 4, 2)
    assert (len(nothing.roots), nothing.branch.tolist()) == (0, [-1] * 4)


def test_the_share_of_ordered_triples_is_counted(dataset: Dataset) -> None:
    tangent = np.ones((dataset.n_entities, 3))
    tangent[: dataset.n_items] = 2.0
    order = relation_order(dataset, at(tangent)).set_index("name")
    assert order.loc["belongs_to", "attribute_closer"] == 1.0
    assert order.loc["subcategory_of", "attribute_closer"] == 0.0, "all attributes are equally far"
    assert order.loc["subcategory_of", "hierarchical"]
    tangent[0] = 0.5
    mine = (dataset.triples["head"] == 0) & (dataset.triples["relation"] == 0)
    of_all = (dataset.triples["relation"] == 0).sum()
    order = relation_order(dataset, at(tangent)).set_index("name")
    assert order.loc["belongs_to", "attribute_closer"] == pytest.approx(1.0 - mine.sum() / of_all)


@pytest.mark.parametrize("formulation", ["released", "paper"])
@pytest.mark.parametrize("geometry", ["poincare", "euclidean"])
@pytest.mark.parametrize("curvature", [0.5, 1.0, 2.0])
def test_the_share_in_the_cone_is_where_the_angle_loss_vanishes(
    dataset: Dataset, formulation: Any, geometry: Any, curvature: float
) -> None:
    """Pairs counted as inside have no excess in the model's angle loss, all others have one."""
    tangent = np.random.default_rng(6).normal(size=(dataset.n_entities, 3)) * 0.1
    tangent[: dataset.n_items] *= 6.0
    where = dataclasses.replace(at(tangent, geometry=geometry, curvature=curvature), formulation=formulation)
    item, attribute = torch.arange(dataset.n_items), torch.arange(dataset.n_items) % 40 + dataset.n_items
    inside = hierarchy._in_cone(where, attribute.numpy(), item.numpy())
    for i in range(dataset.n_items):
        pair = SparsePattern.from_pairs(item[[i]], attribute[[i]], dataset.n_items, dataset.n_entities)
        loss = AngleLoss(pair, where.rule, direction="attribute", dropout=0.0)
        value = loss(choose_backend("torch", torch.device("cpu")), torch.from_numpy(tangent), torch.Generator())
        assert (float(value) == 0.0) == inside[i]
    assert 0 < inside.sum() < dataset.n_items


@pytest.mark.parametrize(("formulation", "angle", "opening"), [("released", 17.285, 17.658), ("paper", 18.372, 18.309)])
def test_the_released_code_takes_the_vectors_themselves_as_points(
    formulation: Any, angle: float, opening: float
) -> None:
    """The apex (0.3, 0) and (0.4, 0.03): in the cone as they are, outside it once both are mapped to the ball."""
    where = dataclasses.replace(at([[0.4, 0.03], [0.3, 0.0]]), formulation=formulation)
    points = where.entity if formulation == "released" else expmap0(torch.from_numpy(where.entity)).numpy()
    y, x = points
    xx, yy, xy = x @ x, y @ y, x @ y
    below = np.sqrt(xx * ((x - y) @ (x - y)) * (1 + xx * yy - 2 * xy))
    assert math.degrees(math.acos((xy * (1 + xx) - xx * (1 + yy)) / below)) == pytest.approx(angle, abs=1e-3)
    assert math.degrees(math.asin(0.1 * (1 - xx) / math.sqrt(xx))) == pytest.approx(opening, abs=1e-3)
    assert hierarchy._in_cone(where, np.array([1]), np.array([0])).tolist() == [angle < opening]


@pytest.mark.parametrize(("hyperbolic", "scale"), [(True, 0.1), (True, 0.95), (False, 30.0)])
def test_the_disk_shows_the_origin_all_points_and_no_circle_without_its_label(hyperbolic: bool, scale: float) -> None:
    from matplotlib.figure import Figure

    points = scale * (np.array([1.0, 0.1]) + 0.2 * np.random.default_rng(0).normal(size=(50, 2))).clip(-0.7, 0.7)
    panel = Figure().subplots()
    view = disk._frame(panel, points, hyperbolic)
    assert ((points > view[:, 0]) & (points < view[:, 1])).all()
    assert (view[:, 0] < 0).all()
    assert (view[:, 1] > 0).all()
    edge = hyperbolic and scale > 0.9
    reach = np.ptp(np.vstack([points, [[0, 0]]]), axis=0).max()
    assert np.ptp(view[0]) == pytest.approx(2.06 if edge else 1.12 * reach)
    assert 0 < len(panel.texts) == len(panel.patches) - hyperbolic
    for text in panel.texts:
        assert ((text.xy > view[:, 0]) & (text.xy < view[:, 1])).all()


def test_the_legend_tells_attributes_without_a_name_by_items(dataset: Dataset) -> None:
    bare = dataclasses.replace(dataset, entities=dataset.entities.assign(name=dataset.entities["original_id"]))
    where = at(np.random.default_rng(0).normal(size=(dataset.n_entities, 4)))
    legends = [disk_figure(where, data).legends[0].get_texts() for data in (dataset, bare)]
    named, unnamed = ([text.get_text() for text in texts if " items)" in text.get_text()] for texts in legends)
    assert len(named) == len(unnamed) > 1
    assert not any("\n" in text for text in named)
    told = [text for text in unnamed if re.search(r"items\)\n[a-z_]+: .+", text)]
    assert told, unnamed


def test_the_end_of_a_long_relation_name_is_kept() -> None:
    assert plain_relation("film.film.genre") == "film.film.genre"
    assert plain_relation("film.film.production_companies") == "…film.production_companies"
    assert plain_relation("http://dbpedia.org/ontology/director") == "…org/ontology/director"
    assert plain_relation("a$" + "x" * 40) == r"a\$" + "x" * 25 + "…"


def test_shares_of_relations_stand_where_they_can_be_read() -> None:
    order = pd.DataFrame({
        "relation": range(4), "name": list("abcd"), "triples": [4, 3, 2, 1], "hierarchy": 1.0,
        "hierarchical": [True, False, True, False], "attribute_closer": [0.95, 0.85, 0.1, np.nan], "in_cone": 0.0,
    })  # fmt: skip
    texts = relations_figure(order).axes[1].texts
    assert [text.get_text() for text in texts] == ["95%", "85%", "10%", "no such pairs"]
    assert [text.get_color() for text in texts[:2]] == ["white", "#222222"], "dark on a pale bar"
    assert [text.get_ha() for text in texts] == ["right", "right", "left", "left"]


# --- popularity -------------------------------------------------------------------------------------------------------


def test_the_fit_finds_the_trend_it_was_given() -> None:
    far = np.linspace(0.1, 2.0, 40)
    fit = fit_popularity(far, np.append(50.0 * np.exp(-1.5 * far[:-1]), 0))  # the last has no interaction
    assert fit is not None
    assert (fit.scale, fit.rate, fit.r_squared, fit.items) == pytest.approx((50.0, -1.5, 1.0, 39))
    assert fit.spearman == pytest.approx(-1.0)
    assert np.allclose(fit(far), 50.0 * np.exp(-1.5 * far))
    assert str(fit).startswith("popularity = 50 exp(-1.5 distance), R² 1.00, Spearman -1.00, 39 items")


def test_without_items_or_spread_there_is_no_trend() -> None:
    assert fit_popularity(np.array([1.0, 2.0, 3.0]), np.array([3, 0, 1])) is None
    assert fit_popularity(np.ones(9), np.arange(9)) is None
    level = fit_popularity(np.arange(5.0), np.full(5, 7))
    assert level is not None
    assert (level.rate, level.r_squared) == (pytest.approx(0.0, abs=1e-12), 0.0)


def test_popularity_counts_training_interactions_alone(dataset: Dataset) -> None:
    assert item_popularity(dataset).sum() == len(dataset.pairs("train"))
    fits = popularity_fits(at(np.random.default_rng(0).normal(size=(dataset.n_entities, 4))), dataset)
    assert list(fits) == ["knowledge"], "no collaborative embeddings, no panel"


# --- the planted tree -------------------------------------------------------------------------------------------------


def test_agreement_of_a_perfect_and_of_a_reversed_tree() -> None:
    tree = planted_depth()
    tangent = tree.sort_values("entity")["depth"].to_numpy(np.float64)[:, None] + 1.0
    n_items = int((tree["depth"] == tree["depth"].max()).sum())
    perfect = depth_agreement(at(tangent), tree, n_items)
    assert (perfect.spearman, perfect.attributes) == (pytest.approx(1.0), pytest.approx(1.0))
    assert perfect.levels["median"].tolist() == pytest.approx([2.0, 4.0, 6.0, 8.0, 10.0, 12.0])
    assert perfect.levels["nodes"].tolist() == [1, 5, 20, 60, 180, 800]
    # Within a depth the distances differ now, so no order of the nodes reaches 1.
    strict = depth_agreement(at(tangent + np.linspace(0.0, 0.5, len(tangent))[:, None]), tree, n_items)
    assert (strict.spearman, strict.attributes) == (
        pytest.approx(strict.highest),
        pytest.approx(strict.highest_attributes),
    )
    assert (strict.highest, strict.highest_attributes) == (
        pytest.approx(0.757, abs=1e-3),
        pytest.approx(0.824, abs=1e-3),
    )
    reversed_ = depth_agreement(at(7.0 - tangent), tree, n_items)
    assert reversed_.spearman == pytest.approx(-1.0)


def test_the_demo_alone_has_a_known_tree(dataset: Dataset) -> None:
    demo = preprocess(generate_demo())
    found = known_tree(demo)
    assert found is not None
    assert len(found) == 1066
    assert known_tree(dataset) is None, "a demo of other sizes"
    assert known_tree(dataclasses.replace(demo, name="mine")) is None
    other = demo.entities.assign(original_id=[f"x{i}" for i in range(demo.n_entities)])
    assert known_tree(dataclasses.replace(demo, entities=other)) is None


def tree_of(dataset: Dataset) -> pd.DataFrame:
    """The tree of the small demo."""
    depth = np.repeat([4, 0, 1, 2, 3], [dataset.n_items, 1, 3, 9, 18])
    return pd.DataFrame({"entity": np.arange(len(depth)), "depth": depth})


def learned_order(dataset: Dataset, **settings: Any) -> DepthAgreement:
    """How a model of the small demo agrees with its tree."""
    chosen = small_settings(epochs=15, layers=2, linear_weight=0, patience=15, **settings)
    trainer = Trainer(dataset, chosen)
    trainer.fit()
    return depth_agreement(trainer.model.positions(), tree_of(dataset), dataset.n_items)


@pytest.mark.parametrize("geometry", ["poincare", "euclidean"])
def test_the_tree_is_laid_out_from_the_origin_outwards(dataset: Dataset, geometry: str) -> None:
    """docs/figures.md: the angle loss over attributes below attributes orders all levels, in both geometries."""
    found = learned_order(dataset, geometry=geometry)
    assert found.spearman > 0.7
    assert found.attributes > 0.3
    medians = found.levels.sort_values("depth")["median"]
    assert medians.is_monotonic_increasing
    items_alone = learned_order(dataset, geometry=geometry, angle_pairs="items")
    assert items_alone.attributes < -0.3, "pairs of items alone pull the lowest genres below those above them"
    assert learned_order(dataset, geometry=geometry, angle_weight=0.0).attributes < 0.2


# --- curves -----------------------------------------------------------------------------------------------------------


def test_curves_know_epochs_without_metrics_and_the_refit() -> None:
    lines = [
        {"epoch": 1, "seconds": 0.1, "loss": 2.0, "split": "valid", "ndcg@20": 0.1},
        {"epoch": 2, "seconds": 0.1, "loss": 1.0},
        {"epoch": 3, "seconds": 0.1, "loss": 3.0, "refit": 1},
    ]
    assert metric_names(lines) == ["ndcg@20"]
    table = curve_table(lines)
    assert table["loss"].tolist() == [2.0, 1.0, 3.0]
    assert table["refit"].isna().tolist() == [True, True, False]
    figure = curves_figure(lines, best_epoch=1, select_by="ndcg@20")
    text = {label.get_text() for label in figure.axes[1].get_legend().get_texts()}
    assert text == {"ndcg@20 (selects)", "chosen: epoch 1", "refit on train\nand validation"}


def test_a_model_in_closed_form_has_curves_without_a_loss() -> None:
    lines = [{"epoch": 1, "seconds": 0.1, "neighbours": 10, "split": "valid", "recall@20": 0.3}]
    assert metric_names(lines) == ["recall@20"]
    assert len(curves_figure(lines).axes) == 1


# --- files ------------------------------------------------------------------------------------------------------------


def test_pictures_of_a_run_are_whole_and_repeat(subject: Subject, tmp_path: Path) -> None:
    drawn = draw_pictures(subject, tmp_path / "a")
    assert [picture.name for picture in drawn] == ["disk", "popularity", "relations", "curves", "groups"]
    expected = {f"{picture.name}.{kind}" for picture in drawn for kind in ("png", "svg")} | {PAGE}
    assert set(os.listdir(tmp_path / "a")) == expected
    for file in (tmp_path / "a").glob("*.svg"):
        assert ElementTree.parse(file).getroot().tag.endswith("svg")
    draw_pictures(subject, tmp_path / "b", kinds=("svg",))
    again, first = contents(tmp_path / "b"), contents(tmp_path / "a")
    assert again == {name: first[name] for name in first if not name.endswith(".png")}
    (tmp_path / "b" / "depth.png").touch()
    draw_pictures(subject, tmp_path / "b", kinds=("svg",), page=False)
    assert {name.split(".")[1] for name in os.listdir(tmp_path / "b")} == {"svg"}, "earlier files are gone"


def test_the_picture_of_the_tree_compares_runs(monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
    dataset = load_dataset(runs / "D")
    ball, flat = (Subject(RunFolder(runs / name), dataset) for name in ("hakg", "flat"))
    monkeypatch.setattr("hakg_dgl.figures.subject.known_tree", tree_of)
    assert flat.positions is not None
    drawn = {picture.name: picture for picture in pictures(ball, {"flat": flat.positions})}
    assert len(drawn["depth"].figure.axes) == 2
    found = depth_agreement(flat.positions, tree_of(dataset), dataset.n_items)
    assert f"flat (Euclidean space): Spearman {found.spearman:+.3f}" in drawn["depth"].caption


def test_a_flat_model_of_two_dimensions_is_drawn(runs: Path) -> None:
    subject = Subject(RunFolder(runs / "flat"), load_dataset(runs / "D"), "output")
    assert next(picture.name for picture in pictures(subject)) == "disk"


def test_names_are_no_mathematics_and_no_markup(tmp_path: Path) -> None:
    @styled
    def draw() -> Any:
        figure, axes = new_figure(2, 2)
        axes[0, 0].set_title(hierarchy.plain('$x^$ <b> id="q" \x07&'))
        return figure

    save_figure(draw(), tmp_path / "x.svg")
    text = "".join(ElementTree.parse(tmp_path / "x.svg").getroot().itertext())
    assert '$x^$ <b> id="q" ?&' in text
    inline = inline_svg(draw(), "name")
    assert inline.startswith("<svg")
    assert "<b>" not in inline
    assert 'id="q"' in inline


def test_wrong_values_are_refused(subject: Subject) -> None:
    assert subject.model is not None
    with pytest.raises(ConfigError, match="there are no values 'inputs'"):
        subject.model.positions("inputs")


def test_other_files_are_left_alone(subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(DataError, match=r"holds something else than pictures, such as 'thesis\.tex'"):
        draw_pictures(subject, tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_the_layout_of_many_points_is_quick() -> None:
    """50,000 points of 64 dimensions: no square matrix of points."""
    tangent = np.random.default_rng(0).normal(size=(50_000, 64))
    assert disk.disk_layout(at(tangent)).points.shape == (50_000, 2)


# --- hakg plot --------------------------------------------------------------------------------------------------------


def test_the_command_draws_and_says_what_it_found(runs: Path, tmp_path: Path) -> None:
    result = hakg("plot", runs / "hakg", "--out", tmp_path / "p", "--format", "png", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "popularity: Distance to the origin and popularity." in result.stdout
    assert f"Wrote {tmp_path / 'p'}: 5 pictures as png and {PAGE}" in result.stdout
    assert len(os.listdir(tmp_path / "p")) == 6


def test_of_a_baseline_training_and_groups_are_drawn(runs: Path, tmp_path: Path) -> None:
    result = hakg("plot", runs / "popularity", "--out", tmp_path / "p")
    assert result.exit_code == 0, result.output
    assert {name.split(".")[0] for name in os.listdir(tmp_path / "p")} <= {"curves", "groups"}
    assert "groups.png" in os.listdir(tmp_path / "p")


@pytest.mark.usefixtures("work")
def test_bad_input_is_refused(runs: Path) -> None:
    refuse(
        "R: --beside compares runs of HAKG on the demo, whose tree is known", "plot", "R", "--out", "p", "--beside", "R"
    )
    refuse(
        "src: holds something else than pictures, such as 'kg_final.txt'\nChoose another place, or empty it yourself.",
        "plot", "R", "--out", "src",
    )  # fmt: skip
    Path("link").symlink_to("src")
    refuse(
        "link: is a link, which is not replaced\nChoose another place, or empty it yourself.",
        "plot",
        "R",
        "--out",
        "link",
    )


def test_without_matplotlib_it_says_what_to_install(runs: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\nfrom hakg_dgl.cli import main\n"
        f"main(['plot', {str(runs / 'hakg')!r}, '--out', {str(tmp_path / 'p')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: pictures need Matplotlib, which cannot be imported")
    assert not (tmp_path / "p").exists()


def test_the_names_of_pictures_are_known(subject: Subject) -> None:
    assert len(set(NAMES)) == len(NAMES) == 6
