"""Fonts for names in any script: installed fonts that have the letters stand in where the usual font lacks them."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable
from functools import cache
from typing import Any

_CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH")
_NOT_DRAWN = {"Cc", "Cf", "Zs", "Zl", "Zp"}
_USUAL = 400  # the weight of regular fonts
_BOXES = ("Last Resort", "STIXNonUnicode")  # such fonts have a box, or a letter of their own, for every code


class MissingGlyphsWarning(UserWarning):
    """No installed font has some letters of a picture, so it shows boxes in their place.

    Parameters
    ----------
    letters
        The letters that no font has.
    example
        A text with some of these letters.

    Attributes
    ----------
    package
        The package of Debian and Ubuntu to install.
    """

    def __init__(self, letters: Iterable[str], example: str) -> None:
        held = set(letters)
        self.package = "fonts-noto-cjk" if any(_is_cjk(letter) for letter in held) else "fonts-noto"
        super().__init__(
            f"no installed font has {len(held):,} of the letters in names such as {example!r}, so the picture shows "
            f"boxes in their place. Install a font that has them, such as the package {self.package} of Debian and "
            "Ubuntu, and draw the picture again."
        )


def use_fonts(figure: Any, *, warn: bool) -> None:
    """Let every text of a figure fall back on installed fonts for letters that its own font lacks.

    Parameters
    ----------
    figure
        A figure of Matplotlib, complete and not yet drawn.
    warn
        Whether letters that no font has give a :class:`MissingGlyphsWarning`. For an SVG they need not: it holds
        text, and the program that opens it has fonts of its own.
    """
    from matplotlib.text import Text

    lacking = {}
    for text in figure.findobj(Text):
        letters = _letters(text.get_text()) - _charmap(text.get_fontfamily()[0])
        if letters:
            lacking[text] = letters
    if not lacking:
        return
    families, left = fallback_families(set().union(*lacking.values()))
    for text in lacking:
        text.set_fontfamily([*text.get_fontfamily(), *families])
    if left and warn:
        example = next(text.get_text() for text, letters in lacking.items() if letters & left)
        warnings.warn(MissingGlyphsWarning(left, " ".join(example.split())), stacklevel=2)


def fallback_families(letters: set[str]) -> tuple[list[str], set[str]]:
    """Families of installed fonts that have letters, and the letters that none of them has.

    The family with most of the letters comes first, then the family with most of the other letters, and so on. Among
    equal families one of the usual weight is taken, and then the first by name.
    """
    families: list[str] = []
    left = set(letters)
    searched = False
    while left:
        shared = {name: left & _charmap(name, weight) for name, weight in _families().items()}
        best = max(shared, key=lambda name: len(shared[name]))
        if shared[best]:
            families.append(best)
            left -= shared[best]
        elif searched:
            break
        else:
            searched = True
            _find_new_fonts()
    return families, left


def _families() -> dict[str, int]:
    """Upright families with their weight nearest to the usual one; families of the usual weight come first."""
    from matplotlib.font_manager import fontManager, weight_dict

    weights: dict[str, int] = {}
    for font in fontManager.ttflist:
        if font.style != "normal" or font.name.startswith(_BOXES):
            continue
        weight = weight_dict[font.weight] if isinstance(font.weight, str) else font.weight
        if font.name not in weights or abs(weight - _USUAL) < abs(weights[font.name] - _USUAL):
            weights[font.name] = weight
    return dict(sorted(weights.items(), key=lambda item: (item[1] != _USUAL, item[0])))


def _find_new_fonts() -> None:
    """Read fonts that were installed after Matplotlib wrote its list of them."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = {str(font.fname) for font in fontManager.ttflist}
    for path in findSystemFonts():
        if path not in known:
            try:
                fontManager.addfont(path)
            except (OSError, RuntimeError, UnicodeError):  # the font is damaged, or cannot be drawn
                continue


@cache
def _charmap(family: str, weight: int = _USUAL) -> frozenset[str]:
    """Letters of a family's font; none if it cannot be read."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    try:
        font = get_font(findfont(FontProperties(family=[family], weight=weight), fallback_to_default=False))
    except (OSError, RuntimeError, ValueError):
        return frozenset()
    return frozenset(chr(code) for code in font.get_charmap())


def _letters(text: str) -> set[str]:
    return {letter for letter in text if unicodedata.category(letter) not in _NOT_DRAWN}


def _is_cjk(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith(_CJK)
