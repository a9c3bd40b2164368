"""Names and files of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from hakg_dgl.figures.style import DPI, inline_svg, new_figure, plain, plain_relation, save_figure, styled

pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")


def test_the_end_of_a_long_relation_name_is_kept() -> None:
    assert plain_relation("film.film.genre") == "film.film.genre"
    assert plain_relation("film.film.production_companies") == "…film.production_companies"
    assert plain_relation("http://dbpedia.org/ontology/director") == "…org/ontology/director"
    assert plain_relation("a$" + "x" * 40) == r"a\$" + "x" * 25 + "…"


def test_names_are_no_mathematics_and_no_markup(tmp_path: Path) -> None:
    @styled
    def draw() -> Any:
        figure, axes = new_figure(2, 2)
        axes[0, 0].set_title(plain('$x^$ <b> id="q" \x07&'))
        return figure

    save_figure(draw(), tmp_path / "x.svg")
    text = "".join(ElementTree.parse(tmp_path / "x.svg").getroot().itertext())
    assert '$x^$ <b> id="q" ?&' in text
    inline = inline_svg(draw(), "name")
    assert inline.startswith("<svg")
    assert "<b>" not in inline
    assert 'id="q"' in inline


def test_a_notebook_shows_a_figure_as_the_file_it_would_be(tmp_path: Path) -> None:
    @styled
    def draw() -> Any:
        figure, axes = new_figure(3, 2)
        axes[0, 0].plot([1, 2])
        return figure

    shown, size = draw()._repr_png_()
    save_figure(draw(), tmp_path / "figure.png")
    assert shown == (tmp_path / "figure.png").read_bytes()
    assert [int.from_bytes(shown[at : at + 4], "big") for at in (16, 20)] == [3 * DPI, 2 * DPI]
    assert size == {"width": 288, "height": 192}
