"""What all pictures share: a palette that colour-blind people can tell apart, plain axes, files that repeat.

Matplotlib (extra ``plot``) makes the figures. Pyplot is not used, so no figure stays open and no display is needed.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec
from warnings import catch_warnings, filterwarnings

from hakg_dgl.atomic_files import replace_file
from hakg_dgl.errors import MissingDependencyError
from hakg_dgl.figures.fonts import use_fonts

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
GREY, PALE, INK = "#8a8a8a", "#d4d4d4", "#222222"
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
"""Colours of Okabe and Ito, "Color Universal Design", in the order in which pictures use them."""

RASTER_ABOVE = 2000
"""Points beyond this number are drawn as pixels within an SVG, which would be slow to open otherwise."""

DPI = 150
"""Dots per inch of PNG files, and of what is drawn as pixels in SVG files."""

_STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "svg.fonttype": "none",
}


def require_matplotlib(*, instead: str = "") -> None:
    """Raise MissingDependencyError unless Matplotlib can be imported.

    Parameters
    ----------
    instead
        What people without it can do, for the end of the message.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"pictures need Matplotlib, which cannot be imported ({error}): pip install matplotlib"
            + (f", or {instead}" if instead else "")
        ) from error


P = ParamSpec("P")


def styled(draw: Callable[P, Any]) -> Callable[P, Any]:
    """Make a function draw its figure in the common style; it raises MissingDependencyError without Matplotlib."""

    @functools.wraps(draw)
    def within(*args: P.args, **kwargs: P.kwargs) -> Any:
        require_matplotlib()
        from matplotlib import rc_context

        with rc_context(_STYLE):
            return draw(*args, **kwargs)

    return within


@functools.cache
def figure_class() -> type[Any]:
    """Matplotlib's ``Figure`` with one thing more: a notebook shows it where it is the value of a cell.

    Figures that pyplot made are shown by a notebook's own settings; these are not pyplot's.

    Raises
    ------
    MissingDependencyError
        If Matplotlib is missing.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        """A figure that a notebook shows as the PNG that :func:`save_figure` writes, at the size of its inches."""

        def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
            width, height = (round(96 * inches) for inches in self.get_size_inches())
            return _rendered(self, "png", "figure", DPI), {"width": width, "height": height}

    return ShownFigure


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, *, like: dict[str, Any] | None = None
) -> tuple[Any, Any]:
    """A figure and its axes; call it within a function that is :func:`styled`.

    Parameters
    ----------
    width, height
        Size in inches.
    rows, columns
        Numbers of rows and columns of axes.
    like
        Further options of ``Figure.subplots``.

    Returns
    -------
    matplotlib.figure.Figure
    numpy.ndarray of matplotlib.axes.Axes
        The axes, ``[rows, columns]``.
    """
    figure = figure_class()(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **(like or {}))


def save_figure(figure: Any, path: str | Path, *, dpi: int = DPI) -> None:
    """Write a figure to a ``.png`` or ``.svg`` file, whole or not at all; equal figures give equal files."""
    path = Path(path)
    content = _rendered(figure, path.suffix.removeprefix("."), path.stem, dpi)
    replace_file(path, lambda temporary: _write_bytes(temporary, content))


def inline_svg(figure: Any, name: str) -> str:
    """A figure as an SVG element for an HTML page; ``name`` keeps its ids apart from those of other pictures."""
    text = _rendered(figure, "svg", name, DPI).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    references = re.compile(r'( id="|url\(#|href="#)')
    return re.sub(r"<[^<>]+>", lambda tag: references.sub(rf"\g<1>{name}-", tag[0]), text)  # in tags, not in names


def plain(name: Any, length: int = 28) -> str:
    """A name as pictures show it: on one line, cut to a length, without control characters or mathematics."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(name))
    return (text if len(text) <= length else text[: length - 1] + "…").replace("$", r"\$")


def plain_relation(name: Any, length: int = 28) -> str:
    """A relation's name as pictures show it; of a long dotted name they show the end, which tells it apart."""
    text = str(name)
    parts = re.split(r"(?<=[./#:])", text)
    while len(text) > length and len(parts) > 1:
        parts = parts[1:]
        text = "…" + "".join(parts)
    return plain(text, length)


def _rendered(figure: Any, kind: str, salt: str, dpi: int) -> bytes:
    from matplotlib import rc_context

    buffer = io.BytesIO()
    undated: dict[str, Any] = {} if kind == "png" else {"metadata": {"Date": None}}
    use_fonts(figure, warn=kind != "svg")
    # SVG ids are random without a salt.
    with rc_context({**_STYLE, "svg.hashsalt": salt}), catch_warnings():
        filterwarnings("ignore", "Glyph .* missing")  # use_fonts says it once, and what to install
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # once is enough: every layout starts from the one before, and differs from it
        figure.savefig(buffer, format=kind, dpi=dpi, facecolor="white", **undated)
    return buffer.getvalue()


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)
