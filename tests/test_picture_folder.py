"""The folder of pictures: whole files that repeat, and nothing else is touched."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bad_input import contents

from hakg_dgl.errors import DataError
from hakg_dgl.figures.picture_folder import PAGE, draw_pictures
from hakg_dgl.figures.subject import Subject

pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")


def test_pictures_of_a_run_are_whole_and_repeat(planted_run: Subject, tmp_path: Path) -> None:
    drawn = draw_pictures(planted_run, tmp_path / "a")
    assert [picture.name for picture in drawn] == ["disk", "popularity", "relations", "curves", "groups"]
    expected = {f"{picture.name}.{kind}" for picture in drawn for kind in ("png", "svg")} | {PAGE}
    assert set(os.listdir(tmp_path / "a")) == expected
    for file in (tmp_path / "a").glob("*.svg"):
        assert ElementTree.parse(file).getroot().tag.endswith("svg")
    draw_pictures(planted_run, tmp_path / "b", kinds=("svg",))
    again, first = contents(tmp_path / "b"), contents(tmp_path / "a")
    assert again == {name: first[name] for name in first if not name.endswith(".png")}
    (tmp_path / "b" / "depth.png").touch()
    draw_pictures(planted_run, tmp_path / "b", kinds=("svg",), page=False)
    assert {name.split(".")[1] for name in os.listdir(tmp_path / "b")} == {"svg"}, "earlier files are gone"


def test_other_files_are_left_alone(planted_run: Subject, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(DataError, match=r"holds something else than pictures, such as 'thesis\.tex'"):
        draw_pictures(planted_run, tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]
