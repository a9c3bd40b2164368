"""Which pictures a run has, and what their captions say."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import tree_of
from small_demo import small_settings

from hakg_dgl import PopularityScorer, RandomScorer, RunFolder, Trainer, evaluate, load_dataset
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.figures.depth import depth_agreement
from hakg_dgl.figures.groups import groups_figure
from hakg_dgl.figures.pictures import NAMES, pictures
from hakg_dgl.figures.subject import Subject

pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")


def test_the_picture_of_the_tree_compares_runs(monkeypatch: pytest.MonkeyPatch, planted_runs: Path) -> None:
    dataset = load_dataset(planted_runs / "D")
    ball, flat = (Subject(RunFolder(planted_runs / name), dataset) for name in ("hakg", "flat"))
    monkeypatch.setattr("hakg_dgl.figures.subject.known_tree", tree_of)
    assert flat.positions is not None
    drawn = {picture.name: picture for picture in pictures(ball, {"flat": flat.positions})}
    assert len(drawn["depth"].figure.axes) == 2
    found = depth_agreement(flat.positions, tree_of(dataset), dataset.n_items)
    assert f"flat (Euclidean space): Spearman {found.spearman:+.3f}" in drawn["depth"].caption


def test_a_flat_model_of_two_dimensions_is_drawn(planted_runs: Path) -> None:
    subject = Subject(RunFolder(planted_runs / "flat"), load_dataset(planted_runs / "D"), "output")
    assert next(picture.name for picture in pictures(subject)) == "disk"


@pytest.mark.parametrize("formulation", ["released", "paper"])
def test_the_caption_says_whether_there_are_cones(planted: Dataset, tmp_path: Path, formulation: str) -> None:
    chosen = small_settings(epochs=1, dim=2, formulation=formulation)
    Trainer(planted, chosen, run=tmp_path / "run").fit()
    disk = next(pictures(Subject(RunFolder(tmp_path / "run"), planted)))
    shown = {text.get_text() for text in disk.figure.legends[0].get_texts()}
    assert ("its entailment cone" in shown) == (formulation == "paper")
    assert ("Cones have K = " in disk.caption) == (formulation == "paper")
    assert ("so no cones are drawn" in disk.caption) == (formulation == "released")


def test_the_names_of_pictures_are_known(planted_run: Subject) -> None:
    assert len(set(NAMES)) == len(NAMES) == 6


def test_bars_of_scorers_with_any_names_can_be_told_apart(planted: Dataset) -> None:
    scorers = {name: RandomScorer(planted.n_users, planted.n_items, seed) for seed, name in enumerate("abc")}
    every = {**scorers, "popularity": PopularityScorer(planted), "random": scorers["a"]}
    found = {name: evaluate(scorer, planted, groups=True) for name, scorer in every.items()}
    panel = groups_figure(found).axes[0]
    colours = [bars.patches[0].get_facecolor() for bars in panel.containers]
    assert len(set(colours)) == len(every)
    alone = groups_figure({"popularity": found["popularity"]}).axes[0]
    assert alone.containers[0].patches[0].get_facecolor() == colours[3]
