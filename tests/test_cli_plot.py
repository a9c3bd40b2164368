"""``hakg plot``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bad_input import hakg, refuse
from planted import tree_of

from hakg_dgl.figures.picture_folder import PAGE

pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")


def test_the_command_draws_and_says_what_it_found(planted_runs: Path, tmp_path: Path) -> None:
    result = hakg("plot", planted_runs / "hakg", "--out", tmp_path / "p", "--format", "png", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "popularity: Distance to the origin and popularity." in result.stdout
    assert f"Wrote {tmp_path / 'p'}: 5 pictures as png and {PAGE}" in result.stdout
    assert len(os.listdir(tmp_path / "p")) == 6


def test_of_a_baseline_training_and_groups_are_drawn(planted_runs: Path, tmp_path: Path) -> None:
    result = hakg("plot", planted_runs / "popularity", "--out", tmp_path / "p")
    assert result.exit_code == 0, result.output
    assert {name.split(".")[0] for name in os.listdir(tmp_path / "p")} <= {"curves", "groups"}
    assert "groups.png" in os.listdir(tmp_path / "p")


@pytest.mark.usefixtures("work")
def test_bad_input_is_refused(planted_runs: Path) -> None:
    refuse(
        "R: --beside compares runs on the demo, the only data set whose tree is known",
        "plot", "R", "--out", "p", "--beside", "R",
    )  # fmt: skip
    refuse(
        "src: holds something else than pictures, such as 'kg_final.txt'\nChoose another place, or empty it yourself.",
        "plot", "R", "--out", "src",
    )  # fmt: skip
    Path("link").symlink_to("src")
    refuse(
        "link: is a link, which is not replaced\nChoose another place, or empty it yourself.",
        "plot", "R", "--out", "link",
    )  # fmt: skip


def test_only_runs_whose_models_place_entities_are_compared(
    monkeypatch: pytest.MonkeyPatch, planted_runs: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr("hakg_dgl.figures.subject.known_tree", tree_of)
    for run, beside in (("popularity", "hakg"), ("hakg", "popularity")):
        result = hakg("plot", planted_runs / run, "--out", tmp_path / "p", "--beside", planted_runs / beside)
        assert result.exit_code == 2
        message = f"{planted_runs / 'popularity'}: model 'popularity' does not place entities in a space"
        assert message in result.stderr
        assert "the models that do: hakg" in result.stderr
    result = hakg(
        "plot", planted_runs / "hakg", "--out", tmp_path / "p", "--beside", planted_runs / "flat", "--no-page"
    )
    assert result.exit_code == 0, result.output
    assert "depth.png" in os.listdir(tmp_path / "p")


def test_without_matplotlib_it_says_what_to_install(planted_runs: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\nfrom hakg_dgl.cli import main\n"
        f"main(['plot', {str(planted_runs / 'hakg')!r}, '--out', {str(tmp_path / 'p')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: pictures need Matplotlib, which cannot be imported")
    assert not (tmp_path / "p").exists()
