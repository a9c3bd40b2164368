"""Letters that the usual font lacks: another font is chosen where one is installed, and what to install is said."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hakg_dgl.cli.notes import font_notes

from hakg_dgl.figures import fonts
from hakg_dgl.figures.fonts import MissingGlyphsWarning, fallback_families, use_fonts
from hakg_dgl.figures.style import inline_svg, new_figure, save_figure, styled

pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")
FILM = "\U000f1000\U000f1001"  # two letters that no font has, as they are for private use
NAME = "Test Film"


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Callable[[str, str], Path]]:
    """Make fonts that have some letters, all of them full squares, and show them to Matplotlib."""
    builder = pytest.importorskip("fontTools.fontBuilder")
    pens = pytest.importorskip("fontTools.pens.ttGlyphPen")
    from matplotlib.font_manager import fontManager

    before = list(fontManager.ttflist)

    def made(name: str, letters: str) -> Path:
        pen = pens.TTGlyphPen(None)
        pen.moveTo((0, 0))
        for corner in ((0, 800), (800, 800), (800, 0)):
            pen.lineTo(corner)
        pen.closePath()
        square = pen.glyph()
        names = [".notdef", *(f"g{i}" for i in range(len(letters)))]
        font = builder.FontBuilder(1000, isTTF=True)
        font.setupGlyphOrder(names)
        font.setupCharacterMap({ord(letter): f"g{i}" for i, letter in enumerate(letters)})
        font.setupGlyf(dict.fromkeys(names, square))
        font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
        font.setupHorizontalHeader(ascent=800, descent=-200)
        font.setupNameTable({"familyName": name, "styleName": "Regular"})
        font.setupOS2()
        font.setupPost()
        file = tmp_path / f"{name}.ttf"
        font.save(file)
        fontManager.addfont(file)
        fonts._charmap.cache_clear()
        return file

    yield made
    fontManager.ttflist[:] = before
    fonts._charmap.cache_clear()


@styled
def titled(text: str) -> Any:
    figure, axes = new_figure(2, 2)
    axes[0, 0].set_title(text)
    axes[0, 0].set_yticks([0.0, 1.0], ["a", text])
    return figure


def families(figure: Any) -> list[str]:
    """Of the title."""
    found: list[str] = figure.axes[0]._left_title.get_fontfamily()
    return found


def test_an_installed_font_stands_in(install: Callable[[str, str], Path], tmp_path: Path) -> None:
    install(NAME, FILM)
    figure = titled(f"{FILM} 1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        use_fonts(figure, warn=True)
        figure.savefig(tmp_path / "x.png")
    assert families(figure)[1:] == [NAME]
    assert [label.get_fontfamily()[1:] for label in figure.axes[0].get_yticklabels()] == [[], [NAME]]
    assert NAME in inline_svg(titled(FILM), "x"), "a browser is told of the font too"


def test_the_usual_font_stays_where_it_has_all_letters() -> None:
    figure = titled("Amélie, Солярис, ≥ 1")
    use_fonts(figure, warn=True)
    assert families(figure) == ["sans-serif"]


def test_few_families_are_chosen(install: Callable[[str, str], Path]) -> None:
    for name, letters in (("Test A", FILM[:1]), ("Test B", FILM), ("Test C", FILM[1:])):
        install(name, letters)
    assert fallback_families(set(FILM)) == (["Test B"], set())
    assert fallback_families({FILM[1], "\U000f2000"}) == (["Test B"], {"\U000f2000"})


@pytest.mark.parametrize(
    ("name", "package"),
    [("\U0002a6d6", "fonts-noto-cjk"), ("\uac00\U0002a6d6", "fonts-noto-cjk"), (FILM, "fonts-noto")],
)
def test_without_a_font_it_says_what_to_install(tmp_path: Path, name: str, package: str) -> None:
    if not fallback_families(set(name))[1]:
        pytest.skip("a font with these letters is installed")
    with pytest.warns(MissingGlyphsWarning, match=rf"names such as .*package {package} of") as caught:
        save_figure(titled(name), tmp_path / "x.png")
    assert len(caught) == 1
    assert (tmp_path / "x.png").stat().st_size > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(titled(name), tmp_path / "x.svg")  # which holds text, for whoever opens it


def test_commands_say_it_once() -> None:
    @click.command()
    def draw() -> None:
        with font_notes():
            for letters in ("影", "电", FILM[0]):
                warnings.warn(MissingGlyphsWarning(letters, f"{letters} 1"), stacklevel=1)

    shown = CliRunner().invoke(draw).stderr.splitlines()
    assert len(shown) == 2
    assert "Note: no installed font has 1 of the letters in names such as '影 1'" in shown[0]
    assert "fonts-noto " in shown[1]
