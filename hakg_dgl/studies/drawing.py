"""What the figures of studies share: colours, plain axes, and files that repeat. Matplotlib is optional."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hakg_dgl.atomic_files import replace_file
from hakg_dgl.errors import MissingDependencyError

SUFFIXES = (".png", ".svg")
BLUE, ORANGE, GREY, PALE, INK = "#2f6ea6", "#d9772b", "#7a7a7a", "#c9c9c9", "#404040"


def require_matplotlib() -> None:
    """Raise MissingDependencyError if Matplotlib, of the extra ``plot``, cannot be imported."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"figures need Matplotlib, which cannot be imported ({error}): pip install 'hakg_dgl[plot]', "
            "and give the command again"
        ) from error


def plain_axes(axes: Any) -> None:
    """Leave the axes without the lines above and on the right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def remove_figure(path: Path) -> None:
    """Remove the files that :func:`save_figure` wrote, if they are there."""
    for suffix in SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def save_figure(figure: Any, path: Path) -> Path:
    """Write ``path`` with the endings of PNG and SVG; the place of the SVG. The same figure gives the same files."""
    from matplotlib import rc_context

    for suffix in SUFFIXES:
        undated: dict[str, Any] = {"metadata": {"Date": None}} if suffix == ".svg" else {}

        def write(temporary: Path, suffix: str = suffix, undated: dict[str, Any] = undated) -> None:
            with rc_context({"svg.hashsalt": "hakg", "svg.fonttype": "none"}):  # a fixed salt, since ids are random
                figure.savefig(temporary, format=suffix[1:], dpi=160, **undated)

        replace_file(path.with_name(path.name + suffix), write)
    return path.with_name(path.name + SUFFIXES[-1])
